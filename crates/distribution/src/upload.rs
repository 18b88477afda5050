//! Sending blobs: ask first, borrow from a neighbour, upload.
//!
//! An upload is one `POST` and one `PUT` with the whole content. A registry, or a proxy before it, that does
//! not take it so gets pieces (`PATCH`), and there a broken connection costs one piece only.

use crate::address::{join, with_query};
use crate::blob::Blob;
use crate::error::Asked;
use crate::repository::Repository;
use crate::session::{Call, Session};
use crate::wire::{Body, Response, empty};
use crate::{Error, Result};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use http::{Method, StatusCode, Uri};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::io;
use std::pin::Pin;
use yare_oci::ContentDigest;

/// Bytes of a piece. Proxies that limit bodies do so far above this.
const PIECE: u64 = 16 << 20;

/// The content of a blob from an offset on.
pub type Content = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;
/// Opens the content at an offset; it is called once per try.
pub type Open<'a> = dyn Fn(u64) -> Content + Send + Sync + 'a;

/// How a blob came to be in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It was there.
    Present,
    /// It was borrowed from another repository of the registry.
    Mounted,
    /// It was sent.
    Uploaded,
}

impl Repository {
    /// Makes a blob be in the repository: looks whether it is, else borrows it from one of `neighbours`
    /// (paths of repositories at the same registry that had it), else sends it.
    ///
    /// # Errors
    /// Of the registry, when it does not take it; of the content, when it cannot be read.
    pub async fn push_blob(
        &self,
        blob: impl Into<Blob>,
        neighbours: &[String],
        open: &Open<'_>,
    ) -> Result<Pushed> {
        let blob = blob.into();
        if self.has_blob(blob).await? {
            return Ok(Pushed::Present);
        }
        for neighbour in neighbours.iter().filter(|neighbour| *neighbour != self.path()).take(3) {
            if self.mount(blob.name, neighbour).await? {
                return Ok(Pushed::Mounted);
            }
        }
        self.upload(blob, open).await?;
        Ok(Pushed::Uploaded)
    }

    /// Borrows a blob from another repository of the registry; whether that worked. A refusal, of the registry
    /// or of its token server, is no error: whoever asks has the blob and can send it.
    ///
    /// # Errors
    /// Of the registry, when it cannot be reached.
    pub async fn mount(&self, blob: impl Into<ContentDigest>, from: &str) -> Result<bool> {
        let blob = blob.into();
        let asked = self.asked(format!("mount blob {blob} from {from}"));
        let here = self.push_session(&asked)?;
        let from = match here.endpoint.rewrites.apply(from) {
            Ok(from) if from != here.repository => from,
            // Where it has no name of its own there is nothing to borrow.
            _ => return Ok(false),
        };
        let session = self.mount_session(&asked, &from).await?;
        let path = format!("blobs/uploads/?mount={blob}&from={}", crate::address::encode(&from));
        let call = Call::new(&asked, Method::POST, path, &[201, 202]).header(CONTENT_LENGTH, "0");
        let response = match session.send(&call).await {
            Ok(response) => response,
            Err(error @ Error::Status { .. }) => {
                tracing::debug!(error = %yare_errdefs::chain(&error), "a blob is not borrowed");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let mounted = response.status() == 201;
        if response.status() == 202 {
            // It opened an upload instead, which nobody wants.
            if let Some(address) = location(&response) {
                let call = Call::at(&asked, Method::DELETE, address, &[200, 202, 204, 404, 405]).once();
                if let Ok(response) = session.send(&call).await {
                    response.drain(&asked).await;
                }
            }
        }
        response.drain(&asked).await;
        Ok(mounted)
    }

    /// Sends a blob, without asking whether it is there.
    ///
    /// # Errors
    /// Of the registry, when it does not take it; of the content, when it cannot be read.
    pub async fn upload(&self, blob: impl Into<Blob>, open: &Open<'_>) -> Result<()> {
        let blob = blob.into();
        let asked = self.asked(format!("upload blob {}", blob.name));
        let session = self.push_session(&asked)?;
        let mut in_pieces = false;
        let mut failures = 0;
        loop {
            let done = match in_pieces {
                false => self.whole(session, &asked, blob, open).await,
                true => self.pieces(session, &asked, blob, open, &mut failures).await,
            };
            let Err(error) = done else { return Ok(()) };
            failures += 1;
            if !in_pieces && wants_pieces(&error) {
                in_pieces = true;
                continue;
            }
            match session.pause(&error, failures) {
                // What broke the whole may be its length: a proxy's time limit, a weak line.
                Some(pause) => {
                    in_pieces |= blob.size > PIECE;
                    tokio::time::sleep(pause).await;
                }
                None => return Err(error),
            }
        }
    }

    async fn begin(&self, session: &Session, asked: &Asked) -> Result<(Uri, u64)> {
        // Tries are counted by whoever needs the upload: each needs a new one.
        let call =
            Call::new(asked, Method::POST, "blobs/uploads/", &[202]).header(CONTENT_LENGTH, "0").once();
        let response = session.send(&call).await?;
        let address = location(&response);
        let least = response.header("oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        response.drain(asked).await;
        let address = address.ok_or_else(|| Error::content(asked, "the upload was opened at no address"))?;
        Ok((address, least))
    }

    /// `POST`, then everything in one `PUT`.
    async fn whole(&self, session: &Session, asked: &Asked, blob: Blob, open: &Open<'_>) -> Result<()> {
        let (address, _) = self.begin(session, asked).await?;
        let body = || body_of(open, 0, blob.size);
        let call = Call::at(asked, Method::PUT, closing(asked, &address, &blob.name)?, &[201, 204])
            .header(CONTENT_LENGTH, &blob.size.to_string())
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(&body)
            .commits()
            .once();
        session.send(&call).await?.drain(asked).await;
        Ok(())
    }

    /// `POST`, a `PATCH` per piece, and an empty `PUT`. `failures` are those since something last went on.
    async fn pieces(
        &self,
        session: &Session,
        asked: &Asked,
        blob: Blob,
        open: &Open<'_>,
        failures: &mut u32,
    ) -> Result<()> {
        let (mut address, least) = self.begin(session, asked).await?;
        let piece = PIECE.max(least);
        let mut offset = 0;
        // Every piece goes twice at most on average: a registry that forgets them is not fed for ever.
        let mut left = 2 * blob.size.div_ceil(piece) + 8;
        while offset < blob.size {
            left = left
                .checked_sub(1)
                .ok_or_else(|| Error::content(asked, "the registry does not keep the pieces"))?;
            let length = piece.min(blob.size - offset);
            let body = || body_of(open, offset, length);
            let call = Call::at(asked, Method::PATCH, address.clone(), &[202, 204])
                .header(CONTENT_LENGTH, &length.to_string())
                .header(CONTENT_RANGE, &format!("{offset}-{}", offset + length - 1))
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(&body)
                .once();
            match session.send(&call).await {
                Ok(response) => {
                    address = location(&response).unwrap_or(address);
                    offset = received(&response).filter(|got| *got <= blob.size).unwrap_or(offset + length);
                    response.drain(asked).await;
                    *failures = 0;
                }
                Err(error) => {
                    *failures += 1;
                    let Some(pause) = session.pause_of_upload(&error, *failures) else { return Err(error) };
                    tokio::time::sleep(pause).await;
                    // It knows best how far it is.
                    let call = Call::at(asked, Method::GET, address.clone(), &[200, 202, 204]);
                    let response = session.send(&call).await?;
                    address = location(&response).unwrap_or(address);
                    offset = received(&response).filter(|got| *got <= blob.size).unwrap_or(0);
                    response.drain(asked).await;
                }
            }
        }
        self.close((session, asked), blob, &address, failures).await
    }

    /// The empty `PUT`. When it is only its answer that was lost, the registry no longer knows the upload, and
    /// has the blob.
    async fn close(
        &self,
        (session, asked): (&Session, &Asked),
        blob: Blob,
        address: &Uri,
        failures: &mut u32,
    ) -> Result<()> {
        let mut is_first = true;
        loop {
            let call = Call::at(asked, Method::PUT, closing(asked, address, &blob.name)?, &[201, 204])
                .header(CONTENT_LENGTH, "0")
                .commits()
                .once();
            let error = match session.send(&call).await {
                Ok(response) => {
                    response.drain(asked).await;
                    return Ok(());
                }
                Err(error) => error,
            };
            let is_unknown = error.status() == Some(StatusCode::NOT_FOUND) && !is_first;
            if is_unknown && self.has_blob(blob).await? {
                return Ok(());
            }
            is_first = false;
            *failures += 1;
            let Some(pause) = session.pause(&error, *failures) else { return Err(error) };
            tokio::time::sleep(pause).await;
        }
    }
}

/// Refusals that are about the form and not about the content.
fn wants_pieces(error: &Error) -> bool {
    matches!(error, Error::Status { status, .. } if matches!(status.as_u16(), 404 | 405 | 411 | 413 | 415 | 501))
}

/// Where an upload goes on.
fn location(response: &Response) -> Option<Uri> {
    join(&response.url, response.header(LOCATION.as_str())?)
}

/// `Range: 0-99` of an upload: 100 bytes are there. `0-0` of an empty one reads like one byte, and one too
/// many is what the registry refuses; nobody sends pieces of one byte.
fn received(response: &Response) -> Option<u64> {
    let last: u64 =
        response.header(RANGE.as_str())?.trim_start_matches("bytes=").split('-').nth(1)?.parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}

fn closing(asked: &Asked, address: &Uri, digest: &ContentDigest) -> Result<Uri> {
    with_query(address, "digest", &digest.to_string())
        .ok_or_else(|| Error::content(asked, "the upload was opened at an address that is too long"))
}

/// `length` bytes of the content from `offset` on; fewer are an error of the content.
fn body_of(open: &Open<'_>, offset: u64, length: u64) -> Body {
    if length == 0 {
        return empty();
    }
    let exact = futures_util::stream::try_unfold((open(offset), length), |(mut content, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        match content.try_next().await? {
            Some(mut chunk) => {
                chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                let left = left - chunk.len() as u64;
                Ok(Some((Frame::data(chunk), (content, left))))
            }
            None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} bytes are missing"))),
        }
    });
    StreamBody::new(exact).boxed_unsync()
}
