//! The bridge network against the real kernel. Needs root.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests, outside test functions")]

mod sandbox;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use sandbox::{
    HOST, NEIGHBOUR, NEVER, SOON, ask_tcp, ask_udp, ask_udp_from, cables, eventually, has_nft, ip, program,
    serve_tcp, serve_udp, within,
};
use yare_errdefs::{Class, Classified};
use yare_net::{
    AttachError, EndpointRequest, MacAddr, NetConfig, NetError, Network, PortBinding, Protocol, rules,
};

fn port(container_port: u16, host_ip: Option<[u8; 4]>, host_port: Option<(u16, u16)>) -> PortBinding {
    let host_ip = host_ip.map(|ip| IpAddr::V4(ip.into()));
    PortBinding { container_port, protocol: Protocol::Tcp, host_ip, host_port }
}

fn publishing(name: &str, ports: Vec<PortBinding>) -> EndpointRequest {
    EndpointRequest { ports, ..EndpointRequest::named(name) }
}

fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    (ip, port).into()
}

#[test]
fn a_container_reaches_the_world_under_the_hosts_address() {
    sandbox::run("a_container_reaches_the_world_under_the_hosts_address", |sandbox| {
        let networks = sandbox::open("yt0", "10.80.0.0/24");
        networks.sweep().unwrap();
        assert!(networks.wait_ready(SOON));
        let attachment = networks.attach("a", &EndpointRequest::named("a")).unwrap();
        let endpoint = &attachment.endpoint;
        assert_eq!((endpoint.ip, endpoint.prefix), (Ipv4Addr::new(10, 80, 0, 2), 24));
        assert_eq!(endpoint.mac.to_string(), "02:42:0a:50:00:02");
        assert_eq!((endpoint.interface.as_str(), endpoint.gateway), ("eth0", Some(networks.gateway())));
        assert_eq!(networks.endpoint("a").as_ref(), Some(endpoint));
        serve_tcp(&sandbox.neighbour, 7);
        serve_tcp(yare_net::netns::of_this_thread().unwrap(), 8);
        within(&attachment.netns, || {
            assert_eq!(ask_tcp(at(NEIGHBOUR, 7), SOON), Some(HOST.to_string()));
            assert_eq!(ask_tcp(at(networks.gateway(), 8), SOON), Some("10.80.0.2".into()));
            let addresses = ip("-o -6 addr show");
            assert!(!addresses.contains("eth0"), "no IPv6 on an IPv4 network: {addresses}");
            let link = ip("-o link show eth0");
            assert!(link.contains("02:42:0a:50:00:02") && link.contains("mtu 1500"), "{link}");
            let accept_ra = std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra");
            assert!(accept_ra.is_ok_and(|value| value == "0\n"));
        });
        assert!(!ip("-o -6 addr show").contains("yt0"), "no IPv6 on the bridge");
        assert!(!ip("-o -6 addr show").contains("veth"), "no IPv6 on its ports");
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    sandbox::run("a_published_port_is_reached_from_everywhere", |sandbox| {
        for bridged_packets_are_filtered in ["1", "0"] {
            let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            let _ = std::fs::write(setting, bridged_packets_are_filtered);
            let networks = sandbox::open("yt1", "10.81.0.0/24");
            let web =
                networks.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).unwrap();
            let other = networks.attach("other", &EndpointRequest::named("other")).unwrap();
            let published = web.endpoint.ports[0];
            assert_eq!((published.host_ip, published.host_port), (Ipv4Addr::UNSPECIFIED.into(), 8080));
            serve_tcp(&web.netns, 80);
            assert_eq!(ask_tcp(at(Ipv4Addr::LOCALHOST, 8080), SOON), Some("10.81.0.1".into()), "loopback");
            assert_eq!(ask_tcp(at(Ipv4Addr::new(127, 0, 0, 9), 8080), SOON), Some("10.81.0.1".into()));
            assert!(ask_tcp(at(HOST, 8080), SOON).is_some(), "own address");
            within(&sandbox.neighbour, || {
                // The client's address is kept.
                assert_eq!(ask_tcp(at(HOST, 8080), SOON), Some(NEIGHBOUR.to_string()), "neighbour");
            });
            for (who, netns) in [("itself", &web.netns), ("another container", &other.netns)] {
                within(netns, || {
                    assert!(ask_tcp(at(HOST, 8080), SOON).is_some(), "{who}, through the host's address");
                    assert!(
                        ask_tcp(at(networks.gateway(), 8080), SOON).is_some(),
                        "{who}, through the gateway"
                    );
                });
            }
            within(&other.netns, || {
                assert_eq!(
                    ask_tcp(at(web.endpoint.ip, 80), SOON),
                    Some(other.endpoint.ip.to_string()),
                    "directly"
                );
            });
            networks.detach("web");
            assert_eq!(ask_tcp(at(Ipv4Addr::LOCALHOST, 8080), NEVER), None, "after detach");
            networks.destroy().unwrap();
        }
    });
}

#[test]
fn what_is_not_published_is_closed_to_the_neighbour() {
    sandbox::run("what_is_not_published_is_closed_to_the_neighbour", |sandbox| {
        let networks = sandbox::open("yt2", "10.82.0.0/24");
        let web =
            networks.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).unwrap();
        serve_tcp(&web.netns, 80);
        serve_tcp(&web.netns, 81);
        // From the host itself both answer: they do listen.
        assert!(ask_tcp(at(web.endpoint.ip, 81), SOON).is_some());
        within(&sandbox.neighbour, || {
            // Its default route leads to the containers.
            assert_eq!(ask_tcp(at(web.endpoint.ip, 81), NEVER), None, "not published");
            assert_eq!(ask_tcp(at(web.endpoint.ip, 80), NEVER), None, "published, but not there");
            assert!(ask_tcp(at(HOST, 8080), SOON).is_some());
        });
    });
}

#[test]
fn what_is_published_on_loopback_stays_there() {
    sandbox::run("what_is_published_on_loopback_stays_there", |sandbox| {
        let networks = sandbox::open("yt3", "10.83.0.0/24");
        let local = vec![port(80, Some([127, 0, 0, 1]), Some((8080, 8080)))];
        let web = networks.attach("web", &publishing("web", local)).unwrap();
        let other = networks.attach("other", &EndpointRequest::named("other")).unwrap();
        serve_tcp(&web.netns, 80);
        // A service of the host that trusts loopback.
        let trusting = TcpListener::bind((Ipv4Addr::LOCALHOST, 9)).unwrap();
        trusting.set_nonblocking(true).unwrap();
        assert_eq!(ask_tcp(at(Ipv4Addr::LOCALHOST, 8080), SOON), Some("10.83.0.1".into()));
        assert_eq!(ask_tcp(at(HOST, 8080), NEVER), None, "another address of the host");
        // Even where the administrator lets loopback addresses in through the cable.
        std::fs::write("/proc/sys/net/ipv4/conf/wan0/route_localnet", "1").unwrap();
        for (netns, gateway) in [(&sandbox.neighbour, HOST), (&other.netns, networks.gateway())] {
            within(netns, || {
                assert_eq!(ask_tcp(at(gateway, 8080), NEVER), None);
                // Packets to 127.0.0.1 on the wire.
                std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
                ip("addr del 127.0.0.1/8 dev lo");
                ip(&format!("route add 127.0.0.1/32 via {gateway}"));
                assert_eq!(
                    ask_tcp(at(Ipv4Addr::LOCALHOST, 8080), NEVER),
                    None,
                    "127.0.0.1 through {gateway}"
                );
                assert_eq!(ask_tcp(at(Ipv4Addr::LOCALHOST, 9), NEVER), None, "a service of the host");
            });
        }
        assert!(trusting.accept().is_err(), "somebody reached a service on loopback");
    });
}

#[test]
fn two_engines_live_side_by_side_and_their_containers_apart() {
    sandbox::run("two_engines_live_side_by_side_and_their_containers_apart", |_| {
        let (one, two) = (sandbox::open("yt4", "10.84.0.0/24"), sandbox::open("yt5", "10.85.0.0/24"));
        let a = one.attach("a", &publishing("a", vec![port(80, None, None)])).unwrap();
        let b = two.attach("b", &publishing("b", vec![port(80, None, None)])).unwrap();
        serve_tcp(&a.netns, 80);
        serve_tcp(&b.netns, 80);
        for (from, to) in [(&a, &b), (&b, &a)] {
            within(&from.netns, || {
                assert_eq!(ask_tcp(at(to.endpoint.ip, 80), NEVER), None, "directly");
                let published = to.endpoint.ports[0].host_port;
                assert!(ask_tcp(at(HOST, published), SOON).is_some(), "published is published for all");
            });
        }
        assert_ne!(a.endpoint.ports[0].host_port, b.endpoint.ports[0].host_port);
        one.destroy().unwrap();
        assert!(ask_tcp(at(Ipv4Addr::LOCALHOST, b.endpoint.ports[0].host_port), SOON).is_some());
    });
}

#[test]
fn without_icc_containers_do_not_see_each_other() {
    sandbox::run("without_icc_containers_do_not_see_each_other", |_| {
        for bridged_packets_are_filtered in ["1", "0"] {
            let _ =
                std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", bridged_packets_are_filtered);
            let subnet = Some("10.96.0.0/24".parse().unwrap());
            let config = NetConfig { icc: false, subnet, pool: 0, ..NetConfig::new("yt16", "yt16_table") };
            let networks = Network::open(config, &sandbox::ports()).unwrap();
            let web =
                networks.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).unwrap();
            let other = networks.attach("other", &EndpointRequest::named("other")).unwrap();
            serve_tcp(&web.netns, 80);
            within(&other.netns, || {
                assert_eq!(ask_tcp(at(web.endpoint.ip, 80), NEVER), None);
                assert!(ask_tcp(at(HOST, 8080), SOON).is_some());
            });
            networks.destroy().unwrap();
        }
    });
}

#[test]
fn udp_is_published_and_stale_flows_are_forgotten() {
    sandbox::run("udp_is_published_and_stale_flows_are_forgotten", |sandbox| {
        let networks = sandbox::open("yt6", "10.86.0.0/24");
        let udp = PortBinding { protocol: Protocol::Udp, ..port(53, None, Some((5353, 5353))) };
        // One flow through all of it, as from a resolver that keeps its source port.
        let client = within(&sandbox.neighbour, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 4000)).unwrap());
        assert_eq!(ask_udp_from(&client, at(HOST, 5353), NEVER), None, "nobody there yet");
        for round in ["first", "second"] {
            let dns = networks.attach("dns", &publishing("dns", vec![udp.clone()])).unwrap();
            serve_udp(&dns.netns, 53);
            let answer = ask_udp_from(&client, at(HOST, 5353), SOON);
            assert_eq!(answer, Some(NEIGHBOUR.to_string()), "{round}");
            networks.detach("dns");
            assert!(networks.wait_ready(SOON));
        }
        let dns = networks.attach("dns", &publishing("dns", vec![udp])).unwrap();
        serve_udp(&dns.netns, 53);
        assert!(ask_udp(at(Ipv4Addr::LOCALHOST, 5353), SOON).is_some(), "loopback");
    });
}

#[test]
fn ranges_take_the_first_free_port_and_conflicts_name_the_holder() {
    sandbox::run("ranges_take_the_first_free_port_and_conflicts_name_the_holder", |_| {
        let networks = sandbox::open("yt7", "10.87.0.0/24");
        let foreign = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8000)).unwrap();
        let range = vec![port(80, None, Some((8000, 8002))), port(81, None, Some((8000, 8002)))];
        let web = networks.attach("1", &publishing("web", range)).unwrap();
        let got: Vec<_> = web.endpoint.ports.iter().map(|port| port.host_port).collect();
        assert_eq!(got, [8001, 8002]);

        let request = publishing("late", vec![port(79, None, None), port(80, None, Some((8001, 8001)))]);
        let error = networks.attach("2", &request).unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("driver failed programming external connectivity on endpoint late ("),
            "{text}"
        );
        assert!(
            text.ends_with("): Bind for 0.0.0.0:8001 failed: port is already allocated (by container web)"),
            "{text}"
        );
        let request = publishing("late", vec![port(80, Some([127, 0, 0, 1]), Some((8000, 8000)))]);
        let text = networks.attach("2", &request).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(
            text.contains(": failed to bind host port for 127.0.0.1:8000:10.87.0.")
                && text.contains(":80/tcp: address already in use (by process ")
                && text.ends_with(&format!(", pid {pid})")),
            "{text}"
        );
        let request = publishing("late", vec![port(80, Some([198, 51, 100, 1]), Some((8000, 8000)))]);
        let text = networks.attach("2", &request).unwrap_err().to_string();
        assert!(text.ends_with(":80/tcp: cannot assign requested address"), "{text}");

        // The failed ones have left nothing behind, and a renamed holder is named rightly.
        drop(foreign);
        networks.renamed("1", "shop");
        let request = publishing("late", vec![port(80, None, Some((8002, 8002)))]);
        assert!(networks.attach("2", &request).unwrap_err().to_string().ends_with("(by container shop)"));
        networks.detach("1");
        let all = (8000..=8002).map(|host| port(80, None, Some((host, host)))).collect();
        let all = publishing("late", all);
        // A program that another test starts just now may have a copy of the listener for a moment.
        eventually("all ports are free", SOON, || networks.attach("2", &all).is_ok());
    });
}

#[test]
fn a_port_that_another_engine_holds_is_refused_with_its_name() {
    sandbox::run("a_port_that_another_engine_holds_is_refused_with_its_name", |_| {
        let (one, two) = (sandbox::open("yt8", "10.88.0.0/24"), sandbox::open("yt9", "10.89.0.0/24"));
        let request = publishing("web", vec![port(80, None, Some((8080, 8080)))]);
        let _web = one.attach("1", &request).unwrap();
        let error = two.attach("1", &request).unwrap_err();
        assert!(matches!(error, AttachError::Bind { .. }));
        assert_eq!(error.class(), Class::Internal);
        // The socket is bound without listening, which only newer kernels show.
        let text = error.to_string();
        assert!(text.contains("address already in use"), "{text}");
    });
}

#[test]
fn nonsense_is_refused_before_anything_happens() {
    sandbox::run("nonsense_is_refused_before_anything_happens", |_| {
        let networks = sandbox::open("yt10", "10.90.0.0/24");
        let refused = |binding| networks.attach("x", &publishing("x", vec![binding])).unwrap_err();
        // Nobody carries it from there to a container without IPv6.
        let v6 = PortBinding { host_ip: Some("::1".parse().unwrap()), ..port(80, None, None) };
        assert_eq!(refused(v6).class(), Class::InvalidArgument);
        assert_eq!(refused(port(0, None, None)).class(), Class::InvalidArgument);
        assert_eq!(refused(port(80, None, Some((90, 80)))).class(), Class::InvalidArgument);
        assert_eq!(refused(port(80, None, Some((0, 80)))).class(), Class::InvalidArgument);
        let with_ip = |ip: [u8; 4]| EndpointRequest { ip: Some(ip.into()), ..EndpointRequest::named("x") };
        for outside in [[10, 90, 1, 5], [10, 90, 0, 255], [10, 90, 0, 0]] {
            let error = networks.attach("x", &with_ip(outside)).unwrap_err();
            assert!(matches!(error, AttachError::AddressOutside(_)), "{error}");
        }
        assert!(matches!(networks.attach("x", &with_ip([10, 90, 0, 1])), Err(AttachError::AddressTaken(_))));
        let wish = EndpointRequest { mac: Some(MacAddr([2, 0, 0, 0, 0, 9])), ..with_ip([10, 90, 0, 77]) };
        let granted = networks.attach("x", &wish).unwrap();
        assert_eq!(granted.endpoint.ip, Ipv4Addr::new(10, 90, 0, 77));
        within(&granted.netns, || assert!(ip("link show eth0").contains("02:00:00:00:00:09")));
        assert!(matches!(networks.attach("x", &wish), Err(AttachError::Attached { .. })));
        for bridge in ["", "lo", "a/b", ".x", "sixteen-bytes-xx"] {
            let error = Network::open(NetConfig::new(bridge, "t"), &sandbox::ports()).unwrap_err();
            assert!(matches!(error, NetError::Name { .. }), "{bridge}: {error}");
        }
        assert!(matches!(
            Network::open(NetConfig::new("wan0", "t"), &sandbox::ports()),
            Err(NetError::NotABridge(_))
        ));
    });
}

#[test]
fn two_hundred_containers_come_and_go_without_a_trace() {
    sandbox::run("two_hundred_containers_come_and_go_without_a_trace", |_| {
        let networks = sandbox::open("yt11", "10.91.0.0/24");
        assert!(networks.wait_ready(SOON) || networks.sweep().is_ok());
        assert!(networks.wait_ready(SOON));
        let before = cables();
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let networks = &networks;
                scope.spawn(move || {
                    for turn in 0..50 {
                        let id = format!("{worker}-{turn}");
                        let udp = PortBinding { protocol: Protocol::Udp, ..port(53, None, None) };
                        let request = publishing(&id, vec![port(80, None, None), udp]);
                        drop(networks.attach(&id, &request).unwrap());
                        networks.detach(&id);
                    }
                });
            }
        });
        assert!(networks.wait_ready(SOON));
        eventually("cables are gone", Duration::from_secs(20), || cables() == before);
        if has_nft() {
            assert!(!program("nft", "list table ip yt11_table").contains("elements"));
        }
        // Every address is free again but those of the pool; more than the subnet has were used.
        let all: Vec<_> =
            (0..253).map(|id| networks.attach(&format!("n{id}"), &EndpointRequest::default())).collect();
        assert!(all.iter().all(Result::is_ok));
        let full = networks.attach("one more", &EndpointRequest::default()).unwrap_err();
        assert_eq!(
            full.to_string(),
            "no available IPv4 addresses on this network's address pools: bridge (10.91.0.0/24)"
        );
    });
}

#[test]
fn a_flushed_packet_filter_comes_back_by_itself() {
    sandbox::run("a_flushed_packet_filter_comes_back_by_itself", |sandbox| {
        if !has_nft() {
            eprintln!("SKIP a_flushed_packet_filter_comes_back_by_itself: needs the program nft");
            return;
        }
        let networks = sandbox::open("yt12", "10.92.0.0/24");
        let web =
            networks.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).unwrap();
        serve_tcp(&web.netns, 80);
        let listing = || program("nft", "list table ip yt12_table");
        let whole = listing();
        for attack in [
            "flush ruleset",
            "flush table ip yt12_table",
            "flush map ip yt12_table published",
            "flush chain ip yt12_table forward",
            "add element ip yt12_table published { tcp . 22 : 10.92.0.9 . 22 }",
        ] {
            program("nft", attack);
            let intact = || std::panic::catch_unwind(listing).is_ok_and(|now| now == whole);
            eventually(attack, SOON, intact);
            within(&sandbox.neighbour, || assert!(ask_tcp(at(HOST, 8080), SOON).is_some(), "{attack}"));
        }
        assert!(!networks.heal().unwrap(), "nothing is left to mend");
    });
}

#[test]
fn an_attach_after_a_flush_mends_the_table_itself() {
    sandbox::run("an_attach_after_a_flush_mends_the_table_itself", |_| {
        if !has_nft() {
            return;
        }
        let networks = sandbox::open("yt13", "10.93.0.0/24");
        let one = networks.attach("1", &publishing("1", vec![port(80, None, Some((8081, 8081)))])).unwrap();
        program("nft", "flush ruleset");
        let two = networks.attach("2", &publishing("2", vec![port(80, None, Some((8082, 8082)))])).unwrap();
        for (attachment, host) in [(&one, 8081), (&two, 8082)] {
            serve_tcp(&attachment.netns, 80);
            assert!(ask_tcp(at(Ipv4Addr::LOCALHOST, host), SOON).is_some());
        }
        program("nft", "flush ruleset");
        networks.detach("1");
        assert!(ask_tcp(at(Ipv4Addr::LOCALHOST, 8082), SOON).is_some());
    });
}

#[test]
fn the_kernel_holds_what_the_values_say() {
    sandbox::run("the_kernel_holds_what_the_values_say", |_| {
        if !has_nft() {
            eprintln!("SKIP the_kernel_holds_what_the_values_say: needs the program nft");
            return;
        }
        let networks = sandbox::open("yt14", "10.94.0.0/24");
        let listing = program("nft", "list table ip yt14_table");
        const OPEN: rules::Policy = rules::Policy { icc: true, masquerade: true, internal: false };
        let wanted = rules::for_bridge("yt14_table", "yt14", networks.subnet(), OPEN).to_string();
        // Older versions of nft know that name for one hook only.
        assert_eq!(listing.replace("hook output priority -100", "hook output priority dstnat"), wanted);
        let udp =
            PortBinding { protocol: Protocol::Udp, ..port(53, Some([127, 0, 0, 1]), Some((5353, 5353))) };
        let request = publishing("web", vec![port(80, None, Some((8080, 8080))), udp]);
        let ip = networks.attach("web", &request).unwrap().endpoint.ip;
        let listing = program("nft", "list table ip yt14_table");
        assert!(listing.contains(&format!("elements = {{ tcp . 8080 : {ip} . 80 }}")), "{listing}");
        assert!(
            listing.contains(&format!("elements = {{ 127.0.0.1 . udp . 5353 : {ip} . 53 }}")),
            "{listing}"
        );
    });
}

#[test]
fn an_engine_is_replaced_under_running_containers() {
    sandbox::run("an_engine_is_replaced_under_running_containers", |sandbox| {
        let first = sandbox::open("yt15", "10.95.0.0/24");
        let web = first.attach("web", &publishing("web", vec![port(80, None, Some((8080, 8080)))])).unwrap();
        let lost =
            first.attach("lost", &publishing("lost", vec![port(80, None, Some((8090, 8090)))])).unwrap();
        serve_tcp(&web.netns, 80);
        serve_tcp(&lost.netns, 80);
        let reached = |patience| within(&sandbox.neighbour, || ask_tcp(at(HOST, 8080), patience).is_some());
        let reach = || reached(SOON);
        drop(first);
        assert!(reach(), "without an engine");

        let second = Network::open(NetConfig::new("yt15", "yt15_table"), &sandbox::ports()).unwrap();
        assert_eq!(second.subnet().to_string(), "10.95.0.0/24");
        assert!(reach(), "opened");
        second.restore("web", &web.endpoint).unwrap();
        assert!(reach(), "restored");
        second.sweep().unwrap();
        assert!(reach(), "swept");
        assert_eq!(ask_tcp(at(Ipv4Addr::LOCALHOST, 8090), NEVER), None, "nobody claimed it");
        let cable = &lost.endpoint.veth;
        eventually("its cable is cut", SOON, || !sandbox::interfaces().contains(cable));
        assert!(sandbox::interfaces().contains(&web.endpoint.veth));

        let clash =
            second.attach("2", &publishing("2", vec![port(80, None, Some((8080, 8080)))])).unwrap_err();
        assert!(matches!(clash, AttachError::Allocated { .. }), "{clash}");
        // A program that another test starts just now may have had a copy of the first engine's socket.
        eventually("the port is held again", SOON, || {
            second.heal().unwrap();
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8080)).is_err()
        });
        let other = second.attach("other", &EndpointRequest::named("other")).unwrap();
        assert_ne!(other.endpoint.ip, web.endpoint.ip);
        second.detach("web");
        assert!(!reached(NEVER), "detached");
        // One that turns up late is taken in too, even if the pool has its address.
        second.restore("web", &web.endpoint).unwrap();
        assert!(reach(), "restored late");
    });
}

#[test]
fn the_pool_is_filled_and_let_go() {
    sandbox::run("the_pool_is_filled_and_let_go", |_| {
        let networks = sandbox::open("yt17", "10.97.0.0/24");
        networks.sweep().unwrap();
        assert!(networks.wait_ready(SOON));
        assert_eq!(cables(), 2);
        let bare = networks.fresh_netns().unwrap();
        within(bare.as_fd(), || {
            assert_eq!(
                sandbox::interfaces().into_iter().filter(|name| !name.starts_with("ifb")).collect::<Vec<_>>(),
                ["lo"]
            );
            serve_tcp(yare_net::netns::of_this_thread().unwrap(), 80);
            assert!(ask_tcp(at(Ipv4Addr::LOCALHOST, 80), SOON).is_some());
        });
        let kept = networks.attach("kept", &EndpointRequest::named("kept")).unwrap();
        assert!(networks.wait_ready(SOON));
        assert_eq!(cables(), 3);
        drop(networks);
        eventually("the pool's cables go", Duration::from_secs(10), || cables() == 1);
        drop(kept);
        eventually("the container's goes", Duration::from_secs(10), || cables() == 0);
    });
}

#[test]
fn a_subnet_that_the_host_reaches_elsewhere_is_avoided_or_refused() {
    sandbox::run("a_subnet_that_the_host_reaches_elsewhere_is_avoided_or_refused", |_| {
        ip("route add 172.17.5.0/24 dev wan0");
        let networks = Network::open(NetConfig::new("yt18", "yt18_table"), &sandbox::ports()).unwrap();
        assert_eq!(networks.subnet().to_string(), "172.18.0.0/16");
        let second = Network::open(NetConfig::new("yt19", "yt19_table"), &sandbox::ports()).unwrap();
        assert_eq!(second.subnet().to_string(), "172.19.0.0/16");
        let subnet = Some("192.0.2.128/25".parse().unwrap());
        let error =
            Network::open(NetConfig { subnet, ..NetConfig::new("yt20", "yt20_table") }, &sandbox::ports())
                .unwrap_err();
        assert_eq!(error.class(), Class::InvalidArgument);
        assert!(!sandbox::interfaces().contains(&"yt20".to_owned()), "refused before anything was made");
    });
}
