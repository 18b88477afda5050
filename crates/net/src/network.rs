//! A bridge network.
//!
//! Life cycle: [`Network::open`], then [`Network::restore`] for every container that outlived the last
//! engine, then [`Network::sweep`]; from there on [`Network::attach`] and [`Network::detach`]. Dropping it
//! ends its threads and lets go of the pool; the bridge, the packet filter and the containers stay, so that
//! an engine can be replaced under running containers.

mod attach;
mod background;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use self::attach::{Attached, Attempt};
use crate::bridge;
use crate::cidr::{Ipv4Net, Ipv6Net};
use crate::conntrack::{self, Flows};
use crate::endpoint::{
    Attachment, EndpointRecord, EndpointRequest, MacAddr, PortBinding, Protocol, Published,
};
use crate::error::{AttachError, NetError};
use crate::firewall::Firewall;
use crate::forward::Dropping;
use crate::ipam;
use crate::link::{Cable, Changes, Kind, Route};
use crate::listen::resolver_sockets;
use crate::netlink::Refused;
use crate::netns;
use crate::pool::{Job, Pool, Ready};
use crate::ports::HostPorts;
use crate::publish::{self, Applicant, Held, Place};
use crate::rules;
use crate::watch::Watch;

const LOOPBACK_INDEX: u32 = 1;

/// What a bridge network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Name of the network, for records and texts.
    pub name: String,
    /// Name of the bridge interface, at most 15 bytes of `[a-zA-Z0-9_.-]`.
    pub bridge: String,
    /// What the interface is for, in words that `ip link` shows; at most 255 bytes.
    pub alias: String,
    /// Name of its nftables tables (families ip and ip6), one per bridge; at most 64 bytes of `[a-zA-Z0-9_.-]`.
    pub table: String,
    /// The subnet; none means the subnet that the bridge has already, else the first of Docker's default
    /// pools that overlaps no route of the host.
    pub subnet: Option<Ipv4Net>,
    /// The bridge's own address; none means the first one of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// The part of the subnet that addresses are handed out from, unless a container asks for a certain one. Where no
    /// subnet is named and the bridge has none around it, it is the subnet.
    pub ip_range: Option<Ipv4Net>,
    /// Addresses of the subnet that are somebody else's.
    pub reserved: Vec<Ipv4Addr>,
    /// Subnets that are not to be chosen although no route says so.
    pub avoid: Vec<Ipv4Net>,
    /// The IPv6 half.
    pub ipv6: Option<Ipv6Config>,
    /// MTU of the bridge and of containers' interfaces, in bytes.
    pub mtu: u32,
    /// How many network namespaces are kept ready on the bridge.
    pub pool: usize,
    /// How many are kept ready that have loopback alone.
    pub bare: usize,
    /// Whether containers on the bridge reach each other.
    pub icc: bool,
    /// Whether who is beyond this host sees this host's address, not the container's.
    pub masquerade: bool,
    /// Whether nobody beyond this host is reached.
    pub internal: bool,
    /// Whether containers find a resolver at [`crate::RESOLVER`].
    pub resolver: bool,
    /// What names of containers' interfaces begin with.
    pub interface: String,
}

/// The IPv6 half of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Config {
    /// Its subnet.
    pub subnet: Ipv6Net,
    /// The bridge's address in it.
    pub gateway: Ipv6Addr,
}

impl NetConfig {
    /// Docker's defaults for a bridge and a table of these names.
    pub fn new(bridge: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            name: "bridge".to_owned(),
            bridge: bridge.into(),
            alias: String::new(),
            table: table.into(),
            subnet: None,
            gateway: None,
            ip_range: None,
            reserved: Vec::new(),
            avoid: Vec::new(),
            ipv6: None,
            mtu: 1500,
            pool: 16,
            bare: 8,
            icc: true,
            masquerade: true,
            internal: false,
            resolver: false,
            interface: "eth".to_owned(),
        }
    }

    fn policy(&self) -> rules::Policy {
        rules::Policy { icc: self.icc, masquerade: self.masquerade, internal: self.internal }
    }

    fn validate(&self) -> Result<(), NetError> {
        let wrong = |what, name: &str, why| Err(NetError::Name { what, name: name.to_owned(), why });
        for (what, name, longest) in [("bridge", &self.bridge, 15), ("table", &self.table, 64)] {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
            if name.is_empty() || name.len() > longest {
                return wrong(what, name, "it must have 1 to 15 characters (a table's: 64)");
            }
            if !name.bytes().all(allowed)
                || name.starts_with('.')
                || matches!(name.as_str(), "lo" | "all" | "default")
            {
                return wrong(
                    what,
                    name,
                    "it must match [a-zA-Z0-9_.-]+, not start with a dot and not be reserved",
                );
            }
        }
        Ok(())
    }
}

/// One bridge, its packet filter, its addresses and ports, and namespaces kept ready on it.
///
/// All methods may be called from any thread of the process that is in the network namespace in which it was
/// opened. None blocks for longer than the kernel needs for a handful of messages.
#[derive(Debug)]
pub struct Network {
    inner: Arc<Inner>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    started: AtomicBool,
    stop: OwnedFd,
}

#[derive(Debug)]
struct Inner {
    config: NetConfig,
    /// Bridge ports must not see each other: no `icc`, and bridged packets do not pass the packet filter.
    isolated: bool,
    subnet: Ipv4Net,
    gateway: Ipv4Addr,
    index: u32,
    route: Mutex<Route>,
    firewall: Mutex<Firewall>,
    addresses: Mutex<ipam::Pool>,
    addresses6: Option<Mutex<ipam::Pool6>>,
    ports: Arc<HostPorts>,
    state: Mutex<State>,
    pool: Pool,
}

#[derive(Debug, Default)]
struct State {
    endpoints: HashMap<String, Slot>,
    /// Names of all cables that are ours, also of those that are being made.
    cables: HashSet<String>,
    /// The network is being removed: nobody comes in any more.
    closed: bool,
}

#[derive(Debug)]
enum Slot {
    /// Being attached.
    Pending(String),
    Live(Box<Live>),
}

#[derive(Debug)]
struct Live {
    record: EndpointRecord,
    held: Vec<Held>,
}

impl Network {
    /// Makes or re-uses the bridge, and checks that the kernel can hold its packet filter. A packet filter
    /// that is there already stays as it is until [`Network::sweep`].
    ///
    /// Class `Unavailable` when nftables is missing: then only host networking and none are to be had, and
    /// [`netns::fresh`] makes the namespaces of the latter.
    pub fn open(config: NetConfig, ports: &Arc<HostPorts>) -> Result<Self, NetError> {
        config.validate()?;
        let mut route = Route::open().map_err(|error| NetError::kernel("open an rtnetlink socket", error))?;
        let plan = bridge::plan(&mut route, &config)?;
        let (addresses, addresses6) = address_pools(&config, &plan)?;
        let firewall = open_firewall(&config, plan.subnet)?;
        let index = plan.apply(&mut route, &config)?;
        // Addresses in the pool are taken; a small subnet must not be eaten by it.
        let connected = config.pool.min(usize::try_from(addresses.available() / 4).unwrap_or(usize::MAX));
        let inner = Inner {
            pool: Pool::new(connected, config.bare),
            subnet: plan.subnet,
            gateway: plan.gateway,
            isolated: !config.icc && !bridge::filters_bridged_packets(config.ipv6.is_some()),
            index,
            route: Mutex::new(route),
            firewall: Mutex::new(firewall),
            addresses: Mutex::new(addresses),
            addresses6: addresses6.map(Mutex::new),
            ports: Arc::clone(ports),
            state: Mutex::default(),
            config,
        };
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(|error| NetError::kernel("create an event descriptor", error))?;
        Ok(Self { inner: Arc::new(inner), threads: Mutex::default(), started: AtomicBool::new(false), stop })
    }

    /// Takes over the endpoint of a container that outlived the engine: its address, its ports.
    ///
    /// Must be called for all of them before [`Network::sweep`], which deletes what nobody claimed.
    pub fn restore(&self, id: &str, record: &EndpointRecord) -> Result<(), AttachError> {
        let inner = &self.inner;
        if inner.state.lock().endpoints.contains_key(id) {
            return Err(inner.attached(id));
        }
        inner.reserve(record.ip)?;
        if let (Some(place), Some(addresses)) = (&record.ipv6, &inner.addresses6)
            && let Err(refusal) = addresses.lock().reserve(place.ip)
        {
            tracing::warn!(%id, ?refusal, ip = %place.ip, "IPv6 address of a container that runs");
        }
        if !record.ports.is_empty() {
            inner.ports.name(id, &record.name);
        }
        let mut held = Vec::with_capacity(record.ports.len());
        for port in &record.ports {
            let carrier = inner.ports.carrier.as_deref();
            match publish::retake(&mut inner.ports.claims.lock(), *port, id, carrier) {
                Ok(port) => held.push(port),
                // Two records with one port: the first keeps it, as in the kernel.
                Err(other) => {
                    tracing::warn!(%id, %other, port = port.host_port, "published port has another owner")
                }
            }
        }
        let place = inner.place(record);
        let elements: Vec<_> =
            held.iter().filter_map(|held| publish::element(held.published, place)).collect();
        held.iter().try_for_each(|held| inner.carry(held, place))?;
        let mut state = inner.state.lock();
        state.cables.insert(record.veth.clone());
        let live = Live { record: record.clone(), held };
        state.endpoints.insert(id.to_owned(), Slot::Live(Box::new(live)));
        drop(state);
        let mut firewall = inner.firewall.lock();
        if !self.started.load(Ordering::Acquire) {
            firewall.remember(&elements);
            return Ok(());
        }
        firewall.publish(&elements).map_err(|refused| inner.firewall_error(refused).into())
    }

    /// Brings the kernel in line with what is known: the packet filter is rebuilt in one transaction, cables
    /// on the bridge that belong to no known container are deleted in the background, and the pool begins to
    /// fill.
    pub fn sweep(&self) -> Result<(), NetError> {
        self.start()?;
        self.cut_lost()
    }

    /// As [`Network::sweep`], but the pool stays empty, and nothing watches the packet filter, until a container
    /// comes: for one of many networks, of which most may be idle.
    pub fn settle(&self) -> Result<(), NetError> {
        let inner = &self.inner;
        if !inner.state.lock().endpoints.is_empty() {
            return self.sweep();
        }
        let settled = inner.firewall.lock().settle();
        settled.map_err(|refused| inner.firewall_error(refused))
    }

    fn cut_lost(&self) -> Result<(), NetError> {
        let inner = &self.inner;
        let links =
            inner.route.lock().links().map_err(|error| inner.kernel_error("list the ports of", error))?;
        let state = inner.state.lock();
        let lost: Vec<_> = links
            .into_iter()
            .filter(|link| link.controller == Some(inner.index) && link.kind == Some(Kind::Veth))
            .filter(|link| !state.cables.contains(&link.name))
            .map(|link| link.index)
            .collect();
        if !lost.is_empty() {
            inner.pool.ask(Job::Cut(lost));
        }
        Ok(())
    }

    /// Gives the container an address, a namespace with an interface, and its ports.
    ///
    /// On an error everything is as before.
    pub fn attach(&self, id: &str, request: &EndpointRequest) -> Result<Attachment, AttachError> {
        publish::validate(request)?;
        self.start()?;
        let inner = &*self.inner;
        let mut attempt = Attempt::begin(inner, id, &request.name)?;
        let endpoint_id = random_hex(32)?;
        let place = attempt.obtain(request)?;
        let who = Applicant { id, name: &request.name, endpoint_id: &endpoint_id, place };
        attempt.publish(&request.ports, who)?;
        let Attached { netns, resolver, endpoint } = attempt.commit(request, endpoint_id);
        let netns = netns.expect("obtain gives one");
        Ok(Attachment { netns, endpoint, resolver })
    }

    /// Gives a container that has a namespace another interface in it, the `number`th. Its default route stays
    /// as it is; see [`netns::set_gateways`].
    ///
    /// On an error everything is as before.
    pub fn plug(
        &self,
        id: &str,
        request: &EndpointRequest,
        netns: BorrowedFd<'_>,
        number: usize,
    ) -> Result<EndpointRecord, AttachError> {
        publish::validate(request)?;
        self.start()?;
        let inner = &*self.inner;
        let mut attempt = Attempt::begin(inner, id, &request.name)?;
        let endpoint_id = random_hex(32)?;
        let place = attempt.plug(request, netns, number)?;
        let who = Applicant { id, name: &request.name, endpoint_id: &endpoint_id, place };
        attempt.publish(&request.ports, who)?;
        Ok(attempt.commit(request, endpoint_id).endpoint)
    }

    /// Publishes more ports of a container that is attached; gives all that it has then.
    pub fn publish(&self, id: &str, ports: &[PortBinding]) -> Result<Vec<Published>, AttachError> {
        let inner = &*self.inner;
        let Some(record) = self.endpoint(id) else { return Ok(Vec::new()) };
        let place = inner.place(&record);
        let who = Applicant { id, name: &record.name, endpoint_id: &record.endpoint_id, place };
        let held = attach::publish(inner, ports, who)?;
        match inner.state.lock().endpoints.get_mut(id) {
            Some(Slot::Live(live)) => {
                live.record.ports.extend(held.iter().map(|held| held.published));
                live.held.extend(held);
                Ok(live.record.ports.clone())
            }
            _ => {
                inner.unpublish(held);
                Ok(Vec::new())
            }
        }
    }

    /// Lets nobody in any more. Fails when somebody is in, with their names and endpoints.
    pub fn close(&self) -> Result<(), Vec<(String, String)>> {
        let mut state = self.inner.state.lock();
        if state.endpoints.is_empty() {
            state.closed = true;
            return Ok(());
        }
        let holders = state.endpoints.values().map(|slot| match slot {
            Slot::Pending(name) => (name.clone(), String::new()),
            Slot::Live(live) => (live.record.name.clone(), live.record.endpoint_id.clone()),
        });
        Err(holders.collect())
    }

    /// Withdraws the container's ports at once and gives its address back. The namespace and its cable go
    /// when the last process and descriptor do; nobody waits for that. Unknown containers are ignored.
    pub fn detach(&self, id: &str) {
        self.take_off(id, false);
    }

    /// As [`Network::detach`], for a container in whose namespace others live on: the cable is cut before its
    /// address becomes another's.
    pub fn detach_shared(&self, id: &str) {
        self.take_off(id, true);
    }

    /// As [`Network::detach`], for a container that lives on: its interface is gone when this returns.
    pub fn unplug(&self, id: &str) {
        let inner = &self.inner;
        let Some(live) = inner.state.lock().remove(id) else { return };
        if !live.held.is_empty() {
            inner.ports.forget(id);
        }
        inner.unpublish(live.held);
        inner.unplug(&live.record.veth);
        inner.retire(live.record.ip, live.record.ipv6.map(|place| place.ip));
    }

    /// Withdraws the ports of a container that stays attached, and gives them.
    pub fn withdraw(&self, id: &str) -> Vec<Published> {
        let inner = &self.inner;
        let (held, ports) = match inner.state.lock().endpoints.get_mut(id) {
            Some(Slot::Live(live)) => {
                (std::mem::take(&mut live.held), std::mem::take(&mut live.record.ports))
            }
            _ => return Vec::new(),
        };
        inner.ports.forget(id);
        inner.unpublish(held);
        ports
    }

    /// Whether nobody is attached.
    pub fn is_idle(&self) -> bool {
        self.inner.state.lock().endpoints.is_empty()
    }

    fn take_off(&self, id: &str, shared: bool) {
        let inner = &self.inner;
        let Some(live) = inner.state.lock().remove(id) else { return };
        let udp = live.held.iter().any(|held| held.published.protocol == Protocol::Udp);
        if !live.held.is_empty() {
            inner.ports.forget(id);
        }
        inner.unpublish(live.held);
        let (ip, ip6) = (live.record.ip, live.record.ipv6.map(|place| place.ip));
        if shared {
            inner.pool.ask(Job::Unplug(live.record.veth, ip, ip6));
        } else if udp && self.started.load(Ordering::Acquire) {
            inner.pool.ask(Job::Forget(ip, ip6));
        } else {
            inner.release(ip, ip6);
        }
    }

    /// Chains of other tables of the packet filter that drop what is forwarded to and from the bridge. An accept
    /// of ours cannot override them. Rules of the older iptables (not those of iptables-nft) are not seen.
    pub fn dropping(&self) -> Result<Vec<Dropping>, NetError> {
        let inner = &self.inner;
        let found = inner.firewall.lock().dropping(&inner.config.bridge);
        found.map_err(|refused| inner.firewall_error(refused))
    }

    /// A namespace with nothing but a loopback interface that is up, for `--network none`.
    pub fn fresh_netns(&self) -> Result<OwnedFd, NetError> {
        self.start()?;
        self.inner.pool.take_bare().map_or_else(netns::fresh, Ok)
    }

    /// What the container got, if it is attached.
    pub fn endpoint(&self, id: &str) -> Option<EndpointRecord> {
        match self.inner.state.lock().endpoints.get(id)? {
            Slot::Live(live) => Some(live.record.clone()),
            Slot::Pending(_) => None,
        }
    }

    /// Takes note of a container's new name, for texts that say who has a port.
    pub fn renamed(&self, id: &str, name: &str) {
        self.inner.ports.rename(id, name);
        if let Some(Slot::Live(live)) = self.inner.state.lock().endpoints.get_mut(id) {
            name.clone_into(&mut live.record.name);
        }
    }

    /// Checks the packet filter and rebuilds it if it is not as it should be; says whether it had to. A
    /// thread does this by itself within a moment after somebody else changed the table. Kernel settings that
    /// forwarding needs are written again as well, and published ports that could not be bound are tried again.
    pub fn heal(&self) -> Result<bool, NetError> {
        self.inner.heal()
    }

    /// Waits until the pool is full and background work is done; false if that took longer than `limit`.
    pub fn wait_ready(&self, limit: Duration) -> bool {
        self.inner.pool.wait_idle(limit)
    }

    /// The subnet, without host bits.
    pub fn subnet(&self) -> Ipv4Net {
        self.inner.subnet
    }

    /// The bridge's address, which is the containers' gateway and what `host-gateway` means.
    pub fn gateway(&self) -> Ipv4Addr {
        self.inner.gateway
    }

    /// What it was opened with.
    pub fn config(&self) -> &NetConfig {
        &self.inner.config
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.inner.config.bridge
    }

    /// The MTU, in bytes.
    pub fn mtu(&self) -> u32 {
        self.inner.config.mtu
    }

    /// Deletes the bridge and the packet filter: for a network that is removed for good.
    pub fn destroy(&self) -> Result<(), NetError> {
        self.end_threads();
        let inner = &self.inner;
        // What somebody else has deleted already is as good as deleted.
        match inner.firewall.lock().delete() {
            Err(refused) if refused.errno != Errno::NOENT => return Err(inner.firewall_error(refused)),
            _ => {}
        }
        match inner.route.lock().change(|changes| changes.delete(inner.index)) {
            Err(refused) if refused.errno != Errno::NODEV => Err(inner.kernel_error("delete", refused)),
            _ => Ok(()),
        }
    }

    /// Rebuilds the packet filter and starts the threads, once.
    fn start(&self) -> Result<(), NetError> {
        if self.started.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut threads = self.threads.lock();
        if self.started.load(Ordering::Acquire) {
            return Ok(());
        }
        let inner = &self.inner;
        let watch = self.stop.try_clone().and_then(Watch::open);
        let mut firewall = inner.firewall.lock();
        firewall.settle().map_err(|refused| inner.firewall_error(refused))?;
        // Until now nobody has watched it.
        if !firewall.intact().map_err(|refused| inner.firewall_error(refused))? {
            firewall.rebuild().map_err(|refused| inner.firewall_error(refused))?;
        }
        drop(firewall);
        self.started.store(true, Ordering::Release);
        threads.extend(spawn("net-pool", inner, Inner::work));
        match watch {
            Ok(watch) => threads.extend(spawn("net-watch", inner, move |inner| inner.guard(watch))),
            Err(error) => {
                tracing::warn!(%error, "changes of the packet filter by others will not be noticed")
            }
        }
        Ok(())
    }

    fn end_threads(&self) {
        // The counter of an event descriptor cannot overflow by one.
        let _ = rustix::io::write(self.stop.as_fd(), &1_u64.to_ne_bytes());
        drop(self.inner.pool.stop());
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.end_threads();
    }
}

fn spawn(
    name: &str,
    inner: &Arc<Inner>,
    run: impl FnOnce(&Inner) + Send + 'static,
) -> Option<JoinHandle<()>> {
    let inner = Arc::clone(inner);
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(move || run(&inner));
    spawned.inspect_err(|error| tracing::warn!(thread = name, %error, "cannot start a thread")).ok()
}

fn open_firewall(config: &NetConfig, subnet: Ipv4Net) -> Result<Firewall, NetError> {
    let fail = |source| NetError::Firewall { bridge: config.bridge.clone(), source };
    let table = rules::for_bridge(&config.table, &config.bridge, subnet, config.policy());
    let beside = config
        .ipv6
        .map(|ipv6| rules::for_bridge6(&config.table, &config.bridge, ipv6.subnet, config.policy()));
    let mut firewall = Firewall::open(table, beside).map_err(fail)?;
    firewall.forget_half().map_err(|refused| fail(refused.into()))?;
    // Building it is the only honest test of what the kernel can do.
    if !firewall.exists().map_err(|refused| fail(refused.into()))? {
        firewall.rebuild().map_err(|refused| fail(refused.into()))?;
    }
    Ok(firewall)
}

/// The addresses that containers can have, by the configuration.
fn address_pools(
    config: &NetConfig,
    plan: &bridge::Plan,
) -> Result<(ipam::Pool, Option<ipam::Pool6>), NetError> {
    let refuse = |subnet: String, why: &str| NetError::Subnet {
        bridge: config.bridge.clone(),
        subnet,
        why: why.to_owned(),
    };
    let pool = ipam::Pool::new(plan.subnet, plan.gateway);
    let pool = pool.ok_or_else(|| refuse(plan.subnet.to_string(), "it has no address for a container"))?;
    let mut pool = match config.ip_range {
        Some(range) => pool.within(range).ok_or_else(|| refuse(range.to_string(), "it is no part of it"))?,
        None => pool,
    };
    for ip in &config.reserved {
        if pool.reserve(*ip) == Err(ipam::Refusal::Outside) {
            return Err(refuse(plan.subnet.to_string(), &format!("the reserved address {ip} is not in it")));
        }
    }
    let Some(ipv6) = config.ipv6 else { return Ok((pool, None)) };
    let pool6 = ipam::Pool6::new(ipv6.subnet, ipv6.gateway);
    let pool6 = pool6.ok_or_else(|| refuse(ipv6.subnet.to_string(), "it has no address for a container"))?;
    Ok((pool, Some(pool6)))
}

/// Forgets flows that would go astray; without it they do so until they pause.
fn forget(flows: Flows) {
    if let Err(error) = conntrack::forget(flows) {
        tracing::debug!(?flows, %error, "cannot forget tracked flows");
    }
}

/// So many random bytes in hexadecimal digits.
fn random_hex(count: usize) -> Result<String, NetError> {
    let mut bytes = vec![0_u8; count];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| NetError::kernel("read random bytes", error))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

impl State {
    /// Forgets a container, unless it is only being attached.
    fn remove(&mut self, id: &str) -> Option<Box<Live>> {
        if let Some(Slot::Pending(_)) = self.endpoints.get(id) {
            return None;
        }
        let Some(Slot::Live(live)) = self.endpoints.remove(id) else { return None };
        self.cables.remove(&live.record.veth);
        Some(live)
    }
}

impl Inner {
    fn kernel_error(&self, step: &str, refused: Refused) -> NetError {
        NetError::kernel(format!("{step} bridge {}", self.config.bridge), refused)
    }

    fn firewall_error(&self, refused: Refused) -> NetError {
        NetError::Firewall { bridge: self.config.bridge.clone(), source: refused.into() }
    }

    fn heal(&self) -> Result<bool, NetError> {
        bridge::settings(&self.config)?;
        let carrier = self.ports.carrier.as_deref();
        for slot in self.state.lock().endpoints.values_mut() {
            if let Slot::Live(live) = slot {
                let place = self.place(&live.record);
                for held in &mut live.held {
                    if held.hold_again(carrier) {
                        self.carry(held, place)?;
                    }
                }
            }
        }
        let mut firewall = self.firewall.lock();
        if firewall.intact().map_err(|refused| self.firewall_error(refused))? {
            return Ok(false);
        }
        tracing::warn!(table = firewall.table(), "packet filter was changed by somebody else; rebuilding it");
        firewall.rebuild().map_err(|refused| self.firewall_error(refused))?;
        Ok(true)
    }

    /// Takes this very address, out of the pool if it is there.
    fn reserve(&self, ip: Ipv4Addr) -> Result<(), AttachError> {
        let outcome = self.addresses.lock().reserve(ip);
        match outcome {
            Ok(()) => Ok(()),
            Err(ipam::Refusal::Taken) => match self.pool.take(Some(ip)) {
                Some(ready) => {
                    self.state.lock().cables.remove(&ready.veth);
                    Ok(())
                }
                None => Err(AttachError::AddressTaken(ip.into())),
            },
            Err(_) => Err(AttachError::AddressOutside(ip)),
        }
    }

    fn allocate(&self) -> Result<Ipv4Addr, AttachError> {
        let outcome = self.addresses.lock().allocate();
        outcome.map_err(|_| self.exhausted("IPv4", self.subnet.to_string()))
    }

    /// The IPv6 address of an endpoint: none where there is no IPv6.
    fn obtain6(&self, wanted: Option<Ipv6Addr>) -> Result<Option<Ipv6Addr>, AttachError> {
        let Some(addresses) = &self.addresses6 else {
            return wanted.map_or(Ok(None), |ip| Err(AttachError::Address6Outside(ip)));
        };
        let mut addresses = addresses.lock();
        match wanted {
            None => addresses.allocate().map(Some).map_err(|_| {
                let subnet = self.config.ipv6.map(|ipv6| ipv6.subnet.to_string());
                self.exhausted("IPv6", subnet.unwrap_or_default())
            }),
            Some(ip) => match addresses.reserve(ip) {
                Ok(()) => Ok(Some(ip)),
                Err(ipam::Refusal::Outside) => Err(AttachError::Address6Outside(ip)),
                Err(_) => Err(AttachError::AddressTaken(ip.into())),
            },
        }
    }

    fn exhausted(&self, family: &'static str, subnet: String) -> AttachError {
        AttachError::NoAddress { family, network: self.config.name.clone(), subnet }
    }

    fn release(&self, ip: Ipv4Addr, ip6: Option<Ipv6Addr>) {
        self.addresses.lock().release(ip);
        if let (Some(ip), Some(addresses)) = (ip6, &self.addresses6) {
            addresses.lock().release(ip);
        }
    }

    fn attached(&self, name: &str) -> AttachError {
        AttachError::Attached { name: name.to_owned(), network: self.config.name.clone() }
    }

    fn unpublish(&self, held: Vec<Held>) {
        let ports: Vec<_> = held.iter().map(|held| publish::host_port(held.published)).collect();
        if !ports.is_empty()
            && let Err(refused) = self.firewall.lock().withdraw(&ports)
        {
            tracing::warn!(error = %refused, "cannot withdraw published ports");
        }
        if let Some(carrier) = &self.ports.carrier {
            let carried = held.iter().filter(|held| held.carried().is_some());
            let carried: Vec<_> = carried.map(|held| publish::host_port(held.published)).collect();
            if !carried.is_empty() {
                carrier.drop_off(&carried);
            }
        }
        publish::give_back(&mut self.ports.claims.lock(), held);
    }

    /// Hands a port's socket to the carrier, if it is one that a carrier serves.
    fn carry(&self, held: &Held, place: Place) -> Result<(), NetError> {
        let (Some(carrier), Some(socket)) = (&self.ports.carrier, held.carried()) else { return Ok(()) };
        let Published { host_ip, container_port, .. } = held.published;
        let port = publish::host_port(held.published);
        let target = SocketAddr::new(place.behind(host_ip), container_port);
        carrier.carry(port, socket, target).map_err(|error| {
            NetError::kernel(format!("have port {}/{} of {host_ip} served", port.port, port.protocol), error)
        })
    }

    /// The addresses that lead to a container; a network may have lost its IPv6 half with a restart.
    fn place(&self, record: &EndpointRecord) -> Place {
        let ip6 = record.ipv6.filter(|_| self.addresses6.is_some()).map(|place| place.ip);
        Place { ip: record.ip, ip6 }
    }

    /// A namespace on the bridge. The addresses stay the caller's when it fails.
    fn make(&self, ip: Ipv4Addr, ip6: Option<Ipv6Addr>, mac: MacAddr) -> Result<Ready, NetError> {
        let (netns, mut inside) = netns::create(ip6.is_some())?;
        let interface = format!("{}0", self.config.interface);
        let (gateway, gateway6) = self.gateways();
        let veth = self.lay_cable(netns.as_fd(), &interface, mac)?;
        let wired = self.set_up(&mut inside, &interface, ip, ip6, |changes| {
            changes.up(LOOPBACK_INDEX);
        });
        let wired = wired.and_then(|()| {
            let gateways = gateway.map(IpAddr::from).into_iter().chain(gateway6.map(IpAddr::from));
            for gateway in gateways {
                let routed = inside.change(|changes| changes.default_route(gateway));
                routed.map_err(|refused| NetError::kernel("give a container its default route", refused))?;
            }
            self.config.resolver.then(|| resolver_sockets(netns.as_fd())).transpose()
        });
        match wired {
            Ok(resolver) => Ok(Ready { netns, ip, ip6, mac, veth, resolver }),
            Err(error) => {
                self.state.lock().cables.remove(&veth);
                Err(error)
            }
        }
    }

    /// A cable from the bridge into a namespace that is there; gives its name on this side.
    fn extend(
        &self,
        netns: BorrowedFd<'_>,
        number: usize,
        (ip, ip6, mac): (Ipv4Addr, Option<Ipv6Addr>, MacAddr),
    ) -> Result<(String, String), NetError> {
        let interface = format!("{}{number}", self.config.interface);
        let veth = self.lay_cable(netns, &interface, mac)?;
        let enter = |error| NetError::kernel("enter the network namespace of a container", error);
        let without = ip6.is_none();
        let wired = netns::within(netns, || {
            bridge::switch_ipv6(&interface, without);
            Route::open()
        });
        let wired =
            wired.map_err(enter).and_then(|mut inside| self.set_up(&mut inside, &interface, ip, ip6, |_| {}));
        match wired {
            Ok(()) => Ok((veth, interface)),
            Err(error) => {
                self.state.lock().cables.remove(&veth);
                // The namespace lives on, so the cable would.
                self.pool.ask(Job::Unplug(veth, Ipv4Addr::UNSPECIFIED, None));
                Err(error)
            }
        }
    }

    /// What an endpoint is told of the way out.
    fn gateways(&self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let out = !self.config.internal;
        (out.then_some(self.gateway), self.config.ipv6.filter(|_| out).map(|ipv6| ipv6.gateway))
    }

    fn lay_cable(&self, netns: BorrowedFd<'_>, peer: &str, peer_mac: MacAddr) -> Result<String, NetError> {
        let veth = format!("veth{}", &random_hex(4)?[..7]);
        self.state.lock().cables.insert(veth.clone());
        let cable = Cable { name: &veth, bridge: self.index, mtu: self.config.mtu, netns, peer, peer_mac };
        let laid = self.route.lock().change(|changes| changes.new_cable(&cable));
        let laid = laid.map_err(|refused| self.port_error(refused)).and_then(|()| {
            // Before it is up, so that it never gets a link-local address.
            bridge::switch_ipv6(&veth, true);
            let opened = self.route.lock().change(|changes| changes.open_port(&veth, self.isolated));
            opened.map_err(|refused| self.kernel_error("open a port of", refused))
        });
        match laid {
            Ok(()) => Ok(veth),
            Err(error) => {
                self.state.lock().cables.remove(&veth);
                Err(error)
            }
        }
    }

    /// Brings up the end of a cable inside, with its addresses.
    fn set_up(
        &self,
        inside: &mut Route,
        interface: &str,
        ip: Ipv4Addr,
        ip6: Option<Ipv6Addr>,
        also: impl FnOnce(&mut Changes),
    ) -> Result<(), NetError> {
        let failed =
            |refused| NetError::kernel(format!("give {ip} to interface {interface} of a container"), refused);
        let index = inside.link(interface).map_err(failed)?.map_or(0, |link| link.index);
        let address = Ipv4Net::new(ip, self.subnet.prefix());
        let prefix6 = self.config.ipv6.map_or(128, |ipv6| ipv6.subnet.prefix());
        let changed = inside.change(|changes| {
            also(changes);
            changes.up(index);
            changes.address(index, address);
            ip6.into_iter().for_each(|ip| changes.address6(index, ip, prefix6));
        });
        changed.map_err(failed)
    }

    fn port_error(&self, refused: Refused) -> NetError {
        let what = match refused.errno {
            rustix::io::Errno::XFULL => "add a container to (it has the 1023 ports a bridge can have)",
            rustix::io::Errno::NODEV | rustix::io::Errno::INVAL => {
                "add a container to (it may have been deleted)"
            }
            _ => "add a container to",
        };
        self.kernel_error(what, refused)
    }
}
