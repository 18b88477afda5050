//! What an image is to be made of: references, digests and descriptors, and what registries have under them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use yare_distribution::{Client, Document, Intent};
use yare_oci::{Descriptor, Digest, MediaType, Platform, Reference};

use crate::commands::remote::{Told, open, told};
use crate::context::Context;
use crate::failure::Failure;
use crate::opts::quote;

/// What a descriptor says of a source; all else is asked of its registry.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Said {
    media_type: String,
    digest: Option<Digest>,
    size: u64,
    urls: Vec<String>,
    annotations: BTreeMap<String, String>,
    data: Option<String>,
    platform: Option<Told>,
    artifact_type: Option<String>,
}

/// A source as it was given.
#[derive(Debug, PartialEq)]
pub(super) struct Source {
    text: String,
    reference: Option<Reference>,
    said: Said,
}

impl Source {
    /// Reads an argument, or what a file says.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let text = text.trim_end();
        let fault = |why: String| {
            let kinds = "valid sources are digests, references and descriptors";
            Failure::new(format!("failed to parse source {}, {kinds}: {why}", quote(text)))
        };
        let (reference, said) = match (text.parse::<Digest>(), Reference::parse(text)) {
            (Ok(digest), _) => (None, Said { digest: Some(digest), ..Said::default() }),
            (Err(error), _) if text.starts_with("sha256") => return Err(fault(error.to_string())),
            (_, Ok(reference)) => (Some(reference), Said::default()),
            (_, Err(_)) if text.starts_with('{') => {
                (None, serde_json::from_str(text).map_err(|error| fault(error.to_string()))?)
            }
            (_, Err(error)) => return Err(fault(error.to_string())),
        };
        Ok(Self { text: text.to_owned(), reference, said })
    }
}

/// Where each source is. One that names no repository is in the only one that anything else names.
pub(super) fn places(sources: &[Source], tags: &[Reference]) -> Result<Vec<Reference>, Failure> {
    let named = sources.iter().filter_map(|source| source.reference.as_ref());
    let repositories: BTreeSet<Reference> = tags.iter().chain(named).map(Reference::trimmed).collect();
    let first =
        repositories.first().ok_or("no repositories specified, please set a reference in tag or source")?;
    let place = |source: &Source| match (&source.reference, source.said.digest) {
        (Some(reference), _) => Ok(reference.clone()),
        (None, _) if repositories.len() > 1 => {
            let what = "multiple repositories specified, cannot infer repository for";
            Err(Failure::new(format!("{what} {}", quote(&source.text))))
        }
        (None, Some(digest)) => Ok(first.with_digest(digest)),
        (None, None) => Ok(first.clone()),
    };
    sources.iter().map(place).collect()
}

/// A source as its registry has it.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it is, as it was named.
    pub place: Reference,
    /// What it is, with what was said of it.
    pub descriptor: Descriptor,
    /// The bytes of its manifest or index.
    pub bytes: Vec<u8>,
}

impl Found {
    /// Whether it is an index.
    pub(super) fn is_index(&self) -> bool {
        MediaType::is_index(&self.descriptor.media_type)
    }
}

/// Asks the registry of a source for it.
pub(super) async fn fetch(
    cx: &Context,
    client: &Client,
    source: &Source,
    place: Reference,
) -> Result<Found, Failure> {
    let repository = open(cx, client, &place, Intent::Pull).await?;
    let asked = place.clone().or_latest();
    let Document { descriptor, bytes, .. } = super::manifest(&repository, &asked).await?;
    let mut descriptor = with_what_was_said(descriptor, &source.said)?;
    if MediaType::is_manifest(&descriptor.media_type) {
        let said = source.said.platform.clone().unwrap_or_default();
        descriptor.platform = Some(if said.os.is_empty() || said.architecture.is_empty() {
            completed(said, &told(&repository, &asked, &bytes).await?)
        } else {
            said.into()
        });
    }
    Ok(Found { place, descriptor, bytes: bytes.to_vec() })
}

fn with_what_was_said(found: Descriptor, said: &Said) -> Result<Descriptor, Failure> {
    if said.size != 0 && said.size != found.size {
        let (digest, size) = (found.digest, found.size);
        return Err(Failure::new(format!("invalid size mismatch for {digest}, {} != {size}", said.size)));
    }
    Ok(Descriptor {
        media_type: if said.media_type.is_empty() { found.media_type } else { said.media_type.clone() },
        urls: said.urls.clone(),
        annotations: said.annotations.clone(),
        data: said.data.clone(),
        artifact_type: said.artifact_type.clone(),
        ..found
    })
}

/// A platform with what the image's config says, where nothing was said. Of an artifact that says nothing Buildx
/// believes that it is for the system where it is asked.
fn completed(said: Told, config: &Told) -> Platform {
    let own = Platform::new(&config.os, &config.architecture, &config.variant);
    let mut platform = Platform::from(said);
    if platform.architecture.is_empty() {
        platform.architecture = own.architecture;
        if platform.variant.is_empty() {
            platform.variant = own.variant;
        }
    }
    if platform.os.is_empty() {
        platform.os = if own.os.is_empty() { Platform::host().os } else { own.os };
    }
    platform
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:aeb6ffbb198b9b92f3399d48cfca2c1cebbf4fbb76513088749623093a344b05";

    fn sources(texts: &[&str]) -> Vec<Source> {
        texts.iter().map(|text| Source::parse(text).unwrap()).collect()
    }

    fn placed(texts: &[&str], tags: &[&str]) -> Result<Vec<String>, String> {
        let tags: Vec<_> = tags.iter().map(|tag| Reference::parse(tag).unwrap()).collect();
        let places = places(&sources(texts), &tags).map_err(|failure| failure.text)?;
        Ok(places.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn sources_are_digests_references_and_descriptors() {
        let descriptor = format!(r#"{{"digest":"{DIGEST}","size":5,"platform":{{"os":"freebsd"}}}}"#);
        let [digest, reference, described] =
            <[Source; 3]>::try_from(sources(&[DIGEST, "r.io/a:1\n", &descriptor])).unwrap();
        assert_eq!(digest.said.digest, Some(DIGEST.parse().unwrap()));
        assert_eq!(reference.reference.unwrap().to_string(), "r.io/a:1");
        assert_eq!(described.said.platform.unwrap().os, "freebsd");
        for (text, why) in [
            ("sha256:12", "failed to parse source \"sha256:12\", valid sources are digests, references and"),
            ("UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase"),
            ("{\"a\"", "failed to parse source \"{\\\"a\\\"\", valid sources"),
        ] {
            let error = Source::parse(text).unwrap_err().text;
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_source_without_a_repository_is_in_the_only_one() {
        let in_r = format!("r.io/a@{DIGEST}");
        assert_eq!(placed(&[DIGEST], &["r.io/a:1"]).unwrap(), [&*in_r]);
        assert_eq!(placed(&["r.io/a:2", DIGEST, "{}"], &[]).unwrap(), ["r.io/a:2", &in_r, "r.io/a"]);
        assert_eq!(
            placed(&[DIGEST], &["r.io/a:1", "r.io/b:1"]).unwrap_err(),
            format!("multiple repositories specified, cannot infer repository for \"{DIGEST}\"")
        );
        assert!(placed(&[DIGEST], &[]).unwrap_err().starts_with("no repositories specified"));
    }

    #[test]
    fn what_was_said_counts() {
        let found = Descriptor::new(MediaType::OCI_MANIFEST, DIGEST.parse().unwrap(), 417);
        let said = Said { annotations: [("a".into(), "b".into())].into(), ..Said::default() };
        let both = with_what_was_said(found.clone(), &said).unwrap();
        assert_eq!((both.size, &*both.annotations["a"]), (417, "b"));
        let error = with_what_was_said(found, &Said { size: 5, ..Said::default() }).unwrap_err().text;
        assert_eq!(error, format!("invalid size mismatch for {DIGEST}, 5 != 417"));
        let told = |os: &str, architecture: &str, variant: &str| {
            let (os, architecture, variant) = (os.to_owned(), architecture.to_owned(), variant.to_owned());
            let mut told = Told::default();
            (told.os, told.architecture, told.variant) = (os, architecture, variant);
            told
        };
        let whole = |said, config| completed(said, &config).to_string();
        assert_eq!(whole(Told::default(), told("Linux", "aarch64", "v8")), "linux/arm64");
        assert_eq!(whole(told("freebsd", "", ""), told("linux", "arm", "")), "freebsd/arm/v7");
        assert_eq!(whole(Told::default(), Told::default()), "linux/");
    }
}
