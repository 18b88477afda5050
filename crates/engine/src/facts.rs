//! Facts about this host, found once at the start or read on demand.

use crate::Config;
use crate::config::BUILT_IN;
use std::path::Path;
use yare_cgroup::{Controller, Mode};
use yare_errdefs::{Error, Result};
use yare_specgen::seccomp::Profile;
use yare_specgen::{HostFacts, SeccompChoice};
use yare_sys::privilege::Privilege;

/// What the cgroups of this host offer, and warnings about what they lack.
pub(crate) fn cgroups() -> Result<(yare_cgroup::Host, Vec<String>)> {
    let host = yare_cgroup::Host::detect()
        .map_err(|error| Error::wrap("cannot find the cgroup hierarchies of this host", error))?;
    let mut warnings = Vec::new();
    if host.has_groups() && !host.prepare() && host.mode() != Mode::V2 {
        tracing::info!(
            "cgroup v1 without favordynmods: a start after an idle moment takes some 12 ms longer"
        );
    }
    if !host.has_groups() {
        warnings.push("Running without root and without control groups: no limit has an effect".to_owned());
    }
    for (controller, what) in [
        (Controller::Memory, "memory"),
        (Controller::Cpu, "cpu"),
        (Controller::Pids, "pids"),
        (Controller::Cpuset, "cpuset"),
    ] {
        if !host.has(controller) {
            warnings.push(format!("No {what} limit support"));
        }
    }
    Ok((host, warnings))
}

/// The facts that settle what a container may ask for.
pub(crate) fn gather(
    config: &Config,
    cgroups: &yare_cgroup::Host,
    apparmor: &crate::apparmor::Survey,
) -> Result<HostFacts> {
    Ok(HostFacts {
        cgroup_version: if cgroups.mode() == Mode::V2 { 2 } else { 1 },
        cpus: u32::try_from(std::thread::available_parallelism().map_or(1, usize::from)).unwrap_or(u32::MAX),
        online_cpus: read("/sys/devices/system/cpu/online"),
        online_mems: read("/sys/devices/system/node/online"),
        total_memory: total_memory(),
        has_memory_limit: cgroups.has(Controller::Memory),
        has_swap_limit: has_swap_limit(cgroups),
        has_cpu_quota: cgroups.has(Controller::Cpu),
        has_cpu_shares: cgroups.has(Controller::Cpu),
        has_cpuset: cgroups.has(Controller::Cpuset),
        has_pids_limit: cgroups.has(Controller::Pids),
        has_block_io: cgroups.has(Controller::Blkio),
        thermal_throttle_paths: thermal_throttle_paths(),
        last_capability: read("/proc/sys/kernel/cap_last_cap").parse().unwrap_or(40),
        kernel_version: kernel_version(),
        seccomp: Path::new("/proc/sys/kernel/seccomp").exists(),
        apparmor: apparmor.is_on,
        default_apparmor_profile: apparmor.has_default,
        selinux: has_selinux(),
        seccomp_profile: seccomp_profile(&config.seccomp_profile)?,
        init: config.init,
        shm_size: config.shm_size,
        default_ulimits: config.default_ulimits.clone(),
        log_driver: config.log_driver.clone(),
        log_opts: config.log_opts.clone(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        capabilities: own_capabilities(),
        ipv4_forwarding: forwards_ipv4(),
        has_block_io_weight: has_block_io_weight(cgroups),
        ..HostFacts::default()
    })
}

/// The system call filter of containers that name none.
fn seccomp_profile(setting: &str) -> Result<SeccompChoice> {
    match setting {
        BUILT_IN => Ok(SeccompChoice::Default),
        "unconfined" => Ok(SeccompChoice::Unconfined),
        path => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Error::invalid(format!("opening seccomp profile ({path}) failed")).caused_by(error)
            })?;
            let profile = Profile::parse(&text)
                .map_err(|error| Error::wrap(format!("cannot use the seccomp profile {path}"), error))?;
            Ok(SeccompChoice::Custom(Box::new(profile)))
        }
    }
}

/// Its file system is mounted where a policy is loaded, and nowhere else.
pub(crate) fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// On v1 the file of the limit is only there when swap accounting is on.
fn has_swap_limit(cgroups: &yare_cgroup::Host) -> bool {
    match cgroups.mode() {
        Mode::V2 => cgroups.has(Controller::Memory),
        _ => cgroups
            .mount_point(Controller::Memory)
            .is_some_and(|folder| folder.join("memory.memsw.limit_in_bytes").exists()),
    }
}

/// Weights need a scheduler that has them; the file tells.
fn has_block_io_weight(cgroups: &yare_cgroup::Host) -> bool {
    let files: &[&str] = match cgroups.mode() {
        Mode::V2 => &["io.weight", "io.bfq.weight"],
        _ => &["blkio.weight", "blkio.bfq.weight"],
    };
    cgroups
        .mount_point(Controller::Blkio)
        .is_some_and(|folder| files.iter().any(|file| folder.join(file).exists()))
}

/// Capabilities of this process, one bit each: no container can get more.
fn own_capabilities() -> u64 {
    let status = read("/proc/self/status");
    let permitted = status.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    permitted.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

fn kernel_version() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn thermal_throttle_paths() -> Vec<String> {
    let cpus: Vec<_> = std::fs::read_dir("/sys/devices/system/cpu")
        .map(|entries| entries.flatten().collect())
        .unwrap_or_default();
    let mut paths: Vec<String> = cpus
        .into_iter()
        .filter(|cpu| {
            cpu.file_name()
                .to_string_lossy()
                .strip_prefix("cpu")
                .is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .map(|cpu| cpu.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths
}

/// The engine's id: random, kept with the data root.
pub(crate) fn engine_id(data_root: &Path) -> Result<String> {
    let path = data_root.join("engine-id");
    if let Ok(id) = std::fs::read_to_string(&path)
        && !id.trim().is_empty()
    {
        return Ok(id.trim().to_owned());
    }
    let random = crate::random_id();
    let id = format!(
        "{}-{}-{}-{}-{}",
        &random[..8],
        &random[8..12],
        &random[12..16],
        &random[16..20],
        &random[20..32]
    );
    std::fs::write(&path, &id)
        .map_err(|error| Error::internal(format!("cannot write {}", path.display())).caused_by(error))?;
    Ok(id)
}

/// Name and version of the host's system, from os-release.
pub(crate) fn operating_system() -> (String, String) {
    let text = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok())
        .unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']).to_owned())
            .unwrap_or_default()
    };
    let name = value("PRETTY_NAME");
    (if name.is_empty() { "Linux".to_owned() } else { name }, value("VERSION_ID"))
}

/// The kind of filesystem a path is on, as Docker names it.
pub(crate) fn filesystem(path: &Path) -> &'static str {
    match rustix::fs::statfs(path).map(|stat| stat.f_type) {
        Ok(0xef53) => "extfs",
        Ok(0x5846_5342) => "xfs",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x794c_7630) => "overlayfs",
        Ok(0x2fc1_2fc1) => "zfs",
        Ok(0x9123_683e) => "btrfs",
        _ => "<unknown>",
    }
}

/// The highest number of a group that processes here can have; none where all can be had.
pub(crate) fn last_group() -> Option<u32> {
    (Privilege::current() == Privilege::Namespace).then(|| last_of(&read("/proc/self/gid_map")))
}

/// The end of the numbers that a map has from 0 on without a gap.
fn last_of(map: &str) -> u32 {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        Some((numbers.next()??, numbers.nth(1)??))
    };
    let mut ranges: Vec<(u32, u32)> = map.lines().filter_map(line).collect();
    ranges.sort_unstable();
    let next = ranges.into_iter().fold(
        0,
        |next: u32, (first, count)| {
            if first == next { next.saturating_add(count) } else { next }
        },
    );
    next.saturating_sub(1)
}

/// Whether the host routes packets between interfaces.
pub(crate) fn forwards_ipv4() -> bool {
    read("/proc/sys/net/ipv4/ip_forward") == "1"
}

/// Open file descriptors of this process.
pub(crate) fn open_files() -> i64 {
    count("/proc/self/fd")
}

/// Threads of this process.
pub(crate) fn threads() -> i64 {
    count("/proc/self/task")
}

fn count(folder: &str) -> i64 {
    std::fs::read_dir(folder).map_or(0, |entries| i64::try_from(entries.count()).unwrap_or(i64::MAX))
}

/// Bytes of the filesystem, and those that are free.
pub(crate) fn disk(root: &Path) -> (u64, u64) {
    rustix::fs::statvfs(root)
        .map(|found| (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize))
        .unwrap_or((u64::MAX, u64::MAX))
}
