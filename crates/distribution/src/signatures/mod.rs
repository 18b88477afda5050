//! Signatures: which images need one, by whom, and whether it is there and good.
//!
//! # The policy, a TOML file
//!
//! ```toml
//! default = "accept"                        # or "refuse": repositories that no rule is about
//!
//! [[rule]]                                  # the rule with the longest name counts
//! repositories = "registry.example/team"    # this one and all below it
//! keys = ["/etc/yare/keys/team.pub"]        # a good signature by any of them; PEM
//! any_name = false                          # true: also one that was made for another repository, or for none
//!
//! [[rule]]
//! repositories = "docker.io/library"
//! want = "nothing"                          # or "refusal"; default: "signature"
//! ```
//!
//! # Signatures, as cosign makes them
//!
//! An image manifest whose layers have the type [`PAYLOAD`]: each is a JSON document that names the digest of
//! the signed manifest, and has the signature of its bytes in an annotation. It is found under the tag
//! `sha256-<hex>.sig` of the same repository, or among the referrers. Cosign 3 makes bundles (module `bundle`)
//! and puts them among the referrers. Nothing of it is believed before a key of the policy says so: what is
//! fetched is bounded in number and size.

mod bundle;
mod keys;

use crate::blob::Resume;
use crate::error::Asked;
use crate::listing::Referrer;
use crate::manifest::Name;
use crate::repository::Repository;
use crate::{Document, Error, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bundle::BUNDLE;
use keys::Key;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use yare_errdefs::{Class, Classified};
use yare_oci::{Descriptor, Digest, Manifest, Reference};

/// The type of what is signed.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The type of signatures among the referrers.
const REFERRER: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The annotation with the signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The `type` of a payload about an image.
const ABOUT_IMAGE: &str = "cosign container image signature";
/// The largest payload, in bytes.
const LARGEST: u64 = 64 << 10;
/// The most signatures of an image that are looked at.
const SIGNATURES: usize = 64;
/// The most manifests with signatures that are looked at.
const REFERRERS: usize = 32;
/// The largest policy or key, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// Which images need a signature, and by whom.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    default: Otherwise,
    #[serde(default)]
    rule: Vec<Rule>,
    #[serde(skip)]
    folder: PathBuf,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Otherwise {
    #[default]
    Accept,
    Refuse,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    repositories: String,
    #[serde(default)]
    want: Want,
    #[serde(default)]
    keys: Vec<PathBuf>,
    #[serde(default)]
    any_name: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Want {
    #[default]
    Signature,
    Nothing,
    Refusal,
}

/// What a policy found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It wants no signature for this repository.
    NotWanted,
    /// There is a good one, by this key.
    Signed(PathBuf),
}

/// What a signature must be for.
struct Wanted<'a> {
    manifest: &'a Digest,
    /// The repository.
    name: &'a str,
    any_name: bool,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl Policy {
    /// Reads a policy and tries its keys.
    ///
    /// # Errors
    /// Class invalid argument when something in it, or a key, is not right.
    pub fn read(path: &Path) -> Result<Self> {
        let wrong =
            |what: String| Error::Settings { what: format!("signature policy {}: {what}", path.display()) };
        let text = read_file(path).map_err(wrong)?;
        let mut policy: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        policy.folder = path.parent().unwrap_or_else(|| Path::new("/")).to_owned();
        for rule in &policy.rule {
            let name = &rule.repositories;
            if name.is_empty() || name.ends_with('/') || name.contains(['*', '@']) {
                return Err(wrong(format!("{name:?} is no name of repositories, such as docker.io/library")));
            }
            if (rule.want == Want::Signature) == rule.keys.is_empty() {
                return Err(wrong(format!("the rule for {name:?} must have either keys or another `want`")));
            }
            policy.keys(rule)?;
        }
        Ok(policy)
    }

    fn rule(&self, repository: &str) -> Option<&Rule> {
        let covers = |rule: &&Rule| {
            let rest = repository.strip_prefix(rule.repositories.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.rule.iter().filter(covers).max_by_key(|rule| rule.repositories.len())
    }

    fn keys(&self, rule: &Rule) -> Result<Vec<Key>> {
        let key = |file: &PathBuf| {
            let file = self.folder.join(file);
            let shown = file.display().to_string();
            Key::read(file).map_err(|what| Error::Settings { what: format!("key {shown}: {what}") })
        };
        rule.keys.iter().map(key).collect()
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(LARGEST_FILE).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

impl Repository {
    /// Whether a manifest may be used by the policy.
    ///
    /// # Errors
    /// Class permission denied when it may not, with the reason; of the registry, when it does not say which
    /// signatures there are.
    pub async fn verify(&self, policy: &Policy, manifest: &Digest) -> Result<Verdict> {
        let asked = self.asked(format!("verify the signature of {manifest}"));
        let name = self.to_string();
        let refused =
            |what: String| Err(Error::refused(&asked, format!("{what}, and the signature policy wants one")));
        let rule = match policy.rule(&name) {
            Some(rule) if rule.want == Want::Nothing => return Ok(Verdict::NotWanted),
            Some(rule) if rule.want == Want::Signature => rule,
            None if policy.default == Otherwise::Accept => return Ok(Verdict::NotWanted),
            _ => return Err(Error::refused(&asked, "the signature policy refuses this repository")),
        };
        let keys = policy.keys(rule)?;
        let signatures = self.signatures(&asked, manifest).await?;
        if signatures.is_empty() {
            return refused("it has no signature".to_owned());
        }
        let wanted = Wanted { manifest, name: &name, any_name: rule.any_name };
        let mut why = String::new();
        for layer in &signatures {
            match self.judge(layer, &keys, &wanted).await? {
                Ok(key) => return Ok(Verdict::Signed(key)),
                Err(reason) => why = reason,
            }
        }
        refused(format!("none of its {} signatures is good (the last one: {why})", signatures.len()))
    }

    /// The signatures there are: the tag's first.
    async fn signatures(&self, asked: &Asked, manifest: &Digest) -> Result<Vec<Descriptor>> {
        let mut documents = Vec::new();
        let tag = Name::Tag(format!("sha256-{}.sig", manifest.hex()));
        match self.manifest(&tag).await {
            Ok(document) => documents.push(document),
            Err(error) if error.of_registry().class() == Class::NotFound => {}
            Err(error) => return Err(error),
        }
        let referrers = self.referrers(manifest, None).await?;
        let is_wanted = |referrer: &&Referrer| {
            referrer.artifact_type.as_deref() == Some(REFERRER) || bundle::may_sign(referrer)
        };
        for referrer in referrers.iter().filter(is_wanted).take(REFERRERS) {
            documents.push(self.manifest(&Name::Digest(referrer.digest)).await?);
        }
        let mut found = Vec::new();
        for Document { bytes, .. } in documents {
            let manifest: Manifest = serde_json::from_slice(&bytes)
                .map_err(|error| Error::content(asked, format!("its signature is no manifest: {error}")))?;
            let is_one = |layer: &Descriptor| [PAYLOAD, BUNDLE].contains(&layer.media_type.as_str());
            found.extend(manifest.layers.into_iter().filter(is_one));
        }
        found.truncate(SIGNATURES);
        Ok(found)
    }

    /// Which key made a signature, or why it is not good.
    async fn judge(
        &self,
        layer: &Descriptor,
        keys: &[Key],
        wanted: &Wanted<'_>,
    ) -> Result<Result<PathBuf, String>> {
        let is_bundle = layer.media_type == BUNDLE;
        if layer.size > if is_bundle { bundle::LARGEST } else { LARGEST } {
            return Ok(Err(format!("it has {} bytes", layer.size)));
        }
        let signature = layer.annotations.get(SIGNATURE).and_then(|text| BASE64.decode(text).ok());
        if !is_bundle && signature.is_none() {
            return Ok(Err("it holds no signature".to_owned()));
        }
        let mut stream = self.blob(layer, Resume::default())?;
        let mut content = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            content.extend_from_slice(&chunk);
        }
        let key = match signature.filter(|_| !is_bundle) {
            None => bundle::judge(&content, keys, wanted),
            Some(signature) => check(&content, &signature, keys, wanted),
        };
        Ok(key.map(|key| key.file.clone()))
    }
}

/// Which key made a signature of a payload, or why it is not good.
fn check<'a>(
    payload: &[u8],
    signature: &[u8],
    keys: &'a [Key],
    wanted: &Wanted<'_>,
) -> Result<&'a Key, String> {
    let key = keys.iter().find(|key| key.made(signature, payload));
    let key = key.ok_or_else(|| "no key of the policy made it".to_owned())?;
    about(payload, wanted)?;
    Ok(key)
}

/// Whether signed bytes are about this manifest in this repository.
fn about(payload: &[u8], wanted: &Wanted<'_>) -> Result<(), String> {
    let payload: Payload =
        serde_json::from_slice(payload).map_err(|error| format!("its payload is not understood: {error}"))?;
    let Critical { identity, image, kind } = payload.critical;
    if kind != ABOUT_IMAGE {
        return Err(format!("it is a {kind:?} and not of an image"));
    }
    if image.digest != wanted.manifest.to_string() {
        return Err(format!("it is for {}", image.digest));
    }
    if wanted.any_name { Ok(()) } else { made_for(&identity.reference, wanted) }
}

/// Whether a signed name is that of this repository.
fn made_for(reference: &str, wanted: &Wanted<'_>) -> Result<(), String> {
    match Reference::parse(reference) {
        Ok(signed) if signed.repository() == wanted.name => Ok(()),
        _ => Err(format!("it was made for {reference:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_in_a_policy_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(
            folder.path().join("rsa.pub"),
            "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n",
        )
        .unwrap();
        for (text, why) in [
            ("", "default"),
            ("default = 'maybe'", "maybe"),
            ("default = 'accept'\nrules = []", "rules"),
            ("default = 'accept'\n[[rule]]\nrepositories = 'a'", "keys"),
            ("default = 'accept'\n[[rule]]\nrepositories = 'a'\nwant = 'nothing'\nkeys = ['x']", "keys"),
            ("default = 'accept'\n[[rule]]\nrepositories = 'a/**'\nwant = 'nothing'", "no name"),
            ("default = 'accept'\n[[rule]]\nrepositories = 'a'\nkeys = ['missing.pub']", "missing.pub"),
            (
                "default = 'accept'\n[[rule]]\nrepositories = 'a'\nkeys = ['rsa.pub']",
                "rsa.pub: its content is no",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = Policy::read(&path).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert_eq!(error.class(), Class::InvalidArgument);
        }
    }

    #[test]
    fn the_longest_name_counts_and_ends_at_a_slash() {
        let text = "default = 'refuse'\n[[rule]]\nrepositories = 'r.example/a'\nwant = 'nothing'\n\
                    [[rule]]\nrepositories = 'r.example/a/b'\nwant = 'refusal'\n";
        let policy: Policy = toml::from_str(text).unwrap();
        let want = |name: &str| policy.rule(name).map(|rule| rule.want);
        assert_eq!(want("r.example/a"), Some(Want::Nothing));
        assert_eq!(want("r.example/a/c"), Some(Want::Nothing));
        assert_eq!(want("r.example/a/b/c"), Some(Want::Refusal));
        assert_eq!(want("r.example/ab"), None);
    }
}
