//! A plan with the outcome of the engine's preparations, rendered into an OCI runtime spec.

use crate::modes::{CgroupnsMode, IpcMode, NetworkMode, PidMode, UtsMode};
use crate::mounts::{MountPlan, MountSource, ReadOnlyDepth};
use crate::plan::{Plan, SeccompChoice};
use crate::seccomp::Profile;
use crate::{devices, environment};
use std::collections::BTreeMap;
use yare_api::{ExecConfig, ThrottleDevice as ApiThrottleDevice};
use yare_oci::runtime::{
    BlockIo, Capabilities, ConsoleSize, Device, DeviceRule, Linux, Mount, Namespace, Process, Resources,
    Root, Spec, ThrottleDevice, User, WeightDevice,
};

/// Version of the runtime spec that is written.
const OCI_VERSION: &str = "1.2.1";

/// What the engine found out or made for one start.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Wiring {
    /// Path of the root filesystem, or a placeholder when it is handed over otherwise.
    pub root: String,
    /// File mounted at `/etc/resolv.conf`, `/etc/hostname`, `/etc/hosts`; none where there is none.
    pub resolv_conf: Option<String>,
    /// See `resolv_conf`.
    pub hostname: Option<String>,
    /// See `resolv_conf`.
    pub hosts: Option<String>,
    /// The plan's mounts, and those taken over from other containers, with where volumes lie: by destination.
    pub volumes: BTreeMap<String, String>,
    /// Mounts taken over from other containers (`--volumes-from`); their volumes are in `volumes`, too.
    pub more_mounts: Vec<MountPlan>,
    /// Nodes for the plan's devices; every node of the host for a privileged container.
    pub devices: Vec<ResolvedDevice>,
    /// Major and minor numbers of the devices that [`crate::BlockIoPlan::paths`] names.
    pub block_devices: BTreeMap<String, (i64, i64)>,
    /// The container's cgroup.
    pub cgroup_path: String,
    /// Namespace files of the containers that are joined.
    pub network_namespace: Option<String>,
    /// See `network_namespace`.
    pub pid_namespace: Option<String>,
    /// See `network_namespace`.
    pub ipc_namespace: Option<String>,
    /// Directory mounted at `/dev/shm` when another container's IPC is joined.
    pub shm: Option<String>,
    /// Whether the kernel can make binds read-only with all beneath (since 5.12).
    pub recursive_read_only: bool,
    /// Kernel version, for the system call filter.
    pub kernel_version: (u32, u32),
    /// Architecture in Go's words, for the same.
    pub architecture: String,
    /// The highest number of a group, where the kernel takes fewer than all: in a user namespace.
    pub last_group: Option<u32>,
}

/// A node to make, and how it may be used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResolvedDevice {
    /// The node, with its path in the container.
    pub device: Device,
    /// Of `r`, `w`, `m`.
    pub access: String,
}

/// Renders the spec.
pub fn render(plan: &Plan, wiring: &Wiring) -> Spec {
    let own_name = plan.uts == UtsMode::Private;
    Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: Some(process(plan)),
        root: Some(Root { path: wiring.root.clone(), readonly: plan.readonly_rootfs }),
        hostname: if own_name { plan.hostname.clone() } else { String::new() },
        mounts: mounts(plan, wiring),
        annotations: plan.annotations.clone(),
        linux: Some(linux(plan, wiring)),
        ..Spec::default()
    }
}

fn process(plan: &Plan) -> Process {
    Process {
        terminal: plan.terminal,
        console_size: console_size(plan.console_size).filter(|_| plan.terminal),
        user: user(&plan.user, &plan.groups),
        args: plan.argv.clone(),
        env: environment::of_container(&plan.hostname, plan.terminal, &plan.env),
        cwd: plan.working_dir.clone(),
        capabilities: Some(capabilities(&plan.capabilities)),
        rlimits: plan.rlimits.clone(),
        no_new_privileges: plan.no_new_privileges,
        apparmor_profile: plan.apparmor_profile.clone(),
        selinux_label: String::new(),
        oom_score_adj: Some(plan.oom_score_adj),
    }
}

/// The process of an exec. `size` is of the terminal, rows and columns.
pub fn exec_process(plan: &Plan, config: &ExecConfig, size: Option<[u32; 2]>) -> Process {
    let base = environment::of_container(&plan.hostname, config.tty, &plan.env);
    let named = if config.user.is_empty() { &plan.user } else { &config.user };
    let groups: &[String] = if config.user.is_empty() { &plan.groups } else { &[] };
    let given = match config.privileged {
        true => crate::caps::names(plan.available_capabilities),
        false => plan.capabilities.clone(),
    };
    Process {
        terminal: config.tty,
        console_size: size.and_then(console_size).filter(|_| config.tty),
        user: user(named, groups),
        args: config.cmd.clone().unwrap_or_default(),
        env: environment::overlay(base, config.env.as_deref().unwrap_or_default()),
        cwd: if config.working_dir.is_empty() {
            plan.working_dir.clone()
        } else {
            config.working_dir.clone()
        },
        capabilities: Some(capabilities(&given)),
        rlimits: plan.rlimits.clone(),
        no_new_privileges: plan.no_new_privileges,
        // As with Docker, `--privileged` gives capabilities and leaves the profile.
        apparmor_profile: plan.apparmor_profile.clone(),
        selinux_label: String::new(),
        oom_score_adj: Some(plan.oom_score_adj),
    }
}

fn console_size(size: [u32; 2]) -> Option<ConsoleSize> {
    let [height, width] = size.map(|number| u16::try_from(number).unwrap_or(u16::MAX));
    (height > 0 && width > 0).then_some(ConsoleSize { height, width })
}

fn capabilities(list: &[String]) -> Capabilities {
    // Inheritable and ambient stay empty, or a program with file capabilities would gain by being run.
    Capabilities {
        bounding: list.to_vec(),
        effective: list.to_vec(),
        permitted: list.to_vec(),
        ..Capabilities::default()
    }
}

/// Numbers as given; names are looked up in the root filesystem by the runtime, which replaces them.
fn user(text: &str, groups: &[String]) -> User {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let gid = group.parse().unwrap_or(0);
    let more = groups.iter().filter_map(|group| group.parse().ok());
    User {
        uid: user.parse().unwrap_or(0),
        gid,
        umask: None,
        additional_gids: std::iter::once(gid).chain(more).collect(),
    }
}

fn mounts(plan: &Plan, wiring: &Wiring) -> Vec<Mount> {
    let mut own: Vec<Mount> = shm(plan, wiring).into_iter().collect();
    own.extend(plan.mounts.iter().chain(&wiring.more_mounts).filter_map(|mount| one(mount, wiring)));
    for (destination, source) in [
        ("/etc/resolv.conf", &wiring.resolv_conf),
        ("/etc/hostname", &wiring.hostname),
        ("/etc/hosts", &wiring.hosts),
    ] {
        let taken = own.iter().any(|mount| mount.destination == destination);
        if let Some(source) = source.as_ref().filter(|_| !taken) {
            own.push(bind(destination, source, plan.readonly_rootfs, wiring));
        }
    }
    // What lies deeper is mounted later.
    own.sort_by_key(|mount| mount.destination.matches('/').count());
    let taken = |destination: &str| own.iter().any(|mount| mount.destination == destination);
    let own_dev = taken("/dev");
    let own_shm = matches!(plan.ipc, IpcMode::Private | IpcMode::Shareable);
    let replaced = |destination: &str| {
        taken(destination)
            || (own_dev && destination.starts_with("/dev/"))
            || (destination == "/dev/shm" && !own_shm)
    };
    let mut all = base_mounts(plan);
    all.retain(|mount| !replaced(&mount.destination));
    all.extend(own);
    all
}

fn base_mounts(plan: &Plan) -> Vec<Mount> {
    let free = plan.privileged;
    let ro = |options: &mut Vec<String>, at: usize| options.insert(at, "ro".to_owned());
    let mount = |destination: &str, kind: &str, options: &str| Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: kind.to_owned(),
        options: options.split(',').map(str::to_owned).collect(),
        ..Mount::default()
    };
    let mut list = vec![
        mount("/proc", "proc", "nosuid,noexec,nodev"),
        mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        mount("/sys", "sysfs", "nosuid,noexec,nodev"),
        mount("/sys/fs/cgroup", "cgroup", "nosuid,noexec,nodev"),
        mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777"),
    ];
    if !free {
        ro(&mut list[3].options, 3);
        if !plan.writable_cgroups {
            ro(&mut list[4].options, 0);
        }
    }
    "shm".clone_into(&mut list[6].source);
    list[6].options.push(format!("size={}", plan.shm_size));
    list
}

fn shm(plan: &Plan, wiring: &Wiring) -> Option<Mount> {
    let source = match plan.ipc {
        IpcMode::Host => "/dev/shm",
        IpcMode::Container(_) => wiring.shm.as_deref()?,
        IpcMode::None | IpcMode::Private | IpcMode::Shareable => return None,
    };
    Some(bind("/dev/shm", source, false, wiring))
}

fn bind(destination: &str, source: &str, read_only: bool, wiring: &Wiring) -> Mount {
    let mut options = vec!["rbind".to_owned()];
    if read_only {
        options.push(if wiring.recursive_read_only { "rro" } else { "ro" }.to_owned());
    }
    options.push("rprivate".to_owned());
    Mount {
        destination: destination.to_owned(),
        kind: "bind".to_owned(),
        source: source.to_owned(),
        options,
        ..Mount::default()
    }
}

/// A planned mount; `None` for a volume the engine did not wire.
fn one(plan: &MountPlan, wiring: &Wiring) -> Option<Mount> {
    let wired = wiring.volumes.get(&plan.destination);
    let source = match &plan.source {
        MountSource::Tmpfs { options } => {
            return Some(Mount {
                destination: plan.destination.clone(),
                kind: "tmpfs".to_owned(),
                source: "tmpfs".to_owned(),
                options: crate::tmpfs::options(options).unwrap_or_default(),
                ..Mount::default()
            });
        }
        MountSource::Bind { path, .. } => wired.unwrap_or(path),
        MountSource::Volume { .. } | MountSource::Image { .. } => wired?,
    };
    let mut options = vec![if plan.non_recursive { "bind" } else { "rbind" }.to_owned()];
    if plan.read_only {
        let deep = match plan.recursion {
            ReadOnlyDepth::Top => false,
            ReadOnlyDepth::Forced => true,
            ReadOnlyDepth::IfPossible => wiring.recursive_read_only,
        };
        options.push(if deep { "rro" } else { "ro" }.to_owned());
    }
    options.push(if plan.propagation.is_empty() { "rprivate" } else { &plan.propagation }.to_owned());
    Some(Mount {
        destination: plan.destination.clone(),
        kind: "bind".to_owned(),
        source: source.clone(),
        options,
        ..Mount::default()
    })
}

fn linux(plan: &Plan, wiring: &Wiring) -> Linux {
    Linux {
        namespaces: namespaces(plan, wiring),
        devices: wiring.devices.iter().map(|resolved| resolved.device.clone()).collect(),
        cgroups_path: wiring.cgroup_path.clone(),
        resources: Some(Resources {
            devices: device_rules(plan, wiring),
            block_io: block_io(plan, wiring),
            ..plan.resources.clone()
        }),
        sysctl: sysctls(plan, wiring),
        seccomp: profile(plan)
            .map(|profile| profile.resolve(&plan.capabilities, wiring.kernel_version, &wiring.architecture)),
        rootfs_propagation: rootfs_propagation(plan, wiring),
        masked_paths: plan.masked_paths.clone(),
        readonly_paths: plan.readonly_paths.clone(),
        ..Linux::default()
    }
}

fn profile(plan: &Plan) -> Option<&Profile> {
    match &plan.seccomp {
        SeccompChoice::Unconfined => None,
        SeccompChoice::Default => Some(Profile::built_in()),
        SeccompChoice::Custom(profile) => Some(profile),
    }
}

/// A shared or slave mount needs a root that lets events through.
fn rootfs_propagation(plan: &Plan, wiring: &Wiring) -> String {
    let all = || plan.mounts.iter().chain(&wiring.more_mounts).map(|mount| mount.propagation.as_str());
    if all().any(|propagation| ["shared", "rshared"].contains(&propagation)) {
        "shared".to_owned()
    } else if all().any(|propagation| ["slave", "rslave"].contains(&propagation)) {
        "rslave".to_owned()
    } else {
        String::new()
    }
}

fn namespaces(plan: &Plan, wiring: &Wiring) -> Vec<Namespace> {
    let own = |kind: &str| Some(Namespace { kind: kind.to_owned(), path: String::new() });
    let joined = |kind: &str, path: &Option<String>| {
        Some(Namespace { kind: kind.to_owned(), path: path.clone().unwrap_or_default() })
    };
    let list = [
        own("mount"),
        match &plan.network {
            NetworkMode::Host => None,
            NetworkMode::Container(_) => joined("network", &wiring.network_namespace),
            NetworkMode::Bridge | NetworkMode::None | NetworkMode::Network(_) => {
                joined("network", &wiring.network_namespace)
            }
        },
        own("uts").filter(|_| plan.uts == UtsMode::Private),
        match &plan.pid {
            PidMode::Host => None,
            PidMode::Container(_) => joined("pid", &wiring.pid_namespace),
            PidMode::Private => own("pid"),
        },
        match &plan.ipc {
            IpcMode::Host => None,
            IpcMode::Container(_) => joined("ipc", &wiring.ipc_namespace),
            IpcMode::None | IpcMode::Private | IpcMode::Shareable => own("ipc"),
        },
        own("cgroup").filter(|_| plan.cgroupns == CgroupnsMode::Private),
    ];
    list.into_iter().flatten().collect()
}

fn sysctls(plan: &Plan, wiring: &Wiring) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if plan.network.is_private() {
        all.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        let last = wiring.last_group.unwrap_or(i32::MAX.unsigned_abs());
        all.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
    }
    if !plan.domainname.is_empty() && plan.uts == UtsMode::Private {
        all.insert("kernel.domainname".to_owned(), plan.domainname.clone());
    }
    all.extend(plan.sysctls.clone());
    all
}

fn device_rules(plan: &Plan, wiring: &Wiring) -> Vec<DeviceRule> {
    let mut rules = devices::default_rules();
    if plan.privileged {
        rules.push(DeviceRule { allow: true, access: "rwm".to_owned(), ..DeviceRule::default() });
        return rules;
    }
    rules.extend(wiring.devices.iter().map(|resolved| DeviceRule {
        allow: true,
        kind: resolved.device.kind.clone(),
        major: Some(resolved.device.major),
        minor: Some(resolved.device.minor),
        access: resolved.access.clone(),
    }));
    rules.extend(plan.device_rules.iter().map(|rule| DeviceRule {
        allow: true,
        kind: rule.kind.clone(),
        major: rule.major,
        minor: rule.minor,
        access: rule.access.clone(),
    }));
    rules
}

fn block_io(plan: &Plan, wiring: &Wiring) -> Option<BlockIo> {
    let numbers = |path: &str| wiring.block_devices.get(path).copied();
    let rates = |list: &[ApiThrottleDevice]| {
        let one = |device: &ApiThrottleDevice| {
            numbers(&device.path).map(|(major, minor)| ThrottleDevice { major, minor, rate: device.rate })
        };
        list.iter().filter_map(one).collect::<Vec<_>>()
    };
    let weights = plan.block_io.weight_device.iter().filter_map(|device| {
        let (major, minor) = numbers(&device.path)?;
        Some(WeightDevice { major, minor, weight: Some(device.weight) })
    });
    let block_io = BlockIo {
        weight: (plan.block_io.weight > 0).then_some(plan.block_io.weight),
        weight_device: weights.collect(),
        throttle_read_bps_device: rates(&plan.block_io.read_bps),
        throttle_write_bps_device: rates(&plan.block_io.write_bps),
        throttle_read_iops_device: rates(&plan.block_io.read_iops),
        throttle_write_iops_device: rates(&plan.block_io.write_iops),
    };
    (block_io != BlockIo::default()).then_some(block_io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_like_its_container_but_for_what_it_says() {
        let plan = Plan {
            env: vec!["A=1".to_owned()],
            hostname: "h".to_owned(),
            working_dir: "/w".to_owned(),
            user: "5".to_owned(),
            groups: vec!["7".to_owned()],
            capabilities: vec!["CAP_CHOWN".to_owned()],
            available_capabilities: 0b11,
            ..Plan::default()
        };
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let config =
            ExecConfig { cmd: Some(words("ls -l")), env: Some(words("B=2 A=3")), ..ExecConfig::default() };
        let process = exec_process(&plan, &config, Some([24, 80]));
        assert_eq!(process.args, ["ls", "-l"]);
        assert_eq!(process.env[1..], ["HOSTNAME=h", "A=3", "B=2"]);
        assert_eq!((process.cwd.as_str(), process.user.uid, process.console_size), ("/w", 5, None));
        assert_eq!(process.user.additional_gids, [0, 7]);
        let config = ExecConfig { privileged: true, tty: true, user: "6:8".into(), ..config };
        let process = exec_process(&plan, &config, Some([24, 80]));
        assert_eq!(process.capabilities.map(|sets| sets.bounding.len()), Some(2));
        assert_eq!((process.user.uid, process.user.additional_gids), (6, vec![8]));
        assert_eq!(process.console_size, Some(ConsoleSize { height: 24, width: 80 }));
        assert!(process.env.contains(&"TERM=xterm".to_owned()));
    }

    #[test]
    fn volumes_lie_where_the_engine_says_and_deeper_mounts_come_later() {
        let volume = |destination: &str| MountPlan {
            destination: destination.to_owned(),
            ..crate::mounts::parse_bind(&format!("v:{destination}:ro"), "").expect("a mount")
        };
        let plan = Plan { mounts: vec![volume("/a/b/c"), volume("/a"), volume("/lost")], ..Plan::default() };
        let place = |destination: &str| (destination.to_owned(), format!("/volumes{destination}"));
        let wiring = Wiring { volumes: BTreeMap::from([place("/a"), place("/a/b/c")]), ..Wiring::default() };
        let spec = render(&plan, &wiring);
        let own: Vec<_> = spec.mounts.iter().filter(|mount| mount.source.starts_with("/volumes")).collect();
        assert_eq!(own.iter().map(|mount| mount.destination.as_str()).collect::<Vec<_>>(), ["/a", "/a/b/c"]);
        assert_eq!(own[0].options, ["rbind", "ro", "rprivate"]);
        assert!(spec.mounts.iter().all(|mount| mount.destination != "/lost"));
    }

    #[test]
    fn an_own_dev_replaces_all_of_it() {
        let plan = Plan {
            mounts: vec![crate::mounts::parse_bind("/dev:/dev:rshared", "").expect("a mount")],
            ..Plan::default()
        };
        let spec = render(&plan, &Wiring::default());
        let dev: Vec<_> = spec.mounts.iter().filter(|mount| mount.destination.starts_with("/dev")).collect();
        assert_eq!(dev.len(), 1);
        assert_eq!(spec.linux.expect("linux").rootfs_propagation, "shared");
    }

    #[test]
    fn block_devices_are_numbers() {
        let device = ApiThrottleDevice { path: "/dev/sda".to_owned(), rate: 5 };
        let block_io = crate::BlockIoPlan { read_bps: vec![device], ..crate::BlockIoPlan::default() };
        assert_eq!(block_io.paths().collect::<Vec<_>>(), ["/dev/sda"]);
        let plan = Plan { block_io, ..Plan::default() };
        let block_devices = BTreeMap::from([("/dev/sda".to_owned(), (8, 0))]);
        let spec = render(&plan, &Wiring { block_devices, ..Wiring::default() });
        let limits = spec.linux.and_then(|linux| linux.resources).and_then(|resources| resources.block_io);
        let rates = limits.expect("limits").throttle_read_bps_device;
        assert_eq!((rates[0].major, rates[0].rate), (8, 5));
    }
}
