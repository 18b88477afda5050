//! `kill -9` of the engine while networks come and go: what was answered holds, and no bridge is without an owner.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use yare_testkit::{Engine, require_root};

use crate::chance::{Chance, rounds};
use crate::leaks;

/// What a client was told about networks: those that must be there, and those that may be.
#[derive(Debug, Default)]
struct Told {
    made: BTreeSet<String>,
    unsure: BTreeSet<String>,
}

#[test]
fn networks_that_were_promised_survive_and_no_bridge_is_left() {
    if !require_root("networks_that_were_promised_survive_and_no_bridge_is_left") {
        return;
    }
    let mut chance = Chance::new();
    let mut engine = Engine::start();
    engine.load_busybox();
    engine.docker(&["network", "create", "steady"]).ok();
    engine.docker(&["run", "-d", "--name", "steady", "--network", "steady", "busybox", "sleep", "1000"]).ok();
    let told = Mutex::new(Told::default());
    for round in 0..rounds(5, 60) {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| come_and_go(&engine, round, &told, &stop));
            std::thread::sleep(chance.millis(20, 400));
            let pid = i32::try_from(engine.pid()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            stop.store(true, Ordering::Release);
            worker.join().unwrap();
        });
        engine.kill9();
        engine.restart();
        verify(&engine, &mut told.lock().unwrap());
    }
    engine.docker(&["rm", "-f", "steady"]).ok();
    engine.docker(&["network", "prune", "-f"]).ok();
    assert_eq!(bridges(&engine), BTreeSet::new());
    leaks::assert_clean(engine);
}

/// Makes networks and removes every other one, until it is told to stop.
fn come_and_go(engine: &Engine, round: u64, told: &Mutex<Told>, stop: &AtomicBool) {
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        let name = format!("n{round}-{number}");
        told.lock().unwrap().unsure.insert(name.clone());
        if engine.docker(&["network", "create", &name]).run().code != 0 {
            continue;
        }
        {
            let mut told = told.lock().unwrap();
            told.unsure.remove(&name);
            told.made.insert(name.clone());
        }
        if number % 2 == 0 {
            {
                let mut told = told.lock().unwrap();
                told.made.remove(&name);
                told.unsure.insert(name.clone());
            }
            if engine.docker(&["network", "rm", &name]).run().code == 0 {
                told.lock().unwrap().unsure.remove(&name);
            }
        }
    }
}

fn verify(engine: &Engine, told: &mut Told) {
    let listed = engine.docker(&["network", "ls", "--filter", "type=custom", "--format", "{{.Name}}"]).ok();
    let there: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    for name in &told.made {
        assert!(there.contains(name), "network {name} was promised and is gone");
    }
    for name in there.iter().filter(|name| *name != "steady") {
        assert!(
            told.made.contains(name) || told.unsure.contains(name),
            "network {name} was removed and is back"
        );
    }
    // Each has its bridge, and each bridge its network.
    let ids = engine.docker(&["network", "ls", "-q", "--filter", "type=custom"]).ok();
    let wanted: BTreeSet<String> = ids.lines().map(|id| format!("br-{id}")).collect();
    assert_eq!(bridges(engine), wanted);
    let found = engine.docker(&["exec", "steady", "nslookup", "steady"]).run();
    assert_eq!(found.code, 0, "{found:?}");
    // The pool of subnets is small: make room for the next round.
    for name in there.iter().filter(|name| *name != "steady") {
        engine.docker(&["network", "rm", name]).ok();
    }
    *told = Told::default();
}

/// The bridges of the engine's networks.
fn bridges(engine: &Engine) -> BTreeSet<String> {
    let sign = format!("engine of {}\n", engine.bridge());
    let all = std::fs::read_dir(Path::new("/sys/class/net")).unwrap().flatten();
    all.filter(|entry| {
        std::fs::read_to_string(entry.path().join("ifalias")).is_ok_and(|alias| alias.ends_with(&sign))
    })
    .map(|entry| entry.file_name().to_string_lossy().into_owned())
    .collect()
}
