//! Blobs: a verified stream that goes on after a broken connection where it was.

use crate::error::{Asked, Broken};
use crate::repository::{Access, Repository};
use crate::session::{Call, Session};
use crate::wire::Response;
use crate::{Error, Result};
use bytes::{Buf, Bytes};
use http::Method;
use http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use yare_oci::{Descriptor, Digest, Hasher};

/// A sender slower than this over [`WINDOW`] counts as dead, in bytes.
const SLOWEST: u64 = 16 * 1024;
const WINDOW: Duration = Duration::from_secs(60);

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
    digest: Digest,
    size: u64,
    sessions: Vec<Arc<Session>>,
    mirrors: Vec<Error>,
    response: Option<Response>,
    offset: u64,
    hasher: Hasher,
    /// Bytes of the next answer that are there already.
    skip: u64,
    failures: u32,
    failed_at: u64,
    received: u64,
    window: (Instant, u64),
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
        let asked = self.asked(format!("fetch blob {}", descriptor.digest));
        if resume.offset > descriptor.size {
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
            path: format!("{}/blobs/{}", self.path(), descriptor.digest),
            asked,
            digest: descriptor.digest,
            size: descriptor.size,
            sessions,
            mirrors: Vec::new(),
            response: None,
            offset: resume.offset,
            hasher: resume.hasher,
            skip: 0,
            failures: 0,
            failed_at: resume.offset,
            received: 0,
            window: (Instant::now(), 0),
            ended: false,
        })
    }

    /// The size of a blob that the registry itself has; `None` when it does not have it.
    ///
    /// # Errors
    /// Of the registry, when it does not answer or forbids the question.
    pub async fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let asked = self.asked(format!("look for blob {digest}"));
        let session = self.push_session(&asked)?;
        let call = Call::new(&asked, Method::HEAD, format!("{}/blobs/{digest}", self.path()), &[200, 404]);
        let response = session.send(&call).await?;
        Ok((response.status() == 200).then(|| response.length().unwrap_or_default()))
    }
}

impl BlobStream {
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
            self.response = Some(self.open().await?);
            self.window = (Instant::now(), self.offset);
            return Ok(None);
        };
        let Some(mut chunk) = response.chunk(&self.asked).await? else {
            self.response = None;
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
        self.offset += chunk.len() as u64;
        self.hasher.update(&chunk);
        self.check_speed()?;
        Ok(Some(chunk))
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
        let actual = std::mem::take(&mut self.hasher).finish();
        if actual != self.digest {
            let what = format!("the blob has digest {actual}, expected {}", self.digest);
            return Err(Error::content(&self.asked, what));
        }
        self.ended = true;
        Ok(None)
    }

    /// A sender that trickles would hold its place for ever.
    fn check_speed(&mut self) -> Result<()> {
        let (since, from) = self.window;
        if since.elapsed() < WINDOW {
            return Ok(());
        }
        if self.offset - from < SLOWEST {
            let what = format!("only {} bytes came in {} s", self.offset - from, since.elapsed().as_secs());
            let url =
                self.sessions.last().map(|session| session.endpoint.authority.clone()).unwrap_or_default();
            return Err(Error::timeout(&self.asked, url, what));
        }
        self.window = (Instant::now(), self.offset);
        Ok(())
    }

    /// Asks for what is missing.
    async fn open(&mut self) -> Result<Response> {
        let Some(session) = self.sessions.last().cloned() else {
            return Err(Error::refused(&self.asked, "no endpoint is left"));
        };
        let call = Call::new(&self.asked, Method::GET, self.path.clone(), &[200, 206])
            .header(ACCEPT, "application/octet-stream, */*")
            .once();
        let call =
            if self.offset > 0 { call.header(RANGE, &format!("bytes={}-", self.offset)) } else { call };
        self.skip = 0;
        let response = session.send(&call).await?;
        let promised = response.length();
        if response.status() == 206 {
            let range = response.header(CONTENT_RANGE.as_str()).and_then(start_of_range);
            if range.is_some_and(|start| start != self.offset) {
                return Err(Error::content(&self.asked, "another range came than was asked for"));
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

/// The start of `bytes 5-9/10`.
fn start_of_range(header: &str) -> Option<u64> {
    header.trim().strip_prefix("bytes")?.trim_start().split('-').next()?.trim().parse().ok()
}
