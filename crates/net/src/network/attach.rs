//! One attach, and what undoes it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{Inner, Live, Slot, forget};
use crate::conntrack::Flows;
use crate::endpoint::{EndpointRecord, EndpointRequest, Ipv6Place, MacAddr, PortBinding, Protocol};
use crate::error::{AttachError, NetError};
use crate::listen::ResolverSockets;
use crate::pool::{Job, Ready};
use crate::publish::{self, Applicant, Held, Place};
use crate::rules::Family;

/// How long an attach waits for a namespace that is being made when no address is left.
const LAST_WAIT: Duration = Duration::from_millis(200);

/// An attach under way; dropped without `commit`, it leaves nothing behind.
pub(super) struct Attempt<'a> {
    inner: &'a Inner,
    id: &'a str,
    got: Option<Got>,
    held: Vec<Held>,
}

/// A container that is attached; the namespace only when it was made for it.
pub(super) struct Attached {
    pub(super) netns: Option<OwnedFd>,
    pub(super) resolver: Option<ResolverSockets>,
    pub(super) endpoint: EndpointRecord,
}

/// What an attach has got.
enum Got {
    /// A namespace.
    Ready(Ready),
    /// An interface in somebody's.
    Plugged { ip: Ipv4Addr, ip6: Option<Ipv6Addr>, mac: MacAddr, veth: String, interface: String },
}

impl<'a> Attempt<'a> {
    /// Claims the container's id.
    pub(super) fn begin(inner: &'a Inner, id: &'a str, name: &str) -> Result<Self, AttachError> {
        let mut state = inner.state.lock();
        if state.closed {
            return Err(AttachError::Gone(inner.config.name.clone()));
        }
        if state.endpoints.contains_key(id) {
            return Err(inner.attached(name));
        }
        state.endpoints.insert(id.to_owned(), Slot::Pending(name.to_owned()));
        drop(state);
        Ok(Self { inner, id, got: None, held: Vec::new() })
    }

    /// Takes a namespace from the pool, or makes one.
    pub(super) fn obtain(&mut self, request: &EndpointRequest) -> Result<Place, AttachError> {
        let inner = self.inner;
        let any = request.mac.is_none() && request.ip6.is_none();
        let pooled = if any { inner.pool.take(request.ip) } else { None };
        let ready = match pooled {
            Some(ready) => ready,
            None => {
                let (ip, ip6, mac) = self.addresses(request)?;
                inner.make(ip, ip6, mac).inspect_err(|_| inner.release(ip, ip6))?
            }
        };
        let place = Place { ip: ready.ip, ip6: ready.ip6 };
        self.got = Some(Got::Ready(ready));
        Ok(place)
    }

    /// Makes an interface in a namespace that is there.
    pub(super) fn plug(
        &mut self,
        request: &EndpointRequest,
        netns: BorrowedFd<'_>,
        number: usize,
    ) -> Result<Place, AttachError> {
        let inner = self.inner;
        let (ip, ip6, mac) = self.addresses(request)?;
        let plugged = inner.extend(netns, number, (ip, ip6, mac));
        let (veth, interface) = plugged.inspect_err(|_| inner.release(ip, ip6))?;
        self.got = Some(Got::Plugged { ip, ip6, mac, veth, interface });
        Ok(Place { ip, ip6 })
    }

    fn addresses(
        &self,
        request: &EndpointRequest,
    ) -> Result<(Ipv4Addr, Option<Ipv6Addr>, MacAddr), AttachError> {
        let inner = self.inner;
        let ip = match request.ip {
            Some(ip) => inner.reserve(ip).map(|()| ip)?,
            None => inner.allocate().or_else(|error| self.last_address().ok_or(error))?,
        };
        let ip6 = inner.obtain6(request.ip6).inspect_err(|_| inner.release(ip, None))?;
        Ok((ip, ip6, request.mac.unwrap_or_else(|| MacAddr::of_ip(ip))))
    }

    /// The last free addresses may be in the pool.
    fn last_address(&self) -> Option<Ipv4Addr> {
        let ready = self.inner.pool.take_made(LAST_WAIT)?;
        self.inner.state.lock().cables.remove(&ready.veth);
        if let (Some(ip), Some(addresses)) = (ready.ip6, &self.inner.addresses6) {
            addresses.lock().release(ip);
        }
        Some(ready.ip)
    }

    /// Gets the host ports and leads them to the container.
    pub(super) fn publish(&mut self, ports: &[PortBinding], who: Applicant<'_>) -> Result<(), AttachError> {
        self.held = publish(self.inner, ports, who)?;
        Ok(())
    }

    /// From here on nothing fails: the container is attached.
    pub(super) fn commit(mut self, request: &EndpointRequest, endpoint_id: String) -> Attached {
        let inner = self.inner;
        let (netns, resolver, ip, ip6, mac, veth, interface) =
            match self.got.take().expect("obtain comes before commit") {
                Got::Ready(ready) => {
                    let interface = format!("{}0", inner.config.interface);
                    let Ready { netns, ip, ip6, mac, veth, resolver } = ready;
                    (Some(netns), resolver, ip, ip6, mac, veth, interface)
                }
                Got::Plugged { ip, ip6, mac, veth, interface } => (None, None, ip, ip6, mac, veth, interface),
            };
        let (gateway, gateway6) = inner.gateways();
        let prefix6 = inner.config.ipv6.map_or(128, |ipv6| ipv6.subnet.prefix());
        let record = EndpointRecord {
            network: inner.config.name.clone(),
            endpoint_id,
            name: request.name.clone(),
            interface,
            veth,
            ip,
            prefix: inner.subnet.prefix(),
            gateway,
            mac,
            ports: self.held.iter().map(|held| held.published).collect(),
            ipv6: ip6.map(|ip| Ipv6Place { ip, prefix: prefix6, gateway: gateway6 }),
        };
        let live = Live { record: record.clone(), held: std::mem::take(&mut self.held) };
        inner.state.lock().endpoints.insert(self.id.to_owned(), Slot::Live(Box::new(live)));
        Attached { netns, resolver, endpoint: record }
    }
}

/// Gets host ports and leads them to a container; all of them or none.
pub(super) fn publish(
    inner: &Inner,
    ports: &[PortBinding],
    who: Applicant<'_>,
) -> Result<Vec<Held>, AttachError> {
    let mut held = Vec::with_capacity(ports.len());
    let taken = ports.iter().try_for_each(|binding| {
        let name_of = |id: &str| inner.ports.name_of(id);
        let carrier = inner.ports.carrier.as_deref();
        held.extend(publish::take(&mut inner.ports.claims.lock(), binding, who, carrier, &name_of)?);
        Ok(())
    });
    let led = taken.and_then(|()| Ok(lead_to(inner, &held, who.place)?));
    match led {
        Ok(()) => {
            if !held.is_empty() {
                inner.ports.name(who.id, who.name);
            }
            Ok(held)
        }
        Err(error) => {
            inner.unpublish(held);
            Err(error)
        }
    }
}

fn lead_to(inner: &Inner, held: &[Held], place: Place) -> Result<(), NetError> {
    let elements: Vec<_> = held.iter().filter_map(|held| publish::element(held.published, place)).collect();
    inner.firewall.lock().publish(&elements).map_err(|refused| inner.firewall_error(refused))?;
    let udp = elements.iter().filter(|element| element.from.protocol == Protocol::Udp);
    udp.for_each(|element| forget(Flows::ToPort(Family::of(element.ip), element.from.port)));
    held.iter().try_for_each(|held| inner.carry(held, place))
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let inner = self.inner;
        let mut state = inner.state.lock();
        if let Some(Slot::Pending(_)) = state.endpoints.get(self.id) {
            state.endpoints.remove(self.id);
        }
        drop(state);
        if !self.held.is_empty() {
            inner.ports.forget(self.id);
        }
        inner.unpublish(std::mem::take(&mut self.held));
        match self.got.take() {
            None => {}
            Some(Got::Ready(ready)) if ready.mac == MacAddr::of_ip(ready.ip) => inner.pool.put(ready),
            Some(Got::Ready(ready)) => {
                inner.state.lock().cables.remove(&ready.veth);
                inner.release(ready.ip, ready.ip6);
            }
            Some(Got::Plugged { ip, ip6, veth, .. }) => {
                inner.state.lock().cables.remove(&veth);
                inner.pool.ask(Job::Unplug(veth, ip, ip6));
            }
        }
    }
}
