//! Groups of the real kernel: needs root and a writable cgroup filesystem.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test")]

use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use yare_cgroup::{CgroupError, Controller, Group, Host};
use yare_errdefs::{Class, Classified};
use yare_oci::runtime::{Cpu, Memory, Pids, Resources};

/// The host, or a loud reason why not.
fn host(test: &str) -> Option<Host> {
    let required = std::env::var_os("YARE_REQUIRE_ROOT").is_some();
    if !rustix::process::geteuid().is_root() {
        assert!(!required, "{test} needs root");
        println!("SKIP {test}: needs root");
        return None;
    }
    match Host::detect() {
        Ok(host) => Some(host),
        Err(error) => {
            assert!(!required, "{test}: {error}");
            println!("SKIP {test}: {error}");
            None
        }
    }
}

/// A path that no other test has, beneath a parent that no other test has.
fn path() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("/yare-cgroup-test-{}-{}/group", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Where a group's parent is, in every hierarchy.
fn parents(path: &str) -> Vec<PathBuf> {
    let parent = path.trim_start_matches('/').rsplit_once('/').unwrap().0;
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    hierarchies.chain(["/sys/fs/cgroup".into()]).map(|hierarchy| hierarchy.join(parent)).collect()
}

/// Removes a group's parent in every hierarchy, if that is empty.
fn remove_parent(path: &str) {
    for parent in parents(path) {
        let _ = std::fs::remove_dir(parent);
    }
}

/// A group that is gone with its processes, and then its parent.
struct Guard(Group);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.thaw();
        let _ = self.0.kill();
        self.0.remove().unwrap();
        remove_parent(self.0.path());
    }
}

fn sleeper(group: &Group) -> Child {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    group.add(i32::try_from(child.id()).unwrap()).unwrap();
    child
}

fn limits() -> Resources {
    Resources {
        memory: Some(Memory { limit: Some(64 << 20), ..Memory::default() }),
        cpu: Some(Cpu { quota: Some(50_000), period: Some(100_000), cpus: "0".into(), ..Cpu::default() }),
        pids: Some(Pids { limit: 20 }),
        ..Resources::default()
    }
}

#[test]
fn limits_are_set_and_changed() {
    let Some(host) = host("limits_are_set_and_changed") else { return };
    let (group, warnings) = Group::create(&host, &path(), Some(&limits())).unwrap();
    let group = Guard(group);
    assert!(warnings.is_empty(), "{warnings:?}");
    let stats = group.0.stats();
    assert_eq!((stats.memory.limit, stats.pids.limit), (Some(64 << 20), Some(20)));
    assert_eq!(group.0.read(Controller::Cpuset, "cpuset.cpus").unwrap().trim(), "0");
    let raised = Memory { limit: Some(128 << 20), swap: Some(256 << 20), ..Memory::default() };
    group.0.update(&Resources { memory: Some(raised), ..Resources::default() }).unwrap();
    let lowered = Memory { limit: Some(32 << 20), swap: Some(32 << 20), ..Memory::default() };
    group.0.update(&Resources { memory: Some(lowered), ..Resources::default() }).unwrap();
    assert_eq!(group.0.stats().memory.limit, Some(32 << 20));
    let again = Group::open(&host, group.0.path()).unwrap();
    assert_eq!(again.stats().memory.limit, Some(32 << 20));
}

#[test]
fn processes_join_freeze_and_die() {
    let Some(host) = host("processes_join_freeze_and_die") else { return };
    host.prepare();
    let group = Guard(Group::create(&host, &path(), None).unwrap().0);
    let mut child = sleeper(&group.0);
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(group.0.pids().unwrap(), [pid]);
    assert_eq!(group.0.stats().pids.current, 1);
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen());
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen());
    group.0.kill().unwrap();
    assert!(!child.wait().unwrap().success());
    assert_eq!(group.0.pids().unwrap(), [0i32; 0]);
}

#[test]
fn a_frozen_group_can_be_killed() {
    let Some(host) = host("a_frozen_group_can_be_killed") else { return };
    let group = Guard(Group::create(&host, &path(), None).unwrap().0);
    let mut child = sleeper(&group.0);
    group.0.freeze().unwrap();
    group.0.kill().unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
fn subgroups_are_removed_too() {
    let Some(host) = host("subgroups_are_removed_too") else { return };
    let (group, _) = Group::create(&host, &path(), None).unwrap();
    let group = Guard(group);
    let inner = format!("{}/inner/deep", group.0.path());
    Group::create(&host, &inner, None).unwrap();
    group.0.remove().unwrap();
    assert!(Group::open(&host, group.0.path()).is_err());
    group.0.remove().unwrap();
}

#[test]
fn a_group_in_use_is_not_taken_and_a_bad_limit_leaves_nothing() {
    let Some(host) = host("a_group_in_use_is_not_taken") else { return };
    let group = Guard(Group::create(&host, &path(), None).unwrap().0);
    let mut child = sleeper(&group.0);
    let error = Group::create(&host, group.0.path(), None).unwrap_err();
    assert!(matches!(error, CgroupError::InUse(_)), "{error}");
    assert_eq!(group.0.stats().pids.current, 1, "the group was left alone");
    child.kill().unwrap();
    child.wait().unwrap();
    let other = path();
    let cpu = Cpu { cpus: "8000".into(), ..Cpu::default() };
    let error = Group::create(&host, &other, Some(&Resources { cpu: Some(cpu), ..Resources::default() }));
    assert_eq!(error.unwrap_err().class(), Class::InvalidArgument);
    assert!(Group::open(&host, &other).is_err());
    remove_parent(&other);
}

#[test]
fn a_parent_that_vanishes_meanwhile_is_made_again() {
    let Some(host) = host("a_parent_that_vanishes_meanwhile_is_made_again") else { return };
    let path = path();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for parent in parents(&path) {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let _ = std::fs::remove_dir(&parent);
                }
            });
        }
        let made = (0..200).try_for_each(|_| Group::create(&host, &path, None)?.0.remove());
        over.store(true, Ordering::Relaxed);
        made.unwrap();
    });
    remove_parent(&path);
}
