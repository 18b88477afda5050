//! Copying between a hijacked connection and our streams.

use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use yare_api::stream::{Demultiplexer, Stream};
use yare_client::{Hijacked, Reader, Writer};

use super::{Input, Keys, Output, RawTerminal};
use crate::context::Context;
use crate::failure::Failure;

/// How much is read at once.
const BUFFER: usize = 32 * 1024;
/// How long the engine has to let go after the detach keys.
const DETACH: Duration = Duration::from_secs(1);

/// What to join.
pub(crate) struct Connect {
    /// Send our input.
    pub stdin: bool,
    /// The container has a terminal: bytes come as they are, and ours becomes raw while input is sent.
    pub tty: bool,
    /// Detach keys, in Docker's notation.
    pub keys: Keys,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The container's streams have ended, and all of their bytes are written.
    Streams,
    /// The user left; the container goes on.
    Detached,
}

/// Copies until the container's streams end or the user detaches.
///
/// The end of our input closes only that direction. When the container's output ends, input that is still
/// waited for is forgotten.
pub(crate) async fn connect(cx: &Context, hijacked: Hijacked, options: Connect) -> Result<Ended, Failure> {
    cx.flush()?;
    let Hijacked { reader, writer, .. } = hijacked;
    let _raw = (options.stdin && options.tty).then(|| RawTerminal::enter(cx.stdio.input)).flatten();
    let output = receive(cx, reader, options.tty);
    tokio::pin!(output);
    if !options.stdin {
        output.await?;
        drop(writer);
        return Ok(Ended::Streams);
    }
    let mut writer = writer;
    let keys = options.tty.then_some(options.keys);
    tokio::select! {
        ended = &mut output => {
            ended?;
            return Ok(Ended::Streams);
        }
        detached = send(cx, &mut writer, keys) => if detached {
            // The engine has the keys; it ends the stream when it has let go.
            drop(tokio::time::timeout(DETACH, &mut output).await);
            return Ok(Ended::Detached);
        }
    }
    output.await?;
    Ok(Ended::Streams)
}

/// Sends our input until it ends; true when the detach keys were in it.
async fn send(cx: &Context, writer: &mut Writer, mut keys: Option<Keys>) -> bool {
    let mut input = Input::new(cx.stdio.input);
    let mut buffer = vec![0; BUFFER];
    loop {
        // Input that cannot be read has ended, as far as the container is concerned.
        let count = input.read(&mut buffer).await.unwrap_or(0);
        if count == 0 {
            drop(writer.close().await);
            return false;
        }
        let detach = keys.as_mut().is_some_and(|keys| keys.seen_in(&buffer[..count]));
        // A container that no longer reads is no error of ours.
        if writer.send(&buffer[..count]).await.is_err() {
            return detach;
        }
        if detach {
            return true;
        }
    }
}

async fn receive(cx: &Context, mut reader: Reader, tty: bool) -> Result<(), Failure> {
    let mut sinks = Sinks::new(cx, tty);
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Ok(()),
            Ok(count) => sinks.take(&buffer[..count]).await?,
            // The engine went away without a proper end: all there was has been written.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Copies the body of a reply that is framed, or raw for a terminal.
pub(crate) async fn copy_frames(
    cx: &Context,
    mut response: yare_client::Response,
    tty: bool,
) -> Result<(), Failure> {
    cx.flush()?;
    let mut sinks = Sinks::new(cx, tty);
    while let Some(chunk) = response.chunk().await? {
        sinks.take(&chunk).await?;
    }
    Ok(())
}

/// Where the bytes go.
struct Sinks {
    output: Output,
    errors: Option<Output>,
    stderr: std::os::fd::BorrowedFd<'static>,
    frames: Option<Demultiplexer>,
    pieces: Vec<(Stream, Vec<u8>)>,
}

impl Sinks {
    fn new(cx: &Context, tty: bool) -> Self {
        Self {
            output: Output::new(cx.stdio.output),
            errors: None,
            stderr: cx.stdio.errors,
            frames: (!tty).then(Demultiplexer::new),
            pieces: Vec::new(),
        }
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(frames) = &mut self.frames else {
            return Ok(self.output.write_all(bytes).await?);
        };
        let pieces = &mut self.pieces;
        let fed = frames.feed(bytes, |stream, payload| match pieces.last_mut() {
            Some((last, collected)) if *last == stream => collected.extend_from_slice(payload),
            _ => pieces.push((stream, payload.to_vec())),
        });
        fed.map_err(|error| Failure::new(format!("Unrecognized input header: {}", error.0)))?;
        for (stream, payload) in std::mem::take(pieces) {
            match stream {
                Stream::Stdin | Stream::Stdout => self.output.write_all(&payload).await?,
                Stream::Stderr => {
                    let stderr = self.stderr;
                    self.errors.get_or_insert_with(|| Output::new(stderr)).write_all(&payload).await?;
                }
                Stream::SystemErr => {
                    let text = String::from_utf8_lossy(&payload);
                    return Err(Failure::new(format!("error from daemon in stream: {}", text.trim_end())));
                }
            }
        }
        Ok(())
    }
}
