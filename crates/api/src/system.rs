//! The engine as a whole: info, version, disk usage, authentication, errors.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::container::ContainerSummary;
use crate::image::{BuildCache, ImageSummary};
use crate::null::{empty, no_members, wire};
use crate::volume::Volume;
use std::collections::BTreeMap;

wire! {
    "PascalCase";

    /// What `PUT /yare/registry` takes.
    RegistryOptions {
        /// Addresses to listen on.
        #[serde(skip_serializing_if = "no_members")]
        listen: Option<Vec<String>>,
        /// Further configuration, TOML.
        #[serde(skip_serializing_if = "empty")]
        config: String,
    }

    /// What `GET` and `PUT /yare/registry` reply.
    RegistryStatus {
        enabled: bool,
        /// Where it listens.
        listen: Option<Vec<String>>,
        /// What clients on this machine call it.
        names: Option<Vec<String>>,
        #[serde(rename = "TLS")]
        tls: bool,
        auth: bool,
        /// Why it is not served although it is enabled.
        #[serde(skip_serializing_if = "empty")]
        problem: String,
    }

    /// What `GET /info` replies.
    SystemInfo {
        #[serde(rename = "ID")]
        id: String,
        containers: i64,
        containers_running: i64,
        containers_paused: i64,
        containers_stopped: i64,
        images: i64,
        driver: String,
        driver_status: Option<Vec<[String; 2]>>,
        #[serde(skip_serializing_if = "no_members")]
        system_status: Option<Vec<[String; 2]>>,
        plugins: PluginsInfo,
        memory_limit: bool,
        swap_limit: bool,
        #[serde(rename = "KernelMemoryTCP", skip_serializing_if = "empty")]
        kernel_memory_tcp: bool,
        cpu_cfs_period: bool,
        cpu_cfs_quota: bool,
        #[serde(rename = "CPUShares")]
        cpu_shares: bool,
        #[serde(rename = "CPUSet")]
        cpu_set: bool,
        pids_limit: bool,
        #[serde(rename = "IPv4Forwarding")]
        ipv4_forwarding: bool,
        debug: bool,
        #[serde(rename = "NFd")]
        n_fd: i64,
        oom_kill_disable: bool,
        #[serde(rename = "NGoroutines")]
        n_goroutines: i64,
        system_time: String,
        logging_driver: String,
        cgroup_driver: String,
        #[serde(skip_serializing_if = "empty")]
        cgroup_version: String,
        #[serde(rename = "NEventsListener")]
        n_events_listener: i64,
        kernel_version: String,
        operating_system: String,
        #[serde(rename = "OSVersion")]
        os_version: String,
        #[serde(rename = "OSType")]
        os_type: String,
        architecture: String,
        index_server_address: String,
        registry_config: Option<RegistryServiceConfig>,
        #[serde(rename = "NCPU")]
        n_cpu: i64,
        mem_total: i64,
        generic_resources: Option<Vec<serde_json::Value>>,
        docker_root_dir: String,
        http_proxy: String,
        https_proxy: String,
        no_proxy: String,
        name: String,
        labels: Vec<String>,
        experimental_build: bool,
        server_version: String,
        runtimes: BTreeMap<String, Runtime>,
        default_runtime: String,
        swarm: SwarmInfo,
        live_restore_enabled: bool,
        isolation: String,
        init_binary: String,
        containerd_commit: Commit,
        runc_commit: Commit,
        init_commit: Commit,
        security_options: Vec<String>,
        #[serde(skip_serializing_if = "empty")]
        product_license: String,
        #[serde(skip_serializing_if = "no_members")]
        default_address_pools: Option<Vec<NetworkAddressPool>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        firewall_backend: Option<FirewallInfo>,
        #[serde(rename = "CDISpecDirs")]
        cdi_spec_dirs: Vec<String>,
        #[serde(skip_serializing_if = "no_members")]
        discovered_devices: Option<Vec<DeviceInfo>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        containerd: Option<ContainerdInfo>,
        warnings: Option<Vec<String>>,
    }

    DeviceInfo {
        source: String,
        #[serde(rename = "ID")]
        id: String,
    }

    PluginsInfo {
        volume: Option<Vec<String>>,
        network: Option<Vec<String>>,
        authorization: Option<Vec<String>>,
        log: Option<Vec<String>>,
    }

    RegistryServiceConfig {
        index_configs: BTreeMap<String, IndexInfo>,
        #[serde(rename = "InsecureRegistryCIDRs")]
        insecure_registry_cidrs: Vec<String>,
        mirrors: Option<Vec<String>>,
    }

    IndexInfo {
        mirrors: Vec<String>,
        name: String,
        official: bool,
        secure: bool,
    }

    Runtime {
        #[serde(rename = "path", skip_serializing_if = "empty")]
        path: String,
        #[serde(rename = "runtimeArgs", skip_serializing_if = "no_members")]
        runtime_args: Option<Vec<String>>,
        #[serde(rename = "status", skip_serializing_if = "no_members")]
        status: Option<BTreeMap<String, String>>,
    }

    SwarmInfo {
        #[serde(rename = "NodeID")]
        node_id: String,
        node_addr: String,
        local_node_state: String,
        control_available: bool,
        error: String,
        remote_managers: Option<Vec<serde_json::Value>>,
    }

    Commit {
        #[serde(rename = "ID")]
        id: String,
    }

    NetworkAddressPool {
        base: String,
        size: i64,
    }

    FirewallInfo {
        driver: String,
        #[serde(skip_serializing_if = "no_members")]
        info: Option<Vec<[String; 2]>>,
    }

    ContainerdInfo {
        #[serde(skip_serializing_if = "empty")]
        address: String,
        namespaces: ContainerdNamespaces,
    }

    ContainerdNamespaces {
        containers: String,
        plugins: String,
    }

    /// What `GET /version` replies.
    SystemVersion {
        platform: SystemVersionPlatform,
        components: Vec<SystemVersionComponent>,
        version: String,
        api_version: String,
        #[serde(rename = "MinAPIVersion")]
        min_api_version: String,
        git_commit: String,
        go_version: String,
        os: String,
        arch: String,
        #[serde(skip_serializing_if = "empty")]
        kernel_version: String,
        #[serde(skip_serializing_if = "empty")]
        experimental: bool,
        #[serde(skip_serializing_if = "empty")]
        build_time: String,
    }

    SystemVersionPlatform {
        name: String,
    }

    SystemVersionComponent {
        name: String,
        version: String,
        details: Option<BTreeMap<String, String>>,
    }

    /// What `GET /yare/cleaning` replies: what goes by itself and when, and what would go now.
    CleaningStatus {
        retag_grace: String,
        images: String,
        containers: String,
        /// Bytes that are to be free.
        min_free: i64,
        /// Bytes that are free.
        free: i64,
        /// Bytes that the build cache would give back.
        build_cache: i64,
        planned: Option<Vec<crate::image::Pruned>>,
    }

    /// What `GET /system/df` replies.
    SystemDataUsageResponse {
        layers_size: i64,
        images: Option<Vec<ImageSummary>>,
        containers: Option<Vec<ContainerSummary>>,
        volumes: Option<Vec<Volume>>,
        build_cache: Option<Vec<BuildCache>>,
    }

    /// What `POST /auth` replies.
    SystemAuthResponse {
        status: String,
        #[serde(skip_serializing_if = "empty")]
        identity_token: String,
    }
}

wire! {
    "lowercase";

    /// Credentials of a registry, in a body or in the `X-Registry-Auth` header.
    AuthConfig {
        #[serde(skip_serializing_if = "empty")]
        username: String,
        #[serde(skip_serializing_if = "empty")]
        password: String,
        #[serde(skip_serializing_if = "empty")]
        auth: String,
        #[serde(skip_serializing_if = "empty")]
        serveraddress: String,
        #[serde(skip_serializing_if = "empty")]
        identitytoken: String,
        #[serde(skip_serializing_if = "empty")]
        registrytoken: String,
        #[serde(skip_serializing_if = "empty")]
        email: String,
    }

    /// What every failure replies. `hint` is Yare's own and is left out when there is none.
    ErrorResponse {
        message: String,
        #[serde(skip_serializing_if = "empty")]
        hint: String,
    }
}
