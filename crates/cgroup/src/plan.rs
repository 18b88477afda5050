//! Limits to file contents: pure.

use crate::error::{CgroupError, Result};
use crate::host::Controller;
use yare_oci::runtime::{BlockIo, Cpu, Memory, Resources, ThrottleDevice};

/// One value for one file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The controller that has the file; `None` for a raw v2 file.
    pub controller: Option<Controller>,
    /// Name of the file.
    pub file: String,
    /// What to write.
    pub value: String,
}

/// Highest processor or node number taken seriously: the kernel's largest build has 8192.
const MAX_CPU: u32 = 8191;

struct Plan(Vec<Write>);

impl Plan {
    fn add(&mut self, controller: Controller, file: &str, value: impl ToString) {
        self.0.push(Write { controller: Some(controller), file: file.to_string(), value: value.to_string() });
    }
}

/// The writes for cgroup v1, in the order in which they work on a new group. Devices are not among them.
pub fn plan_v1(resources: &Resources) -> Result<Vec<Write>> {
    validate(resources)?;
    let mut plan = Plan(Vec::new());
    if let Some(memory) = &resources.memory {
        memory_v1(&mut plan, memory);
    }
    if let Some(cpu) = &resources.cpu {
        cpu_v1(&mut plan, cpu);
    }
    pids(&mut plan, resources);
    if let Some(block) = &resources.block_io {
        block_v1(&mut plan, block);
    }
    Ok(plan.0)
}

/// The writes for cgroup v2, in the order in which they work on a new group. Devices are not among them.
pub fn plan_v2(resources: &Resources) -> Result<Vec<Write>> {
    validate(resources)?;
    let mut plan = Plan(Vec::new());
    if let Some(memory) = &resources.memory {
        memory_v2(&mut plan, memory)?;
    }
    if let Some(cpu) = &resources.cpu {
        cpu_v2(&mut plan, cpu);
    }
    pids(&mut plan, resources);
    if let Some(block) = &resources.block_io {
        block_v2(&mut plan, block);
    }
    for (file, value) in &resources.unified {
        if file.is_empty() || file.contains('/') || file.starts_with("cgroup.") {
            return Err(CgroupError::invalid("unified", format!("{file:?} is not the name of a limit")));
        }
        plan.0.push(Write { controller: None, file: file.clone(), value: value.clone() });
    }
    Ok(plan.0)
}

fn validate(resources: &Resources) -> Result<()> {
    if let Some(cpu) = &resources.cpu {
        check_list("cpu.cpus", &cpu.cpus)?;
        check_list("cpu.mems", &cpu.mems)?;
    }
    if let Some(memory) = &resources.memory {
        if let (Some(limit), Some(swap)) = (memory.limit, memory.swap)
            && swap > 0
            && limit > 0
            && swap < limit
        {
            return Err(CgroupError::invalid("memory.swap", "memory plus swap is less than memory"));
        }
        if memory.swappiness.is_some_and(|swappiness| swappiness > 100) {
            return Err(CgroupError::invalid("memory.swappiness", "it is a number from 0 to 100"));
        }
    }
    if let Some(weight) = resources.block_io.as_ref().and_then(|block| block.weight)
        && weight != 0
        && !(10..=1000).contains(&weight)
    {
        return Err(CgroupError::invalid("blockIO.weight", "it is a number from 10 to 1000"));
    }
    Ok(())
}

/// Refuses what is not a list of ranges of small numbers, without expanding it.
fn check_list(name: &str, list: &str) -> Result<()> {
    if list.is_empty() {
        return Ok(());
    }
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number <= MAX_CPU);
    for range in list.trim().split(',') {
        let good = match range.split_once('-') {
            Some((from, to)) => matches!((number(from), number(to)), (Some(from), Some(to)) if from <= to),
            None => number(range).is_some(),
        };
        if !good {
            return Err(CgroupError::invalid(name, format!("{range:?} is not a range of processors")));
        }
    }
    Ok(())
}

fn memory_v1(plan: &mut Plan, memory: &Memory) {
    use Controller::Memory as M;
    if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
        plan.add(M, "memory.limit_in_bytes", limit);
    }
    if let Some(swap) = memory.swap.filter(|swap| *swap != 0) {
        plan.add(M, "memory.memsw.limit_in_bytes", swap);
    }
    if let Some(reservation) = memory.reservation.filter(|reservation| *reservation != 0) {
        plan.add(M, "memory.soft_limit_in_bytes", reservation);
    }
    if let Some(swappiness) = memory.swappiness {
        plan.add(M, "memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer == Some(true) {
        plan.add(M, "memory.oom_control", 1);
    }
}

fn memory_v2(plan: &mut Plan, memory: &Memory) -> Result<()> {
    use Controller::Memory as M;
    let max = |value: i64| if value < 0 { "max".to_string() } else { value.to_string() };
    // A limit lower than the use is reached by reclaim, so swap is set first.
    match (memory.swap.filter(|swap| *swap != 0), memory.limit.filter(|limit| *limit != 0)) {
        (Some(swap), Some(limit)) if swap > 0 && limit > 0 => {
            plan.add(M, "memory.swap.max", swap - limit);
        }
        (Some(swap), _) if swap < 0 => plan.add(M, "memory.swap.max", "max"),
        (Some(_), _) => {
            return Err(CgroupError::invalid("memory.swap", "it needs a memory limit beside it"));
        }
        (None, _) => {}
    }
    if let Some(limit) = memory.limit.filter(|limit| *limit != 0) {
        plan.add(M, "memory.max", max(limit));
    }
    if let Some(reservation) = memory.reservation.filter(|reservation| *reservation != 0) {
        plan.add(M, "memory.low", max(reservation));
    }
    Ok(())
}

fn cpu_v1(plan: &mut Plan, cpu: &Cpu) {
    use Controller::{Cpu as C, Cpuset};
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        plan.add(C, "cpu.shares", shares);
    }
    if let Some(period) = cpu.period.filter(|period| *period != 0) {
        plan.add(C, "cpu.cfs_period_us", period);
    }
    if let Some(quota) = cpu.quota.filter(|quota| *quota != 0) {
        plan.add(C, "cpu.cfs_quota_us", quota);
    }
    if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
        plan.add(C, "cpu.rt_period_us", period);
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime != 0) {
        plan.add(C, "cpu.rt_runtime_us", runtime);
    }
    cpuset(plan, Cpuset, cpu);
}

fn cpu_v2(plan: &mut Plan, cpu: &Cpu) {
    use Controller::{Cpu as C, Cpuset};
    if let Some(shares) = cpu.shares.filter(|shares| *shares != 0) {
        plan.add(C, "cpu.weight", weight_of_shares(shares));
    }
    let quota = cpu.quota.filter(|quota| *quota != 0);
    let period = cpu.period.filter(|period| *period != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|quota| *quota > 0).map_or("max".to_string(), |quota| quota.to_string());
        plan.add(C, "cpu.max", format!("{quota} {}", period.unwrap_or(100_000)));
    }
    cpuset(plan, Cpuset, cpu);
}

fn cpuset(plan: &mut Plan, controller: Controller, cpu: &Cpu) {
    if !cpu.cpus.is_empty() {
        plan.add(controller, "cpuset.cpus", &cpu.cpus);
    }
    if !cpu.mems.is_empty() {
        plan.add(controller, "cpuset.mems", &cpu.mems);
    }
}

/// Shares (2 to 262144, normal 1024) to a weight (1 to 10000, normal 100).
///
/// The curve of runc 1.4 and crun 1.23, on which both normals meet; the older straight line made 1024 39.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

fn pids(plan: &mut Plan, resources: &Resources) {
    match resources.pids.as_ref().map(|pids| pids.limit) {
        None | Some(0) => {}
        Some(limit) if limit < 0 => plan.add(Controller::Pids, "pids.max", "max"),
        Some(limit) => plan.add(Controller::Pids, "pids.max", limit),
    }
}

fn block_v1(plan: &mut Plan, block: &BlockIo) {
    use Controller::Blkio as B;
    if let Some(weight) = block.weight.filter(|weight| *weight != 0) {
        plan.add(B, "blkio.weight", weight);
    }
    for device in &block.weight_device {
        if let Some(weight) = device.weight {
            plan.add(B, "blkio.weight_device", format!("{}:{} {weight}", device.major, device.minor));
        }
    }
    let throttles: [(&str, &[ThrottleDevice]); 4] = [
        ("blkio.throttle.read_bps_device", &block.throttle_read_bps_device),
        ("blkio.throttle.write_bps_device", &block.throttle_write_bps_device),
        ("blkio.throttle.read_iops_device", &block.throttle_read_iops_device),
        ("blkio.throttle.write_iops_device", &block.throttle_write_iops_device),
    ];
    for (file, devices) in throttles {
        for device in devices {
            plan.add(B, file, format!("{}:{} {}", device.major, device.minor, device.rate));
        }
    }
}

fn block_v2(plan: &mut Plan, block: &BlockIo) {
    use Controller::Blkio as B;
    let weight_of = |weight: u16| 1 + (u64::from(weight.max(10)) - 10) * 9999 / 990;
    if let Some(weight) = block.weight.filter(|weight| *weight != 0) {
        plan.add(B, "io.weight", weight_of(weight));
    }
    for device in &block.weight_device {
        if let Some(weight) = device.weight {
            let value = format!("{}:{} {}", device.major, device.minor, weight_of(weight));
            plan.add(B, "io.weight", value);
        }
    }
    let throttles: [(&str, &[ThrottleDevice]); 4] = [
        ("rbps", &block.throttle_read_bps_device),
        ("wbps", &block.throttle_write_bps_device),
        ("riops", &block.throttle_read_iops_device),
        ("wiops", &block.throttle_write_iops_device),
    ];
    for (key, devices) in throttles {
        for device in devices {
            plan.add(B, "io.max", format!("{}:{} {key}={}", device.major, device.minor, device.rate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_oci::runtime::Pids;

    fn lines(writes: Vec<Write>) -> Vec<String> {
        writes.into_iter().map(|write| format!("{}={}", write.file, write.value)).collect()
    }

    fn sample() -> Resources {
        Resources {
            memory: Some(Memory {
                limit: Some(64 << 20),
                swap: Some(128 << 20),
                reservation: Some(32 << 20),
                ..Memory::default()
            }),
            cpu: Some(Cpu {
                shares: Some(1024),
                quota: Some(50_000),
                period: Some(100_000),
                cpus: "0-1".into(),
                ..Cpu::default()
            }),
            pids: Some(Pids { limit: 20 }),
            ..Resources::default()
        }
    }

    #[test]
    fn limits_become_v1_files() {
        let expected = [
            "memory.limit_in_bytes=67108864",
            "memory.memsw.limit_in_bytes=134217728",
            "memory.soft_limit_in_bytes=33554432",
            "cpu.shares=1024",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "cpuset.cpus=0-1",
            "pids.max=20",
        ];
        assert_eq!(lines(plan_v1(&sample()).unwrap()), expected);
    }

    #[test]
    fn limits_become_v2_files() {
        let expected = [
            "memory.swap.max=67108864",
            "memory.max=67108864",
            "memory.low=33554432",
            "cpu.weight=100",
            "cpu.max=50000 100000",
            "cpuset.cpus=0-1",
            "pids.max=20",
        ];
        assert_eq!(lines(plan_v2(&sample()).unwrap()), expected);
    }

    #[test]
    fn weights_meet_the_ends_and_the_middle() {
        assert_eq!([2, 1024, 262_144].map(weight_of_shares), [1, 100, 10_000]);
    }

    #[test]
    fn huge_processor_lists_are_refused_at_once() {
        for list in ["0-4294967295", "0-99999999999", "1,,2", "x", "3-1", "-1"] {
            let cpu = Cpu { cpus: list.into(), ..Cpu::default() };
            let resources = Resources { cpu: Some(cpu), ..Resources::default() };
            assert!(plan_v1(&resources).is_err(), "{list}");
        }
    }

    #[test]
    fn swap_below_memory_is_refused() {
        let memory = Memory { limit: Some(100 << 20), swap: Some(50 << 20), ..Memory::default() };
        let resources = Resources { memory: Some(memory), ..Resources::default() };
        assert!(plan_v1(&resources).is_err() && plan_v2(&resources).is_err());
    }

    #[test]
    fn raw_files_cannot_leave_the_group() {
        for file in ["../memory.max", "cgroup.procs", ""] {
            let mut resources = Resources::default();
            resources.unified.insert(file.into(), "1".into());
            assert!(plan_v2(&resources).is_err(), "{file}");
        }
    }
}
