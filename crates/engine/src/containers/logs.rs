//! A container's log as a stream.

use super::attach::AttachOptions;
use crate::Engine;
use crate::container::Container;
use crate::images::Output;
use bytes::Bytes;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use yare_api::stream;
use yare_errdefs::{Error, Result};
use yare_logs::{Entry, ReadOptions, Reader, Stream};

/// What of a log to give.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on while the container runs.
    pub follow: bool,
    /// Begin here.
    pub since: Option<Timestamp>,
    /// End here.
    pub until: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Put the attributes before each line.
    pub details: bool,
    /// Only so many of the last lines.
    pub tail: Option<u64>,
}

/// Chunks that wait for a slow client before the reading waits too.
const CHUNKS: usize = 8;
/// How often a follower looks whether the container has ended.
const LOOK: Duration = Duration::from_millis(100);

/// The log of a container; `true` when it is raw (a terminal's) rather than multiplexed.
pub async fn logs(engine: &Arc<Engine>, id: &str, options: LogsOptions) -> Result<(bool, Output)> {
    if !(options.stdout || options.stderr) {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let container = engine.containers.find(id)?;
    let record = container.record();
    if record.host_config.log_config.r#type == "none" {
        return Err(Error::unimplemented("configured logging driver does not support reading"));
    }
    let tty = record.config.tty;
    let path = super::log_path(engine, &container.id);
    let open = ReadOptions {
        stdout: options.stdout,
        stderr: options.stderr,
        tail: options.tail,
        since: options.since,
        until: options.until,
        follow: options.follow && container.state().counts_as_running(),
    };
    let reader = crate::images::blocking(move || {
        Reader::open(&path, open).map_err(|error| Error::wrap("cannot read the log", error))
    })
    .await?;
    let (chunks, out) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || {
        let style = Style { tty, timestamps: options.timestamps, details: options.details };
        if let Err(error) = pump(&container, reader, style, &chunks) {
            let _ = chunks.blocking_send(Err(std::io::Error::other(yare_errdefs::chain(&error))));
        }
    });
    let stream =
        futures_util::stream::unfold(out, |mut out| async { out.recv().await.map(|chunk| (chunk, out)) });
    Ok((tty, Box::pin(stream)))
}

#[derive(Debug, Clone, Copy)]
struct Style {
    tty: bool,
    timestamps: bool,
    details: bool,
}

type Chunks = mpsc::Sender<std::io::Result<Bytes>>;

/// Reads to the end; when following, until the container has ended or the client has left.
fn pump(container: &Container, mut reader: Reader, style: Style, chunks: &Chunks) -> Result<()> {
    let failed = |error| Error::wrap("cannot read the log", error);
    loop {
        // Asked before reading: what was logged before the end is read after it.
        let ended = !container.state().counts_as_running() || container.progress.borrow().removed;
        while let Some(entries) = reader.next_chunk().map_err(failed)? {
            if chunks.blocking_send(Ok(rendered(&entries, style).into())).is_err() {
                return Ok(());
            }
        }
        if reader.fd().is_none() || reader.is_done() || ended {
            return Ok(());
        }
        while !reader.wait(LOOK).map_err(failed)? {
            if chunks.is_closed() {
                return Ok(());
            }
            if !container.state().counts_as_running() {
                break;
            }
        }
    }
}

fn rendered(entries: &[Entry], style: Style) -> Vec<u8> {
    let mut out = Vec::new();
    let mut line = Vec::new();
    for entry in entries {
        if style.tty {
            entry.write(style.timestamps, style.details, &mut out);
            continue;
        }
        line.clear();
        entry.write(style.timestamps, style.details, &mut line);
        let kind = match entry.stream {
            Stream::Stdout => stream::Stream::Stdout,
            Stream::Stderr => stream::Stream::Stderr,
        };
        stream::frame(kind, &line, &mut out);
    }
    out
}

/// What was logged so far, framed for an attachment with `logs=1`.
pub(crate) async fn replay(
    engine: &Arc<Engine>,
    container: &Container,
    options: &AttachOptions,
) -> Result<Vec<u8>> {
    let path = super::log_path(engine, &container.id);
    let tty = container.record().config.tty;
    let open = ReadOptions { stdout: options.stdout, stderr: options.stderr, ..ReadOptions::default() };
    crate::images::blocking(move || {
        let failed = |error| Error::wrap("cannot read the log", error);
        let mut reader = Reader::open(&path, open).map_err(failed)?;
        let mut out = Vec::new();
        while let Some(entries) = reader.next_chunk().map_err(failed)? {
            out.extend(rendered(&entries, Style { tty, timestamps: false, details: false }));
        }
        Ok(out)
    })
    .await
}
