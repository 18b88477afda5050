//! A container's files as the engine reads and writes them for others.
//!
//! A view is a mount namespace of the engine's own with two kinds of things in it: the container's root, and on
//! it what its user has mounted (volumes, binds, memory, the files of its network in `/etc`). `/proc`, `/sys`,
//! `/dev` and whatever the container has mounted by itself are not there. All of it is put together by
//! descriptor: no path of the container is ever resolved outside of its root, whatever it does to its links
//! meanwhile, and no program of it runs.
//!
//! Of a running container the mounts are cloned from its own namespace, so they are those that it sees. Of
//! another one they are made as its start would make them. It is not started while it is written to; who only
//! reads sees it through a mount that is in no start's way.

use crate::Engine;
use crate::container::{Container, Origin, Record};
use crate::images::blocking;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatVfsMountFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, UnmountFlags};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedMutexGuard;
use yare_api::{MountPoint, texts};
use yare_errdefs::{Error, Result};
use yare_sys::fs as files;
use yare_sys::mount::{
    Attributes, Propagation, attach, clone_tree, clone_within, set_attributes, set_attributes_at,
};
use yare_sys::process;

/// A container's files. Nothing is mounted any more once it is dropped.
#[derive(Debug)]
pub(crate) struct View {
    root: OwnedFd,
    /// Keeps the mounts.
    _namespace: OwnedFd,
    /// Keeps a container that does not run from being started.
    operation: Option<OwnedMutexGuard<()>>,
}

/// How long the end of a container may take to be known after its process is gone.
const ENDING: Duration = Duration::from_secs(10);

/// The files in `/etc` that every container with a network of its own is given.
const FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// What a view is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Opens a view of a container.
pub(crate) async fn open(engine: &Arc<Engine>, container: &Arc<Container>, access: Access) -> Result<View> {
    loop {
        let mut operation = None;
        if container.live.lock().pidfd.is_none() {
            operation = Some(Arc::clone(&container.operation).lock_owned().await);
        }
        let Some(pidfd) = container.live.lock().pidfd.clone() else {
            let (engine, record) = (Arc::clone(engine), container.record());
            let made = blocking(move || on_own_thread(|| of_stopped(&engine, &record, access))).await?;
            let operation = operation.filter(|_| access == Access::Write);
            return Ok(View { root: made.root, _namespace: made.namespace, operation });
        };
        let record = container.record();
        if let Some(made) = blocking(move || on_own_thread(|| of_running(&record, &pidfd))).await? {
            return Ok(View { root: made.root, _namespace: made.namespace, operation: None });
        }
        let mut progress = container.progress.subscribe();
        let ended = tokio::time::timeout(ENDING, progress.wait_for(|progress| !progress.running)).await;
        ended.map_err(|_| Error::unavailable(format!("container {} is about to end", container.id)))?.ok();
    }
}

/// The root of a running container without anything that is mounted on it; `None` when it has ended.
pub(crate) fn root_of(id: &str, pidfd: &OwnedFd) -> Result<Option<OwnedFd>> {
    on_own_thread(|| {
        let enter = || {
            process::unshare(process::FS)?;
            process::join_namespaces(pidfd, process::NEWNS)?;
            clone_tree(CWD, c"/", false)
        };
        unless_ended(enter()).map_err(|error| failed(id, error))
    })
}

struct Made {
    root: OwnedFd,
    namespace: OwnedFd,
}

/// Namespaces belong to threads: what one changes ends with it.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let joined = std::thread::scope(|scope| scope.spawn(work).join());
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn failed(id: &str, error: io::Error) -> Error {
    Error::internal(format!("cannot look into the file system of container {id}")).caused_by(error)
}

fn unless_ended<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// The places of its mounts, those that lie on others behind them.
fn destinations(record: &Record) -> BTreeSet<String> {
    let planned = record.plan.mounts.iter().map(|mount| mount.destination.clone());
    let taken_over = record.mounts.iter().map(|mount| mount.destination.clone());
    planned.chain(taken_over).chain(FILES.map(|name| format!("/etc/{name}"))).collect()
}

fn of_running(record: &Record, pidfd: &OwnedFd) -> Result<Option<Made>> {
    let enter = || {
        let own = own_namespaces()?;
        process::unshare(process::FS)?;
        process::join_namespaces(pidfd, process::NEWNS)?;
        let live = open_path(CWD, "/")?;
        let root = clone_tree(&live, c"", false)?;
        let mut mounts = Vec::new();
        for destination in destinations(record) {
            let found = files::open_beneath(live.as_fd(), &destination, OFlags::PATH, Mode::empty());
            // What the container has taken away is not there, and what it has put in its place is no mount of
            // its user's.
            if let Some(found) = present(found)?.filter(is_mount) {
                mounts.push((destination, clone_tree(&found, c"", true)?));
            }
        }
        assemble(&own, root, mounts, &|root, destination, _| {
            // Below `/dev` and the like there is no place for it.
            present(files::open_beneath(root, destination, OFlags::PATH, Mode::empty()))
        })
    };
    unless_ended(enter()).map_err(|error| failed(&record.id, error))
}

fn of_stopped(engine: &Engine, record: &Record, access: Access) -> Result<Made> {
    // Cloned mounts live on by themselves.
    let _uses = crate::volumes::local::use_all(engine, record, &crate::random_id())?;
    let mounts = mounts_of_stopped(engine, record)?;
    let root = match access {
        Access::Write => writable_root(engine, record)?,
        Access::Read => readable_root(engine, record, &mounts)?,
    };
    let made = own_namespaces().and_then(|own| assemble(&own, root, mounts, &make_place)).and_then(|made| {
        if record.plan.readonly_rootfs {
            set_attributes(&made.root, &Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY), false)?;
        }
        Ok(made)
    });
    made.map_err(|error| failed(&record.id, error))
}

/// What a start would mount, with its places, those that lie on others behind them.
fn mounts_of_stopped(engine: &Engine, record: &Record) -> Result<Vec<(String, OwnedFd)>> {
    let mut mounts = Vec::new();
    let mut points: Vec<_> = record.mounts.iter().filter(|point| point.r#type != "tmpfs").collect();
    points.sort_by(|one, other| one.destination.cmp(&other.destination));
    for point in points {
        let mount = match record.origins.get(&point.destination) {
            Some(origin) if !origin.subpath.is_empty() || origin.image.is_some() => {
                clone_origin(engine, point, origin)?
            }
            // Only a start maps ids: what is written here would be the host's root's.
            origin => {
                clone_source(&point.source, !point.rw || is_mapped(origin)).map_err(|error| {
                    match error.kind() {
                        io::ErrorKind::NotFound => yare_specgen::mounts::missing_bind(&point.source),
                        _ => failed(&record.id, error),
                    }
                })?
            }
        };
        mounts.push((point.destination.clone(), mount));
    }
    let folder = engine.container_dir(&record.id);
    for name in FILES {
        match present(clone_source(&folder.join(name).display().to_string(), false)) {
            Ok(Some(file)) => mounts.push((format!("/etc/{name}"), file)),
            // Its first start makes them.
            Ok(None) => {}
            Err(error) => return Err(failed(&record.id, error)),
        }
    }
    Ok(mounts)
}

fn is_mapped(origin: Option<&Origin>) -> bool {
    origin.is_some_and(|origin| origin.id_map.is_some())
}

fn writable_root(engine: &Engine, record: &Record) -> Result<OwnedFd> {
    engine.images.snapshots().tree_fd(&record.id, &record.layers).map_err(|error| {
        Error::wrap(format!("cannot put together the root of container {}", record.id), error)
    })
}

/// The root, read-only, in which all mounts have their places.
fn readable_root(engine: &Engine, record: &Record, mounts: &[(String, OwnedFd)]) -> Result<OwnedFd> {
    let look = || {
        engine.images.snapshots().look_fd(&record.id, &record.layers).map_err(|error| {
            Error::wrap(format!("cannot put together the root of container {}", record.id), error)
        })
    };
    let root = look()?;
    let on_another = |place: &str| {
        mounts.iter().any(|(other, _)| place.strip_prefix(other).is_some_and(|rest| rest.starts_with('/')))
    };
    let is_missing = |place: &str| {
        let found = files::open_beneath(root.as_fd(), place, OFlags::PATH, Mode::empty());
        !on_another(place) && matches!(present(found), Ok(None))
    };
    let missing: Vec<_> = mounts.iter().filter(|(place, _)| is_missing(place)).collect();
    if missing.is_empty() {
        return Ok(root);
    }
    // As with dockerd, a container that never ran gets them now.
    let writable = writable_root(engine, record)?;
    for (place, mount) in missing {
        make_place(writable.as_fd(), place, mount).map_err(|error| failed(&record.id, error))?;
    }
    drop(writable);
    look()
}

fn clone_source(source: &str, read_only: bool) -> io::Result<OwnedFd> {
    let mount = clone_tree(CWD, &CString::new(source)?, true)?;
    if read_only {
        set_attributes(&mount, &Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY), true)?;
    }
    Ok(mount)
}

/// What of a volume or an image is mounted. The thread gets a private mount namespace for it.
fn clone_origin(engine: &Engine, point: &MountPoint, origin: &Origin) -> Result<OwnedFd> {
    let subpath = &origin.subpath;
    let cannot = || format!("cannot open what is mounted at {}", point.destination);
    let clone = || {
        let base = open_path(CWD, &point.source)?;
        let part = files::open_within(base.as_fd(), subpath, OFlags::PATH, Mode::empty())?;
        clone_tree(&part, c"", true)
    };
    let within = |tree: OwnedFd| {
        process::unshare(process::NEWNS)?;
        set_attributes_at(CWD, c"/", &Attributes::propagation(Propagation::Private), true)?;
        clone_within(&tree, subpath, true)
    };
    let cloned = match &origin.image {
        None => clone(),
        Some(image) => {
            let tree = engine.images.snapshots().view_fd(&image.layers);
            let tree = tree.map_err(|error| Error::wrap(cannot(), error))?;
            if subpath.is_empty() { Ok(tree) } else { within(tree) }
        }
    };
    let read_only = |mount: OwnedFd| {
        if !point.rw || is_mapped(Some(origin)) {
            set_attributes(&mount, &Attributes::set(MountAttrFlags::MOUNT_ATTR_RDONLY), true)?;
        }
        Ok(mount)
    };
    cloned.and_then(read_only).map_err(|error| {
        Error::new(yare_errdefs::class_of_io(&error), format!("{}: subpath {subpath:?}", cannot()))
            .caused_by(error)
    })
}

/// The place of a mount, made if it is missing, as a start does: in the root, or in what is mounted on it.
fn make_place(root: BorrowedFd<'_>, destination: &str, mount: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    if let Some(place) = present(files::open_beneath(root, destination, OFlags::PATH, Mode::empty()))? {
        return Ok(Some(place));
    }
    let mode = |mode| Mode::from_raw_mode(mode);
    if is_directory(mount)? {
        return files::mkdir_all_beneath(root, destination, mode(0o755)).map(Some);
    }
    files::create_beneath(root, destination, mode(0o644)).map(Some)
}

/// Whether it is the root of a mount.
fn is_mount(fd: &OwnedFd) -> bool {
    let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::empty());
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        outcome => outcome.map(Some),
    }
}

/// Where this thread's namespaces are named, also when its root is a container's.
fn own_namespaces() -> io::Result<OwnedFd> {
    open_path(CWD, "/proc/thread-self/ns")
}

fn open_path(at: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(at, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// Finds or makes the place of a mount beneath the root; `None` leaves the mount out.
type FindPlace<'a> = dyn Fn(BorrowedFd<'_>, &str, &OwnedFd) -> io::Result<Option<OwnedFd>> + 'a;

/// Puts root and mounts together in a namespace that only this thread is in.
fn assemble(
    own: &OwnedFd,
    root: OwnedFd,
    mounts: Vec<(String, OwnedFd)>,
    find_place: &FindPlace<'_>,
) -> io::Result<Made> {
    process::unshare(process::NEWNS)?;
    let private = Attributes::propagation(Propagation::Private);
    set_attributes_at(CWD, c"/", &private, true)?;
    set_attributes(&root, &private, true)?;
    attach(&root, open_path(CWD, "/")?)?;
    for (destination, mount) in mounts {
        // Nothing that is attached here may reach the place it was cloned from.
        set_attributes(&mount, &private, true)?;
        if let Some(place) = find_place(root.as_fd(), &destination, &mount)? {
            attach(&mount, &place)?;
        }
    }
    // What was there before is let go: nobody's file system stays busy because of a copy.
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    let namespace = rustix::fs::openat(own, "mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Made { root, namespace })
}

impl View {
    /// Whether the container cannot be started as long as it lives.
    pub(crate) fn is_in_the_way(&self) -> bool {
        self.operation.is_some()
    }

    /// Its root.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Fails when nothing may be written into this directory of it.
    pub(crate) fn check_writable(&self, directory: &OwnedFd) -> Result<()> {
        let read = || {
            let mount = |fd: &OwnedFd| {
                let stat = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
                Ok::<_, Errno>(stat.stx_mnt_id)
            };
            let flags = rustix::fs::fstatvfs(directory)?.f_flag;
            Ok::<_, Errno>((
                flags.contains(StatVfsMountFlags::RDONLY),
                mount(directory)? == mount(&self.root)?,
            ))
        };
        match read() {
            Ok((false, _)) => Ok(()),
            Ok((true, true)) => Err(Error::invalid(texts::READ_ONLY_ROOT)),
            Ok((true, false)) => Err(Error::invalid(texts::READ_ONLY_VOLUME)),
            Err(error) => Err(Error::internal("cannot look at the destination").caused_by(error)),
        }
    }
}
