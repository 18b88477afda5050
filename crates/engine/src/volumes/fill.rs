//! Filling a new volume with what the image has at its place.
//!
//! While a named volume is being filled there is a file `filling` beside its `_data`; in it is the subpath, if
//! only a part of the volume is filled. A volume with that file at the start of the engine was filled half way
//! when an engine died: it (or the part) is emptied, and filled anew by the next container. The content is on disk before the file goes, so the same holds after a power cut. (An
//! anonymous volume gets on record when it is full; before that it has no owner and is swept.)

use super::folder;
use crate::Engine;
use parking_lot::Mutex;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use yare_errdefs::{Error, Result};
use yare_oci::DiffId;

const MARK: &str = "filling";

/// A volume to fill, if it is empty.
#[derive(Debug)]
pub(crate) struct Fill {
    /// Where it is mounted, and what of the image it takes.
    pub(crate) destination: String,
    /// What of the volume that is, relative; empty for all of it.
    pub(crate) subpath: String,
    /// The volume.
    pub(crate) name: String,
    /// Whether what is cut off can be taken back at the next start: it is found by its name, and all its own.
    pub(crate) marked: bool,
    /// The container.
    pub(crate) user: String,
    /// Locked while it is filled.
    pub(crate) filling: Arc<Mutex<()>>,
}

/// Fills empty volumes with what the image has at their place, owners and all. The image's tree is mounted
/// apart from every namespace and read beneath its root: no link in it leads out.
pub(crate) fn fill_volumes(engine: &Engine, layers: &[DiffId], fills: &[Fill]) -> Result<()> {
    let mut tree = None;
    for fill in fills {
        // Whoever else creates a container with this volume waits, and finds it full.
        let _filling = fill.filling.lock();
        let _uses = super::local::use_named(engine, std::iter::once(fill.name.as_str()), &fill.user)?;
        // A part that is not there is for the start to tell.
        let Ok(target) = part(engine, &fill.name, &fill.subpath) else { continue };
        if !is_empty(&target) {
            continue;
        }
        let tree =
            match &tree {
                Some(tree) => tree,
                None => {
                    tree.insert(engine.images.snapshots().view_fd(layers).map_err(|error| {
                        Error::wrap("cannot read the image to fill a volume from it", error)
                    })?)
                }
            };
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let relative = fill.destination.trim_start_matches('/');
        let Ok(source) = yare_sys::fs::open_beneath(tree.as_fd(), relative, flags, rustix::fs::Mode::empty())
        else {
            // The image has nothing there, or a file: the volume stays empty, as with Docker.
            continue;
        };
        fill_one(engine, &source, &target, fill)?;
    }
    Ok(())
}

/// What of a volume is filled.
fn part(engine: &Engine, name: &str, subpath: &str) -> std::io::Result<OwnedFd> {
    let content = yare_sys::fs::open_dir(folder(engine, name))?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
    yare_sys::fs::open_within(content.as_fd(), subpath, flags, rustix::fs::Mode::empty())
}

fn fill_one(engine: &Engine, source: &OwnedFd, target: &OwnedFd, fill: &Fill) -> Result<()> {
    let failed = || format!("cannot fill the volume for {} from the image", fill.destination);
    let wrapped =
        |error: std::io::Error| Error::new(yare_errdefs::class_of_io(&error), failed()).caused_by(error);
    let copy = || {
        let copied = yare_layer::copy_tree(source.as_fd(), target.as_fd());
        copied.map(drop).map_err(|error| Error::wrap(failed(), error))
    };
    if !fill.marked {
        return copy();
    }
    let mark = mark(engine, &fill.name);
    std::fs::write(&mark, &fill.subpath).map_err(wrapped)?;
    if let Err(error) = copy() {
        empty(engine, &fill.name, &fill.subpath)?;
        return Err(error);
    }
    yare_sys::fs::syncfs(folder(engine, &fill.name)).map_err(wrapped)?;
    std::fs::remove_file(&mark).map_err(wrapped)
}

/// Takes half a filling out of a volume, or out of the part of it that was filled.
fn empty(engine: &Engine, name: &str, subpath: &str) -> Result<()> {
    if subpath.is_empty() {
        engine.trash.take(&folder(engine, name))?;
        super::make_folder(&folder(engine, name))?;
    } else if let Ok(part) = part(engine, name, subpath) {
        clear(&part).map_err(|error| {
            Error::internal(format!("cannot empty {subpath} of volume {name}")).caused_by(error)
        })?;
    }
    std::fs::remove_file(mark(engine, name)).map_err(|error| {
        Error::internal(format!("cannot remove {}", mark(engine, name).display())).caused_by(error)
    })
}

/// Removes everything in a directory.
fn clear(directory: &OwnedFd) -> std::io::Result<()> {
    for entry in std::fs::read_dir(yare_sys::fs::proc_path(directory.as_fd()))? {
        yare_sys::fs::remove_tree_at(directory.as_fd(), entry?.file_name())?;
    }
    Ok(())
}

/// Empties the volumes whose filling was cut off. To be called when all containers are known and none is
/// being created.
pub(crate) fn empty_half_filled(engine: &Engine) {
    for volume in engine.volumes.all() {
        let name = &volume.name;
        let Ok(subpath) = std::fs::read_to_string(mark(engine, name)) else { continue };
        let users = super::users(engine, name);
        if !users.is_empty() {
            // They may have written to it: what is there is theirs.
            tracing::warn!(
                volume = name,
                "it was filled half way from an image when an engine died, and stays so: containers use it"
            );
            let _ = std::fs::remove_file(mark(engine, name));
        } else if let Err(error) = empty(engine, name, &subpath) {
            tracing::warn!(
                volume = name,
                error = yare_errdefs::chain(&error),
                "cannot empty a volume that was filled half way"
            );
        }
    }
}

fn mark(engine: &Engine, name: &str) -> PathBuf {
    folder(engine, name).with_file_name(MARK)
}

fn is_empty(directory: &OwnedFd) -> bool {
    let entries = std::fs::read_dir(yare_sys::fs::proc_path(directory.as_fd()));
    entries.is_ok_and(|mut entries| entries.next().is_none())
}
