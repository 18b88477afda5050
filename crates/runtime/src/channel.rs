//! What the caller and the child it starts tell each other.
//!
//! One socket with message boundaries, close-on-exec in the child: a successful `execve` is the end of the
//! stream, a failed one a message. One enum per direction.

use crate::confine::Filter;
use crate::error::{Result, StartError, Step};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use yare_sys::socket::{recv_with_fds, send_with_fds};

/// From the caller to the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Order {
    /// The child is in its cgroup, and hooks of the caller have run. Its filter follows.
    Joined = b'J',
    /// Run the program.
    Start = b'S',
}

/// From the child to the caller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// All namespaces are there; the caller's hooks may run.
    Namespaces,
    /// Everything but the last step is done. The terminal's master comes with it.
    Ready {
        /// What could not be had.
        warnings: Vec<String>,
    },
    /// Over and out.
    Failed(StartError),
}

/// Longest report; a longer text is cut.
const LARGEST: usize = 32 * 1024;

/// Lets the child run its program; a child that is gone is not an error here, its report says more.
pub(crate) fn order_start(channel: impl AsFd) {
    let _ = send_with_fds(channel, &[Order::Start as u8], &[]);
}

/// Tells the child that it is in its cgroup, and hands it its filter: the caller compiles that while the
/// child mounts.
pub(crate) fn order_joined(channel: impl AsFd, filter: Option<&Filter>) {
    let mut message = vec![Order::Joined as u8];
    if let Some(filter) = filter {
        filter.write(&mut message);
    }
    let _ = send_with_fds(channel, &message, &[]);
}

/// Waits for [`Order::Joined`]; the filter that came with it.
pub(crate) fn await_joined(channel: impl AsFd) -> Result<Option<Filter>> {
    // Not zeroed first: a filter is much shorter than the longest, and every page touched here stays.
    let mut message = Vec::with_capacity(Filter::LONGEST + 1);
    let read = || rustix::io::read(&channel, rustix::buffer::spare_capacity(&mut message));
    match rustix::io::retry_on_intr(read) {
        Ok(_) if message.first() == Some(&(Order::Joined as u8)) => Ok(Filter::read(&message[1..])),
        Ok(_) => Err(StartError::internal(Step::Namespaces, "the caller went away")),
        Err(error) => Err(StartError::io(Step::Namespaces, "cannot hear the caller", error)),
    }
}

/// Waits for the start. Without a caller there is nothing left to do.
pub(crate) fn await_start(channel: impl AsFd) -> Result<()> {
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(&channel, &mut byte)) {
        Ok(1) if byte[0] == Order::Start as u8 => Ok(()),
        Ok(_) => Err(StartError::internal(Step::Namespaces, "the caller went away")),
        Err(error) => Err(StartError::io(Step::Namespaces, "cannot hear the caller", error)),
    }
}

/// Sends a report, with a descriptor if there is one.
pub(crate) fn report(channel: impl AsFd, report: &Report, fd: Option<BorrowedFd<'_>>) -> Result<()> {
    let mut bytes = serde_json::to_vec(report).expect("a report is plain data");
    if bytes.len() > LARGEST {
        let short = StartError::internal(Step::Exec, "the reason is too long to be told");
        bytes = serde_json::to_vec(&Report::Failed(short)).expect("a report is plain data");
    }
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    send_with_fds(channel, &bytes, &fds)
        .map_err(|error| StartError::io(Step::Namespaces, "cannot reach the caller", error))
}

/// Receives a report; `None` at the end of the stream.
pub(crate) fn receive(channel: impl AsFd) -> Result<Option<(Report, Option<OwnedFd>)>> {
    let mut buffer = vec![0; LARGEST];
    let mut received = recv_with_fds(&channel, &mut buffer);
    // A child that ended with an order of ours unread: told once, and only then comes what it had sent.
    if matches!(&received, Err(error) if error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error())) {
        received = recv_with_fds(&channel, &mut buffer);
    }
    let (count, fds) =
        received.map_err(|error| StartError::io(Step::Namespaces, "cannot hear the child", error))?;
    if count == 0 {
        return Ok(None);
    }
    let report = serde_json::from_slice(&buffer[..count])
        .map_err(|error| StartError::internal(Step::Namespaces, format!("unreadable report: {error}")))?;
    Ok(Some((report, fds.into_iter().next())))
}
