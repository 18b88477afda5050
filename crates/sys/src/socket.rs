//! Descriptors over unix sockets.

use rustix::cmsg_space;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice, IoSliceMut, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::io;
use std::mem::MaybeUninit;

/// Most descriptors that one message carries in either direction.
pub const MAX_FDS: usize = 64;

/// A connected pair of stream sockets, both close-on-exec.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A connected pair of sockets that keep message boundaries, both close-on-exec.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends `bytes` with `fds` attached to the first of them, all of it or an error.
///
/// A peer that has gone is `EPIPE`, never a signal. `bytes` must not be empty when there are descriptors.
pub fn send_with_fds(stream: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS || (bytes.is_empty() && !fds.is_empty()) {
        return Err(Errno::INVAL.into());
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let mut sent =
        retry_on_intr(|| sendmsg(&stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))?;
    while sent < bytes.len() {
        let rest = &bytes[sent..];
        sent += retry_on_intr(|| rustix::net::send(&stream, rest, SendFlags::NOSIGNAL))?;
    }
    Ok(())
}

/// Receives at most `buffer.len()` bytes and the descriptors that came with them, close-on-exec.
///
/// 0 bytes is the end of the stream. More than [`MAX_FDS`] descriptors are an error, and none is kept.
pub fn recv_with_fds(stream: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    recv_flags(stream, buffer, RecvFlags::CMSG_CLOEXEC)
}

/// As [`recv_with_fds`], but `WouldBlock` at once when nothing is there.
pub fn try_recv_with_fds(stream: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    recv_flags(stream, buffer, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
}

fn recv_flags(stream: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(buffer)];
    let message = retry_on_intr(|| recvmsg(&stream, &mut iov, &mut control, flags))?;
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MSGSIZE.into());
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_descriptors_with_the_first_byte() {
        let (a, b) = stream_pair().unwrap();
        let (c, d) = stream_pair().unwrap();
        send_with_fds(&a, b"hello", &[c.as_fd(), d.as_fd()]).unwrap();
        drop((c, d));
        let mut buffer = [0; 16];
        let (n, fds) = recv_with_fds(&b, &mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"hello");
        assert_eq!(fds.len(), 2);
        send_with_fds(&fds[0], b"x", &[]).unwrap();
        let (n, none) = recv_with_fds(&fds[1], &mut buffer).unwrap();
        assert_eq!((n, none.len()), (1, 0));
    }

    #[test]
    fn a_lost_peer_is_an_error_and_no_signal() {
        let (a, b) = stream_pair().unwrap();
        // Not dropped: a child that another test has just forked holds a copy until it runs its program.
        rustix::net::shutdown(&b, rustix::net::Shutdown::Both).unwrap();
        assert_eq!(send_with_fds(&a, b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn an_empty_socket_would_block() {
        let (a, _b) = seqpacket_pair().unwrap();
        let error = try_recv_with_fds(&a, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
