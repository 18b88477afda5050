//! Getting host ports: our own table of claims first, then the host's, by binding.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::carrier::Carrier;
use crate::endpoint::{EndpointRequest, PortBinding, Protocol, Published};
use crate::error::{AttachError, PERMISSION_DENIED};
use crate::holder;
use crate::ports::{HostPort, Ports};
use crate::rules::Element;

/// Connections that wait until a carrier takes them.
const BACKLOG: i32 = 1024;

/// A host port that is ours. The socket keeps others away: what is translated never reaches it. What is not, on
/// an IPv6 address, is the carrier's.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) published: Published,
    socket: Option<OwnedFd>,
    /// Whether it is the carrier's.
    carried: bool,
}

/// Whether a carrier serves sockets at this address.
fn is_carried(carrier: Option<&dyn Carrier>, ip: IpAddr) -> bool {
    carrier.is_some_and(|carrier| ip.is_ipv6() || carrier.serves_all())
}

impl Held {
    /// Binds the port again if that failed when the engine was restarted; says whether there is a socket since.
    pub(crate) fn hold_again(&mut self, carrier: Option<&dyn Carrier>) -> bool {
        if self.socket.is_some() {
            return false;
        }
        self.socket = hold(host_port(self.published), carrier, false).unwrap_or_default();
        self.socket.is_some()
    }

    /// The socket that a carrier serves, if there is one.
    pub(crate) fn carried(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| self.carried).map(AsFd::as_fd)
    }
}

/// For whom ports are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Applicant<'a> {
    /// Id of the container.
    pub(crate) id: &'a str,
    /// Its name, for texts.
    pub(crate) name: &'a str,
    /// Its endpoint, for texts.
    pub(crate) endpoint_id: &'a str,
    /// Its addresses.
    pub(crate) place: Place,
}

/// A container's addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) ip: Ipv4Addr,
    pub(crate) ip6: Option<Ipv6Addr>,
}

impl Place {
    /// Where to lead who comes to an address of the host: to the same family, if the container has that.
    pub(crate) fn behind(self, host_ip: IpAddr) -> IpAddr {
        self.ip6.filter(|_| host_ip.is_ipv6()).map_or(IpAddr::V4(self.ip), IpAddr::V6)
    }
}

/// Why one host port is not to be had.
enum Denial {
    /// The container with this id has it.
    Ours(String),
    /// The host refused.
    Host(Errno, Option<(String, u32)>),
}

/// Refuses what can be known to be wrong without asking the host.
pub(crate) fn validate(request: &EndpointRequest) -> Result<(), AttachError> {
    for binding in &request.ports {
        let invalid = |why| {
            let PortBinding { container_port, protocol, .. } = *binding;
            Err(AttachError::InvalidPort { container_port, protocol, why })
        };
        if binding.container_port == 0 {
            return invalid("container port 0 cannot be published");
        }
        match binding.host_port {
            Some((first, last)) if first > last => {
                return invalid("the range of host ports ends before it starts");
            }
            Some((0, last)) if last > 0 => return invalid("host port 0 is not a port"),
            _ => {}
        }
    }
    Ok(())
}

/// One binding on its way to host ports: the same number on one or two addresses.
struct Search<'a> {
    binding: &'a PortBinding,
    who: Applicant<'a>,
    /// The host's addresses.
    ips: Vec<IpAddr>,
    /// Who serves what is not translated.
    carrier: Option<&'a dyn Carrier>,
}

/// Gets a host port for the binding, at each address that it means. `name_of` gives the name of a container of ours
/// by its id; `carrier` serves what is not translated.
pub(crate) fn take(
    ports: &mut Ports,
    binding: &PortBinding,
    who: Applicant<'_>,
    carrier: Option<&dyn Carrier>,
    name_of: &dyn Fn(&str) -> String,
) -> Result<Vec<Held>, AttachError> {
    let search = Search { binding, who, ips: host_ips(binding, who.place, carrier.is_some())?, carrier };
    let Some((first, last)) = binding.host_port.filter(|(first, _)| *first != 0) else {
        return search.ephemeral(ports);
    };
    let mut denial = None;
    for port in first..=last {
        match search.all(ports, port, true) {
            Ok(held) => return Ok(held),
            Err(reason) => denial = Some(reason),
        }
    }
    let (name, endpoint_id) = (who.name.to_owned(), who.endpoint_id.to_owned());
    Err(match denial.expect("a range has at least one port") {
        (HostPort { ip, .. }, Denial::Ours(id)) => {
            let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
            AttachError::Allocated { name, endpoint_id, host_ip: ip, ports, holder: name_of(&id) }
        }
        (wanted, Denial::Host(errno, process)) => search.refused(wanted, errno, process),
    })
}

/// The host's addresses that a binding means: its own, or all of both families as far as something leads from there
/// to the container.
fn host_ips(binding: &PortBinding, place: Place, carried: bool) -> Result<Vec<IpAddr>, AttachError> {
    let leads6 = place.ip6.is_some() || (carried && binding.protocol != Protocol::Sctp);
    match binding.host_ip.map(|ip| ip.to_canonical()) {
        Some(IpAddr::V6(host_ip)) if !leads6 => {
            let PortBinding { container_port, protocol, .. } = *binding;
            Err(AttachError::NoIpv6 { host_ip, container_port, protocol })
        }
        Some(ip) => Ok(vec![ip]),
        None => {
            let six = leads6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            Ok([IpAddr::V4(Ipv4Addr::UNSPECIFIED)].into_iter().chain(six).collect())
        }
    }
}

impl Search<'_> {
    fn ephemeral(&self, ports: &mut Ports) -> Result<Vec<Held>, AttachError> {
        for port in ports.ephemeral() {
            // Who holds an ephemeral port is nobody's question: no search, on to the next.
            match self.all(ports, port, false) {
                Ok(held) => {
                    ports.advance(port);
                    return Ok(held);
                }
                Err((_, Denial::Ours(_) | Denial::Host(Errno::ADDRINUSE | Errno::ACCESS, _))) => {}
                Err((wanted, Denial::Host(errno, _))) => return Err(self.refused(wanted, errno, None)),
            }
        }
        Err(AttachError::NoPort {
            name: self.who.name.to_owned(),
            endpoint_id: self.who.endpoint_id.to_owned(),
            host_ip: self.ips[0],
        })
    }

    /// Takes the port at all addresses, or at none.
    fn all(&self, ports: &mut Ports, port: u16, thorough: bool) -> Result<Vec<Held>, (HostPort, Denial)> {
        let mut held = Vec::with_capacity(self.ips.len());
        for ip in &self.ips {
            let wanted = HostPort { protocol: self.binding.protocol, port, ip: *ip };
            match self.one(ports, wanted, thorough) {
                Ok(one) => held.push(one),
                // The kernel has no IPv6, and nobody asked for it.
                Err(Denial::Host(Errno::AFNOSUPPORT, _))
                    if ip.is_ipv6() && self.binding.host_ip.is_none() => {}
                Err(denial) => {
                    give_back(ports, held);
                    return Err((wanted, denial));
                }
            }
        }
        Ok(held)
    }

    fn one(&self, ports: &mut Ports, wanted: HostPort, thorough: bool) -> Result<Held, Denial> {
        ports.claim(wanted, self.who.id).map_err(Denial::Ours)?;
        let outcome = match hold(wanted, self.carrier, false) {
            // Who has it can be seen where we are, not where ports are published from elsewhere.
            Err(Errno::ADDRINUSE) if thorough && self.carrier.is_none_or(|carrier| !carrier.serves_all()) => {
                let holder = holder::find(wanted);
                let again = if holder.only_waiting {
                    hold(wanted, self.carrier, true)
                } else {
                    Err(Errno::ADDRINUSE)
                };
                again.map_err(|errno| Denial::Host(errno, holder.process))
            }
            other => other.map_err(|errno| Denial::Host(errno, None)),
        };
        match outcome {
            Ok(socket) => {
                let carried = is_carried(self.carrier, wanted.ip);
                Ok(Held { published: published(self.binding, wanted), socket, carried })
            }
            Err(denial) => {
                ports.release(wanted);
                Err(denial)
            }
        }
    }

    fn refused(&self, wanted: HostPort, errno: Errno, process: Option<(String, u32)>) -> AttachError {
        AttachError::Bind {
            name: self.who.name.to_owned(),
            endpoint_id: self.who.endpoint_id.to_owned(),
            host_ip: wanted.ip,
            host_port: wanted.port,
            container_ip: self.who.place.behind(wanted.ip),
            container_port: self.binding.container_port,
            protocol: self.binding.protocol,
            reason: reason(errno, process),
        }
    }
}

/// Lets go of ports. Sockets first: whoever gets a claim must be able to bind.
pub(crate) fn give_back(ports: &mut Ports, held: Vec<Held>) {
    let claims: Vec<_> = held.iter().map(|held| host_port(held.published)).collect();
    drop(held);
    claims.into_iter().for_each(|claim| ports.release(claim));
}

/// Takes again what a container has held since before the engine was restarted: the socket that the last engine's
/// carrier has, or else a new one. The port stays published even if somebody else has bound it in between: packets
/// are translated first.
pub(crate) fn retake(
    ports: &mut Ports,
    published: Published,
    id: &str,
    carrier: Option<&dyn Carrier>,
) -> Result<Held, String> {
    let wanted = host_port(published);
    ports.claim(wanted, id)?;
    let carried = is_carried(carrier, wanted.ip);
    let inherited = carrier.filter(|_| carried).and_then(|carrier| carrier.inherit(wanted));
    if let Some(socket) = inherited {
        return Ok(Held { published, socket: Some(socket), carried });
    }
    let held = hold(wanted, carrier, false).or_else(|_| hold(wanted, carrier, true));
    let socket = held.unwrap_or_else(|errno| {
        tracing::warn!(
            port = %format_args!("{}:{}/{}", wanted.ip, wanted.port, wanted.protocol),
            error = %errno,
            "cannot bind a published port again"
        );
        None
    });
    Ok(Held { published, socket, carried })
}

/// Binds the port. On an address that a carrier serves it listens, too. SCTP sockets are a module that few
/// hosts have loaded: there our own table of claims must do, unless nothing but a carrier leads to the container.
fn hold(wanted: HostPort, carrier: Option<&dyn Carrier>, reuse: bool) -> Result<Option<OwnedFd>, Errno> {
    let carried = is_carried(carrier, wanted.ip);
    let kind = match wanted.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp if carrier.is_some_and(|carrier| carrier.serves_all()) => {
            return Err(Errno::PROTONOSUPPORT);
        }
        Protocol::Sctp => return Ok(None),
    };
    // A carrier is told of which address a packet was sent to by IPv6 sockets alone, which do for IPv4, too.
    let mapped = match wanted.ip {
        IpAddr::V4(ip) if carried && kind == SocketType::DGRAM => Some(ip.to_ipv6_mapped()),
        _ => None,
    };
    let family = match wanted.ip {
        IpAddr::V4(_) if mapped.is_none() => AddressFamily::INET,
        _ => AddressFamily::INET6,
    };
    let socket = match carrier {
        Some(carrier) => carrier.socket(family, kind)?,
        None => socket_with(family, kind, SocketFlags::CLOEXEC, None)?,
    };
    // Connections that a carrier has ended may linger; another listener is refused all the same.
    if reuse || (carried && kind == SocketType::STREAM) {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    if wanted.ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    } else if mapped.is_some() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &SocketAddr::new(mapped.map_or(wanted.ip, IpAddr::V6), wanted.port))?;
    if !carried && kind == SocketType::DGRAM {
        // Nobody reads it; the kernel raises this to its minimum.
        sockopt::set_socket_recv_buffer_size(&socket, 0)?;
    }
    if carried && kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(Some(socket))
}

fn published(binding: &PortBinding, port: HostPort) -> Published {
    Published {
        container_port: binding.container_port,
        protocol: binding.protocol,
        host_ip: port.ip,
        host_port: port.port,
    }
}

/// The claim that belongs to a published port.
pub(crate) fn host_port(published: Published) -> HostPort {
    HostPort { protocol: published.protocol, port: published.host_port, ip: published.host_ip }
}

/// The map element that belongs to a published port of the container there: none, where addresses cannot be
/// translated.
pub(crate) fn element(published: Published, place: Place) -> Option<Element> {
    let ip = place.behind(published.host_ip);
    let translates = ip.is_ipv4() == published.host_ip.is_ipv4();
    translates.then(|| Element { from: host_port(published), ip, port: published.container_port })
}

fn reason(errno: Errno, process: Option<(String, u32)>) -> String {
    let text = match errno {
        Errno::ADDRINUSE => "address already in use".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::ACCESS => PERMISSION_DENIED.to_owned(),
        other => io::Error::from(other).to_string(),
    };
    match process {
        Some((name, pid)) => format!("{text} (by process {name}, pid {pid})"),
        None => text,
    }
}
