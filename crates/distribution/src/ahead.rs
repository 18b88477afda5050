//! Parts of a large blob that come beside the one that is being read, over connections of their own.
//!
//! One connection is often slower than the line: windows, rate limits of one stream, time to the other end.
//! The parts wait in memory until it is their turn, so that the content is hashed and written in order, and
//! what is on the disk is always a beginning. A part that breaks off is gone on with where it was.

use crate::blob::{Pace, start_of_range};
use crate::error::{Asked, Broken};
use crate::session::{Call, Session};
use crate::{Error, Result};
use bytes::Bytes;
use http::Method;
use http::header::{ACCEPT, CONTENT_RANGE, RANGE};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// When a blob is fetched in parts, and how.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Connections that may be used beside the first one, as long as nobody else wants them.
    pub spare: Arc<Semaphore>,
    /// The fewest bytes that are worth it.
    pub least: u64,
    /// Bytes of a part.
    pub size: u64,
}

/// The most connections beside the first one.
const MOST: usize = 2;

impl Parts {
    /// Parts for a blob of so many bytes. What waits in memory, and is lost with the process, is less than 2 %
    /// of the blob.
    pub fn of(size: u64, spare: Arc<Semaphore>) -> Self {
        Self { spare, least: 128 << 20, size: (size / 128).clamp(1 << 20, 8 << 20) }
    }
}

/// The parts that are under way, in the order of the content.
#[derive(Debug)]
pub(crate) struct Ahead {
    parts: Parts,
    under_way: VecDeque<Part>,
    /// Where the next one begins.
    next: u64,
    /// Content that came and was not read yet.
    pub(crate) ready: VecDeque<Bytes>,
    /// Why there is no more behind it.
    pub(crate) failed: Option<Error>,
}

#[derive(Debug)]
struct Part {
    start: u64,
    task: JoinHandle<(Vec<Bytes>, Result<()>)>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ahead {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, under_way: VecDeque::new(), next: 0, ready: VecDeque::new(), failed: None }
    }

    /// Where an answer that begins at `offset` should end: `None` for at the end of the blob.
    pub(crate) fn end_from(&self, offset: u64, size: u64) -> Option<u64> {
        if let Some(part) = self.under_way.front() {
            return Some(part.start);
        }
        let is_worth_it = size - offset >= self.parts.least && self.parts.spare.available_permits() > 0;
        is_worth_it.then(|| size.min(offset + self.parts.size))
    }

    /// Begins with what comes after `end`, now that the registry is known to answer with parts.
    pub(crate) fn begin(&mut self, end: u64) {
        if self.under_way.is_empty() {
            self.next = end;
        }
    }

    /// Asks for more parts, as many as there are connections to spare.
    pub(crate) fn top_up(&mut self, session: &Arc<Session>, asked: &Asked, path: &str, size: u64) {
        while self.under_way.len() < MOST && self.next < size {
            let Ok(permit) = Arc::clone(&self.parts.spare).try_acquire_owned() else { return };
            let range = self.next..size.min(self.next + self.parts.size);
            self.next = range.end;
            let fetch = Fetch {
                session: Arc::clone(session),
                asked: asked.clone(),
                path: path.to_owned(),
                _permit: permit,
            };
            self.under_way.push_back(Part { start: range.start, task: tokio::spawn(fetch.run(range)) });
        }
    }

    /// Waits for the part that begins at `offset`; `false` when none does. Its content is ready then, and the
    /// error that ended it early.
    pub(crate) async fn wait(&mut self, offset: u64) -> bool {
        let Some(part) = self.under_way.front_mut().filter(|part| part.start == offset) else { return false };
        match (&mut part.task).await {
            Ok((content, outcome)) => {
                self.ready.extend(content);
                self.failed = outcome.err();
            }
            // A fault on that task: the first connection asks for the same bytes.
            Err(error) => tracing::warn!(%error, "a part of a blob broke off"),
        }
        self.under_way.pop_front();
        true
    }
}

/// One request for a part.
struct Fetch {
    session: Arc<Session>,
    asked: Asked,
    path: String,
    _permit: OwnedSemaphorePermit,
}

impl Fetch {
    /// What came of the range, from its start, and why not all of it.
    async fn run(self, range: Range<u64>) -> (Vec<Bytes>, Result<()>) {
        let mut content = Vec::new();
        let outcome = self.fetch(range, &mut content).await;
        (content, outcome)
    }

    async fn fetch(&self, range: Range<u64>, content: &mut Vec<Bytes>) -> Result<()> {
        let call = Call::new(&self.asked, Method::GET, self.path.clone(), &[200, 206])
            .header(ACCEPT, "application/octet-stream, */*")
            .header(RANGE, &format!("bytes={}-{}", range.start, range.end - 1))
            .once();
        let mut response = self.session.send(&call).await?;
        let start = response.header(CONTENT_RANGE.as_str()).and_then(start_of_range);
        if response.status() != 206 || start.is_some_and(|start| start != range.start) {
            // Not what was asked for, which the first connection knows what to do about.
            return Ok(());
        }
        let (mut offset, mut pace) = (range.start, Pace::new(range.start));
        while let Some(mut chunk) = response.chunk(&self.asked).await? {
            let left = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
            chunk.truncate(left);
            offset += chunk.len() as u64;
            content.push(chunk);
            if offset == range.end {
                return Ok(());
            }
            pace.check(offset, &self.session, &self.asked)?;
        }
        Err(Error::Transport {
            asked: self.asked.clone(),
            url: self.session.endpoint.authority.clone(),
            broken: Broken::Cut,
            source: format!("a part ended at byte {offset} and not at {}", range.end).into(),
        })
    }
}
