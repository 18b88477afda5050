//! The bridge network of one engine.
//!
//! Life cycle: [`Networks::open`], then [`Networks::restore`] for every container that outlived the last
//! engine, then [`Networks::sweep`]; from there on [`Networks::attach`] and [`Networks::detach`]. Dropping it
//! ends its threads and lets go of the pool; the bridge, the packet filter and the containers stay, so that
//! an engine can be replaced under running containers.

mod attach;
mod background;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;

use self::attach::Attempt;
use crate::bridge;
use crate::cidr::Ipv4Net;
use crate::conntrack::{self, Flows};
use crate::endpoint::{Attachment, EndpointRecord, EndpointRequest, MacAddr, Protocol};
use crate::error::{AttachError, NetError};
use crate::firewall::Firewall;
use crate::forward::Dropping;
use crate::ipam;
use crate::link::{Cable, Kind, Route};
use crate::netlink::Refused;
use crate::netns;
use crate::pool::{Job, Pool, Ready};
use crate::ports::Ports;
use crate::publish::{self, Applicant, Held};
use crate::rules;
use crate::watch::Watch;

const INTERFACE: &str = "eth0";
const LOOPBACK_INDEX: u32 = 1;

/// What one engine's bridge network should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetConfig {
    /// Name of the bridge interface, at most 15 bytes of `[a-zA-Z0-9_.-]`.
    pub bridge: String,
    /// Name of the nftables table (family ip), one per engine; at most 64 bytes of `[a-zA-Z0-9_.-]`.
    pub table: String,
    /// The subnet; none means the subnet that the bridge has already, else the first of Docker's default
    /// pools that overlaps no route of the host.
    pub subnet: Option<Ipv4Net>,
    /// The bridge's own address; none means the first one of the subnet.
    pub gateway: Option<Ipv4Addr>,
    /// MTU of the bridge and of containers' interfaces, in bytes.
    pub mtu: u32,
    /// How many network namespaces are kept ready, of each kind.
    pub pool: usize,
    /// Whether containers on the bridge reach each other.
    pub icc: bool,
}

impl NetConfig {
    /// Docker's defaults for a bridge and a table of these names.
    pub fn new(bridge: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            bridge: bridge.into(),
            table: table.into(),
            subnet: None,
            gateway: None,
            mtu: 1500,
            pool: 16,
            icc: true,
        }
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
pub struct Networks {
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
    ports: Mutex<Ports>,
    state: Mutex<State>,
    pool: Pool,
}

#[derive(Debug, Default)]
struct State {
    endpoints: HashMap<String, Slot>,
    /// Names of all cables that are ours, also of those that are being made.
    cables: HashSet<String>,
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

impl Networks {
    /// Makes or re-uses the bridge, and checks that the kernel can hold its packet filter. A packet filter
    /// that is there already stays as it is until [`Networks::sweep`].
    ///
    /// Class `Unavailable` when nftables is missing: then only host networking and none are to be had, and
    /// [`netns::fresh`] makes the namespaces of the latter.
    pub fn open(config: NetConfig) -> Result<Self, NetError> {
        config.validate()?;
        let mut route = Route::open().map_err(|error| NetError::kernel("open an rtnetlink socket", error))?;
        let plan = bridge::plan(&mut route, &config)?;
        let firewall = open_firewall(&config, plan.subnet)?;
        let index = plan.apply(&mut route, &config)?;
        let addresses = ipam::Pool::new(plan.subnet, plan.gateway).ok_or_else(|| NetError::Subnet {
            bridge: config.bridge.clone(),
            subnet: plan.subnet,
            why: "it has no address for a container".into(),
        })?;
        // Addresses in the pool are taken; a small subnet must not be eaten by it.
        let connected = config.pool.min(usize::try_from(addresses.free() / 4).unwrap_or(usize::MAX));
        let inner = Inner {
            pool: Pool::new(connected, config.pool.min(8)),
            subnet: plan.subnet,
            gateway: plan.gateway,
            isolated: !config.icc && !bridge::filters_bridged_packets(),
            index,
            route: Mutex::new(route),
            firewall: Mutex::new(firewall),
            addresses: Mutex::new(addresses),
            ports: Mutex::new(Ports::new(ephemeral_range())),
            state: Mutex::default(),
            config,
        };
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(|error| NetError::kernel("create an event descriptor", error))?;
        Ok(Self { inner: Arc::new(inner), threads: Mutex::default(), started: AtomicBool::new(false), stop })
    }

    /// Takes over the endpoint of a container that outlived the engine: its address, its ports.
    ///
    /// Must be called for all of them before [`Networks::sweep`], which deletes what nobody claimed.
    pub fn restore(&self, id: &str, record: &EndpointRecord) -> Result<(), AttachError> {
        let inner = &self.inner;
        if inner.state.lock().endpoints.contains_key(id) {
            return Err(AttachError::Attached(id.to_owned()));
        }
        inner.reserve(record.ip)?;
        let mut held = Vec::with_capacity(record.ports.len());
        for port in &record.ports {
            match publish::retake(&mut inner.ports.lock(), *port, id) {
                Ok(port) => held.push(port),
                // Two records with one port: the first keeps it, as in the kernel.
                Err(other) => {
                    tracing::warn!(%id, %other, port = port.host_port, "published port has another owner")
                }
            }
        }
        let elements: Vec<_> = held.iter().map(|held| publish::element(held.published, record.ip)).collect();
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
        let ip = attempt.obtain(request)?;
        let who = Applicant { id, name: &request.name, endpoint_id: &endpoint_id, ip };
        attempt.publish(&request.ports, who)?;
        Ok(attempt.commit(request, endpoint_id))
    }

    /// Withdraws the container's ports at once and gives its address back. The namespace and its cable go
    /// when the last process and descriptor do; nobody waits for that. Unknown containers are ignored.
    pub fn detach(&self, id: &str) {
        self.take_off(id, false);
    }

    /// As [`Networks::detach`], for a container in whose namespace others live on: the cable is cut before its
    /// address becomes another's.
    pub fn detach_shared(&self, id: &str) {
        self.take_off(id, true);
    }

    fn take_off(&self, id: &str, shared: bool) {
        let inner = &self.inner;
        let Some(live) = inner.state.lock().remove(id) else { return };
        let udp = live.held.iter().any(|held| held.published.protocol == Protocol::Udp);
        inner.unpublish(live.held);
        if shared {
            inner.pool.ask(Job::Unplug(live.record.veth, live.record.ip));
        } else if udp && self.started.load(Ordering::Acquire) {
            inner.pool.ask(Job::Forget(live.record.ip));
        } else {
            inner.addresses.lock().release(live.record.ip);
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

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.inner.config.bridge
    }

    /// The MTU, in bytes.
    pub fn mtu(&self) -> u32 {
        self.inner.config.mtu
    }

    /// Deletes the bridge and the packet filter: for an engine that is removed for good.
    pub fn destroy(self) -> Result<(), NetError> {
        self.end_threads();
        let inner = &self.inner;
        inner.firewall.lock().delete().map_err(|refused| inner.firewall_error(refused))?;
        inner
            .route
            .lock()
            .change(|changes| changes.delete(inner.index))
            .map_err(|error| inner.kernel_error("delete", error))
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
        inner.firewall.lock().settle().map_err(|refused| inner.firewall_error(refused))?;
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

impl Drop for Networks {
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
    let table = rules::for_bridge(&config.table, &config.bridge, subnet, config.icc);
    let mut firewall = Firewall::open(table).map_err(fail)?;
    // Building it is the only honest test of what the kernel can do.
    if !firewall.exists().map_err(|refused| fail(refused.into()))? {
        firewall.rebuild().map_err(|refused| fail(refused.into()))?;
    }
    Ok(firewall)
}

fn ephemeral_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    Ports::parse_range(&text).unwrap_or(crate::ports::DEFAULT_EPHEMERAL)
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

    fn name_of(&self, id: &str) -> String {
        match self.endpoints.get(id) {
            Some(Slot::Live(live)) => live.record.name.clone(),
            Some(Slot::Pending(name)) => name.clone(),
            None => id.to_owned(),
        }
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
        bridge::settings(&self.config.bridge)?;
        for slot in self.state.lock().endpoints.values_mut() {
            if let Slot::Live(live) = slot {
                live.held.iter_mut().for_each(Held::hold_again);
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
                None => Err(AttachError::AddressTaken(ip)),
            },
            Err(_) => Err(AttachError::AddressOutside(ip)),
        }
    }

    fn allocate(&self) -> Result<Ipv4Addr, AttachError> {
        let outcome = self.addresses.lock().allocate();
        outcome
            .map_err(|_| AttachError::NoAddress { bridge: self.config.bridge.clone(), subnet: self.subnet })
    }

    fn unpublish(&self, held: Vec<Held>) {
        let ports: Vec<_> = held.iter().map(|held| publish::host_port(held.published)).collect();
        if !ports.is_empty()
            && let Err(refused) = self.firewall.lock().withdraw(&ports)
        {
            tracing::warn!(error = %refused, "cannot withdraw published ports");
        }
        // Sockets first: whoever gets a claim must be able to bind.
        drop(held);
        let mut claims = self.ports.lock();
        ports.into_iter().for_each(|port| claims.release(port));
    }

    /// A namespace on the bridge. The address stays the caller's when it fails.
    fn make(&self, ip: Ipv4Addr, mac: MacAddr) -> Result<Ready, NetError> {
        let veth = format!("veth{}", &random_hex(4)?[..7]);
        self.state.lock().cables.insert(veth.clone());
        match self.wire(&veth, ip, mac) {
            Ok(netns) => Ok(Ready { netns, ip, mac, veth }),
            Err(error) => {
                self.state.lock().cables.remove(&veth);
                Err(error)
            }
        }
    }

    fn wire(&self, veth: &str, ip: Ipv4Addr, mac: MacAddr) -> Result<OwnedFd, NetError> {
        let (netns, mut inside) = netns::create()?;
        let cable = Cable {
            name: veth,
            bridge: self.index,
            mtu: self.config.mtu,
            netns: netns.as_fd(),
            peer: INTERFACE,
            peer_mac: mac,
        };
        self.route
            .lock()
            .change(|changes| changes.new_cable(&cable))
            .map_err(|refused| self.port_error(refused))?;
        // Before it is up, so that it never gets a link-local address.
        bridge::without_ipv6(veth);
        self.route
            .lock()
            .change(|changes| changes.open_port(veth, self.isolated))
            .map_err(|refused| self.kernel_error("open a port of", refused))?;
        let failed =
            |refused| NetError::kernel(format!("give {ip} to interface {INTERFACE} of a container"), refused);
        let index = inside.link(INTERFACE).map_err(failed)?.map_or(0, |link| link.index);
        let address = Ipv4Net::new(ip, self.subnet.prefix());
        inside
            .change(|changes| {
                changes.up(LOOPBACK_INDEX);
                changes.up(index);
                changes.address(index, address);
                changes.default_route(self.gateway);
            })
            .map_err(failed)?;
        Ok(netns)
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
