//! What keeps a container in.

use crate::case::cases;
use crate::client::Client;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use yare_testkit::Engine;

cases![
    Both:
        capabilities_are_dockers,
        capabilities_are_added_and_dropped.differs_from_old("it asks for capabilities that it lacks itself"),
        users_have_no_capabilities,
        privileged_has_everything.differs_from_old("it asks for capabilities that it lacks itself"),
        seccomp_filters_by_default,
        seccomp_takes_a_profile,
        no_new_privileges_stops_setuid,
        paths_are_masked_and_read_only,
        security_options_are_checked,
        a_profile_that_cannot_be_had_is_told.differs("it leaves the profile out without a word"),
        the_engines_defaults_confine.differs("the test starts an engine of its own");
];

fn capabilities(c: &Client, flags: &str) -> [String; 4] {
    let said =
        c.ok(&format!("docker run --rm {flags} busybox grep -E '^Cap(Inh|Prm|Eff|Bnd)' /proc/self/status"));
    let values: Vec<String> =
        said.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect();
    values.try_into().unwrap()
}

/// Those that the engine itself may have.
pub(crate) fn all_capabilities(c: &Client) -> String {
    c.line("awk '/^CapBnd/ {print $2}' /proc/self/status")
}

fn capabilities_are_dockers(c: &Client) {
    let docker = "00000000a80425fb";
    assert_eq!(capabilities(c, ""), ["0000000000000000", docker, docker, docker]);
    c.says("docker run --rm busybox grep CapAmb /proc/self/status", "CapAmb:\t0000000000000000\n");
}

fn capabilities_are_added_and_dropped(c: &Client) {
    assert_eq!(capabilities(c, "--cap-drop ALL")[2], "0000000000000000");
    assert_eq!(capabilities(c, "--cap-drop all --cap-add NET_BIND_SERVICE")[2], "0000000000000400");
    assert_eq!(capabilities(c, "--cap-add CAP_SYS_ADMIN --cap-drop chown")[2], "00000000a82425fa");
    let all = all_capabilities(c);
    assert_eq!(capabilities(c, "--cap-add ALL")[2], all);
    let text = c.fails(125, "docker run --rm --cap-add NONSENSE busybox true");
    assert!(
        text.contains("invalid capability: \"CAP_NONSENSE\"")
            || text.contains("unknown capability: \"CAP_NONSENSE\""),
        "{text}"
    );
    c.says("docker run --rm --cap-add NET_ADMIN busybox ip link set lo mtu 1400 && echo set", "set\n");
    c.fails(2, "docker run --rm busybox ip link set lo mtu 1400");
}

fn users_have_no_capabilities(c: &Client) {
    let [inherited, permitted, effective, bounding] = capabilities(c, "-u 1000");
    assert_eq!([inherited.as_str(), &permitted, &effective], ["0000000000000000"; 3]);
    assert_eq!(bounding, "00000000a80425fb");
}

fn privileged_has_everything(c: &Client) {
    let all = all_capabilities(c);
    assert_eq!(capabilities(c, "--privileged")[2], all);
    c.says("docker run --rm --privileged busybox sh -c 'mount -t tmpfs x /tmp && echo mounted; grep Seccomp: /proc/self/status; test -e /dev/kmsg && echo devices; grep -c \"^sysfs /sys sysfs rw\" /proc/mounts'", "mounted\nSeccomp:\t0\ndevices\n1\n");
}

fn seccomp_filters_by_default(c: &Client) {
    c.says("docker run --rm busybox grep Seccomp: /proc/self/status", "Seccomp:\t2\n");
    c.says(
        "docker run --rm --security-opt seccomp=unconfined busybox grep Seccomp: /proc/self/status",
        "Seccomp:\t0\n",
    );
    let text = c.fails(1, "docker run --rm busybox unshare -U true");
    assert!(text.contains("Operation not permitted"), "{text}");
    c.ok("docker run --rm --security-opt seccomp=unconfined busybox unshare -U true");
    c.says("docker run -d --name $n busybox sleep 1000 >/dev/null; docker exec $n grep Seccomp: /proc/self/status", "Seccomp:\t2\n");
}

fn seccomp_takes_a_profile(c: &Client) {
    c.ok(r#"echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmodat","fchmod"],"action":"SCMP_ACT_ERRNO"}]}' > profile.json"#);
    let text = c.fails(1, "docker run --rm --security-opt seccomp=profile.json busybox chmod 700 /tmp");
    assert!(text.contains("Operation not permitted"), "{text}");
    c.ok("docker run --rm busybox chmod 700 /tmp");
    let text = c.fails(125, "docker run --rm --security-opt seccomp=missing.json busybox true");
    assert!(text.contains("opening seccomp profile (missing.json) failed"), "{text}");
    let text = c
        .fails(125, "echo nonsense > bad.json; docker run --rm --security-opt seccomp=bad.json busybox true");
    assert!(text.contains("seccomp"), "{text}");
}

fn no_new_privileges_stops_setuid(c: &Client) {
    c.says("docker run --rm busybox grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0\n");
    c.says(
        "docker run --rm --security-opt no-new-privileges busybox grep NoNewPrivs /proc/self/status",
        "NoNewPrivs:\t1\n",
    );
    c.says(
        "docker run --rm --security-opt no-new-privileges=true busybox grep NoNewPrivs /proc/self/status",
        "NoNewPrivs:\t1\n",
    );
    // Of busybox's programs, ping keeps the rights that the setuid bit gives it.
    c.ok("mkdir r; tar -xf $busybox -C r; rm r/bin/ping; cp r/bin/busybox r/bin/ping; chmod 4755 r/bin/ping; tar -C r -c . | docker import - $n/a");
    c.says("docker run --rm -u 1000 $n/a ping -c 1 127.0.0.1 | grep -c '1 packets received'", "1\n");
    c.says("docker run --rm -u 1000 --security-opt no-new-privileges $n/a ping -c 1 127.0.0.1 2>&1 | grep -c denied", "1\n");
}

fn paths_are_masked_and_read_only(c: &Client) {
    c.says("docker run --rm busybox sh -c 'cat /proc/kcore /proc/keys /proc/timer_list | wc -c'", "0\n");
    c.says("docker run --rm busybox sh -c 'ls /proc/acpi /proc/scsi /sys/firmware 2>/dev/null | grep -v : | wc -w'", "0\n");
    for path in [
        "/proc/sys/kernel/panic",
        "/proc/sysrq-trigger",
        "/proc/irq/0/smp_affinity",
        "/sys/kernel/mm/ksm/run",
    ] {
        let text = c.fails(1, &format!("docker run --rm busybox sh -c 'echo 0 > {path}'"));
        assert!(
            text.contains("Read-only file system")
                || text.contains("nonexistent")
                || text.contains("ermission denied"),
            "{path}: {text}"
        );
    }
    c.says("docker run --rm --security-opt systempaths=unconfined busybox sh -c 'cat /proc/timer_list | head -c 5'", "Timer");
}

fn security_options_are_checked(c: &Client) {
    let text = c.fails(125, "docker run --rm --security-opt nonsense=1 busybox true");
    assert!(text.contains("invalid --security-opt") || text.contains("nonsense"), "{text}");
    c.says("docker create --name $n --security-opt label=disable --security-opt no-new-privileges busybox true >/dev/null; docker inspect -f '{{.HostConfig.SecurityOpt}}' $n", "[label=disable no-new-privileges]\n");
}

fn a_profile_that_cannot_be_had_is_told(c: &Client) {
    if Path::new("/sys/kernel/security/apparmor").exists() {
        // The kernel's own refusal of a profile that nobody loaded.
        let text = c.fails(126, "docker run --rm --security-opt apparmor=yare-test-none busybox true");
        assert!(text.contains("cannot apply AppArmor profile yare-test-none"), "{text}");
        return;
    }
    let said = c.ok("docker create --name $n --security-opt apparmor=mine busybox true 2>&1");
    assert!(said.contains("AppArmor is off. Profile mine discarded."), "{said}");
    c.says("docker inspect -f '[{{.AppArmorProfile}}]' $n", "[]\n");
    let said = c.ok("docker create --security-opt apparmor=unconfined --name $n-2 busybox true 2>&1");
    assert!(!said.contains("discarded"), "{said}");
    c.says("docker info -f '{{.SecurityOptions}}'", "[name=seccomp,profile=builtin]\n");
}

fn the_engines_defaults_confine(c: &Client) {
    let folder = tempfile::tempdir().unwrap();
    let profile = folder.path().join("seccomp.json");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;
    std::fs::write(&profile, text).unwrap();
    let profile = profile.to_str().unwrap();
    // Another program may take the port meanwhile; then the engine says so and the test fails.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tcp = format!("tcp://127.0.0.1:{port}");
    let mut flags = vec!["--seccomp-profile", profile, "--default-ulimit", "nofile=77:99"];
    flags.extend(["-H", &tcp, "--tcp-without-tls", "--allowed-host", "docker"]);
    let engine = Engine::start_with(&flags);
    engine.load_busybox();
    let own = c.of(&engine);
    own.says("docker info -f '{{.SecurityOptions}}'", &format!("[name=seccomp,profile={profile}]\n"));
    own.says("docker run --rm busybox sh -c 'ulimit -n; ulimit -Hn'", "77\n99\n");
    own.says("docker run --rm --ulimit nofile=50 busybox sh -c 'ulimit -n'", "50\n");
    let refused = own.fails(1, "docker run --rm busybox mkdir /x");
    assert!(refused.contains("Operation not permitted"), "{refused}");
    own.ok("docker run --rm --security-opt seccomp=builtin busybox mkdir /x");
    own.ok("docker run --rm --privileged busybox mkdir /x");
    assert!(pinged(port, "docker:2375").starts_with("HTTP/1.1 200"));
    let other = pinged(port, "elsewhere:2375");
    assert!(other.starts_with("HTTP/1.1 403") && other.contains("--allowed-host"), "{other}");
    drop(own);
    engine.finish();
}

/// What the engine answers over TCP to a client that names it so.
fn pinged(port: u16, host: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET /_ping HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
