//! One tag, or what speaks about one manifest, from side to side.

use super::counts::Counts;
use super::side::{Side, companions};
use super::{Here, Work};
use crate::manifest;
use futures_util::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use yare_distribution::{Document, Name, Pushed};
use yare_errdefs::{Error, Result};
use yare_oci::{ContentDigest, Descriptor, Digest, MediaType};

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
    /// Manifests that the target has by now, in the order in which it got them.
    seen: Vec<Digest>,
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
    pub(super) async fn about(mut self, subject: Digest) -> Result<()> {
        if self.target.find(&Name::from(subject)).await?.is_none() {
            // It comes with what it speaks about, or the rule is not about that.
            return Ok(());
        }
        self.seen.push(subject);
        self.referrers().await
    }

    async fn delete(&self, tag: &str) -> Result<()> {
        let is_there = self.target.find(&Name::Tag(tag.to_owned())).await?.is_some();
        if !self.work.rule.delete || !is_there {
            return Ok(());
        }
        self.target.delete(tag).await?;
        Counts::add(&self.work.counts.deleted, 1);
        Ok(())
    }

    /// Copies a manifest with all that it needs: that first.
    async fn tree(&mut self, document: Document, tag: Option<&str>, depth: usize) -> Result<()> {
        let digest = document.descriptor.digest;
        let name = tag.map_or(Name::from(digest), |tag| Name::Tag(tag.to_owned()));
        let content = parse(&document)?;
        if depth > DEPTH || self.seen.len() + content.members.len() > MANIFESTS {
            return Err(Error::precondition(format!(
                "{digest} is deeper than {DEPTH} indexes or has more than {MANIFESTS} manifests"
            )));
        }
        // A registry has all that a manifest needs which it has.
        if self.target.find(&name).await? == Some(digest) {
            self.seen.extend(content.members);
        } else {
            for member in &content.members {
                if self.target.find(&Name::from(*member)).await?.is_some() {
                    self.seen.push(*member);
                } else if let Some(child) = self.source.document(&Name::from(*member)).await? {
                    Box::pin(self.tree(child, None, depth + 1)).await?;
                }
                // What the source itself does not have, only the target can forgive.
            }
            self.blobs(&document, &content).await?;
            self.target.put(tag, &document).await?;
            Counts::add(&self.work.counts.manifests, 1);
        }
        self.seen.push(digest);
        Ok(())
    }

    async fn blobs(&self, document: &Document, content: &Content) -> Result<()> {
        if MediaType::is_index(&document.descriptor.media_type) {
            return Ok(());
        }
        let manifest: yare_oci::Manifest = serde_json::from_slice(&document.bytes)
            .map_err(|error| Error::precondition("a manifest cannot be read").caused_by(error))?;
        let mut blobs: Vec<Descriptor> = manifest.layers.into_iter().chain([manifest.config]).collect();
        // Those that live elsewhere by their maker's wish are not needed.
        blobs.retain(|blob| content.blobs.contains(&blob.digest));
        blobs.sort_by_key(|blob| blob.digest);
        blobs.dedup_by_key(|blob| blob.digest);
        let taken: Vec<_> = blobs.iter().map(|blob| self.blob(blob)).collect();
        stream::iter(taken).buffer_unordered(BLOBS).try_collect::<Vec<()>>().await.map(drop)
    }

    async fn blob(&self, blob: &Descriptor) -> Result<()> {
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
            for referrer in self.source.referrers(&subject).await? {
                if self.seen.contains(&referrer) {
                    continue;
                }
                if let Some(document) = self.source.document(&Name::from(referrer)).await? {
                    self.tree(document, None, 0).await?;
                }
            }
        }
        Ok(())
    }
}

/// What a manifest needs.
struct Content {
    blobs: Vec<Digest>,
    members: Vec<Digest>,
}

fn parse(document: &Document) -> Result<Content> {
    let kind = Some(document.descriptor.media_type.as_str());
    let parsed = manifest::parse(kind, &document.bytes);
    let parsed = parsed.map_err(|refusal| Error::precondition(refusal.message))?;
    parsed.names().try_for_each(|name| copied(name).map(drop))?;
    let digests = |names: &[ContentDigest]| names.iter().filter_map(ContentDigest::sha256).collect();
    Ok(Content { blobs: digests(&parsed.blobs), members: digests(&parsed.members) })
}

/// The digest of content that can be copied.
pub(super) fn copied(name: &ContentDigest) -> Result<Digest> {
    name.sha256().ok_or_else(|| {
        Error::precondition(format!(
            "{name} cannot be copied: replication copies content named by SHA-256 only"
        ))
    })
}

/// What is needed for the work of a rule in one repository.
pub(super) fn here(registry: &Arc<crate::registry::Registry>, work: &Arc<Work>, rest: &str) -> Here {
    Here { registry: Arc::clone(registry), work: Arc::clone(work), name: work.rule.local(rest) }
}
