//! From registry to registry: an image or an index with all that it names, and nothing that is there already.

use crate::blob::{Blob, BlobStream};
use crate::error::Asked;
use crate::manifest::{Document, Name};
use crate::repository::Repository;
use crate::upload::{Content, Pushed};
use crate::{Error, Result};
use bytes::{Buf, Bytes};
use futures_util::stream;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::io;
use yare_oci::{ContentDigest, Digest, MediaType};

/// Indexes within indexes, and entries of one.
const DEPTH: usize = 4;
const ENTRIES: usize = 1000;
/// Manifests of one copy, which are in memory until its end: how many, and their bytes.
const DOCUMENTS: usize = 10_000;
const BYTES: usize = 128 << 20;

/// What a copy did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// The digest at both places.
    pub digest: Digest,
    /// Blobs that were sent.
    pub sent: usize,
    /// Blobs that were there, or were borrowed from a neighbour.
    pub spared: usize,
}

impl Repository {
    /// Copies what `name` stands for here to `target` under `as_name`. The bytes of all manifests stay, and so
    /// do their digests.
    ///
    /// # Errors
    /// Of either registry.
    pub async fn copy_to(&self, name: &Name, target: &Repository, as_name: &Name) -> Result<Copied> {
        let asked = self.asked(format!("copy {name}"));
        let document = self.manifest(name).await?;
        let digest = document.descriptor.digest;
        let mut copied = Copied { digest, sent: 0, spared: 0 };
        // Children before their parents: a registry refuses a manifest that names what it does not have.
        let mut open = vec![(document.clone(), 0)];
        let (mut parents, mut bytes, mut known) = (Vec::new(), document.bytes.len(), BTreeSet::new());
        while let Some((document, depth)) = open.pop() {
            for child in children(&asked, &document, depth)? {
                let child = self.manifest(&Name::Digest(child)).await?;
                bytes += child.bytes.len();
                open.push((child, depth + 1));
                if parents.len() + open.len() > DOCUMENTS || bytes > BYTES {
                    let what = format!("it has more than {DOCUMENTS} manifests, or {BYTES} bytes of them");
                    return Err(Error::content(&asked, what));
                }
            }
            for blob in blobs(&asked, &document)? {
                if !known.insert(blob.name) {
                    copied.spared += 1;
                    continue;
                }
                match self.copy_blob(blob, target).await? {
                    Pushed::Uploaded => copied.sent += 1,
                    Pushed::Present | Pushed::Mounted => copied.spared += 1,
                }
            }
            parents.push(document);
        }
        for document in parents.iter().rev().filter(|parent| parent.descriptor.digest != digest) {
            let child = Name::Digest(document.name);
            target.put_manifest(&child, &document.descriptor.media_type, &document.bytes).await?;
        }
        target.put_manifest(as_name, &document.descriptor.media_type, &document.bytes).await?;
        Ok(copied)
    }

    async fn copy_blob(&self, blob: Blob, target: &Repository) -> Result<Pushed> {
        let neighbours: Vec<String> =
            if self.domain() == target.domain() { vec![self.path().to_owned()] } else { Vec::new() };
        let open = |offset: u64| -> Content {
            match self.blob_called(blob) {
                Ok(stream) => content(stream, offset),
                Err(error) => Box::pin(stream::iter([Err(io::Error::other(error))])),
            }
        };
        target.push_blob(blob, &neighbours, &open).await
    }
}

/// The content of a blob from an offset on. It is read from its beginning, because only whole it can be
/// verified, and verified before its end is told: the other registry never gets wrong content whole.
fn content(blob: BlobStream, offset: u64) -> Content {
    Box::pin(stream::try_unfold((blob, offset), |(mut blob, mut skip)| async move {
        loop {
            let Some(mut chunk) = blob.chunk().await.map_err(io::Error::other)? else { return Ok(None) };
            let known = skip.min(chunk.len() as u64);
            skip -= known;
            chunk.advance(usize::try_from(known).unwrap_or(usize::MAX));
            if !chunk.is_empty() {
                return Ok::<Option<(Bytes, _)>, io::Error>(Some((chunk, (blob, skip))));
            }
        }
    }))
}

/// What an index lists.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Blob>,
}

/// What an image is made of.
#[derive(Deserialize)]
struct Image {
    config: Blob,
    layers: Vec<Blob>,
}

fn children(asked: &Asked, document: &Document, depth: usize) -> Result<Vec<ContentDigest>> {
    if !MediaType::is_index(&document.descriptor.media_type) {
        return Ok(Vec::new());
    }
    let index: Index = read(asked, document)?;
    if depth >= DEPTH || index.manifests.len() > ENTRIES {
        return Err(Error::content(
            asked,
            format!("the index is deeper than {DEPTH} or has more than {ENTRIES} entries"),
        ));
    }
    Ok(index.manifests.iter().map(|entry| entry.name).collect())
}

fn blobs(asked: &Asked, document: &Document) -> Result<Vec<Blob>> {
    if MediaType::is_index(&document.descriptor.media_type) {
        return Ok(Vec::new());
    }
    let image: Image = read(asked, document)?;
    Ok(image.layers.into_iter().chain([image.config]).collect())
}

fn read<T: serde::de::DeserializeOwned>(asked: &Asked, document: &Document) -> Result<T> {
    let digest = document.descriptor.digest;
    serde_json::from_slice(&document.bytes)
        .map_err(|error| Error::content(asked, format!("the manifest {digest} cannot be read: {error}")))
}
