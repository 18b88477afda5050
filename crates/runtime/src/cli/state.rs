//! What the command line remembers of a container: a directory each, with `state.json`, and until the start
//! two FIFOs: `start` (one byte starts it) and `status` (an error, or the end of file when the program runs).

use crate::Gate;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use yare_cgroup::{Group, Host};
use yare_errdefs::{Error, Result};
use yare_oci::runtime::{Spec, State};

/// Largest `config.json` or `state.json` that is read, in bytes.
const LIMIT: u64 = 16 << 20;

/// The remembered part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) bundle: PathBuf,
    pub(super) pid: i32,
    /// Start time of the process in clock ticks since boot: tells it from a later one with its number.
    pub(super) start_time: u64,
    pub(super) cgroup: String,
    /// RFC 3339.
    pub(super) created: String,
}

/// A container's directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory of a new container.
    pub(super) fn create(root: &Path, id: &str) -> Result<Self> {
        let path = root.join(id);
        let made = std::fs::create_dir_all(root).and_then(|()| std::fs::create_dir(&path));
        match made {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(Error::already_exists(format!("container {id} exists already")));
            }
            Err(error) => return Err(failed("make", &path, error)),
        }
        let mode = Mode::from_raw_mode(0o700);
        rustix::fs::chmod(&path, mode).map_err(|error| failed("protect", &path, error.into()))?;
        Ok(Self { path })
    }

    /// The directory of an existing container.
    pub(super) fn open(root: &Path, id: &str) -> Result<(Self, Record)> {
        let path = root.join(id);
        let file = path.join("state.json");
        match std::fs::metadata(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::not_found(format!("container {id} does not exist")))
            }
            _ => Ok((Self { path }, read_json(&file)?)),
        }
    }

    /// Remembers a container, whole or not at all.
    pub(super) fn save(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        write_whole(&self.path.join("state.json"), &bytes)
    }

    /// Makes the FIFOs and opens them for the container.
    pub(super) fn make_gate(&self) -> Result<Gate> {
        let open = |name: &str| {
            let path = self.path.join(name);
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
                .and_then(|()| rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()))
                .map_err(|error| failed("make", &path, error.into()))
        };
        Ok(Gate { start: open("start")?, status: open("status")? })
    }

    /// Opens the other ends of the FIFOs: start, status.
    pub(super) fn open_gate(&self) -> Result<(OwnedFd, OwnedFd)> {
        let open = |name: &str, flags: OFlags| {
            let path = self.path.join(name);
            rustix::fs::open(&path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed("open", &path, error.into()))
        };
        let status = open("status", OFlags::RDONLY)?;
        Ok((open("start", OFlags::WRONLY)?, status))
    }

    /// Whether it waits for its start.
    pub(super) fn has_gate(&self) -> bool {
        self.path.join("start").exists()
    }

    /// Forgets the FIFOs.
    pub(super) fn remove_gate(&self) {
        for name in ["start", "status"] {
            let _ = std::fs::remove_file(self.path.join(name));
        }
    }

    /// Forgets the container.
    pub(super) fn remove(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.path).map_err(|error| failed("remove", &self.path, error))
    }
}

impl Record {
    /// Whether its process is there, and is no zombie.
    pub(super) fn is_alive(&self) -> bool {
        process_stat(self.pid).is_some_and(|(state, start)| start == self.start_time && !"ZX".contains(state))
    }

    /// The word of the specification for how it is.
    pub(super) fn status(&self, directory: &Directory) -> &'static str {
        if !self.is_alive() {
            return "stopped";
        }
        if directory.has_gate() {
            return "created";
        }
        let frozen = self.group().is_ok_and(|group| group.is_frozen());
        if frozen { "paused" } else { "running" }
    }

    pub(super) fn group(&self) -> Result<Group> {
        let host = Host::detect().map_err(|error| Error::wrap("cannot find the cgroup", error))?;
        Group::open(&host, &self.cgroup).map_err(|error| Error::wrap("cannot find the cgroup", error))
    }

    /// What hooks and `state` get.
    pub(super) fn state(&self, status: &str) -> State {
        let annotations = read_spec(&self.bundle).map(|spec| spec.annotations).unwrap_or_default();
        State {
            oci_version: "1.2.0".to_string(),
            id: self.id.clone(),
            status: status.to_string(),
            pid: (status != "stopped").then_some(self.pid),
            bundle: self.bundle.to_string_lossy().into_owned(),
            annotations,
        }
    }
}

/// The bundle's `config.json`.
pub(super) fn read_spec(bundle: &Path) -> Result<Spec> {
    read_json(&bundle.join("config.json"))
}

/// Reads a JSON file of bounded size.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let size = std::fs::metadata(path).map_err(|error| failed("read", path, error))?.len();
    if size > LIMIT {
        return Err(Error::invalid(format!("{} is larger than 16 MiB", path.display())));
    }
    let bytes = std::fs::read(path).map_err(|error| failed("read", path, error))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(format!("cannot understand {}", path.display())).caused_by(error))
}

/// Writes a file by a rename, so that readers never see half of it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    std::fs::write(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path))
        .map_err(|error| failed("write", path, error))
}

fn failed(action: &str, path: &Path, error: std::io::Error) -> Error {
    Error::new(yare_errdefs::class_of_io(&error), format!("cannot {action} {}", path.display()))
        .caused_by(error)
}

/// State letter and start time of a process.
pub(super) fn process_stat(pid: i32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Now, as RFC 3339 in UTC.
pub(super) fn now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format_time(now.as_secs(), now.subsec_nanos())
}

/// Seconds since 1970 as a date (days to civil date after H. Hinnant).
fn format_time(seconds: u64, nanos: u32) -> String {
    let (days, second) = (seconds / 86400, seconds % 86400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_shifted + 2) / 5 + 1;
    let month = if month_shifted < 10 { month_shifted + 3 } else { month_shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(format_time(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(format_time(951_827_696, 5), "2000-02-29T12:34:56.000000005Z");
        assert_eq!(format_time(1_767_225_599, 0), "2025-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn this_process_is_alive() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let (state, start) = process_stat(pid).unwrap();
        assert!("RS".contains(state) && start > 0);
    }
}
