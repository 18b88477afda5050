//! Collection of what nobody needs, while clients push and pull.
//!
//! A plan is made from one consistent view of the records and carried out in small changes, each of which
//! checks again what it takes away. What a push under way relies on is safe: a link that is younger than
//! the grace, or whose blob a client was told of within it, stays; so does all that a manifest needs.
//!
//! Order of the steps, each of which a crash may interrupt: tags and manifests by the rules of retention,
//! links that no manifest needs, blobs without a link (the record first, then the file), files without a
//! record, uploads that lie still.

use crate::blobs::Blobs;
use crate::bucket::collect as bucket;
use crate::events::Origin;
use crate::manifests;
use crate::name::{Reference, Tag};
use crate::problem::{Result, file_error};
use crate::records::{
    BLOBS, LINKED, LINKS, MANIFESTS, ManifestRecord, REPOSITORIES, TAGS, TagRecord, Writing, find, read,
};
use crate::registry::{Registry, fault};
use crate::{links, names, quota, retention};
use redb::{ReadTransaction, ReadableTable};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use yare_content::Store;
use yare_oci::Digest;

/// Things that are taken away by one change, so that pushes get their turn.
const STEP: usize = 512;
/// Who deletes by the rules of retention, for webhooks.
const RETENTION: &str = "retention";

/// What a collection took away, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// Whether nothing was really taken away.
    pub dry_run: bool,
    /// Tags that no rule of retention keeps, as `repository:tag`.
    pub tags: Vec<String>,
    /// Manifests that went with them or had no tag for too long, as `repository@digest`.
    pub manifests: Vec<String>,
    /// Blobs that no manifest of a repository needs: links that were removed.
    pub links: u64,
    /// Blobs whose last link went.
    pub blobs: u64,
    /// The bytes of those.
    pub bytes: u64,
    /// Files that no record speaks of: left by a crash.
    pub strays: u64,
    /// Uploads that lay still.
    pub uploads: u64,
    /// The bytes of those.
    pub upload_bytes: u64,
}

/// What goes from one repository.
#[derive(Debug, Default)]
struct Plan {
    tags: Vec<(String, TagRecord)>,
    /// Those that need others come before them.
    manifests: Vec<Digest>,
    links: Vec<Digest>,
}

/// Collects; with `dry_run` only says what would go.
pub async fn collect(registry: &Arc<Registry>, dry_run: bool) -> yare_errdefs::Result<Collected> {
    run(registry, dry_run).await.map_err(|error| match error {
        crate::problem::Error::Failed(error) => error,
        crate::problem::Error::Refused(refusal) => yare_errdefs::Error::internal(refusal.message),
    })
}

async fn run(registry: &Arc<Registry>, dry_run: bool) -> Result<Collected> {
    let _alone = registry.collecting.lock().await;
    let Blobs::Bucket(bucket) = &registry.blobs else {
        return take_away(registry, dry_run, None).await;
    };
    registry.records.catch_up().await?;
    if dry_run {
        return take_away(registry, dry_run, None).await;
    }
    let mut turn = bucket::Turn::take(&registry.records).await?;
    let collected = take_away(registry, dry_run, Some(&mut turn)).await;
    bucket::execute(bucket, &registry.records).await?;
    turn.end(&registry.records).await?;
    registry.checkpoint(1).await?;
    collected
}

async fn take_away(
    registry: &Arc<Registry>,
    dry_run: bool,
    mut turn: Option<&mut bucket::Turn>,
) -> Result<Collected> {
    registry.usage.flush(&registry.records).await?;
    let mut collected = Collected { dry_run, ..Collected::default() };
    let mut unlinked: HashMap<Digest, u64> = HashMap::new();
    for repository in repositories(&registry.records.view()?)? {
        if let Some(turn) = &mut turn {
            turn.extend(&registry.records).await?;
        }
        let name = repository.clone();
        let mut plan = beside(registry, move |registry| plan(registry, &name)).await?;
        if dry_run {
            plan.links.iter().for_each(|digest| *unlinked.entry(*digest).or_default() += 1);
        } else {
            plan = carry_out(registry, &repository, plan).await?;
        }
        collected.tags.extend(plan.tags.iter().map(|(tag, _)| format!("{repository}:{tag}")));
        collected.manifests.extend(plan.manifests.iter().map(|digest| format!("{repository}@{digest}")));
        collected.links += plan.links.len() as u64;
    }
    let mut blobs = beside(registry, move |registry| unlinked_blobs(registry, &unlinked)).await?;
    if !dry_run {
        blobs = remove_blobs(registry, blobs).await?;
    }
    collected.blobs = blobs.len() as u64;
    collected.bytes = blobs.iter().map(|(_, size)| size).sum();
    collected.strays = match &registry.blobs {
        Blobs::Files(store) => {
            let store = Arc::clone(store);
            let strays = beside(registry, move |registry| strays(registry, &store)).await?;
            if dry_run { strays.len() as u64 } else { remove_strays(registry, &strays).await? }
        }
        Blobs::Bucket(bucket) => {
            let grace = registry.config.collect.grace.as_secs();
            let strays = bucket::strays(bucket, &registry.records, grace).await?;
            if dry_run { strays.len() as u64 } else { bucket::condemn(&registry.records, strays).await? }
        }
    };
    let age = registry.config.collect.uploads;
    (collected.uploads, collected.upload_bytes) = registry.uploads.sweep(age, dry_run).await?;
    if !dry_run {
        forget_wrong_sums(registry).await?;
    }
    beside(registry, empty_trash).await?;
    registry.usage.forget(registry.now().saturating_sub(registry.config.collect.grace.as_secs()));
    Ok(collected)
}

/// Makes sure that the sums of quotas are those of the repositories.
async fn forget_wrong_sums(registry: &Arc<Registry>) -> Result<()> {
    let find = |registry: &Registry| quota::wrong_sums(&registry.records.view()?, &registry.config.quota);
    let wrong = beside(registry, find).await?;
    if wrong.is_empty() {
        return Ok(());
    }
    registry.records.write(move |writing| quota::forget(writing, &wrong)).await
}

/// Runs what reads much on a thread where it keeps no request waiting.
async fn beside<T: Send + 'static>(
    registry: &Arc<Registry>,
    work: impl FnOnce(&Registry) -> Result<T> + Send + 'static,
) -> Result<T> {
    let registry = Arc::clone(registry);
    tokio::task::spawn_blocking(move || work(&registry)).await.map_err(fault)?
}

fn repositories(view: &ReadTransaction) -> Result<Vec<String>> {
    let table = view.open_table(REPOSITORIES)?;
    let names = table.range::<&str>(..)?.map(|row| Ok(row?.0.value().to_owned()));
    names.collect()
}

/// Decides what goes from a repository.
fn plan(registry: &Registry, repository: &str) -> Result<Plan> {
    let view = registry.records.view()?;
    let (tags, manifests) = (tags(&view, repository)?, manifests_of(&view, repository)?);
    let (rules, now) = (&registry.config.retention, registry.now());
    let used = with_uses(&tags, &manifests);
    let expired: Vec<(String, TagRecord)> =
        retention::expired(rules, repository, &used, now).into_iter().cloned().collect();
    let subjects = subjects(&view, &manifests)?;
    let gone = doomed(&tags, &expired, (&manifests, &subjects), |record| {
        let untagged = retention::untagged_after(rules, repository);
        let used = record.pushed.max(record.pulled);
        untagged.is_some_and(|limit| now.saturating_sub(used) >= limit.as_secs())
    });
    let leaving: HashSet<Digest> = gone.iter().copied().collect();
    let stays = |digest: &Digest| !leaving.contains(digest);
    let needed: HashSet<Digest> = manifests
        .iter()
        .filter(|(digest, _)| stays(digest))
        .flat_map(|(_, record)| record.uses.iter().copied())
        .collect();
    let oldest = now.saturating_sub(registry.config.collect.grace.as_secs());
    let mut links = Vec::new();
    for (digest, linked) in links_of(&view, repository)? {
        if !needed.contains(&digest) && is_stale(registry, repository, &digest, linked, oldest) {
            links.push(digest);
        }
    }
    Ok(Plan { tags: expired, manifests: gone, links })
}

/// The tags, each with the last pull of what it names, whatever the name was: who pins the digest of an image,
/// or of an index's member, uses the tag that keeps it.
fn with_uses(
    tags: &[(String, TagRecord)],
    manifests: &[(Digest, ManifestRecord)],
) -> Vec<(String, TagRecord)> {
    let records: HashMap<&Digest, &ManifestRecord> =
        manifests.iter().map(|(digest, record)| (digest, record)).collect();
    let pulled = |digest: &Digest| {
        let record = records.get(digest)?;
        let members = record.uses.iter().filter_map(|used| records.get(used)).map(|member| member.pulled);
        Some(members.fold(record.pulled, u64::max))
    };
    let with_use = |(tag, record): &(String, TagRecord)| {
        let pulled = pulled(&record.digest).unwrap_or(0).max(record.pulled);
        (tag.clone(), TagRecord { pulled, ..record.clone() })
    };
    tags.iter().map(with_use).collect()
}

/// What manifests speak about, as far as that has been here.
fn subjects(
    view: &ReadTransaction,
    manifests: &[(Digest, ManifestRecord)],
) -> Result<HashMap<Digest, Digest>> {
    let mut subjects = HashMap::new();
    for (digest, record) in manifests {
        if let Some(subject) = record.subject.map(|name| names::known(view, &name)).transpose()?.flatten() {
            subjects.insert(*digest, subject);
        }
    }
    Ok(subjects)
}

/// Whether no push that is under way can rely on a link.
fn is_stale(registry: &Registry, repository: &str, digest: &Digest, linked: u64, oldest: u64) -> bool {
    // Where others serve, too, what clients were told is in the records.
    let is_told = registry.records.is_shared();
    let since = if is_told { 0 } else { registry.served_since.load(Ordering::Relaxed) };
    let told = registry.usage.promised(repository, digest).max(since);
    linked <= oldest && told <= oldest
}

/// The manifests that go: those whose last tag expired, and those without a tag that are `too_old`, unless
/// another one needs them or they speak about one that stays. In an order in which each is free when its
/// turn comes.
fn doomed(
    tags: &[(String, TagRecord)],
    expired: &[(String, TagRecord)],
    (manifests, subjects): (&[(Digest, ManifestRecord)], &HashMap<Digest, Digest>),
    too_old: impl Fn(&ManifestRecord) -> bool,
) -> Vec<Digest> {
    let lost: HashSet<&str> = expired.iter().map(|(tag, _)| tag.as_str()).collect();
    let named: HashSet<Digest> = tags
        .iter()
        .filter(|(tag, _)| !lost.contains(tag.as_str()))
        .map(|(_, record)| record.digest)
        .collect();
    let unnamed: HashSet<Digest> = expired.iter().map(|(_, record)| record.digest).collect();
    let mut users: HashMap<Digest, usize> = HashMap::new();
    for used in manifests.iter().flat_map(|(_, record)| &record.uses) {
        *users.entry(*used).or_default() += 1;
    }
    let mut present: HashSet<Digest> = manifests.iter().map(|(digest, _)| *digest).collect();
    let mut candidates: Vec<&(Digest, ManifestRecord)> = manifests
        .iter()
        .filter(|(digest, record)| !named.contains(digest) && (unnamed.contains(digest) || too_old(record)))
        .collect();
    // Members of an index that goes have no tag of their own: they go with it.
    let mut gone = Vec::new();
    loop {
        let before = gone.len();
        candidates.retain(|(digest, record)| {
            let held = users.get(digest).is_some_and(|count| *count > 0)
                || subjects.get(digest).is_some_and(|subject| present.contains(subject));
            if held {
                return true;
            }
            for used in &record.uses {
                if let Some(count) = users.get_mut(used) {
                    *count -= 1;
                }
            }
            present.remove(digest);
            gone.push(*digest);
            false
        });
        if gone.len() == before {
            return gone;
        }
        let leaving: HashSet<Digest> = gone.get(before..).unwrap_or_default().iter().copied().collect();
        let freed: HashSet<Digest> = manifests
            .iter()
            .filter(|(digest, _)| leaving.contains(digest))
            .flat_map(|(_, record)| record.uses.iter().copied())
            .collect();
        let known: HashSet<Digest> = candidates.iter().map(|(digest, _)| *digest).collect();
        candidates.extend(manifests.iter().filter(|(digest, _)| {
            let orphan = subjects.get(digest).is_some_and(|subject| leaving.contains(subject));
            present.contains(digest)
                && !known.contains(digest)
                && !named.contains(digest)
                && (freed.contains(digest) || orphan)
        }));
    }
}

/// Carries a plan out and returns what of it was done.
async fn carry_out(registry: &Registry, repository: &str, plan: Plan) -> Result<Plan> {
    let mut done = Plan::default();
    for step in plan.tags.chunks(STEP) {
        let (step, name, rules) = (step.to_vec(), repository.to_owned(), registry.rules.clone());
        let remove = move |writing: &Writing| {
            let removed = remove_tags(writing, &name, &step)?;
            for (tag, _) in &removed {
                let tag = Reference::Tag(Tag::parse(tag)?);
                manifests::tell_deleted(writing, &name, &tag, (Some(&Origin::part(RETENTION, "")), &rules))?;
            }
            let tags: Vec<&str> = removed.iter().map(|(tag, _)| tag.as_str()).collect();
            manifests::note_deleted(writing, &name, &tags, &rules).map(|()| removed)
        };
        done.tags.extend(registry.records.write(remove).await?);
    }
    for step in plan.manifests.chunks(STEP) {
        let (step, name, rules) = (step.to_vec(), repository.to_owned(), registry.rules.clone());
        let remove = move |writing: &Writing| {
            let removed = remove_manifests(writing, &name, &step)?;
            for digest in &removed {
                let by = (Some(&Origin::part(RETENTION, "")), &*rules);
                manifests::tell_deleted(writing, &name, &Reference::Digest(digest.into()), by)?;
            }
            Ok(removed)
        };
        done.manifests.extend(registry.records.write(remove).await?);
    }
    let oldest = registry.now().saturating_sub(registry.config.collect.grace.as_secs());
    for step in plan.links.chunks(STEP) {
        // A client may have been told of a blob since the plan was made; from here on none is.
        let claimed = registry.usage.claim(repository, step, oldest);
        let name = repository.to_owned();
        let removed =
            registry.records.write(move |writing| remove_links(writing, &name, &claimed, oldest)).await;
        registry.usage.release();
        done.links.extend(removed?);
    }
    Ok(done)
}

/// Removes tags that were not pushed again meanwhile.
fn remove_tags(
    writing: &Writing,
    repository: &str,
    planned: &[(String, TagRecord)],
) -> Result<Vec<(String, TagRecord)>> {
    let mut removed = Vec::new();
    for (tag, record) in planned {
        let folded = tag.to_lowercase();
        let key = (repository, folded.as_str(), tag.as_str());
        let current: Option<TagRecord> = find(&writing.tables.open_table(TAGS)?, key)?;
        if current.is_some_and(|now| (now.digest, now.pushed) == (record.digest, record.pushed)) {
            manifests::remove_tag(writing, repository, tag, &record.digest)?;
            removed.push((tag.clone(), record.clone()));
        }
    }
    Ok(removed)
}

/// Removes manifests that nobody named or began to need meanwhile.
fn remove_manifests(writing: &Writing, repository: &str, planned: &[Digest]) -> Result<Vec<Digest>> {
    let mut removed = Vec::new();
    for digest in planned.iter().copied() {
        let key = (repository, digest.as_bytes());
        let record: Option<ManifestRecord> = find(&writing.tables.open_table(MANIFESTS)?, key)?;
        let Some(record) = record else { continue };
        if manifests::tags_of(writing, repository, &digest)?.is_empty()
            && !manifests::is_held(writing, repository, &digest, &record)?
        {
            manifests::remove(writing, repository, &digest)?;
            removed.push(digest);
        }
    }
    Ok(removed)
}

/// Removes links that nobody made again or began to need meanwhile.
fn remove_links(writing: &Writing, repository: &str, planned: &[Digest], oldest: u64) -> Result<Vec<Digest>> {
    let mut removed = Vec::new();
    for digest in planned.iter().copied() {
        let links = writing.tables.open_table(LINKS)?;
        let linked = links.get((repository, digest.as_bytes()))?.map(|linked| linked.value());
        drop(links);
        let is_stale = linked.is_some_and(|linked| linked <= oldest);
        if is_stale && links::user(writing, repository, &digest)?.is_none() {
            links::remove_link(writing, repository, &digest)?;
            removed.push(digest);
        }
    }
    Ok(removed)
}

/// Blobs that no repository links, with their bytes; `leaving` counts links that are to be thought away.
fn unlinked_blobs(registry: &Registry, leaving: &HashMap<Digest, u64>) -> Result<Vec<(Digest, u64)>> {
    let view = registry.records.view()?;
    let (blobs, linked) = (view.open_table(BLOBS)?, view.open_table(LINKED)?);
    let mut links: HashMap<[u8; 32], u64> = HashMap::new();
    for row in linked.range::<(&[u8; 32], &str)>(..)? {
        *links.entry(*row?.0.value().0).or_default() += 1;
    }
    let mut found = Vec::new();
    for row in blobs.range::<&[u8; 32]>(..)? {
        let (hash, size) = row?;
        let digest = Digest::from_bytes(*hash.value());
        let left = links.get(hash.value()).copied().unwrap_or(0);
        if left <= leaving.get(&digest).copied().unwrap_or(0) {
            found.push((digest, size.value()));
        }
    }
    Ok(found)
}

/// Removes blobs that nobody linked meanwhile, the records first. Returns which those were.
async fn remove_blobs(registry: &Registry, planned: Vec<(Digest, u64)>) -> Result<Vec<(Digest, u64)>> {
    let mut all = Vec::new();
    for step in planned.chunks(STEP) {
        let step = step.to_vec();
        let removed = registry.records.write(move |writing| remove_records(writing, &step)).await?;
        // On the disk they are unknown now; a crash from here on leaves strays.
        take_out(registry, removed.iter().map(|(digest, _)| *digest).collect()).await?;
        all.extend(removed);
    }
    Ok(all)
}

fn remove_records(writing: &Writing, planned: &[(Digest, u64)]) -> Result<Vec<(Digest, u64)>> {
    let mut removed = Vec::new();
    for (digest, size) in planned.iter().copied() {
        let linked = writing.tables.open_table(LINKED)?;
        let next = linked.range((digest.as_bytes(), "")..)?.next().transpose()?;
        if next.is_none_or(|(key, _)| key.value().0 != digest.as_bytes()) {
            writing.tables.open_table(BLOBS)?.remove(digest.as_bytes())?;
            bucket::condemn_blob(writing, digest.as_bytes())?;
            names::forget(writing, &digest)?;
            removed.push((digest, size));
        }
    }
    Ok(removed)
}

/// Moves files of blobs that have no record into the trash. Returns how many there were.
async fn take_out(registry: &Registry, blobs: Vec<Digest>) -> Result<u64> {
    // Objects are condemned by now.
    let Blobs::Files(store) = &registry.blobs else { return Ok(0) };
    let (store, trash) = (Arc::clone(store), registry.root().join("trash"));
    let change = move |writing: &Writing| {
        let known = writing.tables.open_table(BLOBS)?;
        let mut count = 0;
        for digest in &blobs {
            if known.get(digest.as_bytes())?.is_none() && store.contains(digest) {
                store.take_out(digest, &trash.join(yare_sys::fs::unique_name("b-")))?;
                writing.renamed.set(true);
                count += 1;
            }
        }
        Ok(count)
    };
    registry.records.write(change).await
}

/// Files that no record speaks of and that are older than the grace.
fn strays(registry: &Registry, store: &Store) -> Result<Vec<Digest>> {
    let view = registry.records.view()?;
    let known = view.open_table(BLOBS)?;
    let mut found = Vec::new();
    for digest in store.list()? {
        if known.get(digest.as_bytes())?.is_none() && is_old(registry, store, &digest) {
            found.push(digest);
        }
    }
    Ok(found)
}

async fn remove_strays(registry: &Registry, strays: &[Digest]) -> Result<u64> {
    let mut count = 0;
    for step in strays.chunks(STEP) {
        count += take_out(registry, step.to_vec()).await?;
    }
    Ok(count)
}

fn is_old(registry: &Registry, store: &Store, digest: &Digest) -> bool {
    let file = store.open_blob(digest).ok().and_then(|file| file.metadata().ok());
    let age = file.and_then(|file| file.modified().ok()).and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age >= registry.config.collect.grace)
}

fn empty_trash(registry: &Registry) -> Result<()> {
    let trash = registry.root().join("trash");
    let failed = |error| file_error("empty", &trash, error);
    for entry in std::fs::read_dir(&trash).map_err(failed)? {
        yare_sys::fs::remove_tree(entry.map_err(failed)?.path()).map_err(failed)?;
    }
    Ok(())
}

/// The tags of a repository.
pub(crate) fn tags(view: &ReadTransaction, repository: &str) -> Result<Vec<(String, TagRecord)>> {
    let mut found = Vec::new();
    for row in view.open_table(TAGS)?.range((repository, "", "")..)? {
        let (key, value) = row?;
        let (name, _, tag) = key.value();
        if name != repository {
            break;
        }
        found.push((tag.to_owned(), read(value.value())?));
    }
    Ok(found)
}

/// The manifests of a repository.
pub(crate) fn manifests_of(
    view: &ReadTransaction,
    repository: &str,
) -> Result<Vec<(Digest, ManifestRecord)>> {
    let mut found = Vec::new();
    let range = (repository, &crate::records::LEAST)..=(repository, &crate::records::GREATEST);
    for row in view.open_table(MANIFESTS)?.range(range)? {
        let (key, value) = row?;
        found.push((Digest::from_bytes(*key.value().1), read(value.value())?));
    }
    Ok(found)
}

fn links_of(view: &ReadTransaction, repository: &str) -> Result<Vec<(Digest, u64)>> {
    let mut found = Vec::new();
    let range = (repository, &crate::records::LEAST)..=(repository, &crate::records::GREATEST);
    for row in view.open_table(LINKS)?.range(range)? {
        let (key, value) = row?;
        found.push((Digest::from_bytes(*key.value().1), value.value()));
    }
    Ok(found)
}
