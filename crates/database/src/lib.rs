//! A database file of records, as the engine, the image store and the registry have one.
//!
//! redb refuses everything after one write has failed, until the file is opened anew: a disk that was full for
//! a moment would stay so for good. Here a write that fails for such a reason opens it anew behind itself.
//!
//! A removal too writes before it frees anything. So that it can on a disk without a free byte, there is a file
//! `<database>.reserve` beside the database, which is given up then and taken again when there is room.

use parking_lot::RwLock;
use redb::{Error, ReadTransaction, ReadableDatabase, TableDefinition};
use rustix::fs::{FallocateFlags, Mode, OFlags};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of the reserve: a transaction that removes a record writes some 20 pages of 4 KiB.
const RESERVE: u64 = 512 << 10;

/// An open database file. It may be shared between threads.
pub struct Database {
    path: PathBuf,
    /// Bytes of redb's page cache.
    cache: usize,
    /// `None` after it could not be opened anew; the next use tries again.
    current: RwLock<Option<redb::Database>>,
    /// Whether the reserve is there.
    reserved: AtomicBool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Database {
    /// Opens or makes the file, with this many bytes of page cache.
    ///
    /// # Errors
    /// It cannot be opened, is no database, or another process has it.
    pub fn open(path: &Path, cache: usize) -> Result<Self, Error> {
        let current = RwLock::new(Some(open(path, cache)?));
        let database = Self { path: path.to_owned(), cache, current, reserved: AtomicBool::new(false) };
        database.reserve();
        Ok(database)
    }

    /// Begins to read: a consistent view of everything. While one lives, the file cannot be opened anew.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn view(&self) -> Result<ReadTransaction, Error> {
        self.transact(|database| Ok(database.begin_read()?))
    }

    /// Does work that is one transaction at most. Work that is refused because of a failure before it is done
    /// again, on the file opened anew: redb repairs it then, where that is needed.
    ///
    /// # Errors
    /// Those of the work, or the file cannot be opened anew. What the work wrote is not in the file then.
    pub fn transact<T>(&self, work: impl Fn(&redb::Database) -> Result<T, Error>) -> Result<T, Error> {
        let mut outcome = self.attempt(&work);
        // What redb calls damage may be its own memory of the file, which a write that failed has spoilt.
        if matches!(outcome, Err(Error::PreviousIo | Error::Corrupted(_))) {
            self.reopen()?;
            outcome = self.attempt(&work);
        }
        self.settled(outcome)
    }

    /// The number under `format` in a table of somebody's own facts about their tables; `None` when they have
    /// not been made yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn format(&self, facts: TableDefinition<'_, &str, u64>) -> Result<Option<u64>, Error> {
        self.transact(|database| match database.begin_read()?.open_table(facts) {
            Ok(table) => Ok(table.get("format")?.map(|value| value.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    /// As [`Database::transact`], for work after which something can be deleted: on a full disk it may use the
    /// reserve.
    ///
    /// # Errors
    /// As there.
    pub fn transact_to_free<T>(
        &self,
        work: impl Fn(&redb::Database) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.transact(&work) {
            Err(Error::Io(error))
                if error.kind() == std::io::ErrorKind::StorageFull && self.give_up_reserve() =>
            {
                self.transact(work)
            }
            outcome => outcome,
        }
    }

    fn reserve_path(&self) -> PathBuf {
        let mut path = self.path.as_os_str().to_owned();
        path.push(".reserve");
        path.into()
    }

    /// Takes the reserve where there is room and the filesystem can.
    fn reserve(&self) {
        let take = || -> rustix::io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(self.reserve_path(), flags, Mode::RUSR | Mode::WUSR)?;
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, RESERVE)
        };
        match take() {
            Ok(()) => self.reserved.store(true, Ordering::Relaxed),
            Err(error) => tracing::debug!(%error, "no reserve for removals on a full disk"),
        }
    }

    fn give_up_reserve(&self) -> bool {
        self.reserved.swap(false, Ordering::Relaxed) && std::fs::remove_file(self.reserve_path()).is_ok()
    }

    fn attempt<T>(&self, work: impl Fn(&redb::Database) -> Result<T, Error>) -> Result<T, Error> {
        self.current.read().as_ref().map_or(Err(Error::PreviousIo), work)
    }

    /// Opens the file anew behind a failure of the disk: for the next one, and so that what the failed
    /// transaction has taken of the disk is given back.
    fn settled<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if matches!(outcome, Err(Error::Io(_) | Error::PreviousIo))
            && let Err(error) = self.reopen()
        {
            tracing::warn!(%error, "cannot open {} anew", self.path.display());
        }
        if outcome.is_ok() && !self.reserved.load(Ordering::Relaxed) {
            self.reserve();
        }
        outcome
    }

    fn reopen(&self) -> Result<(), Error> {
        let mut current = self.current.write();
        // It holds the lock of the file.
        drop(current.take());
        *current = Some(open(&self.path, self.cache)?);
        Ok(())
    }
}

fn open(path: &Path, cache: usize) -> Result<redb::Database, Error> {
    Ok(redb::Database::builder().set_cache_size(cache).create(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redb::ReadableTableMetadata;
    use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

    const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

    fn put(database: &Database, key: u64, length: usize) -> Result<(), Error> {
        database.transact(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.open_table(ROWS)?.insert(key, vec![7; length].as_slice())?;
            Ok(transaction.commit()?)
        })
    }

    fn count(database: &Database) -> u64 {
        database.transact(|database| Ok(database.begin_read()?.open_table(ROWS)?.len()?)).unwrap()
    }

    #[test]
    fn a_spoilt_memory_of_the_file_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let database = Database::open(&folder.path().join("db"), 1 << 20).unwrap();
        put(&database, 1, 10).unwrap();
        let tries = std::cell::Cell::new(0);
        let counted = database.transact(|database| {
            tries.set(tries.get() + 1);
            match tries.get() {
                1 => Err(Error::Corrupted("reopen the database to repair it".to_owned())),
                _ => Ok(database.begin_read()?.open_table(ROWS)?.len()?),
            }
        });
        assert_eq!((counted.unwrap(), tries.get()), (1, 2));
        let lasting = database.transact(|_| Err::<(), _>(Error::Corrupted("for good".to_owned())));
        assert!(matches!(lasting, Err(Error::Corrupted(_))), "{lasting:?}");
        assert_eq!(count(&database), 1);
    }

    struct Unmount<'a>(&'a Path);

    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = unmount(self.0, UnmountFlags::DETACH);
        }
    }

    #[test]
    fn a_full_disk_is_over_when_there_is_room_again() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "the test needs root");
            println!("SKIP a_full_disk_is_over_when_there_is_room_again: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        mount("tmpfs", folder.path(), "tmpfs", MountFlags::empty(), Some(c"size=8m")).unwrap();
        let _unmount = Unmount(folder.path());
        let database = Database::open(&folder.path().join("db"), 1 << 20).unwrap();
        put(&database, 0, 10).unwrap();
        let error = (1..40).find_map(|key| put(&database, key, 1 << 20).err());
        assert!(matches!(error, Some(Error::Io(_) | Error::PreviousIo)), "{error:?}");
        let kept = count(&database);
        assert!(kept >= 1);
        // Without a free byte, removing works and makes room for more.
        let filled = std::fs::write(folder.path().join("rest"), vec![7; 8 << 20]);
        assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        put(&database, 100, 1 << 20).unwrap_err();
        let emptied = database.transact_to_free(|database| {
            let mut transaction = database.begin_write()?;
            transaction.set_quick_repair(true);
            transaction.delete_table(ROWS)?;
            Ok(transaction.commit()?)
        });
        emptied.unwrap();
        std::fs::remove_file(folder.path().join("rest")).unwrap();
        put(&database, 1, 1 << 20).unwrap();
        assert_eq!(count(&database), 1);
        assert!(database.reserve_path().exists(), "the reserve is back");
        drop(database);
        assert_eq!(count(&Database::open(&folder.path().join("db"), 1 << 20).unwrap()), 1);
    }
}
