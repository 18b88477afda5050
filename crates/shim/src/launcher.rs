//! The launcher: one small single-threaded process that forks a shim for each container.
//!
//! It reads nothing but one byte and one descriptor at a time. Its mount namespace is private and holds
//! little besides what containers need, because a clone copies every mount: a thousand mounts of the
//! host cost each container start more than two milliseconds. A shim whose container has mounts from
//! elsewhere goes back to the host's mount namespace first (see `start.rs`).
//!
//! It runs from a read-only clone of its own program file, which its children inherit. Shims are reaped by
//! the kernel (`SIGCHLD` is ignored) and live on when the launcher ends, which it does when the engine closes
//! its socket.

use crate::supervisor;
use crate::wire;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use yare_cgroup::Host;
use yare_errdefs::{Error, Result};
use yare_sys::process::{self, Fork};

/// Signals that end processes by default and are nothing to a launcher or shim: HUP, INT, QUIT, PIPE, TERM.
const IGNORED: [i32; 5] = [1, 2, 3, 13, 15];

const SIGCHLD: i32 = 17;

/// Room for the title `yare-shim <id>` in the process's arguments.
const ROOM: &str = "--title-room........................................................................";

/// What every shim needs of its launcher.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) host: Host,
    /// The mount namespace that the launcher was started in.
    pub(crate) mounts: OwnedFd,
}

/// Runs the launcher until its engine goes. `argv` is the whole command line: `yare launcher --keep /var/lib/yare …`;
/// standard input is the engine's socket.
///
/// # Errors
/// The process cannot be set up. Nothing was forked then.
pub fn main(mut argv: Vec<OsString>) -> Result<()> {
    if !argv.iter().any(|argument| argument == ROOM) {
        argv.push(ROOM.into());
    }
    yare_runtime::selfexec::reexec_readonly(&argv)
        .map_err(|error| Error::internal("cannot protect the program file").caused_by(error))?;
    let set_up = |error: io::Error| Error::internal("cannot set the launcher up").caused_by(error);
    let engine = take_stdin().map_err(set_up)?;
    // What whoever started the engine left open is none of ours, and shims would hold it for ever.
    process::close_all_but(&[engine.as_raw_fd()]).map_err(set_up)?;
    let _ = rustix::process::setsid();
    for signal in IGNORED.into_iter().chain([SIGCHLD]) {
        process::ignore_signal(signal).map_err(set_up)?;
    }
    process::set_title("yare-launcher");
    let mounts = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| set_up(error.into()))?;
    trim_mounts(&kept(&argv)).map_err(set_up)?;
    let host = Host::detect().map_err(|error| Error::wrap("cannot find the control groups", error))?;
    serve(engine, Surroundings { host, mounts });
    Ok(())
}

/// Moves the socket out of the way and puts `/dev/null` in the place of all standard streams but the error
/// one, which stays the engine's.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    process::duplicate_to(&null, 0)?;
    process::duplicate_to(&null, 1)?;
    Ok(socket)
}

fn kept(argv: &[OsString]) -> Vec<PathBuf> {
    argv.windows(2).filter(|pair| pair[0] == "--keep").map(|pair| PathBuf::from(&pair[1])).collect()
}

/// One message, one fork. In the child this does not return.
fn serve(engine: OwnedFd, surroundings: Surroundings) {
    loop {
        let mut message = [0];
        match wire::receive(engine.as_fd(), &mut message) {
            Ok((0, _)) => return,
            Ok((_, descriptors)) => {
                let Some(socket) = descriptors.into_iter().next() else { continue };
                if matches!(process::fork(0, None), Ok(Fork::Child)) {
                    drop(engine);
                    become_shim(UnixStream::from(socket), surroundings);
                }
                // A fork that failed closes the socket, which tells the engine.
            }
            // Too many open files, for one: the engine sees its socket closed.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    }
}

fn become_shim(control: UnixStream, surroundings: Surroundings) -> ! {
    let prepared = prepare_shim();
    let code = match prepared {
        Ok(()) => {
            let run = std::panic::AssertUnwindSafe(|| supervisor::run(control, surroundings));
            std::panic::catch_unwind(run).unwrap_or(70)
        }
        Err(_) => 71,
    };
    process::exit_now(code)
}

/// A session of its own, no tie to the engine's terminal or log, children that can be waited for.
fn prepare_shim() -> io::Result<()> {
    rustix::process::setsid()?;
    process::default_signals()?;
    for signal in IGNORED {
        process::ignore_signal(signal)?;
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    process::duplicate_to(&null, 2)
}

/// Leaves the host's mount namespace for a copy without the mounts that no container needs by itself.
fn trim_mounts(keep: &[PathBuf]) -> io::Result<()> {
    process::unshare(process::NEWNS)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let table = std::fs::read("/proc/self/mountinfo")?;
    let mut points: Vec<PathBuf> = table.split(|byte| *byte == b'\n').filter_map(mount_point).collect();
    points.reverse();
    for point in points {
        if !is_kept(&point, keep) {
            // What is busy, locked or hidden stays: it only costs time.
            let _ = rustix::mount::unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
    Ok(())
}

/// The fifth field of a line of mountinfo, unescaped.
fn mount_point(line: &[u8]) -> Option<PathBuf> {
    let field = line.split(|byte| *byte == b' ').nth(4)?;
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(value) => {
                path.push(value);
                rest = &tail[3..];
            }
            None => {
                path.push(*byte);
                rest = tail;
            }
        }
    }
    Some(PathBuf::from(OsString::from_vec(path)))
}

/// Kept are the few that every container is built from, and all on the way to or beneath our own roots. What is
/// mounted on single volumes is not: it comes and goes with the containers that use it.
fn is_kept(point: &Path, keep: &[PathBuf]) -> bool {
    let always = ["/", "/proc", "/sys", "/dev", "/dev/pts"].iter().any(|path| point == Path::new(path));
    always
        || point.starts_with("/sys/fs/cgroup")
        || keep.iter().any(|root| {
            let volumes = root.join("volumes");
            root.starts_with(point)
                || (point.starts_with(root) && (point == volumes || !point.starts_with(volumes)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mount_points() {
        let line = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/mnt two")));
        assert_eq!(mount_point(b""), None);
    }

    #[test]
    fn keeps_what_containers_need() {
        let keep = [PathBuf::from("/var/lib/yare"), PathBuf::from("/run/yare")];
        let kept = |path: &str| is_kept(Path::new(path), &keep);
        for path in ["/", "/sys/fs/cgroup/memory", "/var", "/var/lib/yare", "/var/lib/yare/volumes", "/run"] {
            assert!(kept(path), "{path}");
        }
        assert!(!kept("/var/lib/yare/volumes/x/_data"));
        for path in ["/home", "/var/lib", "/var/lib/docker", "/sys/kernel/debug", "/dev/shm"] {
            assert_eq!(kept(path), path == "/var/lib", "{path}");
        }
    }
}
