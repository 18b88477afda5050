//! The standard streams of a process as one connection.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use yare_api::stream::{Demultiplexer, Stream};

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// Carries bytes between a process, whose output the shim frames, and whoever speaks with it over `pipe`. What
/// the process says of errors goes to `errors`. Returns when it writes no more.
pub(crate) async fn carry(
    process: impl AsyncRead + AsyncWrite,
    pipe: impl AsyncRead + AsyncWrite,
    mut errors: impl FnMut(&[u8]),
) -> std::io::Result<()> {
    let (mut output, mut input) = tokio::io::split(process);
    let (mut said, mut answers) = tokio::io::split(pipe);
    let up = async {
        // A process may close its input and go on: it is over when its output is.
        if tokio::io::copy(&mut said, &mut input).await.is_ok() {
            drop(input.shutdown().await);
        }
        std::future::pending::<()>().await
    };
    let down = async {
        let (mut frames, mut buffer, mut piece) =
            (Demultiplexer::new(), vec![0; PIECE], Vec::with_capacity(PIECE));
        loop {
            let length = output.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            let framed = frames.feed(&buffer[..length], |stream, bytes| match stream {
                Stream::Stderr => errors(bytes),
                _ => piece.extend_from_slice(bytes),
            });
            framed.map_err(std::io::Error::other)?;
            answers.write_all(&piece).await?;
            piece.clear();
        }
    };
    tokio::select! {
        () = up => Ok(()),
        over = down => over,
    }
}

/// The end of what a process said of its errors. Clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tail(Arc<Mutex<Vec<u8>>>);

impl Tail {
    /// Bytes that are kept.
    const LONGEST: usize = 4 << 10;

    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend_from_slice(&bytes[bytes.len().saturating_sub(Self::LONGEST)..]);
        let over = kept.len().saturating_sub(Self::LONGEST);
        kept.drain(..over);
    }

    pub(crate) fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_api::stream::frame;

    #[tokio::test]
    async fn three_streams_are_one_connection() {
        let (ours, mut process) = tokio::io::duplex(64);
        let (mut speaker, pipe) = tokio::io::duplex(64);
        let tail = Tail::default();
        let kept = tail.clone();
        let carried = tokio::spawn(async move { carry(ours, pipe, |bytes| kept.push(bytes)).await });
        speaker.write_all(b"question").await.expect("said");
        let mut heard = [0; 8];
        process.read_exact(&mut heard).await.expect("heard");
        assert_eq!(&heard, b"question");
        let mut output = Vec::new();
        frame(Stream::Stdout, b"ans", &mut output);
        frame(Stream::Stderr, b"oops\n", &mut output);
        frame(Stream::Stdout, b"wer", &mut output);
        process.write_all(&output).await.expect("written");
        let mut answer = [0; 6];
        speaker.read_exact(&mut answer).await.expect("answered");
        assert_eq!(&answer, b"answer");
        drop(process);
        carried.await.expect("no panic").expect("carried");
        assert_eq!(tail.text(), "oops");
    }

    #[test]
    fn only_the_end_is_kept() {
        let tail = Tail::default();
        for _ in 0..3 {
            tail.push(&[b'a'; Tail::LONGEST]);
        }
        tail.push(b"z");
        assert!(tail.text().len() == Tail::LONGEST && tail.text().ends_with("az"));
    }
}
