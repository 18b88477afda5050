//! `--cache-to` and `--cache-from` as they are written. Pure.

use super::Map;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::path::PathBuf;
use yare_layer::Compression;
use yare_oci::{Digest, Reference};

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In a folder of this host, under a tag.
    Folder { path: PathBuf, tag: String },
    /// In a registry.
    Registry(Reference),
    /// In a folder of the client's, which it knows by this id.
    Client(String),
}

/// Which cache mounts go along.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mounts {
    None,
    /// Those that the steps of the build have.
    All,
    Named(BTreeSet<String>),
}

/// One `--cache-to`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Export {
    /// In the image.
    Inline,
    /// Elsewhere.
    Apart(Apart),
}

/// A cache that is kept apart from the image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Apart {
    pub(super) place: Place,
    /// Whether the steps of all stages go there.
    pub(super) all: bool,
    pub(super) packing: (Compression, Option<u32>),
    /// Whether blobs that are there in another compression are made again.
    pub(super) force: bool,
    pub(super) mounts: Mounts,
    /// Whether the build is good when this fails.
    pub(crate) ignore_error: bool,
}

/// One `--cache-from`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Import {
    /// A cache that is kept apart; a registry may have an image with a cache in it, too.
    Apart { place: Place, digest: Option<Digest> },
    /// An image of the store: the cache in it, or its history.
    Image(Reference),
}

impl Export {
    /// Reads the attributes.
    ///
    /// # Errors
    /// They are malformed, or name a kind of cache that is not here.
    pub(crate) fn of(attributes: &Map) -> Result<Self> {
        let option = "--cache-to";
        let kind = attribute(attributes, "type").unwrap_or_default();
        let common = ["mode", "compression", "compression-level", "force-compression", "oci-mediatypes"];
        let common = [&common[..], &["image-manifest", "ignore-error", "mounts"]].concat();
        let known = |own: &[&str]| check(option, attributes, &[&common, own].concat());
        let place = match kind {
            "inline" => {
                check(option, attributes, &["mode", "ignore-error"])?;
                return Ok(Self::Inline);
            }
            "local" => {
                known(&["dest", "tag"])?;
                Place::Folder { path: needed(option, attributes, "dest")?.into(), tag: tag(attributes) }
            }
            "registry" => {
                known(&["ref"])?;
                let reference = reference(needed(option, attributes, "ref")?)?;
                if reference.digest().is_some() {
                    return Err(Error::invalid("--cache-to type=registry needs a name, not a digest"));
                }
                Place::Registry(reference)
            }
            "client" => {
                // The folder's path, its tag and its sweep are the client's business.
                known(&["id", "dest", "tag", "reset"])?;
                Place::Client(needed(option, attributes, "id")?.to_owned())
            }
            other => return Err(unknown(option, other)),
        };
        forms(attributes)?;
        Ok(Self::Apart(Apart {
            place,
            all: match attribute(attributes, "mode").unwrap_or("min") {
                "min" => false,
                "max" => true,
                other => {
                    return Err(Error::invalid(format!("invalid mode {other:?} of --cache-to: min or max")));
                }
            },
            packing: packing(attributes)?,
            force: switch(attributes, "force-compression")?.unwrap_or(false),
            mounts: mounts(attributes),
            ignore_error: switch(attributes, "ignore-error")?.unwrap_or(false),
        }))
    }
}

impl Import {
    pub(super) fn of(attributes: &Map) -> Result<Self> {
        let option = "--cache-from";
        let digest = |attributes: &Map| {
            attribute(attributes, "digest")
                .map(|text| text.parse::<Digest>())
                .transpose()
                .map_err(|error| Error::invalid("invalid digest of --cache-from").caused_by(error))
        };
        Ok(match attribute(attributes, "type").unwrap_or_default() {
            "local" => {
                check(option, attributes, &["src", "tag", "digest"])?;
                let path = needed(option, attributes, "src")?.into();
                Self::Apart {
                    place: Place::Folder { path, tag: tag(attributes) },
                    digest: digest(attributes)?,
                }
            }
            "registry" => {
                check(option, attributes, &["ref"])?;
                let reference = reference(needed(option, attributes, "ref")?)?;
                Self::Apart { digest: reference.digest(), place: Place::Registry(reference) }
            }
            "client" => {
                check(option, attributes, &["id", "src", "tag", "digest"])?;
                let id = needed(option, attributes, "id")?.to_owned();
                needed(option, attributes, "digest")?;
                Self::Apart { place: Place::Client(id), digest: digest(attributes)? }
            }
            "image" => {
                check(option, attributes, &["ref"])?;
                Self::Image(reference(needed(option, attributes, "ref")?)?)
            }
            other => return Err(unknown(option, other)),
        })
    }

    /// What it is called in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Apart { place: Place::Folder { path, .. }, .. } => path.display().to_string(),
            Self::Apart { place: Place::Client(id), .. } => id.clone(),
            Self::Apart { place: Place::Registry(reference), .. } | Self::Image(reference) => {
                reference.to_string()
            }
        }
    }
}

fn attribute<'a>(attributes: &'a Map, name: &str) -> Option<&'a str> {
    attributes.get(name).map(String::as_str).filter(|value| !value.is_empty())
}

fn needed<'a>(option: &str, attributes: &'a Map, name: &str) -> Result<&'a str> {
    let kind = attribute(attributes, "type").unwrap_or_default();
    attribute(attributes, name).ok_or_else(|| Error::invalid(format!("{option} type={kind} needs {name}=")))
}

fn tag(attributes: &Map) -> String {
    attribute(attributes, "tag").unwrap_or("latest").to_owned()
}

fn reference(text: &str) -> Result<Reference> {
    let reference = Reference::parse(text).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(reference.or_latest())
}

fn switch(attributes: &Map, name: &str) -> Result<Option<bool>> {
    let parse = |text: &str| match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(Error::invalid(format!("invalid {name} {other:?} of a build cache: true or false"))),
    };
    attribute(attributes, name).map(parse).transpose()
}

/// A cache is an image manifest with OCI's media types, which every registry takes.
fn forms(attributes: &Map) -> Result<()> {
    for name in ["oci-mediatypes", "image-manifest"] {
        if switch(attributes, name)? == Some(false) {
            return Err(Error::unimplemented(format!("--cache-to {name}=false is not supported"))
                .with_hint(format!("leave out {name}=: a cache is an OCI image manifest")));
        }
    }
    Ok(())
}

/// The same words as for an output, and the same rules.
fn packing(attributes: &Map) -> Result<(Compression, Option<u32>)> {
    let words = ["compression", "compression-level"].into_iter();
    let words = words.filter_map(|name| Some((name.to_owned(), attributes.get(name)?.clone())));
    let mut words: Map = words.collect();
    words.entry("compression".to_owned()).or_insert_with(|| "zstd".to_owned());
    let packing = crate::output::Request::parse("oci", &words)?.packing;
    Ok((packing.compression, packing.level))
}

fn mounts(attributes: &Map) -> Mounts {
    match attribute(attributes, "mounts") {
        None | Some("false") => Mounts::None,
        Some("true") => Mounts::All,
        Some(ids) => {
            let ids = ids.split(',').map(str::trim).filter(|id| !id.is_empty());
            Mounts::Named(ids.map(str::to_owned).collect())
        }
    }
}

/// What cannot be had for want of a client.
fn unknown(option: &str, kind: &str) -> Error {
    let hint = "the types are registry, local and inline";
    match kind {
        "gha" | "s3" | "azblob" => {
            Error::unimplemented(format!("{option} type={kind} is not supported")).with_hint(hint)
        }
        other => Error::invalid(format!("unknown cache type {other:?} of {option}")).with_hint(hint),
    }
}

/// Refuses attributes that would have no effect.
fn check(option: &str, attributes: &Map, known: &[&str]) -> Result<()> {
    match attributes.keys().find(|name| *name != "type" && !known.contains(&name.as_str())) {
        Some(name) => Err(Error::invalid(format!("unknown attribute {name:?} of {option}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn exports_are_read_strictly() {
        assert_eq!(Export::of(&map(&[("type", "inline")])).unwrap(), Export::Inline);
        let place = Place::Folder { path: "/c".into(), tag: "latest".to_owned() };
        let plain = Apart {
            place,
            all: true,
            packing: (Compression::Zstd, None),
            force: false,
            mounts: Mounts::None,
            ignore_error: false,
        };
        let local = Export::of(&map(&[("type", "local"), ("dest", "/c"), ("mode", "max")])).unwrap();
        assert_eq!(local, Export::Apart(plain));
        let rows =
            [("type", "registry"), ("ref", "r.example/c"), ("mounts", "go, npm"), ("ignore-error", "1")];
        let Export::Apart(registry) = Export::of(&map(&rows)).unwrap() else { panic!("it is apart") };
        assert_eq!(registry.place, Place::Registry(Reference::parse("r.example/c:latest").unwrap()));
        assert_eq!(registry.mounts, Mounts::Named(["go".to_owned(), "npm".to_owned()].into()));
        assert!(registry.ignore_error && !registry.all);
        for (bad, words) in [
            (&[("type", "local")][..], "needs dest="),
            (&[("type", "registry")], "needs ref="),
            (&[("type", "registry"), ("ref", "UPPER")], "lowercase"),
            (&[("type", "registry"), ("ref", "x"), ("image-manifest", "false")], "not supported"),
            (&[("type", "registry"), ("ref", "x"), ("ignore-error", "maybe")], "true or false"),
            (&[("type", "local"), ("dest", "/c"), ("mode", "most")], "min or max"),
            (&[("type", "local"), ("dest", "/c"), ("what", "x")], "unknown attribute"),
            (&[("type", "local"), ("dest", "/c"), ("compression", "lzma")], "uncompressed, gzip or zstd"),
            (&[("type", "gha")], "not supported"),
            (&[("type", "other")], "unknown cache type"),
        ] {
            let error = Export::of(&map(bad)).unwrap_err();
            assert!(error.to_string().contains(words), "{bad:?}: {error}");
        }
    }

    #[test]
    fn imports_are_read_strictly() {
        let registry = Import::of(&map(&[("type", "registry"), ("ref", "x")])).unwrap();
        let name = Reference::parse("x:latest").unwrap();
        assert_eq!(registry, Import::Apart { place: Place::Registry(name.clone()), digest: None });
        assert_eq!(Import::of(&map(&[("type", "image"), ("ref", "x")])).unwrap(), Import::Image(name));
        for (bad, words) in [
            (&[("type", "local")][..], "needs src="),
            (&[("type", "client"), ("id", "x")], "needs digest="),
            (&[("type", "local"), ("src", "/c"), ("digest", "x")], "invalid digest"),
            (&[("type", "registry"), ("ref", "x"), ("src", "y")], "unknown attribute"),
            (&[("type", "s3")], "not supported"),
        ] {
            let error = Import::of(&map(bad)).unwrap_err();
            assert!(error.to_string().contains(words), "{bad:?}: {error}");
        }
    }
}
