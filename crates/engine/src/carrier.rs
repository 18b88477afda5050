//! The engine's side of the carrier, which serves published ports where address translation cannot: IPv6 to
//! containers without it, and all of them when the engine has a network namespace of its own, as without root.
//!
//! The process is started when the first port needs it, while clients wait at the port, which listens. What it was
//! told is kept here, with copies of the sockets, so that another one can take its place should it die. When the
//! engine dies, it goes on; the next engine takes copies of its sockets and asks it to retire.

use crate::companion;
use parking_lot::Mutex;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{AddressFamily, SocketFlags, SocketType, getpeername, getsockname, sockopt::socket_type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Weak};
use yare_carrier::{Port, Process, Transport};
use yare_net::{HostPort, Protocol};
use yare_sys::outside::Outside;

/// What its notes are called.
const NAME: &str = "carrier";

/// The carrier of an engine.
#[derive(Debug)]
pub(crate) struct Carrier {
    state: Mutex<State>,
    exec_root: PathBuf,
    /// The network namespace in which ports are published, where it is not the engine's own.
    outside: Option<Arc<Outside>>,
    myself: Weak<Self>,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    /// One is being started.
    starting: bool,
    ports: BTreeMap<Port, (OwnedFd, SocketAddr)>,
    /// The last engine's, with its sockets.
    predecessor: Option<u32>,
    inherited: BTreeMap<Port, OwnedFd>,
}

impl Carrier {
    /// Nobody needs one yet. The last engine's is asked for its sockets.
    pub(crate) fn new(exec_root: &Path, outside: Option<Arc<Outside>>) -> Arc<Self> {
        let predecessor = companion::predecessor(exec_root, NAME);
        let inherited = predecessor.map(|pid| {
            sockets_of(pid).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot take over the sockets of published ports");
                BTreeMap::new()
            })
        });
        let inherited = inherited.unwrap_or_default();
        Arc::new_cyclic(|myself| Self {
            state: Mutex::new(State { predecessor, inherited, ..State::default() }),
            exec_root: exec_root.to_owned(),
            outside,
            myself: Weak::clone(myself),
        })
    }

    /// Asks the last engine's carrier to end with its last connection: what it served is served by this one.
    pub(crate) fn succeed(&self) {
        let mut state = self.state.lock();
        state.inherited.clear();
        if let Some(Err(error)) = state.predecessor.take().map(yare_carrier::retire) {
            tracing::warn!(%error, "the last engine's carrier goes on");
        }
    }

    /// Has a process started, for which nobody waits.
    fn begin(&self, state: &mut State) {
        if std::mem::replace(&mut state.starting, true) {
            return;
        }
        let carrier = Weak::clone(&self.myself);
        let starting = std::thread::Builder::new().name("carrier".to_owned()).spawn(move || {
            let Some(carrier) = carrier.upgrade() else { return };
            let mut state = carrier.state.lock();
            state.starting = false;
            if let Err(error) = carrier.start(&mut state) {
                tracing::error!(%error, "published ports do not answer on IPv6 addresses");
            }
        });
        if let Err(error) = starting {
            state.starting = false;
            tracing::error!(%error, "published ports do not answer on IPv6 addresses");
        }
    }

    /// Starts a process unless there is one or nobody needs one, and tells it what is known.
    fn start(&self, state: &mut State) -> io::Result<()> {
        if state.process.is_some() || state.ports.is_empty() {
            return Ok(());
        }
        let (process, child) = Process::start(&self.exec_root)?;
        self.watch(child);
        companion::note(&self.exec_root, NAME, process.pid());
        let told = state
            .ports
            .iter()
            .try_for_each(|(port, (socket, target))| process.serve(*port, socket.as_fd(), *target));
        if told.is_err() {
            companion::end(process.pid());
        }
        // Should it be dead, another one follows when its end is noticed.
        state.process = Some(process);
        told
    }

    /// Gives up a process that does not listen, for another one.
    fn replace(&self, state: &mut State) {
        if let Some(process) = state.process.take() {
            companion::end(process.pid());
        }
        self.begin(state);
    }

    /// Waits for the end of a process, and starts another one if ports need it.
    fn watch(&self, child: Child) {
        let pid = child.id();
        let forget = move |carrier: &Self| {
            carrier.state.lock().process.take_if(|process| process.pid() == pid).is_some()
        };
        let again = |carrier: &Self| carrier.begin(&mut carrier.state.lock());
        companion::watch(NAME, child, Weak::clone(&self.myself), forget, again);
    }
}

impl yare_net::Carrier for Carrier {
    fn carry(&self, port: HostPort, socket: BorrowedFd<'_>, target: SocketAddr) -> io::Result<()> {
        let Some(port) = carried(port) else { return Ok(()) };
        let copy = socket.try_clone_to_owned()?;
        let mut state = self.state.lock();
        let told = state.process.as_ref().map(|process| process.serve(port, socket, target));
        state.ports.insert(port, (copy, target));
        match told {
            Some(Ok(())) => {}
            Some(Err(_)) => self.replace(&mut state),
            None => self.begin(&mut state),
        }
        Ok(())
    }

    fn drop_off(&self, ports: &[HostPort]) {
        let mut state = self.state.lock();
        let mut known: Vec<_> = ports.iter().filter_map(|port| carried(*port)).collect();
        known.retain(|port| state.ports.remove(port).is_some());
        if let Some(Err(error)) = state.process.as_ref().map(|process| process.close(&known)) {
            tracing::warn!(%error, "the carrier of published ports is stuck");
            self.replace(&mut state);
        }
    }

    fn inherit(&self, port: HostPort) -> Option<OwnedFd> {
        self.state.lock().inherited.remove(&carried(port)?)
    }

    fn serves_all(&self) -> bool {
        self.outside.is_some()
    }

    fn socket(&self, family: AddressFamily, kind: SocketType) -> rustix::io::Result<OwnedFd> {
        match &self.outside {
            Some(outside) => outside.socket(family, kind),
            None => rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None),
        }
    }
}

/// A port as the carrier knows it; it knows none of SCTP.
fn carried(port: HostPort) -> Option<Port> {
    let transport = match port.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => return None,
    };
    Some(Port { transport, address: SocketAddr::new(port.ip, port.port) })
}

/// Copies of the sockets at which a process serves ports.
fn sockets_of(pid: u32) -> io::Result<BTreeMap<Port, OwnedFd>> {
    let process = yare_sys::process::pidfd_open(i32::try_from(pid).map_err(io::Error::other)?)?;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        // Connections come and go meanwhile.
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|_| is_socket) else { continue };
        let copy = rustix::process::pidfd_getfd(&process, number, rustix::process::PidfdGetfdFlags::empty());
        if let Ok(socket) = copy
            && let Some(port) = port_of(&socket)
        {
            found.insert(port, socket);
        }
    }
    Ok(found)
}

/// The port that a socket serves, unless it is that of a connection.
fn port_of(socket: &OwnedFd) -> Option<Port> {
    let mut address = SocketAddr::try_from(getsockname(socket).ok()?).ok()?;
    if let IpAddr::V4(ip) = address.ip().to_canonical() {
        // That of UDP, whose sockets are of IPv6 here.
        address = SocketAddr::new(ip.into(), address.port());
    }
    let transport = match socket_type(socket).ok()? {
        SocketType::STREAM if socket_acceptconn(socket).ok()? => Transport::Tcp,
        SocketType::DGRAM if getpeername(socket).is_err() => Transport::Udp,
        _ => return None,
    };
    Some(Port { transport, address })
}
