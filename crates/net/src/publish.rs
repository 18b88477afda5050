//! Getting host ports: our own table of claims first, then the host's, by binding.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use crate::endpoint::{EndpointRequest, PortBinding, Protocol, Published};
use crate::error::AttachError;
use crate::holder;
use crate::ports::{HostPort, Ports};
use crate::rules::Element;

/// A host port that is ours. The socket only keeps others away: packets are translated before they reach it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) published: Published,
    socket: Option<OwnedFd>,
}

impl Held {
    /// Binds the port again if that failed when the engine was restarted.
    pub(crate) fn hold_again(&mut self) {
        if self.socket.is_none() {
            self.socket = hold(host_port(self.published), false).unwrap_or_default();
        }
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
    /// Its address.
    pub(crate) ip: Ipv4Addr,
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
        if let Some(IpAddr::V6(host_ip)) = binding.host_ip {
            let PortBinding { container_port, protocol, .. } = *binding;
            return Err(AttachError::NoIpv6 { host_ip, container_port, protocol });
        }
    }
    Ok(())
}

/// Gets a host port for the binding. `name_of` gives the name of a container of ours by its id.
pub(crate) fn take(
    ports: &mut Ports,
    binding: &PortBinding,
    who: Applicant<'_>,
    name_of: &dyn Fn(&str) -> String,
) -> Result<Held, AttachError> {
    let ip = match binding.host_ip {
        Some(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let Some((first, last)) = binding.host_port.filter(|(first, _)| *first != 0) else {
        return take_ephemeral(ports, binding, ip, who);
    };
    let mut denial = None;
    for port in first..=last {
        match try_take(ports, binding, HostPort { protocol: binding.protocol, port, ip }, who.id) {
            Ok(held) => return Ok(held),
            Err(reason) => denial = Some((port, reason)),
        }
    }
    let (name, endpoint_id) = (who.name.to_owned(), who.endpoint_id.to_owned());
    Err(match denial.expect("a range has at least one port") {
        (_, Denial::Ours(id)) => {
            let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
            AttachError::Allocated { name, endpoint_id, host_ip: ip, ports, holder: name_of(&id) }
        }
        (host_port, Denial::Host(errno, process)) => AttachError::Bind {
            name,
            endpoint_id,
            host_ip: ip,
            host_port,
            container_ip: who.ip,
            container_port: binding.container_port,
            protocol: binding.protocol,
            reason: reason(errno, process),
        },
    })
}

fn take_ephemeral(
    ports: &mut Ports,
    binding: &PortBinding,
    ip: Ipv4Addr,
    who: Applicant<'_>,
) -> Result<Held, AttachError> {
    for port in ports.ephemeral() {
        let wanted = HostPort { protocol: binding.protocol, port, ip };
        // Who holds an ephemeral port is nobody's question: no search, on to the next.
        if ports.claim(wanted, who.id).is_err() {
            continue;
        }
        match hold(wanted, false) {
            Ok(socket) => {
                ports.advance(port);
                return Ok(Held { published: published(binding, wanted), socket });
            }
            Err(Errno::ADDRINUSE | Errno::ACCESS) => ports.release(wanted),
            Err(errno) => {
                ports.release(wanted);
                return Err(AttachError::Bind {
                    name: who.name.to_owned(),
                    endpoint_id: who.endpoint_id.to_owned(),
                    host_ip: ip,
                    host_port: port,
                    container_ip: who.ip,
                    container_port: binding.container_port,
                    protocol: binding.protocol,
                    reason: reason(errno, None),
                });
            }
        }
    }
    Err(AttachError::NoPort {
        name: who.name.to_owned(),
        endpoint_id: who.endpoint_id.to_owned(),
        host_ip: ip,
    })
}

fn try_take(ports: &mut Ports, binding: &PortBinding, wanted: HostPort, id: &str) -> Result<Held, Denial> {
    ports.claim(wanted, id).map_err(Denial::Ours)?;
    let outcome = match hold(wanted, false) {
        Err(Errno::ADDRINUSE) => {
            let holder = holder::find(wanted);
            let again = if holder.only_waiting { hold(wanted, true) } else { Err(Errno::ADDRINUSE) };
            again.map_err(|errno| Denial::Host(errno, holder.process))
        }
        other => other.map_err(|errno| Denial::Host(errno, None)),
    };
    match outcome {
        Ok(socket) => Ok(Held { published: published(binding, wanted), socket }),
        Err(denial) => {
            ports.release(wanted);
            Err(denial)
        }
    }
}

/// Takes again what a container has held since before the engine was restarted. The port stays published
/// even if somebody else has bound it in between: packets are translated first.
pub(crate) fn retake(ports: &mut Ports, published: Published, id: &str) -> Result<Held, String> {
    let wanted = host_port(published);
    ports.claim(wanted, id)?;
    let socket = hold(wanted, false).or_else(|_| hold(wanted, true)).unwrap_or_else(|errno| {
        tracing::warn!(
            port = %format_args!("{}:{}/{}", wanted.ip, wanted.port, wanted.protocol),
            error = %errno,
            "cannot bind a published port again"
        );
        None
    });
    Ok(Held { published, socket })
}

/// Binds the port without listening on it. SCTP sockets are a module that few hosts have loaded: there our
/// own table of claims must do.
fn hold(wanted: HostPort, reuse: bool) -> Result<Option<OwnedFd>, Errno> {
    let kind = match wanted.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return Ok(None),
    };
    let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
    if reuse {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &SocketAddrV4::new(wanted.ip, wanted.port))?;
    if wanted.protocol == Protocol::Udp {
        // Nobody reads it; the kernel raises this to its minimum.
        sockopt::set_socket_recv_buffer_size(&socket, 0)?;
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

/// The map element that belongs to a published port of the container with this address.
pub(crate) fn element(published: Published, ip: Ipv4Addr) -> Element {
    Element { from: host_port(published), ip, port: published.container_port }
}

fn reason(errno: Errno, process: Option<(String, u32)>) -> String {
    let text = match errno {
        Errno::ADDRINUSE => "address already in use".to_owned(),
        Errno::ADDRNOTAVAIL => "cannot assign requested address".to_owned(),
        Errno::ACCESS => "permission denied".to_owned(),
        other => io::Error::from(other).to_string(),
    };
    match process {
        Some((name, pid)) => format!("{text} (by process {name}, pid {pid})"),
        None => text,
    }
}
