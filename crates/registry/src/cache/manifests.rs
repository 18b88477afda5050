//! Manifests of an upstream: kept by digest, asked about again by tag.

use super::Upstream;
use super::counts::Counts;
use crate::manifest::{self, MANIFEST_LIMIT};
use crate::manifests::{self, Push, PushRules};
use crate::name::Reference;
use crate::problem::{Error, Result};
use crate::registry::Registry;
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use yare_distribution::{Document, Name};
use yare_errdefs::{Class, Classified};
use yare_oci::{ContentDigest, Digest};

/// How a manifest of an upstream can be answered with.
#[derive(Debug)]
pub(crate) enum Freshness {
    /// From the records.
    Fresh,
    /// From the records; the upstream did not say whether the tag still names it.
    Stale,
    /// The records have no room for it: this is it.
    Passing(Box<Document>),
}

/// Makes a manifest of an upstream ready to be read from the records, as far as that is possible.
pub(crate) async fn refresh(
    registry: &Registry,
    upstream: &Upstream,
    name: &str,
    reference: &Reference,
) -> Result<Freshness> {
    if is_fresh(registry, upstream, name, reference)? {
        Counts::one(&upstream.counts.hits);
        return Ok(Freshness::Fresh);
    }
    // Clients that ask for the same wait for one answer.
    let _turn = upstream.asking.wait((name.to_owned(), reference.to_string())).await;
    if is_fresh(registry, upstream, name, reference)? {
        return Ok(Freshness::Fresh);
    }
    let held = held(registry, name, reference)?;
    if held.is_some() && upstream.is_down() {
        Counts::one(&upstream.counts.stale);
        return Ok(Freshness::Stale);
    }
    let repository = upstream.repository(name).await?;
    Counts::one(&upstream.counts.asked);
    let answer = ask(&repository, reference, held.as_ref()).await;
    upstream.note(&answer);
    match answer {
        Ok(None) => {
            let (_, bytes) = registry.manifest(name, reference, |_| false)?;
            let kind = held.map(|(kind, _)| kind).unwrap_or_default();
            keep(registry, name, reference, &kind, bytes.unwrap_or_default()).await?;
            Ok(Freshness::Fresh)
        }
        Ok(Some(document)) => {
            if document.bytes.len() > MANIFEST_LIMIT {
                return Err(manifest::too_large(document.bytes.len() as u64).into());
            }
            let kind = document.descriptor.media_type.to_string();
            match keep(registry, name, reference, &kind, document.bytes.clone()).await {
                Ok(()) => Ok(Freshness::Fresh),
                Err(Error::Refused(refusal)) if refusal.code == crate::problem::Code::Denied => {
                    tracing::warn!(name, %reference, why = refusal.message, "a manifest is passed through and not kept");
                    Ok(Freshness::Passing(Box::new(document)))
                }
                Err(error) => Err(error),
            }
        }
        Err(error) if held.is_some() && error.class() == Class::Unavailable => {
            Counts::one(&upstream.counts.stale);
            let error = yare_errdefs::chain(&error);
            tracing::warn!(name, %reference, error, "a tag is served as it was: the upstream is not there");
            Ok(Freshness::Stale)
        }
        Err(error) => Err(upstream.refusal(&error, || manifests::unknown(reference))),
    }
}

/// Whether the records answer for themselves.
fn is_fresh(registry: &Registry, upstream: &Upstream, name: &str, reference: &Reference) -> Result<bool> {
    let view = registry.records.view()?;
    let Reference::Tag(tag) = reference else { return manifests::is_there(&view, name, reference) };
    let confirmed = manifests::tag_time(&view, name, tag)?;
    let is_fresh =
        confirmed.is_some_and(|time| registry.now().saturating_sub(time) < upstream.proxy.fresh.as_secs());
    // One whose bytes are damaged is had anew at once.
    Ok(is_fresh && manifests::is_there(&view, name, reference)?)
}

/// Kind and digest of what is here.
fn held(registry: &Registry, name: &str, reference: &Reference) -> Result<Option<(String, Digest)>> {
    match manifests::is_there(&registry.records.view()?, name, reference)? {
        false => Ok(None),
        true => {
            let (found, _) = registry.manifest(name, reference, |_| true)?;
            Ok(Some((found.record.media_type, found.digest)))
        }
    }
}

/// Asks the upstream. `None` when the tag still names what is held.
async fn ask(
    repository: &yare_distribution::Repository,
    reference: &Reference,
    held: Option<&(String, Digest)>,
) -> yare_distribution::Result<Option<Document>> {
    let tag = match reference {
        Reference::Digest(name) => return repository.manifest(&Name::Digest(*name)).await.map(Some),
        Reference::Tag(tag) => Name::Tag(tag.to_string()),
    };
    if let Some((_, held)) = held
        && repository.resolve(&tag).await?.digest == *held
    {
        return Ok(None);
    }
    repository.manifest(&tag).await.map(Some)
}

/// Stores a manifest, or that a tag still names it. Its blobs and members come when they are asked for.
async fn keep(
    registry: &Registry,
    repository: &str,
    reference: &Reference,
    kind: &str,
    bytes: Bytes,
) -> Result<()> {
    let manifest = manifest::parse(Some(kind), &bytes)?;
    let digest = Digest::of(&bytes);
    let (name, tags) = match reference {
        Reference::Tag(tag) => (ContentDigest::from(digest), vec![tag.clone()]),
        // The upstream's answer was checked against it.
        Reference::Digest(name) => (*name, Vec::new()),
    };
    let (repository, elsewhere) = (repository.to_owned(), HashSet::new());
    let now = registry.now();
    let push = Push { repository, tags, digest, name, bytes, manifest, elsewhere, now, origin: None };
    let rules = PushRules {
        quotas: registry.rules.quotas.clone(),
        // The upstream decides where its tags go.
        immutable: Vec::new(),
        sparse: true,
        absent_blobs: true,
        // Copies of copies are made by who wants them.
        replicate: Arc::default(),
        webhooks: Arc::default(),
    };
    registry.records.write(move |writing| manifests::put(writing, &push, &rules)).await
}
