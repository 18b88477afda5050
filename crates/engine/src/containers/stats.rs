//! What a container uses, once or every second. Nothing is measured while nobody asks.

use crate::Engine;
use crate::clock::rfc3339;
use crate::container::{Container, Record};
use crate::images::blocking;
use futures_util::Stream;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};
use yare_api::stats::{
    ContainerBlkioStatEntry, ContainerBlkioStats, ContainerCPUStats, ContainerCPUUsage, ContainerMemoryStats,
    ContainerNetworkStats, ContainerPidsStats, ContainerStatsResponse, ContainerThrottlingData,
};
use yare_cgroup::{BlockIoEntry, BlockIoStats, Mode, Stats};
use yare_errdefs::Result;

/// How to measure.
#[derive(Debug, Clone, Copy, Default)]
pub struct StatsOptions {
    /// Go on, a sample a second, until the container is removed.
    pub stream: bool,
    /// One sample at once, with nothing to compare it with.
    pub one_shot: bool,
}

/// Time between two samples.
const PERIOD: Duration = Duration::from_secs(1);

/// Samples of a container's use. Without `stream` there is one; it comes after a second, so that it has one
/// before it, unless only one is asked for.
pub fn stats(
    engine: &Arc<Engine>,
    id: &str,
    options: StatsOptions,
) -> Result<impl Stream<Item = Result<ContainerStatsResponse>> + Send + 'static + use<>> {
    let container = engine.containers.find(id)?;
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sampler =
        Sampler { engine: Arc::clone(engine), container, ticks, options, before: None, done: false };
    Ok(futures_util::stream::unfold(sampler, |mut sampler| async {
        sampler.next().await.map(|sample| (sample, sampler))
    }))
}

struct Sampler {
    engine: Arc<Engine>,
    container: Arc<Container>,
    ticks: Interval,
    options: StatsOptions,
    /// Processor time of the sample before, and when it was taken.
    before: Option<(ContainerCPUStats, String)>,
    done: bool,
}

impl Sampler {
    async fn next(&mut self) -> Option<Result<ContainerStatsResponse>> {
        if self.done || self.container.progress.borrow().removed {
            return None;
        }
        self.ticks.tick().await;
        let mut sample = self.sample().await;
        let is_one = !self.options.stream;
        if is_one && !self.options.one_shot && self.container.state().has_process() {
            self.ticks.tick().await;
            sample = self.sample().await;
        }
        self.done = is_one || sample.is_err();
        Some(sample)
    }

    async fn sample(&mut self) -> Result<ContainerStatsResponse> {
        let (engine, container) = (Arc::clone(&self.engine), Arc::clone(&self.container));
        let mut sample = blocking(move || Ok(sample(&engine, &container))).await?;
        if let Some((cpu, read)) = self.before.take() {
            sample.precpu_stats = cpu;
            sample.preread = read;
        }
        self.before = Some((sample.cpu_stats.clone(), sample.read.clone()));
        Ok(sample)
    }
}

/// One sample; of a container that does not run it has only its name.
fn sample(engine: &Engine, container: &Container) -> ContainerStatsResponse {
    let record = container.record();
    let empty = ContainerStatsResponse {
        name: format!("/{}", record.name),
        id: record.id.clone(),
        read: rfc3339(None),
        preread: rfc3339(None),
        ..ContainerStatsResponse::default()
    };
    // Its group goes with its process, before its end is on record.
    let group =
        record.state.status.has_process().then(|| super::stop::group(engine, container).ok()).flatten();
    let Some(group) = group else { return empty };
    let stats = group.stats();
    let host = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_v2 = engine.cgroups.mode() == Mode::V2;
    ContainerStatsResponse {
        read: rfc3339(Some(engine.clock.now())),
        pids_stats: ContainerPidsStats {
            current: stats.pids.current,
            limit: stats.pids.limit.unwrap_or(if is_v2 { u64::MAX } else { 0 }),
        },
        blkio_stats: block_io(&stats.block_io, is_v2),
        cpu_stats: cpu(&stats, &host),
        memory_stats: memory(stats, engine.facts.total_memory),
        networks: networks(&record),
        ..empty
    }
}

fn cpu(stats: &Stats, host: &str) -> ContainerCPUStats {
    let cpu = &stats.cpu;
    ContainerCPUStats {
        cpu_usage: ContainerCPUUsage {
            total_usage: cpu.usage,
            percpu_usage: (!cpu.per_cpu.is_empty()).then(|| cpu.per_cpu.clone()),
            usage_in_kernelmode: cpu.system,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: host_time(host),
        online_cpus: host_cpus(host),
        throttling_data: ContainerThrottlingData {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled_time,
        },
    }
}

/// Nanoseconds that all processors of the host have counted, from `/proc/stat` (in hundredths of a second):
/// user, nice, system, idle, waiting, interrupts of both kinds.
fn host_time(stat: &str) -> u64 {
    const COUNTERS: usize = 7;
    const NANOSECONDS: u64 = 10_000_000;
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let counters = line.split_whitespace().take(COUNTERS).filter_map(|count| count.parse::<u64>().ok());
    counters.sum::<u64>().saturating_mul(NANOSECONDS)
}

fn host_cpus(stat: &str) -> u32 {
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    };
    u32::try_from(stat.lines().filter(is_cpu).count()).unwrap_or_default()
}

fn memory(stats: Stats, total: u64) -> ContainerMemoryStats {
    let memory = stats.memory;
    ContainerMemoryStats {
        usage: memory.usage,
        max_usage: memory.max_usage,
        failcnt: memory.failures,
        limit: memory.limit.map_or(total, |limit| limit.min(total)),
        stats: (!memory.detail.is_empty()).then_some(memory.detail),
    }
}

/// In v1 every list is there; in v2 only the bytes are counted, and only where there are any.
fn block_io(stats: &BlockIoStats, is_v2: bool) -> ContainerBlkioStats {
    let entries = |entries: &[BlockIoEntry]| -> Vec<ContainerBlkioStatEntry> {
        let entry = |entry: &BlockIoEntry| ContainerBlkioStatEntry {
            major: entry.major,
            minor: entry.minor,
            op: entry.operation.clone(),
            value: entry.value,
        };
        entries.iter().map(entry).collect()
    };
    if is_v2 {
        return ContainerBlkioStats {
            io_service_bytes_recursive: (!stats.bytes.is_empty()).then(|| entries(&stats.bytes)),
            ..ContainerBlkioStats::default()
        };
    }
    let none = || Some(Vec::new());
    ContainerBlkioStats {
        io_service_bytes_recursive: Some(entries(&stats.bytes)),
        io_serviced_recursive: Some(entries(&stats.operations)),
        io_queue_recursive: none(),
        io_service_time_recursive: none(),
        io_wait_time_recursive: none(),
        io_merged_recursive: none(),
        io_time_recursive: none(),
        sectors_recursive: none(),
    }
}

/// Counters of its interfaces, those of the container whose network it shares too. The host's are not its own.
fn networks(record: &Record) -> Option<BTreeMap<String, ContainerNetworkStats>> {
    let shares = record.host_config.network_mode.starts_with("container:");
    if record.endpoints.is_empty() && !shares {
        return None;
    }
    let table = std::fs::read_to_string(format!("/proc/{}/net/dev", record.state.pid)).ok()?;
    let is_own = |name: &str| match shares {
        true => name != "lo",
        false => record.endpoints.iter().any(|endpoint| endpoint.interface == name),
    };
    let mut counters = interfaces(&table);
    counters.retain(|name, _| is_own(name));
    Some(counters)
}

/// Reads `/proc/net/dev`: after the name eight counters of what came in, then eight of what went out.
fn interfaces(table: &str) -> BTreeMap<String, ContainerNetworkStats> {
    let counters = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        let [rx_bytes, rx_packets, rx_errors, rx_dropped, .., _, _, _, _] = numbers.get(..8)? else {
            return None;
        };
        let [tx_bytes, tx_packets, tx_errors, tx_dropped] = numbers.get(8..12)? else { return None };
        Some((
            name.trim().to_owned(),
            ContainerNetworkStats {
                rx_bytes: *rx_bytes,
                rx_packets: *rx_packets,
                rx_errors: *rx_errors,
                rx_dropped: *rx_dropped,
                tx_bytes: *tx_bytes,
                tx_packets: *tx_packets,
                tx_errors: *tx_errors,
                tx_dropped: *tx_dropped,
            },
        ))
    };
    table.lines().filter_map(counters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_s_time_is_what_docker_counts() {
        let stat = "cpu  1 2 3 4 5 6 7 100 100 100\ncpu0 1 2 3 4 5 6 7\ncpu1 0 0\nintr 5\n";
        assert_eq!((host_time(stat), host_cpus(stat)), (280_000_000, 2));
        assert_eq!((host_time(""), host_cpus("")), (0, 0));
    }

    #[test]
    fn interfaces_are_read_with_and_without_a_space() {
        let table = "Inter-|   Receive        |  Transmit\n face |bytes    packets\n\
                     \u{20}   lo:       0       0    0    0    0     0          0         0        0       0\n\
                     \u{20} eth0:1112      12    1    2    0     0          0         0      126       3    4    5    0     0       0          0\n";
        let read = interfaces(table);
        assert_eq!(read.len(), 1, "a line that is too short is none: {read:?}");
        let eth0 = &read["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_packets, eth0.rx_errors, eth0.rx_dropped), (1112, 12, 1, 2));
        assert_eq!((eth0.tx_bytes, eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped), (126, 3, 4, 5));
    }

    #[test]
    fn block_counters_have_the_form_of_their_version() {
        let none = BlockIoStats::default();
        let (v1, v2) = (block_io(&none, false), block_io(&none, true));
        assert_eq!(
            (v1.io_service_bytes_recursive, v1.sectors_recursive),
            (Some(Vec::new()), Some(Vec::new()))
        );
        assert_eq!((v2.io_service_bytes_recursive, v2.sectors_recursive), (None, None));
    }
}
