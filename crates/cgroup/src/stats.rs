//! Use of resources, read from the files of a group.

use crate::group::Group;
use crate::host::Controller;
use std::collections::BTreeMap;

/// What a group uses. What could not be read is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Memory.
    pub memory: MemoryStats,
    /// Processor time.
    pub cpu: CpuStats,
    /// Tasks.
    pub pids: PidsStats,
    /// Block devices.
    pub block_io: BlockIoStats,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Used now, with the page cache.
    pub usage: u64,
    /// Most ever used.
    pub max_usage: u64,
    /// Limit, if any.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// `memory.stat` as it is.
    pub detail: BTreeMap<String, u64>,
}

impl MemoryStats {
    /// Usage without inactive page cache, as `docker stats` shows it.
    pub fn working_set(&self) -> u64 {
        let inactive = self.detail.get("total_inactive_file").or_else(|| self.detail.get("inactive_file"));
        self.usage.saturating_sub(inactive.copied().unwrap_or(0))
    }
}

/// Processor time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Total.
    pub usage: u64,
    /// In user mode.
    pub user: u64,
    /// In the kernel.
    pub system: u64,
    /// Total by processor (v1 only).
    pub per_cpu: Vec<u64>,
    /// Enforcement periods so far.
    pub periods: u64,
    /// Periods in which the limit was hit.
    pub throttled_periods: u64,
    /// Time spent waiting for the next period.
    pub throttled_time: u64,
}

/// Tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Now.
    pub current: u64,
    /// Limit, if any.
    pub limit: Option<u64>,
}

/// Block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockIoStats {
    /// Bytes by device and operation.
    pub bytes: Vec<BlockIoEntry>,
    /// Operations by device and operation.
    pub operations: Vec<BlockIoEntry>,
}

/// One counter of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockIoEntry {
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// `read`, `write`, … in lower case.
    pub operation: String,
    /// Its value.
    pub value: u64,
}

/// Reads everything there is.
pub(crate) fn read(group: &Group) -> Stats {
    if group.is_v2() {
        Stats {
            memory: memory_v2(group),
            cpu: cpu_v2(&keyed(group, Controller::Cpu, "cpu.stat")),
            pids: pids(group),
            block_io: block_v2(&text(group, Controller::Blkio, "io.stat")),
        }
    } else {
        Stats { memory: memory_v1(group), cpu: cpu_v1(group), pids: pids(group), block_io: block_v1(group) }
    }
}

fn text(group: &Group, controller: Controller, file: &str) -> String {
    group.read(controller, file).unwrap_or_default()
}

fn number(group: &Group, controller: Controller, file: &str) -> u64 {
    text(group, controller, file).trim().parse().unwrap_or(0)
}

fn keyed(group: &Group, controller: Controller, file: &str) -> BTreeMap<String, u64> {
    parse_keyed(&text(group, controller, file))
}

/// Lines of `key number`.
pub(crate) fn parse_keyed(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_string(), value.trim().parse().ok()?))
        })
        .collect()
}

/// A limit; `max` and v1's page-rounded largest number are none.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 0x7fff_ffff_ffff_0000)
}

fn memory_v1(group: &Group) -> MemoryStats {
    use Controller::Memory as M;
    MemoryStats {
        usage: number(group, M, "memory.usage_in_bytes"),
        max_usage: number(group, M, "memory.max_usage_in_bytes"),
        limit: limit(&text(group, M, "memory.limit_in_bytes")),
        failures: number(group, M, "memory.failcnt"),
        detail: keyed(group, M, "memory.stat"),
    }
}

fn memory_v2(group: &Group) -> MemoryStats {
    use Controller::Memory as M;
    MemoryStats {
        usage: number(group, M, "memory.current"),
        max_usage: number(group, M, "memory.peak"),
        limit: limit(&text(group, M, "memory.max")),
        failures: keyed(group, M, "memory.events").get("max").copied().unwrap_or(0),
        detail: keyed(group, M, "memory.stat"),
    }
}

fn cpu_v1(group: &Group) -> CpuStats {
    use Controller::{Cpu, Cpuacct};
    let throttling = keyed(group, Cpu, "cpu.stat");
    let count = |key: &str| throttling.get(key).copied().unwrap_or(0);
    CpuStats {
        usage: number(group, Cpuacct, "cpuacct.usage"),
        user: number(group, Cpuacct, "cpuacct.usage_user"),
        system: number(group, Cpuacct, "cpuacct.usage_sys"),
        per_cpu: text(group, Cpuacct, "cpuacct.usage_percpu")
            .split_whitespace()
            .filter_map(|value| value.parse().ok())
            .collect(),
        periods: count("nr_periods"),
        throttled_periods: count("nr_throttled"),
        throttled_time: count("throttled_time"),
    }
}

fn cpu_v2(stat: &BTreeMap<String, u64>) -> CpuStats {
    let count = |key: &str| stat.get(key).copied().unwrap_or(0);
    CpuStats {
        usage: count("usage_usec") * 1000,
        user: count("user_usec") * 1000,
        system: count("system_usec") * 1000,
        per_cpu: Vec::new(),
        periods: count("nr_periods"),
        throttled_periods: count("nr_throttled"),
        throttled_time: count("throttled_usec") * 1000,
    }
}

fn pids(group: &Group) -> PidsStats {
    PidsStats {
        current: number(group, Controller::Pids, "pids.current"),
        limit: limit(&text(group, Controller::Pids, "pids.max")),
    }
}

fn block_v1(group: &Group) -> BlockIoStats {
    let read = |file: &str| parse_block_v1(&text(group, Controller::Blkio, file));
    BlockIoStats {
        bytes: read("blkio.throttle.io_service_bytes_recursive"),
        operations: read("blkio.throttle.io_serviced_recursive"),
    }
}

/// Lines of `8:0 Read 4096`.
fn parse_block_v1(text: &str) -> Vec<BlockIoEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (major, minor) = words.next()?.split_once(':')?;
            Some(BlockIoEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                operation: words.next()?.to_lowercase(),
                value: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
fn block_v2(text: &str) -> BlockIoStats {
    let mut stats = BlockIoStats::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((major, minor)) = words.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (list, operation) = match key {
                "rbytes" => (&mut stats.bytes, "read"),
                "wbytes" => (&mut stats.bytes, "write"),
                "rios" => (&mut stats.operations, "read"),
                "wios" => (&mut stats.operations, "write"),
                _ => continue,
            };
            list.push(BlockIoEntry { major, minor, operation: operation.to_string(), value });
        }
    }
    stats
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms_of_block_counters() {
        let old = parse_block_v1("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n");
        assert_eq!(old.len(), 2);
        assert_eq!((old[0].operation.as_str(), old[0].value), ("read", 4096));
        let new = block_v2("254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n");
        assert_eq!((new.bytes[1].value, new.operations[0].value), (2, 3));
    }

    #[test]
    fn no_limit_reads_as_none() {
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
        assert_eq!(limit("67108864\n"), Some(67_108_864));
    }

    #[test]
    fn the_working_set_leaves_inactive_cache_out() {
        let detail = parse_keyed("inactive_file 30\nactive_file 5\n");
        assert_eq!(MemoryStats { usage: 100, detail, ..MemoryStats::default() }.working_set(), 70);
    }
}
