//! The OCI runtime spec 1.2 for Linux: `config.json` and `state.json`.
//!
//! Unknown capabilities, actions and members are kept as text or ignored, never an error, as runc does.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

macro_rules! spec_struct {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type),* }
    };
}

spec_struct! {
    /// A container's configuration (runtime-spec, config.md).
    Spec {
        /// Version of the spec followed.
        oci_version: String,
        /// The process to run.
        #[serde(skip_serializing_if = "Option::is_none")]
        process: Option<Process>,
        /// The root filesystem.
        #[serde(skip_serializing_if = "Option::is_none")]
        root: Option<Root>,
        /// Host name in the UTS namespace.
        #[serde(skip_serializing_if = "String::is_empty")]
        hostname: String,
        /// Domain name in the UTS namespace.
        #[serde(skip_serializing_if = "String::is_empty")]
        domainname: String,
        /// Mounts beyond the root, in order.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        mounts: Vec<Mount>,
        /// Programs run at life-cycle points.
        #[serde(skip_serializing_if = "Option::is_none")]
        hooks: Option<Hooks>,
        /// Free annotations.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
        /// What only Linux has.
        #[serde(skip_serializing_if = "Option::is_none")]
        linux: Option<Linux>,
    }
}

spec_struct! {
    /// A process in a container.
    Process {
        /// Whether it has a terminal.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        terminal: bool,
        /// First size of that terminal.
        #[serde(skip_serializing_if = "Option::is_none")]
        console_size: Option<ConsoleSize>,
        /// Who it runs as.
        user: User,
        /// Program and arguments.
        args: Vec<String>,
        /// `KEY=value`.
        env: Vec<String>,
        /// Working directory, absolute.
        cwd: String,
        /// Capability sets.
        #[serde(skip_serializing_if = "Option::is_none")]
        capabilities: Option<Capabilities>,
        /// Resource limits.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        rlimits: Vec<Rlimit>,
        /// Whether `execve` may add privileges.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        no_new_privileges: bool,
        /// AppArmor profile.
        #[serde(skip_serializing_if = "String::is_empty")]
        apparmor_profile: String,
        /// SELinux label.
        #[serde(skip_serializing_if = "String::is_empty")]
        selinux_label: String,
        /// `/proc/self/oom_score_adj`.
        #[serde(skip_serializing_if = "Option::is_none")]
        oom_score_adj: Option<i32>,
    }
}

spec_struct! {
    /// Terminal size in characters.
    ConsoleSize {
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    }
}

spec_struct! {
    /// Numeric identity of a process.
    User {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// File mode creation mask.
        #[serde(skip_serializing_if = "Option::is_none")]
        umask: Option<u32>,
        /// Supplementary groups.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        additional_gids: Vec<u32>,
    }
}

spec_struct! {
    /// Capability sets, as `CAP_…` names.
    Capabilities {
        /// Bounding set.
        bounding: Vec<String>,
        /// Effective set.
        effective: Vec<String>,
        /// Inheritable set.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        inheritable: Vec<String>,
        /// Permitted set.
        permitted: Vec<String>,
        /// Ambient set.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        ambient: Vec<String>,
    }
}

spec_struct! {
    /// One resource limit.
    Rlimit {
        /// `RLIMIT_…`.
        #[serde(rename = "type")]
        kind: String,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    }
}

spec_struct! {
    /// The root filesystem.
    Root {
        /// Path of it, absolute or relative to the bundle.
        path: String,
        /// Whether it is mounted read-only.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        readonly: bool,
    }
}

spec_struct! {
    /// One mount.
    Mount {
        /// Where, absolute inside the container.
        destination: String,
        /// Filesystem type; `bind` or empty with a bind option for binds.
        #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
        kind: String,
        /// What.
        #[serde(skip_serializing_if = "String::is_empty")]
        source: String,
        /// Options in the words of `mount(8)`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        options: Vec<String>,
        /// For a bind: user ids of the source (`containerID`) as who they appear (`hostID`).
        #[serde(skip_serializing_if = "Vec::is_empty")]
        uid_mappings: Vec<IdMapping>,
        /// The same for groups.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gid_mappings: Vec<IdMapping>,
    }
}

spec_struct! {
    /// Programs run at life-cycle points.
    Hooks {
        /// Deprecated; after the namespaces exist, before the program.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        prestart: Vec<Hook>,
        /// In the runtime's namespaces, during create.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        create_runtime: Vec<Hook>,
        /// In the container's mount namespace, before the pivot.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        create_container: Vec<Hook>,
        /// In the container, before the program.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        start_container: Vec<Hook>,
        /// After the program started.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        poststart: Vec<Hook>,
        /// After the container was deleted.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        poststop: Vec<Hook>,
    }
}

spec_struct! {
    /// One program.
    Hook {
        /// Absolute path.
        path: String,
        /// Arguments, the name first.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        args: Vec<String>,
        /// `KEY=value`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        env: Vec<String>,
        /// Seconds it may take.
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout: Option<u64>,
    }
}

spec_struct! {
    /// What only Linux has.
    Linux {
        /// Namespaces to make or join.
        namespaces: Vec<Namespace>,
        /// User id mappings.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        uid_mappings: Vec<IdMapping>,
        /// Group id mappings.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        gid_mappings: Vec<IdMapping>,
        /// Device nodes to make beyond the default ones.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        devices: Vec<Device>,
        /// Path of its cgroup, beneath each hierarchy.
        #[serde(skip_serializing_if = "String::is_empty")]
        cgroups_path: String,
        /// Limits.
        #[serde(skip_serializing_if = "Option::is_none")]
        resources: Option<Resources>,
        /// Kernel parameters set in its namespaces.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        sysctl: BTreeMap<String, String>,
        /// System call filter.
        #[serde(skip_serializing_if = "Option::is_none")]
        seccomp: Option<Seccomp>,
        /// Propagation of the root mount: `private`, `rslave`, `shared`, …
        #[serde(skip_serializing_if = "String::is_empty")]
        rootfs_propagation: String,
        /// Paths that read as empty.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        masked_paths: Vec<String>,
        /// Paths that cannot be written.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        readonly_paths: Vec<String>,
        /// SELinux label of mounts.
        #[serde(skip_serializing_if = "String::is_empty")]
        mount_label: String,
    }
}

spec_struct! {
    /// A namespace to make, or with a path, to join.
    Namespace {
        /// `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`.
        #[serde(rename = "type")]
        kind: String,
        /// The one to join.
        #[serde(skip_serializing_if = "String::is_empty")]
        path: String,
    }
}

spec_struct! {
    /// A run of mapped ids.
    IdMapping {
        /// First id inside.
        #[serde(rename = "containerID")]
        container_id: u32,
        /// First id outside.
        #[serde(rename = "hostID")]
        host_id: u32,
        /// How many.
        size: u32,
    }
}

/// How the owners of a mount's files appear in a container, and whom files belong to that are made there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum IdMap {
    /// The owner of what is mounted is this user (`name`, `uid`, `name:group`, …), or the one that the container
    /// runs as if it is empty. Nobody else is known.
    Owner(String),
    /// By numbers, as in a [`Mount`].
    Ranges {
        /// User ids.
        uids: Vec<IdMapping>,
        /// Group ids.
        gids: Vec<IdMapping>,
    },
}

spec_struct! {
    /// A device node.
    Device {
        /// Path inside.
        path: String,
        /// `c`, `b`, `u` or `p`.
        #[serde(rename = "type")]
        kind: String,
        /// Major number.
        major: i64,
        /// Minor number.
        minor: i64,
        /// Permission bits.
        #[serde(skip_serializing_if = "Option::is_none")]
        file_mode: Option<u32>,
        /// Owner.
        #[serde(skip_serializing_if = "Option::is_none")]
        uid: Option<u32>,
        /// Group.
        #[serde(skip_serializing_if = "Option::is_none")]
        gid: Option<u32>,
    }
}

spec_struct! {
    /// Limits of a container (runtime-spec, config-linux.md, "Control groups").
    Resources {
        /// Device rules, the last match wins.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        devices: Vec<DeviceRule>,
        /// Memory.
        #[serde(skip_serializing_if = "Option::is_none")]
        memory: Option<Memory>,
        /// Processor time.
        #[serde(skip_serializing_if = "Option::is_none")]
        cpu: Option<Cpu>,
        /// Number of tasks.
        #[serde(skip_serializing_if = "Option::is_none")]
        pids: Option<Pids>,
        /// Block devices.
        #[serde(rename = "blockIO", skip_serializing_if = "Option::is_none")]
        block_io: Option<BlockIo>,
        /// Raw cgroup v2 files.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        unified: BTreeMap<String, String>,
    }
}

spec_struct! {
    /// One device rule.
    DeviceRule {
        /// Whether access is granted.
        allow: bool,
        /// `c`, `b` or `a`; empty is `a`.
        #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
        kind: String,
        /// Major number; `None` is any.
        #[serde(skip_serializing_if = "Option::is_none")]
        major: Option<i64>,
        /// Minor number; `None` is any.
        #[serde(skip_serializing_if = "Option::is_none")]
        minor: Option<i64>,
        /// Of `r`, `w`, `m`.
        #[serde(skip_serializing_if = "String::is_empty")]
        access: String,
    }
}

spec_struct! {
    /// Memory limits in bytes; -1 is no limit.
    Memory {
        /// Hard limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        limit: Option<i64>,
        /// Soft limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        reservation: Option<i64>,
        /// Memory and swap together.
        #[serde(skip_serializing_if = "Option::is_none")]
        swap: Option<i64>,
        /// 0 to 100 (v1).
        #[serde(skip_serializing_if = "Option::is_none")]
        swappiness: Option<u64>,
        /// Block instead of kill (v1).
        #[serde(rename = "disableOOMKiller", skip_serializing_if = "Option::is_none")]
        disable_oom_killer: Option<bool>,
    }
}

spec_struct! {
    /// Processor limits.
    Cpu {
        /// Relative weight, 1024 is normal.
        #[serde(skip_serializing_if = "Option::is_none")]
        shares: Option<u64>,
        /// Microseconds per period.
        #[serde(skip_serializing_if = "Option::is_none")]
        quota: Option<i64>,
        /// Length of a period in microseconds.
        #[serde(skip_serializing_if = "Option::is_none")]
        period: Option<u64>,
        /// Real-time microseconds per period (v1).
        #[serde(skip_serializing_if = "Option::is_none")]
        realtime_runtime: Option<i64>,
        /// Real-time period in microseconds (v1).
        #[serde(skip_serializing_if = "Option::is_none")]
        realtime_period: Option<u64>,
        /// Processors, as a list of ranges.
        #[serde(skip_serializing_if = "String::is_empty")]
        cpus: String,
        /// Memory nodes, as a list of ranges.
        #[serde(skip_serializing_if = "String::is_empty")]
        mems: String,
    }
}

spec_struct! {
    /// Task limit; -1 is no limit.
    Pids {
        /// How many.
        limit: i64,
    }
}

spec_struct! {
    /// Block device limits.
    BlockIo {
        /// Relative weight.
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        /// Weight by device.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        weight_device: Vec<WeightDevice>,
        /// Bytes read a second.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        throttle_read_bps_device: Vec<ThrottleDevice>,
        /// Bytes written a second.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        throttle_write_bps_device: Vec<ThrottleDevice>,
        /// Reads a second.
        #[serde(rename = "throttleReadIOPSDevice", skip_serializing_if = "Vec::is_empty")]
        throttle_read_iops_device: Vec<ThrottleDevice>,
        /// Writes a second.
        #[serde(rename = "throttleWriteIOPSDevice", skip_serializing_if = "Vec::is_empty")]
        throttle_write_iops_device: Vec<ThrottleDevice>,
    }
}

spec_struct! {
    /// Weight of one block device.
    WeightDevice {
        /// Major number.
        major: i64,
        /// Minor number.
        minor: i64,
        /// Relative weight.
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
    }
}

spec_struct! {
    /// Rate of one block device.
    ThrottleDevice {
        /// Major number.
        major: i64,
        /// Minor number.
        minor: i64,
        /// Per second.
        rate: u64,
    }
}

spec_struct! {
    /// System call filter (runtime-spec, config-linux.md, "Seccomp").
    Seccomp {
        /// Action where no rule matches: `SCMP_ACT_…`.
        default_action: String,
        /// Error number of a default `SCMP_ACT_ERRNO`.
        #[serde(skip_serializing_if = "Option::is_none")]
        default_errno_ret: Option<u32>,
        /// `SCMP_ARCH_…`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        architectures: Vec<String>,
        /// `SECCOMP_FILTER_FLAG_…`.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        flags: Vec<String>,
        /// The rules.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        syscalls: Vec<SyscallRule>,
    }
}

spec_struct! {
    /// One rule.
    SyscallRule {
        /// System calls it speaks of.
        names: Vec<String>,
        /// What happens: `SCMP_ACT_…`.
        action: String,
        /// Error number of `SCMP_ACT_ERRNO` or `SCMP_ACT_TRACE`.
        #[serde(skip_serializing_if = "Option::is_none")]
        errno_ret: Option<u32>,
        /// Conditions, all of which must hold.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        args: Vec<SyscallArg>,
    }
}

spec_struct! {
    /// One condition on an argument.
    SyscallArg {
        /// Which, 0 to 5.
        index: u32,
        /// To compare with; the mask for `SCMP_CMP_MASKED_EQ`.
        value: u64,
        /// The wanted value under the mask.
        #[serde(skip_serializing_if = "is_zero")]
        value_two: u64,
        /// `SCMP_CMP_…`.
        op: String,
    }
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

spec_struct! {
    /// The state of a container (runtime-spec, runtime.md, "State").
    State {
        /// Version of the spec followed.
        oci_version: String,
        /// The container's id.
        id: String,
        /// `creating`, `created`, `running` or `stopped`.
        status: String,
        /// Process id on the host, while there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pid: Option<i32>,
        /// Path of the bundle.
        bundle: String,
        /// The spec's annotations.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        annotations: BTreeMap<String, String>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_shortest_config() {
        let spec: Spec =
            serde_json::from_str(r#"{"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/"}}"#).unwrap();
        assert_eq!(spec.process.unwrap().args, ["sh"]);
    }
}
