//! What an engine is told at its start.

use std::collections::BTreeMap;
use std::path::PathBuf;

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
    /// Largest packet on the default bridge, in bytes.
    pub mtu: u32,
    /// Host address that published ports bind to unless they name one.
    pub publish_ip: std::net::Ipv4Addr,
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
    /// Size of `/dev/shm` in bytes.
    pub shm_size: i64,
    /// Seconds that running containers get when the engine is told to stop them.
    pub shutdown_timeout: u64,
    /// How registries are reached.
    pub registries: yare_distribution::Settings,
    /// Layers that are fetched at the same time, by all pulls together.
    pub max_concurrent_downloads: usize,
    /// Layers that are sent at the same time, by all pushes together.
    pub max_concurrent_uploads: usize,
    /// Whether debug logging is on; `info` says so.
    pub debug: bool,
    /// Sockets it listens on, as text for `info` and start-up messages.
    pub hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_root: "/var/lib/yare".into(),
            exec_root: "/run/yare".into(),
            bridge: "yare0".into(),
            bip: None,
            mtu: 1500,
            publish_ip: std::net::Ipv4Addr::UNSPECIFIED,
            cgroup_parent: "/yare".into(),
            init: true,
            log_driver: "json-file".into(),
            log_opts: BTreeMap::new(),
            dns: Vec::new(),
            dns_options: Vec::new(),
            dns_search: Vec::new(),
            labels: Vec::new(),
            default_ulimits: BTreeMap::new(),
            shm_size: 64 << 20,
            shutdown_timeout: 15,
            registries: yare_distribution::Settings::default(),
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            debug: false,
            hosts: Vec::new(),
        }
    }
}
