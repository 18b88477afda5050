//! Published ports.

use std::io::Read;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        a_port_is_reached_on_localhost,
        a_port_of_choice_is_free,
        a_port_on_one_address_stays_there,
        udp_goes_through_both_ways,
        ranges_are_published,
        publish_all_takes_what_is_exposed,
        the_source_address_is_kept_from_outside,
        other_hosts_reach_what_is_published,
        a_port_is_freed_with_its_container,
        a_taken_port_is_refused.differs_from_old("texts were others"),
        a_port_taken_by_a_process_is_refused,
        the_conflict_says_who.differs("the conflict names who has the port"),
        port_lists_what_is_published,
        bad_ports_are_refused;
];

pub(crate) const SERVER: &str = "while :; do echo hello | nc -l -p 80; done";

/// A port that is free, as are the three behind it.
pub(crate) fn free_port() -> u16 {
    yare_testkit::free_ports(4)
}

/// What a server on this address says; it may still be starting.
pub(crate) fn ask(address: &str, port: u16) -> String {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(60) {
        let mut said = String::new();
        if let Ok(mut stream) = TcpStream::connect((address, port)) {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            if stream.read_to_string(&mut said).is_ok() && !said.is_empty() {
                return said;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    "nothing".to_owned()
}

fn a_port_is_reached_on_localhost(c: &Client) {
    let port = free_port();
    c.ok(&format!("docker run -d --name $n -p {port}:80 busybox sh -c '{SERVER}'"));
    assert_eq!(ask("127.0.0.1", port), "hello\n");
    assert_eq!(ask(&c.host.gateway, port), "hello\n");
    // From a container, through the host's address.
    c.comes_to(
        &format!("docker run --rm --name $n-c busybox nc -w 10 {} {port} < /dev/null", c.host.gateway),
        "hello",
    );
    c.says("docker port $n | grep 0.0.0.0", &format!("80/tcp -> 0.0.0.0:{port}\n"));
}

fn a_port_of_choice_is_free(c: &Client) {
    c.ok(&format!("docker run -d --name $n -p 127.0.0.1::80 busybox sh -c '{SERVER}'"));
    let port: u16 = c.line("docker port $n 80/tcp | cut -d: -f2").parse().unwrap();
    assert!(port >= 1024, "{port}");
    assert_eq!(ask("127.0.0.1", port), "hello\n");
}

fn a_port_on_one_address_stays_there(c: &Client) {
    let port = free_port();
    c.ok(&format!("docker run -d --name $n -p 127.0.0.1:{port}:80 busybox sh -c '{SERVER}'"));
    assert_eq!(ask("127.0.0.1", port), "hello\n");
    assert!(TcpStream::connect((c.host.gateway.as_str(), port)).is_err());
    c.says(
        "docker port $n 80; docker ps --filter name=$n --format '{{.Ports}}'",
        &format!("127.0.0.1:{port}\n127.0.0.1:{port}->80/tcp\n"),
    );
}

fn udp_goes_through_both_ways(c: &Client) {
    let port = free_port();
    c.ok(&format!("docker run -d --name $n -p {port}:53/udp -v $helper:/helper:ro -e YARE_E2E_HELPER=udp-echo busybox /helper"));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let answered = (0..200).any(|_| {
        socket.send_to(b"ping", ("127.0.0.1", port)).unwrap();
        let mut answer = [0; 16];
        socket.recv_from(&mut answer).is_ok_and(|(size, _)| &answer[..size] == b"ping")
    });
    assert!(answered, "no answer on port {port}");
}

fn ranges_are_published(c: &Client) {
    let port = free_port();
    let last = port + 2;
    c.ok(&format!("docker run -d --name $n -p 127.0.0.1:{port}-{last}:8000-8002 busybox sh -c 'for p in 8000 8001 8002; do (while :; do echo $p | nc -l -p $p; done) & done; wait'"));
    for (published, inner) in (port..=last).zip(8000..) {
        assert_eq!(ask("127.0.0.1", published), format!("{inner}\n"));
    }
    c.says(
        "docker ps --filter name=$n --format '{{.Ports}}'",
        &format!(
            "127.0.0.1:{port}->8000/tcp, 127.0.0.1:{}->8001/tcp, 127.0.0.1:{last}->8002/tcp\n",
            port + 1
        ),
    );
    // From a range, the first that is free.
    c.ok(&format!("docker run -d --name $n-2 -p 127.0.0.1:{port}-{}:80 busybox sh -c '{SERVER}'", last + 1));
    c.says("docker port $n-2 80", &format!("127.0.0.1:{}\n", last + 1));
    let text = c.fails(125, "docker run --rm -p 8000-8002:80-81 busybox true");
    assert!(
        text.contains("invalid ranges specified for container and host Ports: 80-81 and 8000-8002"),
        "{text}"
    );
}

fn publish_all_takes_what_is_exposed(c: &Client) {
    c.ok("docker import --change 'EXPOSE 80 5353/udp' $busybox $n/a");
    c.ok(&format!("docker run -d --name $n -P --expose 90 $n/a sh -c '{SERVER}'"));
    c.says("docker port $n | cut -d' ' -f1 | sort -u", "5353/udp\n80/tcp\n90/tcp\n");
    let port: u16 = c.line("docker port $n 80 | head -1 | sed 's/.*://'").parse().unwrap();
    assert!(port >= 32_768, "{port}");
    assert_eq!(ask("127.0.0.1", port), "hello\n");
    c.says("docker create --name $n-2 $n/a true >/dev/null; docker ps -a --filter name=$n-2 --format '{{.Ports}}|'", "|\n");
}

/// Runs a script as another host would: from a network namespace on the end of a cable. `$H` is this host there,
/// `$O` the other. `index` tells the cases apart that do so.
fn outside(c: &Client, index: u32, script: &str) -> String {
    // Of the engine's own, and the two clients run beside each other.
    let slot = c.host.gateway.split('.').nth(2).unwrap();
    let index = index * 2 + u32::from(c.program == Program::Yare);
    let (name, prefix) = (format!("yout{slot}-{index}"), format!("10.208.{slot}"));
    let (here, there) = (format!("{prefix}.{}", index * 4 + 1), format!("{prefix}.{}", index * 4 + 2));
    let script = format!(
        "trap 'ip link del {name}a; ip netns del {name}' EXIT; ip netns add {name} && ip link add {name}a type veth peer name {name}b netns {name} && \
         ip addr add {here}/30 dev {name}a && ip link set {name}a up && \
         ip -n {name} addr add {there}/30 dev {name}b && ip -n {name} link set {name}b up && \
         ip -n {name} route add default via {here} && H={here} O={there} && {script}"
    );
    c.ok(&script.replace("OUTSIDE", &format!("ip netns exec {name}")))
}

/// Asks until something is said: the server may be between two clients.
fn until_said(ask: &str) -> String {
    format!(
        "for try in $(seq 100); do said=$({ask}); [ -z \"$said\" ] || break; sleep 0.2; done; echo \"$said\""
    )
}

fn the_source_address_is_kept_from_outside(c: &Client) {
    let port = free_port();
    c.ok(&format!(
        "docker run -d --name $n -p {port}:80 busybox sh -c 'while :; do nc -l -p 80 -e netstat -tn; done'"
    ));
    assert!(ask("127.0.0.1", port).contains(":80 "));
    let ask = until_said(&format!("OUTSIDE busybox timeout 10 nc $H {port} < /dev/null"));
    let said = outside(c, 0, &format!("{{ {ask}; }} | grep -c \"$O:\""));
    assert_eq!(said, "1\n");
}

fn other_hosts_reach_what_is_published(c: &Client) {
    let port = free_port();
    let closed = port + 1;
    c.ok(&format!("docker run -d --name $n -p {port}:80 -p 127.0.0.1:{closed}:80 busybox sh -c '{SERVER}'"));
    assert_eq!(ask("127.0.0.1", closed), "hello\n");
    let ask = until_said(&format!("OUTSIDE busybox timeout 10 nc $H {port} < /dev/null"));
    let said = outside(
        c,
        1,
        &format!(
            "{ask}; OUTSIDE busybox timeout 2 nc $H {closed} < /dev/null 2>/dev/null || echo closed; \
                  OUTSIDE ip route add 127.0.0.0/8 via $H 2>/dev/null; true"
        ),
    );
    assert_eq!(said, "hello\nclosed\n");
}

fn a_port_is_freed_with_its_container(c: &Client) {
    let port = free_port();
    for round in ["one", "two", "three"] {
        c.ok(&format!("docker run -d --name $n-{round} -p {port}:80 busybox sh -c 'while :; do echo {round} | nc -l -p 80; done'"));
        assert_eq!(ask("127.0.0.1", port), format!("{round}\n"));
        c.ok(&format!("docker rm -f $n-{round}"));
    }
    TcpListener::bind(("0.0.0.0", port)).unwrap();
}

fn a_taken_port_is_refused(c: &Client) {
    let port = free_port();
    c.ok(&format!("docker run -d --name $n-first -p {port}:80 busybox sleep 1000"));
    let text = c.fails(125, &format!("docker run -d --name $n-second -p {port}:80 busybox sleep 1000"));
    assert!(text.contains(&format!("failed to set up container networking: driver failed programming external connectivity on endpoint {}-second (", c.n)), "{text}");
    assert!(text.contains(&format!(":{port} failed: port is already allocated")), "{text}");
    assert_eq!(c.inspect("$n-second", "{{.State.Status}}"), "created");
    c.ok("docker rm -f $n-first; docker start $n-second");
}

fn a_port_taken_by_a_process_is_refused(c: &Client) {
    let port = free_port();
    let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let text = c.fails(125, &format!("docker run --rm --name $n -p {port}:80 busybox true"));
    assert!(text.contains("address already in use"), "{text}");
    drop(holder);
    c.comes_to("docker ps -aq --filter name=$n", "");
    c.says(&format!("docker run --rm -p {port}:80 busybox echo free"), "free\n");
}

fn the_conflict_says_who(c: &Client) {
    let port = free_port();
    let holder = TcpListener::bind(("0.0.0.0", port)).unwrap();
    let text = c.fails(125, &format!("docker run --rm -p {port}:80 busybox true"));
    // A child of this program that has just been forked holds it too.
    let me = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert!(text.contains(&format!("(by process {}, pid ", me.trim_end())), "{text}");
    drop(holder);
    c.ok(&format!("docker run -d --name $n -p {port}:80 busybox sleep 1000"));
    let text = c.fails(125, &format!("docker run --rm -p {port}:80 busybox true"));
    assert!(text.contains(&c.n), "{text}");
}

fn port_lists_what_is_published(c: &Client) {
    c.ok("docker run -d --name $n -p 127.0.0.1::80 -p 127.0.0.1::53/udp busybox sleep 1000");
    c.says("docker port $n | sed 's/:[0-9]*$//' | sort", "53/udp -> 127.0.0.1\n80/tcp -> 127.0.0.1\n");
    let text = c.fails(1, "docker port $n 81").to_lowercase();
    assert!(text.contains(&format!("no public port '81' published for {}", c.n)), "{text}");
    c.ok("docker stop -t 0 $n");
    c.says("docker port $n", "");
}

fn bad_ports_are_refused(c: &Client) {
    c.refuses(125, "docker run --rm -p 99999:80 busybox true", "docker: invalid hostPort: 99999");
    c.refuses(125, "docker run --rm -p 80:99999 busybox true", "docker: invalid containerPort: 99999");
    c.refuses(125, "docker run --rm -p nonsense busybox true", "docker: invalid containerPort: nonsense");
    c.refuses(125, "docker run --rm -p 80:80/xyz busybox true", "docker: invalid proto: xyz");
    let text = c.fails(125, "docker run --rm -p 1.2.3:80:80 busybox true");
    assert!(text.contains("invalid IP address: 1.2.3"), "{text}");
}
