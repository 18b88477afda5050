//! Rows 14, 15 and 33: capabilities, cgroups, and numbers that mean users.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use yare_testkit::{Invocation, eventually, require_root};

use crate::api::Api;
use crate::stage::{Stage, probe};

/// The value of a field of what `probe status` says.
fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

const NONE: &str = "0000000000000000";

fn assert_nothing_is_inherited(how: &str, status: &str) {
    assert_eq!((field(status, "CapInh"), field(status, "CapAmb")), (NONE, NONE), "{how}: {status}");
}

#[test]
fn row_14_no_capability_is_inheritable_or_ambient() {
    if !require_root("row_14_no_capability_is_inheritable_or_ambient") {
        return;
    }
    let stage = Stage::new();
    let runs: [&[&str]; 8] = [
        &[],
        &["--init=false"],
        &["-t"],
        &["--user", "1000"],
        &["--user", "1000", "--cap-add", "NET_ADMIN"],
        &["--cap-add", "ALL"],
        &["--privileged"],
        &["--privileged", "--user", "1000"],
    ];
    for flags in runs {
        let status = stage.says(flags, &["/probe", "status"]);
        assert_nothing_is_inherited(&format!("run {flags:?}"), &status);
        if flags.contains(&"--user") {
            assert_eq!((field(&status, "CapPrm"), field(&status, "CapEff")), (NONE, NONE), "{flags:?}");
        }
    }
    for run in [&[] as &[&str], &["--privileged"], &["--user", "1000"]] {
        let id = stage.start(run, &["busybox", "sleep", "1000"]);
        let init = stage.exec(&[], &id, &["cat", "/proc/1/status"]).stdout;
        assert_nothing_is_inherited(&format!("process 1 of {run:?}"), &init);
        for flags in [
            &[] as &[&str],
            &["--user", "1000"],
            &["--user", "0"],
            &["--privileged"],
            &["--privileged", "--user", "1000"],
        ] {
            let outcome = stage.exec(flags, &id, &["/probe", "status"]);
            assert_eq!(outcome.code, 0, "run {run:?}, exec {flags:?}: {outcome:?}");
            assert_nothing_is_inherited(&format!("run {run:?}, exec {flags:?}"), &outcome.stdout);
            if flags.contains(&"1000") {
                assert_eq!(field(&outcome.stdout, "CapEff"), NONE, "run {run:?}, exec {flags:?}");
            }
        }
        stage.engine.yare(&["rm", "-f", &id]).ok();
    }
    stage.finish();
}

#[test]
fn row_14_file_capabilities_give_nothing_beyond_the_bounding_set() {
    if !require_root("row_14_file_capabilities_give_nothing_beyond_the_bounding_set") {
        return;
    }
    let stage = Stage::new();
    let tools = stage.engine.path().join("tools");
    fs::create_dir(&tools).unwrap();
    // security.capability, version 2: which, and whether they are effective at once.
    let set = |name: &str, permitted: u32, inheritable: u32| {
        let path = tools.join(name);
        fs::copy(probe(), &path).unwrap();
        let words = [0x0200_0001_u32, permitted, inheritable, 0, 0];
        let value: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&path, "security.capability", &value, flags).unwrap();
    };
    const NET_RAW: u32 = 1 << 13;
    const NET_ADMIN: u32 = 1 << 12;
    set("inheritable", 0, NET_RAW);
    set("permitted", NET_RAW, 0);
    set("foreign", NET_ADMIN, 0);
    let volume = format!("{}:/tools:ro", tools.display());
    let run = |flags: &[&str], tool: &str| {
        stage.run(
            &[flags, &["-v", &volume, "--user", "1000"]].concat(),
            &["busybox", &format!("/tools/{tool}"), "status"],
        )
    };
    let effective = |outcome: &yare_testkit::Outcome| field(&outcome.stdout, "CapEff").to_owned();
    assert_eq!(effective(&run(&[], "inheritable")), NONE);
    // What the container may have, a file may give.
    assert_eq!(effective(&run(&[], "permitted")), "0000000000002000");
    assert_ne!(run(&[], "foreign").code, 0, "it cannot be had");
    assert_ne!(run(&["--cap-drop", "NET_RAW"], "permitted").code, 0, "it was dropped");
    let denied = run(&["--security-opt", "no-new-privileges"], "permitted");
    assert!(denied.code != 0 || effective(&denied) == NONE, "{denied:?}");
    stage.finish();
}

#[test]
fn row_15_cgroups_cannot_be_mounted_or_written() {
    if !require_root("row_15_cgroups_cannot_be_mounted_or_written") {
        return;
    }
    let stage = Stage::new();
    let look = "mkdir -p /tmp/c; mount -t cgroup -o memory c /tmp/c && echo MOUNTED; \
                mount -t cgroup2 c /tmp/c && echo MOUNTED; mount -o remount,rw /sys/fs/cgroup && echo REMOUNTED; \
                for d in /sys/fs/cgroup /sys/fs/cgroup/*; do [ -d $d ] || continue; mkdir $d/x && echo MADE $d; \
                for f in release_agent notify_on_release cgroup.procs tasks; do [ -e $d/$f ] && /probe write $d/$f; done; done; \
                unshare -m true && echo UNSHARED; unshare -Ur true && echo UNSHARED; \
                echo cgroup $(/probe call 272 0x2000000) $(/probe call 272 0x12020000)";
    for flags in
        [&[] as &[&str], &["--cap-add", "SYS_PTRACE"], &["--cgroupns", "host"], &["--cgroupns", "private"]]
    {
        let outcome = stage.run(flags, &["busybox", "sh", "-c", look]);
        let said: Vec<&str> = outcome.stdout.lines().collect();
        let (last, files) = said.split_last().unwrap_or_else(|| panic!("{flags:?}: {outcome:?}"));
        assert_eq!(*last, "cgroup EPERM EPERM", "{flags:?}: {outcome:?}");
        let written = files.iter().filter(|said| !["EROFS", "EACCES", "EPERM"].contains(*said));
        assert_eq!(written.collect::<Vec<_>>(), Vec::<&&str>::new(), "{flags:?}: {outcome:?}");
    }
    // The same for what is executed in a container later.
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    let outcome = stage.exec(&[], &id, &["sh", "-c", look]);
    assert_eq!(outcome.stdout.lines().last(), Some("cgroup EPERM EPERM"), "{outcome:?}");
    // No agent of the host is the container's: v1's file lies in the root of a hierarchy only.
    let agents = "find /sys/fs/cgroup -name release_agent";
    assert_eq!(stage.says(&["--cgroupns", "private"], &["sh", "-c", agents]), "");
    stage.finish();
}

#[test]
fn row_33_numeric_users_are_exact_or_refused() {
    if !require_root("row_33_numeric_users_are_exact_or_refused") {
        return;
    }
    let stage = Stage::new();
    let id = stage.start(&[], &["busybox", "sleep", "1000"]);
    for user in ["0", "1", "65534", "2147483647"] {
        for status in [
            stage.says(&["--user", user], &["/probe", "status"]),
            stage.exec(&["--user", user], &id, &["/probe", "status"]).stdout,
        ] {
            assert_eq!(field(&status, "Uid"), [user; 4].join("\t"), "--user {user}");
        }
    }
    let odd = [
        "-1",
        "2147483648",
        "4294967295",
        "4294967296",
        "4294967297",
        "18446744073709551615",
        "18446744073709551616",
        "99999999999999999999999",
        "0x0",
        "0x1",
        "1e3",
        "1.0",
        "0:-1",
        "0:2147483648",
        "0:4294967295",
        "0:4294967296",
        "0:0:0",
        "0x0:0x0",
    ];
    for user in odd {
        for (how, outcome) in [
            ("run", stage.run(&[&format!("--user={user}")], &["busybox", "/probe", "status"])),
            (
                "run --init=false",
                stage.run(&["--init=false", &format!("--user={user}")], &["busybox", "/probe", "status"]),
            ),
            ("exec", stage.exec(&[&format!("--user={user}")], &id, &["/probe", "status"])),
        ] {
            assert_ne!(outcome.code, 0, "{how} --user {user}: {}", outcome.stdout);
            assert!(!outcome.stdout.contains("Uid"), "{how} --user {user}: {outcome:?}");
        }
    }
    // Groups: exactly what was asked for, or what the image's files say of a name.
    for (user, uid, gid, groups) in [
        ("1:1", "1", "1", ""),
        ("1000", "1000", "1000", "2000"),
        ("app", "1000", "1000", "2000"),
        ("app:65534", "1000", "65534", ""),
    ] {
        let status = stage.says(&["--user", user], &["/probe", "status"]);
        assert_eq!(field(&status, "Uid"), [uid; 4].join("\t"), "--user {user}");
        assert_eq!(field(&status, "Gid"), [gid; 4].join("\t"), "--user {user}");
        let extra: Vec<&str> =
            field(&status, "Groups").split_whitespace().filter(|group| *group != gid).collect();
        assert_eq!(extra.join(" "), groups, "--user {user}");
    }
    let status = stage.says(&["--user", "1:1", "--group-add", "77"], &["/probe", "status"]);
    let extra: Vec<&str> =
        field(&status, "Groups").split_whitespace().filter(|group| *group != "1").collect();
    assert_eq!(extra, ["77"]);
    stage.finish();
}

#[test]
fn row_33_absurd_numbers_are_refused_quickly() {
    if !require_root("row_33_absurd_numbers_are_refused_quickly") {
        return;
    }
    let stage = Stage::new();
    let api = Api::new(stage.engine.socket());
    let create = |host: Value| {
        let begun = Instant::now();
        let body = json!({"Image": "busybox", "Cmd": ["true"], "HostConfig": host});
        let answer = api.post("/containers/create", &body).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "{body} took {:?}", begun.elapsed());
        answer
    };
    for set in [
        "0-4294967295",
        "0-18446744073709551615",
        "0,0-99999999999",
        "0-1,4294967296",
        "-1",
        "1-0",
        "a",
        "0-",
        "0--1",
        "1000000000",
    ] {
        for key in ["CpusetCpus", "CpusetMems"] {
            let answer = create(json!({key: set}));
            assert_eq!(answer.status, 400, "{key} {set}: {}", answer.text());
        }
    }
    let numbers =
        [json!(-2), json!(i64::MIN), json!(i64::MAX), json!(u64::MAX), json!(1e300), json!("1"), json!(1.5)];
    let keys = [
        "Memory",
        "MemorySwap",
        "MemoryReservation",
        "MemorySwappiness",
        "NanoCpus",
        "CpuShares",
        "CpuPeriod",
        "CpuQuota",
        "PidsLimit",
        "OomScoreAdj",
        "BlkioWeight",
        "ShmSize",
        "CpuRealtimeRuntime",
        "KernelMemoryTCP",
    ];
    for key in keys {
        for number in &numbers {
            let answer = create(json!({key: number}));
            assert!(
                answer.status == 201 || answer.status == 400,
                "{key} {number}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
    for limit in [json!(-2), json!(i64::MAX), json!(u64::MAX), json!("x")] {
        let answer = create(json!({"Ulimits": [{"Name": "nofile", "Soft": limit, "Hard": limit}]}));
        assert!(answer.status == 201 || answer.status == 400, "{limit}: {}", answer.text());
    }
    for port in ["65536", "-1", "4294967376", "1-70000", "80-79", "x"] {
        let answer = create(json!({"PortBindings": {"80/tcp": [{"HostPort": port}]}}));
        assert_eq!(answer.status, 400, "host port {port}: {}", answer.text());
        let answer = create(json!({"PortBindings": {format!("{port}/tcp"): [{"HostPort": ""}]}}));
        assert_eq!(answer.status, 400, "container port {port}: {}", answer.text());
    }
    for device in ["c 4294967296:0 rwm", "c -1:-1 rwm", "c 1:3 rwmx", "c *:99999999999 r", "x 1:3 r"] {
        let answer = create(json!({"DeviceCgroupRules": [device]}));
        assert_eq!(answer.status, 400, "{device}: {}", answer.text());
    }
    let sizes = [
        "/containers/json?limit=99999999999999999999",
        "/containers/json?limit=-5",
        "/events?since=1e400&until=1",
    ];
    for path in sizes {
        let answer = api.get(path).unwrap();
        assert!(answer.status == 200 || answer.status == 400, "{path}: {}", answer.text());
    }
    assert_eq!(stage.says(&[], &["echo", "fine"]), "fine");
    let ids = stage.engine.yare(&["ps", "-aq"]).ok();
    for some in ids.split_whitespace().collect::<Vec<_>>().chunks(50) {
        stage.engine.yare(&[["rm", "-f"].as_slice(), some].concat()).ok();
    }
    stage.finish();
}

#[test]
fn users_of_the_host_are_not_made_root_by_a_setuid_file_of_a_container() {
    if !require_root("users_of_the_host_are_not_made_root_by_a_setuid_file_of_a_container") {
        return;
    }
    let stage = Stage::new();
    let id = stage.start(
        &["-v", "kept:/kept"],
        &[
            "busybox",
            "sh",
            "-c",
            "for d in /kept /home; do cp /bin/busybox $d/root; chmod 4755 $d/root; done; sleep 1000",
        ],
    );
    let data = stage.engine.data_root().display().to_string();
    let find = || Invocation::new("find", &[&data, "-perm", "-4000", "-name", "root"]).run().stdout;
    eventually("the files are on the host", Duration::from_secs(60), || find().lines().count() >= 2);
    let found = find();
    for file in found.lines() {
        let outcome = Invocation::new(
            "setpriv",
            &["--reuid=65534", "--regid=65534", "--clear-groups", file, "id", "-u"],
        )
        .run();
        assert!(outcome.code != 0 && !outcome.stdout.contains('0'), "{file}: {outcome:?}");
    }
    stage.engine.yare(&["rm", "-f", &id]).ok();
    stage.engine.yare(&["volume", "rm", "kept"]).ok();
    stage.finish();
}
