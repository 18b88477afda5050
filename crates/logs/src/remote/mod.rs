//! Entries sent to a server. Everything here may wait for the network: a shim does it in a process of its own.

mod fluentd;
mod gelf;
mod journald;
mod syslog;

use crate::format::Stream;
use crate::lines::slot;
use crate::target::{Address, Target};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a connection may take to come about, and a send to be taken.
const PATIENCE: Duration = Duration::from_secs(5);

/// After a failure nothing is tried for so long: entries would wait behind a server that is not there.
const PAUSE: Duration = Duration::from_secs(1);

/// Whose entries they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// 64 hex digits.
    pub container_id: String,
    /// Without a slash.
    pub container_name: String,
    /// The image's id.
    pub image_id: String,
    /// The image as the user named it.
    pub image_name: String,
    /// The command line.
    pub command: String,
    /// When the container was made, as in logs.
    pub created: String,
    /// What the option `tag` gave.
    pub tag: String,
    /// What the options `labels` and `env` picked.
    pub attrs: BTreeMap<String, String>,
}

impl About {
    fn short_id(&self) -> &str {
        self.container_id.get(..12).unwrap_or(&self.container_id)
    }
}

/// One text on its way.
#[derive(Debug, Clone)]
struct Message<'a> {
    stream: Stream,
    time: Timestamp,
    text: &'a [u8],
    part: Option<Part>,
    /// Counts all entries of this sender.
    number: u64,
}

/// Place of a text in a line that is longer than an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// The same in all parts of the line.
    id: String,
    number: u32,
    is_last: bool,
}

/// A sender to one server, for one container.
#[derive(Debug)]
pub struct Remote {
    target: Target,
    about: About,
    host: String,
    socket: Option<Socket>,
    failed: Option<Instant>,
    /// The line under way on each stream.
    lines: [Option<Part>; 2],
    /// Tells this sender's entries from those of earlier runs.
    epoch: String,
    number: u64,
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Datagram(UnixDatagram),
    Tcp(TcpStream),
    Stream(UnixStream),
}

impl Remote {
    /// Connects; a target that is to be connected later is tried with the first entry.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn connect(target: Target, about: About) -> io::Result<Self> {
        let later = matches!(target, Target::Fluentd { later: true, .. });
        let mut remote = Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            epoch: epoch(&about),
            target,
            about,
            socket: None,
            failed: None,
            lines: [None, None],
            number: 0,
        };
        if !later {
            remote.socket = Some(remote.open()?);
        }
        Ok(remote)
    }

    fn open(&self) -> io::Result<Socket> {
        match &self.target {
            Target::Syslog { address: Some(address), .. }
            | Target::Gelf { address, .. }
            | Target::Fluentd { address, .. } => open(address),
            Target::Syslog { address: None, .. } => syslog::open_local(),
            Target::Journald => open_datagram(Path::new(journald::SOCKET)),
        }
    }

    /// Sends one text, whose line ends with it if it is `whole`. A connection that broke is made anew once.
    ///
    /// # Errors
    /// The entry is lost.
    pub fn send(&mut self, stream: Stream, time: Timestamp, text: &[u8], whole: bool) -> io::Result<()> {
        self.number += 1;
        let part = self.part(stream, whole);
        let message = Message { stream, time, text, part, number: self.number };
        let packets = self.encode(&message);
        let had_socket = self.socket.is_some();
        match self.try_send(&packets) {
            Err(_) if had_socket => self.try_send(&packets),
            outcome => outcome,
        }
    }

    /// Numbers the parts of long lines.
    fn part(&mut self, stream: Stream, whole: bool) -> Option<Part> {
        let line = &mut self.lines[slot(stream)];
        let part = match line.take() {
            Some(before) => Part { number: before.number + 1, is_last: whole, ..before },
            None if whole => return None,
            None => {
                Part { id: format!("{}{:016x}", &self.epoch[..48], self.number), number: 1, is_last: false }
            }
        };
        if !whole {
            *line = Some(part.clone());
        }
        Some(part)
    }

    fn encode(&self, message: &Message<'_>) -> Vec<Vec<u8>> {
        match &self.target {
            Target::Syslog { facility, format, .. } => {
                vec![syslog::encode(*format, *facility, &self.host, &self.about.tag, message)]
            }
            Target::Journald => vec![journald::encode(&self.about, &self.epoch, message)],
            Target::Gelf { address, compression } => {
                gelf::encode(address, *compression, &self.host, &self.about, message)
            }
            Target::Fluentd { precise, .. } => vec![fluentd::encode(*precise, &self.about, message)],
        }
    }

    fn try_send(&mut self, packets: &[Vec<u8>]) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            None if self.failed.is_some_and(|failed| failed.elapsed() < PAUSE) => {
                return Err(io::Error::other("the server was not reached a moment ago"));
            }
            None => {
                let opened = self.open().inspect_err(|_| self.failed = Some(Instant::now()))?;
                self.socket.insert(opened)
            }
        };
        let sent = packets.iter().try_for_each(|packet| socket.send(packet));
        if sent.is_err() {
            self.socket = None;
        }
        sent
    }
}

/// 64 hex digits that no other run of the container has.
fn epoch(about: &About) -> String {
    let now = Timestamp::now().as_nanosecond();
    let id = about.container_id.get(..40).unwrap_or("0000000000000000000000000000000000000000");
    format!("{id}{:024x}", now.cast_unsigned() & 0xffff_ffff_ffff_ffff_ffff_ffff)
}

fn open(address: &Address) -> io::Result<Socket> {
    match address {
        Address::Udp(place) => {
            let to = place.to_socket_addrs()?.next().ok_or(io::ErrorKind::NotFound)?;
            let any: (std::net::IpAddr, u16) =
                if to.is_ipv4() { ([0, 0, 0, 0].into(), 0) } else { ([0u16; 8].into(), 0) };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            Ok(Socket::Udp(socket))
        }
        Address::Tcp(place) => {
            let mut last = io::Error::from(io::ErrorKind::NotFound);
            for to in place.to_socket_addrs()? {
                match TcpStream::connect_timeout(&to, PATIENCE) {
                    Ok(stream) => {
                        stream.set_write_timeout(Some(PATIENCE))?;
                        return Ok(Socket::Tcp(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
        Address::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(Socket::Stream(stream))
        }
        Address::UnixDatagram(path) => open_datagram(path),
    }
}

fn open_datagram(path: &Path) -> io::Result<Socket> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(Socket::Datagram(socket))
}

impl Socket {
    fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        match self {
            // Nobody may listen yet: the answer to an earlier datagram says nothing of this one.
            Self::Udp(socket) => match socket.send(packet) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    socket.send(packet).map(drop)
                }
                sent => sent.map(drop),
            },
            Self::Datagram(socket) => socket.send(packet).map(drop),
            Self::Tcp(stream) => stream.write_all(packet),
            Self::Stream(stream) => stream.write_all(packet),
        }
    }
}

#[cfg(test)]
mod tests;
