//! Containers: create, list, inspect, update, wait, top, changes, stats.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::null::{empty, no_members, wire};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::mount::{
    BindOptions, ClusterOptions, Driver, IdMapping, ImageOptions, Mount, MountPoint, TmpfsOptions,
    VolumeOptions,
};
pub use crate::network::{EndpointIPAMConfig, EndpointSettings, NetworkingConfig};
pub use crate::stats::*;
pub use yare_oci::Healthcheck as HealthConfig;
pub use yare_oci::image::Empty;

/// `port/protocol` to where it is published; a value is `null` for a port that is only exposed.
pub type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// What `POST /containers/create` takes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerCreateRequest {
    #[serde(flatten)]
    pub config: ContainerConfig,
    #[serde(rename = "HostConfig", default, skip_serializing_if = "Option::is_none")]
    pub host_config: Option<HostConfig>,
    #[serde(rename = "NetworkingConfig", default, skip_serializing_if = "Option::is_none")]
    pub networking_config: Option<NetworkingConfig>,
}

wire! {
    "PascalCase";

    /// What does not depend on the host.
    ContainerConfig {
        hostname: String,
        domainname: String,
        user: String,
        attach_stdin: bool,
        attach_stdout: bool,
        attach_stderr: bool,
        #[serde(skip_serializing_if = "no_members")]
        exposed_ports: Option<BTreeMap<String, Empty>>,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        env: Option<Vec<String>>,
        @() cmd: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        healthcheck: Option<HealthConfig>,
        #[serde(skip_serializing_if = "empty")]
        args_escaped: bool,
        image: String,
        volumes: Option<BTreeMap<String, Empty>>,
        working_dir: String,
        @() entrypoint: Option<Vec<String>>,
        #[serde(skip_serializing_if = "empty")]
        network_disabled: bool,
        #[serde(skip_serializing_if = "empty")]
        mac_address: String,
        on_build: Option<Vec<String>>,
        labels: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "empty")]
        stop_signal: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_timeout: Option<i64>,
        #[serde(skip_serializing_if = "no_members")]
        @() shell: Option<Vec<String>>,
    }

    /// What depends on the host. Both a request and, filled in, part of an inspect reply.
    HostConfig {
        binds: Option<Vec<String>>,
        #[serde(rename = "ContainerIDFile")]
        container_id_file: String,
        log_config: LogConfig,
        network_mode: String,
        port_bindings: Option<PortMap>,
        restart_policy: RestartPolicy,
        auto_remove: bool,
        volume_driver: String,
        volumes_from: Option<Vec<String>>,
        console_size: [u32; 2],
        #[serde(skip_serializing_if = "no_members")]
        annotations: Option<BTreeMap<String, String>>,
        @() cap_add: Option<Vec<String>>,
        @() cap_drop: Option<Vec<String>>,
        cgroupns_mode: String,
        dns: Option<Vec<String>>,
        dns_options: Option<Vec<String>>,
        dns_search: Option<Vec<String>>,
        extra_hosts: Option<Vec<String>>,
        group_add: Option<Vec<String>>,
        ipc_mode: String,
        cgroup: String,
        links: Option<Vec<String>>,
        oom_score_adj: i64,
        pid_mode: String,
        privileged: bool,
        publish_all_ports: bool,
        readonly_rootfs: bool,
        security_opt: Option<Vec<String>>,
        #[serde(skip_serializing_if = "no_members")]
        storage_opt: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "no_members")]
        tmpfs: Option<BTreeMap<String, String>>,
        #[serde(rename = "UTSMode")]
        uts_mode: String,
        userns_mode: String,
        shm_size: i64,
        #[serde(skip_serializing_if = "no_members")]
        sysctls: Option<BTreeMap<String, String>>,
        #[serde(skip_serializing_if = "empty")]
        runtime: String,
        isolation: String,
        cpu_shares: i64,
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Option<Vec<WeightDevice>>,
        blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Option<Vec<DeviceMapping>>,
        device_cgroup_rules: Option<Vec<String>>,
        device_requests: Option<Vec<DeviceRequest>>,
        #[serde(skip_serializing_if = "empty")]
        kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "empty")]
        kernel_memory_tcp: i64,
        memory_reservation: i64,
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        ulimits: Option<Vec<Ulimit>>,
        cpu_count: i64,
        cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        io_maximum_bandwidth: u64,
        #[serde(skip_serializing_if = "no_members")]
        mounts: Option<Vec<Mount>>,
        masked_paths: Option<Vec<String>>,
        readonly_paths: Option<Vec<String>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        init: Option<bool>,
    }

    /// What `POST /containers/{id}/update` takes. A zero value leaves the setting as it is.
    ContainerUpdateRequest {
        cpu_shares: i64,
        memory: i64,
        nano_cpus: i64,
        cgroup_parent: String,
        blkio_weight: u16,
        blkio_weight_device: Option<Vec<WeightDevice>>,
        blkio_device_read_bps: Option<Vec<ThrottleDevice>>,
        blkio_device_write_bps: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceReadIOps")]
        blkio_device_read_iops: Option<Vec<ThrottleDevice>>,
        #[serde(rename = "BlkioDeviceWriteIOps")]
        blkio_device_write_iops: Option<Vec<ThrottleDevice>>,
        cpu_period: i64,
        cpu_quota: i64,
        cpu_realtime_period: i64,
        cpu_realtime_runtime: i64,
        cpuset_cpus: String,
        cpuset_mems: String,
        devices: Option<Vec<DeviceMapping>>,
        device_cgroup_rules: Option<Vec<String>>,
        device_requests: Option<Vec<DeviceRequest>>,
        #[serde(skip_serializing_if = "empty")]
        kernel_memory: i64,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "empty")]
        kernel_memory_tcp: i64,
        memory_reservation: i64,
        memory_swap: i64,
        memory_swappiness: Option<i64>,
        oom_kill_disable: Option<bool>,
        pids_limit: Option<i64>,
        ulimits: Option<Vec<Ulimit>>,
        cpu_count: i64,
        cpu_percent: i64,
        #[serde(rename = "IOMaximumIOps")]
        io_maximum_iops: u64,
        #[serde(rename = "IOMaximumBandwidth")]
        io_maximum_bandwidth: u64,
        restart_policy: RestartPolicy,
    }

    LogConfig {
        r#type: String,
        config: Option<BTreeMap<String, String>>,
    }

    RestartPolicy {
        name: String,
        maximum_retry_count: i64,
    }

    PortBinding {
        host_ip: String,
        host_port: String,
    }

    WeightDevice {
        path: String,
        weight: u16,
    }

    ThrottleDevice {
        path: String,
        rate: u64,
    }

    DeviceMapping {
        path_on_host: String,
        path_in_container: String,
        cgroup_permissions: String,
    }

    DeviceRequest {
        driver: String,
        count: i64,
        #[serde(rename = "DeviceIDs")]
        device_ids: Option<Vec<String>>,
        capabilities: Option<Vec<Vec<String>>>,
        options: Option<BTreeMap<String, String>>,
    }

    Ulimit {
        name: String,
        hard: i64,
        soft: i64,
    }

    ContainerCreateResponse {
        id: String,
        warnings: Vec<String>,
    }

    ContainerUpdateResponse {
        warnings: Option<Vec<String>>,
    }

    /// What `GET /containers/{id}/json` replies.
    ContainerInspectResponse {
        id: String,
        created: String,
        path: String,
        args: Vec<String>,
        state: ContainerState,
        image: String,
        resolv_conf_path: String,
        hostname_path: String,
        hosts_path: String,
        log_path: String,
        name: String,
        restart_count: i64,
        driver: String,
        platform: String,
        mount_label: String,
        process_label: String,
        app_armor_profile: String,
        #[serde(rename = "ExecIDs")]
        exec_ids: Option<Vec<String>>,
        host_config: HostConfig,
        graph_driver: GraphDriver,
        #[serde(skip_serializing_if = "Option::is_none")]
        size_rw: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        size_root_fs: Option<i64>,
        mounts: Vec<MountPoint>,
        config: ContainerConfig,
        network_settings: NetworkSettings,
        #[serde(skip_serializing_if = "Option::is_none")]
        image_manifest_descriptor: Option<yare_oci::Descriptor>,
    }

    ContainerState {
        status: String,
        running: bool,
        paused: bool,
        restarting: bool,
        #[serde(rename = "OOMKilled")]
        oom_killed: bool,
        dead: bool,
        pid: i64,
        exit_code: i64,
        error: String,
        started_at: String,
        finished_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        health: Option<Health>,
    }

    Health {
        status: String,
        failing_streak: i64,
        log: Option<Vec<HealthcheckResult>>,
    }

    HealthcheckResult {
        start: String,
        end: String,
        exit_code: i64,
        output: String,
    }

    /// Which storage driver holds the object, and where (`DriverData` of the specification).
    GraphDriver {
        data: Option<BTreeMap<String, String>>,
        name: String,
    }

    NetworkSettings {
        bridge: String,
        #[serde(rename = "SandboxID")]
        sandbox_id: String,
        sandbox_key: String,
        ports: PortMap,
        hairpin_mode: bool,
        #[serde(rename = "LinkLocalIPv6Address")]
        link_local_ipv6_address: String,
        #[serde(rename = "LinkLocalIPv6PrefixLen")]
        link_local_ipv6_prefix_len: i64,
        #[serde(rename = "SecondaryIPAddresses")]
        secondary_ip_addresses: Option<Vec<Address>>,
        #[serde(rename = "SecondaryIPv6Addresses")]
        secondary_ipv6_addresses: Option<Vec<Address>>,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: i64,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        mac_address: String,
        networks: BTreeMap<String, EndpointSettings>,
    }

    Address {
        addr: String,
        prefix_len: i64,
    }

    /// One row of `GET /containers/json`.
    ContainerSummary {
        id: String,
        names: Vec<String>,
        image: String,
        #[serde(rename = "ImageID")]
        image_id: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        image_manifest_descriptor: Option<yare_oci::Descriptor>,
        command: String,
        created: i64,
        ports: Vec<Port>,
        #[serde(skip_serializing_if = "empty")]
        size_rw: i64,
        #[serde(skip_serializing_if = "empty")]
        size_root_fs: i64,
        labels: BTreeMap<String, String>,
        state: String,
        status: String,
        host_config: ContainerSummaryHostConfig,
        network_settings: ContainerSummaryNetworkSettings,
        mounts: Vec<MountPoint>,
    }

    ContainerSummaryHostConfig {
        #[serde(skip_serializing_if = "empty")]
        network_mode: String,
        #[serde(skip_serializing_if = "no_members")]
        annotations: Option<BTreeMap<String, String>>,
    }

    ContainerSummaryNetworkSettings {
        /// Boxed: a map keeps room for eleven members, which in a list of thousands adds up.
        networks: BTreeMap<String, Box<EndpointSettings>>,
    }

    Port {
        #[serde(rename = "IP", skip_serializing_if = "empty")]
        ip: String,
        private_port: u16,
        #[serde(skip_serializing_if = "empty")]
        public_port: u16,
        r#type: String,
    }

    ContainerWaitResponse {
        status_code: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<ContainerWaitExitError>,
    }

    ContainerWaitExitError {
        message: String,
    }

    ContainerTopResponse {
        processes: Vec<Vec<String>>,
        titles: Vec<String>,
    }

    /// One path a container changed: 0 modified, 1 added, 2 deleted.
    FilesystemChange {
        path: String,
        kind: u8,
    }

    ContainerPruneResponse {
        containers_deleted: Option<Vec<String>>,
        space_reclaimed: i64,
        /// Yare's own: what went, or by `dry-run` would go, and why.
        #[serde(skip_serializing_if = "no_members")]
        explained: Option<Vec<crate::image::Pruned>>,
    }

    /// What commit and image import reply.
    IDResponse {
        id: String,
    }
}
