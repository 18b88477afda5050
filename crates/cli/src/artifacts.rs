//! Artifacts: files in the form of images, kept apart from the engine's images.
//!
//! # On disk
//!
//! `$XDG_DATA_HOME/yare/artifacts` (beneath `~/.local/share` when not set) is an OCI image layout, version
//! 1.0.0, which other tools read, too:
//!
//! ```text
//! oci-layout, index.json      names are in the annotation org.opencontainers.image.ref.name
//! blobs/sha256/<64 hex>       manifests, and the content of files
//! lock                        held while something changes
//! ```
//!
//! A blob is written under another name and gets its own when its digest is right; the index is replaced as a
//! whole, after the blobs. What broke off before that goes with the next removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use yare_oci::{Descriptor, Digest, Hasher, Index, Manifest, MediaType, Reference};
use yare_sys::fs::Durability;

use crate::context::Environment;
use crate::failure::Failure;

/// The annotation of an entry that is its name.
const NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of a layer that is the name of its file.
pub(crate) const TITLE: &str = "org.opencontainers.image.title";
/// The type and content of a config that says nothing.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
/// The type of a file of which nothing is known.
const FILE_TYPE: &str = "application/octet-stream";
/// The largest index or manifest, in bytes.
const LARGEST: u64 = 8 << 20;
/// The most files of an artifact.
const FILES: usize = 1000;
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// The artifacts of a user.
#[derive(Debug)]
pub(crate) struct Artifacts {
    root: PathBuf,
}

/// The right to change something.
#[derive(Debug)]
pub(crate) struct Writing<'a> {
    artifacts: &'a Artifacts,
    _lock: File,
}

/// An artifact with its name.
#[derive(Debug)]
pub(crate) struct Artifact {
    /// Its full name.
    pub name: String,
    /// Its manifest.
    pub descriptor: Descriptor,
    /// The same, as bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
}

impl Artifact {
    /// What kind of artifact it is.
    pub(crate) fn kind(&self) -> &str {
        self.manifest.artifact_type.as_deref().unwrap_or(&self.manifest.config.media_type)
    }

    /// The bytes of its files.
    pub(crate) fn size(&self) -> u64 {
        self.manifest.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add)
    }

    /// All blobs that it needs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifest.layers.iter().chain([&self.manifest.config])
    }
}

/// What to make an artifact of.
#[derive(Debug, Default)]
pub(crate) struct Making {
    /// Its kind.
    pub kind: String,
    /// The type of its files; found out when empty.
    pub file_kind: String,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
}

/// The manifest, in the member order of the specification.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    schema_version: u32,
    media_type: &'static str,
    artifact_type: &'a str,
    config: Descriptor,
    layers: &'a [Descriptor],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

impl Artifacts {
    /// Those of the user that the environment tells of.
    pub(crate) fn of(environment: &Environment) -> Self {
        let home = PathBuf::from(environment.nonempty("HOME").unwrap_or_else(|| "/".to_owned()));
        let data = environment.nonempty("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        Self { root: data.unwrap_or_else(|| home.join(".local/share")).join("yare/artifacts") }
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Result<Vec<Artifact>, Failure> {
        let mut found = Vec::new();
        for entry in self.index()?.manifests {
            let Some(name) = entry.annotations.get(NAME).cloned() else { continue };
            found.push(self.open(name, entry)?);
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// One of them, by name or by at least twelve digits of its digest.
    pub(crate) fn find(&self, name: &str) -> Result<Artifact, Failure> {
        let full = Reference::parse(name).map(|reference| reference.or_latest().to_string());
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let is_meant = |artifact: &Artifact| {
            full.as_deref().is_ok_and(|full| full == artifact.name)
                || (hex.len() >= 12 && artifact.descriptor.digest.hex().starts_with(hex))
        };
        let found = self.list()?.into_iter().find(is_meant);
        found.ok_or_else(|| Failure::new(format!("no such artifact: {name}")))
    }

    /// The file with a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    /// Makes the layout when there is none, and waits until nobody else changes it.
    pub(crate) fn write(&self) -> Result<Writing<'_>, Failure> {
        let failed = |error: std::io::Error| self.failed("write", &self.root, &error);
        let blobs = self.root.join("blobs/sha256");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&blobs).map_err(failed)?;
        let mut options = File::options();
        let lock = options.write(true).create(true).truncate(false).mode(0o600).open(self.root.join("lock"));
        let lock = lock.map_err(failed)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
        if !self.root.join("oci-layout").exists() {
            let text = br#"{"imageLayoutVersion":"1.0.0"}"#;
            yare_sys::fs::atomic_write(&*self.root, "oci-layout", text, Durability::Synced)
                .map_err(failed)?;
        }
        Ok(Writing { artifacts: self, _lock: lock })
    }

    fn open(&self, name: String, descriptor: Descriptor) -> Result<Artifact, Failure> {
        let path = self.blob(&descriptor.digest);
        let bytes = read(&path).map_err(|error| self.failed("read", &path, &error))?;
        let manifest = parse(&name, &bytes)?;
        Ok(Artifact { name, descriptor, bytes, manifest })
    }

    fn index(&self) -> Result<Index, Failure> {
        let path = self.root.join("index.json");
        match read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Failure::new(format!("{} is no index: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Index {
                schema_version: 2,
                media_type: MediaType::OCI_INDEX.to_owned(),
                manifests: Vec::new(),
                annotations: BTreeMap::new(),
            }),
            Err(error) => Err(self.failed("read", &path, &error)),
        }
    }

    fn failed(&self, what: &str, path: &Path, error: &std::io::Error) -> Failure {
        Failure::new(format!("cannot {what} {}: {error}", path.display()))
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(std::io::Error::other(format!("more than {LARGEST} bytes")));
    }
    Ok(bytes)
}

/// Reads the manifest of an artifact.
pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Manifest, Failure> {
    let manifest: Manifest = serde_json::from_slice(bytes)
        .map_err(|error| Failure::new(format!("the manifest of {name} is not understood: {error}")))?;
    if manifest.layers.len() > FILES {
        return Err(Failure::new(format!("{name} has more than {FILES} files")));
    }
    Ok(manifest)
}

/// The name that a layer's file may have. It comes from a registry: one name, and no way out of the folder.
pub(crate) fn file_name(layer: &Descriptor) -> Result<String, Failure> {
    let Some(title) = layer.annotations.get(TITLE) else { return Ok(layer.digest.hex().to_owned()) };
    let is_plain = !title.is_empty() && title.len() <= 255 && !title.contains(['/', '\0']);
    if !is_plain || matches!(title.as_str(), "." | "..") {
        return Err(Failure::new(format!("{title:?} is no name for a file in a folder")));
    }
    Ok(title.clone())
}

/// A blob that is being written.
#[derive(Debug)]
pub(crate) struct Draft {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size: u64,
}

impl Draft {
    /// Adds bytes.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        let written = self.file.write_all(bytes);
        written.map_err(|error| Failure::new(format!("cannot write {}: {error}", self.path.display())))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // One that became a blob has no file of this name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Writing<'_> {
    /// Whether a blob is here.
    pub(crate) fn has(&self, blob: &Descriptor) -> bool {
        std::fs::metadata(self.artifacts.blob(&blob.digest)).is_ok_and(|file| file.len() == blob.size)
    }

    /// Begins a blob.
    pub(crate) fn draft(&self) -> Result<Draft, Failure> {
        let path = self.artifacts.root.join("blobs").join(yare_sys::fs::unique_name(".tmp-"));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| self.artifacts.failed("write", &path, &error))?;
        Ok(Draft { file, path, hasher: Hasher::new(), size: 0 })
    }

    /// Makes a draft the blob that it is.
    pub(crate) fn finish(&self, mut draft: Draft) -> Result<(Digest, u64), Failure> {
        let digest = std::mem::take(&mut draft.hasher).finish();
        let path = self.artifacts.blob(&digest);
        let placed = draft.file.sync_all().and_then(|()| std::fs::rename(&draft.path, &path));
        placed.map_err(|error| self.artifacts.failed("write", &path, &error))?;
        Ok((digest, draft.size))
    }

    fn put(&self, bytes: &[u8]) -> Result<Digest, Failure> {
        let mut draft = self.draft()?;
        draft.append(bytes)?;
        Ok(self.finish(draft)?.0)
    }

    /// Makes an artifact of files. ● The index is the commit point.
    pub(crate) fn add(&self, name: &str, files: &[PathBuf], making: &Making) -> Result<Digest, Failure> {
        if files.len() > FILES {
            return Err(Failure::new(format!("an artifact has at most {FILES} files")));
        }
        let mut layers = Vec::new();
        let mut titles = BTreeSet::new();
        for path in files {
            let layer = self.add_file(path, &making.file_kind)?;
            if !titles.insert(layer.annotations.get(TITLE).cloned()) {
                return Err(Failure::new(format!("two files have the name of {}", path.display())));
            }
            layers.push(layer);
        }
        self.put(EMPTY)?;
        let written = Written {
            schema_version: 2,
            media_type: MediaType::OCI_MANIFEST,
            artifact_type: &making.kind,
            config: Descriptor::of(EMPTY_TYPE, EMPTY),
            layers: &layers,
            annotations: &making.annotations,
        };
        let bytes = serde_json::to_vec(&written).map_err(|error| Failure::new(error.to_string()))?;
        self.name(name, MediaType::OCI_MANIFEST, &bytes)
    }

    fn add_file(&self, path: &Path, kind: &str) -> Result<Descriptor, Failure> {
        let failed = |error: std::io::Error| self.artifacts.failed("read", path, &error);
        let mut file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(Failure::new(format!("{} is no regular file", path.display())));
        }
        let title = path.file_name().and_then(|name| name.to_str());
        let title =
            title.ok_or_else(|| Failure::new(format!("the name of {} is not UTF-8", path.display())))?;
        let mut draft = self.draft()?;
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece).map_err(failed)? {
                0 => break,
                count => draft.append(piece.get(..count).unwrap_or_default())?,
            }
        }
        let (digest, size) = self.finish(draft)?;
        let kind = if kind.is_empty() { FILE_TYPE } else { kind };
        let mut layer = Descriptor::new(kind, digest, size);
        layer.annotations.insert(TITLE.to_owned(), title.to_owned());
        Ok(layer)
    }

    /// Stores a manifest whose blobs are here and gives it its name, which another one loses. ● The index is
    /// the commit point.
    pub(crate) fn name(&self, name: &str, media_type: &str, bytes: &[u8]) -> Result<Digest, Failure> {
        let digest = self.put(bytes)?;
        let mut index = self.artifacts.index()?;
        index.manifests.retain(|entry| entry.annotations.get(NAME).is_none_or(|known| known != name));
        let mut entry = Descriptor::new(media_type, digest, bytes.len() as u64);
        entry.artifact_type = parse(name, bytes)?.artifact_type;
        entry.annotations.insert(NAME.to_owned(), name.to_owned());
        index.manifests.push(entry);
        self.replace(&index)?;
        Ok(digest)
    }

    fn replace(&self, index: &Index) -> Result<(), Failure> {
        let root = &self.artifacts.root;
        let failed = |error: std::io::Error| self.artifacts.failed("write", &root.join("index.json"), &error);
        let bytes = serde_json::to_vec(index).map_err(std::io::Error::from).map_err(failed)?;
        yare_sys::fs::atomic_write(&**root, "index.json", &bytes, Durability::Synced).map_err(failed)
    }

    /// Takes the name from an artifact, and every blob that no other needs.
    pub(crate) fn remove(&self, name: &str) -> Result<Digest, Failure> {
        let gone = self.artifacts.find(name)?;
        let mut index = self.artifacts.index()?;
        index.manifests.retain(|entry| entry.annotations.get(NAME) != Some(&gone.name));
        self.replace(&index)?;
        self.sweep()?;
        Ok(gone.descriptor.digest)
    }

    fn sweep(&self) -> Result<(), Failure> {
        let mut needed = BTreeSet::new();
        for artifact in self.artifacts.list()? {
            needed.insert(artifact.descriptor.digest.hex().to_owned());
            needed.extend(artifact.blobs().map(|blob| blob.digest.hex().to_owned()));
        }
        let blobs = self.artifacts.root.join("blobs");
        for folder in [blobs.clone(), blobs.join("sha256")] {
            let failed = |error: std::io::Error| self.artifacts.failed("list", &folder, &error);
            for entry in std::fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let is_file = entry.file_type().map_err(failed)?.is_file();
                if is_file && !needed.contains(&*entry.file_name().to_string_lossy()) {
                    std::fs::remove_file(entry.path()).map_err(failed)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifacts(home: &Path) -> Artifacts {
        let home = home.to_owned();
        Artifacts::of(&Environment::new(move |name| (name == "HOME").then(|| home.clone().into())))
    }

    #[test]
    fn what_is_added_is_listed_found_and_removed_with_its_blobs() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (home.path().join("one.txt"), home.path().join("two.txt"));
        std::fs::write(&one, "shared").unwrap();
        std::fs::write(&two, "own").unwrap();
        let artifacts = artifacts(home.path());
        assert!(artifacts.list().unwrap().is_empty());
        let making = Making { kind: "application/x.test".to_owned(), ..Making::default() };
        let writing = artifacts.write().unwrap();
        let name = "r.example/a:v1";
        let digest = writing.add(name, &[one.clone(), two.clone()], &making).unwrap();
        let other = writing.add("r.example/b:v1", std::slice::from_ref(&one), &making).unwrap();
        assert_ne!(other, digest);
        // The same files make the same artifact.
        assert_eq!(writing.add(name, &[one, two], &making).unwrap(), digest);
        let found = artifacts.find(&digest.hex()[..12]).unwrap();
        assert_eq!((found.name.as_str(), found.kind(), found.size()), (name, "application/x.test", 9));
        assert_eq!(artifacts.list().unwrap().len(), 2);
        assert_eq!(writing.remove(name).unwrap(), digest);
        assert!(artifacts.find(name).is_err());
        assert!(
            !artifacts.blob(&Digest::of("own")).exists() && artifacts.blob(&Digest::of("shared")).exists()
        );
    }

    #[test]
    fn names_of_files_stay_in_their_folder() {
        let named = |title: &str| {
            let mut layer = Descriptor::of("x", b"x");
            layer.annotations.insert(TITLE.to_owned(), title.to_owned());
            file_name(&layer)
        };
        assert_eq!(named("a.txt").unwrap(), "a.txt");
        for bad in ["", ".", "..", "a/b", "/etc/passwd", "a\0b", &"x".repeat(256)] {
            assert!(named(bad).is_err(), "{bad}");
        }
        assert_eq!(file_name(&Descriptor::of("x", b"x")).unwrap(), Digest::of("x").hex());
    }
}
