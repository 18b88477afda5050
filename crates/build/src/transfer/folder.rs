//! A folder as the place of a cache: an OCI layout.
//!
//! `.lock` is held by whoever writes, from the first blob to the end of the sweep: what is not in the index
//! yet is swept by nobody. Who reads takes no lock; what is swept before it was read is a step that runs.

use super::store::{self, ContentStore, LONGEST, json, parse, read};
use crate::{Cancel, Error, Result};
use rustix::fs::{Mode, OFlags};
use serde_json::Value;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;
use yare_oci::{Descriptor, Digest, Index, MediaType};
use yare_sys::fs::{Durability, Lock, atomic_write, lock_file, open_beneath};

/// Annotation of a manifest in an index: its tag.
const TAG: &str = "org.opencontainers.image.ref.name";
/// What a blob is called until it is whole.
pub(super) const UNFINISHED: &str = ".unfinished-";
/// How often somebody who waits for a folder looks.
const LOOK: Duration = Duration::from_millis(100);

/// A folder, seen under one tag.
pub(super) struct Folder {
    path: PathBuf,
    blobs: PathBuf,
    tag: String,
    dir: OwnedFd,
    /// Held by who writes.
    _lock: Option<Lock>,
}

impl Folder {
    /// Opens a folder that is there, to read.
    pub(super) fn open(path: &Path, tag: &str) -> Result<Self> {
        let dir = yare_sys::fs::open_dir(path).map_err(|error| {
            let class = yare_errdefs::class_of_io(&error);
            Error::new(class, format!("cannot open the build cache {}", path.display())).caused_by(error)
        })?;
        let blobs = path.join("blobs/sha256");
        Ok(Self { path: path.to_owned(), blobs, tag: tag.to_owned(), dir, _lock: None })
    }

    /// Makes the folder when it is missing, and waits until nobody else writes there.
    pub(super) fn create(path: &Path, tag: &str, cancel: &Cancel) -> Result<Self> {
        let blobs = path.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(|error| failed("make", &blobs, error))?;
        let place = path.join(".lock");
        let lock = loop {
            match lock_file(&place) {
                Ok(lock) => break lock,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    cancel.check()?;
                    std::thread::sleep(LOOK);
                }
                Err(error) => return Err(failed("lock", &place, error)),
            }
        };
        let folder = Self { _lock: Some(lock), ..Self::open(path, tag)? };
        folder.write(path, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(folder)
    }

    fn write(&self, folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
        atomic_write(folder, name, bytes, Durability::Relaxed)
            .map_err(|error| failed("write", &folder.join(name), error))
    }

    fn index(&self) -> Result<Option<Index>> {
        match open(self.dir.as_fd(), Path::new("index.json")) {
            Ok(file) => parse(&read(file, LONGEST)?, "index.json").map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("open", &self.path.join("index.json"), error)),
        }
    }

    fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        store::verified(read(self.blob(digest)?, LONGEST)?, digest)
    }

    fn blob(&self, digest: &Digest) -> Result<File> {
        let path = Path::new("blobs/sha256").join(digest.hex());
        open(self.dir.as_fd(), &path).map_err(|error| {
            let class = yare_errdefs::class_of_io(&error);
            Error::new(class, format!("cannot open {} of the build cache", path.display())).caused_by(error)
        })
    }

    /// Removes blobs that the index does not lead to, and those that nobody finished.
    fn sweep(&self, index: &Index) {
        let mut kept = HashSet::new();
        for descriptor in &index.manifests {
            self.reach(&descriptor.digest, &mut kept);
        }
        for entry in std::fs::read_dir(&self.blobs).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let digest = format!("sha256:{name}").parse::<Digest>();
            let gone = digest.map_or(name.starts_with(UNFINISHED), |digest| !kept.contains(&digest));
            if gone && let Err(error) = std::fs::remove_file(entry.path()) {
                tracing::warn!(%error, name, "an old blob of a build cache stays");
            }
        }
    }

    /// Everything that a document names, and what those name in turn: other tags may be other tools' and of
    /// other kinds. A blob that is no document leads nowhere.
    fn reach(&self, digest: &Digest, kept: &mut HashSet<Digest>) {
        let mut open = vec![*digest];
        while let Some(digest) = open.pop() {
            if !kept.insert(digest) {
                continue;
            }
            let document = self.document(&digest).ok();
            let document = document.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
            open.extend(document.iter().flat_map(|document| {
                let member = |name: &str| document.get(name).into_iter().flat_map(each).collect::<Vec<_>>();
                [member("manifests"), member("layers"), member("config"), member("blobs")].concat()
            }));
        }
    }
}

/// The digests of a descriptor or a list of them.
fn each(value: &Value) -> Vec<Digest> {
    let digest = |value: &Value| value.get("digest")?.as_str()?.parse().ok();
    match value {
        Value::Array(list) => list.iter().filter_map(digest).collect(),
        other => digest(other).into_iter().collect(),
    }
}

impl ContentStore for Folder {
    fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>> {
        let missing = || {
            let text = format!("the build cache {} has no manifest of that name", self.path.display());
            Error::not_found(text)
        };
        let index = self.index()?.ok_or_else(missing)?;
        let wanted = |descriptor: &&Descriptor| match digest {
            Some(digest) => descriptor.digest == *digest,
            None => descriptor.annotations.get(TAG).is_some_and(|other| *other == self.tag),
        };
        self.document(&index.manifests.iter().find(wanted).ok_or_else(missing)?.digest)
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        Ok(Box::new(self.blob(&blob.digest)?))
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        let found = std::fs::symlink_metadata(self.blobs.join(blob.digest.hex()));
        Ok(found.is_ok_and(|found| found.is_file() && found.len() == blob.size))
    }

    fn room(&self) -> Option<&Path> {
        Some(&self.blobs)
    }

    fn put(&self, blob: &Descriptor, file: &Path) -> Result<()> {
        let place = self.blobs.join(blob.digest.hex());
        std::fs::rename(file, &place).map_err(|error| failed("write", &place, error))
    }

    fn publish(&self, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        self.write(&self.blobs, &manifest.digest.hex(), bytes)?;
        let mut manifests = self.index()?.map(|index| index.manifests).unwrap_or_default();
        manifests.retain(|other| other.annotations.get(TAG).is_none_or(|other| *other != self.tag));
        let mut descriptor = manifest.clone();
        descriptor.annotations.insert(TAG.to_owned(), self.tag.clone());
        manifests.push(descriptor);
        let media_type = MediaType::OCI_INDEX.to_owned();
        let index = Index { schema_version: 2, media_type, manifests, annotations: super::Map::new() };
        // Until the index names the manifest, the folder holds what it held.
        self.write(&self.path, "index.json", &json(&index)?)?;
        self.sweep(&index);
        Ok(())
    }
}

/// A regular file below the folder; a link out of it is none.
fn open(folder: BorrowedFd<'_>, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(open_beneath(folder, path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file")),
    }
}

pub(super) fn failed(operation: &str, path: &Path, error: io::Error) -> Error {
    Error::new(yare_errdefs::class_of_io(&error), format!("cannot {operation} {}", path.display()))
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(folder: &Folder, bytes: &[u8]) -> Descriptor {
        let file = folder.blobs.join(format!("{UNFINISHED}{}", bytes.len()));
        std::fs::write(&file, bytes).unwrap();
        let blob = Descriptor::of("application/octet-stream", bytes);
        folder.put(&blob, &file).unwrap();
        blob
    }

    fn publish(folder: &Folder, layers: &[&Descriptor]) -> Descriptor {
        let config = put(folder, format!("{{\"of\":\"{}\"}}", folder.tag).as_bytes());
        let text = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": layers }).to_string();
        let manifest = Descriptor::of(MediaType::OCI_MANIFEST, text.as_bytes());
        folder.publish(&manifest, text.as_bytes()).unwrap();
        manifest
    }

    #[test]
    fn what_no_tag_leads_to_goes_when_the_folder_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        let create = |tag: &str| Folder::create(root.path(), tag, &Cancel::default()).unwrap();
        let one = create("one");
        let (a, b) = (put(&one, b"a of one"), put(&one, b"shared by both"));
        publish(&one, &[&a, &b]);
        drop(one);
        let two = create("two");
        let c = put(&two, b"c of the other tag");
        publish(&two, &[&b, &c]);
        assert!([&a, &b, &c].into_iter().all(|blob| two.has(blob).unwrap()));
        drop(two);
        std::fs::write(root.path().join("blobs/sha256").join(format!("{UNFINISHED}x")), b"x").unwrap();
        let one = create("one");
        let d = put(&one, b"d, the new one");
        publish(&one, &[&d]);
        assert!(!one.has(&a).unwrap(), "nothing leads to it");
        assert!([&b, &c, &d].into_iter().all(|blob| one.has(blob).unwrap()), "the other tag's stay");
        let names = std::fs::read_dir(root.path().join("blobs/sha256")).unwrap();
        assert_eq!(names.count(), 3 + 2 * 2, "three layers, and two manifests with their configs");
    }

    #[test]
    fn two_writers_come_one_after_the_other() {
        let root = tempfile::tempdir().unwrap();
        let first = Folder::create(root.path(), "t", &Cancel::default()).unwrap();
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(Folder::create(root.path(), "t", &cancel).is_err(), "it waits, and the build is ended");
        drop(first);
        assert!(Folder::create(root.path(), "t", &cancel).is_ok());
    }

    #[test]
    fn an_index_that_cannot_be_read_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("index.json"), "{").unwrap();
        let folder = Folder::create(root.path(), "t", &Cancel::default()).unwrap();
        let manifest = Descriptor::of(MediaType::OCI_MANIFEST, b"{}");
        let error = folder.publish(&manifest, b"{}").unwrap_err();
        assert!(error.to_string().contains("index.json of the build cache cannot be read"), "{error}");
        assert_eq!(std::fs::read(root.path().join("index.json")).unwrap(), b"{");
    }
}
