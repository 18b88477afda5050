//! The dialogue of a transfer.

use super::tree::{Entry, Kind, Tree};
use super::{Go, Limits, Wanted};
use crate::grpc::client::Exchange;
use crate::grpc::{Code, Status};
use crate::proto::files::{DATA, ERROR, FINISH, Packet, REQUEST, STAT, Stat};
use crate::session::Session;
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::Write;
use yare_errdefs::{Error, Result};
use yare_layer::Xattrs;

const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// Files that are under way at once.
const AT_ONCE: usize = 64;
/// Most bytes of the name of an extended attribute, as Linux has them.
const XATTR_NAME: usize = 255;

/// What came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Entries that the client told.
    pub(crate) entries: usize,
    /// Files whose content came.
    pub(crate) files: usize,
    /// Bytes of messages.
    pub(crate) bytes: u64,
}

/// Makes `tree` the same as what the client has. `progress` is told of bytes that came.
pub(crate) async fn receive(
    session: &Session,
    wanted: &Wanted,
    tree: &mut Tree,
    limits: Limits,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Received> {
    let exchange = session.call(METHOD, metadata(wanted)?).await?;
    let transfer = Transfer {
        exchange,
        tree,
        limits,
        names: 0,
        received: Received::default(),
        content: 0,
        open: HashMap::new(),
        waiting: VecDeque::new(),
        links: Vec::new(),
    };
    transfer.run(progress).await
}

struct Transfer<'a> {
    exchange: Exchange,
    tree: &'a mut Tree,
    limits: Limits,
    names: usize,
    received: Received,
    /// Bytes of files.
    content: u64,
    /// Files that were asked for, by number.
    open: HashMap<u32, (Vec<u8>, Option<File>)>,
    /// Files that are to be asked for.
    waiting: VecDeque<(u32, Vec<u8>)>,
    /// Hard links: made when all files are there.
    links: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Transfer<'_> {
    async fn run(mut self, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Received> {
        let (mut told_all, mut finished) = (false, false);
        let mut next = 0_u32;
        while let Some(packet) = self.exchange.message::<Packet>().await? {
            self.received.bytes += prost::Message::encoded_len(&packet) as u64;
            progress(self.received.bytes);
            match packet.kind {
                STAT => match packet.stat {
                    Some(_) if told_all => return Err(wrong("tells files behind the end of its list")),
                    Some(stat) => {
                        self.stat(next, stat)?;
                        next += 1;
                    }
                    None => told_all = true,
                },
                DATA => self.data(packet.id, &packet.data)?,
                FINISH if finished => return self.end(),
                FINISH => return Err(wrong("ends before it was told to")),
                ERROR => {
                    let text =
                        String::from_utf8_lossy(&packet.data[..packet.data.len().min(4096)]).into_owned();
                    return Err(Error::invalid(format!("the client cannot send its files: {text}")));
                }
                other => return Err(wrong(&format!("sends packets of the unknown kind {other}"))),
            }
            self.ask().await?;
            if told_all && self.open.is_empty() && self.waiting.is_empty() && !finished {
                finished = true;
                self.send(FINISH, 0).await?;
            }
        }
        Err(wrong("breaks off"))
    }

    fn stat(&mut self, number: u32, mut stat: Stat) -> Result<()> {
        self.received.entries += 1;
        let attributes = stat.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
        self.names += stat.path.len() + stat.link.len() + attributes.sum::<usize>();
        let Limits { entries, names, .. } = self.limits;
        if self.received.entries > entries || self.names > names {
            return Err(Error::invalid(format!(
                "the build context has more than {entries} entries, or names of more than {names} bytes"
            ))
            .with_hint("name in .dockerignore what the build does not need"));
        }
        let Some(entry) = entry(&mut stat) else {
            // Sockets, pipes and devices are nothing that a build can use.
            return Ok(());
        };
        let linked = matches!(entry.kind, Kind::File(..)) && !stat.link.is_empty();
        if self.tree.tell(&stat.path, entry)? && !linked {
            self.waiting.push_back((number, stat.path));
        } else if linked {
            self.links.push((stat.path, stat.link));
        }
        Ok(())
    }

    /// Asks for files, not for too many at once.
    async fn ask(&mut self) -> Result<()> {
        while self.open.len() < AT_ONCE
            && let Some((number, path)) = self.waiting.pop_front()
        {
            self.open.insert(number, (path, None));
            self.send(REQUEST, number).await?;
        }
        Ok(())
    }

    async fn send(&mut self, kind: i32, id: u32) -> Result<()> {
        let packet = Packet { kind, id, ..Packet::default() };
        Ok(self.exchange.send::<Packet>(&packet).await?)
    }

    fn data(&mut self, number: u32, bytes: &[u8]) -> Result<()> {
        let Some((path, file)) = self.open.get_mut(&number) else {
            return Err(wrong(&format!("sends the content of number {number}, which nobody asked for")));
        };
        let file = match file {
            Some(file) => file,
            None => file.insert(self.tree.create(path)?),
        };
        if bytes.is_empty() {
            self.tree.seal(path, file)?;
            self.received.files += 1;
            self.open.remove(&number);
            return Ok(());
        }
        self.content += bytes.len() as u64;
        if self.content > self.limits.bytes {
            return Err(Error::invalid(format!(
                "the files of the build context have more than {} bytes",
                self.limits.bytes
            )));
        }
        file.write_all(bytes).map_err(|error| {
            let path = String::from_utf8_lossy(path).into_owned();
            Error::internal(format!("cannot write {path:?} of the build context")).caused_by(error)
        })
    }

    fn end(mut self) -> Result<Received> {
        for (path, to) in std::mem::take(&mut self.links) {
            self.tree.link(&path, &to)?;
        }
        self.tree.settle()?;
        // The client waits for our end of the call, and for nothing that could still fail.
        if let Err(status) = self.exchange.outbound.close() {
            tracing::debug!(message = status.message, "a client left right after its files");
        }
        Ok(self.received)
    }
}

fn wrong(what: &str) -> Error {
    Error::invalid(format!("the client {what}"))
}

/// What a stat says; `None` for what is neither file, directory nor link.
fn entry(stat: &mut Stat) -> Option<Entry> {
    let go = stat.mode;
    let mut mode = Go::permissions(go);
    let kind = if go & Go::DIRECTORY != 0 {
        Kind::Directory
    } else if go & Go::LINK != 0 {
        mode = 0o777;
        Kind::Link(stat.link.clone())
    } else if go & Go::SPECIAL != 0 {
        return None;
    } else {
        Kind::File(u64::try_from(stat.size).unwrap_or(0), i128::from(stat.modified))
    };
    let mut xattrs: Xattrs =
        std::mem::take(&mut stat.xattrs).into_iter().map(|xattr| (xattr.name, xattr.value)).collect();
    // As of a context that is sent as a tar: what is the system's own to say is not taken from a client.
    xattrs.retain(|(name, _)| yare_layer::permitted_xattr(name, true) && name.len() <= XATTR_NAME);
    Some(Entry { kind, mode, xattrs })
}

fn metadata(wanted: &Wanted) -> Result<HeaderMap> {
    let mut metadata = HeaderMap::new();
    insert(&mut metadata, "dir-name", std::slice::from_ref(&wanted.dir))?;
    insert(&mut metadata, "include-patterns", &wanted.include)?;
    insert(&mut metadata, "followpaths", &wanted.follow)?;
    insert(&mut metadata, "exclude-patterns", &wanted.exclude)?;
    Ok(metadata)
}

/// Metadata carries ASCII; other texts are escaped, and a flag beside them says so.
fn insert(metadata: &mut HeaderMap, name: &'static str, values: &[String]) -> Result<(), Status> {
    let plain = values.iter().all(|value| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    for value in values {
        let text =
            if plain { value.clone() } else { utf8_percent_encode(value, NON_ALPHANUMERIC).to_string() };
        let text =
            HeaderValue::try_from(text).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        metadata.append(HeaderName::from_static(name), text);
    }
    if !plain {
        let flag = HeaderName::try_from(format!("{name}-encoded"))
            .map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        metadata.insert(flag, HeaderValue::from_static("1"));
    }
    Ok(())
}
