use crate::{Error, Ingest, Partial, Result, partial};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;
use yare_oci::{Digest, Hasher};
use yare_sys::fs as files;

/// The most bytes of a manifest, index or config that are read into memory: 8 MiB.
pub const DOCUMENT_LIMIT: u64 = 8 << 20;

/// A folder of blobs. One process opens it at a time; within it, share it freely.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    blobs: PathBuf,
    recipes: PathBuf,
    ingests: PathBuf,
    partials: PathBuf,
    /// Held while one is opened or looked at for its age: none that is about to be used is swept.
    opening: Mutex<()>,
}

/// What is known of the recipe of a blob.
#[derive(Debug)]
pub enum Recipe {
    /// Nobody tried to write one.
    Unknown,
    /// There is none: the blob itself has to stay.
    None,
    /// This makes the blob again.
    Some(File),
}

impl Store {
    /// Opens the store below `root`, making it when missing, and sweeps what an earlier process left
    /// unfinished.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self {
            root: root.to_owned(),
            blobs: root.join("blobs/sha256"),
            recipes: root.join("recipes"),
            ingests: root.join("ingest"),
            partials: root.join("partial"),
            opening: Mutex::default(),
        };
        let blobs = root.join("blobs");
        for dir in [root, &blobs, &store.blobs, &store.recipes, &store.ingests, &store.partials] {
            make_private_dir(dir)?;
        }
        for name in names(&store.ingests)? {
            let path = store.ingests.join(&name);
            files::remove_tree(&path).map_err(|error| Error::io("sweep", &path, error))?;
        }
        store.sweep_partials(SystemTime::now())?;
        Ok(store)
    }

    /// Removes what is there of blobs whose fetching broke off too long before `now`; how many they were.
    pub fn sweep_partials(&self, now: SystemTime) -> Result<usize> {
        let mut swept = 0;
        for name in names(&self.partials)? {
            let path = self.partials.join(&name);
            let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            let is_stale = path.symlink_metadata().is_ok_and(|metadata| partial::is_stale(&metadata, now));
            if is_stale || Digest::from_hex(&name).is_err() {
                files::remove_tree(&path).map_err(|error| Error::io("sweep", &path, error))?;
                swept += 1;
            }
        }
        Ok(swept)
    }

    /// Goes on with fetching a blob, or begins to. See [`Partial`].
    pub fn partial(&self, digest: &Digest) -> Result<Partial> {
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        Partial::open(self.partials.join(partial::name(digest)), self.path(digest))
    }

    /// Whether some of a blob was fetched.
    pub fn has_partial(&self, digest: &Digest) -> bool {
        rustix::fs::lstat(self.partials.join(partial::name(digest))).is_ok()
    }

    /// Starts a new blob.
    pub fn ingest(&self) -> Result<Ingest> {
        Ingest::create(self.ingests.join(files::unique_name("i-")), self.blobs.clone())
    }

    /// Stores these bytes. Durable after the next [`Store::sync`].
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let mut ingest = self.ingest()?;
        ingest.write_all(bytes).map_err(|error| Error::io("write", &self.ingests, error))?;
        Ok(ingest.commit(None, None)?.0)
    }

    /// Takes over a finished file of the same file system, whose bytes the caller hashed to `digest`: one
    /// `rename`. An equal blob that was there is replaced. The caller made the bytes durable if it must;
    /// the name is so after [`Store::sync_names`].
    pub fn place(&self, file: &Path, digest: &Digest) -> Result<()> {
        let target = self.path(digest);
        rustix::fs::rename(file, &target).map_err(|error| Error::io("place", &target, error))
    }

    /// Puts a recipe, by which its writer can make the blob again, in the place of the blob. Both are there for
    /// a moment, never neither, power cuts included. An empty recipe says that there is none, and the blob
    /// stays.
    pub fn place_recipe(&self, digest: &Digest, recipe: Ingest) -> Result<()> {
        let (target, is_one) = (self.recipe_path(digest), recipe.size() > 0);
        recipe.place(&target, is_one)?;
        if is_one {
            files::sync_dir(&self.recipes).map_err(|error| Error::io("sync", &self.recipes, error))?;
            self.unlink(&self.path(digest))?;
        }
        Ok(())
    }

    /// What is known of the recipe of a blob.
    pub fn recipe(&self, digest: &Digest) -> Result<Recipe> {
        let path = self.recipe_path(digest);
        let file =
            match rustix::fs::open(&path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            {
                Ok(file) => File::from(file),
                Err(Errno::NOENT) => return Ok(Recipe::Unknown),
                Err(error) => return Err(Error::io("open", &path, error)),
            };
        let size = file.metadata().map_err(|error| Error::io("stat", &path, error))?.len();
        Ok(if size > 0 { Recipe::Some(file) } else { Recipe::None })
    }

    /// Removes the blob of which there is a recipe, too.
    pub fn drop_blob(&self, digest: &Digest) -> Result<()> {
        match self.recipe(digest)? {
            Recipe::Some(_) => self.unlink(&self.path(digest)),
            Recipe::None | Recipe::Unknown => Ok(()),
        }
    }

    /// As [`Store::place`], for a file that stays where it is: the blob is another name of it, or a copy where
    /// it is on another file system.
    pub fn adopt(&self, file: &File, digest: &Digest) -> Result<()> {
        let name = self.ingests.join(files::unique_name("a-"));
        let opened = files::proc_path(file.as_fd());
        match rustix::fs::linkat(CWD, &opened, CWD, &name, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => {
                let placed = self.place(&name, digest);
                // A rename does nothing when both are names of the same file already.
                match rustix::fs::unlink(&name) {
                    Ok(()) | Err(Errno::NOENT) => placed,
                    Err(error) => placed.and(Err(Error::io("remove", &name, error))),
                }
            }
            Err(Errno::XDEV | Errno::NOENT) => {
                let mut ingest = self.ingest()?;
                let failed = |error| Error::io("copy to", &name, error);
                let mut source = File::open(&opened).map_err(failed)?;
                std::io::copy(&mut source, &mut ingest).map_err(failed)?;
                ingest.commit(Some(*digest), None).map(drop)
            }
            Err(error) => Err(Error::io("link", &name, error)),
        }
    }

    /// Moves the blob's file to `target`, on the same file system; one that is not there is no error. The
    /// counterpart of [`Store::place`], for whoever must not wait until a large file is unlinked.
    pub fn take_out(&self, digest: &Digest, target: &Path) -> Result<()> {
        let path = self.path(digest);
        match rustix::fs::rename(&path, target) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("take out", &path, error)),
        }
    }

    /// Makes the names of all blobs that were placed, taken out or deleted so far durable: one `fsync`.
    pub fn sync_names(&self) -> Result<()> {
        files::sync_dir(&self.blobs).map_err(|error| Error::io("sync", &self.blobs, error))
    }

    /// The bytes of a document of at most [`DOCUMENT_LIMIT`], verified against the digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.read_at_most(digest, DOCUMENT_LIMIT)
    }

    /// As [`Store::read`] with another limit, in bytes.
    pub fn read_at_most(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let file = self.open_blob(digest)?;
        let failed = |error| Error::io("read", &path, error);
        let size = file.metadata().map_err(failed)?.len();
        if size > limit {
            return Err(Error::TooLarge { digest: *digest, size, limit });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        if Digest::of(&bytes) != *digest {
            return Err(Error::Damaged(*digest));
        }
        Ok(bytes)
    }

    /// Opens a blob for reading. Its bytes are not verified again.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.path(digest);
        match rustix::fs::open(&path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => Ok(file.into()),
            Err(Errno::NOENT) => Err(Error::NotFound(*digest)),
            Err(error) => Err(Error::io("open", &path, error)),
        }
    }

    /// Hashes a stored blob again; [`Error::Damaged`] when it is not what its name says.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let (path, mut file) = (self.path(digest), self.open_blob(digest)?);
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer).map_err(|error| Error::io("read", &path, error))? {
                0 => break,
                count => hasher.update(buffer.get(..count).unwrap_or_default()),
            }
        }
        if hasher.finish() == *digest { Ok(()) } else { Err(Error::Damaged(*digest)) }
    }

    /// Whether the store has the blob.
    pub fn contains(&self, digest: &Digest) -> bool {
        rustix::fs::lstat(self.path(digest)).is_ok()
    }

    /// The length of the blob, in bytes.
    pub fn size(&self, digest: &Digest) -> Result<u64> {
        let path = self.path(digest);
        match rustix::fs::lstat(&path) {
            Ok(stat) => Ok(u64::try_from(stat.st_size).unwrap_or_default()),
            Err(Errno::NOENT) => Err(Error::NotFound(*digest)),
            Err(error) => Err(Error::io("stat", &path, error)),
        }
    }

    /// Bytes that the blob takes on the disk, it or its recipe; 0 when there is neither.
    pub fn disk_size(&self, digest: &Digest) -> u64 {
        let size = |path| rustix::fs::lstat(&path).map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        size(self.path(digest)) + size(self.recipe_path(digest))
    }

    /// Removes the blob and its recipe; one that is not there is no error.
    pub fn delete(&self, digest: &Digest) -> Result<()> {
        self.unlink(&self.path(digest))?;
        self.unlink(&self.recipe_path(digest))
    }

    fn unlink(&self, path: &Path) -> Result<()> {
        match rustix::fs::unlink(path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(Error::io("remove", path, error)),
        }
    }

    /// All blobs, those that are there as recipes included, sorted. Names that are no digest are passed over.
    pub fn list(&self) -> Result<Vec<Digest>> {
        let names = [names(&self.blobs)?, names(&self.recipes)?].concat();
        let mut found: Vec<Digest> = names.iter().filter_map(|name| Digest::from_hex(name).ok()).collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Makes everything that was committed so far durable: one `syncfs`.
    pub fn sync(&self) -> Result<()> {
        files::syncfs(&self.root).map_err(|error| Error::io("sync", &self.root, error))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    fn recipe_path(&self, digest: &Digest) -> PathBuf {
        self.recipes.join(digest.hex())
    }
}

fn make_private_dir(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(Error::io("make the directory", path, error)),
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let failed = |error: std::io::Error| Error::io("list", dir, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            found.push(name);
        }
    }
    Ok(found)
}
