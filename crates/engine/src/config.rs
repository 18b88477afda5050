//! What an engine is told at its start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use yare_errdefs::{Error, Result};
use yare_sys::outside::Outside;

/// The name of the built-in system call filter.
pub(crate) const BUILT_IN: &str = "builtin";

/// Settings of one engine. Several engines live side by side when roots, bridge and subnet differ.
#[derive(Debug, Clone)]
pub struct Config {
    /// Images, containers, volumes and records.
    pub data_root: PathBuf,
    /// Run directories of live containers; may be lost at a reboot.
    pub exec_root: PathBuf,
    /// Name of the default bridge; `none` for no bridge network at all.
    pub bridge: String,
    /// Address and prefix length of the default bridge; `None` picks a free one of Docker's pools.
    pub bip: Option<String>,
    /// The part of the default bridge's subnet that containers get addresses from.
    pub fixed_cidr: Option<String>,
    /// Whether the default bridge has IPv6.
    pub ipv6: bool,
    /// Its IPv6 subnet; `None` is a local one that comes of the engine's id.
    pub fixed_cidr_v6: Option<String>,
    /// Largest packet on the default bridge, in bytes.
    pub mtu: u32,
    /// Host address that published ports bind to unless they name one.
    pub publish_ip: std::net::IpAddr,
    /// Where networks that name no subnet get one.
    pub address_pools: Vec<yare_net::AddressPool>,
    /// Parent cgroup of all containers, beneath each hierarchy.
    pub cgroup_parent: String,
    /// Whether containers get the built-in init unless they say otherwise.
    pub init: bool,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Its options.
    pub log_opts: BTreeMap<String, String>,
    /// Resolvers given to containers, instead of the host's.
    pub dns: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Labels of the engine.
    pub labels: Vec<String>,
    /// Default resource limits, `name=soft[:hard]` parsed.
    pub default_ulimits: BTreeMap<String, yare_api::Ulimit>,
    /// The default system call filter: a path, `builtin` or `unconfined`.
    pub seccomp_profile: String,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: i64,
    /// Seconds that a container has to end when neither it nor who stops it says otherwise.
    pub stop_timeout: u32,
    /// Seconds that running containers get when the engine is told to stop them.
    pub shutdown_timeout: u64,
    /// How registries are reached.
    pub registries: yare_distribution::Settings,
    /// Layers that are fetched at the same time, by all pulls together.
    pub max_concurrent_downloads: usize,
    /// Layers that are sent at the same time, by all pushes together.
    pub max_concurrent_uploads: usize,
    /// How long after the last pull the compressed form of layers that came so stays beside their directories,
    /// which makes a push to another registry quicker; `None` is for ever. Then what makes the same bytes again
    /// takes its place.
    pub keep_compressed_layers: Option<Duration>,
    /// Folders that describe devices (CDI), those that win last; without one there is no CDI.
    pub cdi_spec_dirs: Vec<PathBuf>,
    /// Whether debug logging is on; `info` says so.
    pub debug: bool,
    /// How much the build cache keeps.
    pub build_cache: BuildCacheSettings,
    /// What goes by itself.
    pub cleaning: crate::cleaning::CleaningSettings,
    /// Sockets it listens on, as text for `info` and start-up messages.
    pub hosts: Vec<String>,
    /// What whoever starts the engine has to say about how, for `info`.
    pub warnings: Vec<String>,
    /// The network namespace in which ports are published, where the engine has left it.
    pub outside: Option<Arc<Outside>>,
    /// Whether its roots are its user's alone, as without root, where the group is one that others are in.
    pub sole_user: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_root: "/var/lib/yare".into(),
            exec_root: "/run/yare".into(),
            bridge: "yare0".into(),
            bip: None,
            fixed_cidr: None,
            ipv6: false,
            fixed_cidr_v6: None,
            mtu: 1500,
            publish_ip: std::net::Ipv4Addr::UNSPECIFIED.into(),
            address_pools: yare_net::AddressPool::defaults(),
            cgroup_parent: "/yare".into(),
            init: true,
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            labels: Vec::new(),
            default_ulimits: BTreeMap::new(),
            seccomp_profile: BUILT_IN.into(),
            shm_size: 64 << 20,
            stop_timeout: 10,
            shutdown_timeout: 15,
            registries: yare_distribution::Settings::default(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            keep_compressed_layers: Some(Duration::from_secs(15)),
            cdi_spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()],
            debug: false,
            build_cache: BuildCacheSettings::default(),
            cleaning: crate::cleaning::CleaningSettings::default(),
            hosts: Vec::new(),
            warnings: Vec::new(),
            outside: None,
            sole_user: false,
        }
    }
}

/// How much the build cache keeps, in bytes; `None` is no word on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildCacheSettings {
    /// Whether anything goes by itself.
    pub is_on: bool,
    /// So much always stays; said alone, it is the bound.
    pub reserved: Option<u64>,
    /// The bound; else a tenth of the data root's filesystem, at most 20 GB.
    pub max_used: Option<u64>,
    /// So much of the filesystem is to be free.
    pub min_free: Option<u64>,
    /// Rules in place of all this.
    pub rules: Vec<BuildCacheRule>,
}

impl Default for BuildCacheSettings {
    fn default() -> Self {
        Self { is_on: true, reserved: None, max_used: None, min_free: None, rules: Vec::new() }
    }
}

/// One rule for the build cache, as dockerd's `builder.gc.policy` has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildCacheRule {
    /// Also what images share.
    pub all: bool,
    /// `unused-for=2200h`, `type=exec.cachemount` and the like.
    pub filters: Vec<String>,
    /// So much always stays.
    pub reserved: Option<u64>,
    /// The bound.
    pub max_used: Option<u64>,
    /// So much of the filesystem is to be free.
    pub min_free: Option<u64>,
}

/// Reads [`Config::keep_compressed_layers`]: a Go duration such as `15s`, or `always`.
pub fn keep_compressed_layers(text: &str) -> Result<Option<Duration>> {
    if text == "always" {
        return Ok(None);
    }
    let nanoseconds =
        yare_gotext::parse_duration(text).ok().and_then(|nanoseconds| u64::try_from(nanoseconds).ok());
    let wrong = || {
        Error::invalid(format!(
            "keep-compressed-layers is {text:?}, neither a duration (15s, 2h) nor \"always\""
        ))
    };
    nanoseconds.map(Duration::from_nanos).map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_layers_are_kept_for_a_time_or_always() {
        assert_eq!(keep_compressed_layers("1m30s").unwrap(), Some(Duration::from_secs(90)));
        assert_eq!(keep_compressed_layers("0").unwrap(), Some(Duration::ZERO));
        assert_eq!(keep_compressed_layers("always").unwrap(), None);
        for wrong in ["", "soon", "-1s", "15"] {
            keep_compressed_layers(wrong).expect_err(wrong);
        }
    }
}
