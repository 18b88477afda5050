//! Networks and endpoints.

#![expect(missing_docs, reason = "names and meanings are those of the Engine API 1.51")]

use crate::null::{empty, no_members, wire};
use std::collections::BTreeMap;

wire! {
    "PascalCase";

    NetworkingConfig {
        endpoints_config: Option<BTreeMap<String, Option<EndpointSettings>>>,
    }

    /// A container's place in a network, as asked for and as shown.
    EndpointSettings {
        #[serde(rename = "IPAMConfig")]
        ipam_config: Option<EndpointIPAMConfig>,
        links: Option<Vec<String>>,
        aliases: Option<Vec<String>>,
        mac_address: String,
        driver_opts: Option<BTreeMap<String, String>>,
        gw_priority: i64,
        #[serde(rename = "NetworkID")]
        network_id: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        gateway: String,
        #[serde(rename = "IPAddress")]
        ip_address: String,
        #[serde(rename = "IPPrefixLen")]
        ip_prefix_len: i64,
        #[serde(rename = "IPv6Gateway")]
        ipv6_gateway: String,
        #[serde(rename = "GlobalIPv6Address")]
        global_ipv6_address: String,
        #[serde(rename = "GlobalIPv6PrefixLen")]
        global_ipv6_prefix_len: i64,
        #[serde(rename = "DNSNames")]
        dns_names: Option<Vec<String>>,
    }

    EndpointIPAMConfig {
        #[serde(rename = "IPv4Address", skip_serializing_if = "empty")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address", skip_serializing_if = "empty")]
        ipv6_address: String,
        #[serde(rename = "LinkLocalIPs", skip_serializing_if = "no_members")]
        link_local_ips: Option<Vec<String>>,
    }

    /// What list and inspect reply; a list leaves `Containers` empty.
    Network {
        name: String,
        id: String,
        created: String,
        scope: String,
        driver: String,
        #[serde(rename = "EnableIPv4")]
        enable_ipv4: bool,
        #[serde(rename = "EnableIPv6")]
        enable_ipv6: bool,
        #[serde(rename = "IPAM")]
        ipam: IPAM,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_from: ConfigReference,
        config_only: bool,
        containers: BTreeMap<String, NetworkContainer>,
        options: BTreeMap<String, String>,
        labels: BTreeMap<String, String>,
    }

    IPAM {
        driver: String,
        options: Option<BTreeMap<String, String>>,
        config: Option<Vec<IPAMConfig>>,
    }

    IPAMConfig {
        #[serde(skip_serializing_if = "empty")]
        subnet: String,
        #[serde(rename = "IPRange", skip_serializing_if = "empty")]
        ip_range: String,
        #[serde(skip_serializing_if = "empty")]
        gateway: String,
        #[serde(rename = "AuxiliaryAddresses", skip_serializing_if = "no_members")]
        auxiliary_addresses: Option<BTreeMap<String, String>>,
    }

    ConfigReference {
        network: String,
    }

    NetworkContainer {
        name: String,
        #[serde(rename = "EndpointID")]
        endpoint_id: String,
        mac_address: String,
        #[serde(rename = "IPv4Address")]
        ipv4_address: String,
        #[serde(rename = "IPv6Address")]
        ipv6_address: String,
    }

    /// What `POST /networks/create` takes.
    NetworkCreateRequest {
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        check_duplicate: Option<bool>,
        driver: String,
        scope: String,
        #[serde(rename = "EnableIPv4", skip_serializing_if = "Option::is_none")]
        enable_ipv4: Option<bool>,
        #[serde(rename = "EnableIPv6", skip_serializing_if = "Option::is_none")]
        enable_ipv6: Option<bool>,
        #[serde(rename = "IPAM")]
        ipam: Option<IPAM>,
        internal: bool,
        attachable: bool,
        ingress: bool,
        config_only: bool,
        config_from: Option<ConfigReference>,
        options: Option<BTreeMap<String, String>>,
        labels: Option<BTreeMap<String, String>>,
    }

    NetworkCreateResponse {
        id: String,
        warning: String,
    }

    NetworkConnectRequest {
        container: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        endpoint_config: Option<EndpointSettings>,
    }

    NetworkDisconnectRequest {
        container: String,
        force: bool,
    }

    NetworkPruneResponse {
        networks_deleted: Option<Vec<String>>,
    }
}
