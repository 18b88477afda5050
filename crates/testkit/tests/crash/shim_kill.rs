//! `kill -9` of shims. What a shim alone could have said is lost; the container's end is not, and neither is
//! anything left behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use yare_testkit::{Engine, busybox_rootfs_tar, eventually, require_root};

use crate::api::Api;
use crate::chance::{Chance, rounds};
use crate::leaks::{self, shim_of};
use crate::load::{Book, Client};

/// How long the engine may take to notice.
const NOTICE: Duration = Duration::from_secs(60);

fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    // Gone already is as good.
    let _ = kill_process(pid, signal);
}

fn kill_shim_of(id: &str) {
    // It takes its title a moment after it has answered.
    eventually("it has a shim", NOTICE, || shim_of(id).is_some());
    kill(shim_of(id).unwrap());
    eventually("the shim is dead", NOTICE, || shim_of(id).is_none());
}

fn state(api: &Api, id: &str) -> Value {
    api.inspect(id).unwrap().map_or(Value::Null, |found| found["State"].clone())
}

/// The code that the kernel tells others than the parent (Linux 6.15); before that nobody knows it.
fn code_or_unknown(code: i64) -> i64 {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let known = (numbers.next(), numbers.next()) >= (Some(6), Some(15));
    if known { code } else { 255 }
}

#[test]
fn a_container_whose_shim_died_is_stopped_and_removed_like_any_other() {
    if !require_root("a_container_whose_shim_died_is_stopped_and_removed_like_any_other") {
        return;
    }
    let engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    for options in [&["--init"] as &[&str], &["--init=false"], &["--pid", "host"], &["-p", "127.0.0.1::80"]] {
        let program = ["busybox", "sh", "-c", "trap 'exit 5' TERM; sleep 1000 & wait"];
        let id = engine.docker(&[&["run", "-d"], options, &program].concat()).ok().trim().to_owned();
        let pid = state(&api, &id)["Pid"].clone();
        kill_shim_of(&id);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(state(&api, &id)["Running"], true, "{options:?}: it runs on");
        assert_eq!(state(&api, &id)["Pid"], pid, "{options:?}");
        let refused = engine.docker(&["exec", &id, "true"]).run();
        let said = refused.stdout.clone() + &refused.stderr;
        assert!(refused.code != 0 && said.contains("cannot reach the shim"), "{options:?}: {refused:?}");
        let stopped = engine.docker(&["stop", "-t", "40", &id]).run();
        assert!(stopped.code == 0 && stopped.took < Duration::from_secs(30), "{options:?}: {stopped:?}");
        let ended = state(&api, &id);
        assert_eq!(ended["Status"], "exited", "{options:?}: {ended}");
        assert_eq!(ended["ExitCode"], code_or_unknown(5), "{options:?}: {ended}");
        assert!(ended["Error"].as_str().is_some_and(|error| error.contains("shim")), "{options:?}: {ended}");
        // With a new shim it is whole again.
        engine.docker(&["start", &id]).ok();
        assert_eq!(engine.docker(&["exec", &id, "echo", "again"]).ok(), "again\n", "{options:?}");
        kill_shim_of(&id);
        engine.docker(&["rm", "-f", &id]).ok();
    }
    leaks::assert_clean(engine);
}

#[test]
fn a_shim_that_is_stopped_holds_nobody_up() {
    if !require_root("a_shim_that_is_stopped_holds_nobody_up") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let ids: Vec<String> = (0..3)
        .map(|_| engine.docker(&["run", "-d", "busybox", "sleep", "1000"]).ok().trim().to_owned())
        .collect();
    let stop_shims = || {
        for id in &ids {
            eventually("it has a shim", NOTICE, || shim_of(id).is_some());
            signal(shim_of(id).unwrap(), Signal::STOP);
        }
    };
    stop_shims();
    engine.kill9();
    let begun = Instant::now();
    engine.restart();
    assert!(begun.elapsed() < Duration::from_secs(20), "the engine took {:?} to start", begun.elapsed());
    assert_eq!(engine.docker(&["run", "--rm", "busybox", "echo", "fine"]).ok(), "fine\n");
    assert_eq!(state(&api, &ids[0])["Running"], true);
    let exec = engine.docker(&["exec", &ids[0], "true"]).patience(Duration::from_secs(40)).run();
    let said = exec.stdout.clone() + &exec.stderr;
    assert!(exec.code != 0 && said.contains("the shim does not answer"), "{exec:?}");

    // When it goes on, it is as if nothing had been.
    ids.iter().for_each(|id| signal(shim_of(id).unwrap(), Signal::CONT));
    let works = || engine.docker(&["exec", &ids[0], "echo", "again"]).run().stdout == "again\n";
    eventually("the shim answers", NOTICE, works);
    engine.docker(&["kill", &ids[0]]).ok();
    assert_eq!(state(&api, &ids[0])["ExitCode"], 137);
    assert_eq!(state(&api, &ids[0])["Error"], "", "its shim has told of the end");

    // It does not keep its container from ending, being started again and being removed.
    engine.docker(&["start", &ids[0]]).ok();
    stop_shims();
    engine.docker(&["stop", "-t", "1", &ids[0]]).patience(Duration::from_secs(40)).ok();
    let ended = state(&api, &ids[0]);
    assert_eq!((&ended["Status"], &ended["ExitCode"]), (&json!("exited"), &json!(143)), "{ended}");
    engine.docker(&["start", &ids[0]]).patience(Duration::from_secs(40)).ok();
    assert_eq!(engine.docker(&["exec", &ids[0], "echo", "new"]).ok(), "new\n");
    for id in &ids[1..] {
        engine.docker(&["rm", "-f", id]).patience(Duration::from_secs(40)).ok();
    }
    leaks::assert_clean(engine);
}

#[test]
fn a_container_ends_by_itself_after_its_shim_died() {
    if !require_root("a_container_ends_by_itself_after_its_shim_died") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let program = ["busybox", "sh", "-c", "until test -e /go; do sleep 0.1; done; exit 9"];
    let run = |options: &[&str]| {
        engine.docker(&[&["run", "-d"], options, program.as_slice()].concat()).ok().trim().to_owned()
    };
    let pid_of = |id: &str| state(&api, id)["Pid"].as_u64().unwrap();
    let release = |pid: u64| std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    let (stays, goes) = (run(&[]), run(&["--rm"]));
    let pids = [&stays, &goes].map(|id| pid_of(id));
    kill_shim_of(&stays);
    kill_shim_of(&goes);
    pids.into_iter().for_each(release);
    let waited = api.post(&format!("/containers/{stays}/wait"), &Value::Null).unwrap().json();
    assert_eq!(waited["StatusCode"], code_or_unknown(9));
    assert!(waited["Error"]["Message"].as_str().is_some_and(|error| error.contains("shim")), "{waited}");
    eventually("--rm removes it", NOTICE, || api.inspect(&goes).unwrap().is_none());

    // The same while no engine looks: the end is seen, how it was nobody can know.
    let (stays, goes) = (run(&[]), run(&["--rm"]));
    let runs_on = engine.docker(&["run", "-d", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    let pids = [&stays, &goes].map(|id| pid_of(id));
    engine.kill9();
    [&stays, &goes, &runs_on].into_iter().for_each(|id| kill_shim_of(id));
    pids.into_iter().for_each(release);
    // One that has ended has no program.
    let is_over = |pid: u64| std::fs::read_link(format!("/proc/{pid}/exe")).is_err();
    eventually("both have ended", NOTICE, || pids.into_iter().all(is_over));
    engine.restart();
    eventually("the end is seen", NOTICE, || state(&api, &stays)["Status"] == "exited");
    let ended = state(&api, &stays);
    assert_eq!(ended["ExitCode"], 255, "{ended}");
    assert!(ended["Error"].as_str().is_some_and(|error| error.contains("shim")), "{ended}");
    eventually("--rm removes it", NOTICE, || api.inspect(&goes).unwrap().is_none());
    assert_eq!(state(&api, &runs_on)["Running"], true);
    engine.docker(&["kill", &runs_on]).ok();
    assert_eq!(state(&api, &runs_on)["ExitCode"], code_or_unknown(137));
    leaks::assert_clean(engine);
}

#[test]
fn shims_and_launcher_are_killed_at_random_under_load() {
    if !require_root("shims_and_launcher_are_killed_at_random_under_load") {
        return;
    }
    let mut chance = Chance::new();
    let mut engine = Engine::start();
    engine.load_busybox();
    for _ in 0..rounds(3, 60) {
        load_while_killing(&engine, &mut chance);
        if chance.below(2) == 0 {
            engine.kill9();
            engine.restart();
        }
        let api = Api::new(engine.socket());
        let run = engine.docker(&["run", "--rm", "busybox", "echo", "fine"]).ok();
        assert_eq!(run, "fine\n");
        let all = api.get("/containers/json?all=1").unwrap().json();
        for id in all.as_array().into_iter().flatten().filter_map(|row| row["Id"].as_str()) {
            let answer = api.delete(&format!("/containers/{id}?force=1&v=1")).unwrap();
            assert!(matches!(answer.status, 204 | 404), "{id}: {} {}", answer.status, answer.text());
        }
    }
    leaks::assert_clean(engine);
}

fn load_while_killing(engine: &Engine, chance: &mut Chance) {
    let (stop, book) = (AtomicBool::new(false), Book::default());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let client = Client {
                engine,
                api: Api::new(engine.socket()),
                book: &book,
                chance: chance.fork(),
                steady: &[],
                tar: busybox_rootfs_tar(),
            };
            let stop = &stop;
            scope.spawn(move || client.work(stop));
        }
        for _ in 0..40 {
            std::thread::sleep(chance.millis(0, 50));
            let launchers = children_of(engine.pid());
            let shims: Vec<u32> = launchers.iter().flat_map(|launcher| children_of(*launcher)).collect();
            let victims = if chance.below(20) == 0 { &launchers } else { &shims };
            if let Some(victim) = chance.pick(victims) {
                kill(*victim);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn children_of(parent: u32) -> Vec<u32> {
    let tasks = leaks::entries(format!("/proc/{parent}/task").as_ref());
    let lists = tasks.into_iter().filter_map(|task| std::fs::read_to_string(task.join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_frozen_container_stays_frozen_and_can_be_stopped_without_its_shim() {
    if !require_root("a_frozen_container_stays_frozen_and_can_be_stopped_without_its_shim") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let body = json!({"Image": "busybox", "Cmd": ["sleep", "1000"]});
    let start = || {
        let id = api.post("/containers/create", &body).unwrap().json()["Id"].as_str().unwrap().to_owned();
        assert_eq!(api.post(&format!("/containers/{id}/start"), &Value::Null).unwrap().status, 204);
        assert_eq!(api.post(&format!("/containers/{id}/pause"), &Value::Null).unwrap().status, 204);
        id
    };
    let (frozen, orphan) = (start(), start());
    engine.kill9();
    kill_shim_of(&orphan);
    engine.restart();
    for id in [&frozen, &orphan] {
        assert_eq!(state(&api, id)["Status"], "paused", "{id}");
    }
    engine.docker(&["unpause", &frozen]).ok();
    assert_eq!(engine.docker(&["exec", &frozen, "echo", "hi"]).ok(), "hi\n");
    engine.docker(&["stop", "-t", "2", &orphan]).ok();
    leaks::assert_clean(engine);
}
