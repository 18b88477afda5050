//! What the build engine needs from the engine around it.

use crate::transfer::ContentStore;
use crate::{Cancel, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use yare_cdi::Registry;
use yare_image::Image;
use yare_oci::{Platform, Reference};
use yare_snapshot::Rootfs;

/// Runs processes, finds images, hands out secrets.
pub trait Worker: Send + Sync {
    /// Finds a base image, or fetches it. `pull` asks the registry for a newer one.
    fn image(&self, reference: &Reference, platform: Option<&Platform>, pull: bool) -> Result<Arc<Image>>;

    /// Runs a process to its end; what it writes goes to `output`.
    fn run(&self, run: &Run, output: &mut dyn FnMut(Stream, &[u8]), cancel: &Cancel) -> Result<Exit>;

    /// The devices that there are on this host.
    fn devices(&self) -> Registry;

    /// The secret of this id; `None` when the client has none.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;

    /// The socket of the SSH agent of this id.
    fn ssh(&self, id: &str) -> Result<Option<PathBuf>>;

    /// A name in a registry as the place of a build cache, to read or to write.
    fn repository(
        &self,
        reference: &Reference,
        write: bool,
        cancel: &Cancel,
    ) -> Result<Box<dyn ContentStore + '_>>;

    /// A folder of the client's as the place of a build cache, by what the client calls it.
    fn client_folder(&self, id: &str) -> Result<Box<dyn ContentStore + '_>>;
}

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its code, 128+n for signal n.
    pub code: i32,
    /// Whether it ran out of memory.
    pub oom: bool,
}

/// A process to run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// Absolute.
    pub cwd: String,
    /// `user[:group]`.
    pub user: String,
    /// Host name.
    pub hostname: String,
    /// `default`, `none`, `host` or `container:X`.
    pub network: String,
    /// Whether it has every right.
    pub insecure: bool,
    /// Devices, by qualified CDI names.
    pub devices: Vec<String>,
    /// `host:address` each.
    pub extra_hosts: Vec<String>,
    /// Bytes of `/dev/shm`, 0 for the default.
    pub shm_size: i64,
    /// Limits as `HostConfig` has them.
    pub limits: yare_api::HostConfig,
    /// What is mounted as root.
    pub rootfs: Option<Rootfs>,
    /// What is mounted beneath it, by destination.
    pub mounts: BTreeMap<String, RunMount>,
    /// How somebody speaks with it; without, it has no input, and its output is news.
    pub conversation: Option<Conversation>,
}

/// How somebody speaks with a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conversation {
    /// Over a terminal, and not over three streams.
    pub terminal: bool,
    /// Whether there is input.
    pub stdin: bool,
}

/// One mount of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunMount {
    /// A file or directory of the host.
    Bind {
        /// Where.
        path: PathBuf,
        /// Whether it cannot be written.
        read_only: bool,
    },
    /// Directories one above the other, the topmost first.
    Overlay {
        /// They cannot be written.
        lower: Vec<PathBuf>,
        /// Takes what is written.
        upper: Option<PathBuf>,
        /// Beside it.
        work: Option<PathBuf>,
    },
    /// Memory.
    Tmpfs {
        /// Bytes, 0 for no limit.
        size: u64,
    },
    /// A file that never touches a disk.
    File {
        /// What is in it.
        content: Vec<u8>,
        /// Mode.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}
