//! Facts about the host.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_api::Ulimit;

/// What the host can do and what the engine was told to default to. The default value is a generous host:
/// every controller, cgroup v2, every capability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostFacts {
    /// 1 or 2.
    pub cgroup_version: u8,
    /// How many processors this process may use.
    pub cpus: u32,
    /// Which processors are there, as a list of ranges (`0-3,5`); empty when unknown.
    pub online_cpus: String,
    /// Which memory nodes are there, likewise.
    pub online_mems: String,
    /// Bytes of memory.
    pub total_memory: u64,
    /// Whether memory can be limited.
    pub has_memory_limit: bool,
    /// Whether swap can be limited.
    pub has_swap_limit: bool,
    /// Whether processor time can be limited.
    pub has_cpu_quota: bool,
    /// Whether processor time can be weighed.
    pub has_cpu_shares: bool,
    /// Whether the kernel has real-time scheduling by group.
    pub has_cpu_realtime: bool,
    /// Whether processors can be picked.
    pub has_cpuset: bool,
    /// Whether tasks can be limited.
    pub has_pids_limit: bool,
    /// Whether block devices can be limited.
    pub has_block_io: bool,
    /// Whether block devices can be weighed, which not every scheduler offers.
    pub has_block_io_weight: bool,
    /// Existing `/sys/devices/system/cpu/cpuN/thermal_throttle` directories, which are masked.
    pub thermal_throttle_paths: Vec<String>,
    /// Number of the highest capability the kernel has.
    pub last_capability: u32,
    /// Capabilities this engine has itself, one bit each; the rest cannot be given.
    pub capabilities: u64,
    /// Kernel version, major and minor.
    pub kernel_version: (u32, u32),
    /// Whether the kernel filters system calls.
    pub seccomp: bool,
    /// The filter of containers that name none.
    pub seccomp_profile: crate::SeccompChoice,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// Whether it has the default profile, [`crate::DEFAULT_APPARMOR_PROFILE`].
    pub default_apparmor_profile: bool,
    /// Whether SELinux is on, whose labels are not built.
    pub selinux: bool,
    /// Whether packets are forwarded between interfaces.
    pub ipv4_forwarding: bool,
    /// The host's name.
    pub hostname: String,
    /// Whether containers get the built-in init when their request does not say.
    pub init: bool,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: i64,
    /// Resource limits by name.
    pub default_ulimits: BTreeMap<String, Ulimit>,
    /// Log driver of containers that name none.
    pub log_driver: String,
    /// Log options of containers that have the default driver, where they name none.
    pub log_opts: BTreeMap<String, String>,
    /// Names of the runtimes there are.
    pub runtimes: Vec<String>,
    /// The one containers get that name none.
    pub default_runtime: String,
}

impl Default for HostFacts {
    fn default() -> Self {
        Self {
            cgroup_version: 2,
            cpus: 1,
            online_cpus: String::new(),
            online_mems: String::new(),
            total_memory: 0,
            has_memory_limit: true,
            has_swap_limit: true,
            has_cpu_quota: true,
            has_cpu_shares: true,
            has_cpu_realtime: false,
            has_cpuset: true,
            has_pids_limit: true,
            has_block_io: true,
            has_block_io_weight: true,
            thermal_throttle_paths: Vec::new(),
            last_capability: 40,
            capabilities: u64::MAX,
            kernel_version: (6, 1),
            seccomp: true,
            seccomp_profile: crate::SeccompChoice::Default,
            apparmor: false,
            default_apparmor_profile: false,
            selinux: false,
            ipv4_forwarding: true,
            hostname: String::new(),
            init: true,
            shm_size: 64 << 20,
            default_ulimits: BTreeMap::new(),
            log_driver: "json-file".to_owned(),
            log_opts: BTreeMap::new(),
            runtimes: vec!["runc".to_owned(), "yare".to_owned(), "io.containerd.runc.v2".to_owned()],
            default_runtime: "runc".to_owned(),
        }
    }
}
