//! Cgroup v1, hybrid and v2: limits, freeze, kill, stats, events.
//!
//! What limits become which files is pure (`plan.rs`); where they are written is [`Host`], found once; one
//! container's directories in every hierarchy together are a [`Group`].

mod device;
mod error;
mod group;
mod host;
mod plan;
mod stats;

pub use error::{CgroupError, Result};
pub use group::{Group, MountPoint};
pub use host::{Controller, Host, Mode};
pub use plan::{Write, plan_v1, plan_v2};
pub use stats::{BlockIoEntry, BlockIoStats, CpuStats, MemoryStats, PidsStats, Stats};
