//! Noticing that somebody else changed our table.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::netlink::{Attributes, Messages, Socket};
use crate::nft;

/// `NFNLGRP_NFTABLES`: every change of every table.
const GROUP: u32 = 7;

/// What ended a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Our table was touched by somebody else, or news were lost.
    Ours,
    /// Nothing that concerns us.
    Other,
    /// The stop signal.
    Stop,
}

/// Listens to changes of nftables.
#[derive(Debug)]
pub(crate) struct Watch {
    socket: Socket,
    stop: OwnedFd,
    buffer: Vec<u8>,
}

impl Watch {
    /// Starts to listen; `stop` becomes readable when it should end.
    pub(crate) fn open(stop: OwnedFd) -> io::Result<Self> {
        let socket = Socket::open(netlink_sys::protocols::NETLINK_NETFILTER)?;
        socket.raw().add_membership(GROUP)?;
        Ok(Self { socket, stop, buffer: vec![0; 64 * 1024] })
    }

    /// Waits for the next news; those from the netlink address `own` do not count. When nothing comes within
    /// `limit`, that counts as a change of ours.
    pub(crate) fn wait(&mut self, table: &str, own: u32, limit: Option<Duration>) -> Change {
        let mut descriptors =
            [PollFd::new(self.socket.raw(), PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match poll(&mut descriptors, limit.as_ref()) {
            Ok(0) => return Change::Ours,
            Ok(_) if !descriptors[1].revents().is_empty() => return Change::Stop,
            Err(_) => return Change::Other,
            Ok(_) => {}
        }
        self.drain(table, own)
    }

    fn drain(&mut self, table: &str, own: u32) -> Change {
        let mut change = Change::Other;
        loop {
            match rustix::net::recv(self.socket.raw(), self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    if concerns(&self.buffer[..length], table, own) {
                        change = Change::Ours;
                    }
                }
                // More news than fit: anything may have happened.
                Err(Errno::NOBUFS) => change = Change::Ours,
                Err(Errno::INTR) => {}
                Err(_) => return change,
            }
        }
    }
}

/// Whether the news are about something in `table` that another than `own` changed.
fn concerns(news: &[u8], table: &str, own: u32) -> bool {
    Messages(news).any(|message| {
        // Messages about generations have no name of a table in their first attribute.
        let about_object = message.kind >= nft::kind(0) && message.kind < nft::kind(15);
        let attributes = message.payload.get(4..).unwrap_or_default();
        let name = Attributes(attributes).next().filter(|(kind, _)| *kind == 1).map(|(_, name)| name);
        about_object
            && message.port != own
            && name.is_some_and(|name| name.strip_suffix(&[0]).unwrap_or(name) == table.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Writer;

    #[test]
    fn only_others_changes_of_our_table_count() {
        let mut news = Writer::new(1);
        let policy = crate::rules::Policy { icc: true, masquerade: true, internal: false };
        let ours = crate::rules::for_bridge("ours", "yare0", "10.0.0.0/24".parse().unwrap(), policy);
        nft::delete_table(&mut news, &ours);
        assert!(concerns(news.bytes(), "ours", 42));
        // The writer leaves the port 0.
        assert!(!concerns(news.bytes(), "ours", 0));
        assert!(!concerns(news.bytes(), "theirs", 42));
        assert!(!concerns(news.bytes(), "our", 42));
        assert!(!concerns(&news.bytes()[..10], "ours", 42));
    }
}
