//! Modification times that are the same on every day.

use super::failed;
use crate::Cancel;
use rustix::fs::{AtFlags, FileType, Stat, Timespec, Timestamps};
use std::os::fd::{AsFd, BorrowedFd};
use yare_errdefs::Result;
use yare_layer::{Timestamp, Walk};

/// What becomes of modification times. Seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// They are kept; a directory that is made gets the time of the day.
    Keep,
    /// Later ones become this.
    Clamp(i64),
    /// All become this.
    Set(i64),
}

impl Times {
    pub(super) fn settle(self, time: Timestamp) -> Timestamp {
        match self {
            Self::Keep => time,
            Self::Clamp(epoch) if (time.seconds, time.nanos) <= (epoch, 0) => time,
            Self::Clamp(epoch) | Self::Set(epoch) => Timestamp { seconds: epoch, nanos: 0 },
        }
    }

    /// The time of something that is made now.
    pub(super) fn now(self) -> Timestamp {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        self.settle(Timestamp { seconds: now.tv_sec, nanos: u32::try_from(now.tv_nsec).unwrap_or_default() })
    }
}

pub(super) fn timestamps(time: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// Sets the modification times below an overlay's upper directory, and its own, that are later than `epoch`
/// to it. Whiteouts have no time in a layer and are passed over. Returns how many were set.
pub fn clamp_times(upper: BorrowedFd<'_>, epoch: i64, cancel: &Cancel) -> Result<u64> {
    // Setting the time of an entry does not change that of its directory, so one pass is enough.
    let mut walk = Walk::new(upper).map_err(|error| failed("list", b"", error))?;
    let mut count = 0;
    let time = timestamps(Timestamp { seconds: epoch, nanos: 0 });
    while let Some(found) = walk.advance().map_err(|error| failed("list", b"", error))? {
        cancel.check()?;
        if is_later(&found.stat, epoch) && !is_whiteout(&found.stat) {
            rustix::fs::utimensat(&found.parent, &found.name, &time, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| failed("set the times of", &found.path, error))?;
            count += 1;
        }
    }
    let stat = rustix::fs::fstat(upper).map_err(|error| failed("stat", b"", error))?;
    if is_later(&stat, epoch) {
        let root = yare_sys::fs::proc_path(upper.as_fd());
        rustix::fs::utimensat(rustix::fs::CWD, root, &time, AtFlags::empty())
            .map_err(|error| failed("set the times of", b"", error))?;
        count += 1;
    }
    Ok(count)
}

fn is_later(stat: &Stat, epoch: i64) -> bool {
    (stat.st_mtime, stat.st_mtime_nsec) > (epoch, 0)
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}
