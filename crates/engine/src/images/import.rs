//! An image of the file system in a tar: of the client's, or of one that the engine fetches.

use super::lines::{Bar, Lines};
use super::{Body, BodyReader, Output, Progress, parse, publish, with_progress};
use crate::Engine;
use futures_util::stream;
use http::StatusCode;
use std::io::{self, Read};
use std::sync::Arc;
use yare_build::source::http::{LARGEST, check_url, class_of, redact};
use yare_errdefs::{Error, Result};
use yare_image::ImportOptions;
use yare_oci::Platform;

/// What to make of an imported tar.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Where the tar is to be fetched; without it, it is the body of the request.
    pub url: Option<String>,
    /// Repository, or `repository:tag`; empty leaves the image untagged.
    pub repository: String,
    /// Tag, where the repository has none.
    pub tag: String,
    /// Remark in the history.
    pub message: String,
    /// Dockerfile lines that change the config.
    pub changes: Vec<String>,
    /// What it was made for; the host's platform when absent.
    pub platform: Option<Platform>,
}

/// Makes an image from a tar of a root filesystem, compressed or not. Gives progress lines.
pub async fn import(engine: &Arc<Engine>, request: ImportRequest, body: Body) -> Result<Output> {
    let reference = match (request.repository.as_str(), request.tag.as_str()) {
        ("", _) => None,
        (repository, "") => Some(parse(repository)?.or_latest()),
        (repository, tag) => {
            Some(parse(repository)?.with_tag(tag).map_err(|error| Error::invalid(error.to_string()))?)
        }
    };
    yare_image::changes::check(&request.changes)?;
    let download = match &request.url {
        Some(url) => Some(Download::begin(engine, url).await?),
        None => None,
    };
    let message = match &download {
        Some(download) if request.message.is_empty() => format!("Imported from {}", download.shown),
        _ => request.message,
    };
    let options = ImportOptions {
        reference: reference.clone(),
        message,
        changes: request.changes,
        platform: request.platform,
    };
    let engine = Arc::clone(engine);
    with_progress(body, move |reader, progress| {
        let image = match download {
            None => engine.images.import(reader, &options)?,
            Some(download) => engine.images.import(download.shown_by(progress), &options)?,
        };
        if let Some(reference) = &reference {
            publish(&engine, "tag", &image.id, &reference.familiar());
        }
        publish(&engine, "import", &image.id, &image.id.to_string());
        progress.line(&serde_json::json!({ "status": image.id.to_string() }));
        Ok(())
    })
}

/// A tar that a server sends.
struct Download {
    /// The address, without what may be secret.
    shown: String,
    size: u64,
    body: BodyReader,
}

impl Download {
    /// Asks for it, as `ADD` of an address does: a redirect out of TLS, or deeper into the network, is refused.
    async fn begin(engine: &Engine, url: &str) -> Result<Self> {
        // Docker's command line names a scheme; of its API an address without one is plain HTTP.
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        check_url(&url)?;
        let shown = redact(&url);
        let page = engine.transfers.client.download(&url, &[]).await;
        let page = page.map_err(|error| Error::wrap(format!("cannot get {shown}"), error))?;
        let status = page.status();
        if !(200..=299).contains(&status) {
            let said =
                StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |said| said.to_string());
            return Err(Error::new(class_of(status), format!("failed to GET {shown} with status {said}")));
        }
        let size = page.length().unwrap_or_default();
        let body = stream::try_unfold(page, |mut page| async {
            let piece = page.chunk().await.map_err(|error| io::Error::other(yare_errdefs::chain(&error)))?;
            Ok(piece.map(|piece| (piece, page)))
        });
        Ok(Self { shown, size, body: BodyReader::new(Box::pin(body)) })
    }

    /// The tar; how far it is is shown to the client.
    fn shown_by(self, progress: &mut Progress) -> impl Read {
        progress.line(&serde_json::json!({ "status": format!("Downloading from {}", self.shown) }));
        let lines = Lines::over(&progress.0);
        let bar = lines.bar("", "Importing", self.size);
        Watched { body: self.body, done: 0, lines, bar }
    }
}

/// A download that moves a bar. It ends when it is too large, and when its client has left: unlike a tar of the
/// client's own it would go on.
struct Watched {
    body: BodyReader,
    done: u64,
    lines: Lines,
    bar: Bar,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.lines.is_closed() {
            return Err(io::Error::other("the client has left"));
        }
        let count = self.body.read(buffer)?;
        self.done += count as u64;
        if self.done > LARGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("it has more than {LARGEST} bytes, which is the limit"),
            ));
        }
        self.bar.at(self.done);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_download_ends_with_its_client() {
        let (sender, mut out) = mpsc::channel(1);
        let body = stream::repeat_with(|| Ok(Bytes::from_static(&[7; 1000])));
        let download =
            Download { shown: "http://x".to_owned(), size: 0, body: BodyReader::new(Box::pin(body)) };
        let copied = tokio::task::spawn_blocking(move || {
            let mut progress = Progress(sender);
            io::copy(&mut download.shown_by(&mut progress), &mut io::sink())
        });
        let line = out.recv().await.unwrap().unwrap();
        assert_eq!(line, "{\"status\":\"Downloading from http://x\"}\r\n");
        let bar = out.recv().await.unwrap().unwrap();
        assert!(bar.starts_with(b"{\"status\":\"Importing\""), "{bar:?}");
        drop(out);
        assert_eq!(copied.await.unwrap().unwrap_err().to_string(), "the client has left");
    }
}
