//! Questions that go on to the host's name servers.
//!
//! Each has a socket of its own, so that a stray or forged answer has to guess a port as well as a number.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

/// How long one name server may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The longest answer.
const LONGEST: usize = 64 << 10;

/// A question under way.
#[derive(Debug)]
pub(crate) struct Asked {
    /// As the container sent it.
    question: Vec<u8>,
    /// The number it has upstream.
    id: [u8; 2],
    over_tcp: bool,
    upstreams: Vec<IpAddr>,
    /// How many of them were asked.
    tried: usize,
    /// The last answer that helps nobody: better than none.
    poor: Option<Vec<u8>>,
    out: Vec<u8>,
    input: Vec<u8>,
    pub(crate) deadline: Instant,
}

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing yet.
    Waiting,
    /// The next name server was asked: by this socket.
    Asking(OwnedFd),
    /// The answer, with the number the container gave.
    Answered(Vec<u8>),
    /// Nobody is left to ask.
    Failed,
}

impl Asked {
    pub(crate) fn new(question: Vec<u8>, over_tcp: bool, upstreams: Vec<IpAddr>) -> Self {
        Self {
            question,
            id: [0; 2],
            over_tcp,
            upstreams,
            tried: 0,
            poor: None,
            out: Vec::new(),
            input: Vec::new(),
            deadline: Instant::now(),
        }
    }

    /// Asks the next name server that can be reached at all.
    pub(crate) fn ask_next(&mut self) -> Progress {
        while let Some(upstream) = self.upstreams.get(self.tried).copied() {
            self.tried += 1;
            if let Ok(socket) = self.ask(upstream) {
                return Progress::Asking(socket);
            }
        }
        self.poor.take().map_or(Progress::Failed, Progress::Answered)
    }

    fn ask(&mut self, upstream: IpAddr) -> io::Result<OwnedFd> {
        let mut id = [0; 2];
        rustix::rand::getrandom(&mut id, rustix::rand::GetRandomFlags::empty())?;
        self.id = id;
        self.deadline = Instant::now() + PATIENCE;
        self.input.clear();
        self.out.clear();
        let family = if upstream.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let kind = if self.over_tcp { SocketType::STREAM } else { SocketType::DGRAM };
        let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        match connect(&socket, &SocketAddr::new(upstream, 53)) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut question = self.question.clone();
        question[..2].copy_from_slice(&id);
        if self.over_tcp {
            let length = u16::try_from(question.len()).map_err(io::Error::other)?;
            self.out.extend(length.to_be_bytes());
            self.out.extend(question);
        } else {
            send(&socket, &question, SendFlags::NOSIGNAL)?;
        }
        Ok(socket)
    }

    /// Whether there is something to be written yet.
    pub(crate) fn wants_to_write(&self) -> bool {
        !self.out.is_empty()
    }

    /// Goes on after news of the socket.
    pub(crate) fn go_on(&mut self, socket: &OwnedFd) -> Progress {
        match self.exchange(socket) {
            Ok(None) => Progress::Waiting,
            Ok(Some(mut answer)) => {
                answer[..2].copy_from_slice(&self.question[..2]);
                // Another may know better: SERVFAIL and REFUSED.
                if matches!(answer[3] & 0x0f, 2 | 5) && self.tried < self.upstreams.len() {
                    self.poor = Some(answer);
                    return self.ask_next();
                }
                Progress::Answered(answer)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Progress::Waiting,
            Err(_) => self.ask_next(),
        }
    }

    fn exchange(&mut self, socket: &OwnedFd) -> io::Result<Option<Vec<u8>>> {
        while !self.out.is_empty() {
            let sent = send(socket, &self.out, SendFlags::NOSIGNAL)?;
            self.out.drain(..sent);
        }
        let mut buffer = vec![0; LONGEST];
        loop {
            let (length, _) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            if self.over_tcp {
                if length == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.input.extend(&buffer[..length]);
                if let Some(message) = take_message(&mut self.input) {
                    return if self.is_ours(&message) {
                        Ok(Some(message))
                    } else {
                        Err(io::ErrorKind::InvalidData.into())
                    };
                }
            } else if self.is_ours(&buffer[..length]) {
                return Ok(Some(buffer[..length].to_vec()));
            }
        }
    }

    /// An answer to our question: number and question are the same.
    fn is_ours(&self, answer: &[u8]) -> bool {
        const QUESTION: usize = 12;
        let end = question_end(&self.question).unwrap_or(self.question.len());
        answer.len() >= end
            && answer[..2] == self.id
            && answer[2] & 0x80 != 0
            && answer[QUESTION..end].eq_ignore_ascii_case(&self.question[QUESTION..end])
    }
}

/// Where the one question of a packet ends.
fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = 12;
    loop {
        match *packet.get(at)? {
            0 => break,
            length if length < 64 => at += usize::from(length) + 1,
            _ => return None,
        }
    }
    let end = at + 5;
    (end <= packet.len()).then_some(end)
}

/// Takes a message with its length before it out of what has come over a connection.
pub(crate) fn take_message(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes(*input.first_chunk()?));
    if input.len() < length + 2 {
        return None;
    }
    let message = input[2..length + 2].to_vec();
    input.drain(..length + 2);
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_connection_come_in_pieces() {
        let mut input = vec![0, 2, 7];
        assert_eq!(take_message(&mut input), None);
        input.extend([8, 0, 0, 0]);
        assert_eq!(take_message(&mut input), Some(vec![7, 8]));
        assert_eq!(take_message(&mut input), Some(Vec::new()));
        assert_eq!(take_message(&mut input), None);
        assert_eq!(input, [0]);
    }

    #[test]
    fn only_answers_to_the_question_count() {
        let question = [&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x03foo\x00\x00\x01\x00\x01"].concat();
        let mut asked = Asked::new(question.clone(), false, Vec::new());
        asked.id = [9, 9];
        let mut answer = question.clone();
        answer[..2].copy_from_slice(&[9, 9]);
        assert!(!asked.is_ours(&answer), "it is a question");
        answer[2] |= 0x80;
        assert!(asked.is_ours(&answer));
        answer[14] = b'O';
        assert!(asked.is_ours(&answer), "names have no case");
        answer[14] = b'x';
        assert!(!asked.is_ours(&answer));
        assert!(!asked.is_ours(&answer[..14]));
        assert!(matches!(asked.ask_next(), Progress::Failed));
    }
}
