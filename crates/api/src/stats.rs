//! Resource use of a container.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::null::{empty, no_members, wire};
use std::collections::BTreeMap;

wire! {
    "snake_case";

    /// One object of `GET /containers/{id}/stats`.
    ContainerStatsResponse {
        #[serde(skip_serializing_if = "empty")]
        name: String,
        #[serde(skip_serializing_if = "empty")]
        id: String,
        read: String,
        preread: String,
        pids_stats: ContainerPidsStats,
        blkio_stats: ContainerBlkioStats,
        num_procs: u32,
        storage_stats: ContainerStorageStats,
        cpu_stats: ContainerCPUStats,
        precpu_stats: ContainerCPUStats,
        memory_stats: ContainerMemoryStats,
        #[serde(skip_serializing_if = "no_members")]
        networks: Option<BTreeMap<String, ContainerNetworkStats>>,
    }
    ContainerPidsStats {
        #[serde(skip_serializing_if = "empty")]
        current: u64,
        #[serde(skip_serializing_if = "empty")]
        limit: u64,
    }
    ContainerBlkioStats {
        io_service_bytes_recursive: Option<Vec<ContainerBlkioStatEntry>>,
        io_serviced_recursive: Option<Vec<ContainerBlkioStatEntry>>,
        io_queue_recursive: Option<Vec<ContainerBlkioStatEntry>>,
        io_service_time_recursive: Option<Vec<ContainerBlkioStatEntry>>,
        io_wait_time_recursive: Option<Vec<ContainerBlkioStatEntry>>,
        io_merged_recursive: Option<Vec<ContainerBlkioStatEntry>>,
        io_time_recursive: Option<Vec<ContainerBlkioStatEntry>>,
        sectors_recursive: Option<Vec<ContainerBlkioStatEntry>>,
    }
    ContainerBlkioStatEntry {
        major: u64,
        minor: u64,
        op: String,
        value: u64,
    }
    /// Windows only, empty here.
    ContainerStorageStats {
        #[serde(skip_serializing_if = "empty")]
        read_count_normalized: u64,
        #[serde(skip_serializing_if = "empty")]
        read_size_bytes: u64,
        #[serde(skip_serializing_if = "empty")]
        write_count_normalized: u64,
        #[serde(skip_serializing_if = "empty")]
        write_size_bytes: u64,
    }
    ContainerCPUStats {
        cpu_usage: ContainerCPUUsage,
        #[serde(skip_serializing_if = "empty")]
        system_cpu_usage: u64,
        #[serde(skip_serializing_if = "empty")]
        online_cpus: u32,
        throttling_data: ContainerThrottlingData,
    }
    /// Nanoseconds.
    ContainerCPUUsage {
        total_usage: u64,
        #[serde(skip_serializing_if = "no_members")]
        percpu_usage: Option<Vec<u64>>,
        usage_in_kernelmode: u64,
        usage_in_usermode: u64,
    }
    ContainerThrottlingData {
        periods: u64,
        throttled_periods: u64,
        throttled_time: u64,
    }
    /// Bytes.
    ContainerMemoryStats {
        #[serde(skip_serializing_if = "empty")]
        usage: u64,
        #[serde(skip_serializing_if = "empty")]
        max_usage: u64,
        #[serde(skip_serializing_if = "no_members")]
        stats: Option<BTreeMap<String, u64>>,
        #[serde(skip_serializing_if = "empty")]
        failcnt: u64,
        #[serde(skip_serializing_if = "empty")]
        limit: u64,
    }
    ContainerNetworkStats {
        rx_bytes: u64,
        rx_packets: u64,
        rx_errors: u64,
        rx_dropped: u64,
        tx_bytes: u64,
        tx_packets: u64,
        tx_errors: u64,
        tx_dropped: u64,
    }
}
