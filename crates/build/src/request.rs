//! What a build is asked for, as plain values: every client's wire ends in a [`Request`].

use crate::attest::provenance::Material;
use crate::devices::DeviceGrants;
use std::collections::{BTreeMap, BTreeSet};
use yare_oci::{Platform, Reference};

/// One build.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The Dockerfile.
    pub dockerfile: Vec<u8>,
    /// What is to be done, when a client says so by itself and the Dockerfile does not count.
    pub definition: Option<crate::definition::Definition>,
    /// What it is called in messages.
    pub dockerfile_name: String,
    /// What makes two builds the same one made again: `--explain` compares with the last of its kind.
    pub identity: String,
    /// The repository that the main context is a commit of, for attestations.
    pub repository: Option<Material>,
    /// Where named contexts are; the main one has the empty name.
    pub contexts: BTreeMap<String, ContextSource>,
    /// Values of build arguments; `None` unsets one.
    pub build_args: BTreeMap<String, Option<String>>,
    /// The stage to build; empty is the last.
    pub target: String,
    /// What it is built for; empty is the host's.
    pub platforms: Vec<Platform>,
    /// Which cached steps do not count.
    pub no_cache: NoCache,
    /// Whether registries are asked for newer base images.
    pub pull: bool,
    /// Labels of the image.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// What the processes of steps get.
    pub run: RunSettings,
    /// Where results of other builds are, as attributes (`type`, `src`, `ref` …).
    pub cache_from: Vec<BTreeMap<String, String>>,
    /// Where results go.
    pub cache_to: Vec<BTreeMap<String, String>>,
    /// What is made of the result.
    pub outputs: Vec<yare_api::build::BuildOutput>,
    /// Whether the build's layers become one.
    pub squash: bool,
    /// What steps may ask for beyond the usual.
    pub allow: BTreeSet<Entitlement>,
    /// Devices that steps may ask for.
    pub devices: DeviceGrants,
    /// What is done about secrets in files.
    pub secret_scan: SecretScan,
    /// Whether to build twice and compare.
    pub verify: bool,
    /// Whether to find out why steps ran.
    pub explain: bool,
    /// Attestations to make: `sbom` and `provenance` with their attributes.
    pub attest: BTreeMap<String, BTreeMap<String, String>>,
}

/// Where files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A folder that the caller provides under the context's name.
    Folder,
    /// An image.
    Image(Reference),
    /// A git repository.
    Git(String),
    /// A tar or a file on the web.
    Http(String),
}

/// Which cached steps do not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum NoCache {
    /// All count.
    #[default]
    Never,
    /// None counts.
    Always,
    /// Those of these stages do not.
    Stages(Vec<String>),
}

impl NoCache {
    /// Whether steps of this stage, by name and number, run anew.
    pub fn covers(&self, name: Option<&str>, index: usize) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::Stages(stages) => stages.iter().any(|stage| {
                name.is_some_and(|name| name.eq_ignore_ascii_case(stage)) || stage.parse() == Ok(index)
            }),
        }
    }
}

/// What the processes of all steps get.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSettings {
    /// `default`, `none`, `host` or `container:X`; empty is the default.
    pub network: String,
    /// `host:address` each.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm`, 0 for the default.
    pub shm_size: i64,
    /// Limits as `HostConfig` has them.
    pub limits: yare_api::HostConfig,
}

/// A right beyond the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `RUN --network=host`.
    NetworkHost,
    /// `RUN --security=insecure`.
    SecurityInsecure,
}

impl Entitlement {
    /// Reads `network.host` or `security.insecure`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "network.host" => Some(Self::NetworkHost),
            "security.insecure" => Some(Self::SecurityInsecure),
            _ => None,
        }
    }
}

/// What is done about secrets in files that steps add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SecretScan {
    /// Nothing.
    Off,
    /// A warning.
    #[default]
    Warn,
    /// The build fails.
    Fail,
}
