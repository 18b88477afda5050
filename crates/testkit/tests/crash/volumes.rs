//! Volumes while containers with them are being created.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use yare_testkit::{Engine, busybox_rootfs_tar, eventually, require_root};

use crate::api::Api;
use crate::leaks;

/// How many files the image has at `/data`: it takes a while to copy them, or a moment.
const MANY: usize = 3000;
const FEW: usize = 300;

/// How often an engine may be killed too late.
const TRIES: usize = 20;

/// How long an engine may take to settle.
const SETTLE: Duration = Duration::from_secs(60);

/// Brings in the image `full`: busybox, and so many files at `/data`.
fn load_full(engine: &Engine, files: usize) {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in tar::Archive::new(busybox_rootfs_tar()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (mut header, path) = (entry.header().clone(), entry.path().unwrap().into_owned());
        match entry.link_name().unwrap().map(std::borrow::Cow::into_owned) {
            Some(target) => tar.append_link(&mut header, path, target).unwrap(),
            None => tar.append_data(&mut header, path, &mut entry).unwrap(),
        }
    }
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(4);
    for number in 0..files {
        tar.append_data(&mut header, format!("data/{number}"), b"text".as_slice()).unwrap();
    }
    engine.docker(&["import", "-", "full"]).input(tar.into_inner().unwrap()).ok();
}

/// Kills the engine while it fills the volume `half`; how many files that has then.
fn killed_while_filling(engine: &mut Engine) -> usize {
    let content = engine.data_root().join("volumes/half/_data");
    let create = engine.docker(&["create", "-v", "half:/data", "full", "true"]);
    std::thread::scope(|scope| {
        scope.spawn(|| create.run());
        let begun = || leaks::entries(&content).len() > 10;
        eventually("the filling has begun", SETTLE, begun);
        engine.kill9();
    });
    leaks::entries(&content).len()
}

#[test]
fn a_volume_that_was_filled_half_way_is_filled_anew() {
    if !require_root("a_volume_that_was_filled_half_way_is_filled_anew") {
        return;
    }
    let mut engine = Engine::start();
    load_full(&engine, MANY);
    // On a busy machine it may be killed too late to prove anything.
    let is_half = (0..TRIES).any(|_| {
        let filled = killed_while_filling(&mut engine);
        engine.restart();
        if filled == MANY {
            engine.docker(&["ps", "-aq"]).ok().lines().for_each(|id| drop(engine.docker(&["rm", id]).ok()));
            engine.docker(&["volume", "rm", "-f", "half"]).ok();
        }
        filled < MANY
    });
    assert!(is_half, "the engine was never killed in time");
    let count =
        ["run", "--rm", "-v", "half:/data", "full", "sh", "-c", "cat /data/* | wc -c; ls -A /data | wc -l"];
    assert_eq!(engine.docker(&count).ok(), format!("{}\n{MANY}\n", MANY * 4));
    // What is full is kept, whatever a container does to it.
    engine
        .docker(&["run", "--rm", "-v", "half:/data", "full", "sh", "-c", "rm -r /data/*; touch /data/own"])
        .ok();
    engine.kill9();
    engine.restart();
    assert_eq!(engine.docker(&["run", "--rm", "-v", "half:/data", "full", "ls", "/data"]).ok(), "own\n");
    engine.docker(&["volume", "rm", "half"]).ok();
    // What the crashes have left is unlinked at idle priority.
    eventually("the trash is empty", Duration::from_secs(60), || {
        ["trash", "snapshots/trash"]
            .iter()
            .all(|trash| leaks::entries(&engine.data_root().join(trash)).is_empty())
    });
    leaks::assert_clean(engine);
}

#[test]
fn volumes_of_containers_that_are_being_created_stay() {
    if !require_root("volumes_of_containers_that_are_being_created_stay") {
        return;
    }
    let engine = Engine::start();
    load_full(&engine, FEW);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let api = Api::new(engine.socket());
            while !over.load(Ordering::Relaxed) {
                let pruned =
                    api.post("/volumes/prune?filters=%7B%22all%22:%5B%22true%22%5D%7D", &Value::Null);
                assert_eq!(pruned.unwrap().status, 200);
                let removed = api.delete("/volumes/named").unwrap();
                assert!(matches!(removed.status, 204 | 404 | 409), "{}", removed.text());
            }
        });
        let rounds = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| creations(&engine)));
        over.store(true, Ordering::Relaxed);
        rounds.unwrap();
    });
    // The last round's may have come after the last removal.
    let removed = Api::new(engine.socket()).delete("/volumes/named").unwrap();
    assert!(matches!(removed.status, 204 | 404), "{}", removed.text());
    leaks::assert_clean(engine);
}

/// Creates, looks whether the volumes are there, and removes.
fn creations(engine: &Engine) {
    let api = Api::new(engine.socket());
    for round in 0..10 {
        let body = json!({
            "Image": "full", "Cmd": ["true"], "Volumes": {"/anonymous": {}},
            "HostConfig": {"Binds": ["named:/data"]},
        });
        let answer = api.post("/containers/create", &body).unwrap();
        assert_eq!(answer.status, 201, "{}", answer.text());
        let id = answer.json()["Id"].as_str().unwrap().to_owned();
        let found = api.inspect(&id).unwrap().unwrap();
        for mount in found["Mounts"].as_array().unwrap() {
            let (name, source) = (mount["Name"].as_str().unwrap(), mount["Source"].as_str().unwrap());
            let there = api.get(&format!("/volumes/{name}")).unwrap().status;
            assert_eq!(there, 200, "round {round}: volume {name} at {}", mount["Destination"]);
            let wanted = if name == "named" { FEW } else { 0 };
            assert_eq!(leaks::entries(source.as_ref()).len(), wanted, "round {round}: {source}");
        }
        assert_eq!(api.delete(&format!("/containers/{id}?v=1")).unwrap().status, 204);
    }
}

fn is_mounted(place: &str) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == Some(place))
}

#[test]
fn volumes_that_are_mounts_go_with_their_last_user_whatever_ends() {
    if !require_root("volumes_that_are_mounts_go_with_their_last_user_whatever_ends") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let create = ["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory"];
    engine.yare(&create).ok();
    let place = engine.yare(&["volume", "inspect", "-f", "{{.Mountpoint}}", "memory"]).ok();
    let place = place.trim();
    let run = |command: &str| {
        ["run", "-d", "--rm", "-v", "memory:/m", "busybox", "sh", "-c", command].map(str::to_owned)
    };
    let run = |engine: &Engine, command: &str| {
        let words = run(command);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        engine.yare(&words).ok().trim().to_owned()
    };
    let first = run(&engine, "echo kept > /m/f; sleep 1000");
    engine.kill9();
    engine.restart();
    // It runs on, so its memory stays, and is what the next one sees.
    assert!(is_mounted(place));
    let second = run(&engine, "cat /m/f; sleep 1000");
    eventually("the second sees it", SETTLE, || engine.yare(&["logs", &second]).ok() == "kept\n");
    engine.yare(&["rm", "-f", &second]).ok();
    engine.kill9();
    assert!(is_mounted(place));
    // The last one ends while there is no engine.
    let pid =
        std::fs::read_to_string(engine.path().join(format!("exec/containers/{first}/shim.pid"))).unwrap();
    let pid: i32 = pid.lines().nth(1).unwrap().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    engine.restart();
    eventually("it is unmounted", SETTLE, || !is_mounted(place));
    engine.yare(&["volume", "rm", "memory"]).ok();
    leaks::assert_clean(engine);
}
