//! The web, for builds.

use crate::Engine;
use bytes::Bytes;
use http::header::{IF_MODIFIED_SINCE, IF_NONE_MATCH};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use yare_build::Cancel;
use yare_build::source::http::{Conditions, Fetch, Response};
use yare_errdefs::{Error, Result};

/// Pieces of a download that wait to be written.
const PIECES: usize = 16;

/// Fetches what `ADD` of a URL wants, with the engine's proxies and certificates.
pub(super) struct Web {
    pub(super) engine: Arc<Engine>,
    pub(super) runtime: Handle,
}

impl Fetch for Web {
    fn get(&self, url: &str, conditions: Conditions<'_>, cancel: &Cancel) -> Result<Response> {
        let mut headers = Vec::new();
        if let Some(etag) = conditions.etag {
            headers.push((IF_NONE_MATCH, etag.to_owned()));
        }
        if let Some(time) = conditions.last_modified {
            headers.push((IF_MODIFIED_SINCE, time.to_owned()));
        }
        let client = &self.engine.transfers.client;
        let mut page = self.runtime.block_on(async {
            tokio::select! {
                page = client.download(url, &headers) => page.map_err(|error| {
                    Error::wrap(format!("cannot get {}", yare_build::source::http::redact(url)), error)
                }),
                () = cancelled(cancel) => Err(Error::cancelled("the build was cancelled")),
            }
        })?;
        let header = |name: &str| page.header(name).map(str::to_owned);
        let (etag, last_modified) = (header("etag"), header("last-modified"));
        let (content_disposition, status, length) =
            (header("content-disposition"), page.status(), page.length());
        let (pieces, body) = mpsc::channel::<io::Result<Bytes>>(PIECES);
        let cancel = cancel.clone();
        self.runtime.spawn(async move {
            loop {
                let piece = tokio::select! {
                    piece = page.chunk() => piece.map_err(|error| io::Error::other(yare_errdefs::chain(&error))),
                    () = cancelled(&cancel) => Err(io::Error::other("the build was cancelled")),
                };
                let (piece, last) = match piece {
                    Ok(Some(piece)) => (Ok(piece), false),
                    Ok(None) => return,
                    Err(error) => (Err(error), true),
                };
                if pieces.send(piece).await.is_err() || last {
                    return;
                }
            }
        });
        let body = Box::new(Pieces { body, current: Bytes::new() });
        Ok(Response { status, etag, last_modified, content_disposition, length, body })
    }
}

async fn cancelled(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A body that a task reads from the network.
struct Pieces {
    body: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.body.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}
