//! `--output` taken apart. Pure.

use std::collections::BTreeMap;
use yare_errdefs::{Error, Result};
use yare_layer::Compression;
use yare_oci::{Platform, Reference};

/// What is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An image in the store.
    Image,
    /// An archive that `docker load` reads.
    Docker,
    /// An OCI layout in a tar.
    Oci,
    /// The root as a tar.
    Tar,
    /// The root as a folder.
    Local,
    /// An image in the store, pushed.
    Registry,
}

/// How layers are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packing {
    /// The compression.
    pub compression: Compression,
    /// Its level, on its own scale; the default is the format's.
    pub level: Option<u32>,
}

/// What a folder that has files already becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LocalMode {
    /// The result's files beside those that are there.
    #[default]
    Copy,
    /// The result's files alone.
    Delete,
}

/// Annotations, by what they are put on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    rows: Vec<(Target, Option<Platform>, String, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

type Map = BTreeMap<String, String>;

impl Annotations {
    fn of(&self, target: Target, platform: Option<&Platform>) -> Map {
        let fits = |wanted: &Option<Platform>| wanted.is_none() || wanted.as_ref() == platform;
        let rows = self.rows.iter().filter(|(at, wanted, ..)| *at == target && fits(wanted));
        rows.map(|(_, _, key, value)| (key.clone(), value.clone())).collect()
    }

    /// Of the manifest for a platform.
    pub fn manifest(&self, platform: &Platform) -> Map {
        self.of(Target::Manifest, Some(platform))
    }

    /// Of that manifest's descriptor in an index.
    pub fn manifest_descriptor(&self, platform: &Platform) -> Map {
        self.of(Target::ManifestDescriptor, Some(platform))
    }

    /// Of the index.
    pub fn index(&self) -> Map {
        self.of(Target::Index, None)
    }

    /// Of the index's descriptor in a layout.
    pub fn index_descriptor(&self) -> Map {
        self.of(Target::IndexDescriptor, None)
    }

    /// Adds `key=value` of `--annotation` or of an attribute, `spec` being what stands before the first dot:
    /// `annotation`, `annotation-index`, `annotation-manifest[linux/amd64]` ….
    fn add(&mut self, spec: &str, key: &str, value: &str) -> Result<()> {
        let (spec, platform) = match spec.strip_suffix(']').and_then(|spec| spec.split_once('[')) {
            Some((spec, platform)) => (spec, Some(Platform::parse(platform).map_err(Error::invalid)?)),
            None => (spec, None),
        };
        let target = match spec {
            "annotation" | "annotation-manifest" => Target::Manifest,
            "annotation-manifest-descriptor" => Target::ManifestDescriptor,
            "annotation-index" => Target::Index,
            "annotation-index-descriptor" => Target::IndexDescriptor,
            _ => return Err(Error::invalid(format!("unknown annotation type {spec:?}"))),
        };
        if platform.is_some() && matches!(target, Target::Index | Target::IndexDescriptor) {
            return Err(Error::invalid(format!("{spec} is for all platforms and takes none")));
        }
        self.rows.push((target, platform, key.to_owned(), value.to_owned()));
        Ok(())
    }
}

/// One `--output`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is made.
    pub kind: Kind,
    /// Where it goes; `None` is the client.
    pub dest: Option<String>,
    /// Names of the image.
    pub names: Vec<Reference>,
    /// How layers are packed.
    pub packing: Packing,
    /// Annotations.
    pub annotations: Annotations,
    /// For a folder.
    pub mode: LocalMode,
    /// For a folder: one folder a platform. Unset means for several platforms.
    pub platform_split: Option<bool>,
    /// Push what is in the store then.
    pub push: bool,
    /// Push it under no tag.
    pub by_digest: bool,
    /// Begins the names of files with attestations.
    pub attestation_prefix: String,
    /// The client makes a folder of the archive it gets.
    pub is_folder: bool,
}

/// The names in a list of them.
fn names_of(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty())
}

/// Refuses a name with a tag: what is pushed by its digest has none that it could be pushed under.
///
/// # Errors
/// It has one, or is no name.
pub fn without_tag(name: &str) -> Result<()> {
    let parsed = Reference::parse(name).map_err(|error| Error::invalid(error.to_string()))?;
    match parsed.tag() {
        Some(_) => Err(Error::invalid(format!("can't push tagged ref {parsed} by digest"))),
        None => Ok(()),
    }
}

impl Request {
    /// Reads the kind and the attributes of an output.
    pub fn parse(kind: &str, attributes: &Map) -> Result<Self> {
        let kind = match kind {
            "image" => Kind::Image,
            "docker" => Kind::Docker,
            "oci" => Kind::Oci,
            "tar" => Kind::Tar,
            "local" => Kind::Local,
            "registry" => Kind::Registry,
            _ => {
                let hint = "the types are image, docker, oci, tar, local and registry";
                return Err(Error::invalid(format!("unknown output type {kind:?}")).with_hint(hint));
            }
        };
        let plain = matches!(kind, Kind::Docker | Kind::Image);
        let compression = if plain { Compression::Plain } else { Compression::Gzip };
        let mut request = Self {
            kind,
            dest: None,
            names: Vec::new(),
            packing: Packing { compression, level: None },
            annotations: Annotations::default(),
            mode: LocalMode::default(),
            platform_split: None,
            push: kind == Kind::Registry,
            by_digest: false,
            attestation_prefix: String::new(),
            is_folder: false,
        };
        for (key, value) in attributes {
            request.attribute(key, value)?;
        }
        request.check(attributes)
    }

    fn attribute(&mut self, key: &str, value: &str) -> Result<()> {
        let invalid = |allowed: &str| {
            Error::invalid(format!("invalid {key} {value:?} of an output: must be {allowed}"))
        };
        let switch = || value.parse::<bool>().map_err(|_| invalid("true or false"));
        match key {
            "type" => {}
            "dest" => self.dest = Some(value.to_owned()).filter(|dest| !dest.is_empty() && dest != "-"),
            "name" => {
                let names = names_of(value);
                let parse = |name| Reference::parse(name).map(Reference::or_latest);
                self.names = names.map(parse).collect::<std::result::Result<_, _>>().map_err(|error| {
                    Error::invalid(format!("invalid name {value:?} of an output")).caused_by(error)
                })?;
            }
            "compression" => {
                self.packing.compression = match value {
                    "uncompressed" => Compression::Plain,
                    "gzip" => Compression::Gzip,
                    "zstd" => Compression::Zstd,
                    "estargz" => {
                        return Err(Error::unimplemented("compression estargz is not supported")
                            .with_hint("use gzip, which every registry and engine reads"));
                    }
                    _ => return Err(invalid("uncompressed, gzip or zstd")),
                }
            }
            "compression-level" => {
                self.packing.level = Some(value.parse().map_err(|_| invalid("a number"))?);
            }
            "mode" => {
                self.mode = match value {
                    "copy" => LocalMode::Copy,
                    "delete" => LocalMode::Delete,
                    _ => return Err(invalid("copy or delete")),
                }
            }
            "platform-split" => self.platform_split = Some(switch()?),
            "push" => self.push = switch()?,
            "tar" => {
                // The client takes the tar of a layout apart; the engine writes none as a folder.
                self.is_folder = !switch()?;
            }
            "oci-mediatypes" => {
                if !switch()? {
                    return Err(Error::unimplemented("docker media types are not written")
                        .with_hint("every engine and registry of today reads OCI media types"));
                }
            }
            "push-by-digest" => self.by_digest = switch()?,
            "attestation-prefix" => {
                if value.contains('/') {
                    return Err(invalid("the beginning of a file's name"));
                }
                value.clone_into(&mut self.attestation_prefix);
            }
            // An image of the store has its layers unpacked, is found by its digest too, and has its times
            // clamped, whatever is asked for. What the others want is looked at when all is read.
            "rewrite-timestamp"
            | "unpack"
            | "name-canonical"
            | "force-compression"
            | "store"
            | "oci-artifact"
            | "prefer-nondist-layers" => {
                switch()?;
            }
            _ => match key.split_once('.') {
                Some((spec, annotation)) if spec.starts_with("annotation") => {
                    self.annotations.add(spec, annotation, value)?;
                }
                _ => {
                    let text = format!("unknown attribute {key:?} of an output");
                    return Err(Error::invalid(text).with_hint("it would have no effect; take it out"));
                }
            },
        }
        Ok(())
    }

    /// What is asked for and not done would change the result: it is refused.
    fn check(self, attributes: &Map) -> Result<Self> {
        let is = |key: &str, value: &str| attributes.get(key).is_some_and(|given| given == value);
        if self.by_digest
            && let Some(names) = attributes.get("name")
        {
            names_of(names).try_for_each(without_tag)?;
        }
        let stored = matches!(self.kind, Kind::Image | Kind::Registry);
        let refuse = |text: &str, hint: &str| Err(Error::unimplemented(text.to_owned()).with_hint(hint));
        if is("oci-artifact", "true") {
            return refuse("attestations are not written as OCI artifacts", "leave out oci-artifact");
        }
        if is("prefer-nondist-layers", "true") {
            return refuse(
                "layers that may not be distributed are not made",
                "leave out prefer-nondist-layers",
            );
        }
        if stored && is("store", "false") {
            let hint = "leave out store=false, and remove the image when it is pushed";
            return refuse("an image that is pushed is in the store first", hint);
        }
        if self.push {
            let packed =
                self.packing.compression != Compression::Gzip && attributes.contains_key("compression");
            if packed || self.packing.level.is_some() || is("force-compression", "true") {
                let hint = "make an archive with type=oci, and push that with another tool";
                return refuse("layers that are pushed are packed with gzip, at a level of its own", hint);
            }
        }
        let most = match self.packing.compression {
            Compression::Gzip => 9,
            Compression::Zstd => 22,
            _ => 0,
        };
        if let Some(level) = self.packing.level.filter(|level| *level > most) {
            return Err(Error::invalid(format!("compression level {level} is out of range: 0 to {most}")));
        }
        if self.is_folder && self.dest.is_some() {
            return Err(Error::unimplemented("the engine does not write an OCI layout as a folder")
                .with_hint("leave out dest: the client gets a tar and unpacks it"));
        }
        Ok(self)
    }
}
