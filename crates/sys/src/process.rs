//! Clone, pidfds, waiting, descriptors, signals.
#![expect(unsafe_code, reason = "clone3, execve, signal masks and prctl have no safe wrappers")]

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions};
use std::ffi::{CStr, CString};
use std::io;
use std::ptr;
use std::time::Duration;

/// New mount namespace.
pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
/// New process id namespace.
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
/// New host name namespace.
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
/// New System V and message queue namespace.
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
/// New network namespace.
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
/// New cgroup namespace.
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
/// New user namespace.
pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
/// New time namespace (for children; not usable with clone3).
pub const NEWTIME: u64 = 0x80;
/// A working directory and root of one's own, as a thread needs before it changes its mount namespace.
pub const FS: u64 = libc::CLONE_FS as u64;
/// The child becomes a sibling: a child of the caller's parent.
pub const SIBLING: u64 = libc::CLONE_PARENT as u64;

const INTO_CGROUP: u64 = 0x2_0000_0000;
const PIDFD: u64 = libc::CLONE_PIDFD as u64;

/// Gives a program a session of its own: an interrupt at our terminal is for us, not for it.
pub fn in_own_session(command: &mut std::process::Command) -> &mut std::process::Command {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec this makes one system call, and touches no memory but its own stack.
    unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from)) }
}

/// Which side of [`fork`] this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// Process id of the child, in the caller's namespace.
        pid: i32,
        /// A descriptor of the child, close-on-exec.
        pidfd: OwnedFd,
    },
}

/// Refuses with a clear error when the process has more than one thread.
///
/// Asks the kernel, without /proc: `unshare(CLONE_THREAD)` is a no-op for one thread and EINVAL for more.
pub fn assert_single_threaded() -> io::Result<()> {
    // SAFETY: unshare takes no pointers; CLONE_THREAD changes nothing in a single-threaded process.
    let result = unsafe { libc::unshare(libc::CLONE_THREAD) };
    if result != 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL) {
        return Err(io::Error::other("refusing to fork: the process has more than one thread"));
    }
    Ok(())
}

/// Forks with clone3: a copy of the memory, new namespaces as `flags` say (`NEW…`), optionally straight
/// into a cgroup v2 directory.
///
/// Fails when the process has more than one thread: the child of a threaded process may do next to nothing.
pub fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    assert_single_threaded()?;
    let mut pidfd: RawFd = -1;
    let signal = if flags & SIBLING == 0 { libc::SIGCHLD } else { 0 };
    // SAFETY: clone_args is a plain struct of integers for which all zeroes is the documented default.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | PIDFD;
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = signal as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: clone3 reads `size` bytes of clone_args; without CLONE_VM the child has its own memory and
    // stack, and there is one thread, so no lock is held by anybody else in the copy.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => {
            // SAFETY: the kernel has stored a fresh descriptor that nothing else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Fork::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// As [`fork`], but the child is born in the pid namespace that `place` is in or is: a process's descriptor, or a
/// namespace's file.
///
/// Who is root of a user namespace cannot come back from a pid namespace into the host's. So another child goes there
/// and makes the one that is wanted as its sibling; where it is the caller's own nobody needs to go.
pub fn fork_within(place: impl AsFd, flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let place = place.as_fd();
    if is_own_pid_namespace(place)? {
        return fork(flags, cgroup);
    }
    let (ours, theirs) = crate::socket::seqpacket_pair()?;
    let go = || {
        join_namespaces(place, NEWPID)?;
        fork(flags | SIBLING, cgroup)
    };
    match fork(0, None)? {
        Fork::Child => match go() {
            Ok(Fork::Child) => Ok(Fork::Child),
            Ok(Fork::Parent { pidfd, .. }) => {
                let told = crate::socket::send_with_fds(&theirs, &[0], &[pidfd.as_fd()]);
                exit_now(i32::from(told.is_err()))
            }
            Err(error) => exit_now(error.raw_os_error().unwrap_or(libc::EIO)),
        },
        Fork::Parent { pidfd: messenger, .. } => {
            drop(theirs);
            let answer = crate::socket::recv_with_fds(&ours, &mut [0]);
            let end = wait(&messenger, true)?;
            let Some(pidfd) = answer?.1.into_iter().next() else {
                return Err(io::Error::from_raw_os_error(end.map_or(libc::EIO, Exit::code)));
            };
            let pid = number_in_proc(&pidfd)?.cast_signed();
            Ok(Fork::Parent { pid, pidfd })
        }
    }
}

/// Whether a process, or a namespace, is in the caller's pid namespace.
fn is_own_pid_namespace(place: BorrowedFd<'_>) -> io::Result<bool> {
    let own = rustix::fs::stat("/proc/self/ns/pid")?;
    let other = match number_in_proc(&place) {
        Ok(number) => rustix::fs::stat(format!("/proc/{number}/ns/pid"))?,
        Err(_) => rustix::fs::fstat(place)?,
    };
    Ok((own.st_dev, own.st_ino) == (other.st_dev, other.st_ino))
}

/// A user namespace with these maps, lines of `ID-INSIDE ID-OUTSIDE COUNT`. `/proc` must show this process.
///
/// A namespace needs somebody in it while its maps are written: a child, which is gone afterwards.
pub fn user_namespace(uids: &str, gids: &str) -> io::Result<OwnedFd> {
    let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let pidfd = match fork(NEWUSER, None)? {
        Fork::Child => {
            drop(ours);
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&theirs, &mut [0]));
            exit_now(0)
        }
        Fork::Parent { pidfd, .. } => pidfd,
    };
    let fill = || {
        let child = format!("/proc/{}", number_in_proc(&pidfd)?);
        std::fs::write(format!("{child}/uid_map"), uids)?;
        std::fs::write(format!("{child}/gid_map"), gids)?;
        Ok(std::fs::File::open(format!("{child}/ns/user"))?.into())
    };
    let filled = fill();
    drop(ours);
    // Where SIGCHLD is ignored nobody is left to wait for.
    let _ = wait(&pidfd, true);
    filled
}

/// A process's number as `/proc` has it, which may be that of another namespace.
fn number_in_proc(pidfd: &impl AsFd) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("/proc does not show a child of this process"))
}

/// Ends the process at once: no destructors, no exit handlers. For children of [`fork`].
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The code a shell would report: 128 + n for signal n.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits for and reaps the child behind a pidfd; `None` when `block` is false and it still runs.
pub fn wait(pidfd: impl AsFd, block: bool) -> io::Result<Option<Exit>> {
    let mut options = WaitIdOptions::EXITED;
    if !block {
        options |= WaitIdOptions::NOHANG;
    }
    let pidfd = pidfd.as_fd();
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::PidFd(pidfd), options))?;
    Ok(status.map(|status| match status.exit_status() {
        Some(code) => Exit::Code(code),
        None => Exit::Signal(status.terminating_signal().unwrap_or(0)),
    }))
}

/// Reaps any one ended child without waiting; `None` when there is none.
pub fn reap_any() -> io::Result<Option<(i32, Exit)>> {
    match rustix::io::retry_on_intr(|| rustix::process::wait(WaitOptions::NOHANG)) {
        Ok(Some((pid, status))) => {
            let exit = match status.exit_status() {
                Some(code) => Exit::Code(code),
                None => Exit::Signal(status.terminating_signal().unwrap_or(0)),
            };
            Ok(Some((pid.as_raw_nonzero().get(), exit)))
        }
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A descriptor of a running process, close-on-exec.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends a signal by number; 0 only checks. Real-time signals are allowed.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo is allowed, and the descriptor is borrowed for the length of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(result)
}

/// Sends a signal by number to a process id, or with a negative one to a group; -1 is everybody it may reach.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes no pointers.
    check(i64::from(unsafe { libc::kill(pid, signal) }))
}

/// Closes every descriptor from `first` to `last`, both included.
///
/// Anything in this process that still owns one of them must not use or drop it afterwards; so this is for
/// the short time between a fork and an exec or `exit_now`.
pub fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: close_range takes no pointers; owners of the closed descriptors are the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) })
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    const CLOEXEC: u32 = 4;
    // SAFETY: close_range takes no pointers, and with this flag it closes nothing now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) })
}

/// Closes everything but 0, 1, 2 and `keep`. See [`close_range`] for what the caller promises.
pub fn close_all_but(keep: &[RawFd]) -> io::Result<()> {
    let mut keep: Vec<u32> = keep.iter().filter(|fd| **fd > 2).map(|fd| *fd as u32).collect();
    keep.sort_unstable();
    let mut next = 3;
    for fd in keep {
        if fd > next {
            close_range(next, fd - 1)?;
        }
        next = next.max(fd + 1);
    }
    close_range(next, u32::MAX)
}

/// Makes `from` also descriptor `to` (0, 1 or 2), not close-on-exec.
pub fn duplicate_to(from: impl AsFd, to: RawFd) -> io::Result<()> {
    let from = from.as_fd().as_raw_fd();
    if from == to {
        // SAFETY: F_SETFD takes an integer; clearing the flag has no memory effects.
        return check(i64::from(unsafe { libc::fcntl(from, libc::F_SETFD, 0) }));
    }
    // SAFETY: dup3 takes no pointers; whoever owned `to` now owns the duplicate, as with stdio streams.
    check(i64::from(unsafe { libc::dup3(from, to, 0) }))
}

/// NUL-terminated strings and the pointer array that `execve` wants.
struct Vector {
    pointers: Vec<*const libc::c_char>,
}

impl Vector {
    fn new(strings: &[CString]) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
        pointers.push(ptr::null());
        Self { pointers }
    }
}

/// Replaces the process by the program at `path`; returns only the error.
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (Vector::new(arguments), Vector::new(environment));
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call, both arrays end with null.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// As [`execve`] for an open file. For a script the descriptor must not be close-on-exec.
pub fn execve_fd(file: impl AsFd, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (arguments, environment) = (Vector::new(arguments), Vector::new(environment));
    // SAFETY: as for execve; an empty path with AT_EMPTY_PATH names the descriptor, which is borrowed.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Blocks every signal; they wait until [`wait_signal`] or [`default_signals`].
pub fn block_signals() -> io::Result<()> {
    set_mask(!0)
}

/// Lets every signal through again.
pub fn unblock_signals() -> io::Result<()> {
    set_mask(0)
}

/// Default action for every signal and none blocked: what a program expects to start with.
pub fn default_signals() -> io::Result<()> {
    for signal in [libc::SIGPIPE, libc::SIGCHLD, libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGTTOU] {
        set_default(signal)?;
    }
    set_mask(0)
}

/// The same for every signal there is, for a process whose parents may have ignored any of them.
pub fn default_all_signals() -> io::Result<()> {
    for signal in 1..=64 {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            set_default(signal)?;
        }
    }
    set_mask(0)
}

/// The kernel's `struct sigaction` with the default action.
#[repr(C)]
struct DefaultAction([u64; 4]);

fn set_default(signal: i32) -> io::Result<()> {
    let action = DefaultAction([0; 4]);
    // SAFETY: rt_sigaction reads one kernel sigaction (at most 32 bytes on 64-bit machines), here zeroes,
    // which is SIG_DFL with an empty mask; libc's wrapper is avoided because it refuses signals 32 and 33.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, ptr::null::<u8>(), 8usize)
    };
    check(result)
}

fn set_mask(mask: u64) -> io::Result<()> {
    // SAFETY: rt_sigprocmask reads 8 bytes of a mask and a null old mask is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            ptr::null::<u64>(),
            8usize,
        )
    };
    check(result)
}

/// When a process was started, in ticks since the boot (proc_pid_stat(5), field 22): numbers of processes come again,
/// this with the same number does not.
pub fn birth(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat[stat.rfind(')')? + 1..].split_whitespace().nth(19)?.to_owned())
}

/// Waits for any blocked signal and takes it; gives its number. Without one in time: `WouldBlock`.
pub fn wait_signal(patience: Option<Duration>) -> io::Result<i32> {
    let mask: u64 = !0;
    let patience = patience.map(|patience| libc::timespec {
        tv_sec: patience.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(patience.subsec_nanos() as i32),
    });
    let timeout = patience.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: rt_sigtimedwait reads 8 bytes of a mask and a timespec, both alive; null info and timeout are
    // allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const mask,
            ptr::null_mut::<libc::siginfo_t>(),
            timeout,
            8usize,
        )
    };
    if result > 0 { Ok(result as i32) } else { Err(io::Error::last_os_error()) }
}

/// Ignores one signal.
pub fn ignore_signal(signal: i32) -> io::Result<()> {
    // SAFETY: SIG_IGN installs no handler of ours.
    let result = unsafe { libc::signal(signal, libc::SIG_IGN) };
    if result == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets real, effective and saved group id, supplementary groups and user ids, in the order that works.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: setgroups reads `len` ids from a live slice. The raw call: one thread, so no broadcast.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) })?;
    // SAFETY: setresgid takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: setresuid takes no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })
}

/// Leaves the caller's session keyring for an empty one. A kernel without keys is no error.
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    let result =
        unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>()) };
    match check(result) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other,
    }
}

/// Makes the terminal the controlling one of this session. The caller must be a session leader.
pub fn set_controlling_terminal(terminal: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// Joins several namespaces of one process at once (`NEW…` bits).
pub fn join_namespaces(pidfd: impl AsFd, kinds: u64) -> io::Result<()> {
    // SAFETY: setns takes no pointers; the caller is single-threaded, which the kernel checks where needed.
    check(i64::from(unsafe { libc::setns(pidfd.as_fd().as_raw_fd(), kinds as i32) }))
}

/// Leaves namespaces for new ones (`NEW…` bits), or with [`FS`] its shared working directory.
pub fn unshare(kinds: u64) -> io::Result<()> {
    // SAFETY: unshare takes no pointers.
    check(i64::from(unsafe { libc::unshare(kinds as i32) }))
}

/// Sets a resource limit by `RLIMIT_…` name in this process; `u64::MAX` is no limit.
///
/// `None` when the name is unknown.
pub fn set_limit(name: &str, soft: u64, hard: u64) -> Option<io::Result<()>> {
    const NAMES: [&str; 16] = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let short = name.strip_prefix("RLIMIT_")?;
    let resource = NAMES.iter().position(|known| *known == short)?;
    let limit = [soft, hard];
    // SAFETY: prlimit64 reads a struct of two u64, which the array is; a null old limit is allowed.
    Some(check(unsafe {
        libc::syscall(libc::SYS_prlimit64, 0, resource, limit.as_ptr(), ptr::null::<u64>())
    }))
}

/// Overwrites what `ps` shows as this process's command line and name.
///
/// Best effort: without a readable /proc nothing changes.
pub fn set_title(title: &str) {
    match TitleArea::find() {
        Some(area) => area.write(title),
        None => set_name(title),
    }
}

/// At most 15 bytes of the last component.
fn set_name(title: &str) {
    let short: Vec<u8> = title.rsplit('/').next().unwrap_or(title).bytes().take(15).collect();
    if let Ok(name) = CString::new(short) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Where the kernel finds this process's command line, for a title that is set when /proc is out of reach.
#[derive(Debug)]
pub struct TitleArea {
    start: usize,
    end: usize,
}

impl TitleArea {
    /// Reads `/proc/self/stat` (fields 48 and 49).
    pub fn find() -> Option<Self> {
        let stat = std::fs::read("/proc/self/stat").ok()?;
        let after_name = stat.iter().rposition(|byte| *byte == b')')?;
        let text = std::str::from_utf8(stat.get(after_name + 2..)?).ok()?;
        let mut fields = text.split(' ');
        let start: usize = fields.nth(45)?.parse().ok()?;
        let end: usize = fields.next()?.parse().ok()?;
        (start != 0 && end > start).then_some(Self { start, end })
    }

    /// Writes the title, cut to the room there is, and the short name.
    pub fn write(&self, title: &str) {
        set_name(title);
        let room = self.end - self.start;
        let mut text = title.as_bytes().to_vec();
        text.truncate(room.saturating_sub(1));
        text.resize(room, 0);
        // SAFETY: the kernel said that [start, end) is this process's argument block, which is writable and
        // mapped for the life of the process; nobody holds a reference into it: std and libc copy arguments
        // out when they are asked for.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr(), self.start as *mut u8, room) };
    }
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_to_fork_with_threads() {
        // The test harness itself runs this on a second thread.
        let error = fork(0, None).unwrap_err();
        assert!(error.to_string().contains("more than one thread"), "{error}");
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(Exit::Code(3).code(), 3);
        assert_eq!(Exit::Signal(9).code(), 137);
    }

    #[test]
    fn unknown_limits_are_told_apart() {
        assert!(set_limit("RLIMIT_NONSENSE", 1, 1).is_none());
        assert!(set_limit("NOFILE", 1, 1).is_none());
    }
}
