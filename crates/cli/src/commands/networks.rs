//! `network create`, `ls`, `rm`, `connect`, `disconnect`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use yare_api::{
    ConfigReference, IPAM, IPAMConfig, Network, NetworkConnectRequest, NetworkCreateRequest,
    NetworkDisconnectRequest,
};

use crate::context::{Context, each};
use crate::failure::Failure;
use crate::flags::Given;
use crate::format::{self, Layout, Row, natural_order, short_id, write_list};
use crate::opts;
use crate::table::Outcome;

const LAYOUT: Layout = Layout {
    headings: &[
        ("ID", "NETWORK ID"),
        ("Name", "NAME"),
        ("Driver", "DRIVER"),
        ("Scope", "SCOPE"),
        ("IPv4", "IPV4"),
        ("IPv6", "IPV6"),
        ("Internal", "INTERNAL"),
        ("Labels", "LABELS"),
        ("CreatedAt", "CREATED AT"),
    ],
    table: &["ID", "Name", "Driver", "Scope"],
    raw: "network_id: {{.ID}}\nname: {{.Name}}\ndriver: {{.Driver}}\nscope: {{.Scope}}\n",
};

/// `network create`.
pub(crate) async fn create(cx: &Context, given: &Given) -> Outcome {
    let created = cx.client().network_create(&request(given)?).await?;
    if !created.warning.is_empty() {
        cx.warn(format_args!("WARNING: {}", created.warning));
    }
    cx.line(created.id)?;
    Ok(0)
}

/// The body of the create call.
pub(crate) fn request(given: &Given) -> Result<NetworkCreateRequest, String> {
    let map = |name: &str| opts::key_values(&given.list(name));
    let config_from = given.text("config-from");
    Ok(NetworkCreateRequest {
        name: given.argument(0).to_owned(),
        driver: given.text_opt("driver").unwrap_or("bridge").to_owned(),
        scope: given.text("scope").to_owned(),
        enable_ipv4: given.has("ipv4").then(|| given.bool("ipv4")),
        enable_ipv6: given.has("ipv6").then(|| given.bool("ipv6")),
        ipam: Some(IPAM {
            driver: given.text_opt("ipam-driver").unwrap_or("default").to_owned(),
            options: Some(map("ipam-opt")),
            config: Some(pools(given)?),
        }),
        internal: given.bool("internal"),
        attachable: given.bool("attachable"),
        ingress: given.bool("ingress"),
        config_only: given.bool("config-only"),
        config_from: (!config_from.is_empty()).then(|| ConfigReference { network: config_from.to_owned() }),
        options: Some(map("opt")),
        labels: Some(map("label")),
        ..NetworkCreateRequest::default()
    })
}

/// Ranges, gateways and reserved addresses, each put to the subnet that holds it.
fn pools(given: &Given) -> Result<Vec<IPAMConfig>, String> {
    let subnets = given.comma_list("subnet");
    let mut pools: Vec<IPAMConfig> = Vec::new();
    for subnet in &subnets {
        // One that cannot be read is the engine's to refuse.
        let net = Subnet::parse(subnet);
        for known in &subnets {
            let holds = |net: &Subnet| Subnet::parse(known).is_some_and(|other| other.holds(net.address));
            if known != subnet && net.as_ref().is_some_and(holds) {
                return Err("multiple overlapping subnet configuration is not supported".to_owned());
            }
        }
        pools.push(IPAMConfig { subnet: subnet.clone(), ..IPAMConfig::default() });
    }
    let find = |pools: &mut Vec<IPAMConfig>, address: &str| -> Option<usize> {
        let address: IpAddr = address.parse().ok()?;
        pools.iter().position(|pool| Subnet::parse(&pool.subnet).is_some_and(|net| net.holds(address)))
    };
    for range in given.comma_list("ip-range") {
        let base = range.split('/').next().unwrap_or_default();
        let at = find(&mut pools, base).ok_or_else(|| format!("no matching subnet for range {range}"))?;
        if !pools[at].ip_range.is_empty() {
            return Err(format!(
                "cannot configure multiple ranges ({range}, {}) on the same subnet ({})",
                pools[at].ip_range, pools[at].subnet
            ));
        }
        pools[at].ip_range = range;
    }
    for gateway in given.comma_list("gateway") {
        let at =
            find(&mut pools, &gateway).ok_or_else(|| format!("no matching subnet for gateway {gateway}"))?;
        if !pools[at].gateway.is_empty() {
            return Err(format!(
                "cannot configure multiple gateways ({gateway}, {}) for the same subnet ({})",
                pools[at].gateway, pools[at].subnet
            ));
        }
        pools[at].gateway = gateway;
    }
    for (name, address) in opts::key_values(&given.list("aux-address")) {
        let at = find(&mut pools, &address)
            .ok_or_else(|| format!("no matching subnet for aux-address {address}"))?;
        pools[at].auxiliary_addresses.get_or_insert_default().insert(name, address);
    }
    Ok(pools)
}

/// An address with a prefix length.
struct Subnet {
    address: IpAddr,
    prefix: u32,
}

impl Subnet {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix: u32 = prefix.parse().ok()?;
        (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some(Self { address, prefix })
    }

    fn holds(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, true),
            IpAddr::V6(address) => (address.to_bits(), false),
        };
        let ((mine, v4), (theirs, their_v4)) = (bits(self.address), bits(address));
        v4 == their_v4 && (self.prefix == 0 || (mine ^ theirs) >> (128 - self.prefix) == 0)
    }
}

/// `network ls`.
pub(crate) async fn ls(cx: &Context, given: &Given) -> Outcome {
    let quiet = given.bool("quiet");
    let format = match given.text_opt("format") {
        Some(format) if !format.is_empty() => format,
        _ if quiet => "",
        _ => &cx.config().networks_format,
    };
    let mut networks = cx.client().network_list(&opts::filters(&given.list("filter"), &[])).await?;
    networks.sort_by(|a, b| natural_order(&a.name, &b.name));
    let whole = given.bool("no-trunc");
    if quiet && (format.is_empty() || format == "table") {
        for network in &networks {
            cx.line(if whole { &network.id } else { short_id(&network.id) })?;
        }
        return Ok(0);
    }
    write_list(cx, format, &LAYOUT, networks.iter().map(|network| row(network, whole)))?;
    Ok(0)
}

/// One network of a list.
pub(crate) fn row(network: &Network, whole: bool) -> Row {
    let created = match network.created.parse::<jiff::Timestamp>() {
        Ok(_) => network.created.replacen('T', " ", 1).replace('Z', " +0000 UTC"),
        Err(_) => network.created.clone(),
    };
    Row::new()
        .with("ID", if whole { network.id.clone() } else { short_id(&network.id).to_owned() })
        .with("Name", network.name.clone())
        .with("Driver", network.driver.clone())
        .with("Scope", network.scope.clone())
        .with("IPv4", network.enable_ipv4.to_string())
        .with("IPv6", network.enable_ipv6.to_string())
        .with("Internal", network.internal.to_string())
        .with("Labels", format::labels(&network.labels))
        .with("CreatedAt", created)
        .labelled(&network.labels)
}

/// `network rm`.
pub(crate) async fn rm(cx: &Context, given: &Given) -> Outcome {
    let force = given.bool("force");
    let outcome = each(cx, &given.arguments, async |name| match cx.client().network_remove(name).await {
        Err(error) if force && error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(Some(name.to_owned())),
    })
    .await?;
    if outcome == 0 { Ok(0) } else { Err(Failure::silent(1)) }
}

/// `network connect`.
pub(crate) async fn connect(cx: &Context, given: &Given) -> Outcome {
    cx.client().network_connect(given.argument(0), &connect_request(given)?).await?;
    Ok(0)
}

/// The body of the connect call.
pub(crate) fn connect_request(given: &Given) -> Result<NetworkConnectRequest, String> {
    let mut driver_options = BTreeMap::new();
    for option in given.comma_list("driver-opt") {
        let (name, value) =
            option.split_once('=').ok_or("invalid key/value pair format in driver options")?;
        driver_options.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    let attachment = opts::network::Attachment {
        aliases: given.comma_list("alias"),
        links: given.list("link"),
        ipv4: given.text("ip").to_owned(),
        ipv6: given.text("ip6").to_owned(),
        link_local: given.comma_list("link-local-ip"),
        driver_options,
        gateway_priority: given.int("gw-priority").unwrap_or(0),
        ..opts::network::Attachment::default()
    };
    Ok(NetworkConnectRequest {
        container: given.argument(1).to_owned(),
        endpoint_config: Some(attachment.endpoint()),
    })
}

/// `network disconnect`.
pub(crate) async fn disconnect(cx: &Context, given: &Given) -> Outcome {
    let request =
        NetworkDisconnectRequest { container: given.argument(1).to_owned(), force: given.bool("force") };
    cx.client().network_disconnect(given.argument(0), &request).await?;
    Ok(0)
}
