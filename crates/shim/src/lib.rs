//! The supervisor of one container, the launcher that forks it, and the engine's half of talking to both.
//!
//! Three processes meet here:
//!
//! - the *engine* (async, many threads) uses [`client`]: it never forks and never mounts;
//! - the *launcher* ([`launcher`]) is one tiny single-threaded process in a trimmed mount namespace; it only
//!   forks, and never reads anything about a container;
//! - the *shim* is forked from it, one per container. It is the container's parent, owns its
//!   standard streams, terminal, log and exit status, and lives on when engine and launcher are gone.
//!
//! # Wire
//!
//! Engine and shim talk over unix stream sockets: frames of a little-endian `u32` length and that many bytes
//! of JSON ([`protocol`]), descriptors attached to the frame's first byte ([`wire`]). The launch socket carries one
//! [`protocol::Launch`] and then, like every connection to `<run_dir>/shim.sock`, [`protocol::Request`]s and
//! [`protocol::Reply`]s; a connection that launched is subscribed to the exit. Attach streams are sockets of
//! their own, handed over as descriptors: raw bytes of stdin in, Docker's multiplexed frames (raw bytes for a
//! terminal) out.
//!
//! # Run directory, format 1
//!
//! Made by the engine, readable by root alone, one per container:
//!
//! - `shim.sock`: the socket of a living shim;
//! - `shim.pid`: its process id and that of the container's process 1, in decimal, a line each; locked (`flock`)
//!   while the run directory, the cgroup and the log belong to that shim, so that the next one waits for the last
//!   to clean up;
//! - `exit.json`: one [`exit::Exit`], renamed into place before anybody is told of the exit;
//! - `shim.log`: what went wrong in the shim itself, a line each with its time; absent when nothing did.

mod attach;
pub mod client;
mod control;
mod courier;
pub mod exit;
mod hooks;
mod journal;
pub mod launcher;
mod log;
pub mod protocol;
mod rootfs;
mod session;
mod start;
mod supervisor;
pub mod wire;

pub use client::{Connection, Launcher, LauncherConfig, connect, recv_reply};
pub use exit::Exit;
pub use protocol::{AttachSpec, ExecSpec, Launch, LogDriver, LogSpec, MountOrigin, Reply, Request, Rootfs};
pub use start::{is_locked, kill_shim, living_shim, noted_pid};
pub use wire::{Decoder, Message, encode};
