//! A tar stream from a container as local files.
//!
//! The container decides what is in the stream, so nothing in it may lead out of the place it is for: names
//! have no `..`, and no component on the way to an entry may be a symbolic link.

use std::fs;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use tokio::io::AsyncWriteExt as _;
use yare_api::archive::ContainerPathStat;

use super::wants_directory;
use crate::failure::Failure;

/// Where entries go.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::commands) struct Place {
    root: PathBuf,
    names: Names,
}

/// What becomes of the first component of the entries' names.
#[derive(Debug, PartialEq, Eq)]
enum Names {
    /// It stays.
    Kept,
    /// It becomes this.
    Replaced(String),
    /// It stays, below this.
    Below(String),
}

impl Place {
    /// A directory that entries go into under the names that they have.
    pub(in crate::commands) fn directory(root: PathBuf) -> Self {
        Self { root, names: Names::Kept }
    }
}

/// How to extract.
pub(in crate::commands) struct Options {
    /// Where.
    pub place: Place,
    /// Owners as in the container.
    pub keep_owner: bool,
}

/// The rules of `cp` for a local destination. `name` is what the source is called there.
pub(super) fn place(
    found: &ContainerPathStat,
    name: &str,
    local: &str,
    target: &Path,
) -> Result<Place, Failure> {
    let existing = fs::metadata(target).ok();
    match existing {
        Some(existing) if existing.is_dir() => {
            let names = if is_whole(found) { Names::Kept } else { Names::Replaced(name.to_owned()) };
            Ok(Place { root: target.to_owned(), names })
        }
        Some(_) if found.is_dir() => Err("cannot copy directory".into()),
        Some(_) if wants_directory(local) => Err(Failure::new(format!("not a directory: {local}"))),
        _ => {
            if existing.is_none() && wants_directory(local) && !found.is_dir() {
                return Err(Failure::new(format!("no such directory: {local}")));
            }
            let (Some(root), Some(name)) = (target.parent(), target.file_name()) else {
                return Err(Failure::new(format!("invalid destination: {local}")));
            };
            if !root.is_dir() {
                return Err(Failure::new(format!(
                    "invalid output path: directory \"{}\" does not exist",
                    root.display()
                )));
            }
            let name = name.to_string_lossy().into_owned();
            let names = if is_whole(found) { Names::Below(name) } else { Names::Replaced(name) };
            Ok(Place { root: root.to_owned(), names })
        }
    }
}

/// Whether what is in a directory was asked for (`x/.`, or the root): then its own name is in no entry's.
fn is_whole(found: &ContainerPathStat) -> bool {
    matches!(found.name.as_str(), "." | "/")
}

/// A tar stream that is extracted on a thread of its own while it arrives.
pub(in crate::commands) struct Extraction {
    writer: tokio::net::UnixStream,
    unpacking: tokio::task::JoinHandle<io::Result<()>>,
}

impl Extraction {
    /// Begins.
    pub(in crate::commands) fn begin(options: Options) -> Result<Self, Failure> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let writer = tokio::net::UnixStream::from_std(ours)?;
        let unpacking = tokio::task::spawn_blocking(move || unpack(theirs, &options));
        Ok(Self { writer, unpacking })
    }

    /// Takes a piece; false when extracting has failed, for which [`Extraction::finish`] has the reason.
    pub(in crate::commands) async fn feed(&mut self, piece: &[u8]) -> bool {
        self.writer.write_all(piece).await.is_ok()
    }

    /// Waits until all is extracted.
    pub(in crate::commands) async fn finish(self) -> Result<(), Failure> {
        drop(self.writer);
        match self.unpacking.await {
            Ok(done) => Ok(done?),
            Err(_) => Err("unpacking ended early".into()),
        }
    }
}

/// Extracts the body of a reply; gives the number of its bytes.
pub(super) async fn extract(mut response: yare_client::Response, options: Options) -> Result<u64, Failure> {
    let mut extraction = Extraction::begin(options)?;
    let mut bytes = 0;
    while let Some(chunk) = response.chunk().await? {
        bytes += chunk.len() as u64;
        if !extraction.feed(&chunk).await {
            break;
        }
    }
    extraction.finish().await?;
    Ok(bytes)
}

fn unpack(mut stream: impl Read, options: &Options) -> io::Result<()> {
    let mut archive = tar::Archive::new(&mut stream);
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let Some(relative) = rename(&name, &options.place.names)? else { continue };
        let path = prepare(&options.place.root, &relative)?;
        one(&mut entry, &path, options)?;
        if entry.header().entry_type().is_dir() {
            directories.push((path, entry.header().mode()?, entry.header().mtime()?));
        }
    }
    // Last, innermost first: writing into a directory changes its time, and its mode may forbid it.
    for (path, mode, time) in directories.into_iter().rev() {
        finish(&path, mode, time)?;
    }
    io::copy(&mut stream, &mut io::sink())?;
    Ok(())
}

/// The name below the root; `None` for the root itself.
fn rename(name: &Path, names: &Names) -> io::Result<Option<PathBuf>> {
    let mut parts = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other(format!("the archive has an unsafe name: {}", name.display())));
            }
        }
    }
    let mut path = PathBuf::new();
    let skipped = match names {
        Names::Kept => 0,
        Names::Below(folder) => {
            path.push(folder);
            0
        }
        Names::Replaced(first) => {
            path.push(first);
            1
        }
    };
    path.extend(parts.into_iter().skip(skipped));
    Ok((!path.as_os_str().is_empty()).then_some(path))
}

/// The full path of an entry, its parents made, none of them a link.
fn prepare(root: &Path, relative: &Path) -> io::Result<PathBuf> {
    let mut path = root.to_owned();
    let mut parts = relative.components().peekable();
    while let Some(part) = parts.next() {
        path.push(part);
        if parts.peek().is_none() {
            break;
        }
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::other(format!("not a directory: {}", path.display())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&path)?,
            Err(error) => return Err(error),
        }
    }
    Ok(path)
}

fn one(entry: &mut tar::Entry<'_, impl Read>, path: &Path, options: &Options) -> io::Result<()> {
    let kind = entry.header().entry_type();
    let existing = fs::symlink_metadata(path).ok();
    let in_the_way = existing.as_ref().is_some_and(fs::Metadata::is_dir);
    if kind.is_dir() {
        if existing.is_some_and(|found| !found.is_dir()) {
            return Err(io::Error::other(format!("cannot overwrite {} with a directory", path.display())));
        }
        if !in_the_way {
            fs::create_dir(path)?;
        }
        return owner(entry, path, options);
    }
    if in_the_way {
        return Err(io::Error::other(format!("cannot overwrite the directory {}", path.display())));
    }
    if existing.is_some() {
        fs::remove_file(path)?;
    }
    if kind.is_symlink() {
        let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
        std::os::unix::fs::symlink(&target, path)?;
        return owner(entry, path, options);
    }
    if kind.is_hard_link() {
        let target = entry.link_name()?.ok_or_else(|| io::Error::other("a link without a target"))?;
        let Some(relative) = rename(&target, &options.place.names)? else { return Ok(()) };
        return fs::hard_link(prepare(&options.place.root, &relative)?, path);
    }
    if !kind.is_file() && !kind.is_contiguous() && !kind.is_gnu_sparse() {
        // Devices and pipes: only root could make them, and nobody copies them for their contents.
        return Ok(());
    }
    let mode = entry.header().mode()?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(entry, &mut file)?;
    file.flush()?;
    owner(entry, path, options)?;
    finish(path, mode, entry.header().mtime()?)
}

/// Owner and group, where they are wanted and we may.
fn owner(entry: &tar::Entry<'_, impl Read>, path: &Path, options: &Options) -> io::Result<()> {
    if !options.keep_owner || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let id = |number: u64| {
        u32::try_from(number).map_err(|_| io::Error::other("an owner that is no number of 32 bits"))
    };
    std::os::unix::fs::lchown(path, Some(id(entry.header().uid()?)?), Some(id(entry.header().gid()?)?))
}

fn finish(path: &Path, mode: u32, seconds: u64) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.mode() & 0o7777 != mode & 0o7777 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))?;
    }
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    let file = fs::File::open(path);
    // A file that we may not read keeps the time of the copy.
    if let Ok(file) = file {
        file.set_modified(time)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out() {
        let x = Names::Replaced("x".to_owned());
        assert!(rename(Path::new("a/../../etc/passwd"), &x).is_err());
        assert_eq!(rename(Path::new("/a/b"), &x).unwrap(), Some(PathBuf::from("x/b")));
        let below = Names::Below("x".to_owned());
        assert_eq!(rename(Path::new("./"), &below).unwrap(), Some(PathBuf::from("x")));
        assert_eq!(rename(Path::new("./a/b"), &below).unwrap(), Some(PathBuf::from("x/a/b")));
        assert_eq!(rename(Path::new("/"), &Names::Kept).unwrap(), None);
        assert_eq!(rename(Path::new("./a/b"), &Names::Kept).unwrap(), Some(PathBuf::from("a/b")));
        assert!(rename(Path::new("../b"), &Names::Kept).is_err());
    }

    #[test]
    fn links_on_the_way_are_refused() {
        let root = std::env::temp_dir().join(format!("yare-cp-{}", std::process::id()));
        drop(fs::remove_dir_all(&root));
        fs::create_dir_all(root.join("to")).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header.clone(), "src/link", "/tmp").unwrap();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        archive.append_data(&mut header, "src/link/evil", &b""[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        let place = Place { root: root.join("to"), names: Names::Replaced("copy".to_owned()) };
        let outcome = unpack(bytes.as_slice(), &Options { place, keep_owner: false });
        assert!(outcome.unwrap_err().to_string().starts_with("not a directory"));
        assert!(!Path::new("/tmp/evil").exists());
        fs::remove_dir_all(&root).unwrap();
    }
}
