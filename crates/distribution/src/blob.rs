//! Blobs: a verified stream that goes on after a broken connection where it was.

use crate::ahead::{Ahead, Parts};
use crate::error::{Asked, Broken};
use crate::repository::{Access, Repository};
use crate::session::{Call, Session};
use crate::wire::Response;
use crate::{Error, Result};
use bytes::{Buf, Bytes};
use http::Method;
use http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use yare_oci::{ContentDigest, ContentHasher, Descriptor, Hasher};

/// A sender slower than this over [`WINDOW`] counts as dead, in bytes.
const SLOWEST: u64 = 16 * 1024;
const WINDOW: Duration = Duration::from_secs(60);

/// A blob by what it is called, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Blob {
    /// What it is called.
    #[serde(rename = "digest")]
    pub name: ContentDigest,
    /// Its bytes.
    pub size: u64,
}

impl From<&Descriptor> for Blob {
    fn from(descriptor: &Descriptor) -> Self {
        Self { name: descriptor.digest.into(), size: descriptor.size }
    }
}

/// Where a download goes on: what is there of it already.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// Bytes that are there.
    pub offset: u64,
    /// A hasher that has seen them.
    pub hasher: Hasher,
}

/// The content of a blob as it comes in. Its end is only reported when size and digest are right.
pub struct BlobStream {
    asked: Asked,
    path: String,
    digest: ContentDigest,
    size: u64,
    sessions: Vec<Arc<Session>>,
    mirrors: Vec<Error>,
    response: Option<Response>,
    offset: u64,
    hasher: ContentHasher,
    /// Bytes of the next answer that are there already.
    skip: u64,
    /// Where the answer that is being read ends.
    until: u64,
    ahead: Option<Ahead>,
    failures: u32,
    failed_at: u64,
    received: u64,
    pace: Pace,
    ended: bool,
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStream({}, {}/{})", self.asked, self.offset, self.size)
    }
}

impl Repository {
    /// The content of a blob, from where `resume` ended. Nothing is asked before the first piece is.
    ///
    /// # Errors
    /// When more is there already than there should be.
    pub fn blob(&self, descriptor: &Descriptor, resume: Resume) -> Result<BlobStream> {
        let name = descriptor.digest.into();
        self.stream(&name, descriptor.size, (resume.offset, resume.hasher.into()))
    }

    /// The content of a blob, by what it is called.
    ///
    /// # Errors
    /// When no endpoint may be asked.
    pub fn blob_called(&self, blob: Blob) -> Result<BlobStream> {
        self.stream(&blob.name, blob.size, (0, blob.name.hasher()))
    }

    fn stream(
        &self,
        name: &ContentDigest,
        size: u64,
        (offset, hasher): (u64, ContentHasher),
    ) -> Result<BlobStream> {
        let asked = self.asked(format!("fetch blob {name}"));
        if offset > size {
            return Err(Error::content(&asked, "more of it is on the disk than it has bytes"));
        }
        let mut sessions = self.sessions(Access::Pull);
        sessions.reverse();
        if sessions.is_empty() {
            return Err(Error::refused(
                &asked,
                "no endpoint in hosts.toml of the registry may be asked for that",
            ));
        }
        Ok(BlobStream {
            path: format!("blobs/{name}"),
            asked,
            digest: *name,
            size,
            sessions,
            mirrors: Vec::new(),
            response: None,
            offset,
            hasher,
            skip: 0,
            until: size,
            ahead: None,
            failures: 0,
            failed_at: offset,
            received: 0,
            pace: Pace::new(offset),
            ended: false,
        })
    }

    /// The size of a blob that the registry itself has, 0 when it does not say; `None` when it does not have it.
    ///
    /// # Errors
    /// Of the registry, when it does not answer or forbids the question.
    pub async fn blob_size(&self, digest: impl Into<ContentDigest>) -> Result<Option<u64>> {
        let digest = digest.into();
        let asked = self.asked(format!("look for blob {digest}"));
        let session = self.push_session(&asked)?;
        let call = Call::new(&asked, Method::HEAD, format!("blobs/{digest}"), &[200, 404]);
        let response = session.send(&call).await?;
        Ok((response.status() == 200).then(|| response.length().unwrap_or_default()))
    }

    /// Whether the registry itself has a blob. What has another length is not that blob: a damaged one, or a
    /// page of somebody on the way.
    ///
    /// # Errors
    /// Of the registry, when it does not answer or forbids the question.
    pub async fn has_blob(&self, blob: impl Into<Blob>) -> Result<bool> {
        let blob = blob.into();
        let size = self.blob_size(blob.name).await?;
        Ok(size.is_some_and(|size| size == blob.size || size == 0))
    }
}

impl BlobStream {
    /// The same, in parts over several connections where the registry can and the blob is large enough.
    #[must_use]
    pub fn in_parts(mut self, parts: Parts) -> Self {
        self.ahead = Some(Ahead::new(parts));
        self
    }

    /// Bytes that came over the network, those of broken tries included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of the blob that are through, those that were there before included.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next piece; `None` at the end, when everything came and is right.
    ///
    /// # Errors
    /// When every endpoint and every try failed, or the content is not what the digest says. The stream is
    /// of no more use then.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while !self.ended {
            match self.step().await {
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                Ok(None) => {}
                Err(error) => self.recover(error).await?,
            }
        }
        Ok(None)
    }

    /// One piece, or nothing when the state moved on otherwise.
    async fn step(&mut self) -> Result<Option<Bytes>> {
        if self.offset == self.size && self.response.is_none() {
            // Everything was there before, or the connection broke exactly at the end.
            return self.finish();
        }
        let Some(response) = &mut self.response else {
            if let Some(ready) = self.part().await? {
                return Ok(ready);
            }
            self.response = Some(self.open().await?);
            self.pace = Pace::new(self.offset);
            return Ok(None);
        };
        let Some(mut chunk) = response.chunk(&self.asked).await? else {
            self.response = None;
            if self.offset == self.until && self.until < self.size {
                return Ok(None);
            }
            return self.finish();
        };
        self.received += chunk.len() as u64;
        let known = self.skip.min(chunk.len() as u64);
        self.skip -= known;
        chunk.advance(usize::try_from(known).unwrap_or(usize::MAX));
        if chunk.is_empty() {
            return Ok(None);
        }
        if chunk.len() as u64 > self.size - self.offset {
            return Err(Error::content(&self.asked, format!("more than its {} bytes came", self.size)));
        }
        // What an answer has beyond the part that was asked for comes by other ways.
        chunk.truncate(usize::try_from(self.until - self.offset).unwrap_or(usize::MAX));
        self.take(&chunk);
        if let Some(session) = self.sessions.last() {
            self.pace.check(self.offset, session, &self.asked)?;
        }
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    fn take(&mut self, chunk: &Bytes) {
        self.offset += chunk.len() as u64;
        self.hasher.update(chunk);
    }

    /// What came beside the answer that ended: a piece; nothing yet; `None` when it has to be asked for.
    async fn part(&mut self) -> Result<Option<Option<Bytes>>> {
        let Some(ahead) = &mut self.ahead else { return Ok(None) };
        if let Some(chunk) = ahead.ready.pop_front() {
            self.received += chunk.len() as u64;
            self.take(&chunk);
            return Ok(Some(Some(chunk)));
        }
        if let Some(error) = ahead.failed.take() {
            return Err(error);
        }
        if !ahead.wait(self.offset).await {
            return Ok(None);
        }
        if let Some(session) = self.sessions.last() {
            ahead.top_up(session, &self.asked, &self.path, self.size);
        }
        Ok(Some(None))
    }

    fn finish(&mut self) -> Result<Option<Bytes>> {
        if self.offset < self.size {
            let session = self.sessions.last().map(|session| session.endpoint.authority.clone());
            return Err(Error::Transport {
                asked: self.asked.clone(),
                url: session.unwrap_or_default(),
                broken: Broken::Cut,
                source: format!("it ended after {} of {} bytes", self.offset, self.size).into(),
            });
        }
        let actual = std::mem::replace(&mut self.hasher, self.digest.hasher()).finish();
        if actual != self.digest {
            let what = format!("the blob has digest {actual}, expected {}", self.digest);
            return Err(Error::content(&self.asked, what));
        }
        self.ended = true;
        Ok(None)
    }

    /// Asks for what is missing.
    async fn open(&mut self) -> Result<Response> {
        let Some(session) = self.sessions.last().cloned() else {
            return Err(Error::refused(&self.asked, "no endpoint is left"));
        };
        let call = Call::new(&self.asked, Method::GET, self.path.clone(), &[200, 206])
            .header(ACCEPT, "application/octet-stream, */*")
            .once();
        let end = self.ahead.as_ref().and_then(|ahead| ahead.end_from(self.offset, self.size));
        let call = match end {
            Some(end) => call.header(RANGE, &format!("bytes={}-{}", self.offset, end - 1)),
            None if self.offset > 0 => call.header(RANGE, &format!("bytes={}-", self.offset)),
            None => call,
        };
        self.skip = 0;
        let response = session.send(&call).await?;
        let promised = response.length();
        self.until = self.size;
        if response.status() == 206 {
            let range = response.header(CONTENT_RANGE.as_str()).and_then(start_of_range);
            if range.is_some_and(|start| start != self.offset) {
                return Err(Error::content(&self.asked, "another range came than was asked for"));
            }
            let more = response.length().zip(end).is_some_and(|(length, end)| length > end - self.offset);
            if more {
                // It knows where a range begins and not where it ends.
                self.ahead = None;
            } else if let (Some(ahead), Some(end)) = (&mut self.ahead, end) {
                self.until = end;
                ahead.begin(end);
                ahead.top_up(&session, &self.asked, &self.path, self.size);
            }
        } else {
            if let Some(length) = promised.filter(|length| *length != self.size) {
                return Err(Error::content(
                    &self.asked,
                    format!("it has {length} bytes, expected {}", self.size),
                ));
            }
            // A registry without ranges sends everything again: what is there is passed over.
            self.skip = self.offset;
            self.ahead = None;
        }
        Ok(response)
    }

    /// Whether, and after which pause, it goes on: at the same endpoint, or at the next.
    async fn recover(&mut self, error: Error) -> Result<()> {
        self.response = None;
        // Progress starts the count anew, but not a byte a time.
        if self.offset - self.failed_at >= SLOWEST {
            self.failures = 0;
        }
        self.failed_at = self.offset;
        self.failures += 1;
        let session = self.sessions.last().cloned();
        let pause = session.and_then(|session| session.pause(&error, self.failures));
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        self.sessions.pop();
        self.failures = 0;
        if self.sessions.is_empty() {
            let mirrors = std::mem::take(&mut self.mirrors);
            return Err(match mirrors.is_empty() {
                true => error,
                false => Error::Everywhere { mirrors, last: Box::new(error) },
            });
        }
        self.mirrors.push(error);
        Ok(())
    }
}

/// How fast a sender is: one that trickles would hold its place for ever.
#[derive(Debug)]
pub(crate) struct Pace {
    since: Instant,
    from: u64,
}

impl Pace {
    pub(crate) fn new(offset: u64) -> Self {
        Self { since: Instant::now(), from: offset }
    }

    pub(crate) fn check(&mut self, offset: u64, session: &Session, asked: &Asked) -> Result<()> {
        if self.since.elapsed() < WINDOW {
            return Ok(());
        }
        if offset - self.from < SLOWEST {
            let what =
                format!("only {} bytes came in {} s", offset - self.from, self.since.elapsed().as_secs());
            return Err(Error::timeout(asked, session.endpoint.authority.clone(), what));
        }
        *self = Self::new(offset);
        Ok(())
    }
}

/// The start of `bytes 5-9/10`.
pub(crate) fn start_of_range(header: &str) -> Option<u64> {
    header.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.trim().parse().ok()
}
