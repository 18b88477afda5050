//! Bodies of requests: bounded in size where they are kept in memory, and in time always.

use crate::problem::{Code, Refusal, Result};
use crate::registry::fault;
use crate::uploads::{FileWriter, Writer};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::time::{Duration, Instant};

/// Bytes that are gathered before they are written; as many again wait while that happens.
const BATCH: usize = 512 << 10;
/// The fewest bytes that must come in each stretch of the silence that is allowed: who sends a byte a
/// minute holds a connection, and an upload, for nothing.
pub(super) const TRICKLE: u64 = 4 << 10;

/// How long what a client still sends is taken after its answer.
const LINGER: Duration = Duration::from_secs(30);

/// A body that is being received.
#[derive(Debug)]
pub(crate) struct Intake {
    body: Incoming,
    silence: Duration,
    stretch: Instant,
    got: u64,
}

impl Intake {
    /// Receives `body` from a client that may be silent for so long.
    pub(crate) fn new(body: Incoming, silence: Duration) -> Self {
        Self { body, silence, stretch: Instant::now(), got: 0 }
    }

    /// The length that the client announced, if it did.
    pub(crate) fn announced(&self) -> Option<u64> {
        hyper::body::Body::size_hint(&self.body).exact()
    }

    /// Whether the client has sent all of it.
    pub(crate) fn is_over(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.body)
    }

    /// Takes the rest and forgets it. A connection that is closed with bytes unread is reset, and the reset takes
    /// the answer away from a client that has not read it yet.
    pub(crate) async fn discard(mut self) {
        let rest = async { while let Ok(Some(_)) = self.next().await {} };
        // Who is not through by then has to do without the answer.
        let _ = tokio::time::timeout(LINGER, rest).await;
    }

    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(self.silence, self.body.frame()).await;
            let frame = frame.map_err(|_| slow("nothing came"))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| {
                Refusal::new(Code::BlobUploadInvalid, format!("the body ended early: {error}"))
            })?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.got += bytes.len() as u64;
            if self.stretch.elapsed() >= self.silence {
                if self.got < TRICKLE {
                    return Err(slow("too little came").into());
                }
                (self.stretch, self.got) = (Instant::now(), 0);
            }
            return Ok(Some(bytes));
        }
    }

    /// The whole body; `too_large` makes the refusal of one with more than `limit` bytes.
    pub(crate) async fn whole(&mut self, limit: usize, too_large: impl Fn(u64) -> Refusal) -> Result<Bytes> {
        if let Some(announced) = self.announced().filter(|announced| *announced > limit as u64) {
            return Err(too_large(announced).into());
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > limit {
                return Err(too_large((whole.len() + bytes.len()) as u64).into());
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Writes the body to an upload. What came before an error is written, too, so that the client can go
    /// on from there.
    pub(crate) async fn write_to(&mut self, writer: Writer) -> (Option<Writer>, Result<()>) {
        match writer {
            Writer::File(writer) => {
                let (writer, received) = self.write_to_file(writer).await;
                (writer.map(Writer::File), received)
            }
            Writer::Bucket(mut writer) => {
                let received = loop {
                    match self.next().await {
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                        Ok(Some(bytes)) => {
                            if let Err(error) = writer.append(&bytes).await {
                                break Err(error);
                            }
                        }
                    }
                };
                (Some(Writer::Bucket(writer)), received)
            }
        }
    }

    /// Memory is bounded by two batches: a slow disk slows the client.
    async fn write_to_file(&mut self, writer: FileWriter) -> (Option<FileWriter>, Result<()>) {
        let mut writer = Some(writer);
        let mut writing: Option<tokio::task::JoinHandle<(FileWriter, Result<()>)>> = None;
        loop {
            let (batch, end) = self.batch().await;
            if let Some(task) = writing.take() {
                match task.await {
                    Ok((back, Ok(()))) => writer = Some(back),
                    Ok((back, Err(error))) => return (Some(back), Err(error)),
                    Err(error) => return (None, Err(fault(error))),
                }
            }
            let Some(mut taken) = writer.take() else { return (None, Ok(())) };
            if batch.is_empty() {
                return (Some(taken), end.unwrap_or(Ok(())));
            }
            let task = tokio::task::spawn_blocking(move || {
                let written = batch.iter().try_for_each(|bytes| taken.append(bytes));
                (taken, written)
            });
            match end {
                None => writing = Some(task),
                Some(end) => {
                    return match task.await {
                        Ok((back, written)) => (Some(back), written.and(end)),
                        Err(error) => (None, Err(fault(error))),
                    };
                }
            }
        }
    }

    /// Gathers bytes until they are enough, or until the end, which may be an error.
    async fn batch(&mut self) -> (Vec<Bytes>, Option<Result<()>>) {
        let (mut batch, mut size) = (Vec::new(), 0);
        while size < BATCH {
            match self.next().await {
                Ok(Some(bytes)) => {
                    size += bytes.len();
                    batch.push(bytes);
                }
                Ok(None) => return (batch, Some(Ok(()))),
                Err(error) => return (batch, Some(Err(error))),
            }
        }
        (batch, None)
    }
}

fn slow(what: &str) -> Refusal {
    Refusal::new(Code::BlobUploadInvalid, format!("the client is too slow: {what}"))
        .with_status(http::StatusCode::REQUEST_TIMEOUT)
}
