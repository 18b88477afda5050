//! Bodies of replies: bytes, or a file that is read as fast as the client takes it.

use crate::blobs;
use crate::bucket::blobs::Stream;
use crate::cache::blobs::Fetch;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::task::JoinHandle;

/// The body of a reply.
pub(crate) enum Body {
    /// These bytes, if any.
    Bytes(Option<Bytes>),
    /// Part of a blob.
    Part(PartBody),
    /// Part of a blob as a bucket sends it, and how much of it is to come.
    Stream(Stream, u64),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => f.debug_tuple("Bytes").field(bytes).finish(),
            Self::Part(part) => f.debug_tuple("Part").field(part).finish(),
            Self::Stream(_, left) => f.debug_tuple("Stream").field(left).finish(),
        }
    }
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// In a file that is whole.
    File(Arc<File>),
    /// On their way from an upstream.
    Fetch(Arc<Fetch>),
}

/// Part of a blob on its way to a client.
#[derive(Debug)]
pub(crate) struct PartBody {
    source: Source,
    /// What is still to be read.
    rest: Range<u64>,
    /// What is still to be sent.
    left: u64,
    /// One piece waits while another one is sent.
    reading: Option<JoinHandle<io::Result<Bytes>>>,
}

impl Body {
    /// No bytes.
    pub(crate) fn empty() -> Self {
        Self::Bytes(None)
    }

    /// These bytes.
    pub(crate) fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self::Bytes(Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()))
    }

    /// This part of a blob, which is that long at least.
    pub(crate) fn part(source: Source, range: Range<u64>) -> Self {
        let left = range.end.saturating_sub(range.start);
        if left == 0 {
            return Self::empty();
        }
        let mut body = PartBody { source, rest: range, left, reading: None };
        body.read_on();
        Self::Part(body)
    }
}

impl PartBody {
    /// Starts reading the next piece, if there is one.
    fn read_on(&mut self) {
        let start = self.rest.start;
        let end = blobs::piece_end(start, self.rest.end);
        if start >= end {
            return;
        }
        self.reading = Some(match self.source.clone() {
            Source::File(file) => blobs::read_piece(file, start..end),
            Source::Fetch(fetch) => tokio::spawn(fetch.read(start, end)),
        });
    }
}

impl Drop for PartBody {
    fn drop(&mut self) {
        if let Some(reading) = &self.reading {
            reading.abort();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Bytes(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Part(body) => {
                let Some(reading) = &mut body.reading else { return Poll::Ready(None) };
                let piece = ready!(Pin::new(reading).poll(context)).map_err(io::Error::other).flatten();
                body.reading = None;
                if let Ok(piece) = &piece {
                    // Of what is still coming, a piece may be shorter than was asked for.
                    body.rest.start += piece.len() as u64;
                    body.left -= piece.len() as u64;
                    body.read_on();
                }
                Poll::Ready(Some(piece.map(Frame::data)))
            }
            Self::Stream(stream, left) => {
                let piece = match ready!(stream.as_mut().poll_next(context)) {
                    None if *left == 0 => return Poll::Ready(None),
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                    Some(Ok(piece)) if piece.len() as u64 > *left => {
                        Err(io::Error::other("the bucket sends more than the blob has"))
                    }
                    Some(piece) => piece,
                };
                if let Ok(piece) = &piece {
                    *left -= piece.len() as u64;
                }
                Poll::Ready(Some(piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_none(),
            Self::Part(body) => body.left == 0,
            Self::Stream(_, left) => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match self {
            Self::Bytes(bytes) => bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Part(body) => body.left,
            Self::Stream(_, left) => *left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_file_is_sent_piece_by_piece() {
        let mut bytes = vec![0; 700_000];
        bytes.iter_mut().enumerate().for_each(|(index, byte)| *byte = (index % 251) as u8);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        std::fs::write(&path, &bytes).unwrap();
        for range in [0..700_000, 5..262_150, 699_999..700_000, 3..3] {
            let body = Body::part(Source::File(Arc::new(File::open(&path).unwrap())), range.clone());
            let sent = body.collect().await.unwrap().to_bytes();
            assert_eq!(sent, bytes[range.start as usize..range.end as usize]);
        }
        let cut = Body::part(Source::File(Arc::new(File::open(&path).unwrap())), 0..700_001);
        assert!(cut.collect().await.is_err(), "a file that shrank is an error, not a short body");
    }
}
