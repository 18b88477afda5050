//! IPv6: published ports, and the default bridge.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use crate::case::cases;
use crate::client::Client;
use crate::publish::{SERVER, ask, free_port};

cases![
    Both:
        a_port_answers_on_ipv6_too,
        a_container_with_ipv6_is_reached_by_it;
    Docker:
        what_is_carried_outlives_the_engine,
        the_carrier_may_die,
        the_default_bridge_has_ipv6_when_it_is_told;
];

/// This host's loopback has no IPv6.
fn is_without_ipv6(test: &str) -> bool {
    let without = TcpListener::bind("[::1]:0").is_err();
    if without {
        eprintln!("SKIP {test}: needs ::1");
    }
    without
}

fn a_port_answers_on_ipv6_too(c: &Client) {
    if is_without_ipv6("a_port_answers_on_ipv6_too") {
        return;
    }
    let port = free_port();
    let (mine, udp) = (port + 1, port + 2);
    c.ok(&format!(
        "docker run -d --name $n -p {port}:80 -p [::1]:{mine}:80 -p {udp}:53/udp -v $helper:/helper:ro -e YARE_E2E_HELPER=udp-echo busybox sh -c '/helper & {SERVER}'"
    ));
    assert_eq!((ask("127.0.0.1", port), ask("::1", port)), ("hello\n".into(), "hello\n".into()));
    assert_eq!(ask("::1", mine), "hello\n");
    assert!(TcpStream::connect(("127.0.0.1", mine)).is_err());
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.connect(("::1", udp)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    // The server may still be starting.
    let answered = (0..200).any(|_| {
        let mut answer = [0; 16];
        socket.send(b"ping").is_ok() && socket.recv(&mut answer).is_ok_and(|size| &answer[..size] == b"ping")
    });
    assert!(answered, "no answer on port {udp}");
    c.says(
        "docker port $n | sort",
        &format!(
            "53/udp -> 0.0.0.0:{udp}\n53/udp -> [::]:{udp}\n80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::1]:{mine}\n80/tcp -> [::]:{port}\n"
        ),
    );
    let text = c.fails(125, &format!("docker run --rm -p [::1]:{mine}:80 busybox true"));
    assert!(text.contains(&format!("Bind for ::1:{mine} failed: port is already allocated")), "{text}");
    c.ok("docker rm -f $n");
    for address in ["0.0.0.0", "::"] {
        TcpListener::bind((address, port)).unwrap();
        UdpSocket::bind((address, udp)).unwrap();
    }
}

fn a_container_with_ipv6_is_reached_by_it(c: &Client) {
    if is_without_ipv6("a_container_with_ipv6_is_reached_by_it") {
        return;
    }
    let port = free_port();
    c.ok(&format!(
        "docker network create --ipv6 $n; docker run -d --name $n --network $n -p {port}:80 busybox sh -c 'while :; do nc -l -p 80 -e netstat -tn; done'"
    ));
    let of_network = "{{range .NetworkSettings.Networks}}{{.IPv6Gateway}} {{.GlobalIPv6Address}}{{end}}";
    let addresses = c.inspect("$n", of_network);
    let (gateway, own) = addresses.split_once(' ').unwrap();
    // Both the address of the bridge, which is translated, and loopback, which is carried.
    for address in [gateway, "::1"] {
        assert!(ask(address, port).contains(&format!("{own}:80 ")), "{address}");
    }
    assert!(ask("127.0.0.1", port).contains(":80 "));
    // From another network, by the host's address.
    c.ok("docker network create --ipv6 $n-2");
    c.comes_to(
        &format!(
            "docker run --rm --network $n-2 busybox nc -w 10 {gateway} {port} < /dev/null | grep -o '{own}:80' | sort -u"
        ),
        &format!("{own}:80"),
    );
}

fn what_is_carried_outlives_the_engine(c: &Client) {
    if is_without_ipv6("what_is_carried_outlives_the_engine") {
        return;
    }
    let mut engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        let port = free_port();
        c.ok(&format!(
            "docker run -d --name $n -p {port}:80 busybox sh -c 'while :; do nc -l -p 80 -e cat; done'"
        ));
        // The shell that asks is none of them.
        let carriers = format!("pgrep -f 'carrie[r] --of {}'", engine.exec_root().display());
        let mut under_way = converse(port);
        let old = c.line(&carriers);
        engine.kill9();
        assert!(says_back(&mut under_way), "without an engine");
        engine.restart();
        assert!(says_back(&mut under_way), "the next engine");
        c.comes_to(&format!("{carriers} | wc -l"), "2");
        drop(under_way);
        // The old one ends with its last connection.
        c.comes_to(&format!("{carriers} | wc -l"), "1");
        assert_ne!(c.line(&carriers), old);
        let mut fresh = converse(port);
        assert!(says_back(&mut fresh));
        c.ok("docker rm -f $n");
        TcpListener::bind(("::", port)).unwrap();
    }
    engine.finish();
}

fn the_carrier_may_die(c: &Client) {
    if is_without_ipv6("the_carrier_may_die") {
        return;
    }
    let engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        let port = free_port();
        c.ok(&format!("docker run -d --name $n -p {port}:80 busybox sh -c '{SERVER}'"));
        assert_eq!(ask("::1", port), "hello\n");
        let pid = c.line(&format!("pgrep -f 'carrier --of {}'", engine.exec_root().display()));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in ["Uid:\t65534\t65534\t65534\t65534", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"] {
            assert!(status.contains(line), "{line}: {status}");
        }
        c.ok(&format!("kill -9 {pid}"));
        // Whoever comes meanwhile waits.
        assert_eq!(ask("::1", port), "hello\n");
    }
    engine.finish();
}

fn the_default_bridge_has_ipv6_when_it_is_told(c: &Client) {
    if is_without_ipv6("the_default_bridge_has_ipv6_when_it_is_told") {
        return;
    }
    let mut engine = yare_testkit::Engine::start();
    engine.load_busybox();
    {
        let c = c.of(&engine);
        let settings = engine.path().join("daemon.json");
        let (gateway, _) =
            engine.bip().split_once('/').map(|(ip, rest)| (ip.to_owned(), rest.to_owned())).unwrap();
        let part = format!("{}.64/26", gateway.rsplit_once('.').unwrap().0);
        c.ok("docker run -d --name $n busybox sleep 1000");
        std::fs::write(&settings, format!("{{\"ipv6\": true, \"fixed-cidr\": \"{part}\"}}")).unwrap();
        engine.restart();
        let port = free_port();
        c.ok(&format!("docker run -d --name $n-6 -p {port}:80 busybox sh -c '{SERVER}'"));
        let of = |name: &str, what: &str| c.inspect(name, &format!("{{{{.NetworkSettings.{what}}}}}"));
        assert_eq!(of("$n", "GlobalIPv6Address"), "");
        let (four, six) = (of("$n-6", "IPAddress"), of("$n-6", "GlobalIPv6Address"));
        assert!(six.starts_with("fd"), "{six}");
        let last: u8 = four.rsplit_once('.').unwrap().1.parse().unwrap();
        assert!((64..128).contains(&last), "{four} is not in {part}");
        let gateway6 = of("$n-6", "IPv6Gateway");
        c.says(
            "docker network inspect -f '{{.EnableIPv6}} {{range .IPAM.Config}}{{.IPRange}} {{.Gateway}} {{end}}' bridge",
            &format!("true {part} {gateway}  {gateway6} \n"),
        );
        for address in [gateway6.as_str(), "::1"] {
            assert_eq!(ask(address, port), "hello\n", "{address}");
        }
        c.comes_to(&format!("docker run --rm busybox nc -w 10 {six} 80 < /dev/null"), "hello");
        c.says(&format!("docker exec $n-6 grep -c '^{six}' /etc/hosts"), "1\n");
        // Another engine would find another subnet; this one finds its own again, or none.
        engine.restart();
        assert_eq!(ask(&gateway6, port), "hello\n");
        std::fs::write(&settings, "{}").unwrap();
        engine.restart();
        // An engine listens before it has its networks; who asks it waits.
        c.ok("docker version");
        c.says(&format!("ip -6 -o addr show dev {} | grep -c {gateway6}; true", engine.bridge()), "0\n");
        assert_eq!(ask("::1", port), "hello\n", "it is carried to its IPv4 address");
    }
    engine.finish();
}

/// A connection to a server that says back what it is told.
fn converse(port: u16) -> TcpStream {
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(("::1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The server may still be starting.
        if says_back(&mut stream) {
            return stream;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nobody answers on port {port}");
}

fn says_back(stream: &mut TcpStream) -> bool {
    let mut said = [0; 5];
    stream.write_all(b"hello").is_ok() && stream.read_exact(&mut said).is_ok() && &said == b"hello"
}
