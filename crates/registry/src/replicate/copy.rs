//! One tag, or what speaks about one manifest, from side to side.

use super::counts::Counts;
use super::side::{Side, companions};
use super::{Here, Work};
use crate::manifest;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use std::sync::Arc;
use yare_distribution::{Blob, Document, Name, Pushed};
use yare_errdefs::{Error, Result};
use yare_oci::{ContentDigest, MediaType};

/// Indexes within indexes, and manifests of one copy.
const DEPTH: usize = 4;
const MANIFESTS: usize = 10_000;
/// Blobs of a manifest that are copied at a time.
const BLOBS: usize = 3;

/// A copy under way.
pub(super) struct Copy<'a> {
    work: &'a Work,
    source: &'a Side,
    target: &'a Side,
    /// What manifests are called that the target has by now, in the order in which it got them.
    seen: Vec<ContentDigest>,
}

/// Both sides of a repository that the rule calls `rest`: source and target.
pub(super) async fn sides(here: &Here, rest: &str) -> Result<(Side, Side)> {
    let there = Side::There(here.work.remote(rest).await?);
    let local = Side::Here(here.clone());
    Ok(if here.work.rule.is_push() { (local, there) } else { (there, local) })
}

impl<'a> Copy<'a> {
    pub(super) fn new(work: &'a Work, (source, target): (&'a Side, &'a Side)) -> Self {
        Self { work, source, target, seen: Vec::new() }
    }

    /// Makes a tag at the target name what it names at the source.
    pub(super) async fn tag(mut self, tag: &str) -> Result<()> {
        let name = Name::Tag(tag.to_owned());
        let Some(document) = self.source.document(&name).await? else {
            return self.delete(tag).await;
        };
        let top = document.descriptor.digest;
        self.tree(document, Some(tag), 0).await?;
        if !self.work.rule.referrers {
            return Ok(());
        }
        self.referrers().await?;
        for companion in companions(&top) {
            if let Some(document) = self.source.document(&Name::Tag(companion.clone())).await? {
                self.tree(document, Some(&companion), 0).await?;
            }
        }
        Ok(())
    }

    /// Makes the target have what speaks about a manifest that it has.
    pub(super) async fn about(mut self, subject: ContentDigest) -> Result<()> {
        if self.target.called(&Name::Digest(subject)).await?.is_none() {
            // It comes with what it speaks about, or the rule is not about that.
            return Ok(());
        }
        self.seen.push(subject);
        self.referrers().await
    }

    async fn delete(&self, tag: &str) -> Result<()> {
        let is_there = self.target.called(&Name::Tag(tag.to_owned())).await?.is_some();
        if !self.work.rule.delete || !is_there {
            return Ok(());
        }
        self.target.delete(tag).await?;
        Counts::add(&self.work.counts.deleted, 1);
        Ok(())
    }

    /// Copies a manifest with all that it needs: that first.
    async fn tree(&mut self, document: Document, tag: Option<&str>, depth: usize) -> Result<()> {
        let called = document.name;
        let content = parse(&document)?;
        if depth > DEPTH || self.seen.len() + content.members.len() > MANIFESTS {
            return Err(Error::precondition(format!(
                "{called} is deeper than {DEPTH} indexes or has more than {MANIFESTS} manifests"
            )));
        }
        // A registry has all that a manifest needs which it has.
        if is_alike(self.target, tag, &document).await? {
            self.seen.extend(content.members);
        } else {
            for member in &content.members {
                if self.target.called(&Name::Digest(*member)).await?.is_some() {
                    self.seen.push(*member);
                } else if let Some(child) = self.source.document(&Name::Digest(*member)).await? {
                    Box::pin(self.tree(child, None, depth + 1)).await?;
                }
                // What the source itself does not have, only the target can forgive.
            }
            self.blobs(&document, &content).await?;
            self.target.put(tag, &document).await?;
            Counts::add(&self.work.counts.manifests, 1);
        }
        self.seen.push(called);
        Ok(())
    }

    async fn blobs(&self, document: &Document, content: &Content) -> Result<()> {
        if MediaType::is_index(&document.descriptor.media_type) {
            return Ok(());
        }
        let image: Image = serde_json::from_slice(&document.bytes)
            .map_err(|error| Error::precondition("a manifest cannot be read").caused_by(error))?;
        let mut blobs: Vec<Blob> = image.layers.into_iter().chain([image.config]).collect();
        // Those that live elsewhere by their maker's wish are not needed.
        blobs.retain(|blob| content.blobs.contains(&blob.name));
        blobs.sort_unstable();
        blobs.dedup_by_key(|blob| blob.name);
        let taken: Vec<_> = blobs.iter().map(|blob| self.blob(*blob)).collect();
        stream::iter(taken).buffer_unordered(BLOBS).try_collect::<Vec<()>>().await.map(drop)
    }

    async fn blob(&self, blob: Blob) -> Result<()> {
        if self.target.take(blob, self.source).await? == Pushed::Uploaded {
            Counts::add(&self.work.counts.blobs, 1);
            Counts::add(&self.work.counts.bytes, blob.size);
        }
        Ok(())
    }

    /// Copies what speaks about the manifests that were seen, and about those again.
    async fn referrers(&mut self) -> Result<()> {
        let mut next = 0;
        while let Some(subject) = self.seen.get(next).copied() {
            next += 1;
            for referrer in referrers(self.source, &subject).await? {
                if self.seen.contains(&referrer) {
                    continue;
                }
                if let Some(document) = self.source.document(&Name::Digest(referrer)).await? {
                    self.tree(document, None, 0).await?;
                }
            }
        }
        Ok(())
    }
}

/// What speaks about a manifest by this name of it. Who attaches something to what is named by SHA-512 may know it
/// by SHA-256 alone.
pub(super) async fn referrers(side: &Side, subject: &ContentDigest) -> Result<Vec<ContentDigest>> {
    let mut found = side.referrers(subject).await?;
    if subject.sha256().is_none()
        && let Some(document) = side.document(&Name::Digest(*subject)).await?
    {
        found.extend(side.referrers(&document.descriptor.digest.into()).await?);
    }
    Ok(found)
}

/// Whether a side has this manifest under the tag, or under what it is called: the same bytes, which it knows by
/// that name.
pub(super) async fn is_alike(side: &Side, tag: Option<&str>, document: &Document) -> Result<bool> {
    let name = tag.map_or(Name::Digest(document.name), |tag| Name::Tag(tag.to_owned()));
    match side.called(&name).await? {
        None => Ok(false),
        Some(called) if called == document.name => Ok(true),
        Some(called) if called.same_of(&document.bytes) != called => Ok(false),
        Some(_) => Ok(side.called(&Name::Digest(document.name)).await?.is_some()),
    }
}

/// What an image is made of.
#[derive(Deserialize)]
struct Image {
    config: Blob,
    layers: Vec<Blob>,
}

/// What a manifest needs.
struct Content {
    blobs: Vec<ContentDigest>,
    members: Vec<ContentDigest>,
}

fn parse(document: &Document) -> Result<Content> {
    let kind = Some(document.descriptor.media_type.as_str());
    let parsed = manifest::parse(kind, &document.bytes);
    let parsed = parsed.map_err(|refusal| Error::precondition(refusal.message))?;
    Ok(Content { blobs: parsed.blobs, members: parsed.members })
}

/// What is needed for the work of a rule in one repository.
pub(super) fn here(registry: &Arc<crate::registry::Registry>, work: &Arc<Work>, rest: &str) -> Here {
    Here { registry: Arc::clone(registry), work: Arc::clone(work), name: work.rule.local(rest) }
}
