//! A build cache in a registry: its blobs and its manifest, as those of an image.

use crate::Engine;
use crate::images::{credentials, read_from, registry_error};
use bytes::{Buf, Bytes};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use yare_api::AuthConfig;
use yare_build::{Cancel, ContentStore};
use yare_distribution::{BlobStream, Intent, Name, Repository, Resume};
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, Digest, Reference};

/// How often a transfer looks whether its build was cancelled.
const LOOK: Duration = Duration::from_millis(200);

/// A name in a registry, for a build, which runs on a thread.
pub(super) struct CacheRepository {
    runtime: Handle,
    reference: Reference,
    repository: Repository,
    cancel: Cancel,
}

impl CacheRepository {
    pub(super) fn open(
        engine: &Engine,
        runtime: &Handle,
        (reference, auth): (&Reference, &AuthConfig),
        write: bool,
        cancel: &Cancel,
    ) -> Result<Self> {
        let intent = if write { Intent::Push } else { Intent::Pull };
        let credentials = credentials(auth);
        let opened = engine.transfers.client.repository(reference, &credentials, intent);
        let repository = wait(runtime, cancel, opened)?.map_err(|error| registry_error(reference, error))?;
        Ok(Self {
            runtime: runtime.clone(),
            reference: reference.clone(),
            repository,
            cancel: cancel.clone(),
        })
    }

    fn wait<T>(&self, work: impl Future<Output = yare_distribution::Result<T>>) -> Result<T> {
        let done = wait(&self.runtime, &self.cancel, work)?;
        done.map_err(|error| registry_error(&self.reference, error))
    }
}

/// Waits on a thread of a build, until the build shall end.
fn wait<T>(runtime: &Handle, cancel: &Cancel, work: impl Future<Output = T>) -> Result<T> {
    runtime.block_on(async {
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(LOOK, &mut work).await {
                return Ok(done);
            }
            cancel.check()?;
        }
    })
}

impl ContentStore for CacheRepository {
    fn manifest(&self, digest: Option<&Digest>) -> Result<Vec<u8>> {
        let name = match (digest, self.reference.tag()) {
            (Some(digest), _) => Name::from(*digest),
            (None, tag) => Name::Tag(tag.unwrap_or("latest").to_owned()),
        };
        self.wait(self.repository.manifest(&name)).map(|document| document.bytes.to_vec())
    }

    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>> {
        let stream = self.repository.blob(blob, Resume::default());
        let stream = stream.map_err(|error| registry_error(&self.reference, error))?;
        Ok(Box::new(Blob { store: self, stream, piece: Bytes::new() }))
    }

    fn has(&self, blob: &Descriptor) -> Result<bool> {
        self.wait(self.repository.has_blob(blob))
    }

    fn put(&self, blob: &Descriptor, file: &Path) -> Result<()> {
        let file = File::open(file)
            .map_err(|error| Error::internal(format!("cannot open {}", file.display())).caused_by(error))?;
        let file = Arc::new(file);
        let open = |offset: u64| read_from(&file, offset, |_| ());
        self.wait(self.repository.upload(blob, &open))
    }

    fn publish(&self, manifest: &Descriptor, bytes: &[u8]) -> Result<()> {
        let name = Name::Tag(self.reference.tag().unwrap_or("latest").to_owned());
        self.wait(self.repository.put_manifest(&name, &manifest.media_type, bytes)).map(drop)
    }
}

/// A blob on its way in.
struct Blob<'a> {
    store: &'a CacheRepository,
    stream: BlobStream,
    piece: Bytes,
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.store.wait(self.stream.chunk()).map_err(io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
