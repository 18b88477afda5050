//! A commit as a folder.

use super::mirror::{Mirror, Resolved, text};
use super::run::Run;
use super::url::{GitRef, GitUrl, MTime, check_commit};
use super::{Git, submodule};
use crate::Cancel;
use crate::source::failed;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use yare_errdefs::{Error, Result};
use yare_layer::Walk;
use yare_sys::fs::{open_dir, open_strict};

/// A repository's files in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// The folder of the files: the asked subfolder, if one was asked for.
    pub dir: PathBuf,
    /// Full hash of the commit: what the content depends on, with the subfolder and whether `.git` is kept.
    pub commit: String,
    /// When the commit was made, in seconds since 1970.
    pub time: i64,
}

/// One repository on its way into a folder.
pub(super) struct Job<'a> {
    pub(super) git: &'a Git,
    pub(super) cancel: &'a Cancel,
    pub(super) home: &'a Path,
    /// Host of the repository that the user asked for.
    pub(super) host: &'a str,
    pub(super) keep_git_dir: bool,
}

impl Job<'_> {
    pub(super) fn run<'r>(&'r self, remote: Option<&'r GitUrl>) -> Run<'r> {
        let trusted = remote.is_some_and(|remote| remote.host == self.host);
        Run {
            git: self.git,
            cancel: self.cancel,
            home: self.home,
            remote,
            trusted,
            local: false,
            watched: None,
        }
    }
}

impl Git {
    /// Which commit the reference means now, for a cache key, without fetching files where that can be
    /// avoided.
    pub fn resolve(&self, wanted: &GitRef, cancel: &Cancel) -> Result<String> {
        let home = self.home()?;
        let job = self.job(wanted, cancel, home.path(), false);
        let run = job.run(Some(&wanted.url));
        Ok(resolve(&Mirror::open(&run, &wanted.url)?, &run, wanted)?.commit)
    }

    /// Fetches what is missing and puts the files into `dir`, an empty folder of the caller's. Files are 0644
    /// or 0755 and belong to the caller; their times are `time` (seconds since 1970), unless the reference
    /// asks for the commit's. Submodules are filled in unless the reference says no. `.git` stays out unless
    /// `keep_git_dir` or the reference asks for it.
    pub fn checkout(
        &self,
        wanted: &GitRef,
        dir: &Path,
        (keep_git_dir, time): (bool, i64),
        cancel: &Cancel,
    ) -> Result<Checkout> {
        let home = self.home()?;
        let keep = wanted.keep_git_dir.unwrap_or(keep_git_dir) && wanted.subdir.is_empty();
        let job = self.job(wanted, cancel, home.path(), keep);
        let (commit, commit_time) = {
            let run = job.run(Some(&wanted.url));
            let mirror = Mirror::open(&run, &wanted.url)?;
            let resolved = resolve(&mirror, &run, wanted)?;
            let commit = mirror.ensure(&run, &resolved)?;
            // First, because it refuses trees that unpack to more than is allowed.
            let modules = submodule::list(&job, &mirror, &commit)?;
            fill(&job, &mirror, &commit, (dir, &wanted.url))?;
            let time = mirror.time(&run, &commit)?;
            // The lock goes before others are taken: no two builds wait for each other.
            drop(mirror);
            if wanted.submodules.unwrap_or(true) {
                submodule::fill(&job, &wanted.url, modules, (dir, 0))?;
            }
            (commit, time)
        };
        let folder = subfolder(wanted, dir)?;
        let time = if wanted.mtime == Some(MTime::Commit) { commit_time } else { time };
        set_times(open_dir(dir)?.as_fd(), time).map_err(|error| failed("set the times below", dir, error))?;
        Ok(Checkout { dir: folder, commit, time: commit_time })
    }

    fn home(&self) -> Result<tempfile::TempDir> {
        crate::source::private_folder(&self.cache)?;
        let home = tempfile::Builder::new().prefix("home-").tempdir_in(&self.cache);
        let home = home.map_err(|error| failed("make a folder in", &self.cache, error))?;
        if let Some(known) = &self.known_hosts {
            let path = home.path().join("known_hosts");
            std::fs::write(&path, known).map_err(|error| failed("write", &path, error))?;
        }
        Ok(home)
    }

    fn job<'a>(
        &'a self,
        wanted: &'a GitRef,
        cancel: &'a Cancel,
        home: &'a Path,
        keep_git_dir: bool,
    ) -> Job<'a> {
        Job { git: self, cancel, home, host: &wanted.url.host, keep_git_dir }
    }
}

/// Looks the reference up and compares with the checksum that was asked for.
fn resolve(mirror: &Mirror, run: &Run<'_>, wanted: &GitRef) -> Result<Resolved> {
    check_commit(&wanted.checksum).map_err(Error::invalid)?;
    if wanted.fetch_by_commit {
        if wanted.checksum.is_empty() {
            return Err(Error::invalid("fetch-by-commit needs the checksum of the commit"));
        }
        return mirror.resolve(run, &wanted.checksum);
    }
    let found = mirror.resolve(run, &wanted.reference)?;
    let fits = |hash: &str| hash.starts_with(&wanted.checksum);
    if fits(&found.commit) || found.tag.as_deref().is_some_and(fits) {
        return Ok(found);
    }
    Err(Error::invalid(format!("expected checksum to match {}, got {}", wanted.checksum, found.commit))
        .with_hint("the branch or tag was moved, or the checksum is of another commit"))
}

/// Writes the files of the commit into `dir`; with `.git`, when that is to be kept.
pub(super) fn fill(job: &Job<'_>, mirror: &Mirror, commit: &str, (dir, url): (&Path, &GitUrl)) -> Result<()> {
    let run = job.run(None);
    let index = job.home.join("index");
    let tree = format!("--work-tree={}", text(dir)?);
    let arguments = [&tree, "read-tree", "--reset", "-u", "--no-recurse-submodules", commit];
    let written = mirror.git(&run, "write the files", &arguments, &[("GIT_INDEX_FILE", &index)]);
    let _ = std::fs::remove_file(&index);
    written?;
    if job.keep_git_dir { keep_git_dir(job, mirror, commit, (dir, url)) } else { Ok(()) }
}

/// Makes a `.git` of its own, shallow, which knows its remote (without password) and nothing of the mirror.
fn keep_git_dir(job: &Job<'_>, mirror: &Mirror, commit: &str, (dir, url): (&Path, &GitUrl)) -> Result<()> {
    let run = job.run(None);
    let folder = dir.join(".git");
    let (git, tree) = (format!("--git-dir={}", text(&folder)?), format!("--work-tree={}", text(dir)?));
    let both = [git.as_str(), tree.as_str()];
    run.must(
        "make .git",
        &["init", "--quiet", "--template=", "--initial-branch=master", "--", text(dir)?],
        &[],
    )?;
    let local = Run { local: true, ..job.run(None) };
    let wanted = format!("+{commit}:refs/heads/fetched");
    let from = text(&mirror.path)?;
    let fetch = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--", from, &wanted];
    local.must("copy the history", &[&both[..], &fetch].concat(), &[])?;
    let address = url.address();
    run.must("set the remote", &[&both[..], &["remote", "add", "origin", &address]].concat(), &[])?;
    let detach = ["update-ref", "--no-deref", "HEAD", commit];
    run.must("set HEAD", &[&both[..], &detach].concat(), &[])?;
    run.must("set HEAD", &[&both[..], &["update-ref", "-d", "refs/heads/fetched"]].concat(), &[])?;
    run.must(
        "write the index",
        &[&both[..], &["read-tree", "--no-recurse-submodules", commit]].concat(),
        &[],
    )?;
    for left in ["logs", "ORIG_HEAD", "FETCH_HEAD", "branches", "hooks", "description"] {
        yare_sys::fs::remove_tree(folder.join(left))?;
    }
    Ok(())
}

/// The asked folder, which must be one and be reached without links.
fn subfolder(wanted: &GitRef, dir: &Path) -> Result<PathBuf> {
    let path = wanted.checked_subdir().map_err(Error::invalid)?;
    if path.is_empty() {
        return Ok(dir.to_owned());
    }
    match open_strict(open_dir(dir)?.as_fd(), &path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()) {
        Ok(_) => Ok(dir.join(path)),
        Err(error) => {
            let text = format!("{} has no folder {path:?}", wanted.redacted());
            let hint = "the path must be a folder, and no part of it a symbolic link";
            Err(Error::not_found(text).caused_by(error).with_hint(hint))
        }
    }
}

/// Gives everything below the folder one time (seconds since 1970) and the modes 0755 and 0644, so that the
/// umask and the clock leave no trace. Links are not followed.
pub fn set_times(dir: BorrowedFd<'_>, time: i64) -> std::io::Result<()> {
    let stamp = Timespec { tv_sec: time, tv_nsec: 0 };
    let times =
        Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: stamp };
    let mut folders = vec![Vec::new()];
    let mut walk = Walk::new(dir)?;
    while let Some(found) = walk.advance()? {
        match found.kind() {
            // Later: what happens in a folder changes its time.
            FileType::Directory => {
                folders.push(found.path);
                continue;
            }
            FileType::RegularFile => {
                let mode = if found.stat.st_mode & 0o100 == 0 { 0o644 } else { 0o755 };
                rustix::fs::chmodat(
                    found.parent(),
                    &found.name,
                    Mode::from_raw_mode(mode),
                    AtFlags::empty(),
                )?;
            }
            _ => {}
        }
        rustix::fs::utimensat(found.parent(), &found.name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    for path in folders.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = open_strict(dir, Path::new(OsStr::from_bytes(path)), flags, Mode::empty())?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(0o755))?;
        rustix::fs::futimens(&folder, &times)?;
    }
    Ok(())
}
