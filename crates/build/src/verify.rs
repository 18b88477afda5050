//! Whether a build made again comes out the same (`--verify`): the second time without any cache and for
//! itself alone, then layer by layer.

use crate::graph::VertexId;
use crate::lower::{Lowered, Target};
use crate::solve::Outcome;
use crate::{Cancel, Error, Result};
use rustix::fs::{FileType, OFlags, Stat};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use yare_layer::{Found, Walk, image_xattrs};
use yare_snapshot::Snapshots;

/// Most differences that are shown of one layer.
const SHOWN: usize = 20;

/// Compares what two builds of one graph made. `None` when it is the same, else what differs, a line each.
pub(crate) fn compare(
    lowered: &Lowered,
    (first, second): (&BTreeMap<VertexId, Outcome>, &BTreeMap<VertexId, Outcome>),
    snapshots: &Snapshots,
    cancel: &Cancel,
) -> Result<Option<String>> {
    let failed = |error: yare_snapshot::Error| Error::wrap("cannot compare the layers of two builds", error);
    let mut text = String::new();
    let drafts = |outcomes: &BTreeMap<VertexId, Outcome>, target: &Target| {
        outcomes.get(&target.root).map(|outcome| outcome.stack.drafts.clone()).unwrap_or_default()
    };
    for target in &lowered.targets {
        let (once, again) = (drafts(first, target), drafts(second, target));
        let names = steps(lowered, target, second);
        for (place, (one, two)) in once.iter().zip(&again).enumerate() {
            let hashes =
                (snapshots.hash_draft(one).map_err(failed)?, snapshots.hash_draft(two).map_err(failed)?);
            if hashes.0.diff_id == hashes.1.diff_id {
                continue;
            }
            let name = names.get(place).map_or("a step", String::as_str);
            text.push_str(&format!(
                "{name}\n  gave the layer {}, then {}\n",
                hashes.0.diff_id, hashes.1.diff_id
            ));
            let (one, two) = (snapshots.draft_dir(one), snapshots.draft_dir(two));
            let (one, two) = (yare_sys::fs::open_dir(one)?, yare_sys::fs::open_dir(two)?);
            for line in differences(one.as_fd(), two.as_fd(), cancel)? {
                text.push_str(&format!("  {line}\n"));
            }
        }
        if once.len() != again.len() {
            text.push_str("the two builds have not the same number of layers\n");
        }
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The steps that made the layers of a target, the lowest first.
fn steps(lowered: &Lowered, target: &Target, outcomes: &BTreeMap<VertexId, Outcome>) -> Vec<String> {
    let mut names = Vec::new();
    let mut next = Some(target.root);
    while let Some(id) = next {
        let vertex = lowered.graph.vertex(id);
        if outcomes.get(&id).is_some_and(|outcome| outcome.added) {
            names.push(vertex.name.clone());
        }
        next = vertex.op.base();
    }
    names.reverse();
    names
}

/// What differs between two trees, by path.
fn differences(one: BorrowedFd<'_>, two: BorrowedFd<'_>, cancel: &Cancel) -> Result<Vec<String>> {
    let failed = |error: io::Error| Error::from(error).with_hint("a layer of the build cannot be read");
    let (mut first, mut second) = (Walk::new(one).map_err(failed)?, Walk::new(two).map_err(failed)?);
    let mut lines = Vec::new();
    let mut more = 0_u64;
    let (mut left, mut right) = (first.advance().map_err(failed)?, second.advance().map_err(failed)?);
    loop {
        cancel.check()?;
        let order = match (&left, &right) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => by_parts(&left.path, &right.path),
        };
        let line = match (order, &left, &right) {
            (Ordering::Less, Some(left), _) => Some(format!("{}: only the first time", shown(left))),
            (Ordering::Greater, _, Some(right)) => Some(format!("{}: only the second time", shown(right))),
            (_, Some(left), Some(right)) => {
                let what = entries(left, right).map_err(failed)?;
                (!what.is_empty()).then(|| format!("{}: {}", shown(left), what.join(", ")))
            }
            _ => None,
        };
        match line {
            Some(line) if lines.len() < SHOWN => lines.push(line),
            Some(_) => more += 1,
            None => {}
        }
        if order != Ordering::Greater {
            left = first.advance().map_err(failed)?;
        }
        if order != Ordering::Less {
            right = second.advance().map_err(failed)?;
        }
    }
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Ok(lines)
}

/// The order of a walk: part by part.
fn by_parts(one: &[u8], two: &[u8]) -> Ordering {
    one.split(|byte| *byte == b'/').cmp(two.split(|byte| *byte == b'/'))
}

fn shown(found: &Found) -> String {
    format!("/{}", String::from_utf8_lossy(&found.path).escape_debug())
}

/// What differs between two entries of one path, in words.
fn entries(one: &Found, two: &Found) -> io::Result<Vec<String>> {
    if one.kind() != two.kind() {
        return Ok(vec![format!("{}, then {}", kind(one), kind(two))]);
    }
    let (a, b) = (&one.stat, &two.stat);
    let mut what = Vec::new();
    if a.st_mode & 0o7777 != b.st_mode & 0o7777 {
        what.push(format!("mode {:o}, then {:o}", a.st_mode & 0o7777, b.st_mode & 0o7777));
    }
    if (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid) {
        what.push(format!("owner {}:{}, then {}:{}", a.st_uid, a.st_gid, b.st_uid, b.st_gid));
    }
    if a.st_rdev != b.st_rdev {
        what.push("another device".to_owned());
    }
    what.extend(content(one, two)?);
    let attributes = |found: &Found| image_xattrs(found.open_path()?.as_fd());
    if one.kind() != FileType::Symlink && attributes(one)? != attributes(two)? {
        what.push("other extended attributes".to_owned());
    }
    if time(a) != time(b) {
        what.push(format!("time {}, then {}", words(a), words(b)));
    }
    Ok(what)
}

fn content(one: &Found, two: &Found) -> io::Result<Option<String>> {
    match one.kind() {
        FileType::RegularFile => {
            let sizes = (one.stat.st_size, two.stat.st_size);
            if sizes.0 != sizes.1 {
                return Ok(Some(format!("{} bytes, then {}", sizes.0, sizes.1)));
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let place = first_difference(one.open(flags)?.into(), two.open(flags)?.into())?;
            Ok(place.map(|place| format!("content differs from byte {place}")))
        }
        FileType::Symlink => {
            let target = |found: &Found| -> io::Result<_> {
                Ok(rustix::fs::readlinkat(found.open_path()?, c"", Vec::new())?)
            };
            let (a, b) = (target(one)?, target(two)?);
            Ok((a != b).then(|| format!("to {}, then {}", a.to_string_lossy(), b.to_string_lossy())))
        }
        _ => Ok(None),
    }
}

/// Where two files of one size differ, from 0.
fn first_difference(mut one: File, mut two: File) -> io::Result<Option<u64>> {
    let (mut a, mut b) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let mut place = 0;
    loop {
        let count = one.read(&mut a)?;
        if count == 0 {
            return Ok(None);
        }
        two.read_exact(&mut b[..count])?;
        if let Some(at) = a[..count].iter().zip(&b[..count]).position(|(a, b)| a != b) {
            return Ok(Some(place + at as u64));
        }
        place += count as u64;
    }
}

fn kind(found: &Found) -> &'static str {
    match found.kind() {
        FileType::Directory => "a directory",
        FileType::RegularFile => "a file",
        FileType::Symlink => "a symbolic link",
        FileType::CharacterDevice if found.stat.st_rdev == 0 => "deleted",
        _ => "a special file",
    }
}

fn time(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default())
}

fn words(stat: &Stat) -> String {
    jiff::Timestamp::from_second(stat.st_mtime)
        .map_or_else(|_| stat.st_mtime.to_string(), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn tree(content: &str, mode: u32, target: &str, extra: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("d")).unwrap();
        std::fs::write(at("d/f"), content).unwrap();
        std::fs::set_permissions(at("d/f"), std::fs::Permissions::from_mode(mode)).unwrap();
        symlink(target, at("link")).unwrap();
        for name in extra {
            std::fs::write(at(name), "").unwrap();
        }
        for entry in ["d/f", "d"].into_iter().chain(extra.iter().copied()) {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
            File::open(at(entry)).unwrap().set_modified(time).unwrap();
        }
        let old = rustix::fs::Timespec { tv_sec: 1, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: old, last_modification: old };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(rustix::fs::CWD, at("link"), &times, flags).unwrap();
        folder
    }

    fn compared(one: &tempfile::TempDir, two: &tempfile::TempDir) -> Vec<String> {
        let open = |folder: &tempfile::TempDir| yare_sys::fs::open_dir(folder.path()).unwrap();
        differences(open(one).as_fd(), open(two).as_fd(), &Cancel::default()).unwrap()
    }

    #[test]
    fn every_kind_of_difference_has_its_path_and_words() {
        let one = tree("hello", 0o644, "a", &["d-x", "gone"]);
        assert_eq!(compared(&one, &tree("hello", 0o644, "a", &["d-x", "gone"])), Vec::<String>::new());
        let two = tree("hellO", 0o600, "b", &["d-x", "new"]);
        assert_eq!(
            compared(&one, &two),
            [
                "/d/f: mode 644, then 600, content differs from byte 4",
                "/gone: only the first time",
                "/link: to a, then b",
                "/new: only the second time",
            ]
        );
        let later = File::open(two.path().join("d")).unwrap();
        later.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(61)).unwrap();
        assert!(compared(&one, &two)[0].contains("time 1970-01-01T00:00:01Z, then 1970-01-01T00:01:01Z"));
    }

    #[test]
    fn the_order_is_that_of_a_walk() {
        assert_eq!(by_parts(b"d/f", b"d-x"), Ordering::Less);
        assert_eq!(by_parts(b"d", b"d/f"), Ordering::Less);
    }
}
