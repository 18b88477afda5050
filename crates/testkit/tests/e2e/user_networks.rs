//! Networks of the user's own.

use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        a_network_is_made_shown_and_removed,
        containers_of_a_network_reach_each_other_and_no_others,
        a_network_in_use_is_not_removed,
        what_is_wrong_with_a_network_is_said,
        a_container_has_the_addresses_it_asks_for,
        published_ports_lead_into_a_network,
        a_container_comes_and_goes_while_it_runs,
        a_stopped_container_is_connected_for_its_next_start,
        a_container_is_on_several_networks,
        the_default_route_follows_the_priority,
        an_internal_network_leads_nowhere,
        without_icc_nobody_is_a_neighbour,
        ipv6_goes_beside_ipv4,
        prune_removes_what_nobody_is_on.alone(),
        networks_have_events;
];

/// The `index`th `/28` of a range that no other engine uses; its first 28 bits as text.
fn subnet(c: &Client, index: u32) -> (String, String) {
    // The two clients run beside each other.
    let index = index * 2 + u32::from(c.program == Program::Yare);
    let slot = c.host.gateway.split('.').nth(2).unwrap().to_owned();
    let prefix = format!("10.212.{slot}");
    (format!("{prefix}.{}/28", index * 16), format!("{prefix}.{}", index * 16))
}

fn last(address: &str, more: u32) -> String {
    let (prefix, last) = address.rsplit_once('.').unwrap();
    format!("{prefix}.{}", last.parse::<u32>().unwrap() + more)
}

fn a_network_is_made_shown_and_removed(c: &Client) {
    let id = c.line(
        "docker network create --label a=b --label c -o com.docker.network.driver.mtu=1400 --attachable $n",
    );
    assert_eq!(id.len(), 64);
    c.says("docker network ls --filter name=$n --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}' | sed 's/c=,a=b$/a=b,c=/; s/c=$/c/'", &format!("{} bridge local a=b,c\n", c.n));
    c.says("docker network ls --filter label=a=b --filter name=$n --filter type=custom -q | wc -l", "1\n");
    c.says("docker network ls --filter label=a=x --filter name=$n -q | wc -l", "0\n");
    c.says(
        &format!("docker network inspect -f '{{{{.Name}}}} {{{{.Attachable}}}} {{{{.Internal}}}} {{{{index .Options \"com.docker.network.driver.mtu\"}}}}' {}", &id[..12]),
        &format!("{} true false 1400\n", c.n),
    );
    c.says(
        "docker run --rm --network $n busybox sh -c 'cat /sys/class/net/eth0/mtu; ip route | grep -c default'",
        "1400\n1\n",
    );
    c.says("docker network rm $n", &format!("{}\n", c.n));
    c.refuses(
        1,
        "docker network inspect $n >/dev/null",
        &format!("Error response from daemon: network {} not found", c.n),
    );
    let bridge = format!("br-{}", &id[..12]);
    assert!(!std::path::Path::new("/sys/class/net").join(bridge).exists());
}

fn containers_of_a_network_reach_each_other_and_no_others(c: &Client) {
    c.ok("docker network create $n-a; docker network create $n-b");
    c.ok(
        "docker run -d --name $n --network $n-a busybox sh -c 'while :; do echo hello | nc -l -p 7000; done'",
    );
    let address =
        c.inspect("$n", &format!("{{{{(index .NetworkSettings.Networks \"{}-a\").IPAddress}}}}", c.n));
    let ask = |network: &str| {
        format!(
            "docker run --rm --network {network} busybox sh -c 'nc -w 2 {address} 7000 < /dev/null || echo nobody'"
        )
    };
    // The server may be starting, or between two clients.
    c.comes_to(&ask("$n-a"), "hello");
    c.says(&ask("$n-b"), "nobody\n");
    c.says(&ask("bridge"), "nobody\n");
}

fn a_network_in_use_is_not_removed(c: &Client) {
    c.ok("docker network create $n; docker run -d --name $n --network $n busybox sleep 1000");
    let text = c.fails(1, "docker network rm $n");
    assert!(
        text.contains(&format!(
            "error while removing network: network {0} has active endpoints (name:\"{0}\" id:",
            c.n
        )),
        "{text}"
    );
    c.says("docker exec $n ping -c 1 -W 5 $(docker network inspect -f '{{(index .IPAM.Config 0).Gateway}}' $n) | grep -c '1 packets received'", "1\n");
    c.ok("docker stop -t 0 $n; docker network rm $n");
    let text = c.fails(1, "docker start $n");
    assert!(text.contains(&format!("network {} not found", c.n)), "{text}");
    // Another network of that name takes its place.
    c.ok("docker network create $n; docker start $n");
}

fn what_is_wrong_with_a_network_is_said(c: &Client) {
    let (net, _) = subnet(c, 0);
    c.ok(&format!("docker network create --subnet {net} $n"));
    c.refuses(
        1,
        "docker network create $n",
        &format!("Error response from daemon: network with name {} already exists", c.n),
    );
    c.refuses(1, &format!("docker network create --subnet {net} $n-b"), "Error response from daemon: invalid pool request: Pool overlaps with other one on this address space");
    c.refuses(
        1,
        "docker network rm bridge",
        "Error response from daemon: bridge is a pre-defined network and cannot be removed",
    );
    c.refuses(
        1,
        "docker network rm $n-none",
        &format!("Error response from daemon: network {}-none not found", c.n),
    );
    let text = c.fails(1, "docker network create -d nope $n-c");
    assert!(text.contains("could not find plugin nope in v1 plugin registry"), "{text}");
    let text = c.fails(1, "docker network create host");
    assert!(text.contains("operation is not permitted on predefined host network"), "{text}");
    c.ok("docker run -d --name $n --network $n busybox sleep 1000");
    c.refuses(
        1,
        "docker network connect $n $n",
        &format!("Error response from daemon: endpoint with name {0} already exists in network {0}", c.n),
    );
    let text = c.fails(1, "docker network connect host $n");
    assert!(
        text.contains("container cannot be disconnected from host network or connected to host network"),
        "{text}"
    );
    let text = c.fails(1, "docker network disconnect bridge $n");
    assert!(text.contains("is not connected to network bridge"), "{text}");
}

fn a_container_has_the_addresses_it_asks_for(c: &Client) {
    let (net, base) = subnet(c, 1);
    c.ok(&format!(
        "docker network create --subnet {net} --gateway {} --aux-address other={} $n",
        last(&base, 14),
        last(&base, 1)
    ));
    c.ok(&format!(
        "docker run -d --name $n --network $n --ip {} --mac-address 02:42:00:00:00:77 busybox sleep 1000",
        last(&base, 9)
    ));
    c.says("docker exec $n ip -4 -o addr show eth0 | awk '{print $4}'", &format!("{}/28\n", last(&base, 9)));
    c.says("docker exec $n cat /sys/class/net/eth0/address", "02:42:00:00:00:77\n");
    c.says("docker exec $n ip route | head -1", &format!("default via {} dev eth0 \n", last(&base, 14)));
    // The first address is somebody else's.
    c.says(
        "docker run --rm --network $n busybox ip -4 -o addr show eth0 | awk '{print $4}'",
        &format!("{}/28\n", last(&base, 2)),
    );
    let text = c.fails(125, &format!("docker run --rm --network $n --ip {} busybox true", last(&base, 9)));
    assert!(text.contains("Address already in use"), "{text}");
    let text = c.fails(125, "docker run --rm --network $n --ip 1.2.3.4 busybox true");
    assert!(text.contains("no configured subnet or ip-range contain the IP address 1.2.3.4"), "{text}");
    c.ok("docker network create $n-auto");
    let text = c.fails(125, "docker run --rm --network $n-auto --ip 1.2.3.4 busybox true");
    assert!(text.contains("user specified IP address is supported only when connecting to networks with user configured subnets"), "{text}");
}

fn published_ports_lead_into_a_network(c: &Client) {
    c.ok("docker network create $n; docker network create -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 $n-local");
    let serve = "busybox sh -c 'while :; do echo hello | nc -l -p 80; done'";
    c.ok(&format!("docker run -d --name $n --network $n -p 80 {serve}"));
    let ask = |port: &str| {
        format!("nc -w 5 127.0.0.1 {port} < /dev/null || busybox nc -w 5 127.0.0.1 {port} < /dev/null")
    };
    let port = c.line("docker port $n 80 | head -1 | sed 's/.*://'");
    c.comes_to(&ask(&port), "hello");
    let text = c.fails(125, &format!("docker run --rm --network $n-local -p {port}:80 busybox true"));
    assert!(text.contains(&format!("port is already allocated (by container {})", c.n)), "{text}");
    c.ok(&format!("docker run -d --name $n-l --network $n-local -p 80 {serve}"));
    assert!(c.line("docker port $n-l 80").starts_with("127.0.0.1:"));
}

fn a_container_comes_and_goes_while_it_runs(c: &Client) {
    c.ok("docker network create $n-a; docker network create $n-b; docker run -d --name $n -h box --network $n-a busybox sleep 1000");
    c.ok("docker network connect --alias other $n-b $n");
    c.says("docker exec $n ls /sys/class/net", "eth0\neth1\nlo\n");
    c.says("docker exec $n grep -c box /etc/hosts", "2\n");
    c.says("docker network inspect -f '{{len .Containers}}' $n-b", "1\n");
    c.says("docker exec $n ip route | grep -c default", "1\n");
    c.ok("docker run -d --name $n-c --network $n-b busybox sleep 1000");
    let address = c.inspect("$n-c", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
    c.says(&format!("docker exec $n ping -c 1 -W 5 {address} | grep -c '1 packets received'"), "1\n");
    c.ok("docker network disconnect $n-a $n");
    c.says("docker exec $n ls /sys/class/net", "eth1\nlo\n");
    c.says("docker exec $n grep -c box /etc/hosts", "1\n");
    // The way out is by the one that is left.
    c.says("docker exec $n ip route | grep -c 'default.*eth1'", "1\n");
    c.ok("docker network connect $n-a $n");
    c.says("docker exec $n ls /sys/class/net", "eth0\neth1\nlo\n");
    c.ok("docker restart -t 0 $n");
    c.says("docker exec $n ls /sys/class/net", "eth0\neth1\nlo\n");
    assert_eq!(c.inspect("$n", "{{len .NetworkSettings.Networks}}"), "2");
}

fn a_stopped_container_is_connected_for_its_next_start(c: &Client) {
    c.ok("docker network create $n-a; docker create --name $n busybox sleep 1000; docker network connect $n-a $n");
    c.says("docker network inspect -f '{{len .Containers}}' $n-a", "0\n");
    c.ok("docker start $n");
    c.says("docker exec $n ls /sys/class/net", "eth0\neth1\nlo\n");
    c.ok("docker stop -t 0 $n; docker network disconnect bridge $n; docker start $n");
    c.says("docker exec $n ls /sys/class/net", "eth0\nlo\n");
    assert_eq!(
        c.inspect("$n", "{{range $name, $net := .NetworkSettings.Networks}}{{$name}}{{end}}"),
        format!("{}-a", c.n)
    );
}

fn a_container_is_on_several_networks(c: &Client) {
    c.ok("docker network create $n-a; docker network create $n-b");
    c.ok("docker run -d --name $n --network name=$n-b,alias=x --network $n-a busybox sleep 1000");
    c.says("docker exec $n ls /sys/class/net", "eth0\neth1\nlo\n");
    let networks = "{{range $name, $net := .NetworkSettings.Networks}}{{$name}} {{$net.DNSNames}} {{end}}";
    let short = c.inspect("$n", "{{.Id}}")[..12].to_owned();
    assert_eq!(c.inspect("$n", networks), format!("{0}-a [{0} {short}] {0}-b [{0} x {short}] ", c.n));
    c.says("docker ps --filter network=$n-a --format '{{.Names}}'", &format!("{}\n", c.n));
    c.ok("docker rm -f $n; docker network rm $n-a $n-b");
}

fn the_default_route_follows_the_priority(c: &Client) {
    c.ok("docker network create $n-a; docker network create $n-b");
    let gateway = |network: &str| {
        c.line(&format!("docker network inspect -f '{{{{(index .IPAM.Config 0).Gateway}}}}' {network}"))
    };
    let (a, b) = (gateway("$n-a"), gateway("$n-b"));
    c.says(
        "docker run --rm --network $n-b --network $n-a busybox ip route | awk '/default/{print $3}'",
        &format!("{a}\n"),
    );
    c.ok("docker run -d --name $n --network name=$n-b,gw-priority=1 --network $n-a -p 80 busybox sleep 1000");
    c.says("docker exec $n ip route | awk '/default/{print $3}'", &format!("{b}\n"));
    let port = c.line("docker port $n 80 | head -1");
    c.ok("docker network disconnect $n-b $n");
    c.says("docker exec $n ip route | awk '/default/{print $3}'", &format!("{a}\n"));
    // Published ports go where the way out goes.
    c.says("docker port $n 80 | head -1", &format!("{port}\n"));
    c.ok("docker network connect --gw-priority 5 $n-b $n");
    c.says("docker exec $n ip route | awk '/default/{print $3}'", &format!("{b}\n"));
    c.says("docker port $n 80 | head -1", &format!("{port}\n"));
}

fn an_internal_network_leads_nowhere(c: &Client) {
    c.ok("docker network create --internal $n; docker run -d --name $n --network $n busybox sleep 1000");
    c.says("docker exec $n ip route | grep -c default; true", "0\n");
    let address = c.inspect("$n", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
    c.says(
        &format!(
            "docker run --rm --network $n busybox ping -c 1 -W 5 {address} | grep -c '1 packets received'"
        ),
        "1\n",
    );
    // A route that it makes itself is of no use either.
    let gateway =
        last(&c.line("docker network inspect -f '{{(index .IPAM.Config 0).Subnet}}' $n | sed 's,/.*,,'"), 1);
    c.ok(&format!("docker run -d --name $n-x busybox sleep 1000; docker run -d --name $n-c --cap-add NET_ADMIN --network $n busybox sh -c 'ip route add default via {gateway}; sleep 1000'"));
    let outside = c.inspect("$n-x", "{{.NetworkSettings.IPAddress}}");
    c.says(&format!("docker exec $n-c ping -c 1 -W 1 {outside} | grep -c '1 packets received'; true"), "0\n");
}

fn without_icc_nobody_is_a_neighbour(c: &Client) {
    c.ok("docker network create -o com.docker.network.bridge.enable_icc=false $n; docker run -d --name $n --network $n busybox sleep 1000");
    let address = c.inspect("$n", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
    c.says(&format!("docker run --rm --network $n busybox ping -c 1 -W 1 {address} | grep -c '1 packets received'; true"), "0\n");
}

fn ipv6_goes_beside_ipv4(c: &Client) {
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        return;
    }
    c.ok("docker network create --ipv6 --subnet fd00:212:$(($$ % 10000))::/64 $n; docker run -d --name $n --network $n busybox sleep 1000");
    let six = c.inspect("$n", "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}");
    assert!(six.starts_with("fd00:212:"), "{six}");
    c.says(&format!("docker exec $n ip -6 addr show eth0 | grep -c '{six}/64'"), "1\n");
    c.says(
        &format!(
            "docker run --rm --network $n busybox ping -6 -c 1 -W 5 {six} | grep -c '1 packets received'"
        ),
        "1\n",
    );
    c.says("docker exec $n ip -6 route | grep -c '^default via fd00:212:'", "1\n");
    c.says("docker network inspect -f '{{.EnableIPv6}}' $n", "true\n");
    // A container of networks without IPv6 has none.
    c.says("docker run --rm busybox ip -6 addr show eth0 | grep -c inet6; true", "0\n");
    c.ok("docker run -d --name $n-b busybox sleep 1000; docker network connect $n $n-b");
    c.says("docker exec $n-b ip -6 addr show eth1 | grep -c 'inet6 fd00:212:'", "1\n");
    c.says("docker exec $n-b ip -6 route | grep -c '^default via fd00:212:'", "1\n");
}

fn prune_removes_what_nobody_is_on(c: &Client) {
    c.ok("docker network create --label $n=1 $n-a; docker network create --label $n=1 $n-b; docker network create --label $n=1 $n-c; docker run -d --name $n --network $n-a busybox sleep 1000; docker create --name $n-s --network $n-b busybox true");
    let outcome = c.ok("docker network prune -f --filter label=$n=1");
    assert_eq!(outcome, format!("Deleted Networks:\n{}-c\n\n", c.n));
    c.says("docker network ls -q --filter label=$n=1 | wc -l", "2\n");
    c.ok("docker rm -f $n $n-s");
    c.says("docker network ls -q --filter label=$n=1 --filter dangling=true | wc -l", "2\n");
    c.ok("docker network prune -f --filter label=$n=1");
    c.says("docker network ls -q --filter label=$n=1 | wc -l", "0\n");
}

fn networks_have_events(c: &Client) {
    c.ok(
        "docker network create $n; docker run --rm --name $n --network $n busybox true; docker network rm $n",
    );
    c.says(
        "docker events --since 60s --until $(($(date +%s) + 1)) --filter type=network --format '{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}}' | grep \" $n \"",
        &["create", "connect", "disconnect", "destroy"].map(|action| format!("{action} {} bridge\n", c.n)).concat(),
    );
}
