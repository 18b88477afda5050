//! The settled plan.

use crate::devices::{DevicePlan, DeviceRulePlan};
use crate::logs::LogPlan;
use crate::modes::{CgroupnsMode, IpcMode, NetworkMode, PidMode, UtsMode};
use crate::mounts::{MountPlan, VolumesFrom};
use crate::ports::PortPlan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use yare_api::{ContainerConfig, HealthConfig, HostConfig, ThrottleDevice, WeightDevice};
use yare_oci::runtime::{Resources, Rlimit};

/// What a container will be, with every default merged and every value checked.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The merged config as inspect shows it. Not part of the stored form: the caller keeps it apart.
    #[serde(skip)]
    pub config: ContainerConfig,
    /// The host config with defaults as inspect shows it. Not part of the stored form either.
    #[serde(skip)]
    pub host_config: HostConfig,
    /// What the reply to the create request warns about. Not stored.
    #[serde(skip)]
    pub warnings: Vec<String>,

    /// Program and arguments: entrypoint, then command.
    pub argv: Vec<String>,
    /// The image's and the user's environment, without the defaults; an entry without `=` unsets one.
    pub env: Vec<String>,
    /// Absolute and clean.
    pub working_dir: String,
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// Further groups, names or numbers.
    pub groups: Vec<String>,
    /// Whether process 1 is the built-in init.
    pub init: bool,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// First size of the terminal: rows, columns; zeros when unknown.
    pub console_size: [u32; 2],
    /// Whether standard input stays open.
    pub open_stdin: bool,
    /// Whether standard input closes with the first client's.
    pub stdin_once: bool,
    /// Signal that asks it to stop, as given; empty is `SIGTERM`.
    pub stop_signal: String,
    /// Seconds from that signal to `SIGKILL`; negative is for ever.
    pub stop_timeout: Option<i64>,
    /// Health check, if there is one.
    pub healthcheck: Option<HealthConfig>,

    /// Host name. Empty until [`Plan::identify`], unless the request names one.
    pub hostname: String,
    /// Domain name.
    pub domainname: String,
    /// Network.
    pub network: NetworkMode,
    /// Whether networking is off (`NetworkDisabled`).
    pub network_disabled: bool,
    /// What is published.
    pub ports: Vec<PortPlan>,
    /// Process ids.
    pub pid: PidMode,
    /// System V and POSIX objects, and `/dev/shm`.
    pub ipc: IpcMode,
    /// Host name.
    pub uts: UtsMode,
    /// View of the cgroups.
    pub cgroupns: CgroupnsMode,

    /// Mounts in the order asked for, image volumes last.
    pub mounts: Vec<MountPlan>,
    /// Containers whose mounts are taken over, where nothing is mounted yet.
    pub volumes_from: Vec<VolumesFrom>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size: i64,
    /// Whether the root filesystem is read-only.
    pub readonly_rootfs: bool,

    /// Whether it has every right there is.
    pub privileged: bool,
    /// Capabilities: bounding, permitted and effective.
    pub capabilities: Vec<String>,
    /// What a privileged exec gets: every capability that can be given here, one bit each.
    pub available_capabilities: u64,
    /// System call filter.
    pub seccomp: SeccompChoice,
    /// Whether `execve` may add rights.
    pub no_new_privileges: bool,
    /// AppArmor profile; empty for none.
    pub apparmor_profile: String,
    /// Whether the container may write its own cgroup files.
    pub writable_cgroups: bool,
    /// Paths that read as empty.
    pub masked_paths: Vec<String>,
    /// Paths that cannot be written.
    pub readonly_paths: Vec<String>,
    /// Device nodes of the host to make in it.
    pub devices: Vec<DevicePlan>,
    /// Access beyond the default devices and those above.
    pub device_rules: Vec<DeviceRulePlan>,

    /// Limits, but for those on block devices.
    pub resources: Resources,
    /// Limits on block devices, by path.
    pub block_io: BlockIoPlan,
    /// Limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// `/proc/self/oom_score_adj`.
    pub oom_score_adj: i32,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Parent cgroup as given; empty is the engine's.
    pub cgroup_parent: String,
    /// Where output goes.
    pub log: LogPlan,
    /// Annotations of the runtime spec.
    pub annotations: BTreeMap<String, String>,
}

impl Plan {
    /// Gives what needs a container id to it: the host name, when none was asked for.
    pub fn identify(&mut self, id: &str) {
        if self.hostname.is_empty() && !matches!(self.network, NetworkMode::Container(_)) {
            self.hostname = yare_api::names::short_id(id).to_owned();
            self.config.hostname.clone_from(&self.hostname);
        }
    }
}

/// Which system call filter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum SeccompChoice {
    /// The built-in profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The user's, as given.
    Custom(Box<crate::seccomp::Profile>),
}

/// Limits on block devices; the paths become numbers when the container starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIoPlan {
    /// Relative weight, 10 to 1000; 0 for none.
    pub weight: u16,
    /// Weight by device.
    pub weight_device: Vec<WeightDevice>,
    /// Bytes read a second.
    pub read_bps: Vec<ThrottleDevice>,
    /// Bytes written a second.
    pub write_bps: Vec<ThrottleDevice>,
    /// Reads a second.
    pub read_iops: Vec<ThrottleDevice>,
    /// Writes a second.
    pub write_iops: Vec<ThrottleDevice>,
}

impl BlockIoPlan {
    /// The device paths whose numbers rendering needs.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        let rates = [&self.read_bps, &self.write_bps, &self.read_iops, &self.write_iops];
        let weights = self.weight_device.iter().map(|device| device.path.as_str());
        weights.chain(rates.into_iter().flatten().map(|device| device.path.as_str()))
    }
}
