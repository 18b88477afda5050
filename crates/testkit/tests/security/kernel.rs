//! Row 46, and what goes with it: which of the kernel's doors are open to an ordinary container.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;
use yare_testkit::{Invocation, require_root};

use crate::stage::{Stage, probe};

/// dockerd 28.5.2's default profile as it resolves for an ordinary container on this architecture.
const PROFILE: &str = include_str!("seccomp-dockerd-28.5.2.json");

const EPERM: i64 = 1;
/// What the probe's second filter answers for calls that the first lets through.
const LET_THROUGH: i64 = 38;

/// Numbers of system calls by name, as the C library's headers have them.
fn numbers() -> BTreeMap<String, u64> {
    let defined = Invocation::new("gcc", &["-E", "-dM", "-include", "sys/syscall.h", "-"]).input("").ok();
    let lines = defined.lines().filter_map(|line| line.strip_prefix("#define __NR_"));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, number)| Some((name.to_owned(), number.parse().ok()?))).collect()
}

/// What the profile answers for a call, by errno; 0 lets it through.
fn expected(profile: &Value, name: &str, args: &[u64]) -> i64 {
    const AF_ALG: u64 = 38;
    if name == "socket" && args.first() == Some(&AF_ALG) {
        // Docker closed this door after 28.5.2.
        return EPERM;
    }
    let rules = profile["syscalls"].as_array().unwrap().iter();
    let named = rules.filter(|rule| rule["names"].as_array().unwrap().iter().any(|known| known == name));
    let meets = |condition: &Value| {
        let index = usize::try_from(condition["index"].as_u64().unwrap()).unwrap();
        let (argument, value) = (args.get(index).copied().unwrap_or(0), condition["value"].as_u64().unwrap());
        match condition["op"].as_str().unwrap() {
            "SCMP_CMP_EQ" => argument == value,
            "SCMP_CMP_NE" => argument != value,
            "SCMP_CMP_MASKED_EQ" => argument & value == condition["valueTwo"].as_u64().unwrap_or(0),
            other => panic!("unknown comparison {other}"),
        }
    };
    let mut met =
        named.filter(|rule| rule["args"].as_array().is_none_or(|conditions| conditions.iter().all(meets)));
    match met.next() {
        Some(rule) if rule["action"] == "SCMP_ACT_ALLOW" => 0,
        Some(rule) => rule["errnoRet"].as_i64().unwrap_or(EPERM),
        None => profile["defaultErrnoRet"].as_i64().unwrap(),
    }
}

/// Calls with arguments that the profile looks at.
fn with_arguments() -> Vec<(&'static str, Vec<u64>)> {
    let mut calls = Vec::new();
    for family in 0..50 {
        calls.push(("socket", vec![family, 1]));
    }
    for persona in [0, 1, 8, 0x2_0000, 0x2_0008, 0x40_0000, 0xffff_ffff, 0x1_0000_0000] {
        calls.push(("personality", vec![persona]));
    }
    // Each of the namespaces, and what an ordinary fork asks for.
    for flags in
        [0x11, 0x1000_0011, 0x2_0011, 0x2000_0011, 0x4000_0011, 0x800_0011, 0x400_0011, 0x200_0011, 0x3d_0f00]
    {
        calls.push(("clone", vec![flags]));
    }
    for flags in [0x1000_0000, 0x2_0000, 0x2000_0000, 0x4000_0000, 0x800_0000, 0x400_0000, 0x200_0000, 0x80] {
        calls.push(("unshare", vec![flags]));
    }
    calls
}

fn assert_filtered_as(how: &str, profile: &Value, run: impl Fn(Vec<u8>) -> String) {
    let numbers = numbers();
    let plain = numbers.keys().map(|name| (name.as_str(), Vec::new()));
    let calls: Vec<(&str, Vec<u64>)> =
        plain.chain(with_arguments()).filter(|(name, _)| numbers.contains_key(*name)).collect();
    let mut input = String::new();
    for (name, args) in &calls {
        write!(input, "{}", numbers[*name]).unwrap();
        args.iter().for_each(|arg| write!(input, " {arg}").unwrap());
        input.push('\n');
    }
    let said = run(input.into_bytes());
    assert_eq!(said.lines().count(), calls.len(), "{how}: {said}");
    let wrong = calls.iter().zip(said.lines()).filter_map(|((name, args), line)| {
        let answer: i64 = line.split(' ').nth(1)?.parse().ok()?;
        let wanted = match expected(profile, name, args) {
            0 => LET_THROUGH,
            errno => errno,
        };
        (answer != wanted).then(|| format!("{name}{args:?}: {answer}, and Docker's says {wanted}"))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), Vec::<String>::new(), "{how}");
}

#[test]
fn row_46_every_system_call_is_answered_as_by_dockers_profile() {
    if !require_root("row_46_every_system_call_is_answered_as_by_dockers_profile") {
        return;
    }
    let stage = Stage::new();
    let profile: Value = serde_json::from_str(PROFILE).unwrap();
    let volume = format!("{}:/probe:ro", probe().display());
    for flags in [&[] as &[&str], &["--user", "1000"], &["--init=false"], &["-t"]] {
        assert_filtered_as(&format!("run {flags:?}"), &profile, |input| {
            // A terminal would answer what is typed, so there the calls come in a file.
            let calls = stage.engine.path().join("calls");
            std::fs::write(&calls, input).unwrap();
            let calls = format!("{}:/calls:ro", calls.display());
            let head = ["run", "--rm", "-v", &volume, "-v", &calls];
            let tail = ["busybox", "sh", "-c", "/probe filter < /calls"];
            stage.engine.yare(&[&head, flags, &tail].concat()).ok().replace('\r', "")
        });
    }
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    for flags in [&[] as &[&str], &["--privileged"], &["--user", "1000"]] {
        assert_filtered_as(&format!("exec {flags:?}"), &profile, |input| {
            let args = [&["exec", "-i"], flags, &[&id, "/probe", "filter"]].concat();
            stage.engine.yare(&args).input(input).ok()
        });
    }
    stage.finish();
}

#[test]
fn row_46_other_entries_to_the_kernel_are_filtered_too() {
    if !require_root("row_46_other_entries_to_the_kernel_are_filtered_too") {
        return;
    }
    let stage = Stage::new();
    // By the 32-bit entry: unshare, mount, init_module, bpf, keyctl, perf_event_open, userfaultfd.
    for (number, arguments) in [
        ("310", "0x10000000"),
        ("21", "0"),
        ("128", "0"),
        ("357", "0"),
        ("288", "0"),
        ("336", "0"),
        ("374", "0"),
    ] {
        let said = stage.says(&[], &["/probe", "call32", number, arguments]);
        assert!(["EPERM", "ENOSYS"].contains(&said.as_str()), "int 0x80 {number}: {said}");
    }
    // By the x32 numbers: unshare, mount, bpf.
    for number in [0x4000_0000 + 272, 0x4000_0000 + 165, 0x4000_0000 + 321_u32] {
        let said = stage.says(&[], &["/probe", "call", &number.to_string(), "0x10000000"]);
        assert!(["EPERM", "ENOSYS"].contains(&said.as_str()), "{number:x}: {said}");
    }
    assert_eq!(stage.says(&[], &["/probe", "alg"]), "EPERM");
    stage.finish();
}

#[test]
fn row_46_namespaces_and_mounts_are_denied() {
    if !require_root("row_46_namespaces_and_mounts_are_denied") {
        return;
    }
    let stage = Stage::new();
    let attempts = [
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "unshare -p true",
        "unshare -Ur sh -c 'mount -t tmpfs x /tmp'",
        "mount -t tmpfs x /tmp",
        "mount -t proc x /tmp",
        "mount --bind / /tmp",
        "mount -o remount,rw /proc/sys",
        "umount /proc/kcore",
        "umount /proc/sys",
        "umount -l /sys",
        "pivot_root /tmp /tmp",
        "mount -o remount,suid /dev",
        "chroot /proc/1/root mount -t tmpfs x /tmp",
        "nsenter -t 1 -m true",
        "nsenter -t 1 -U true",
        "losetup -f /etc/passwd",
        "insmod /etc/passwd",
        "swapon /etc/passwd",
        "hostname changed",
        "dmesg -c",
        "reboot -f",
        "ip link add d type dummy",
        "ip link set lo mtu 1400",
        "sysctl -w kernel.hostname=x",
        "setkeycodes 1 1",
        "chvt 1",
    ];
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    for user in ["0", "1000"] {
        for attempt in attempts {
            let outcome = stage.exec(&["-u", user], &id, &["sh", "-c", attempt]);
            assert_ne!(outcome.code, 0, "{user}: {attempt}: {outcome:?}");
        }
    }
    let inside = stage.canary().join("CANARY").display().to_string();
    assert_eq!(stage.says(&[], &["/probe", "breakout", &inside]), "in");
    stage.assert_canary_sings("after all of it");
    stage.finish();
}

#[test]
fn row_46_devices_that_a_container_makes_stay_closed() {
    if !require_root("row_46_devices_that_a_container_makes_stay_closed") {
        return;
    }
    let stage = Stage::new();
    // The disk that this test runs on, and some that every host has: sda, mem, kmsg, port, loop0, the fuse and
    // tun devices.
    let disk = {
        use std::os::unix::fs::MetadataExt;
        let device = std::fs::metadata(stage.engine.data_root()).unwrap().dev();
        format!("b {} {}", rustix::fs::major(device), rustix::fs::minor(device))
    };
    let closed = [
        disk.as_str(),
        "b 8 0",
        "b 7 0",
        "c 1 1",
        "c 1 2",
        "c 1 4",
        "c 1 11",
        "c 10 229",
        "c 10 200",
        "c 10 237",
        "c 4 0",
    ];
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    for device in closed {
        let script =
            format!("rm -f /tmp/d; mknod /tmp/d {device} && /probe read /tmp/d; /probe write /tmp/d");
        let by_run = stage.says(&[], &["sh", "-c", &script]);
        assert_eq!(by_run, "EPERM\nEPERM", "run: {device}");
        for flags in [&[] as &[&str], &["--privileged"]] {
            let outcome = stage.exec(flags, &id, &["sh", "-c", &script]);
            assert_eq!(outcome.stdout, "EPERM\nEPERM\n", "exec {flags:?}: {device}: {outcome:?}");
        }
    }
    for device in ["c 1 3", "c 1 5", "c 1 7", "c 1 8", "c 1 9"] {
        let script = format!("mknod /tmp/d {device} && /probe read /tmp/d >/dev/null && echo open");
        assert_eq!(stage.says(&[], &["sh", "-c", &script]), "open", "{device}");
    }
    // One that was given is open, as far as it was given.
    let given = ["--device", "/dev/kmsg:/dev/kmsg:w"];
    assert_eq!(stage.says(&given, &["/probe", "write", "/dev/kmsg"]), "opened");
    assert_eq!(stage.says(&given, &["/probe", "read", "/dev/kmsg"]), "EPERM");
    // The control: without the confinement it would have worked.
    let script = "mknod /tmp/d c 1 11 && /probe read /tmp/d";
    assert_ne!(stage.says(&["--privileged"], &["sh", "-c", script]), "EPERM");
    stage.finish();
}
