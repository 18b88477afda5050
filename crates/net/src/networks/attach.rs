//! One attach, and what undoes it.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::{INTERFACE, Inner, Live, Slot, forget};
use crate::conntrack::Flows;
use crate::endpoint::{Attachment, EndpointRecord, EndpointRequest, MacAddr, PortBinding, Protocol};
use crate::error::{AttachError, NetError};
use crate::pool::Ready;
use crate::publish::{self, Applicant, Held};

/// How long an attach waits for a namespace that is being made when no address is left.
const LAST_WAIT: Duration = Duration::from_millis(200);

/// An attach under way; dropped without `commit`, it leaves nothing behind.
pub(super) struct Attempt<'a> {
    inner: &'a Inner,
    id: &'a str,
    ready: Option<Ready>,
    held: Vec<Held>,
}

impl<'a> Attempt<'a> {
    /// Claims the container's id.
    pub(super) fn begin(inner: &'a Inner, id: &'a str, name: &str) -> Result<Self, AttachError> {
        let mut state = inner.state.lock();
        if state.endpoints.contains_key(id) {
            return Err(AttachError::Attached(name.to_owned()));
        }
        state.endpoints.insert(id.to_owned(), Slot::Pending(name.to_owned()));
        drop(state);
        Ok(Self { inner, id, ready: None, held: Vec::new() })
    }

    /// Takes a namespace from the pool, or makes one.
    pub(super) fn obtain(&mut self, request: &EndpointRequest) -> Result<Ipv4Addr, AttachError> {
        let inner = self.inner;
        let pooled = if request.mac.is_none() { inner.pool.take(request.ip) } else { None };
        let ready = match pooled {
            Some(ready) => ready,
            None => {
                let ip = match request.ip {
                    Some(ip) => inner.reserve(ip).map(|()| ip)?,
                    None => inner.allocate().or_else(|error| self.last_address().ok_or(error))?,
                };
                let mac = request.mac.unwrap_or_else(|| MacAddr::of_ip(ip));
                inner.make(ip, mac).inspect_err(|_| inner.addresses.lock().release(ip))?
            }
        };
        let ip = ready.ip;
        self.ready = Some(ready);
        Ok(ip)
    }

    /// The last free addresses may be in the pool.
    fn last_address(&self) -> Option<Ipv4Addr> {
        let ready = self.inner.pool.take_made(LAST_WAIT)?;
        self.inner.state.lock().cables.remove(&ready.veth);
        Some(ready.ip)
    }

    /// Gets the host ports and leads them to the container.
    pub(super) fn publish(&mut self, ports: &[PortBinding], who: Applicant<'_>) -> Result<(), AttachError> {
        let inner = self.inner;
        let name_of = |id: &str| inner.state.lock().name_of(id);
        for binding in ports {
            let held = publish::take(&mut inner.ports.lock(), binding, who, &name_of)?;
            self.held.push(held);
        }
        self.lead_to(who.ip)?;
        Ok(())
    }

    fn lead_to(&self, ip: Ipv4Addr) -> Result<(), NetError> {
        let inner = self.inner;
        let elements: Vec<_> = self.held.iter().map(|held| publish::element(held.published, ip)).collect();
        inner.firewall.lock().publish(&elements).map_err(|refused| inner.firewall_error(refused))?;
        let udp = self.held.iter().filter(|held| held.published.protocol == Protocol::Udp);
        udp.for_each(|held| forget(Flows::ToPort(held.published.host_port)));
        Ok(())
    }

    /// From here on nothing fails: the container is attached.
    pub(super) fn commit(mut self, request: &EndpointRequest, endpoint_id: String) -> Attachment {
        let ready = self.ready.take().expect("obtain comes before commit");
        let record = EndpointRecord {
            endpoint_id,
            name: request.name.clone(),
            interface: INTERFACE.to_owned(),
            veth: ready.veth,
            ip: ready.ip,
            prefix: self.inner.subnet.prefix(),
            gateway: self.inner.gateway,
            mac: ready.mac,
            ports: self.held.iter().map(|held| held.published).collect(),
        };
        let live = Live { record: record.clone(), held: std::mem::take(&mut self.held) };
        self.inner.state.lock().endpoints.insert(self.id.to_owned(), Slot::Live(Box::new(live)));
        Attachment { netns: ready.netns, endpoint: record }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let inner = self.inner;
        let mut state = inner.state.lock();
        if let Some(Slot::Pending(_)) = state.endpoints.get(self.id) {
            state.endpoints.remove(self.id);
        }
        drop(state);
        inner.unpublish(std::mem::take(&mut self.held));
        let Some(ready) = self.ready.take() else { return };
        if ready.mac == MacAddr::of_ip(ready.ip) {
            inner.pool.put(ready);
        } else {
            inner.state.lock().cables.remove(&ready.veth);
            inner.addresses.lock().release(ready.ip);
        }
    }
}
