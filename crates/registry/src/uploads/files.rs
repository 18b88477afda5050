//! Uploads as files, which survive a lost connection and the end of the process.
//!
//! # Format, version 1
//!
//! ```text
//! <root>/uploads/<id>        the bytes so far; their number is where the upload goes on
//! <root>/uploads/<id>.json   {"repository": "team/app", "started": 1760000000}
//! ```
//!
//! Nothing is synced before an upload is finished: after a power cut an unfinished one may have lost bytes,
//! and its digest tells. The hash is kept while the process lives and made again from the file afterwards.
//! What nobody wrote to for a while is swept. In memory there are as many uploads as may be written to at a
//! time: of those that lie still, the one that was used longest ago is forgotten first, and found again on the
//! disk when somebody asks for it.

use super::{Limits, is_id, mismatch, random_id, unknown};
use crate::problem::{Code, Refusal, Result, file_error};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use yare_oci::{ContentDigest, Digest, Hasher};
use yare_sys::fs::Durability;

/// All uploads below a folder.
#[derive(Debug)]
pub(crate) struct Uploads {
    folder: PathBuf,
    limits: Limits,
    open: Mutex<HashMap<String, Arc<Upload>>>,
    /// Who writes has one: an upload that lies still keeps nobody out.
    places: Arc<Semaphore>,
    /// Counts the uses of uploads, so that one can tell which was used last.
    uses: AtomicU64,
}

/// An upload that this process has seen.
#[derive(Debug)]
pub(crate) struct Upload {
    /// Its id.
    pub(crate) id: String,
    /// Where its blob is to go.
    pub(crate) repository: String,
    offset: AtomicU64,
    /// The number of its last use.
    used: AtomicU64,
    /// Who holds it writes.
    session: Arc<tokio::sync::Mutex<Session>>,
}

impl Upload {
    /// How many bytes there are.
    pub(crate) fn offset(&self) -> u64 {
        self.offset.load(Ordering::Acquire)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Sidecar {
    repository: String,
    started: u64,
}

/// The right to write to an upload.
#[derive(Debug)]
pub(crate) struct Writer {
    upload: Arc<Upload>,
    session: tokio::sync::OwnedMutexGuard<Session>,
    limits: Limits,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Session {
    file: File,
    path: PathBuf,
    size: u64,
    /// `None` after a restart, until the bytes on the disk were hashed again.
    hasher: Option<Hasher>,
}

/// How long a second writer waits for the first one, whose connection may be about to be noticed as lost.
const PATIENCE: Duration = Duration::from_secs(10);

impl Uploads {
    /// Uploads below `root`.
    pub(crate) fn open(root: &Path, limits: Limits) -> Result<Self> {
        let folder = root.join("uploads");
        match rustix::fs::mkdir(&folder, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(file_error("make the folder", &folder, error)),
        }
        let places = Arc::new(Semaphore::new(limits.uploads.min(Semaphore::MAX_PERMITS)));
        Ok(Self { folder, limits, open: Mutex::default(), places, uses: AtomicU64::new(0) })
    }

    /// Begins an upload.
    pub(crate) fn start(&self, repository: &str, now: u64) -> Result<Arc<Upload>> {
        let id = random_id()?;
        let path = self.folder.join(&id);
        let sidecar = serde_json::to_vec(&Sidecar { repository: repository.to_owned(), started: now })?;
        yare_sys::fs::atomic_write(&self.folder, format!("{id}.json"), &sidecar, Durability::Relaxed)
            .map_err(|error| file_error("note the upload", &path, error))?;
        let file = open_file(&path, OFlags::CREATE | OFlags::EXCL)
            .map_err(|error| file_error("create", &path, error))?;
        Ok(self.enter(
            id,
            repository.to_owned(),
            Session { file, path, size: 0, hasher: Some(Hasher::new()) },
        ))
    }

    fn enter(&self, id: String, repository: String, session: Session) -> Arc<Upload> {
        let mut open = self.open.lock();
        if open.len() >= self.limits.uploads {
            forget_idle(&mut open);
        }
        let upload = Upload {
            id: id.clone(),
            repository,
            offset: AtomicU64::new(session.size),
            used: AtomicU64::new(self.uses.fetch_add(1, Ordering::Relaxed)),
            session: Arc::new(tokio::sync::Mutex::new(session)),
        };
        // Two requests may both have found it on the disk: they must share one lock.
        Arc::clone(open.entry(id).or_insert_with(|| Arc::new(upload)))
    }

    /// Finds an upload of the repository, also one of an earlier process.
    pub(crate) fn find(&self, repository: &str, id: &str) -> Result<Arc<Upload>> {
        if !is_id(id) {
            return Err(unknown(id).into());
        }
        let known = self.open.lock().get(id).cloned();
        let upload = match known {
            Some(upload) => upload,
            None => self.revive(id)?,
        };
        if upload.repository != repository {
            return Err(unknown(id).into());
        }
        upload.used.store(self.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Ok(upload)
    }

    fn revive(&self, id: &str) -> Result<Arc<Upload>> {
        let (path, sidecar) = (self.folder.join(id), self.folder.join(format!("{id}.json")));
        let text = match std::fs::read(&sidecar) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(unknown(id).into()),
            Err(error) => return Err(file_error("read", &sidecar, error)),
        };
        let Ok(noted) = serde_json::from_slice::<Sidecar>(&text) else { return Err(unknown(id).into()) };
        let file = match open_file(&path, OFlags::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Err(unknown(id).into()),
            Err(error) => return Err(file_error("open", &path, error)),
        };
        let size = file.metadata().map_err(|error| file_error("read the size of", &path, error))?.len();
        let hasher = (size == 0).then(Hasher::new);
        Ok(self.enter(id.to_owned(), noted.repository, Session { file, path, size, hasher }))
    }

    /// Takes the right to write; one at a time has it.
    pub(crate) async fn writer(&self, upload: &Arc<Upload>) -> Result<Writer> {
        let session = Arc::clone(&upload.session).lock_owned();
        let Ok(session) = tokio::time::timeout(PATIENCE, session).await else {
            let message =
                "another request is writing to this upload; ask for its status and go on from there";
            return Err(Refusal::new(Code::BlobUploadInvalid, message)
                .with_status(http::StatusCode::CONFLICT)
                .into());
        };
        // It may have been finished or cancelled meanwhile.
        if !self.open.lock().get(&upload.id).is_some_and(|current| Arc::ptr_eq(current, upload)) {
            return Err(unknown(&upload.id).into());
        }
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| self.limits.too_many())?;
        Ok(Writer { upload: Arc::clone(upload), session, limits: self.limits.clone(), _place: place })
    }

    /// Forgets an upload and removes what is left of it.
    pub(crate) fn discard(&self, writer: &Writer) {
        self.open.lock().remove(&writer.upload.id);
        self.remove_files(&writer.upload.id);
    }

    fn remove_files(&self, id: &str) {
        for path in [self.folder.join(id), self.folder.join(format!("{id}.json"))] {
            match rustix::fs::unlink(&path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => tracing::warn!(path = %path.display(), %error, "an old upload stays"),
            }
        }
    }

    /// How many uploads this process writes to.
    pub(crate) fn count(&self) -> usize {
        self.limits.uploads.saturating_sub(self.places.available_permits())
    }

    /// Removes what nobody wrote to for `age`. Returns how many uploads that were, and their bytes.
    pub(crate) fn sweep(&self, age: Duration, dry_run: bool) -> Result<(u64, u64)> {
        let failed = |error| file_error("list", &self.folder, error);
        let (mut count, mut bytes) = (0, 0);
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(metadata) = entry.metadata() else { continue };
            let idle = metadata.modified().ok().and_then(|modified| modified.elapsed().ok());
            if idle.is_none_or(|idle| idle < age) {
                continue;
            }
            // The bytes stand for the upload; a sidecar or a temporary file goes only without them.
            if !is_id(&name) {
                let is_alone = name.strip_suffix(".json").is_none_or(|id| !self.folder.join(id).exists());
                if is_alone && !dry_run {
                    self.remove_files(&name);
                }
                continue;
            }
            let open = self.open.lock().get(&name).cloned();
            let held = open.map(|upload| Arc::clone(&upload.session).try_lock_owned());
            if matches!(held, Some(Err(_))) {
                continue;
            }
            count += 1;
            bytes += metadata.len();
            if !dry_run {
                self.open.lock().remove(&name);
                self.remove_files(&name);
            }
        }
        Ok((count, bytes))
    }
}

/// Forgets the upload that was used longest ago among those that nobody holds; its bytes stay on the disk.
fn forget_idle(open: &mut HashMap<String, Arc<Upload>>) {
    // Whoever uses one has it from here, under this lock: a count of one says that nobody does.
    let idle = open.values().filter(|upload| Arc::strong_count(upload) == 1);
    let oldest =
        idle.min_by_key(|upload| upload.used.load(Ordering::Relaxed)).map(|upload| upload.id.clone());
    if let Some(id) = oldest {
        open.remove(&id);
    }
}

impl Writer {
    /// How many bytes there are.
    pub(crate) fn size(&self) -> u64 {
        self.session.size
    }

    /// The file with the bytes.
    pub(crate) fn path(&self) -> &Path {
        &self.session.path
    }

    /// Adds bytes. Blocks.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.ready()?;
        let (session, limits) = (&mut *self.session, &self.limits);
        let end = session.size.saturating_add(bytes.len() as u64);
        limits.check(end)?;
        if let Err(error) = write(&session.file, bytes, session.size, limits.reserve) {
            // What was half written must not count after a restart.
            if let Err(error) = session.file.set_len(session.size) {
                tracing::warn!(path = %session.path.display(), %error, "cannot cut a failed write off");
            }
            return Err(file_error("write", &session.path, error));
        }
        if let Some(hasher) = &mut session.hasher {
            hasher.update(bytes);
        }
        session.size = end;
        self.upload.offset.store(end, Ordering::Release);
        Ok(())
    }

    /// Adds all bytes of a file that does not change. Blocks.
    pub(crate) fn append_file(&mut self, file: &File) -> Result<()> {
        let failed = |error| file_error("read", Path::new("a blob of another store"), error);
        let end = file.metadata().map_err(failed)?.len();
        let (mut reader, mut buffer) = (Bounded { file, offset: 0, end }, vec![0; 256 << 10]);
        loop {
            match reader.read(&mut buffer).map_err(failed)? {
                0 => return Ok(()),
                count => self.append(buffer.get(..count).unwrap_or_default())?,
            }
        }
    }

    /// Makes the hash again that an earlier process took with it.
    fn ready(&mut self) -> Result<()> {
        if self.session.hasher.is_none() {
            let mut hasher = Hasher::new();
            self.read(|bytes| hasher.update(bytes))?;
            self.session.hasher = Some(hasher);
        }
        Ok(())
    }

    /// Reads all bytes from the first one.
    fn read(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let session = &*self.session;
        let mut buffer = vec![0; 256 << 10];
        let mut reader = Bounded { file: &session.file, offset: 0, end: session.size };
        loop {
            match reader.read(&mut buffer).map_err(|error| file_error("read", &session.path, error))? {
                0 => return Ok(()),
                count => each(buffer.get(..count).unwrap_or_default()),
            }
        }
    }

    /// Checks the digest and makes the bytes durable; the digest that the records know them by. Blocks.
    pub(crate) fn finish(&mut self, expected: &ContentDigest) -> Result<Digest> {
        self.ready()?;
        let digest = self.session.hasher.clone().unwrap_or_default().finish();
        // Clients say the algorithm with the last request, so that another one than ours reads the bytes again.
        let actual = match expected {
            ContentDigest::Sha256(_) => digest.into(),
            ContentDigest::Sha512(_) => {
                let mut hasher = expected.hasher();
                self.read(|bytes| hasher.update(bytes))?;
                hasher.finish()
            }
        };
        if actual != *expected {
            return Err(mismatch(expected, &actual).into());
        }
        self.session.file.sync_all().map_err(|error| file_error("sync", &self.session.path, error))?;
        Ok(digest)
    }
}

/// Writes bytes, if the file system has room for them beside `reserve`.
pub(super) fn write(file: &File, bytes: &[u8], offset: u64, reserve: u64) -> std::io::Result<()> {
    let space = rustix::fs::fstatvfs(file)?;
    if space.f_bavail.saturating_mul(space.f_frsize) < reserve.saturating_add(bytes.len() as u64) {
        return Err(std::io::ErrorKind::StorageFull.into());
    }
    file.write_all_at(bytes, offset)
}

struct Bounded<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.offset).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(buffer.get_mut(..left).unwrap_or_default(), self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

fn open_file(path: &Path, more: OFlags) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uploads(root: &Path) -> Uploads {
        Uploads::open(root, Limits { blob: 100, reserve: 0, uploads: 2 }).unwrap()
    }

    #[tokio::test]
    async fn an_upload_goes_on_after_a_restart() {
        let root = tempfile::tempdir().unwrap();
        let id = {
            let uploads = uploads(root.path());
            let upload = uploads.start("a/b", 1).unwrap();
            uploads.writer(&upload).await.unwrap().append(b"hel").unwrap();
            upload.id.clone()
        };
        let uploads = uploads(root.path());
        assert!(uploads.find("a/c", &id).is_err(), "ids belong to one repository");
        let upload = uploads.find("a/b", &id).unwrap();
        assert_eq!(upload.offset(), 3);
        let mut writer = uploads.writer(&upload).await.unwrap();
        writer.append(b"lo").unwrap();
        writer.finish(&Digest::of("hello").into()).unwrap();
        assert!(writer.finish(&Digest::of("hullo").into()).is_err());
        uploads.discard(&writer);
        assert!(uploads.find("a/b", &id).is_err());
        assert_eq!(std::fs::read_dir(root.path().join("uploads")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn limits_hold() {
        let root = tempfile::tempdir().unwrap();
        let uploads = uploads(root.path());
        let upload = uploads.start("a", 1).unwrap();
        let mut writer = uploads.writer(&upload).await.unwrap();
        writer.append(&[0; 100]).unwrap();
        assert_eq!(writer.append(b"x").unwrap_err().refusal().status, 413);
        assert_eq!(upload.offset(), 100);
        for id in ["", "..", "../../etc/passwd", &"a".repeat(31), &"A".repeat(32)] {
            assert_eq!(uploads.find("a", id).unwrap_err().refusal().code, Code::BlobUploadUnknown, "{id}");
        }
    }

    #[tokio::test]
    async fn abandoned_uploads_keep_nobody_out() {
        let root = tempfile::tempdir().unwrap();
        let uploads = uploads(root.path());
        let first = uploads.start("a", 1).unwrap();
        uploads.writer(&first).await.unwrap().append(b"hel").unwrap();
        let id = first.id.clone();
        drop(first);
        for _ in 0..10 {
            uploads.start("a", 1).unwrap();
        }
        assert_eq!(uploads.open.lock().len(), 2, "what lies still takes no memory");
        assert_eq!(uploads.count(), 0);
        let first = uploads.find("a", &id).unwrap();
        let mut writer = uploads.writer(&first).await.unwrap();
        writer.append(b"lo").unwrap();
        writer.finish(&Digest::of("hello").into()).unwrap();
        let second = uploads.start("a", 1).unwrap();
        let held = uploads.writer(&second).await.unwrap();
        assert_eq!(uploads.count(), 2);
        let third = uploads.start("a", 1).unwrap();
        let refused = uploads.writer(&third).await.unwrap_err().refusal();
        assert_eq!(refused.code, Code::TooManyRequests, "two are being written to");
        drop(held);
        uploads.writer(&third).await.unwrap();
        assert!(
            uploads.find("a", &id).is_ok_and(|found| Arc::ptr_eq(&found, &first)),
            "one that is used stays"
        );
    }

    #[tokio::test]
    async fn a_full_disk_is_told_and_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let uploads =
            Uploads::open(root.path(), Limits { blob: 100, reserve: u64::MAX, uploads: 2 }).unwrap();
        let upload = uploads.start("a", 1).unwrap();
        let mut writer = uploads.writer(&upload).await.unwrap();
        assert_eq!(writer.append(b"x").unwrap_err().refusal().status, 507);
        assert_eq!(upload.offset(), 0);
    }

    #[tokio::test]
    async fn only_abandoned_uploads_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let uploads = uploads(root.path());
        let upload = uploads.start("a", 1).unwrap();
        uploads.writer(&upload).await.unwrap().append(b"abc").unwrap();
        assert_eq!(uploads.sweep(Duration::from_secs(60), false).unwrap(), (0, 0));
        let writer = uploads.writer(&upload).await.unwrap();
        assert_eq!(uploads.sweep(Duration::ZERO, false).unwrap(), (0, 0), "it is being written to");
        drop(writer);
        assert_eq!(uploads.sweep(Duration::ZERO, true).unwrap(), (1, 3));
        assert_eq!(uploads.sweep(Duration::ZERO, false).unwrap(), (1, 3));
        assert!(uploads.find("a", &upload.id).is_err());
    }
}
