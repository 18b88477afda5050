//! A connection on which an engine gives orders.

use crate::protocol::{Reply, Request};
use crate::wire::{self, Decoder, encode};
use rustix::event::{PollFd, PollFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// One engine's connection.
#[derive(Debug)]
pub(crate) struct Control {
    /// Names it while connections come and go.
    pub(crate) id: u64,
    /// Whether it is told of the exit.
    pub(crate) subscribed: bool,
    stream: UnixStream,
    decoder: Decoder,
    waiting: VecDeque<Outgoing>,
    dead: bool,
}

#[derive(Debug)]
struct Outgoing {
    frame: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

impl Control {
    /// Takes a stream over, with what was received on it beyond the launch.
    pub(crate) fn new(id: u64, stream: UnixStream, decoder: Decoder) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { id, subscribed: false, stream, decoder, waiting: VecDeque::new(), dead: false })
    }

    pub(crate) fn poll(&self) -> PollFd<'_> {
        let mut wanted = PollFlags::IN;
        wanted.set(PollFlags::OUT, !self.waiting.is_empty());
        PollFd::new(&self.stream, wanted)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    /// Whether every reply was sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends what waits and reads requests, as `events` allow.
    pub(crate) fn handle(&mut self, events: PollFlags) -> Vec<(Request, Vec<OwnedFd>)> {
        if events.contains(PollFlags::OUT) {
            self.flush();
        }
        let mut requests = Vec::new();
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match self.decoder.receive(&self.stream) {
                Ok(0) => self.dead = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.dead = true,
            }
        }
        loop {
            match self.decoder.next() {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => return requests,
                Err(_) => {
                    // Not our protocol, or a newer one: there is no way to find the next frame.
                    self.dead = true;
                    return requests;
                }
            }
        }
    }

    /// Sends a reply, now or when the engine reads again.
    pub(crate) fn reply(&mut self, reply: &Reply, descriptors: Vec<OwnedFd>) {
        self.waiting.push_back(Outgoing { frame: encode(reply), sent: 0, descriptors });
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(next) = self.waiting.front_mut() {
            let descriptors: Vec<_> = next.descriptors.iter().map(AsFd::as_fd).collect();
            match wire::send(self.stream.as_fd(), &next.frame[next.sent..], &descriptors) {
                Ok(length) => {
                    next.sent += length;
                    next.descriptors.clear();
                    if next.sent == next.frame.len() {
                        self.waiting.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.dead = true;
                    self.waiting.clear();
                }
            }
        }
    }
}
