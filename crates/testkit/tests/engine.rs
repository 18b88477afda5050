//! The harness itself, against the built binary.

use yare_testkit::{Engine, debian_rootfs_tar, require_root};

#[test]
fn an_engine_starts_runs_something_and_leaves_nothing() {
    if !require_root("an_engine_starts_runs_something_and_leaves_nothing") {
        return;
    }
    let engine = Engine::start();
    assert!(engine.docker(&["version"]).ok().contains("API version:"));
    engine.load_busybox();
    assert_eq!(engine.docker(&["run", "--rm", "busybox", "echo", "hi"]).ok(), "hi\n");
    assert_eq!(engine.docker(&["run", "--rm", "-i", "busybox", "cat"]).input("through").ok(), "through");
    engine.docker(&["run", "--rm", "busybox", "sh", "-c", "exit 3"]).fails(3);
    engine.docker(&["run", "--detach", "--name", "busy", "busybox", "sleep", "1000"]).ok();
    assert_eq!(engine.docker(&["exec", "busy", "echo", "inside"]).ok(), "inside\n");
    // What fails after the exec was found must reach the client through the stream.
    let missing = engine.docker(&["exec", "busy", "nosuch"]).run();
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.stdout.contains("executable file not found in $PATH"), "{missing:?}");
    engine.finish();
}

#[test]
#[ignore = "downloads packages"]
fn a_minimal_debian_can_be_made() {
    if !require_root("a_minimal_debian_can_be_made") {
        return;
    }
    let tar = debian_rootfs_tar();
    assert!(tar.metadata().expect("a file").len() > 10 << 20, "{} is too small", tar.display());
}
