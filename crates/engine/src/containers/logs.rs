//! A container's log as a stream.

use super::attach::AttachOptions;
use crate::Engine;
use crate::container::{Container, Record};
use crate::growth::{Follower, Growth};
use crate::images::{Output, blocking};
use bytes::Bytes;
use jiff::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;
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

/// The current file of a container's log, or of the copy of what its driver sends elsewhere. Only that of
/// `json-file` has Docker's name, for tools that look for it.
pub(crate) fn log_path(engine: &Engine, record: &Record) -> PathBuf {
    let name = match record.plan.log.driver.as_str() {
        "" | "json-file" | "none" => format!("{}-json.log", record.id),
        "local" => "local.log".to_owned(),
        _ => "cached.log".to_owned(),
    };
    engine.container_dir(&record.id).join(name)
}

/// Bytes of a container's log, rotated files included.
fn log_size(engine: &Engine, record: &Record) -> u64 {
    let path = log_path(engine, record);
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let entries = std::fs::read_dir(engine.container_dir(&record.id));
    let logs = entries.into_iter().flatten().flatten();
    logs.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(name))
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Bytes that go with a container: its writable layer, and its log.
pub(crate) fn own_size(engine: &Engine, record: &Record) -> u64 {
    engine.images.snapshots().usage(&record.id).unwrap_or(0) + log_size(engine, record)
}

/// Chunks that wait for a slow client before the reading waits too.
const CHUNKS: usize = 8;

/// The log of a container; `true` when it is raw (a terminal's) rather than multiplexed.
pub async fn logs(engine: &Arc<Engine>, id: &str, options: LogsOptions) -> Result<(bool, Output)> {
    if !(options.stdout || options.stderr) {
        return Err(Error::invalid("Bad parameters: you must choose at least one stream"));
    }
    let container = engine.containers.find(id)?;
    let record = container.record();
    if record.plan.log.driver == "none" || record.plan.log.unread {
        return Err(Error::unimplemented("configured logging driver does not support reading"));
    }
    let tty = record.config.tty;
    let path = log_path(engine, &record);
    let open = ReadOptions {
        stdout: options.stdout,
        stderr: options.stderr,
        tail: options.tail,
        since: options.since,
        until: options.until,
        follow: options.follow && container.state().counts_as_running(),
    };
    let follower = match open.follow {
        true => Some(growth(engine)?.follow(&path)?),
        false => None,
    };
    let reader = open_log(path, open).await?;
    let style = Style { tty, timestamps: options.timestamps, details: options.details };
    Ok((tty, stream_of(container, reader, style, follower)))
}

/// The one watch of all followers, opened with the first.
fn growth(engine: &Engine) -> Result<Arc<Growth>> {
    let mut growth = engine.growth.lock();
    match &*growth {
        Some(growth) => Ok(Arc::clone(growth)),
        None => Ok(Arc::clone(growth.insert(Growth::open()?))),
    }
}

async fn open_log(path: PathBuf, options: ReadOptions) -> Result<Reader> {
    blocking(move || Reader::open(&path, options).map_err(|error| Error::wrap("cannot read the log", error)))
        .await
}

fn stream_of(container: Arc<Container>, reader: Reader, style: Style, follower: Option<Follower>) -> Output {
    let (chunks, out) = mpsc::channel(CHUNKS);
    tokio::spawn(async move {
        if let Err(error) = pump(&container, reader, style, follower, &chunks).await {
            let _ = chunks.send(Err(std::io::Error::other(yare_errdefs::chain(&error)))).await;
        }
    });
    Box::pin(futures_util::stream::unfold(out, |mut out| async {
        out.recv().await.map(|chunk| (chunk, out))
    }))
}

#[derive(Debug, Clone, Copy)]
struct Style {
    tty: bool,
    timestamps: bool,
    details: bool,
}

type Chunks = mpsc::Sender<std::io::Result<Bytes>>;

/// Reads to the end; a follower goes on until the container has ended or the client has left. A thread is
/// held only while a chunk is read, never while there is nothing to read or the client is slow.
async fn pump(
    container: &Container,
    mut reader: Reader,
    style: Style,
    follower: Option<Follower>,
    chunks: &Chunks,
) -> Result<()> {
    let mut progress = container.progress.subscribe();
    loop {
        // Asked before reading: what was logged before the end is read after it.
        let removed = progress.borrow_and_update().removed;
        let ended = removed || !container.state().counts_as_running();
        loop {
            let (back, chunk) = next_chunk(reader, style).await?;
            reader = back;
            let Some(chunk) = chunk else { break };
            if chunks.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        let Some(follower) = &follower else { return Ok(()) };
        if reader.is_done() || ended {
            return Ok(());
        }
        tokio::select! {
            () = follower.grown() => {}
            _ = progress.changed() => {}
            () = chunks.closed() => return Ok(()),
        }
    }
}

async fn next_chunk(mut reader: Reader, style: Style) -> Result<(Reader, Option<Bytes>)> {
    blocking(move || {
        let entries = reader.next_chunk().map_err(|error| Error::wrap("cannot read the log", error))?;
        let chunk = entries.map(|entries| Bytes::from(rendered(&entries, style)));
        Ok((reader, chunk))
    })
    .await
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
    container: &Arc<Container>,
    options: &AttachOptions,
) -> Result<Output> {
    let record = container.record();
    let path = log_path(engine, &record);
    let tty = record.config.tty;
    let open = ReadOptions { stdout: options.stdout, stderr: options.stderr, ..ReadOptions::default() };
    let reader = open_log(path, open).await?;
    let style = Style { tty, timestamps: false, details: false };
    Ok(stream_of(Arc::clone(container), reader, style, None))
}
