//! The two ends of a copy: a repository here, and one at another registry.

use super::{Work, failed};
use crate::blobs::{self, OpenBlob};
use crate::clock::now;
use crate::events::Origin;
use crate::links;
use crate::listing::{self, Wanted};
use crate::manifest;
use crate::name::{Reference, Tag};
use crate::problem;
use crate::registry::Registry;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::fs::File;
use std::io;
use std::sync::Arc;
use yare_distribution::{Blob, Content, Document, Name, Pushed, Repository};
use yare_errdefs::{Class, Classified, Error, Result};
use yare_oci::{ContentDigest, Descriptor, Digest};

/// Bytes that are gathered before they are written.
const BATCH: usize = 512 << 10;
/// Repositories that a blob is borrowed from, at most.
const NEIGHBOURS: usize = 8;

/// A repository.
#[derive(Debug, Clone)]
pub(super) enum Side {
    /// Of this registry.
    Here(Here),
    /// Of another one.
    There(Repository),
}

/// A repository of this registry.
#[derive(Debug, Clone)]
pub(super) struct Here {
    pub(super) registry: Arc<Registry>,
    pub(super) work: Arc<Work>,
    pub(super) name: String,
}

fn wrap(error: yare_distribution::Error) -> Error {
    Error::wrap("the other registry", error)
}

/// What is not there is no error.
fn some<T>(found: problem::Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(problem::Error::Refused(refusal)) if refusal.status == http::StatusCode::NOT_FOUND => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

impl Side {
    /// What the content under a name is called, if it is there.
    pub(super) async fn called(&self, name: &Name) -> Result<Option<ContentDigest>> {
        match self {
            Self::Here(here) => {
                let found = here.registry.manifest(&here.name, &reference(name)?, |_| true);
                Ok(some(found)?.map(|(found, _)| found.name))
            }
            Self::There(repository) => repository.called(name).await.map_err(wrap),
        }
    }

    /// A manifest, if it is there.
    pub(super) async fn document(&self, name: &Name) -> Result<Option<Document>> {
        match self {
            Self::Here(here) => {
                let found = here.registry.manifest(&here.name, &reference(name)?, |_| false);
                Ok(some(found)?.map(|(found, bytes)| {
                    let bytes = bytes.unwrap_or_default();
                    let size = bytes.len() as u64;
                    let descriptor = Descriptor::new(&found.record.media_type, found.digest, size);
                    Document { descriptor, name: found.name, bytes }
                }))
            }
            Self::There(repository) => match repository.manifest(name).await {
                Ok(document) => Ok(Some(document)),
                Err(error) if error.class() == Class::NotFound => Ok(None),
                Err(error) => Err(wrap(error)),
            },
        }
    }

    /// All tags; `None` where there is no such repository.
    pub(super) async fn tags(&self) -> Result<Option<Vec<String>>> {
        match self {
            Self::Here(here) => here.tags().map_err(failed),
            Self::There(repository) => match repository.tags().await {
                Ok(tags) => Ok(Some(tags)),
                Err(error) if error.class() == Class::NotFound => Ok(None),
                Err(error) => Err(wrap(error)),
            },
        }
    }

    /// What speaks about a manifest by this name of it.
    pub(super) async fn referrers(&self, subject: &ContentDigest) -> Result<Vec<ContentDigest>> {
        match self {
            Self::Here(here) => {
                let view = here.registry.records.view().map_err(failed)?;
                links_to(&view, &here.name, subject).map_err(failed)
            }
            Self::There(repository) => {
                let found = repository.referrers(*subject, None).await.map_err(wrap)?;
                Ok(found.into_iter().map(|entry| entry.digest).collect())
            }
        }
    }

    /// Makes a blob of `source` be here, too; how that came about.
    pub(super) async fn take(&self, blob: Blob, source: &Self) -> Result<Pushed> {
        match (self, source) {
            (Self::Here(here), Self::There(from)) => here.fetch(blob, from).await,
            (Self::There(to), Self::Here(from)) => from.send(blob, to).await,
            _ => Err(Error::internal("a copy is between this registry and another one")),
        }
    }

    /// Stores a manifest by what it is called, and under a tag.
    pub(super) async fn put(&self, tag: Option<&str>, document: &Document) -> Result<()> {
        match self {
            Self::Here(here) => here.put(tag, document).await.map_err(failed),
            Self::There(repository) => {
                let kind = document.descriptor.media_type.as_str();
                let parsed = manifest::parse(Some(kind), &document.bytes);
                let parsed = parsed.map_err(|refusal| failed(refusal.into()))?;
                if let Some(subject) = parsed.subject {
                    repository.put_referrer(&subject, document).await.map_err(wrap)?;
                    if tag.is_none() {
                        return Ok(());
                    }
                }
                // Under a tag it is called by SHA-256 unless something else is said.
                let put = match tag {
                    Some(tag) if document.name.sha256().is_none() => {
                        repository.put_called(tag, document).await
                    }
                    Some(tag) => {
                        repository.put_manifest(&Name::Tag(tag.to_owned()), kind, &document.bytes).await
                    }
                    None => {
                        repository.put_manifest(&Name::Digest(document.name), kind, &document.bytes).await
                    }
                };
                put.map(drop).map_err(wrap)
            }
        }
    }

    /// Takes a tag away.
    pub(super) async fn delete(&self, tag: &str) -> Result<()> {
        match self {
            Self::Here(here) => {
                let reference = reference(&Name::Tag(tag.to_owned()))?;
                some(here.registry.delete_manifest(&here.name, &reference, Some(here.origin())).await)?;
                Ok(())
            }
            Self::There(repository) => {
                repository.delete_manifest(&Name::Tag(tag.to_owned())).await.map_err(wrap)
            }
        }
    }
}

fn reference(name: &Name) -> Result<Reference> {
    match name {
        Name::Digest(digest) => Ok(Reference::Digest(*digest)),
        Name::Tag(tag) => Tag::parse(tag).map(Reference::Tag).map_err(|refusal| failed(refusal.into())),
    }
}

/// All that speaks about a manifest, by the records.
fn links_to(
    view: &redb::ReadTransaction,
    name: &str,
    subject: &ContentDigest,
) -> problem::Result<Vec<ContentDigest>> {
    #[derive(serde::Deserialize)]
    struct Entry {
        digest: ContentDigest,
    }
    let (mut wanted, mut found) = (Wanted::default(), Vec::new());
    loop {
        let page = listing::referrers(view, (name, subject), None, &wanted)?;
        for entry in &page.entries {
            found.push(serde_json::from_str::<Entry>(entry.get())?.digest);
        }
        match page.next {
            None => return Ok(found),
            next => wanted.after = next,
        }
    }
}

impl Here {
    fn tags(&self) -> problem::Result<Option<Vec<String>>> {
        let view = self.registry.records.view()?;
        let (mut wanted, mut found) = (Wanted::default(), Vec::new());
        loop {
            let Some(page) = listing::tags(&view, &self.name, &wanted)? else { return Ok(None) };
            found.extend(page.entries);
            match page.next {
                None => return Ok(Some(found)),
                next => wanted.after = next,
            }
        }
    }

    /// Sends a blob, or lets the other registry borrow it from a repository that this rule fills, too.
    async fn send(&self, blob: Blob, to: &Repository) -> Result<Pushed> {
        let known = self.registry.known(&blob.name).await.map_err(failed)?;
        let known = known.ok_or_else(|| failed(links::unknown(&blob.name).into()))?;
        let opened = Arc::new(self.registry.open_blob(&self.name, &known).map_err(failed)?);
        let open = |offset: u64| read(Arc::clone(&opened), offset);
        to.push_blob(blob, &self.neighbours(&known)?, &open).await.map_err(wrap)
    }

    /// Repositories at the other registry that may have a blob, because those here have it.
    fn neighbours(&self, blob: &Digest) -> Result<Vec<String>> {
        let view = self.registry.records.view().map_err(failed)?;
        let holders = links::holders(&view, blob, NEIGHBOURS).map_err(failed)?;
        let rule = &self.work.rule;
        let there = holders.iter().filter(|holder| **holder != self.name).filter_map(|holder| {
            let found = rule.remote().repository(rule.rest(holder)?)?;
            Some(found.path().to_owned())
        });
        Ok(there.collect())
    }

    /// Makes a blob be here: it is, or another repository of this rule has it, or it is fetched.
    async fn fetch(&self, blob: Blob, from: &Repository) -> Result<Pushed> {
        let registry = &self.registry;
        // What is here under other names only is fetched by this one: then it is known to be right.
        if let Some(known) = registry.known(&blob.name).await.map_err(failed)? {
            if some(registry.promise_blob(&self.name, &known).await)?.is_some() {
                return Ok(Pushed::Present);
            }
            // A digest alone gives the other registry's makers nothing that only other repositories have.
            let is_ours = |holder: &str| self.work.rule.rest(holder).is_some();
            let mounted = registry.mount(&self.name, known, None, is_ours, Some(self.origin())).await;
            if mounted.map_err(failed)? {
                return Ok(Pushed::Mounted);
            }
        }
        let limit = registry.config.limits.blob;
        if blob.size > limit {
            let message = format!("blob {} has {} bytes; this registry takes {limit}", blob.name, blob.size);
            return Err(Error::precondition(message));
        }
        let mut stream = from.blob_called(blob).map_err(wrap)?;
        let upload = registry.uploads.start(&self.name, now()).await.map_err(failed)?;
        let mut writer = registry.uploads.writer(&upload).await.map_err(failed)?;
        loop {
            let (batch, end) = gather(&mut stream).await;
            let (back, written) = writer.append(batch).await;
            let Some(back) = back else { return written.map(|()| Pushed::Uploaded).map_err(failed) };
            let (is_end, outcome) = match (written, end) {
                (Err(error), _) => (true, Err(failed(error))),
                (Ok(()), Err(error)) => (true, Err(wrap(error))),
                (Ok(()), Ok(is_end)) => (is_end, Ok(())),
            };
            if let Err(error) = outcome {
                registry.uploads.discard(back).await;
                return Err(error);
            }
            if is_end {
                registry.finish(back, (&self.name, blob.name), Some(self.origin())).await.map_err(failed)?;
                return Ok(Pushed::Uploaded);
            }
            writer = back;
        }
    }

    async fn put(&self, tag: Option<&str>, document: &Document) -> problem::Result<()> {
        let (reference, tags) = (Reference::Digest(document.name), tag.map(Tag::parse).transpose()?);
        let tags = tags.into_iter().collect();
        let kind = Some(document.descriptor.media_type.as_str());
        let bytes = document.bytes.clone();
        let origin = Some(self.origin());
        self.registry.put_manifest(&self.name, &reference, tags, (kind, bytes), origin).await?;
        Ok(())
    }

    /// Who does it, for webhooks.
    fn origin(&self) -> Origin {
        let rule = &self.work.rule;
        Origin::part(&format!("replicate/{}", rule.name), rule.remote().domain())
    }
}

/// The next bytes, and whether they are the last.
async fn gather(stream: &mut yare_distribution::BlobStream) -> (Vec<Bytes>, yare_distribution::Result<bool>) {
    let (mut batch, mut size) = (Vec::new(), 0);
    while size < BATCH {
        match stream.chunk().await {
            Ok(Some(bytes)) => {
                size += bytes.len();
                batch.push(bytes);
            }
            Ok(None) => return (batch, Ok(true)),
            Err(error) => return (batch, Err(error)),
        }
    }
    (batch, Ok(false))
}

/// A blob of this registry from an offset on.
fn read(blob: Arc<OpenBlob>, offset: u64) -> Content {
    match &*blob {
        OpenBlob::File { file, size } => read_file(Arc::clone(file), offset, *size),
        OpenBlob::Object { bucket, object, size } => {
            let (bucket, object, size) = (bucket.clone(), object.clone(), *size);
            let opened = async move {
                let opened = bucket.open_blob(&object, offset..size).await;
                let opened = opened.map_err(|error| io::Error::other(failed(error)))?;
                opened.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            };
            stream::once(opened).try_flatten().boxed()
        }
    }
}

fn read_file(file: Arc<File>, offset: u64, size: u64) -> Content {
    let pieces = stream::try_unfold(offset, move |offset| {
        let file = Arc::clone(&file);
        async move {
            let end = blobs::piece_end(offset, size);
            if offset >= end {
                return Ok(None);
            }
            let read = blobs::read_piece(file, offset..end);
            read.await.map_err(io::Error::other).flatten().map(|piece| Some((piece, end)))
        }
    });
    pieces.boxed()
}

/// Whether a tag is the list that stands in for the referrers API, which only clients keep.
pub(super) fn is_list_of_referrers(tag: &str) -> bool {
    // Of a longer digest it has as much as of one by SHA-256.
    let hex = tag.strip_prefix("sha256-").or_else(|| tag.strip_prefix("sha512-"));
    hex.is_some_and(|hex| Digest::from_hex(hex).is_ok())
}

/// The repositories here that a rule is about, as it calls them.
pub(super) fn here(registry: &Registry, rule: &super::Rule) -> problem::Result<Vec<String>> {
    let view = registry.records.view()?;
    let (mut wanted, mut found) = (Wanted::default(), Vec::new());
    loop {
        let page = listing::repositories(&view, &wanted, |name| rule.rest(name).is_some())?;
        found.extend(page.entries.iter().filter_map(|name| rule.rest(name)).map(str::to_owned));
        match page.next {
            None => return Ok(found),
            next => wanted.after = next,
        }
    }
}

/// Which of a repository's tags sign, or speak about, a manifest by their name (as cosign's do).
pub(super) fn companions(subject: &Digest) -> [String; 3] {
    [".sig", ".att", ".sbom"].map(|end| format!("sha256-{}{end}", subject.hex()))
}
