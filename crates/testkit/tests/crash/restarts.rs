//! What a new engine makes of containers that ended, or should run, while there was none.

use std::io::Read;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use yare_testkit::{Engine, eventually, require_root};

use crate::api::Api;
use crate::leaks;

const SETTLE: Duration = Duration::from_secs(60);

fn state(api: &Api, name: &str) -> Value {
    api.inspect(name).unwrap().map_or(Value::Null, |found| found["State"].clone())
}

fn kill_in(api: &Api, name: &str) {
    let pid = state(api, name)["Pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
}

fn pid_of(api: &Api, name: &str) -> i64 {
    state(api, name)["Pid"].as_i64().unwrap()
}

#[test]
fn clients_that_wait_for_ever_do_not_hold_up_the_end() {
    if !require_root("clients_that_wait_for_ever_do_not_hold_up_the_end") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let id = engine.docker(&["run", "-d", "busybox", "sleep", "1000"]).ok().trim().to_owned();
    let api = Api::new(engine.socket());
    let waiting = [
        ("GET", "/events".to_owned()),
        ("GET", format!("/containers/{id}/logs?stdout=1&follow=1")),
        ("POST", format!("/containers/{id}/wait")),
    ];
    let clients: Vec<_> = waiting
        .iter()
        .map(|(method, path)| {
            let mut client = api.begin(method, path, "", 0).unwrap();
            // What is waited for takes its time; the head does not.
            client.read_exact(&mut [0]).unwrap();
            client
        })
        .collect();
    engine.stop();
    assert!(!engine.log().contains("requests were still being answered"), "{}", engine.log());
    drop(clients);
    engine.restart();
    leaks::assert_clean(engine);
}

#[test]
fn restart_policies_hold_across_a_crash_of_the_engine() {
    if !require_root("restart_policies_hold_across_a_crash_of_the_engine") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    let run = |name: &str, policy: &str, program: &str| {
        engine
            .docker(&["run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", program])
            .ok();
    };
    let sleep = "exec sleep 1000";
    for policy in ["no", "always", "unless-stopped", "on-failure:3"] {
        run(policy.split(':').next().unwrap(), policy, sleep);
    }
    run("stopped-always", "always", sleep);
    run("stopped-unless", "unless-stopped", sleep);
    run("done", "on-failure", "sleep 0.6");
    run("failing", "on-failure", "sleep 0.6; exit 3");
    run("looping", "always", "exit 1");
    engine.docker(&["stop", "-t", "0", "stopped-always", "stopped-unless"]).ok();
    let victims = ["no", "always", "unless-stopped", "on-failure"];
    let pids: Vec<i64> = victims.iter().map(|name| pid_of(&api, name)).collect();
    // With the engine dead nobody can ask for the pids.
    let kill =
        |pid: i64| kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL).unwrap();
    engine.kill9();
    pids.iter().copied().for_each(kill);
    std::thread::sleep(Duration::from_millis(900));
    engine.restart();

    for (name, before) in victims.into_iter().zip(pids).skip(1) {
        eventually(&format!("{name} runs again"), SETTLE, || {
            state(&api, name)["Running"] == true && pid_of(&api, name) != before && pid_of(&api, name) != 0
        });
    }
    eventually("stopped-always runs at boot", SETTLE, || state(&api, "stopped-always")["Running"] == true);
    eventually("failing was restarted", SETTLE, || state(&api, "failing")["Running"] == true);
    eventually("no has ended", SETTLE, || state(&api, "no")["Status"] == "exited");
    assert_eq!(state(&api, "no")["ExitCode"], 137);
    assert_eq!(state(&api, "stopped-unless")["Status"], "exited");
    eventually("done is done", SETTLE, || state(&api, "done")["Status"] == "exited");
    assert_eq!(state(&api, "done")["ExitCode"], 0);
    let count = || api.inspect("looping").unwrap().unwrap()["RestartCount"].as_i64().unwrap_or(0);
    let before = count();
    eventually("looping goes on", SETTLE, || count() > before);
    engine.docker(&["stop", "looping"]).ok();
    assert_eq!(state(&api, "looping")["Status"], "exited");
    kill_in(&api, "always");
    eventually("always still runs for ever", SETTLE, || state(&api, "always")["Running"] == true);
    leaks::assert_clean(engine);
}

#[test]
fn created_containers_survive_and_those_with_rm_do_not() {
    if !require_root("created_containers_survive_and_those_with_rm_do_not") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    engine
        .docker(&["create", "--name", "stays", "-v", "/data", "-e", "A=1", "busybox", "sh", "-c", "exit $A"])
        .ok();
    engine.docker(&["create", "--name", "goes", "--rm", "-v", "/data", "busybox", "true"]).ok();
    engine.docker(&["run", "--name", "ended", "busybox", "sh", "-c", "echo words; exit 4"]).fails(4);
    engine.docker(&["run", "-d", "--rm", "--name", "runs", "busybox", "sleep", "1000"]).ok();
    engine.kill9();
    engine.restart();
    assert_eq!(state(&api, "stays")["Status"], "created");
    eventually("goes is gone", SETTLE, || api.inspect("goes").unwrap().is_none());
    assert_eq!(state(&api, "ended")["ExitCode"], 4);
    assert_eq!(engine.docker(&["logs", "ended"]).ok(), "words\n");
    assert_eq!(state(&api, "runs")["Running"], true);
    engine.docker(&["start", "-a", "stays"]).fails(1);
    // The freed name is free, the kept one is not.
    engine.docker(&["create", "--name", "goes", "busybox", "true"]).ok();
    assert!(engine.docker(&["create", "--name", "stays", "busybox"]).fails(1).contains("already in use"));
    engine.docker(&["stop", "-t", "0", "runs"]).ok();
    eventually("runs is gone", SETTLE, || api.inspect("runs").unwrap().is_none());
    leaks::assert_clean(engine);
}

#[test]
fn a_container_keeps_its_layers_when_its_image_has_gone() {
    if !require_root("a_container_keeps_its_layers_when_its_image_has_gone") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    engine.docker(&["run", "-d", "--name", "holder", "busybox", "sleep", "1000"]).ok();
    engine.docker(&["rmi", "-f", "busybox"]).run();
    for _ in 0..2 {
        engine.kill9();
        engine.restart();
    }
    assert_eq!(engine.docker(&["exec", "holder", "echo", "hi"]).ok(), "hi\n");
    engine.docker(&["restart", "-t", "0", "holder"]).ok();
    assert_eq!(engine.docker(&["exec", "holder", "echo", "hi"]).ok(), "hi\n");
    leaks::assert_clean(engine);
}

#[test]
fn a_second_engine_on_the_same_roots_is_refused() {
    if !require_root("a_second_engine_on_the_same_roots_is_refused") {
        return;
    }
    let engine = Engine::start();
    engine.load_busybox();
    engine.docker(&["run", "-d", "--name", "steady", "busybox", "sleep", "1000"]).ok();
    let (data, exec) = (engine.data_root(), engine.path().join("other-exec"));
    let args =
        ["daemon", "--host", "unix:///dev/null/no", "--bridge", "none", "--config-file"].map(str::to_owned);
    let more = [engine.path().join("daemon.json"), "--data-root".into(), data, "--exec-root".into(), exec];
    let args: Vec<String> =
        args.into_iter().chain(more.iter().map(|path| path.display().to_string())).collect();
    let host = format!("unix://{}/other.sock", engine.path().display());
    let args: Vec<&str> =
        args.iter().map(|arg| if arg.starts_with("unix:") { host.as_str() } else { arg }).collect();
    let refused = yare_testkit::Invocation::new(yare_testkit::yare_binary(), &args).fails(1);
    assert!(refused.contains("another engine uses this data root"), "{refused}");
    assert_eq!(engine.docker(&["exec", "steady", "echo", "hi"]).ok(), "hi\n");
    leaks::assert_clean(engine);
}

#[test]
fn a_container_whose_record_cannot_be_read_runs_on() {
    if !require_root("a_container_whose_record_cannot_be_read_runs_on") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    let api = Api::new(engine.socket());
    engine.yare(&["run", "-d", "--rm", "--name", "foreign", "busybox", "sleep", "1000"]).ok();
    let id = api.inspect("foreign").unwrap().unwrap()["Id"].as_str().unwrap().to_owned();
    let pid = Pid::from_raw(i32::try_from(pid_of(&api, "foreign")).unwrap()).unwrap();
    let run_dir = engine.exec_root().join("containers").join(&id);
    engine.kill9();
    // As a later version might write it.
    std::fs::write(run_dir.join("record.json"), r#"{"id": {"number": 7}}"#).unwrap();
    engine.restart();
    eventually("it answers", SETTLE, || api.get("/_ping").is_ok());
    engine.yare(&["run", "--rm", "busybox", "true"]).ok();
    assert!(rustix::process::test_kill_process(pid).is_ok(), "it was ended: {}", engine.log());
    assert!(run_dir.join("shim.sock").exists());
    assert!(engine.log().contains("left alone"), "{}", engine.log());

    kill_process(pid, Signal::KILL).unwrap();
    eventually("its shim has gone", SETTLE, || !run_dir.join("shim.sock").exists());
    engine.kill9();
    engine.restart();
    eventually("what was left is swept", SETTLE, || !run_dir.exists());
    leaks::assert_clean(engine);
}
