//! Resource limits: checked, discarded where the kernel cannot, and turned into OCI's form.

use crate::HostFacts;
use crate::check::Report;
use crate::plan::BlockIoPlan;
use yare_api::{HostConfig, Ulimit};
use yare_errdefs::Error;
use yare_oci::kernel::RLIMITS;
use yare_oci::runtime::{Cpu, Memory, Pids, Resources, Rlimit};

/// Less memory than this starts nothing.
const LEAST_MEMORY: i64 = 6 << 20;
/// Shares the kernel knows.
const SHARES: (i64, i64) = (2, 262_144);
/// Processors and memory nodes that Docker counts to.
const MOST_NODES: u32 = 8192;

/// Checks the limits and takes out what this host cannot do, with a warning each. `update` is whether the
/// container exists, which allows a swap limit without a memory limit.
pub(crate) fn check(limits: &mut HostConfig, facts: &HostFacts, update: bool, report: &mut Report) {
    realtime(limits, facts, report);
    memory(limits, facts, update, report);
    oom(limits, facts, report);
    pids(limits, facts, report);
    cpu(limits, facts, report);
    cpusets(limits, facts, report);
    block_io(limits, facts, report);
    if limits.io_maximum_bandwidth != 0 || limits.io_maximum_iops != 0 {
        report.error("invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps");
    }
    if limits.cpu_percent > 0 {
        report.warn("linux does not support CPU percent. Percent discarded.");
        limits.cpu_percent = 0;
    }
}

fn realtime(limits: &HostConfig, facts: &HostFacts, report: &mut Report) {
    let (period, runtime) = (limits.cpu_realtime_period, limits.cpu_realtime_runtime);
    if (period != 0 || runtime != 0) && !facts.has_cpu_realtime {
        report.error("kernel does not support CPU real-time scheduler");
    } else if period != 0 && runtime != 0 && runtime > period {
        report.error("cpu real-time runtime cannot be higher than cpu real-time period");
    }
    if limits.cpu_shares < 0 {
        report.error(format!("invalid CPU shares ({}): value must be a positive integer", limits.cpu_shares));
    }
}

fn memory(limits: &mut HostConfig, facts: &HostFacts, update: bool, report: &mut Report) {
    if limits.memory != 0 && limits.memory < LEAST_MEMORY {
        report.error("Minimum memory limit allowed is 6MB");
        return;
    }
    if limits.memory > 0 && !facts.has_memory_limit {
        report.warn(
            "Your kernel does not support memory limit capabilities or the cgroup is not mounted. Limitation \
             discarded.",
        );
        (limits.memory, limits.memory_swap) = (0, -1);
    }
    if limits.memory > 0 && limits.memory_swap != -1 && !facts.has_swap_limit {
        if limits.memory_swap != 0 || !update {
            report.warn(
                "Your kernel does not support swap limit capabilities or the cgroup is not mounted. Memory limited \
                 without swap.",
            );
        }
        limits.memory_swap = -1;
    }
    if limits.memory_swap < -1 {
        report.error(format!("invalid memory swap limit: {}", limits.memory_swap));
    } else if limits.memory > 0 && limits.memory_swap > 0 && limits.memory_swap < limits.memory {
        report.error("Minimum memoryswap limit should be larger than memory limit, see usage");
    } else if limits.memory == 0 && limits.memory_swap > 0 && !update {
        report.error("You should always set the Memory limit when using Memoryswap limit, see usage");
    }
    swappiness(limits, facts, report);
    if limits.memory_reservation > 0 && !facts.has_memory_limit {
        report.warn(
            "Your kernel does not support memory soft limit capabilities or the cgroup is not mounted. Limitation \
             discarded.",
        );
        limits.memory_reservation = 0;
    }
    if limits.memory_reservation != 0 && limits.memory_reservation < LEAST_MEMORY {
        report.error("Minimum memory reservation allowed is 6MB");
    } else if limits.memory > 0 && limits.memory < limits.memory_reservation {
        report.error("Minimum memory limit can not be less than memory reservation limit, see usage");
    }
}

fn swappiness(limits: &mut HostConfig, facts: &HostFacts, report: &mut Report) {
    let Some(swappiness) = limits.memory_swappiness.filter(|value| *value != -1) else {
        limits.memory_swappiness = None;
        return;
    };
    if !(0..=100).contains(&swappiness) {
        report.error(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100"));
    } else if facts.cgroup_version >= 2 || !facts.has_memory_limit {
        report.warn(
            "Your kernel does not support memory swappiness capabilities or the cgroup is not mounted. Memory \
             swappiness discarded.",
        );
        limits.memory_swappiness = None;
    }
}

fn oom(limits: &mut HostConfig, facts: &HostFacts, report: &mut Report) {
    let disable = limits.oom_kill_disable.unwrap_or(false);
    if facts.cgroup_version >= 2 || !facts.has_memory_limit {
        if disable {
            report.warn("Your kernel does not support OomKillDisable. OomKillDisable discarded.");
        }
        limits.oom_kill_disable = None;
    } else if disable && limits.memory == 0 {
        report.warn(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system \
             running out of resources.",
        );
    }
}

fn pids(limits: &mut HostConfig, facts: &HostFacts, report: &mut Report) {
    let Some(limit) = limits.pids_limit.filter(|_| !facts.has_pids_limit) else { return };
    if limit > 0 {
        report.warn(
            "Your kernel does not support PIDs limit capabilities or the cgroup is not mounted. PIDs limit discarded.",
        );
    }
    limits.pids_limit = None;
}

fn cpu(limits: &mut HostConfig, facts: &HostFacts, report: &mut Report) {
    if limits.nano_cpus > 0 && limits.cpu_period > 0 {
        report.error("Conflicting options: Nano CPUs and CPU Period cannot both be set.");
    }
    if limits.nano_cpus > 0 && limits.cpu_quota > 0 {
        report.error("Conflicting options: Nano CPUs and CPU Quota cannot both be set.");
    }
    if limits.nano_cpus > 0 && !facts.has_cpu_quota {
        report.error(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        );
    }
    // The kernel takes no less than a thousandth of a second in a tenth: 0.01.
    let (least, most) = (10_000_000, i64::from(facts.cpus) * 1_000_000_000);
    if limits.nano_cpus != 0 && !(least..=most).contains(&limits.nano_cpus) {
        report.error(format!(
            "range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
            facts.cpus
        ));
    }
    if limits.cpu_shares > 0 && !facts.has_cpu_shares {
        report
            .warn("Your kernel does not support CPU shares or the cgroup is not mounted. Shares discarded.");
        limits.cpu_shares = 0;
    }
    if limits.cpu_shares > 0 {
        limits.cpu_shares = limits.cpu_shares.clamp(SHARES.0, SHARES.1);
    }
    if (limits.cpu_period != 0 || limits.cpu_quota != 0) && !facts.has_cpu_quota {
        report.warn(
            "Your kernel does not support CPU CFS scheduler or the cgroup is not mounted. CPU period/quota discarded.",
        );
        (limits.cpu_period, limits.cpu_quota) = (0, 0);
    }
    if limits.cpu_period != 0 && !(1000..=1_000_000).contains(&limits.cpu_period) {
        report.error("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)");
    }
    if limits.cpu_quota > 0 && limits.cpu_quota < 1000 {
        report.error("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
}

fn cpusets(limits: &mut HostConfig, facts: &HostFacts, report: &mut Report) {
    if (!limits.cpuset_cpus.is_empty() || !limits.cpuset_mems.is_empty()) && !facts.has_cpuset {
        report.warn("Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.");
        limits.cpuset_cpus.clear();
        limits.cpuset_mems.clear();
    }
    let cpus = match facts.online_cpus.as_str() {
        "" => format!("0-{}", facts.cpus.max(1) - 1),
        online => online.to_owned(),
    };
    let mems = if facts.online_mems.is_empty() { "0" } else { &facts.online_mems };
    for (wanted, online, short, long) in [
        (&limits.cpuset_cpus, cpus.as_str(), "cpus", "CPUs"),
        (&limits.cpuset_mems, mems, "mems", "memory nodes"),
    ] {
        match ranges(wanted) {
            Err(reason) => report.error(format!("Invalid value {wanted} for cpuset {short}: {reason}")),
            Ok(list) if !covered(&list, &ranges(online).unwrap_or_default()) => report.error(format!(
                "Requested {long} are not available - requested {wanted}, available: {online}"
            )),
            Ok(_) => {}
        }
    }
}

/// Reads `0-3,5`; never more work than the text is long.
fn ranges(text: &str) -> Result<Vec<(u32, u32)>, String> {
    let number = |part: &str| {
        let number: u32 = part.parse().map_err(|_| format!("invalid format: {text}"))?;
        if number >= MOST_NODES || part.starts_with('+') {
            return Err(format!("value of out range, maximum is {}", MOST_NODES - 1));
        }
        Ok(number)
    };
    text.split(',')
        .map(str::trim)
        .filter(|_| !text.is_empty())
        .map(|part| {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let (low, high) = (number(low)?, number(high)?);
            if low > high { Err(format!("invalid range start: {text}")) } else { Ok((low, high)) }
        })
        .collect()
}

fn covered(wanted: &[(u32, u32)], online: &[(u32, u32)]) -> bool {
    // Both are below `MOST_NODES`.
    wanted.iter().all(|(low, high)| {
        (*low..=*high).all(|number| online.iter().any(|(from, to)| (*from..=*to).contains(&number)))
    })
}

fn block_io(limits: &mut HostConfig, facts: &HostFacts, report: &mut Report) {
    if limits.blkio_weight > 0 && !facts.has_block_io_weight {
        report.warn(
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded.",
        );
        limits.blkio_weight = 0;
    }
    if limits.blkio_weight > 0 && !(10..=1000).contains(&limits.blkio_weight) {
        report.error("Range of blkio weight is from 10 to 1000");
    }
    if limits.blkio_weight_device.iter().flatten().any(|device| !(10..=1000).contains(&device.weight)) {
        report.error("Range of blkio weight is from 10 to 1000");
    }
    let lacks = [
        (
            limits.blkio_weight_device.as_ref().map_or(0, Vec::len),
            facts.has_block_io_weight,
            "weight_device",
            "Weight-device",
        ),
        (
            length(&limits.blkio_device_read_bps),
            facts.has_block_io,
            "BPS Block I/O read limit",
            "Block I/O BPS read limit",
        ),
        (
            length(&limits.blkio_device_write_bps),
            facts.has_block_io,
            "BPS Block I/O write limit",
            "Block I/O BPS write limit",
        ),
        (
            length(&limits.blkio_device_read_iops),
            facts.has_block_io,
            "IOPS Block read limit",
            "Block I/O IOPS read limit",
        ),
        (
            length(&limits.blkio_device_write_iops),
            facts.has_block_io,
            "IOPS Block write limit",
            "Block I/O IOPS write limit",
        ),
    ];
    for (given, can, what, discarded) in lacks {
        if given > 0 && !can {
            let what = if what == "weight_device" { "Block I/O weight_device" } else { what };
            report.warn(format!(
                "Your kernel does not support {what} or the cgroup is not mounted. {discarded} discarded."
            ));
        }
    }
    if !facts.has_block_io_weight {
        limits.blkio_weight_device = limits.blkio_weight_device.take().map(|_| Vec::new());
    }
    if !facts.has_block_io {
        for list in [
            &mut limits.blkio_device_read_bps,
            &mut limits.blkio_device_write_bps,
            &mut limits.blkio_device_read_iops,
            &mut limits.blkio_device_write_iops,
        ] {
            *list = list.take().map(|_| Vec::new());
        }
    }
}

fn length<T>(list: &Option<Vec<T>>) -> usize {
    list.as_ref().map_or(0, Vec::len)
}

/// The checked limits in OCI's form, without block devices.
pub(crate) fn resources(limits: &HostConfig) -> Resources {
    let positive = |value: i64| (value > 0).then_some(value);
    let memory = Memory {
        limit: positive(limits.memory),
        reservation: positive(limits.memory_reservation),
        swap: match limits.memory_swap {
            -1 if limits.memory > 0 => Some(-1),
            swap => positive(swap),
        },
        swappiness: limits.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        disable_oom_killer: limits.oom_kill_disable.filter(|disable| *disable),
    };
    let mut cpu = Cpu {
        shares: positive(limits.cpu_shares).map(i64::unsigned_abs),
        quota: (limits.cpu_quota != 0).then_some(limits.cpu_quota),
        period: positive(limits.cpu_period).map(i64::unsigned_abs),
        realtime_runtime: (limits.cpu_realtime_runtime != 0).then_some(limits.cpu_realtime_runtime),
        realtime_period: positive(limits.cpu_realtime_period).map(i64::unsigned_abs),
        cpus: limits.cpuset_cpus.clone(),
        mems: limits.cpuset_mems.clone(),
    };
    if limits.nano_cpus > 0 {
        // A tenth of a second, in microseconds.
        cpu.period = Some(100_000);
        cpu.quota = Some(limits.nano_cpus / 10_000);
    }
    Resources {
        memory: (memory != Memory::default()).then_some(memory),
        cpu: (cpu != Cpu::default()).then_some(cpu),
        pids: limits.pids_limit.filter(|limit| *limit > 0).map(|limit| Pids { limit }),
        ..Resources::default()
    }
}

/// The checked limits on block devices.
pub(crate) fn block_io_plan(limits: &HostConfig) -> BlockIoPlan {
    BlockIoPlan {
        weight: limits.blkio_weight,
        weight_device: limits.blkio_weight_device.clone().unwrap_or_default(),
        read_bps: limits.blkio_device_read_bps.clone().unwrap_or_default(),
        write_bps: limits.blkio_device_write_bps.clone().unwrap_or_default(),
        read_iops: limits.blkio_device_read_iops.clone().unwrap_or_default(),
        write_iops: limits.blkio_device_write_iops.clone().unwrap_or_default(),
    }
}

/// The user's limits of the process, then the engine's for those the user left.
///
/// # Errors
/// Docker's texts, class invalid argument.
pub(crate) fn rlimits(own: &[Ulimit], facts: &HostFacts) -> Result<Vec<Rlimit>, Error> {
    let defaults =
        facts.default_ulimits.values().filter(|limit| own.iter().all(|own| own.name != limit.name));
    own.iter().chain(defaults).map(rlimit).collect()
}

fn rlimit(limit: &Ulimit) -> Result<Rlimit, Error> {
    let Ulimit { name, soft, hard } = limit;
    if !RLIMITS.contains(&name.as_str()) {
        return Err(Error::invalid(format!("invalid ulimit type: {name}")));
    }
    // -1 is no limit, in the kernel's words the largest number.
    let value = |number: i64| match number {
        -1 => Ok(u64::MAX),
        number => u64::try_from(number)
            .map_err(|_| Error::invalid(format!("invalid ulimit value for {name}: {number}"))),
    };
    let (soft_value, hard_value) = (value(*soft)?, value(*hard)?);
    if soft_value > hard_value {
        return Err(Error::invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        )));
    }
    Ok(Rlimit { kind: format!("RLIMIT_{}", name.to_uppercase()), soft: soft_value, hard: hard_value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(limits: HostConfig, facts: &HostFacts) -> (HostConfig, Report) {
        let (mut limits, mut report) = (limits, Report::default());
        check(&mut limits, facts, false, &mut report);
        (limits, report)
    }

    fn two_cpus() -> HostFacts {
        HostFacts { cpus: 2, has_cpu_realtime: true, cgroup_version: 1, ..HostFacts::default() }
    }

    #[test]
    fn refuses_with_the_texts_of_docker() {
        let base = HostConfig::default;
        for (limits, text) in [
            (HostConfig { memory: 1, ..base() }, "Minimum memory limit allowed is 6MB"),
            (HostConfig { memory: -5, ..base() }, "Minimum memory limit allowed is 6MB"),
            (
                HostConfig { memory: 10 << 20, memory_swap: 8 << 20, ..base() },
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                HostConfig { memory_swap: 8 << 20, ..base() },
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (HostConfig { memory_reservation: 1, ..base() }, "Minimum memory reservation allowed is 6MB"),
            (
                HostConfig { memory: 8 << 20, memory_reservation: 9 << 20, ..base() },
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (
                HostConfig { memory_swappiness: Some(101), ..base() },
                "Invalid value: 101, valid memory swappiness range is 0-100",
            ),
            (
                HostConfig { nano_cpus: 2_000_000_001, ..base() },
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                HostConfig { nano_cpus: 1, ..base() },
                "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
            ),
            (
                HostConfig { nano_cpus: 1_000_000_000, cpu_quota: 5000, ..base() },
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set.",
            ),
            (
                HostConfig { cpu_period: 1, ..base() },
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
            ),
            (HostConfig { cpu_quota: 1, ..base() }, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
            (HostConfig { blkio_weight: 5, ..base() }, "Range of blkio weight is from 10 to 1000"),
            (
                HostConfig { cpuset_cpus: "0-4294967295".into(), ..base() },
                "Invalid value 0-4294967295 for cpuset cpus: value of out range, maximum is 8191",
            ),
            (
                HostConfig { cpuset_cpus: "0,5".into(), ..base() },
                "Requested CPUs are not available - requested 0,5, available: 0-1",
            ),
            (
                HostConfig { cpuset_mems: "1".into(), ..base() },
                "Requested memory nodes are not available - requested 1, available: 0",
            ),
            (
                HostConfig { cpuset_cpus: "a".into(), ..base() },
                "Invalid value a for cpuset cpus: invalid format: a",
            ),
            (
                HostConfig { cpu_shares: -1, ..base() },
                "invalid CPU shares (-1): value must be a positive integer",
            ),
            (
                HostConfig { cpu_realtime_period: 5000, cpu_realtime_runtime: 10000, ..base() },
                "cpu real-time runtime cannot be higher than cpu real-time period",
            ),
        ] {
            let (_, report) = checked(limits, &two_cpus());
            assert_eq!(report.errors.first().map(ToString::to_string).as_deref(), Some(text));
        }
        let realtime = HostConfig { cpu_realtime_period: 5000, ..base() };
        let (_, report) = checked(realtime, &HostFacts::default());
        assert_eq!(report.errors[0].to_string(), "kernel does not support CPU real-time scheduler");
    }

    #[test]
    fn discards_what_the_kernel_cannot() {
        let facts = HostFacts {
            has_memory_limit: false,
            has_pids_limit: false,
            has_cpuset: false,
            has_cpu_shares: false,
            has_block_io: false,
            has_block_io_weight: false,
            ..HostFacts::default()
        };
        let limits = HostConfig {
            memory: 10 << 20,
            memory_reservation: 9 << 20,
            pids_limit: Some(5),
            cpuset_cpus: "0".into(),
            cpu_shares: 5,
            blkio_weight: 300,
            oom_kill_disable: Some(true),
            blkio_device_read_bps: Some(vec![yare_api::ThrottleDevice::default()]),
            ..HostConfig::default()
        };
        let (limits, report) = checked(limits, &facts);
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        assert_eq!(report.warnings.len(), 8, "{:#?}", report.warnings);
        assert_eq!(resources(&limits), Resources::default());
        assert_eq!(block_io_plan(&limits), BlockIoPlan::default());
        assert_eq!(
            report.warnings[6],
            "Your kernel does not support Block I/O weight or the cgroup is not mounted. Weight discarded."
        );
    }

    #[test]
    fn limits_take_the_form_of_oci() {
        let limits = HostConfig {
            memory: 64 << 20,
            memory_swap: -1,
            nano_cpus: 1_500_000_000,
            cpuset_cpus: "0".into(),
            pids_limit: Some(50),
            ..HostConfig::default()
        };
        let (limits, report) = checked(limits, &two_cpus());
        assert!(report.errors.is_empty());
        let resources = resources(&limits);
        let (memory, cpu) = (resources.memory.unwrap(), resources.cpu.unwrap());
        assert_eq!((memory.limit, memory.swap), (Some(64 << 20), Some(-1)));
        assert_eq!((cpu.quota, cpu.period, cpu.cpus.as_str()), (Some(150_000), Some(100_000), "0"));
        assert_eq!(resources.pids.unwrap().limit, 50);
    }

    #[test]
    fn ulimits() {
        let limit = |name: &str, soft, hard| Ulimit { name: name.to_owned(), soft, hard };
        let defaults =
            [("nofile".to_owned(), limit("nofile", 1, 2)), ("core".to_owned(), limit("core", 0, 0))];
        let facts = HostFacts { default_ulimits: defaults.into(), ..HostFacts::default() };
        let list = rlimits(&[limit("nofile", 1024, -1)], &facts).unwrap();
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].kind.as_str(), list[0].soft, list[0].hard), ("RLIMIT_NOFILE", 1024, u64::MAX));
        let refused = |limit| rlimits(&[limit], &HostFacts::default()).unwrap_err().to_string();
        assert_eq!(refused(limit("bogus", 1, 1)), "invalid ulimit type: bogus");
        assert_eq!(
            refused(limit("nofile", 128, 64)),
            "ulimit soft limit must be less than or equal to hard limit: 128 > 64"
        );
    }
}
