//! Log drivers other than `json-file`: what they send, and that their logs can be read all the same.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use yare_testkit::eventually;

use crate::case::cases;
use crate::client::Client;

/// How long a message may take.
const PATIENCE: Duration = Duration::from_secs(60);

cases![
    Both:
        syslog_over_udp_has_all_forms,
        syslog_over_tcp_is_read_from_the_copy,
        syslog_goes_to_a_socket_with_a_tag,
        gelf_and_fluentd_are_sent,
        a_server_that_is_not_there_fails_the_start,
        a_slow_server_makes_the_container_wait_or_lose.differs("it measures what was lost"),
        a_driver_without_a_copy_cannot_be_read,
        the_local_driver_rotates_and_is_read,
        a_log_that_waits_for_nobody_is_whole,
        logs_count_as_disk_usage.differs("it does not count logs"),
        attributes_are_picked_by_expressions_and_templates,
        options_of_drivers_are_checked;
];

fn udp() -> (UdpSocket, u16) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn datagram(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let length = socket.recv(&mut buffer).unwrap();
    buffer.truncate(length);
    buffer
}

/// Digits as `9`, so that times and numbers of processes do not matter.
fn form(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message).into_owned();
    let mut out = String::new();
    for char in text.chars() {
        let char = if char.is_ascii_digit() { '9' } else { char };
        if !(char == '9' && out.ends_with('9')) {
            out.push(char);
        }
    }
    out
}

fn syslog_over_udp_has_all_forms(c: &Client) {
    let (socket, port) = udp();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = form(host.trim().as_bytes());
    for (format, head) in [
        ("", " tag[9]: ".to_owned()),
        ("rfc3164", format!(" {host} tag[9]: ")),
        ("rfc5424", format!("9-9-9T9:9:9Z {host} tag 9 tag - ")),
        ("rfc5424micro", format!("9-9-9T9:9:9.9Z {host} tag 9 tag - ")),
    ] {
        c.ok(&format!(
            "docker run --rm --log-driver syslog --log-opt syslog-address=udp://127.0.0.1:{port} --log-opt syslog-format={format} --log-opt tag=tag busybox sh -c 'echo out; sleep 0.2; echo err >&2'"
        ));
        for (priority, text) in [("<30>", "out"), ("<27>", "err")] {
            let message = datagram(&socket);
            assert!(message.starts_with(priority.as_bytes()), "{}", String::from_utf8_lossy(&message));
            let message = form(&message);
            assert!(message.ends_with(&format!("{head}{text}\n")), "{format}: {message:?}");
        }
    }
}

fn syslog_over_tcp_is_read_from_the_copy(c: &Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    c.ok(&format!("docker run --name $n --log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:{port} busybox seq 1 500"));
    let text = server.join().unwrap();
    let numbers: Vec<&str> = text.lines().filter_map(|line| line.rsplit(' ').next()).collect();
    assert_eq!(numbers.len(), 500);
    assert_eq!((numbers[0], numbers[499]), ("1", "500"), "in order");
    c.says("docker logs $n | tail -n 2; docker logs --tail 1 $n", "499\n500\n500\n");
    c.says("docker inspect -f '{{.LogPath}}' $n", "\n");
}

fn syslog_goes_to_a_socket_with_a_tag(c: &Client) {
    let path = c.folder.join("log.socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let id = c.line(&format!(
        "docker run -d --name $n --log-driver syslog --log-opt syslog-address=unixgram://{} --log-opt syslog-facility=local3 --log-opt 'tag={{{{.ImageName}}}}/{{{{.Name}}}}/{{{{.ID}}}}' busybox echo hello",
        path.display()
    ));
    let mut buffer = [0; 500];
    let length = socket.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
    assert!(text.starts_with("<158>"), "{text}");
    assert!(
        text.contains(&format!(" busybox/{}/{}[", c.n, &id[..12])) && text.ends_with("]: hello\n"),
        "{text}"
    );
}

fn gelf_and_fluentd_are_sent(c: &Client) {
    let (socket, port) = udp();
    c.ok(&format!("docker run --name $n --label lab=1 --log-driver gelf --log-opt gelf-address=udp://127.0.0.1:{port} --log-opt gelf-compression-type=none --log-opt labels=lab busybox echo hello"));
    let object: serde_json::Value = serde_json::from_slice(&datagram(&socket)).unwrap();
    assert_eq!(
        [
            &object["version"],
            &object["short_message"],
            &object["_container_name"],
            &object["_command"],
            &object["_lab"]
        ],
        ["1.1", "hello", &c.n, "echo hello", "1"]
    );
    assert_eq!(object["level"], 6);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    c.ok(&format!("docker run --rm --log-driver fluentd --log-opt fluentd-address=127.0.0.1:{port} --log-opt tag=t busybox echo hello"));
    let bytes = server.join().unwrap();
    assert!(bytes.starts_with(b"\x94\xa1t\xd2"), "{bytes:x?}");
    let has = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    assert!(has(b"\xa3log\xa5hello") && has(b"\xa6source\xa6stdout"), "{bytes:x?}");
}

fn a_server_that_is_not_there_fails_the_start(c: &Client) {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = c.fails(125, &format!("docker run --name $n --log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:{port} busybox true"));
    assert!(
        text.contains("failed to create task for container: failed to initialize logging driver: ")
            && text.to_lowercase().contains("connection refused"),
        "{text}"
    );
    c.says("docker inspect -f '{{.State.Status}}' $n", "created\n");
}

fn a_slow_server_makes_the_container_wait_or_lose(c: &Client) {
    // It takes connections, and reads nothing for a while: of the second until all of it was said.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = c.folder.join("shared");
    std::fs::create_dir(&shared).unwrap();
    let is_said = shared.join("said");
    let server = std::thread::spawn(move || {
        let slow = |waits: &dyn Fn()| {
            let (mut stream, _) = listener.accept().unwrap();
            waits();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes.iter().filter(|byte| **byte == b'\n').count()
        };
        let first = slow(&|| std::thread::sleep(Duration::from_secs(2)));
        [first, slow(&|| eventually("all is said", Duration::from_secs(60), || is_said.exists()))]
    });
    let run = |options: &str| {
        let begun = Instant::now();
        c.ok(&format!(
            "docker run --rm --log-driver syslog --log-opt syslog-address=tcp://127.0.0.1:{port} {options} busybox sh -c 'yes 0123456789012345678901234567890123456789 | head -n 200000; touch /shared/said' | tail -n 1"
        ));
        begun.elapsed()
    };
    let waited = run("--tmpfs /shared");
    run("-v $PWD/shared:/shared --log-opt mode=non-blocking --log-opt max-buffer-size=100k");
    let [whole, rest] = server.join().unwrap();
    assert_eq!(whole, 200_000, "the container waited");
    assert!(waited >= Duration::from_millis(1500), "{waited:?}");
    assert!(rest < 200_000 && rest > 100, "{rest}");
}

fn a_driver_without_a_copy_cannot_be_read(c: &Client) {
    let (_socket, port) = udp();
    c.ok(&format!("docker run --name $n --log-driver syslog --log-opt syslog-address=udp://127.0.0.1:{port} --log-opt cache-disabled=true busybox echo hello"));
    let text = c.fails(1, "docker logs $n");
    assert!(text.contains("configured logging driver does not support reading"), "{text}");
}

fn the_local_driver_rotates_and_is_read(c: &Client) {
    c.ok("docker run --name $n --log-driver local --log-opt max-size=100k --log-opt max-file=3 busybox sh -c 'seq 1 20000; sleep 1; echo end >&2' > /dev/null 2>&1");
    let outcome = c.run("docker logs $n");
    let kept = outcome.stdout;
    assert!(kept.ends_with("19999\n20000\n") && outcome.stderr == "end\n", "{}", outcome.stderr);
    let first: u32 = kept.lines().next().unwrap().parse().unwrap();
    assert!(first > 1, "the oldest lines are gone");
    let numbers: Vec<u32> = kept.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no line is missing in between");
    c.says("docker inspect -f '{{.HostConfig.LogConfig.Type}} {{.LogPath}}' $n", "local \n");
}

fn a_log_that_waits_for_nobody_is_whole(c: &Client) {
    for driver in ["json-file", "local"] {
        c.ok(&format!("docker run --name $n-{driver} --log-driver {driver} --log-opt mode=non-blocking --log-opt max-buffer-size=4m busybox sh -c 'seq 1 5000; printf end'"));
        c.says(
            &format!("docker logs $n-{driver} | tail -n 2; docker logs $n-{driver} | wc -l"),
            "5000\nend5000\n",
        );
    }
}

fn logs_count_as_disk_usage(c: &Client) {
    c.ok("docker run --name $n busybox seq 1 20000 > /dev/null");
    let usage = c.api("GET", "/v1.51/system/df?type=container", None).json();
    let containers = usage["Containers"].as_array().unwrap();
    let name = format!("/{}", c.n);
    let mine = containers.iter().find(|container| container["Names"][0] == name.as_str()).unwrap();
    let path = c.inspect("$n", "{{.LogPath}}");
    let log = i64::try_from(std::fs::metadata(path).unwrap().len()).unwrap();
    let size = mine["SizeRw"].as_i64().unwrap();
    assert!(log > 1_000_000 && size >= log && size < log + 100_000, "{log} {size}");
}

fn attributes_are_picked_by_expressions_and_templates(c: &Client) {
    let attrs = |options: &str| {
        c.ok(&format!(
            "docker run --name $n --label com.a=1 --label org.b=2 -e XA=3 -e YB=4 {options} busybox echo x"
        ));
        let details = c.ok("docker logs --details $n");
        c.ok("docker rm $n");
        details
    };
    assert_eq!(attrs("--log-opt labels-regex='^com[.]' --log-opt env-regex=B$"), "YB=4,com.a=1 x\n");
    assert_eq!(attrs("--log-opt tag='{{.Name}}'"), format!("tag={} x\n", c.n));
    assert_eq!(
        attrs("--log-opt tag='{{.ImageName}}-{{.DaemonName}}' --log-opt env=XA"),
        "XA=3,tag=busybox-docker x\n"
    );
}

fn options_of_drivers_are_checked(c: &Client) {
    for (options, why) in [
        ("--log-driver local --log-opt foo=bar", "unknown log opt 'foo' for log driver local"),
        ("--log-driver syslog --log-opt foo=bar", "unknown log opt 'foo' for syslog log driver"),
        ("--log-driver syslog --log-opt syslog-address=foo://x", "unsupported scheme: 'foo'"),
        ("--log-driver syslog --log-opt syslog-facility=bad", "invalid syslog facility"),
        ("--log-driver journald --log-opt foo=bar", "unknown log opt 'foo' for journald log driver"),
        ("--log-driver gelf", "gelf-address is a required parameter"),
        (
            "--log-opt mode=non-blocking --log-opt max-buffer-size=xx",
            "error parsing option max-buffer-size: invalid size: 'xx'",
        ),
    ] {
        let text = c.fails(1, &format!("docker create {options} busybox true"));
        assert!(text.contains(why), "{text}");
    }
}
