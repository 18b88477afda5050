//! A host of its own for each test: a network namespace with a neighbour on the other end of a cable.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use yare_net::{HostPorts, NetConfig, Network, netns};

/// The host's address on the cable to its neighbour.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The neighbour's.
pub(crate) const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Longer than anything that works takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// For connections that must not come about.
pub(crate) const NEVER: Duration = Duration::from_millis(400);

/// The neighbour's namespace.
pub(crate) struct Sandbox {
    pub(crate) neighbour: OwnedFd,
}

/// Runs a test in a namespace of its own, or skips it loudly.
pub(crate) fn run(name: &str, test: impl FnOnce(&Sandbox) + Send) {
    let missing = if !rustix::process::geteuid().is_root() {
        Some("needs root")
    } else if Command::new("ip").arg("-V").output().is_err() {
        Some("needs the program ip to lay a cable")
    } else {
        None
    };
    if let Some(reason) = missing {
        assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none_or(|value| value != "1"), "{name}: {reason}");
        eprintln!("SKIP {name}: {reason}");
        return;
    }
    thread::scope(|scope| {
        let body = || {
            yare_sys::netlink::unshare_network().unwrap();
            test(&Sandbox::new());
        };
        if let Err(panic) = scope.spawn(body).join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Sandbox {
    fn new() -> Self {
        let neighbour = netns::fresh().unwrap();
        ip("link set lo up");
        let path = format!("/proc/{}/fd/{}", std::process::id(), neighbour.as_raw_fd());
        ip(&format!("link add wan0 type veth peer name eth0 netns {path}"));
        ip(&format!("addr add {HOST}/24 dev wan0"));
        ip("link set wan0 up");
        within(&neighbour, || {
            ip(&format!("addr add {NEIGHBOUR}/24 dev eth0"));
            ip("link set eth0 up");
            ip(&format!("route add default via {HOST}"));
        });
        Self { neighbour }
    }
}

/// The host's ports, nobody's yet.
pub(crate) fn ports() -> Arc<HostPorts> {
    Arc::new(HostPorts::of_this_host(None))
}

/// A network that begins with an empty pool, so that tests say what they need.
pub(crate) fn open(bridge: &str, subnet: &str) -> Network {
    let config = NetConfig {
        subnet: Some(subnet.parse().unwrap()),
        pool: 2,
        ..NetConfig::new(bridge, format!("{bridge}_table"))
    };
    Network::open(config, &ports()).unwrap()
}

/// Runs `work` in another namespace.
pub(crate) fn within<T: Send>(netns: impl AsFd + Sync, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let body = || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        scope.spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

pub(crate) fn ip(arguments: &str) -> String {
    program("ip", arguments)
}

pub(crate) fn program(name: &str, arguments: &str) -> String {
    let output = Command::new(name).args(arguments.split_whitespace()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether `nft` is there to look at the kernel independently.
pub(crate) fn has_nft() -> bool {
    Command::new("nft").arg("--version").output().is_ok()
}

/// A server that tells each client its address as the server sees it. It ends with the test program.
pub(crate) fn serve_tcp(netns: impl AsFd + Sync, port: u16) {
    let listener = within(netns, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_string().as_bytes());
        }
    });
}

/// The same over UDP.
pub(crate) fn serve_udp(netns: impl AsFd + Sync, port: u16) {
    let socket = within(netns, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// What a server there says about us, or nothing if there is no way to it.
pub(crate) fn ask_tcp(address: impl Into<SocketAddr>, patience: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), patience).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

pub(crate) fn ask_udp(address: impl Into<SocketAddr>, patience: Duration) -> Option<String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    ask_udp_from(&socket, address, patience)
}

pub(crate) fn ask_udp_from(
    socket: &UdpSocket,
    address: impl Into<SocketAddr>,
    patience: Duration,
) -> Option<String> {
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send_to(b"?", address.into()).ok()?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Waits until `fact` holds.
pub(crate) fn eventually(what: &str, limit: Duration, mut fact: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !fact() {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Names of this namespace's interfaces.
pub(crate) fn interfaces() -> Vec<String> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

/// How many cables this namespace has, its neighbour's not counted.
pub(crate) fn cables() -> usize {
    interfaces().iter().filter(|name| name.starts_with("veth")).count()
}
