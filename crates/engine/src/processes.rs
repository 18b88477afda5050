//! Which processes are a container's.
//!
//! Its control group knows. An engine that runs without root may have none to give: then its pid namespace does.

use crate::Engine;
use crate::container::Record;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use yare_errdefs::{Error, Result};

/// All of a running container, sorted.
pub(crate) fn of(engine: &Engine, record: &Record) -> Result<Vec<i32>> {
    if !engine.cgroups.has_groups() {
        return Ok(around(record.state.pid));
    }
    let group = yare_cgroup::Group::open(&engine.cgroups, &engine.cgroup_path(record));
    group
        .and_then(|group| group.pids())
        .map_err(|error| Error::wrap(format!("cannot list the processes of container {}", record.id), error))
}

/// Whether process `pid` is the first of the container, and not another one that got its number.
pub(crate) fn is_first(engine: &Engine, record: &Record, pid: i32) -> bool {
    if !engine.cgroups.has_groups() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        return begins_a_namespace(&status);
    }
    of(engine, record).is_ok_and(|pids| pids.contains(&pid))
}

/// Whether a process is number 1 of a pid namespace that is not the reader's, by its `status`.
fn begins_a_namespace(status: &str) -> bool {
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    numbers.len() > 1 && numbers.last() == Some(&"1")
}

/// The processes of the pid namespace of the process `first`; where that is the engine's own, it and what it began.
fn around(first: i32) -> Vec<i32> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(theirs) = namespace(&first.to_string()) else { return Vec::new() };
    let mut found = if namespace("self").as_ref() == Some(&theirs) {
        let parents: BTreeMap<i32, i32> = numbers().filter_map(|pid| Some((pid, parent(pid)?))).collect();
        descendants(first, &parents)
    } else {
        let same = |pid: &i32| namespace(&pid.to_string()).as_ref() == Some::<&PathBuf>(&theirs);
        numbers().filter(same).collect()
    };
    found.sort_unstable();
    found
}

fn numbers() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].split_whitespace().nth(1)?.parse().ok()
}

fn descendants(first: i32, parents: &BTreeMap<i32, i32>) -> Vec<i32> {
    let mut found = BTreeSet::from([first]);
    loop {
        let known = found.len();
        let next: Vec<i32> =
            parents.iter().filter(|(_, parent)| found.contains(parent)).map(|(pid, _)| *pid).collect();
        found.extend(next);
        if found.len() == known {
            return found.into_iter().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_one_of_another_namespace_is_known_by_its_numbers() {
        for (status, expected) in [
            ("Name:\tsh\nNSpid:\t4242\t1\n", true),
            ("NSpid:\t4242\t17\t1\n", true),
            ("NSpid:\t4242\t7\n", false),
            ("NSpid:\t1\n", false),
            ("", false),
        ] {
            assert_eq!(begins_a_namespace(status), expected, "{status:?}");
        }
    }

    #[test]
    fn children_of_children_belong_to_it() {
        let parents = BTreeMap::from([(10, 1), (11, 10), (12, 11), (13, 1), (9, 12)]);
        assert_eq!(descendants(10, &parents), [9, 10, 11, 12]);
    }

    #[test]
    fn in_the_own_namespace_it_is_what_a_process_began() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(around(pid), [pid]);
        assert!(around(i32::try_from(std::process::id()).unwrap()).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
