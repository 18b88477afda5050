//! A thread that stays in a network namespace which its process leaves.
//!
//! Whoever enters a network namespace of another user namespace cannot come back. The engine of a user without root
//! does so; yet ports are published where that user is. A thread that was there before the others left stays and
//! makes sockets, and a socket belongs for ever to the namespace it was made in.

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Room for a system call.
const STACK: usize = 128 << 10;

struct Question {
    family: AddressFamily,
    kind: SocketType,
    answer: SyncSender<rustix::io::Result<OwnedFd>>,
}

/// The network namespace that a thread has stayed in.
#[derive(Debug)]
pub struct Outside(Mutex<SyncSender<Question>>);

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question")
            .field("family", &self.family)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Outside {
    /// Leaves a thread in the namespace of the calling one.
    pub fn stay() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(1);
        std::thread::Builder::new()
            .name("outside".to_owned())
            .stack_size(STACK)
            .spawn(move || serve(&receiver))?;
        Ok(Self(Mutex::new(sender)))
    }

    /// A TCP socket there, not connected yet whatever its type says.
    pub fn stream(&self, ipv6: bool) -> io::Result<TcpStream> {
        let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
        Ok(self.socket(family, SocketType::STREAM)?.into())
    }

    /// A socket that listens there, as the standard library makes one.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = self.socket(family, SocketType::STREAM)?;
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket.into())
    }

    /// A socket there, neither bound nor connected. What may be bound to is decided there, too.
    pub fn socket(&self, family: AddressFamily, kind: SocketType) -> rustix::io::Result<OwnedFd> {
        let (answer, answers) = sync_channel(1);
        let question = Question { family, kind, answer };
        // The thread ends with this value only.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).send(question).map_err(|_| Errno::NETDOWN)?;
        answers.recv().map_err(|_| Errno::NETDOWN)?
    }
}

fn serve(questions: &Receiver<Question>) {
    for Question { family, kind, answer } in questions {
        // Somebody who does not wait any more needs no socket.
        let _ = answer.send(socket_with(family, kind, SocketFlags::CLOEXEC, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{bind, getsockname};
    use std::net::Ipv4Addr;

    #[test]
    fn sockets_are_of_the_namespace_that_was_left() {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none_or(|value| value != "1"), "needs root");
            println!("SKIP sockets_are_of_the_namespace_that_was_left: needs root");
            return;
        }
        // In a new namespace the loopback interface is down, and nobody can bind to an address of it but to all.
        let socket = std::thread::spawn(|| {
            let outside = Outside::stay().unwrap();
            crate::netlink::unshare_network().unwrap();
            let there = outside.socket(AddressFamily::INET, SocketType::STREAM).unwrap();
            let here =
                socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
            let listening = outside.listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            (there, here, listening)
        });
        let (there, here, listening) = socket.join().unwrap();
        assert!(TcpStream::connect(listening.local_addr().unwrap()).is_ok());
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        for socket in [&there, &here] {
            bind(socket, &any).unwrap();
            rustix::net::listen(socket, 1).unwrap();
        }
        let connect = |socket: &OwnedFd| {
            let port = SocketAddr::try_from(getsockname(socket).unwrap()).unwrap().port();
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        };
        assert!(connect(&there), "this thread is in the namespace that was left");
        assert!(!connect(&here));
    }
}
