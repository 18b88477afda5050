//! Builds that end early: the client leaves, the engine dies, the disk is full. Nothing is left of them, and
//! the next build goes on from what was finished.

use std::path::Path;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::Signal;
use yare_testkit::{Engine, eventually, yare_binary};

use crate::build_table::{ok, script};
use crate::case::cases;
use crate::client::{Client, Program};

cases![
    Both:
        a_client_that_leaves_takes_its_build_with_it.differs("the engine is looked into"),
        a_step_that_fails_ends_those_beside_it.differs("its classic builder does one step after the other");
    Docker:
        an_engine_that_ends_ends_its_builds.differs("the engine is looked into"),
        an_engine_that_dies_leaves_finished_steps.differs("the engine is looked into"),
        a_full_disk_is_named.differs("the engine is looked into");
];

fn entries(folder: &Path) -> Vec<String> {
    let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
    listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits until nothing of a build under way is there: folders, mounts, groups, processes.
#[track_caller]
fn nothing_is_under_way(engine: &Engine, c: &Client) {
    let left = || {
        let mut left = entries(&engine.data_root().join("containers"));
        left.extend(entries(&engine.data_root().join("build/contexts")));
        left.extend(entries(&engine.data_root().join("snapshots/tmp")));
        left.extend(entries(&engine.exec_root().join("containers")));
        let seen = c.run(&format!(
            "grep -c '{}/.*overlay' /proc/mounts; find /sys/fs/cgroup -type d -path '*{}/*' | head -3; pgrep -f '^{}'",
            engine.path().display(), engine.cgroup_parent(), endless(c)
        ));
        left.extend(seen.stdout.lines().filter(|line| *line != "0").map(str::to_owned));
        left
    };
    let begun = std::time::Instant::now();
    while !left().is_empty() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(left().is_empty(), "left of a build: {:?}", left());
}

fn write(c: &Client, text: &str) {
    c.ok("mkdir -p ctx && echo a > ctx/a.txt");
    std::fs::write(c.folder.join("ctx/Dockerfile"), text).unwrap();
}

/// A step that ends with its build only; each case of each run of these tests knows its own.
fn endless(c: &Client) -> String {
    let run = std::process::id() % 1_000_000;
    let own: u32 = c.n.bytes().map(u32::from).fold(run, |sum, byte| (sum * 31 + byte) % 1_000_000);
    format!("sleep 9{own:06}")
}

fn a_client_that_leaves_takes_its_build_with_it(c: &Client) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    write(
        &own,
        &format!(
            "FROM busybox AS a\nRUN --mount=type=cache,target=/c,sharing=locked {}\nFROM busybox\nRUN echo done > /done\nCOPY a.txt /a\nRUN --mount=type=bind,target=/m,rw {0} & {0}\nCOPY --from=a / /b\n",
            endless(&own)
        ),
    );
    for signal in [Signal::INT, Signal::KILL] {
        let child = own.spawn(&script(&own, "exec $(if [ $client = yare ]; then echo docker build --progress=plain; else echo docker build; fi) -t x ctx"));
        let pattern = format!("pgrep -cf '^{}'", endless(&own));
        own.comes_to(&pattern, "3");
        child.signal(signal);
        drop(child.end());
        nothing_is_under_way(&engine, &own);
    }
    // What was finished stays.
    write(&own, "FROM busybox\nRUN echo done > /done\nCOPY a.txt /a\nRUN true\n");
    ok(&own, "build -t x ctx > out 2>&1 || { cat out; exit 1; }; grep -q 'Using cache\\|CACHED' out");
    own.says("docker images -a --format '{{.Repository}}' | grep -v ^yare/ | sort", "busybox\nx\n");
    drop(own);
    engine.finish();
}

fn a_step_that_fails_ends_those_beside_it(c: &Client) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    write(
        &own,
        &format!(
            "FROM busybox AS a\nRUN {}\nFROM busybox AS b\nRUN sleep 0.5; exit 7\nFROM busybox\nCOPY --from=a / /a\nCOPY --from=b / /b\n",
            endless(&own)
        ),
    );
    let said = ok(&own, "if build -t x ctx 2>&1; then exit 1; fi");
    assert!(said.contains("exit code: 7") && said.contains(">>> RUN sleep 0.5; exit 7"), "{said}");
    if own.program == Program::Yare {
        assert!(said.contains("CANCELED"), "{said}");
    }
    nothing_is_under_way(&engine, &own);
    drop(own);
    engine.finish();
}

fn an_engine_that_ends_ends_its_builds(c: &Client) {
    let mut engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    write(&own, &format!("FROM busybox\nRUN {}\n", endless(&own)));
    let child = own.spawn(&script(&own, "build -t x ctx"));
    own.comes_to(&format!("pgrep -cf '^{}'", endless(&own)), "1");
    engine.stop();
    assert!(!engine.log().contains("a build did not end in time"), "{}", engine.log());
    drop(child.end());
    nothing_is_under_way(&engine, &own);
    engine.restart();
    drop(own);
    engine.finish();
}

fn an_engine_that_dies_leaves_finished_steps(c: &Client) {
    let mut engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    let steps: String = (0..12)
        .map(|step| {
            format!("RUN sleep 0.0{step}; echo {step} > /f{step}; cat /proc/sys/kernel/random/uuid >> /all\n")
        })
        .collect();
    write(
        &own,
        &format!("FROM busybox\nCOPY a.txt /a\n{steps}RUN --mount=type=cache,target=/c echo x >> /c/f\n"),
    );
    let mut pause = 90;
    for round in 0..6 {
        own.ok("rm -f out");
        let child = own.spawn(&script(&own, "build -t x ctx > out 2>&1"));
        if round == 5 {
            // On a busy machine none may have come so far before.
            eventually("some steps are finished", Duration::from_secs(60), || {
                std::fs::read_to_string(own.folder.join("out")).is_ok_and(|said| said.contains("Step 4/"))
            });
        }
        std::thread::sleep(Duration::from_millis(pause));
        pause = pause * 7 % 1300 + 40;
        engine.kill9();
        drop(child.end());
        engine.restart();
        eventually("it answers", Duration::from_secs(60), || own.run("docker version").code == 0);
        nothing_is_under_way(&engine, &own);
    }
    ok(&own, "build -t x ctx > out 2>&1 || { cat out; exit 1; }; grep -c 'Using cache' out > cached");
    own.says("docker run --rm x sh -c 'ls /f* | wc -l; wc -l < /all'", "12\n12\n");
    let cached: u32 = own.line("cat cached").parse().unwrap();
    assert!(cached >= 1, "nothing was kept of six builds");
    // The result is whole, and is found again after another crash.
    let first = own.line("docker image inspect -f '{{.Id}}' x");
    engine.kill9();
    engine.restart();
    ok(&own, "build -q -t x ctx");
    assert_eq!(own.line("docker image inspect -f '{{.Id}}' x"), first);
    drop(own);
    engine.finish();
}

fn a_full_disk_is_named(c: &Client) {
    let mut engine = Engine::start();
    engine.stop();
    std::fs::remove_dir_all(engine.data_root()).unwrap();
    std::fs::create_dir(engine.data_root()).unwrap();
    let size = 40 + (yare_binary().metadata().unwrap().len() >> 20);
    let options = std::ffi::CString::new(format!("size={size}m,mode=710")).unwrap();
    mount("tmpfs", engine.data_root(), "tmpfs", MountFlags::empty(), Some(options.as_c_str())).unwrap();
    engine.restart();
    engine.load_busybox();
    let own = c.of(&engine);
    for (step, megabytes) in [
        ("RUN dd if=/dev/zero of=/z bs=1M count=90", 1),
        ("COPY big /z", 24),
        ("COPY big /z", 60),
        ("RUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/z bs=1M count=90", 1),
    ] {
        write(&own, &format!("FROM busybox\nRUN echo first > /first\n{step}\n"));
        // What is to be copied may have no place once more, or not even as a part of the context.
        own.ok(&format!("head -c {megabytes}m /dev/urandom > ctx/big"));
        let said = ok(&own, "if build -t x ctx 2>&1; then exit 1; fi").to_lowercase();
        assert!(said.contains("no space left"), "{step}: {said}");
        assert_eq!(said.contains("unpack the build context"), megabytes == 60, "{step}: {said}");
        own.ok("docker builder prune -af --filter type=exec.cachemount");
        nothing_is_under_way(&engine, &own);
        eventually("the space is free again", Duration::from_secs(60), || {
            ["trash", "snapshots/trash"]
                .iter()
                .all(|trash| entries(&engine.data_root().join(trash)).is_empty())
        });
        own.ok("rm ctx/big");
        write(&own, "FROM busybox\nRUN echo first > /first\nRUN head -c 5m /dev/zero > /z\n");
        ok(&own, "build -t y ctx");
    }
    drop(own);
    engine.stop();
    unmount(engine.data_root(), UnmountFlags::empty()).unwrap();
    engine.restart();
    engine.finish();
}
