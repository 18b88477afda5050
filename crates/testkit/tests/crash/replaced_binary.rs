//! The engine's binary is replaced under running containers, as an upgrade does.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use yare_testkit::{Engine, eventually, require_root, yare_binary};

use crate::leaks;

/// An engine on the roots of another one that does not run, from a binary of its own.
fn start(engine: &Engine, binary: &Path) -> Child {
    let log = File::options().append(true).create(true).open(engine.path().join("copy.log")).unwrap();
    let path = |name: &str| engine.path().join(name);
    let child = Command::new(binary)
        .arg("daemon")
        .args(["--host", &engine.host(), "--bridge", &engine.bridge(), "--bip", &engine.bip()])
        .args(["--cgroup-parent", &engine.cgroup_parent()])
        .arg("--data-root")
        .arg(engine.data_root())
        .arg("--exec-root")
        .arg(engine.exec_root())
        .arg("--pidfile")
        .arg(path("pid"))
        .arg("--config-file")
        .arg(path("daemon.json"))
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    eventually("it listens", Duration::from_secs(60), || UnixStream::connect(engine.socket()).is_ok());
    child
}

fn end(mut child: Child, signal: Signal) {
    kill_process(Pid::from_child(&child), signal).unwrap();
    child.wait().unwrap();
}

fn install(from: &Path, to: &Path) {
    let next = to.with_extension("next");
    fs::copy(from, &next).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(next, to).unwrap();
}

#[test]
fn containers_do_not_notice_that_the_binary_is_replaced() {
    if !require_root("containers_do_not_notice_that_the_binary_is_replaced") {
        return;
    }
    let mut engine = Engine::start();
    engine.load_busybox();
    engine.stop();
    let binary = engine.path().join("yare");
    install(yare_binary(), &binary);
    let old = start(&engine, &binary);
    let count = "i=0; while :; do echo $i; i=$((i+1)); usleep 20000; done";
    let id = engine.docker(&["run", "-d", "--name", "steady", "busybox", "sh", "-c", count]).ok();
    let pid = engine.docker(&["inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "steady"]).ok();
    let ends = ["run", "-d", "--name", "ends", "busybox", "sh", "-c", "sleep 0.5; echo bye; exit 7"];
    engine.docker(&ends).ok();

    // Replaced while it runs: what runs goes on, new containers and execs too.
    install(yare_binary(), &binary);
    assert_eq!(engine.docker(&["exec", "steady", "echo", "hi"]).ok(), "hi\n");
    engine.docker(&["run", "--rm", "busybox", "true"]).ok();

    end(old, Signal::TERM);
    std::thread::sleep(Duration::from_millis(700));
    let new = start(&engine, &binary);
    let now = engine.docker(&["inspect", "-f", "{{.State.Pid}} {{.State.StartedAt}}", "steady"]).ok();
    assert_eq!(now, pid, "{id}");
    assert_eq!(engine.docker(&["wait", "ends"]).ok(), "7\n");
    assert_eq!(engine.docker(&["logs", "ends"]).ok(), "bye\n");
    assert_eq!(engine.docker(&["exec", "steady", "echo", "hi"]).ok(), "hi\n");
    engine.docker(&["restart", "-t", "1", "ends"]).ok();
    let logs = engine.docker(&["logs", "steady"]).ok();
    let numbers: Vec<usize> = logs.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len()).collect::<Vec<_>>());

    end(new, Signal::KILL);
    engine.restart();
    leaks::assert_clean(engine);
}
