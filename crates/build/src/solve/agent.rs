//! An SSH agent as a step sees it: a socket with the owner and mode that the mount asks for, in front of the
//! real one.

use crate::{Error, Result};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// How many connections a step may have at once; more are closed.
const MOST: usize = 32;
const NAME: &str = "agent";

/// How the socket looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looks {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Looks {
    /// What an agent's own socket is like for root.
    pub(super) const PLAIN: Self = Self { mode: 0o600, uid: 0, gid: 0 };
}

/// Ends with its value.
#[derive(Debug)]
pub(super) struct Agent {
    folder: PathBuf,
    ended: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Agent {
    /// Takes connections for `real` on a socket in a folder of its own below `scratch`.
    pub(super) fn serve(real: PathBuf, scratch: &Path, looks: Looks) -> Result<Self> {
        let failed = |error: std::io::Error| Error::internal("cannot forward the SSH agent").caused_by(error);
        let folder = scratch.join(yare_sys::fs::unique_name("ssh-"));
        std::fs::create_dir(&folder).map_err(failed)?;
        let ended = Arc::new(AtomicBool::new(false));
        let mut agent = Self { folder, ended: Arc::clone(&ended), serving: None };
        let listener = agent.listen(looks).map_err(failed)?;
        agent.serving = Some(std::thread::spawn(move || accept(&listener, &real, &ended)));
        Ok(agent)
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join(NAME)
    }

    /// The folder's descriptor: its path may be longer than an address of a socket.
    fn address(&self) -> std::io::Result<(OwnedFd, PathBuf)> {
        let dir = yare_sys::fs::open_dir(&self.folder)?;
        let path = Path::new(&yare_sys::fs::proc_path(dir.as_fd())).join(NAME);
        Ok((dir, path))
    }

    fn listen(&self, looks: Looks) -> std::io::Result<UnixListener> {
        let (dir, path) = self.address()?;
        let listener = UnixListener::bind(path)?;
        let (uid, gid) = (rustix::fs::Uid::from_raw(looks.uid), rustix::fs::Gid::from_raw(looks.gid));
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(&dir, NAME, Some(uid), Some(gid), flags)?;
        let mode = rustix::fs::Mode::from_raw_mode(looks.mode & 0o777);
        rustix::fs::chmodat(&dir, NAME, mode, rustix::fs::AtFlags::empty())?;
        Ok(listener)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        if let Some(serving) = self.serving.take() {
            // Wakes it up.
            let woken = self.address().and_then(|(_dir, path)| UnixStream::connect(path));
            match woken {
                Ok(_) => drop(serving.join()),
                Err(error) => tracing::warn!(%error, "a forwarded SSH agent does not end"),
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, "the folder of a forwarded SSH agent stays until the next start");
        }
    }
}

fn accept(listener: &UnixListener, real: &Path, ended: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    for client in listener.incoming() {
        if ended.load(Ordering::Acquire) {
            return;
        }
        // Who came and cannot be served finds its connection closed.
        let Ok(client) = client else { continue };
        if open.load(Ordering::Acquire) >= MOST {
            continue;
        }
        let Ok(agent) = UnixStream::connect(real) else { continue };
        open.fetch_add(1, Ordering::AcqRel);
        let open = Arc::clone(&open);
        std::thread::spawn(move || {
            forward(&client, &agent);
            open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

/// Both ways, until both have ended.
fn forward(client: &UnixStream, agent: &UnixStream) {
    let one_way = |mut from: &UnixStream, mut to: &UnixStream| {
        // A side that goes away ends the other, which is all there is to do about it.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(client, agent));
        one_way(agent, client);
        // An agent that hung up wants nothing more.
        let _ = client.shutdown(Shutdown::Both);
    });
}
