//! Files of the configuration that are read again when they change.

use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use yare_errdefs::{Error, Result};

/// How often a file is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What tells a changed file from the one that was read: it may be replaced or rewritten.
type Stamp = Vec<Option<(SystemTime, u64, u64)>>;

/// A value that was made from files.
pub struct Watched<T> {
    files: Vec<PathBuf>,
    make: Box<dyn Fn() -> Result<T> + Send + Sync>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    stamp: Stamp,
    looked: Instant,
}

impl<T> std::fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watched").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T> Watched<T> {
    /// Makes the value; this first time, files that are not right are an error.
    pub fn new(files: Vec<PathBuf>, make: impl Fn() -> Result<T> + Send + Sync + 'static) -> Result<Self> {
        let stamp = stamp(&files);
        let state = State { value: Arc::new(make()?), stamp, looked: Instant::now() };
        Ok(Self { files, make: Box::new(make), state: Mutex::new(state) })
    }

    /// The value, made again if a file changed. While files are not right, the value before stays.
    pub fn get(&self) -> Arc<T> {
        let mut state = self.state.lock();
        if state.looked.elapsed() < EVERY {
            return Arc::clone(&state.value);
        }
        state.looked = Instant::now();
        let current = stamp(&self.files);
        if current != state.stamp {
            match (self.make)() {
                Ok(value) => {
                    tracing::info!(files = ?self.files, "read again");
                    state.value = Arc::new(value);
                }
                Err(error) => {
                    tracing::error!(
                        error = yare_errdefs::chain(&error),
                        "changed files are not right: what was read before stays"
                    );
                }
            }
            state.stamp = current;
        }
        Arc::clone(&state.value)
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let stamp = |file: &PathBuf| {
        let metadata = std::fs::metadata(file).ok()?;
        Some((metadata.modified().ok()?, metadata.ino(), metadata.len()))
    };
    files.iter().map(stamp).collect()
}

/// Reads a file of the configuration.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Error::invalid(format!("cannot read {}", path.display())).caused_by(error))
}
