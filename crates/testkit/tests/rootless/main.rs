//! Engines of users without root: a user is made for each test, with ids lent by the host, and is gone afterwards.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests may")]

mod user;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use user::{Ids, User};
use yare_testkit::{Invocation, Registry, eventually, require_programs, require_root};

const PATIENCE: Duration = Duration::from_secs(60);

fn may_run(test: &str) -> bool {
    let programs = ["useradd", "newuidmap", "pasta", "docker", "busybox", "nsenter", "setpriv", "unshare"];
    require_root(test) && require_programs(test, &programs)
}

/// The one line that a command says, which has to work.
fn line(command: Invocation) -> String {
    command.ok().trim_end().to_owned()
}

#[test]
fn containers_are_the_users_own() {
    if !may_run("containers_are_the_users_own") {
        return;
    }
    let mut user = User::started();
    let info = user.docker(&["info", "--format", "{{json .SecurityOptions}} {{.DockerRootDir}}"]).ok();
    assert!(info.contains("\"name=rootless\""), "{info}");
    assert!(info.contains(&format!("{}/.local/share/yare", user.home().display())), "{info}");
    // Root inside is the user outside, and others are lent ids.
    let id = "id -u; cat /proc/self/uid_map";
    let inside = user.yare(&["run", "--rm", "busybox", "sh", "-c", id]).ok();
    assert!(inside.starts_with("0\n"), "{inside}");
    assert!(inside.contains(&format!("0 {:>10} {:>10}", user.uid, 1)), "{inside}");
    user.docker(&["run", "-d", "--name", "box", "busybox", "sh", "-c", "echo hello; sleep 1000"]).ok();
    let pid: i32 = line(user.docker(&["inspect", "--format", "{{.State.Pid}}", "box"])).parse().unwrap();
    assert!(user.processes().iter().any(|(known, _)| *known == pid), "its processes are the user's");
    // What people do with it.
    assert_eq!(user.yare(&["exec", "box", "id", "-u"]).ok(), "0\n");
    assert_eq!(user.docker(&["exec", "-u", "1000", "box", "id", "-u"]).ok(), "1000\n");
    eventually("its log is there", PATIENCE, || user.yare(&["logs", "box"]).ok() == "hello\n");
    assert!(user.docker(&["ps", "--format", "{{.Names}}"]).ok().contains("box"));
    assert!(user.docker(&["top", "box"]).ok().contains("sleep 1000"));
    let stats = user.docker(&["stats", "--no-stream", "--format", "{{.Name}}", "box"]).ok();
    assert_eq!(stats, "box\n");
    // Nobody gets more than the user has: not the host's files, not its limits.
    let shadow =
        user.yare(&["run", "--rm", "--privileged", "-v", "/etc/shadow:/s:ro", "busybox", "cat", "/s"]).run();
    assert!(shadow.code != 0 && shadow.stdout.is_empty(), "{shadow:?}");
    let limited = user.docker(&["run", "--rm", "-m", "64m", "busybox", "true"]).run();
    assert_eq!(limited.code, 0);
    assert!(limited.stderr.contains("Limitation discarded"), "{limited:?}");
    user.docker(&["rm", "-f", "box"]).ok();
    user.end_engine();
}

#[test]
fn images_are_built_and_volumes_kept() {
    if !may_run("images_are_built_and_volumes_kept") {
        return;
    }
    let mut user = User::started();
    let file = "FROM busybox\n\
                RUN mkdir -p /d/e && touch /d/e/old && chown 1000:1000 /d && id -u > /who\n\
                RUN rm -r /d/e /home && mkdir /d/e && touch /d/e/new\n\
                CMD [\"sh\", \"-c\", \"cat /who; ls /d/e; stat -c %u /d; test -e /home || echo gone\"]\n";
    let build = user.yare(&["build", "-t", "made", "-"]).input(file).run();
    assert_eq!(build.code, 0, "{build:?}");
    // Deleted names and directories that were made anew hide what is below, in one stack and in the next.
    for _ in 0..2 {
        assert_eq!(user.docker(&["run", "--rm", "made"]).ok(), "0\nnew\n1000\ngone\n");
    }
    let changes = ["sh", "-c", "rm -r /d/e; mkdir /d/e; echo more > /d/e/more"];
    user.yare(&[&["run", "--name", "changed", "made"][..], &changes].concat()).ok();
    user.yare(&["commit", "changed", "again"]).ok();
    assert_eq!(user.docker(&["run", "--rm", "again", "ls", "/d/e"]).ok(), "more\n");
    user.yare(&["rm", "changed"]).ok();
    user.docker(&["run", "--rm", "-v", "kept:/v", "busybox", "sh", "-c", "echo data > /v/file"]).ok();
    assert_eq!(user.yare(&["run", "--rm", "-v", "kept:/v", "busybox", "cat", "/v/file"]).ok(), "data\n");
    let own = user.home().join("own");
    let words = format!("{}:/own", own.display());
    user.yare(&["run", "--rm", "-v", &words, "busybox", "sh", "-c", "echo mine > /own/file"]).ok();
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(own.join("file")).unwrap());
    assert_eq!(owner, user.uid, "what root writes is the user's");
    user.end_engine();
}

/// What a server at an address says.
fn asked(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn port_of(user: &User, name: &str) -> u16 {
    let format = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    line(user.docker(&["inspect", "--format", format, name])).parse().unwrap()
}

/// Set for the program of this test where it answers packets, inside of a container.
const ECHO: &str = "YARE_ROOTLESS_ECHO";

#[test]
#[ignore = "runs in a container of another test"]
fn answers_packets() {
    if std::env::var_os(ECHO).is_none() {
        return;
    }
    let socket = UdpSocket::bind("0.0.0.0:53").unwrap();
    let mut packet = [0; 1500];
    loop {
        let (length, peer) = socket.recv_from(&mut packet).unwrap();
        socket.send_to(&packet[..length], peer).unwrap();
    }
}

#[test]
fn packets_are_carried_both_ways() {
    if !may_run("packets_are_carried_both_ways") {
        return;
    }
    let mut user = User::started();
    let helper = user.home().join("helper");
    std::fs::copy(std::env::current_exe().unwrap(), &helper).unwrap();
    let (mount, echo) = (format!("{}:/helper:ro", helper.display()), format!("{ECHO}=1"));
    let options = ["run", "-d", "--name", "echo", "-v", &mount, "-e", &echo];
    let ports = ["-p", "127.0.0.1:0:53/udp"];
    let program = ["busybox", "/helper", "--exact", "answers_packets", "--ignored"];
    user.docker(&[&options[..], &ports, &program].concat()).ok();
    let format = "{{(index (index .NetworkSettings.Ports \"53/udp\") 0).HostPort}}";
    let port: u16 = line(user.docker(&["inspect", "--format", format, "echo"])).parse().unwrap();
    let echoes = || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // Answers come from the address that was asked, or this socket would not have them.
        socket.connect(("127.0.0.1", port)).unwrap();
        let mut answer = [0; 16];
        socket.send(b"packet").is_ok()
            && socket.recv(&mut answer).is_ok_and(|length| &answer[..length] == b"packet")
    };
    eventually("packets come back", PATIENCE, echoes);
    user.kill_engine();
    user.start();
    eventually("the next engine's carrier has the socket", PATIENCE, echoes);
    user.docker(&["rm", "-f", "echo"]).ok();
    user.end_engine();
}

const SERVE: [&str; 4] = ["busybox", "sh", "-c", "echo served > /index.html; exec httpd -f -p 80 -h /"];

#[test]
fn ports_are_published_where_they_were_asked_for() {
    if !may_run("ports_are_published_where_they_were_asked_for") {
        return;
    }
    let mut user = User::started();
    let run = |name: &str, publish: &str| {
        user.docker(&[&["run", "-d", "--name", name, "-p", publish][..], &SERVE].concat())
    };
    run("here", "127.0.0.1:0:80").ok();
    let port = port_of(&user, "here");
    let here = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("it serves", PATIENCE, || asked(here).is_ok_and(|answer| answer.contains("served")));
    let elsewhere = SocketAddr::from(([127, 0, 0, 2], port));
    assert!(
        TcpStream::connect(elsewhere).is_err(),
        "one address of the loopback interface is not all of them"
    );
    // Everywhere is everywhere, and what is taken is refused.
    run("all", "0:80").ok();
    let all = port_of(&user, "all");
    for ip in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        let address = SocketAddr::from((ip, all));
        eventually("it serves", PATIENCE, || asked(address).is_ok_and(|answer| answer.contains("served")));
    }
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("127.0.0.1:{}:80", taken.local_addr().unwrap().port());
    let refused = run("refused", &taken).run();
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("address already in use"), "{refused:?}");
    let low = run("low", "127.0.0.1:17:80").run();
    assert!(
        low.stderr.contains("permission denied") && low.stderr.contains("ip_unprivileged_port_start"),
        "{low:?}"
    );
    user.docker(&["rm", "-f", "here"]).ok();
    assert!(TcpStream::connect(here).is_err(), "the port went with the container");
    user.docker(&["rm", "-f", "all", "refused", "low"]).ok();
    user.end_engine();
}

/// An address of the host that is not one of its way out, so that an engine's network does not have it, too.
#[derive(Debug)]
struct Beyond(&'static str);

impl Beyond {
    fn new(address: &'static str) -> Self {
        Invocation::new("ip", &["address", "replace", &format!("{address}/32"), "dev", "lo"]).ok();
        Self(address)
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        let address = format!("{}/32", self.0);
        let removed = Invocation::new("ip", &["address", "delete", &address, "dev", "lo"]).run();
        if removed.code != 0 {
            println!("cannot remove {address}: {}", removed.stderr);
        }
    }
}

/// What containers send, in bytes.
const SENT: usize = 32 << 20;

#[test]
fn containers_reach_others_through_the_way_out() {
    if !may_run("containers_reach_others_through_the_way_out") {
        return;
    }
    let beyond = Beyond::new("198.51.100.77");
    let server = TcpListener::bind((beyond.0, 0)).unwrap();
    let port = server.local_addr().unwrap().port().to_string();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let mut stream = stream.unwrap();
            let mut missing = SENT;
            while missing > 0 {
                match stream.read(&mut [0; 64 << 10]) {
                    Ok(length @ 1..) => missing = missing.saturating_sub(length),
                    _ => break,
                }
            }
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nanswered");
        }
    });
    let mut user = User::started();
    // More than a handshake: data goes and comes, through the bridge, and from the engine's network itself.
    for network in ["bridge", "host"] {
        let url = format!("http://{}:{port}/", beyond.0);
        // More than the queues on the way hold: what is lost there is for the sender to send again.
        // Not of zeros: this wget takes the file for a string.
        let make = "dd if=/dev/zero bs=64k count=512 2>/dev/null | tr '\\0' x > /f";
        let send = format!("{make}; timeout 60 wget -q -O - --post-file /f {url}");
        let ask = ["run", "--rm", "--network", network, "busybox", "sh", "-c", &send];
        assert_eq!(user.docker(&ask).run().stdout, "answered", "{network}");
    }
    user.end_engine();
}

#[test]
fn images_come_from_a_registry_of_the_host() {
    if !may_run("images_come_from_a_registry_of_the_host") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::of_yare(folder.path());
    let name = format!("{}/app", registry.host());
    let mut user = User::started();
    user.docker(&["tag", "busybox", &name]).ok();
    user.docker(&["push", &name]).ok();
    user.docker(&["rmi", &name]).ok();
    assert_eq!(user.yare(&["run", "--rm", &name, "echo", "pulled"]).ok(), "pulled\n");
    user.end_engine();
}

#[test]
fn containers_find_each_other_by_name() {
    if !may_run("containers_find_each_other_by_name") {
        return;
    }
    let mut user = User::started();
    user.docker(&["network", "create", "net"]).ok();
    user.docker(&[&["run", "-d", "--name", "web", "--network", "net"][..], &SERVE].concat()).ok();
    let ask =
        ["run", "--rm", "--network", "net", "busybox", "wget", "-q", "-O", "-", "http://web/index.html"];
    eventually("it answers by name", PATIENCE, || user.yare(&ask).run().stdout == "served\n");
    user.docker(&["rm", "-f", "web"]).ok();
    user.docker(&["network", "rm", "net"]).ok();
    user.end_engine();
}

#[test]
fn containers_outlive_the_engine_and_nothing_outlives_both() {
    if !may_run("containers_outlive_the_engine_and_nothing_outlives_both") {
        return;
    }
    let mut user = User::started();
    user.docker(&[&["run", "-d", "--name", "web", "-p", "127.0.0.1:0:80"][..], &SERVE].concat()).ok();
    let address = SocketAddr::from(([127, 0, 0, 1], port_of(&user, "web")));
    eventually("it serves", PATIENCE, || asked(address).is_ok());
    let pid = line(user.docker(&["inspect", "--format", "{{.State.Pid}}", "web"]));
    user.kill_engine();
    assert!(asked(address).unwrap().contains("served"), "containers and their ports do without an engine");
    user.start();
    assert_eq!(line(user.docker(&["inspect", "--format", "{{.State.Pid}}", "web"])), pid);
    assert!(asked(address).unwrap().contains("served"));
    let inside = ["exec", "web", "wget", "-q", "-O", "-", "http://127.0.0.1/index.html"];
    assert_eq!(user.yare(&inside).ok(), "served\n");
    // An engine that ends while containers run leaves them what they need.
    user.end_engine();
    assert!(asked(address).unwrap().contains("served"));
    user.start();
    user.docker(&["rm", "-f", "web"]).ok();
    user.end_engine();
    eventually("nothing is left", PATIENCE, || user.processes().is_empty());
}

#[test]
fn who_lacks_something_is_told_what() {
    if !may_run("who_lacks_something_is_told_what") {
        return;
    }
    let user = User::new(Ids::One);
    let refused = user.yare(&["daemon"]).run();
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("has no subordinate ids in /etc/subuid"), "{refused:?}");
    assert!(refused.stderr.contains("sudo usermod --add-subuids"), "{refused:?}");
    // A command that would start an engine says the same.
    let refused = user.yare(&["ps"]).run();
    assert!(refused.stderr.contains("has no subordinate ids in /etc/subuid"), "{refused:?}");
    assert!(user.processes().is_empty(), "{:?}", user.processes());
}
