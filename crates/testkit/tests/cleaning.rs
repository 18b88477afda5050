//! What an engine removes by itself, and what it never does.

use std::time::{Duration, Instant};
use yare_testkit::{Engine, require_root};

/// Builds `app` from busybox and one file with this text.
fn build(engine: &Engine, text: &str) -> String {
    let context = engine.path().join("context");
    std::fs::create_dir_all(&context).expect("a folder");
    std::fs::write(context.join("text"), text).expect("a file");
    let lines = "FROM busybox\nRUN echo once >/once\nCOPY text /\n";
    std::fs::write(context.join("Dockerfile"), lines).expect("a file");
    engine.yare(&["build", "-q", "-t", "app", context.to_str().expect("a path")]).ok()
}

fn images(engine: &Engine) -> Vec<String> {
    let listed = engine.docker(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).ok();
    listed.lines().filter(|name| !name.starts_with("yare/")).map(str::to_owned).collect()
}

#[track_caller]
fn comes_to(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(60), "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_hundred_rebuilds_leave_one_image_and_a_warm_cache() {
    if !require_root("a_hundred_rebuilds_leave_one_image_and_a_warm_cache") {
        return;
    }
    let engine = Engine::start_with(&["--retag-grace", "2s"]);
    engine.load_busybox();
    for number in 1..=100 {
        build(&engine, &number.to_string());
    }
    engine.docker(&["run", "--name", "keeper", "app", "true"]).ok();
    let used = engine.docker(&["inspect", "-f", "{{.Image}}", "keeper"]).ok();
    let last = build(&engine, "last");
    comes_to("the last image, that of a container, and busybox", || images(&engine).len() == 3);
    engine.docker(&["image", "inspect", used.trim(), last.trim()]).ok();
    assert_eq!(build(&engine, "last"), last);
    let context = engine.path().join("context");
    let said = engine.yare(&["build", "--progress", "plain", context.to_str().expect("a path")]).run();
    assert!(said.stderr.contains("3 steps, 3 from the cache"), "{said:?}");
    let log = engine.log();
    assert!(log.contains("lost its tag, and unused for") && log.contains("(retag-grace)"), "{log}");
    engine.finish();
}

#[test]
fn a_full_disk_takes_what_nothing_needs_and_no_tagged_image() {
    if !require_root("a_full_disk_takes_what_nothing_needs_and_no_tagged_image") {
        return;
    }
    // No disk of a host that builds this is that empty.
    let engine = Engine::start_with(&["--clean-min-free", "90%", "--clean-containers", "1s"]);
    engine.load_busybox();
    engine.docker(&["run", "-d", "--name", "busy", "busybox", "sleep", "1000"]).ok();
    build(&engine, "one");
    build(&engine, "two");
    engine.docker(&["run", "--name", "ended", "busybox", "true"]).ok();
    comes_to("the container that ended is gone", || {
        engine.docker(&["ps", "-aq", "--filter", "name=ended"]).ok().is_empty()
    });
    comes_to("the image without a tag is gone", || images(&engine).len() == 2);
    assert_eq!(engine.docker(&["ps", "-q", "--filter", "name=busy"]).ok().lines().count(), 1);
    let mut left = images(&engine);
    left.sort();
    assert_eq!(left, ["app:latest", "busybox:latest"]);
    let said = engine.yare(&["system", "policy"]).ok();
    assert!(said.contains("(clean-images): off") && said.ends_with("Nothing is due.\n"), "{said}");
    assert!(engine.log().contains("(clean-min-free)"));
    engine.finish();
}

#[test]
fn what_is_due_is_told_and_nothing_goes_where_all_is_off() {
    if !require_root("what_is_due_is_told_and_nothing_goes_where_all_is_off") {
        return;
    }
    let engine = Engine::start_with(&["--retag-grace", "keep", "--clean-min-free", "off"]);
    engine.load_busybox();
    build(&engine, "one");
    build(&engine, "two");
    let said = engine.yare(&["system", "policy"]).ok();
    assert!(said.contains("(retag-grace): keep") && said.ends_with("Nothing is due.\n"), "{said}");
    assert_eq!(images(&engine).len(), 3);
    engine.finish();
}
