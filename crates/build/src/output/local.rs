//! The root of an image as files in a folder of the user's.
//!
//! The folder is the user's and may hold anything, links to elsewhere included; the tree is the image's and
//! may hold anything, too. So every step is one name below a folder that was opened without following links:
//! what stands in the way of a file or folder is replaced, never written through.
//!
//! The files belong to who asked for them. Set-user-id bits and capabilities, which mean something else on
//! the host, are left behind, as are devices and sockets.

use super::{Image, LocalMode};
use crate::Cancel;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use yare_errdefs::{Error, Result, class_of_io};
use yare_layer::{Found, Walk};
use yare_sys::fs::{open_strict, remove_tree_at, unique_name};

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Files, folders and links.
    pub entries: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Devices and sockets that were left behind.
    pub left: u64,
}

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalOptions {
    /// What becomes of files that are there.
    pub mode: LocalMode,
    /// User and group that get the files; `None` is who runs.
    pub owner: Option<(u32, u32)>,
}

/// Name of the folder of a platform, when each has its own: `linux_amd64`.
pub fn platform_folder(image: &Image) -> String {
    let platform = &image.platform;
    let parts = [platform.os.as_str(), &platform.architecture, &platform.variant];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("_").replace('/', "_")
}

/// Writes the tree at `root` into the folder `dest`.
pub fn write_local(
    root: BorrowedFd<'_>,
    dest: BorrowedFd<'_>,
    options: &LocalOptions,
    cancel: &Cancel,
) -> Result<Written> {
    let mut writer = Writer {
        dest,
        options,
        links: HashMap::new(),
        folders: Vec::new(),
        kept: HashMap::new(),
        written: Written::default(),
    };
    let mut walk = Walk::new(root).map_err(|error| failed("list", b".", error))?;
    writer.kept.insert(Vec::new(), BTreeSet::new());
    while let Some(found) = walk.advance().map_err(|error| failed("list", b".", error))? {
        cancel.check()?;
        writer.entry(&found).map_err(|error| failed("write", &found.path, error))?;
    }
    writer.finish()
}

fn failed(operation: &str, path: &[u8], error: io::Error) -> Error {
    let path = String::from_utf8_lossy(path);
    Error::new(class_of_io(&error), format!("cannot {operation} {path:?} of the output")).caused_by(error)
}

struct Writer<'a> {
    dest: BorrowedFd<'a>,
    options: &'a LocalOptions,
    /// Files with several names: where the first is.
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Folders, whose mode and time are set at the end.
    folders: Vec<(Vec<u8>, Stat)>,
    /// Names of the image, by folder; filled for `mode=delete` alone.
    kept: HashMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    written: Written,
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW
}

impl Writer<'_> {
    /// A folder of the output that was made before.
    fn folder(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        open_strict(self.dest, path, folder_flags(), Mode::empty())
    }

    fn entry(&mut self, found: &Found) -> io::Result<()> {
        let name = found.name.as_c_str();
        let parent_path = parent(&found.path).to_vec();
        if self.options.mode == LocalMode::Delete {
            self.kept.entry(parent_path.clone()).or_default().insert(name.to_bytes().to_vec());
        }
        let parent = self.folder(&parent_path)?;
        let parent = parent.as_fd();
        match found.kind() {
            FileType::Directory => self.directory(parent, name, found)?,
            FileType::RegularFile => self.file(parent, name, found)?,
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(found.open(OFlags::PATH | OFlags::NOFOLLOW)?, c"", Vec::new())?;
                put(parent, name, |temporary| Ok(rustix::fs::symlinkat(&target, parent, temporary)?))?;
                self.settle_link(parent, name, &found.stat)?;
            }
            FileType::Fifo => {
                put(parent, name, |temporary| {
                    Ok(rustix::fs::mknodat(parent, temporary, FileType::Fifo, mode_of(&found.stat), 0)?)
                })?;
                self.settle_link(parent, name, &found.stat)?;
            }
            _ => {
                self.written.left += 1;
                return Ok(());
            }
        }
        self.written.entries += 1;
        Ok(())
    }

    /// A folder that is there stays; anything else in its place goes.
    fn directory(&mut self, parent: BorrowedFd<'_>, name: &CStr, found: &Found) -> io::Result<()> {
        let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_folder = there.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if !is_folder {
            remove(parent, name)?;
            rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
        }
        self.folders.push((found.path.clone(), found.stat));
        self.kept.entry(found.path.clone()).or_default();
        Ok(())
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &CStr, found: &Found) -> io::Result<()> {
        let id = (found.stat.st_dev, found.stat.st_ino);
        if found.stat.st_nlink > 1
            && let Some(first) = self.links.get(&id)
        {
            let folder = self.folder(self::parent(first))?;
            let target = first.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
            return put(parent, name, |temporary| {
                Ok(rustix::fs::linkat(&folder, target, parent, temporary, AtFlags::empty())?)
            });
        }
        let mut source = File::from(found.open(OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?);
        let mut bytes = 0;
        put(parent, name, |temporary| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(parent, temporary, flags, Mode::RUSR | Mode::WUSR)?);
            bytes = io::copy(&mut source, &mut file)?;
            self.settle(file.as_fd(), &found.stat)
        })?;
        self.written.bytes += bytes;
        if found.stat.st_nlink > 1 {
            self.links.insert(id, found.path.clone());
        }
        Ok(())
    }

    /// Owner, mode and time of an open file or folder.
    fn settle(&self, file: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
        if let Some((user, group)) = self.options.owner {
            rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        rustix::fs::fchmod(file, mode_of(stat))?;
        Ok(rustix::fs::futimens(file, &times_of(stat))?)
    }

    fn settle_link(&self, parent: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((user, group)) = self.options.owner {
            rustix::fs::chownat(parent, name, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)), flags)?;
        }
        Ok(rustix::fs::utimensat(parent, name, &times_of(stat), flags)?)
    }

    /// Deletes what is not of the image, then settles the folders, the deepest first.
    fn finish(mut self) -> Result<Written> {
        if self.options.mode == LocalMode::Delete {
            for (path, kept) in &self.kept {
                self.delete_others(path, kept).map_err(|error| failed("clean", path, error))?;
            }
        }
        for (path, stat) in std::mem::take(&mut self.folders).iter().rev() {
            let settled = self.folder(path).and_then(|folder| self.settle(folder.as_fd(), stat));
            settled.map_err(|error| failed("settle", path, error))?;
        }
        Ok(self.written)
    }

    fn delete_others(&self, path: &[u8], kept: &BTreeSet<Vec<u8>>) -> io::Result<()> {
        let folder = if path.is_empty() { self.folder(b".")? } else { self.folder(path)? };
        let mut others = Vec::new();
        for entry in rustix::fs::Dir::read_from(&folder)? {
            let name = entry?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") && !kept.contains(name.to_bytes()) {
                others.push(name);
            }
        }
        others.iter().try_for_each(|name| remove(folder.as_fd(), name))
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(b"", |slash| &path[..slash])
}

fn mode_of(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o1777)
}

fn times_of(stat: &Stat) -> Timestamps {
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: time, last_modification: time }
}

fn remove(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    remove_tree_at(parent, std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// Makes something under a name of its own and puts it in its place.
fn put(parent: BorrowedFd<'_>, name: &CStr, make: impl FnOnce(&str) -> io::Result<()>) -> io::Result<()> {
    let temporary = unique_name(".yare-");
    let placed = make(&temporary).and_then(|()| {
        // A folder in its place would refuse the rename.
        let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        if there.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory) {
            remove(parent, name)?;
        }
        Ok(rustix::fs::renameat(parent, &temporary, parent, name)?)
    });
    // Two names of one file: rename(2) then does nothing, and the temporary name stays.
    let _ = rustix::fs::unlinkat(parent, &temporary, AtFlags::empty());
    placed
}
