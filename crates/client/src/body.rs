//! Request bodies: none, bytes, or a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use tokio::io::{AsyncRead, ReadBuf};

/// Why a body could not be produced.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// How much of a reader is sent in one piece.
const PIECE: usize = 64 * 1024;

/// The body of a request.
#[derive(Default)]
pub struct Body(Kind);

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Bytes(Bytes),
    Reader(Pin<Box<dyn AsyncRead + Send>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Kind::Empty => "Body::Empty",
            Kind::Bytes(_) => "Body::Bytes",
            Kind::Reader(_) => "Body::Reader",
        })
    }
}

impl Body {
    /// No body.
    pub fn empty() -> Self {
        Self::default()
    }

    /// These bytes, with their length announced.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Kind::Bytes(bytes.into()))
    }

    /// Whatever the reader gives, chunked, never more than one piece in memory.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self(Kind::Reader(Box::pin(reader)))
    }

    /// A second body like this one; `None` when it can be sent only once.
    pub(crate) fn again(&self) -> Option<Self> {
        match &self.0 {
            Kind::Empty => Some(Self::empty()),
            Kind::Bytes(bytes) => Some(Self::bytes(bytes.clone())),
            Kind::Reader(_) => None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            Kind::Bytes(bytes) => {
                let bytes = std::mem::take(bytes);
                self.0 = Kind::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Reader(reader) => {
                let mut piece = vec![0; PIECE];
                let mut buffer = ReadBuf::new(&mut piece);
                match reader.as_mut().poll_read(cx, &mut buffer) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error.into()))),
                    Poll::Ready(Ok(())) => {
                        let filled = buffer.filled().len();
                        if filled == 0 {
                            self.0 = Kind::Empty;
                            return Poll::Ready(None);
                        }
                        piece.truncate(filled);
                        Poll::Ready(Some(Ok(Frame::data(piece.into()))))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.0, Kind::Empty)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match &self.0 {
            Kind::Empty => http_body::SizeHint::with_exact(0),
            Kind::Bytes(bytes) => http_body::SizeHint::with_exact(bytes.len() as u64),
            Kind::Reader(_) => http_body::SizeHint::default(),
        }
    }
}
