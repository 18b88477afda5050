//! What a container will be: a create request, the image's config and facts about the host, settled into a
//! [`Plan`]; and a plan with the outcome of the engine's preparations ([`Wiring`]) rendered into an OCI
//! runtime spec.
//!
//! Everything here is pure. Whether a path exists, what a device's numbers are or where a volume lies is
//! found out by the engine and handed in. Every default, every check and every text is Docker's, measured on
//! 28.5, but for two: processes get a built-in init unless they are one ([`init`]), and logs are rotated
//! ([`logs`]).

pub mod caps;
mod check;
pub mod devices;
mod environment;
mod facts;
pub mod health;
mod idmap;
pub mod init;
mod limits;
pub mod logs;
mod merge;
pub mod modes;
pub mod mounts;
mod plan;
pub mod ports;
mod render;
pub mod seccomp;
mod security;
mod settle;
pub mod tmpfs;
mod update;

pub use environment::DEFAULT_PATH;
pub use facts::HostFacts;
pub use plan::{BlockIoPlan, Plan, SeccompChoice};
pub use render::{ResolvedDevice, Wiring, exec_process, render};
pub use security::DEFAULT_APPARMOR_PROFILE;
pub use settle::settle;
pub use update::{Update, settle_update};
