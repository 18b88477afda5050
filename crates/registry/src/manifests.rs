//! Manifests and tags: reading, pushing, deleting.

use crate::events::{self, Event, Hook, Kind, Origin};
use crate::links::{grow, shrink, user};
use crate::manifest::Manifest;
use crate::name::{Pattern, Reference, Tag};
use crate::names;
use crate::problem::{Code, Error, Refusal, Result};
use crate::quota::{self, Quota};
use crate::records::{
    DOCUMENTS, GREATEST, HOLDERS, LEAST, LINKS, MANIFESTS, ManifestRecord, REFERRERS, REPOSITORIES, TAGGED,
    TAGS, TagRecord, USES, Writing, find, written,
};
use crate::replicate::{self, Rule};
use bytes::Bytes;
use redb::{ReadTransaction, ReadableTable};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use yare_oci::{ContentDigest, Digest};

/// Tags that do not move once pushed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Immutable {
    /// In which repositories.
    pub repositories: Pattern,
    /// Which tags; all when there is none.
    #[serde(default = "every")]
    pub tags: Vec<Pattern>,
}

fn every() -> Vec<Pattern> {
    vec![Pattern::new("*")]
}

/// A manifest that was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// Its digest.
    pub(crate) digest: Digest,
    /// What it is called: as it was asked for, or as it was pushed under the tag.
    pub(crate) name: ContentDigest,
    /// What is known of it.
    pub(crate) record: ManifestRecord,
}

/// Finds a manifest by tag or digest.
pub(crate) fn resolve(view: &ReadTransaction, repository: &str, reference: &Reference) -> Result<Found> {
    let called = match reference {
        Reference::Digest(name) => names::known(view, name)?.map(|digest| (digest, *name)),
        Reference::Tag(tag) => tag_record(&view.open_table(TAGS)?, repository, tag)?
            .map(|record| (record.digest, record.name.unwrap_or(record.digest.into()))),
    };
    let Some((digest, name)) = called else { return Err(missing(view, repository, reference)?.into()) };
    match find(&view.open_table(MANIFESTS)?, (repository, digest.as_bytes()))? {
        // Scrubbing withholds bytes that are damaged: then it is as if the manifest were to be pushed yet.
        Some(record) if view.open_table(DOCUMENTS)?.get(digest.as_bytes())?.is_some() => {
            Ok(Found { digest, name, record })
        }
        _ => Err(missing(view, repository, reference)?.into()),
    }
}

/// The repositories that have a manifest.
pub(crate) fn holders(view: &ReadTransaction, digest: &Digest) -> Result<Vec<String>> {
    let mut repositories = Vec::new();
    for row in view.open_table(HOLDERS)?.range((digest.as_bytes(), "")..)? {
        let (key, _) = row?;
        let (hash, repository) = key.value();
        if hash != digest.as_bytes() {
            break;
        }
        repositories.push(repository.to_owned());
    }
    Ok(repositories)
}

/// Takes the bytes of a manifest away if they are not those of its digest, and returns them.
pub(crate) fn withhold(writing: &Writing, digest: &Digest) -> Result<Option<Vec<u8>>> {
    let mut documents = writing.tables.open_table(DOCUMENTS)?;
    let bytes = documents.get(digest.as_bytes())?.map(|bytes| bytes.value().to_vec());
    let rotten = bytes.filter(|bytes| Digest::of(bytes) != *digest);
    if rotten.is_some() {
        documents.remove(digest.as_bytes())?;
    }
    Ok(rotten)
}

/// Whether there is a manifest by that tag or digest.
pub(crate) fn is_there(view: &ReadTransaction, repository: &str, reference: &Reference) -> Result<bool> {
    match resolve(view, repository, reference) {
        Ok(_) => Ok(true),
        Err(Error::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// When a tag was last pushed, or confirmed by an upstream.
pub(crate) fn tag_time(view: &ReadTransaction, repository: &str, tag: &Tag) -> Result<Option<u64>> {
    Ok(tag_record(&view.open_table(TAGS)?, repository, tag)?.map(|record| record.pushed))
}

/// The bytes that a blob has by a manifest of the repository that lists it.
pub(crate) fn size_of_part(
    view: &ReadTransaction,
    repository: &str,
    name: &ContentDigest,
) -> Result<Option<u64>> {
    let table = view.open_table(USES)?;
    let digest = names::known(view, name)?.unwrap_or(names::stand_in(name));
    let (from, to) = ((repository, digest.as_bytes(), &LEAST), (repository, digest.as_bytes(), &GREATEST));
    let Some(row) = table.range(from..=to)?.next().transpose()? else { return Ok(None) };
    let lister = Digest::from_bytes(*row.0.value().2);
    let document: Value = serde_json::from_slice(&document(view, &lister)?)?;
    let layers = document["layers"].as_array().into_iter().flatten();
    let wanted = name.to_string();
    let part = layers.chain([&document["config"]]).find(|part| part["digest"] == wanted);
    Ok(part.and_then(|part| part["size"].as_u64()))
}

/// The raw bytes of a manifest.
pub(crate) fn document(view: &ReadTransaction, digest: &Digest) -> Result<Bytes> {
    let table = view.open_table(DOCUMENTS)?;
    let bytes = table.get(digest.as_bytes())?.map(|bytes| Bytes::copy_from_slice(bytes.value()));
    Ok(bytes.ok_or_else(|| {
        yare_errdefs::Error::internal(format!("the bytes of manifest {digest} are not in the records"))
    })?)
}

fn missing(view: &ReadTransaction, repository: &str, reference: &Reference) -> Result<Refusal> {
    let known = view.open_table(REPOSITORIES)?.get(repository)?.is_some();
    Ok(if known { unknown(reference) } else { no_repository(repository) })
}

/// The refusal of a manifest that is not there.
pub(crate) fn unknown(reference: &Reference) -> Refusal {
    let detail = match reference {
        Reference::Tag(tag) => json!({ "tag": tag.as_str() }),
        Reference::Digest(digest) => json!({ "digest": digest.to_string() }),
    };
    Refusal::new(Code::ManifestUnknown, "manifest unknown").with_detail(detail)
}

/// The refusal of a repository that is not there.
pub(crate) fn no_repository(name: &str) -> Refusal {
    Refusal::new(Code::NameUnknown, "repository name not known to registry")
        .with_detail(json!({ "name": name }))
}

fn tag_record(
    table: &impl ReadableTable<(&'static str, &'static str, &'static str), &'static [u8]>,
    repository: &str,
    tag: &Tag,
) -> Result<Option<TagRecord>> {
    find(table, (repository, tag.as_str().to_lowercase().as_str(), tag.as_str()))
}

/// A manifest that is to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    /// The repository.
    pub(crate) repository: String,
    /// The tags that are to name it.
    pub(crate) tags: Vec<Tag>,
    /// Its digest.
    pub(crate) digest: Digest,
    /// What it is called, which it was found to be right for.
    pub(crate) name: ContentDigest,
    /// Its bytes.
    pub(crate) bytes: Bytes,
    /// What they say.
    pub(crate) manifest: Manifest,
    /// What it needs and another store has.
    pub(crate) elsewhere: HashSet<ContentDigest>,
    /// The time.
    pub(crate) now: u64,
    /// Who pushes; without one, webhooks are not told.
    pub(crate) origin: Option<Origin>,
}

/// The rules for pushes and deletes.
#[derive(Debug, Clone, Default)]
pub(crate) struct PushRules {
    /// Limits of size.
    pub(crate) quotas: Vec<Quota>,
    /// Tags that stay where they are.
    pub(crate) immutable: Vec<Immutable>,
    /// Whether an index may list manifests that are not there.
    pub(crate) sparse: bool,
    /// Whether blobs may come later: those of a cache do.
    pub(crate) absent_blobs: bool,
    /// Who is to get a copy.
    pub(crate) replicate: Arc<[Rule]>,
    /// Who is told.
    pub(crate) webhooks: Arc<[Arc<Hook>]>,
}

/// Stores a manifest, names it, and notes what it needs. Everything is checked before anything changes.
pub(crate) fn put(writing: &Writing, push: &Push, rules: &PushRules) -> Result<()> {
    let (repository, hash) = (push.repository.as_str(), push.digest.as_bytes());
    check_content(writing, push, rules)?;
    check_tags(writing, push, rules)?;
    let before: Option<ManifestRecord> = find(&writing.tables.open_table(MANIFESTS)?, (repository, hash))?;
    if before.is_none() {
        let size = push.bytes.len() as u64;
        quota::check(writing, repository, size, &rules.quotas)?;
        grow(writing, repository, size, push.now)?;
    }
    let manifest = &push.manifest;
    names::note(writing, &push.name, &push.digest)?;
    let uses = uses(writing, manifest)?;
    {
        let mut table = writing.tables.open_table(USES)?;
        for used in &uses {
            table.insert((repository, used.as_bytes(), hash), ())?;
        }
    }
    let record = ManifestRecord {
        media_type: manifest.media_type.clone(),
        size: push.bytes.len() as u64,
        pushed: push.now,
        pulled: before.map_or(0, |before| before.pulled),
        uses,
        subject: manifest.subject,
    };
    writing.tables.open_table(MANIFESTS)?.insert((repository, hash), written(&record)?.as_slice())?;
    writing.tables.open_table(DOCUMENTS)?.insert(hash, &*push.bytes)?;
    writing.tables.open_table(HOLDERS)?.insert((hash, repository), ())?;
    if let Some(subject) = &manifest.subject {
        let descriptor = serde_json::to_vec(&descriptor(push))?;
        let subject = names::stand_in(subject);
        let key = (repository, subject.as_bytes(), hash);
        writing.tables.open_table(REFERRERS)?.insert(key, descriptor.as_slice())?;
    }
    names::settle(writing, repository, &push.digest)?;
    push.tags.iter().try_for_each(|tag| set_tag(writing, push, tag))?;
    let tags: Vec<&str> = push.tags.iter().map(Tag::as_str).collect();
    tell_pushed(writing, push, rules)?;
    let changed = (tags.as_slice(), manifest.subject.as_ref());
    replicate::note(writing, &rules.replicate, repository, changed, push.now)
}

/// Tells webhooks of a push: once for each tag.
pub(crate) fn tell_pushed(writing: &Writing, push: &Push, rules: &PushRules) -> Result<()> {
    let Some(origin) = push.origin.as_ref().filter(|_| !rules.webhooks.is_empty()) else { return Ok(()) };
    let tags: Vec<Option<&Tag>> =
        if push.tags.is_empty() { vec![None] } else { push.tags.iter().map(Some).collect() };
    for tag in tags {
        let event = Event {
            tag: tag.map(Tag::to_string),
            digest: Some(push.name),
            media_type: push.manifest.media_type.clone(),
            size: push.bytes.len() as u64,
            ..Event::new(Kind::Push, &push.repository, origin)
        };
        events::note(writing, &rules.webhooks, &event)?;
    }
    Ok(())
}

/// Tells webhooks that a tag, or a manifest, was deleted.
pub(crate) fn tell_deleted(
    writing: &Writing,
    repository: &str,
    reference: &Reference,
    (origin, rules): (Option<&Origin>, &PushRules),
) -> Result<()> {
    let Some(origin) = origin.filter(|_| !rules.webhooks.is_empty()) else { return Ok(()) };
    let mut event = Event::new(Kind::Delete, repository, origin);
    match reference {
        Reference::Tag(tag) => event.tag = Some(tag.to_string()),
        Reference::Digest(digest) => event.digest = Some(*digest),
    }
    events::note(writing, &rules.webhooks, &event)
}

/// Keys of what a manifest needs.
fn uses(writing: &Writing, manifest: &Manifest) -> Result<Vec<Digest>> {
    let key = |name| Ok(names::known_now(writing, name)?.unwrap_or(names::stand_in(name)));
    manifest.blobs.iter().chain(&manifest.members).map(key).collect()
}

/// What the list of referrers says about the manifest.
fn descriptor(push: &Push) -> Value {
    let mut descriptor = json!({
        "mediaType": push.manifest.media_type,
        "digest": push.name.to_string(),
        "size": push.bytes.len(),
    });
    if let Some(kind) = &push.manifest.artifact_type {
        descriptor["artifactType"] = json!(kind);
    }
    if !push.manifest.annotations.is_empty() {
        descriptor["annotations"] = json!(push.manifest.annotations);
    }
    descriptor
}

fn check_content(writing: &Writing, push: &Push, rules: &PushRules) -> Result<()> {
    let repository = push.repository.as_str();
    let refused = |digest: &ContentDigest, what: &str| {
        Refusal::new(Code::ManifestBlobUnknown, format!("{what} unknown to registry"))
            .with_status(http::StatusCode::NOT_FOUND)
            .with_detail(json!({ "digest": digest.to_string() }))
    };
    let links = writing.tables.open_table(LINKS)?;
    let is_wanted = |part: &&ContentDigest| !push.elsewhere.contains(*part);
    for blob in push.manifest.blobs.iter().filter(|_| !rules.absent_blobs).filter(is_wanted) {
        let linked = names::known_now(writing, blob)?
            .map(|digest| links.get((repository, digest.as_bytes())).map(|linked| linked.is_some()));
        if !linked.transpose()?.unwrap_or(false) {
            return Err(refused(blob, "blob").into());
        }
    }
    if rules.sparse {
        return Ok(());
    }
    let manifests = writing.tables.open_table(MANIFESTS)?;
    for member in push.manifest.members.iter().filter(is_wanted) {
        let there = names::known_now(writing, member)?
            .map(|digest| manifests.get((repository, digest.as_bytes())).map(|there| there.is_some()));
        if !there.transpose()?.unwrap_or(false) {
            return Err(refused(member, "manifest").into());
        }
    }
    Ok(())
}

fn is_immutable(rules: &[Immutable], repository: &str, tag: &str) -> bool {
    let covers = |rule: &&Immutable| rule.tags.iter().any(|pattern| pattern.matches(tag));
    rules.iter().filter(|rule| rule.repositories.matches(repository)).any(|rule| covers(&rule))
}

fn check_tags(writing: &Writing, push: &Push, rules: &PushRules) -> Result<()> {
    let table = writing.tables.open_table(TAGS)?;
    for tag in push.tags.iter().filter(|tag| is_immutable(&rules.immutable, &push.repository, tag.as_str())) {
        let named = tag_record(&table, &push.repository, tag)?;
        if let Some(named) = named.filter(|named| named.digest != push.digest) {
            return Err(immutable(tag, &named.digest).into());
        }
    }
    Ok(())
}

fn immutable(tag: &Tag, digest: &Digest) -> Refusal {
    let message = format!("tag {tag} is immutable here and names {digest}; push under another tag");
    Refusal::new(Code::Denied, message)
        .with_status(http::StatusCode::CONFLICT)
        .with_detail(json!({ "tag": tag.as_str(), "digest": digest.to_string() }))
}

fn set_tag(writing: &Writing, push: &Push, tag: &Tag) -> Result<()> {
    let repository = push.repository.as_str();
    let mut tags = writing.tables.open_table(TAGS)?;
    let mut tagged = writing.tables.open_table(TAGGED)?;
    let before = tag_record(&tags, repository, tag)?;
    if let Some(before) = &before {
        tagged.remove((repository, before.digest.as_bytes(), tag.as_str()))?;
    }
    let pulled = before.filter(|before| before.digest == push.digest).map_or(0, |before| before.pulled);
    let name = Some(push.name).filter(|name| *name != push.digest);
    let record = TagRecord { digest: push.digest, name, pushed: push.now, pulled };
    let key = (repository, tag.as_str().to_lowercase(), tag.as_str());
    tags.insert((key.0, key.1.as_str(), key.2), written(&record)?.as_slice())?;
    tagged.insert((repository, push.digest.as_bytes(), tag.as_str()), ())?;
    Ok(())
}

/// Deletes a tag, or a manifest with all its tags.
pub(crate) fn delete(
    writing: &Writing,
    repository: &str,
    reference: &Reference,
    (origin, rules): (Option<&Origin>, &PushRules),
) -> Result<()> {
    match reference {
        Reference::Tag(tag) => {
            let record = tag_record(&writing.tables.open_table(TAGS)?, repository, tag)?;
            let Some(record) = record else { return Err(unknown(reference).into()) };
            if is_immutable(&rules.immutable, repository, tag.as_str()) {
                return Err(immutable(tag, &record.digest).into());
            }
            remove_tag(writing, repository, tag.as_str(), &record.digest)?;
            tell_deleted(writing, repository, reference, (origin, rules))?;
            note_deleted(writing, repository, &[tag.as_str()], rules)
        }
        Reference::Digest(name) => {
            let Some(digest) = names::known_now(writing, name)? else {
                return Err(unknown(reference).into());
            };
            let found: Option<ManifestRecord> =
                find(&writing.tables.open_table(MANIFESTS)?, (repository, digest.as_bytes()))?;
            if found.is_none() {
                return Err(unknown(reference).into());
            }
            let tags = tags_of(writing, repository, &digest)?;
            let fixed = tags.iter().find(|tag| is_immutable(&rules.immutable, repository, tag));
            if let Some(tag) = fixed.and_then(|tag| Tag::parse(tag).ok()) {
                return Err(immutable(&tag, &digest).into());
            }
            remove(writing, repository, &digest)?;
            tell_deleted(writing, repository, reference, (origin, rules))?;
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            note_deleted(writing, repository, &tags, rules)
        }
    }
}

/// Tells those who have copies of tags that they are gone.
pub(crate) fn note_deleted(
    writing: &Writing,
    repository: &str,
    tags: &[&str],
    rules: &PushRules,
) -> Result<()> {
    replicate::note(writing, &rules.replicate, repository, (tags, None), crate::clock::now())
}

/// Takes a name from a manifest.
pub(crate) fn remove_tag(writing: &Writing, repository: &str, tag: &str, digest: &Digest) -> Result<()> {
    writing.tables.open_table(TAGS)?.remove((repository, tag.to_lowercase().as_str(), tag))?;
    writing.tables.open_table(TAGGED)?.remove((repository, digest.as_bytes(), tag))?;
    Ok(())
}

/// Takes a name away, whatever it stands for; one that is not there is no error.
pub(crate) fn forget_tag(writing: &Writing, repository: &str, tag: &Tag) -> Result<()> {
    let record = tag_record(&writing.tables.open_table(TAGS)?, repository, tag)?;
    match record {
        Some(record) => remove_tag(writing, repository, tag.as_str(), &record.digest),
        None => Ok(()),
    }
}

/// Takes a manifest away that no tag names, nothing needs and nobody speaks about by it.
pub(crate) fn forget_unnamed(writing: &Writing, repository: &str, digest: &Digest) -> Result<()> {
    let record: Option<ManifestRecord> =
        find(&writing.tables.open_table(MANIFESTS)?, (repository, digest.as_bytes()))?;
    let Some(record) = record else { return Ok(()) };
    if !tags_of(writing, repository, digest)?.is_empty() || is_held(writing, repository, digest, &record)? {
        return Ok(());
    }
    remove(writing, repository, digest)
}

/// The tags that name a manifest.
pub(crate) fn tags_of(writing: &Writing, repository: &str, digest: &Digest) -> Result<Vec<String>> {
    let table = writing.tables.open_table(TAGGED)?;
    let mut tags = Vec::new();
    for row in table.range((repository, digest.as_bytes(), "")..)? {
        let (key, ()) = row.map(|(key, value)| (key, value.value()))?;
        let (name, hash, tag) = key.value();
        if (name, hash) != (repository, digest.as_bytes()) {
            break;
        }
        tags.push(tag.to_owned());
    }
    Ok(tags)
}

/// Removes a manifest with its tags and all that is noted of it. Blobs that it needed stay linked until
/// they are collected.
pub(crate) fn remove(writing: &Writing, repository: &str, digest: &Digest) -> Result<()> {
    let hash = digest.as_bytes();
    for tag in tags_of(writing, repository, digest)? {
        remove_tag(writing, repository, &tag, digest)?;
    }
    let record: Option<ManifestRecord> = {
        let mut table = writing.tables.open_table(MANIFESTS)?;
        let record = find(&table, (repository, hash))?;
        table.remove((repository, hash))?;
        record
    };
    let Some(record) = record else { return Ok(()) };
    {
        let mut table = writing.tables.open_table(USES)?;
        for used in &record.uses {
            table.remove((repository, used.as_bytes(), hash))?;
        }
    }
    if let Some(subject) = &record.subject {
        let subject = names::stand_in(subject);
        writing.tables.open_table(REFERRERS)?.remove((repository, subject.as_bytes(), hash))?;
    }
    let mut holders = writing.tables.open_table(HOLDERS)?;
    holders.remove((hash, repository))?;
    let next = holders.range((hash, "")..)?.next().transpose()?;
    if next.is_none_or(|(key, _)| key.value().0 != hash) {
        writing.tables.open_table(DOCUMENTS)?.remove(hash)?;
    }
    drop(holders);
    names::forget(writing, digest)?;
    shrink(writing, repository, record.size)
}

/// Whether a manifest of the repository is needed by another one, or speaks about one that is there.
pub(crate) fn is_held(
    writing: &Writing,
    repository: &str,
    digest: &Digest,
    record: &ManifestRecord,
) -> Result<bool> {
    if user(writing, repository, digest)?.is_some() {
        return Ok(true);
    }
    let Some(subject) = record.subject.map(|name| names::known_now(writing, &name)).transpose()?.flatten()
    else {
        return Ok(false);
    };
    Ok(writing.tables.open_table(MANIFESTS)?.get((repository, subject.as_bytes()))?.is_some())
}
