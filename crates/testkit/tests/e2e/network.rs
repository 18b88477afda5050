//! Networks as containers see them.

use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        bridge_gives_an_address,
        containers_reach_each_other_by_address,
        host_is_the_hosts,
        none_has_the_loopback_alone,
        container_shares_the_network,
        a_shared_network_ends_with_its_container,
        hosts_file_has_its_lines.differs_from_old("it writes fe00::0"),
        resolv_conf_follows_flags.differs_from_old("the order was another"),
        network_ls_and_inspect,
        unknown_networks_are_named,
        addresses_come_back,
        the_gateway_is_the_host;
];

/// Its address is free for others then: it must not go on answering to it.
fn a_shared_network_ends_with_its_container(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000; docker run -d --name $n-b --network container:$n busybox sleep 1000");
    c.ok("docker exec $n-b ip addr show eth0; docker kill $n");
    c.comes_to("docker exec $n-b ip addr show eth0 >/dev/null 2>&1 || echo gone", "gone");
}

fn bridge_gives_an_address(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000");
    let address = c.inspect("$n", "{{.NetworkSettings.IPAddress}}");
    let prefix = c.host.gateway.rsplit_once('.').unwrap().0;
    assert!(address.starts_with(prefix) && address != c.host.gateway, "{address}");
    c.says("docker exec $n ip -4 -o addr show eth0 | awk '{print $4}'", &format!("{address}/24\n"));
    c.says("docker exec $n ip route | head -1", &format!("default via {} dev eth0 \n", c.host.gateway));
    c.says("docker exec $n cat /sys/class/net/eth0/mtu /sys/class/net/lo/operstate", "1500\nunknown\n");
    assert_eq!(c.inspect("$n", "{{.NetworkSettings.Networks.bridge.IPAddress}} {{.NetworkSettings.Networks.bridge.Gateway}} {{.NetworkSettings.IPPrefixLen}}"), format!("{address} {} 24", c.host.gateway));
    assert_eq!(
        c.line("docker exec $n cat /sys/class/net/eth0/address"),
        c.inspect("$n", "{{.NetworkSettings.MacAddress}}")
    );
    c.ok("docker stop -t 0 $n");
    assert_eq!(c.inspect("$n", "{{.NetworkSettings.IPAddress}}|"), "|");
}

fn containers_reach_each_other_by_address(c: &Client) {
    c.ok("docker run -d --name $n busybox sh -c 'while :; do echo hello | nc -l -p 7000; done'");
    let address = c.inspect("$n", "{{.NetworkSettings.IPAddress}}");
    c.says(
        &format!("docker run --rm busybox ping -c 1 -W 5 {address} | grep -c '1 packets received'"),
        "1\n",
    );
    // The server may be between two clients.
    c.comes_to(&format!("docker run --rm busybox nc -w 10 {address} 7000 < /dev/null"), "hello");
}

fn host_is_the_hosts(c: &Client) {
    let host = c.line("readlink /proc/self/ns/net");
    c.says("docker run --rm --network host busybox readlink /proc/self/ns/net", &format!("{host}\n"));
    c.says("docker run --rm --net=host busybox hostname", &format!("{}\n", c.line("hostname")));
    c.says("docker create --name $n --network host busybox true >/dev/null; docker inspect -f '{{.HostConfig.NetworkMode}}' $n", "host\n");
}

fn none_has_the_loopback_alone(c: &Client) {
    c.says("docker run --rm --network none busybox ls /sys/class/net", "lo\n");
    c.says(
        "docker run --rm --network none busybox ping -c 1 127.0.0.1 | grep -c '1 packets received'",
        "1\n",
    );
}

fn container_shares_the_network(c: &Client) {
    c.ok("docker run -d --name $n -h box --add-host extra:9.9.9.9 busybox sh -c 'while :; do echo hello | nc -l -p 7000; done'");
    c.comes_to("docker run --rm --network container:$n busybox sh -c 'nc -w 10 127.0.0.1 7000 < /dev/null; hostname; grep -c extra /etc/hosts'", "hello\nbox\n1");
    let text = c.fails(125, "docker run --rm --network container:$n-none busybox true");
    assert!(text.contains(&format!("No such container: {}-none", c.n)), "{text}");
    let text = c.fails(125, "docker run --rm --network container:$n -p 80:80 busybox true");
    assert!(
        text.contains("conflicting options: port publishing and the container type network mode"),
        "{text}"
    );
    let text = c.fails(125, "docker run --rm --network container:$n -h other busybox true");
    assert!(text.contains("conflicting options: hostname and the network mode"), "{text}");
    let text = c.fails(125, "docker create --name $n-s busybox true >/dev/null; docker run --rm --network container:$n-s busybox true");
    assert!(text.contains("of a non running container"), "{text}");
}

fn hosts_file_has_its_lines(c: &Client) {
    c.ok("docker run -d --name $n -h box --add-host one:1.2.3.4 --add-host two=5.6.7.8 --add-host gate:host-gateway busybox sleep 1000");
    let address = c.inspect("$n", "{{.NetworkSettings.IPAddress}}");
    let expected = format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n1.2.3.4\tone\n5.6.7.8\ttwo\n{}\tgate\n{address}\tbox\n",
        c.host.gateway
    );
    c.says("docker exec $n cat /etc/hosts", &expected);
    let text = c.fails(125, "docker run --rm --add-host nonsense busybox true");
    assert!(text.contains("bad format for add-host: \"nonsense\""), "{text}");
}

fn resolv_conf_follows_flags(c: &Client) {
    c.says(
        "docker run --rm --dns 9.9.9.9 --dns 8.8.4.4 --dns-search example.test --dns-option ndots:3 busybox grep -v '^#' /etc/resolv.conf | grep -v '^$'",
        "nameserver 9.9.9.9\nnameserver 8.8.4.4\nsearch example.test\noptions ndots:3\n",
    );
    c.says(
        "docker run --rm --network host busybox grep -c nameserver /etc/resolv.conf",
        &format!("{}\n", c.line("grep -c nameserver /etc/resolv.conf")),
    );
    let text = c.fails(125, "docker run --rm --dns nonsense busybox true");
    assert!(text.contains("nonsense"), "{text}");
}

fn network_ls_and_inspect(c: &Client) {
    c.says(
        "docker network ls --filter type=builtin --format '{{.Name}} {{.Driver}} {{.Scope}}' | sort",
        "bridge bridge local\nhost host local\nnone null local\n",
    );
    c.says("docker network ls -q --no-trunc | awk '{print length}' | uniq", "64\n");
    c.ok("docker run -d --name $n busybox sleep 1000");
    let id = c.inspect("$n", "{{.Id}}");
    c.says(&format!("docker network inspect -f '{{{{(index .Containers \"{id}\").Name}}}} {{{{(index .IPAM.Config 0).Gateway}}}}' bridge"), &format!("{} {}\n", c.n, c.host.gateway));
    let outcome = c.run("docker network inspect $n-none");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "[]\n"));
    assert_eq!(outcome.stderr, format!("Error response from daemon: network {}-none not found\n", c.n));
}

fn unknown_networks_are_named(c: &Client) {
    let text = c.fails(125, "docker run --rm --network $n-none --name $n busybox true");
    assert!(text.contains(&format!("network {}-none not found", c.n)), "{text}");
    c.comes_to("docker ps -aq --filter name=$n", "");
}

fn addresses_come_back(c: &Client) {
    // More runs than the subnet has addresses would take too long; some in a row show that they are given back.
    for _ in 0..4 {
        c.says("docker run --rm busybox ip -4 -o addr show eth0 | grep -c inet", "1\n");
    }
    c.ok("docker run -d --name $n-a busybox sleep 1000; docker run -d --name $n-b busybox sleep 1000");
    assert_ne!(
        c.inspect("$n-a", "{{.NetworkSettings.IPAddress}}"),
        c.inspect("$n-b", "{{.NetworkSettings.IPAddress}}")
    );
}

fn the_gateway_is_the_host(c: &Client) {
    let listener = std::net::TcpListener::bind(format!("{}:0", c.host.gateway)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, from) = listener.accept().unwrap();
        stream.write_all(b"from the host\n").unwrap();
        from.ip().to_string()
    });
    c.says(
        &format!("docker run --rm --name $n --add-host h:host-gateway busybox nc h {port}"),
        "from the host\n",
    );
    let prefix = c.host.gateway.rsplit_once('.').unwrap().0;
    assert!(server.join().unwrap().starts_with(prefix));
}
