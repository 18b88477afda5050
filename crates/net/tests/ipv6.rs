//! Published ports on IPv6 against the real kernel. Needs root.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests, outside test functions")]
#![allow(dead_code, reason = "the sandbox has more than these tests need")]

mod sandbox;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;

use sandbox::{NEVER, SOON, ask_tcp, eventually, has_nft, ip, program, within};
use yare_net::ports::HostPort;
use yare_net::{
    AttachError, Attachment, Carrier, EndpointRequest, HostPorts, Ipv6Config, NetConfig, Network,
    PortBinding, Protocol, Published, rules,
};

/// The host's address on the cable to its neighbour, and the neighbour's.
const HOST: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const NEIGHBOUR: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Serves the sockets that it was given when it is asked to, with a word about whom it would ask.
#[derive(Debug, Default)]
struct Porter(Mutex<BTreeMap<HostPort, (OwnedFd, SocketAddr)>>);

impl Carrier for Porter {
    fn carry(&self, port: HostPort, socket: BorrowedFd<'_>, target: SocketAddr) -> io::Result<()> {
        self.0.lock().unwrap().insert(port, (socket.try_clone_to_owned()?, target));
        Ok(())
    }

    fn drop_off(&self, ports: &[HostPort]) {
        ports.iter().for_each(|port| drop(self.0.lock().unwrap().remove(port)));
    }

    fn inherit(&self, port: HostPort) -> Option<OwnedFd> {
        self.0.lock().unwrap().remove(&port).map(|(socket, _)| socket)
    }
}

impl Porter {
    /// What a client there is told by the port's listener.
    fn ask(&self, to: SocketAddr) -> Option<String> {
        let tcp = |port: &&HostPort| port.protocol == Protocol::Tcp && port.port == to.port();
        let (socket, target) = {
            let ports = self.0.lock().unwrap();
            let (socket, target) = &ports[ports.keys().find(tcp)?];
            (TcpListener::from(socket.try_clone().unwrap()), *target)
        };
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut client, _) = socket.accept().unwrap();
                client.write_all(target.to_string().as_bytes()).unwrap();
            });
            ask_tcp(to, SOON)
        })
    }
}

fn on(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

fn port(container_port: u16, host_ip: Option<&str>, host_port: Option<(u16, u16)>) -> PortBinding {
    let host_ip = host_ip.map(|ip| ip.parse().unwrap());
    PortBinding { container_port, protocol: Protocol::Tcp, host_ip, host_port }
}

fn publishing(name: &str, ports: Vec<PortBinding>) -> EndpointRequest {
    EndpointRequest { ports, ..EndpointRequest::named(name) }
}

fn rows(ports: &[Published]) -> Vec<String> {
    ports.iter().map(|port| on(port.host_ip, port.host_port).to_string()).collect()
}

/// A network whose number is in its addresses, with IPv6 or without.
fn open(number: u8, ipv6: bool, porter: &Arc<Porter>) -> Network {
    let half = || Ipv6Config {
        subnet: format!("fd00:{number}::/64").parse().unwrap(),
        gateway: format!("fd00:{number}::1").parse().unwrap(),
    };
    let config = NetConfig {
        subnet: Some(format!("10.70.{number}.0/24").parse().unwrap()),
        ipv6: ipv6.then(half),
        pool: 2,
        ..NetConfig::new(format!("ys{number}"), format!("ys{number}_table"))
    };
    let ports = Arc::new(HostPorts::of_this_host(Some(Arc::<Porter>::clone(porter))));
    Network::open(config, &ports).unwrap()
}

/// Gives the cable to the neighbour IPv6, whose default route leads to the host.
fn with_ipv6(sandbox: &sandbox::Sandbox) {
    ip(&format!("addr add {HOST}/64 dev wan0 nodad"));
    within(&sandbox.neighbour, || {
        // Its end was born without IPv6.
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0").unwrap();
        ip(&format!("addr add {NEIGHBOUR}/64 dev eth0 nodad"));
        ip(&format!("route add default via {HOST}"));
    });
    eventually("the cable carries IPv6", SOON, || ip("-6 -o addr show dev wan0").contains("fe80::"));
}

/// A server on every address of either family that tells each client its address.
fn serve(attachment: &Attachment, port: u16) {
    let listener = within(&attachment.netns, || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
        }
    });
}

fn serve_udp(attachment: &Attachment, port: u16) {
    let socket = within(&attachment.netns, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer);
        }
    });
}

fn ip6(attachment: &Attachment) -> Ipv6Addr {
    attachment.endpoint.ipv6.unwrap().ip
}

#[test]
fn a_published_port_leads_to_the_containers_ipv6_address() {
    sandbox::run("a_published_port_leads_to_the_containers_ipv6_address", |sandbox| {
        with_ipv6(sandbox);
        let porter = Arc::new(Porter::default());
        let networks = open(1, true, &porter);
        let web =
            networks.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).unwrap();
        let other = networks.attach("other", &EndpointRequest::named("other")).unwrap();
        assert_eq!(rows(&web.endpoint.ports), ["0.0.0.0:8080", "[::]:8080"]);
        serve(&web, 80);
        serve(&web, 81);
        assert_eq!(ask_tcp(on(HOST, 8080), SOON), Some(HOST.to_string()), "own address");
        assert!(ask_tcp(on(Ipv4Addr::LOCALHOST, 8080), SOON).is_some(), "IPv4");
        within(&sandbox.neighbour, || {
            // The client's address is kept.
            assert_eq!(ask_tcp(on(HOST, 8080), SOON), Some(NEIGHBOUR.to_string()), "neighbour");
            assert_eq!(ask_tcp(on(ip6(&web), 81), NEVER), None, "not published");
            assert_eq!(ask_tcp(on(ip6(&web), 80), NEVER), None, "published, but not there");
        });
        for (who, netns) in [("itself", &web.netns), ("another container", &other.netns)] {
            within(netns, || {
                assert!(ask_tcp(on(HOST, 8080), SOON).is_some(), "{who}, through the host's address");
            });
        }
        // What is not translated is carried.
        let there = format!("[{}]:80", ip6(&web));
        assert_eq!(porter.ask(on(Ipv6Addr::LOCALHOST, 8080)), Some(there), "loopback");
        // A container of another network has the published port, and nothing else.
        let apart = open(2, true, &porter);
        let stranger = apart.attach("stranger", &EndpointRequest::named("stranger")).unwrap();
        within(&stranger.netns, || {
            assert!(ask_tcp(on(HOST, 8080), SOON).is_some());
            assert_eq!(ask_tcp(on(ip6(&web), 81), NEVER), None, "another network");
        });
        networks.detach("web");
        assert_eq!(ask_tcp(on(HOST, 8080), NEVER), None, "after detach");
        assert!(porter.0.lock().unwrap().is_empty());
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)).unwrap();
    });
}

#[test]
fn a_container_is_nobodys_router() {
    sandbox::run("a_container_is_nobodys_router", |_| {
        // As on a host whose uplink hears of its router.
        std::fs::write("/proc/sys/net/ipv6/conf/default/accept_ra", "1").unwrap();
        let _networks = open(3, true, &Arc::default());
        let heeds = |name: &str| {
            std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra")).unwrap()
        };
        assert_eq!(heeds("ys3"), "0\n");
        assert_eq!(heeds("wan0"), "2\n", "the uplink still does, though it forwards");
    });
}

#[test]
fn udp_is_published_on_ipv6_and_stale_flows_are_forgotten() {
    sandbox::run("udp_is_published_on_ipv6_and_stale_flows_are_forgotten", |sandbox| {
        with_ipv6(sandbox);
        let networks = open(4, true, &Arc::default());
        let udp = PortBinding { protocol: Protocol::Udp, ..port(53, None, Some((5353, 5353))) };
        let client = within(&sandbox.neighbour, || UdpSocket::bind((NEIGHBOUR, 4000)).unwrap());
        assert_eq!(sandbox::ask_udp_from(&client, on(HOST, 5353), NEVER), None, "nobody there yet");
        for round in ["first", "second"] {
            let dns = networks.attach("dns", &publishing("dns", vec![udp.clone()])).unwrap();
            serve_udp(&dns, 53);
            let answer = sandbox::ask_udp_from(&client, on(HOST, 5353), SOON);
            assert_eq!(answer, Some(NEIGHBOUR.to_string()), "{round}");
            networks.detach("dns");
            assert!(networks.wait_ready(SOON));
        }
    });
}

#[test]
fn a_container_without_ipv6_is_carried_to() {
    sandbox::run("a_container_without_ipv6_is_carried_to", |sandbox| {
        with_ipv6(sandbox);
        let porter = Arc::new(Porter::default());
        let networks = open(5, false, &porter);
        let sctp = PortBinding { protocol: Protocol::Sctp, ..port(90, None, Some((9000, 9000))) };
        let mine = port(80, Some("::1"), Some((8081, 8081)));
        let wish = vec![port(80, None, Some((8080, 8080))), mine.clone(), sctp];
        let web = networks.attach("web", &publishing("web", wish)).unwrap();
        // Nothing would lead SCTP from IPv6 to IPv4.
        assert_eq!(rows(&web.endpoint.ports), ["0.0.0.0:8080", "[::]:8080", "[::1]:8081", "0.0.0.0:9000"]);
        for client in [on(HOST, 8080), on(Ipv6Addr::LOCALHOST, 8080), on(Ipv6Addr::LOCALHOST, 8081)] {
            assert_eq!(porter.ask(client), Some(format!("{}:80", web.endpoint.ip)), "{client}");
        }
        assert!(TcpStream::connect_timeout(&on(HOST, 8081), NEVER).is_err(), "it is for ::1 alone");

        let error = networks.attach("late", &publishing("late", vec![mine])).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("Bind for ::1:8081 failed: port is already allocated (by container web)"),
            "{error}"
        );
        let sctp = PortBinding { protocol: Protocol::Sctp, ..port(90, Some("::1"), None) };
        let error = networks.attach("late", &publishing("late", vec![sctp])).unwrap_err();
        assert!(matches!(error, AttachError::NoIpv6 { .. }), "{error}");
        // A number is free when it is free for both families.
        let _foreign = only_ipv6(8090);
        let request = |range| publishing("late", vec![port(80, None, Some(range))]);
        let error = networks.attach("late", &request((8090, 8090))).unwrap_err().to_string();
        assert!(error.contains("failed to bind host port for :::8090:10.70.5."), "{error}");
        assert!(error.contains("address already in use (by process "), "{error}");
        // A program that another test starts just now may have a copy of its socket for a moment.
        eventually("nothing of it stays", SOON, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8090)).is_ok());
        let late = networks.attach("late", &request((8090, 8091))).unwrap();
        assert_eq!(rows(&late.endpoint.ports), ["0.0.0.0:8091", "[::]:8091"]);
        let any = networks.attach("any", &publishing("any", vec![port(80, None, None)])).unwrap();
        let numbers: Vec<_> = any.endpoint.ports.iter().map(|port| port.host_port).collect();
        assert!(numbers.len() == 2 && numbers[0] == numbers[1], "{numbers:?}");
    });
}

/// A listener on every IPv6 address that leaves IPv4 to others.
fn only_ipv6(port: u16) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
    let listener = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
    sockopt::set_ipv6_v6only(&listener, true).unwrap();
    bind(&listener, &on(Ipv6Addr::UNSPECIFIED, port)).unwrap();
    listen(&listener, 1).unwrap();
    listener
}

#[test]
fn the_next_engine_takes_the_sockets_over() {
    sandbox::run("the_next_engine_takes_the_sockets_over", |sandbox| {
        with_ipv6(sandbox);
        let porter = Arc::new(Porter::default());
        let first = open(6, true, &porter);
        let web = first.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).unwrap();
        serve(&web, 80);
        drop(first);
        let second = open(6, true, &porter);
        second.restore("web", &web.endpoint).unwrap();
        second.sweep().unwrap();
        assert_eq!(ask_tcp(on(HOST, 8080), SOON), Some(HOST.to_string()));
        assert!(porter.ask(on(Ipv6Addr::LOCALHOST, 8080)).is_some());
        second.detach("web");
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080)).unwrap();
        assert!(second.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).is_ok());
    });
}

#[test]
fn the_kernel_holds_the_ipv6_half() {
    sandbox::run("the_kernel_holds_the_ipv6_half", |_| {
        if !has_nft() {
            eprintln!("SKIP the_kernel_holds_the_ipv6_half: needs the program nft");
            return;
        }
        let networks = open(7, true, &Arc::default());
        let list = || program("nft", "list table ip6 ys7_table");
        const OPEN: rules::Policy = rules::Policy { icc: true, masquerade: true, internal: false };
        let wanted = rules::for_bridge6("ys7_table", "ys7", "fd00:7::/64".parse().unwrap(), OPEN).to_string();
        // Older versions of nft know that name for one hook only.
        assert_eq!(list().replace("hook output priority -100", "hook output priority dstnat"), wanted);
        let web = vec![port(80, None, Some((8080, 8080))), port(81, Some("::1"), Some((8081, 8081)))];
        let web = networks.attach("web", &publishing("web", web)).unwrap();
        let (whole, ip) = (list(), ip6(&web));
        assert!(whole.contains(&format!("elements = {{ tcp . 8080 : {ip} . 80 }}")), "{whole}");
        assert!(whole.contains(&format!("elements = {{ ::1 . tcp . 8081 : {ip} . 81 }}")), "{whole}");
        for attack in ["flush ruleset", "flush map ip6 ys7_table published"] {
            program("nft", attack);
            let intact = || std::panic::catch_unwind(list).is_ok_and(|now| now == whole);
            eventually(attack, SOON, intact);
        }
        assert!(!networks.heal().unwrap(), "nothing is left to mend");
        // A firewall of the host's that knows nothing of it.
        program("nft", "add table ip6 filter");
        program(
            "nft",
            "add chain ip6 filter FORWARD { type filter hook forward priority 0 ; policy drop ; }",
        );
        let named = |networks: &Network| {
            networks.dropping().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(named(&networks).contains("ip6tables -I FORWARD -i ys7 -j ACCEPT"), "{}", named(&networks));
        assert_eq!(named(&open(8, false, &Arc::default())), "", "IPv4 alone does not pass it");
    });
}
