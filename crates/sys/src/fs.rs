//! Durable files, and paths opened beneath a root.
//!
//! Errors of functions that take a path carry the operation and the path in their text and keep the
//! [`io::ErrorKind`]; errors of functions that work beneath a descriptor are the kernel's, unchanged, so
//! that callers can look at the error number.
#![expect(unsafe_code, reason = "ioprio_set has no safe wrapper")]

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a completed write promises after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The bytes and the name are on the disk when the call returns.
    Synced,
    /// Old or new content after a crash of the process; after a power cut possibly neither.
    Relaxed,
}

/// A directory named by descriptor or by path.
#[derive(Debug, Clone, Copy)]
pub enum Dir<'a> {
    /// An open directory.
    Fd(BorrowedFd<'a>),
    /// A path, relative to the working directory if not absolute.
    Path(&'a Path),
}

impl<'a> From<BorrowedFd<'a>> for Dir<'a> {
    fn from(fd: BorrowedFd<'a>) -> Self {
        Self::Fd(fd)
    }
}

impl<'a> From<&'a OwnedFd> for Dir<'a> {
    fn from(fd: &'a OwnedFd) -> Self {
        Self::Fd(fd.as_fd())
    }
}

impl<'a> From<&'a Path> for Dir<'a> {
    fn from(path: &'a Path) -> Self {
        Self::Path(path)
    }
}

impl<'a> From<&'a PathBuf> for Dir<'a> {
    fn from(path: &'a PathBuf) -> Self {
        Self::Path(path)
    }
}

/// A file operation that failed on a path; the payload of the `io::Error`s of this module.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path}", path = .path.display())]
pub struct PathError {
    /// What was tried: a verb, such as `rename`.
    pub operation: &'static str,
    /// The path as far as it is known.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Puts the operation and the path into the text of an error; its kind stays.
pub fn path_error(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> io::Error {
    let source = source.into();
    let kind = source.kind();
    io::Error::new(kind, PathText(PathError { operation, path: path.to_owned(), source }))
}

/// Prints a [`PathError`] together with its cause, because `io::Error` shows only one text.
#[derive(Debug)]
struct PathText(PathError);

impl std::fmt::Display for PathText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0, self.0.source)
    }
}

impl std::error::Error for PathText {}

/// A name that no other call of this process, and practically no other process, returns.
pub fn unique_name(prefix: &str) -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let pid = rustix::process::getpid().as_raw_nonzero();
    format!("{prefix}{pid:x}-{:x}{:08x}-{count:x}", now.tv_sec, now.tv_nsec)
}

/// Whose a file is, and who may do what with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Permission bits.
    pub mode: u32,
    /// User and group, where they are not the caller's.
    pub owner: Option<(u32, u32)>,
}

impl Standing {
    /// The caller's, and nobody else's to read.
    pub const PRIVATE: Self = Self { mode: 0o600, owner: None };
}

/// Replaces the file `name` in `dir` by these bytes (mode 0600): readers see the old or the new content.
pub fn atomic_write<'a>(
    dir: impl Into<Dir<'a>>,
    name: impl AsRef<OsStr>,
    bytes: &[u8],
    durability: Durability,
) -> io::Result<()> {
    atomic_write_as(dir, name, bytes, durability, Standing::PRIVATE)
}

/// As [`atomic_write`], with this mode and, where the caller may give files away, this owner.
pub fn atomic_write_as<'a>(
    dir: impl Into<Dir<'a>>,
    name: impl AsRef<OsStr>,
    bytes: &[u8],
    durability: Durability,
    standing: Standing,
) -> io::Result<()> {
    let (name, dir) = (name.as_ref(), dir.into());
    let opened;
    let (fd, shown) = match dir {
        Dir::Fd(fd) => (fd, PathBuf::from(name)),
        Dir::Path(path) => {
            opened = open_dir(path)?;
            (opened.as_fd(), path.join(name))
        }
    };
    let temporary = unique_name(".tmp-");
    let written = write_draft(fd, &temporary, bytes, durability, standing)
        .and_then(|()| rename_draft(fd, &temporary, name, durability));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(fd, &temporary, AtFlags::empty());
    }
    written.map_err(|error| path_error("write", &shown, error))
}

fn write_draft(
    dir: BorrowedFd<'_>,
    temporary: &str,
    bytes: &[u8],
    durability: Durability,
    standing: Standing,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, temporary, flags, Mode::RUSR | Mode::WUSR)?;
    if let Some((user, group)) = standing.owner {
        let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
        match rustix::fs::fchown(&file, Some(user), Some(group)) {
            // Only root gives files away; for everybody else the new file is the caller's.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if standing != Standing::PRIVATE {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(standing.mode))?;
    }
    write_all(&file, bytes)?;
    if durability == Durability::Synced {
        rustix::fs::fsync(&file)?;
    }
    Ok(())
}

fn rename_draft(
    dir: BorrowedFd<'_>,
    temporary: &str,
    name: &OsStr,
    durability: Durability,
) -> io::Result<()> {
    rustix::fs::renameat(dir, temporary, dir, name)?;
    if durability == Durability::Synced {
        sync_dir_fd(dir)?;
    }
    Ok(())
}

/// Makes a file if there is none, and lets nobody but its owner read and write it.
pub fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// Writes all bytes at the descriptor's position.
pub fn write_all(fd: impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd.as_fd(), bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Opens a directory for reading and as a base of `*at` calls; a final symbolic link is followed.
pub fn open_dir(path: impl AsRef<Path>) -> io::Result<OwnedFd> {
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| path_error("open", path, error))
}

/// Makes the names in a directory durable.
pub fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    sync_dir_fd(open_dir(path)?.as_fd()).map_err(|error| path_error("sync", path, error))
}

/// As [`sync_dir`], for an open directory. A file system that cannot sync directories is no error.
pub fn sync_dir_fd(dir: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::fsync(dir) {
        Err(Errno::INVAL) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes everything of the file system that holds `path` to the disk.
pub fn syncfs(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| path_error("open", path, error))?;
    rustix::fs::syncfs(fd).map_err(|error| path_error("sync the file system of", path, error))
}

/// An exclusive lock on a file; released when dropped or when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: OwnedFd,
}

/// Takes the lock on `path`, which is created (0600) when missing. The error's kind is
/// [`io::ErrorKind::WouldBlock`] when another process, or this one, holds it.
pub fn lock_file(path: impl AsRef<Path>) -> io::Result<Lock> {
    let path = path.as_ref();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| path_error("open", path, error))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| path_error("lock", path, error))?;
    Ok(Lock { _file: file })
}

/// How a path below a root treats symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Followed as if the root were `/`.
    InRoot,
    /// Followed as long as no step leads out, which is refused with `EXDEV`.
    Within,
    /// Refused with `ELOOP`, as is every step out with `EXDEV`.
    Refused,
}

fn open_resolved(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    links: Links,
) -> io::Result<OwnedFd> {
    let resolve = match links {
        Links::InRoot => ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        Links::Within => ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // The kernel answers EAGAIN when a rename raced with a `..` step; it asks for another try.
    for _ in 0..128 {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

/// Opens `path` as a process chrooted to `root` would: links and `..` never lead out of it. Magic links of
/// `/proc` are refused. A leading `/` means the root. `flags` get `O_CLOEXEC`.
pub fn open_beneath(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    open_resolved(root, path.as_ref(), flags, mode, Links::InRoot)
}

/// Opens the relative `path` below `root`. Links are followed, but neither they nor `..` may leave `root` on
/// the way, and absolute ones always do (`EXDEV`).
pub fn open_within(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    open_resolved(root, path.as_ref(), flags, mode, Links::Within)
}

/// Opens the relative `path` below `root` without following any symbolic link (`ELOOP`) and without
/// leaving `root` (`EXDEV`).
pub fn open_strict(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    open_resolved(root, path.as_ref(), flags, mode, Links::Refused)
}

/// Makes the directory and its missing parents below `root`, following links as [`open_beneath`] does, and
/// returns it as an `O_PATH` descriptor. Existing directories keep their mode.
pub fn mkdir_all_beneath(root: BorrowedFd<'_>, path: impl AsRef<Path>, mode: Mode) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let path = path.as_ref();
    match open_beneath(root, path, flags, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let mut prefix = PathBuf::new();
    let mut current = open_beneath(root, ".", flags, Mode::empty())?;
    for component in path.components() {
        use std::path::Component;
        let name = match component {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            Component::ParentDir => OsStr::new(".."),
            Component::Normal(name) => name,
        };
        prefix.push(name);
        current = match open_beneath(root, &prefix, flags, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match rustix::fs::mkdirat(&current, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_beneath(root, &prefix, flags, Mode::empty())?
            }
            result => result?,
        };
    }
    Ok(current)
}

/// Opens the file `path` below `root` for reading and writing, made when missing together with its parent
/// directories (0755); links are followed as [`open_beneath`] does.
pub fn create_beneath(root: BorrowedFd<'_>, path: impl AsRef<Path>, mode: Mode) -> io::Result<OwnedFd> {
    let path = path.as_ref();
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        mkdir_all_beneath(root, parent, Mode::from_raw_mode(0o755))?;
    }
    open_beneath(root, path, OFlags::RDWR | OFlags::CREATE | OFlags::NOCTTY | OFlags::NONBLOCK, mode)
}

/// The path that names an open file, also one opened with `O_PATH`: calls that lack an `at` form with an
/// empty path reach its inode through it. Needs `/proc`.
pub fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The extended attributes of an open file, sorted by name. Works with `O_PATH` descriptors, also of
/// symbolic links. A file system without attributes has none.
pub fn xattrs(fd: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let path = proc_path(fd);
    let mut found = Vec::new();
    for name in xattr_names(&path)? {
        if let Some(value) = xattr_at(&path, &name)? {
            found.push((name, value));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn xattr_names(path: &str) -> io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0; 256];
    loop {
        match rustix::fs::listxattr(path, list.as_mut_slice()) {
            Ok(length) => {
                list.truncate(length);
                break;
            }
            Err(Errno::RANGE) => {
                let size = rustix::fs::listxattr(path, &mut [0_u8; 0][..])?;
                list.resize(size.max(list.len()) + 256, 0);
            }
            Err(Errno::NOTSUP) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

fn xattr_at(path: &str, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::getxattr(path, name, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::RANGE) => {
                let size = rustix::fs::getxattr(path, name, &mut [0_u8; 0][..])?;
                value.resize(size.max(value.len()) + 256, 0);
            }
            // It went away in between, or this process may not see it.
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// One extended attribute of an open file (`O_PATH` is enough), if it is set.
pub fn xattr(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<Vec<u8>>> {
    xattr_at(&proc_path(fd), name.as_bytes())
}

/// Sets an extended attribute of an open file (`O_PATH` is enough, also of a symbolic link).
pub fn set_xattr(fd: BorrowedFd<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(proc_path(fd), name, value, rustix::fs::XattrFlags::empty())?)
}

/// Deeper directories than this are moved up before they are removed, which bounds open descriptors.
const REMOVAL_DEPTH: usize = 48;

struct Doomed {
    fd: OwnedFd,
    name: CString,
    directories: Vec<CString>,
}

/// Removes `name` in `dir` with everything below it, following no link and entering no mount. A missing
/// name is no error. Depth is unbounded, memory and descriptors are not.
pub fn remove_tree_at(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<()> {
    let name = CString::new(name.as_ref().as_bytes())?;
    match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut stack = vec![doom(dir, name)?];
    let mut moved = 0_u64;
    while let Some(current) = stack.last_mut() {
        let Some(next) = current.directories.pop() else {
            let done = stack.pop().expect("the loop saw it");
            let parent = stack.last().map_or(dir, |doomed| doomed.fd.as_fd());
            match rustix::fs::unlinkat(parent, &done.name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        if stack.len() < REMOVAL_DEPTH {
            let parent = stack.last().expect("the loop saw it").fd.as_fd();
            let doomed = doom(parent, next)?;
            stack.push(doomed);
            continue;
        }
        moved += 1;
        let lifted = CString::new(unique_name(&format!(".deep-{moved}-")))?;
        let parent = stack.last().expect("the loop saw it");
        let top = stack.first().expect("at least as long as the depth");
        rustix::fs::renameat(&parent.fd, &next, &top.fd, &lifted)?;
        stack.first_mut().expect("at least as long as the depth").directories.push(lifted);
    }
    Ok(())
}

/// Opens a directory that is to be removed and unlinks all in it that is no directory.
fn doom(parent: BorrowedFd<'_>, name: CString) -> io::Result<Doomed> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let open = || rustix::fs::openat2(parent, &name, flags, Mode::empty(), resolve);
    let make_accessible = || rustix::fs::chmodat(parent, &name, Mode::RWXU, AtFlags::empty());
    let fd = match open() {
        Err(Errno::ACCESS) => {
            make_accessible()?;
            open()?
        }
        result => result?,
    };
    let mut directories = Vec::new();
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(&fd, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let child = entry.file_name();
        if child == c"." || child == c".." {
            continue;
        }
        match rustix::fs::unlinkat(&fd, child, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => directories.push(child.to_owned()),
            Err(Errno::ACCESS) => {
                // Only somebody without CAP_DAC_OVERRIDE gets here: the directory itself lacks `w` or `x`.
                make_accessible()?;
                match rustix::fs::unlinkat(&fd, child, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::ISDIR) => directories.push(child.to_owned()),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Doomed { fd, name, directories })
}

/// Removes the tree at `path`; a missing one is no error.
pub fn remove_tree(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref();
    let failed = |error: io::Error| path_error("remove", path, error);
    let Some(name) = path.file_name() else {
        return Err(failed(Errno::INVAL.into()));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match rustix::fs::openat(CWD, parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => remove_tree_at(fd.as_fd(), name).map_err(failed),
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(error.into())),
    }
}

/// Moves `path` into the directory `trash` of the same file system under a new name, which it returns.
/// `None` when there is nothing at `path`.
pub fn rename_to_trash(path: impl AsRef<Path>, trash: impl AsRef<Path>) -> io::Result<Option<PathBuf>> {
    let (path, trash) = (path.as_ref(), trash.as_ref());
    let target: OsString = unique_name("t-").into();
    let target = trash.join(target);
    match rustix::fs::rename(path, &target) {
        Ok(()) => Ok(Some(target)),
        Err(Errno::NOENT) if rustix::fs::lstat(path).is_err_and(|error| error == Errno::NOENT) => Ok(None),
        Err(error) => Err(path_error("move to the trash", path, error)),
    }
}

/// Lets the calling thread use the disk and the processor only when nobody else wants them.
pub fn become_idle() -> io::Result<()> {
    const WHO_PROCESS: libc::c_long = 1;
    const THIS_THREAD: libc::c_long = 0;
    const CLASS_IDLE: libc::c_long = 3 << 13;
    // SAFETY: ioprio_set(2) takes three integers, reads no memory, and changes only this thread's priority.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, THIS_THREAD, CLASS_IDLE) };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    rustix::process::setpriority_process(None, 19)?;
    Ok(())
}
