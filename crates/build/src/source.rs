//! Where files come from that are no part of the client's directory: git repositories, downloads, and
//! contexts that arrive as a stream.
//!
//! Everything here is hostile input. What is fetched lands in a folder that the caller made for it, and
//! nothing outside of that folder and of the caches is ever written.

pub mod git;
pub mod http;
pub mod upload;

use crate::Cancel;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use yare_errdefs::{Error, Result};
use yare_sys::fs::Lock;

/// The lock on a cache entry, waited for until it is free or the build ends.
fn lock(path: &Path, cancel: &Cancel) -> Result<Lock> {
    loop {
        match yare_sys::fs::lock_file(path) {
            Ok(lock) => return Ok(lock),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                cancel.check()?;
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes a cache's folder, readable by its owner alone.
fn private_folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| failed("make the folder", path, error))
}

/// Notes that a cache entry is used now.
fn touch(path: &Path) -> Result<()> {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty())
        .map_err(|error| failed("set the time of", path, error))
}

/// Entries of a cache with this extension that were last used before `limit`.
fn unused(folder: &Path, extension: &str, limit: SystemTime) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| failed("list", folder, error))?,
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let old = |path: &PathBuf| {
        path.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|used| used < limit)
    };
    Ok(paths.filter(|path| path.extension().unwrap_or_default() == extension).filter(old).collect())
}

fn failed(operation: &str, path: &Path, error: impl Into<std::io::Error>) -> Error {
    let error = error.into();
    Error::new(yare_errdefs::class_of_io(&error), format!("cannot {operation} {}", path.display()))
        .caused_by(error)
}
