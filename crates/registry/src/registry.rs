//! The registry itself, without HTTP: what it holds and what can be done with it.

use crate::blobs::{Blobs, OpenBlob, Whole};
use crate::bucket::{self, Opening};
use crate::cache::Caches;
use crate::config::Config;
use crate::events::{Hooks, Origin};
use crate::images::{self, Document, Images, Pushed};
use crate::links::{self, By, Finished};
use crate::manifest::{self, Manifest};
use crate::manifests::{self, Found, Push, PushRules};
use crate::name::{Reference, Tag};
use crate::names;
use crate::problem::{Error, Result, file_error};
use crate::records::{OBJECTS, Records};
use crate::replicate::Replication;
use crate::uploads::{Limits, Uploads, Writer};
use crate::usage::Usage;
use bytes::Bytes;
use redb::ReadableTable;
use rustix::fs::Mode;
use rustix::io::Errno;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use yare_content::Store;
use yare_oci::{ContentDigest, Digest};

/// An open registry. One process has it open at a time.
#[derive(Debug)]
pub struct Registry {
    root: PathBuf,
    pub(crate) config: Config,
    pub(crate) rules: Arc<PushRules>,
    pub(crate) blobs: Blobs,
    /// How to reach the bucket, if there is one.
    pub(crate) opening: Option<Opening>,
    pub(crate) records: Records,
    pub(crate) uploads: Uploads,
    pub(crate) usage: Usage,
    pub(crate) caches: Caches,
    pub(crate) replication: Replication,
    /// Who is told of what happens.
    pub(crate) hooks: Hooks,
    /// Images of another store that are served, too.
    pub(crate) images: Option<Arc<dyn Images>>,
    /// Since when it is served, 0 for not at all: what clients were told before is not known any more.
    pub(crate) served_since: AtomicU64,
    /// Asks who serves it to open its logs anew.
    pub(crate) reopening: tokio::sync::Notify,
    /// Held by the collection that runs: there is one at a time.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    /// Held by the scrub that runs: two would only read everything twice.
    pub(crate) scrubbing: tokio::sync::Mutex<()>,
    _lock: yare_sys::fs::Lock,
}

impl Registry {
    /// Opens the registry below the configured root, making it when missing. Takes time that does not grow
    /// with what is in it.
    pub fn open(config: Config) -> yare_errdefs::Result<Arc<Self>> {
        Self::open_beside(config, None)
    }

    /// The same, to serve the images of another store, too.
    pub fn open_beside(config: Config, images: Option<Arc<dyn Images>>) -> yare_errdefs::Result<Arc<Self>> {
        Self::try_open(config, images).map(Arc::new).map_err(|error| match error {
            Error::Failed(error) => error,
            Error::Refused(refusal) => yare_errdefs::Error::internal(refusal.message),
        })
    }

    fn try_open(mut config: Config, images: Option<Arc<dyn Images>>) -> Result<Self> {
        let root = config.root.clone();
        make_root(&root)?;
        let lock = lock(&root)?;
        for folder in ["trash", "damaged"] {
            make_folder(&root.join(folder))?;
        }
        let limits = Limits {
            blob: config.limits.blob,
            reserve: config.limits.reserve,
            uploads: config.limits.uploads,
        };
        let opening = Opening::new(&config.storage, &config.environment)?;
        let (blobs, records, uploads) = match &opening {
            None => {
                let store = Arc::new(Store::open(&root)?);
                let records = Records::open(&root, Arc::clone(&store))?;
                (Blobs::Files(store), records, Uploads::files(&root, limits)?)
            }
            Some(opening) => {
                // Made here when nobody has one yet, so that all processes sign with the same.
                if let Some(token) = config.auth.as_ref().and_then(|auth| auth.token.as_ref()) {
                    crate::token::Tokens::open(&root, token)?;
                }
                let records = Records::replicate(&root, opening.clone())?;
                let bucket = opening.connect()?;
                let uploads = Uploads::Bucket(bucket::uploads::Uploads::new(bucket.clone(), limits));
                (Blobs::Bucket(bucket), records, uploads)
            }
        };
        let hooks = Hooks::new(&config.webhook);
        let rules = PushRules {
            quotas: config.quota.clone(),
            immutable: config.immutable.clone(),
            sparse: config.storage.sparse_indexes,
            absent_blobs: false,
            replicate: config.replicate.clone().into(),
            webhooks: Arc::clone(&hooks.hooks),
        };
        let replication = Replication::open(&config.replicate, &config.outbound)?;
        let usage = Usage::default();
        let caches = Caches::open(&config.proxy, &config.outbound)?;
        let unused = config.proxy.iter().filter_map(crate::cache::Proxy::retention).collect::<Vec<_>>();
        config.retention.extend(unused);
        Ok(Self {
            root,
            config,
            rules: Arc::new(rules),
            blobs,
            opening,
            records,
            uploads,
            usage,
            caches,
            replication,
            hooks,
            images,
            served_since: AtomicU64::new(0),
            reopening: tokio::sync::Notify::new(),
            collecting: tokio::sync::Mutex::default(),
            scrubbing: tokio::sync::Mutex::default(),
            _lock: lock,
        })
    }

    /// The folder with everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Seconds since 1970.
    pub(crate) fn now(&self) -> u64 {
        self.config.clock.now()
    }

    /// Has the audit log opened anew, by who serves the registry: it was rotated.
    pub fn reopen_logs(&self) {
        self.reopening.notify_one();
    }

    /// What a name stands for: another process may have learnt it a moment ago.
    pub(crate) async fn known(&self, name: &ContentDigest) -> Result<Option<Digest>> {
        if let Some(digest) = names::known(&self.records.view()?, name)? {
            return Ok(Some(digest));
        }
        self.records.catch_up().await?;
        names::known(&self.records.view()?, name)
    }

    /// The bytes of a blob, when the repository has it: the client that is told so relies on it.
    pub(crate) async fn promise_blob(&self, repository: &str, digest: &Digest) -> Result<u64> {
        if self.records.is_shared() {
            return self.promise_shared(repository, digest).await;
        }
        // The promise before the look: a collection sees it, or has claimed the blob.
        if !self.usage.promise(repository, digest, self.now()) {
            return Err(links::unknown(digest).into());
        }
        let view = self.records.view()?;
        match links::size(&view, repository, digest)? {
            Some(size) if self.blobs.has(&view, digest)? => Ok(size),
            _ => {
                self.usage.withdraw(repository, digest);
                let images = self.images.as_ref();
                let elsewhere = images.map(|images| images.blob_size(repository, digest)).transpose()?;
                elsewhere.flatten().ok_or_else(|| links::unknown(digest).into())
            }
        }
    }

    /// The same where other processes collect, too: the promise is in the records, as a link that is young.
    async fn promise_shared(&self, repository: &str, digest: &Digest) -> Result<u64> {
        let view = self.records.view()?;
        let size = links::size(&view, repository, digest)?;
        let linked = links::linked_at(&view, repository, digest)?;
        let (Some(size), Some(linked), true) = (size, linked, self.blobs.has(&view, digest)?) else {
            return Err(links::unknown(digest).into());
        };
        drop(view);
        let half = self.config.collect.grace.as_secs() / 2;
        if self.now().saturating_sub(linked) < half {
            return Ok(size);
        }
        let (name, digest, now) = (repository.to_owned(), *digest, self.now());
        match self.records.write(move |writing| links::touch(writing, &name, &digest, now)).await? {
            true => Ok(size),
            false => Err(links::unknown(&digest).into()),
        }
    }

    /// Opens a blob of the repository that an image of the other store has.
    pub(crate) async fn open_elsewhere(&self, repository: &str, digest: &Digest) -> Result<Option<OpenBlob>> {
        let Some(images) = self.images.clone() else { return Ok(None) };
        let (repository, digest) = (repository.to_owned(), *digest);
        images::blocking(move || {
            let Some(file) = images.open_blob(&repository, &digest)? else { return Ok(None) };
            let size = file.metadata().map_err(yare_errdefs::Error::from)?.len();
            Ok(Some(OpenBlob::File { file, size }))
        })
        .await
    }

    /// Opens a blob of the repository.
    pub(crate) fn open_blob(&self, repository: &str, digest: &Digest) -> Result<OpenBlob> {
        let view = self.records.view()?;
        let Some(size) = links::size(&view, repository, digest)? else {
            return Err(links::unknown(digest).into());
        };
        let found = match &self.blobs {
            Blobs::Bucket(bucket) => Blobs::object(&view, digest)?.map(|object| OpenBlob::Object {
                bucket: bucket.clone(),
                object,
                size,
            }),
            Blobs::Files(store) => match store.open_blob(digest) {
                Ok(file) => {
                    let size = file.metadata().map_err(|error| file_error("read", &self.root, error))?.len();
                    Some(OpenBlob::File { file: Arc::new(file), size })
                }
                Err(yare_content::Error::NotFound(_)) => None,
                Err(error) => return Err(error.into()),
            },
        };
        found.ok_or_else(|| {
            tracing::error!(%digest, repository, "a blob's bytes are missing; a push of it will mend that");
            links::unknown(digest).into()
        })
    }

    /// Makes an upload a blob of the repository; when this returns it survives power loss. An upload that
    /// cannot become the announced blob is discarded.
    pub(crate) async fn finish(
        &self,
        writer: Writer,
        (repository, name): (&str, ContentDigest),
        origin: Option<Origin>,
    ) -> Result<()> {
        self.finish_as(writer, (repository, name), Source { origin, mounted_from: None }).await
    }

    async fn finish_as(
        &self,
        writer: Writer,
        (repository, name): (&str, ContentDigest),
        source: Source,
    ) -> Result<()> {
        let (writer, placed) = match writer {
            Writer::File(mut writer) => {
                let checked = tokio::task::spawn_blocking(move || {
                    let checked = writer.finish(&name);
                    (writer, checked)
                });
                let (writer, checked) = checked.await.map_err(fault)?;
                let placed = match checked {
                    Ok(digest) => {
                        let (path, size) = (writer.path().to_owned(), writer.size());
                        let blob = Stored { name, digest, size };
                        self.place(Owned::File(path), (repository, blob), source).await.map(drop)
                    }
                    Err(error) => Err(error),
                };
                (Writer::File(writer), placed)
            }
            Writer::Bucket(mut writer) => {
                let placed = match writer.finish(&name).await {
                    Ok((object, digest)) => {
                        let blob = Stored { name, digest, size: writer.size() };
                        self.place_object(object, (repository, blob), source).await
                    }
                    Err(error) => Err(error),
                };
                // What the bucket did not do now, it may do for the next request.
                if matches!(placed, Err(Error::Failed(_))) {
                    return placed;
                }
                (Writer::Bucket(writer), placed)
            }
        };
        self.uploads.discard(writer).await;
        placed
    }

    async fn place(&self, bytes: Owned, (repository, blob): (&str, Stored), source: Source) -> Result<bool> {
        let (blobs, rules, now) = (self.blobs.clone(), Arc::clone(&self.rules), self.now());
        let repository = repository.to_owned();
        let place = move |writing: &crate::records::Writing| {
            let bytes = match &bytes {
                Owned::File(path) => Whole::File(path),
                Owned::Object(object) => Whole::Object(object),
            };
            let finished = Finished { bytes, digest: &blob.digest, name: &blob.name, size: blob.size };
            links::place(writing, &blobs, &repository, finished, source.by(&rules, now))
        };
        self.records.write(place).await
    }

    /// Places an object. One that is not needed is deleted; one of which it is not known is left, for the
    /// next collection to judge.
    async fn place_object(&self, object: String, blob: (&str, Stored), source: Source) -> Result<()> {
        let placed = self.place(Owned::Object(object.clone()), blob, source).await;
        let is_needed = !matches!(placed, Ok(false) | Err(Error::Refused(_)));
        if let (false, Blobs::Bucket(bucket)) = (is_needed, &self.blobs)
            && let Err(error) = bucket.delete_blob(&object).await
        {
            let error = yare_errdefs::chain(&error);
            tracing::warn!(object, error, "an object that is not needed stays until the next collection");
        }
        placed.map(drop)
    }

    /// Notes that the bucket does not have an object that the records name: the next push mends it.
    pub(crate) async fn miss_object(&self, digest: Digest, object: String) -> Result<()> {
        tracing::error!(%digest, object, "a blob's object is missing; a push of it will mend that");
        let forget = move |writing: &crate::records::Writing| {
            let mut objects = writing.tables.open_table(OBJECTS)?;
            let named = objects.get(digest.as_bytes())?.is_some_and(|named| named.value() == object);
            if named {
                objects.remove(digest.as_bytes())?;
            }
            Ok(())
        };
        self.records.write(forget).await
    }

    /// Writes the records of a bucket down as they are, if that was last done `least` commits ago.
    pub(crate) async fn checkpoint(self: &Arc<Self>, least: u64) -> Result<()> {
        let Some(opening) = self.opening.clone() else { return Ok(()) };
        let registry = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || registry.records.checkpoint(&opening, least));
        written.await.map_err(fault)?.map(drop)
    }

    /// Gives the repository a blob that another one has. `false` when there is none that `may_pull` lets
    /// the client read, and it has to be uploaded.
    pub(crate) async fn mount(
        &self,
        repository: &str,
        digest: Digest,
        from: Option<&str>,
        may_pull: impl Fn(&str) -> bool,
        origin: Option<Origin>,
    ) -> Result<bool> {
        /// How many repositories are looked at when the client names none.
        const CANDIDATES: usize = 64;
        let view = self.records.view()?;
        let holders = match from {
            Some(from) if links::size(&view, from, &digest)?.is_some() => vec![from.to_owned()],
            Some(_) => Vec::new(),
            None => links::holders(&view, &digest, CANDIDATES)?,
        };
        let is_there = self.blobs.has(&view, &digest)?;
        drop(view);
        if let (Some(images), Some(from), true) = (&self.images, from, holders.is_empty())
            && may_pull(from)
        {
            return self.mount_elsewhere(Arc::clone(images), (repository, digest), from, origin).await;
        }
        let holder = holders.into_iter().find(|holder| may_pull(holder));
        let Some(holder) = holder.filter(|_| is_there) else { return Ok(false) };
        let (repository, rules, now) = (repository.to_owned(), Arc::clone(&self.rules), self.now());
        let source = Source { origin, mounted_from: None };
        let mount = move |writing: &crate::records::Writing| {
            links::mount(writing, &repository, &digest, &holder, source.by(&rules, now))
        };
        self.records.write(mount).await
    }

    /// The same for a blob that an image of the other store has: its bytes are copied, so that the repository
    /// has them whatever becomes of that image.
    async fn mount_elsewhere(
        &self,
        images: Arc<dyn Images>,
        (repository, digest): (&str, Digest),
        from: &str,
        origin: Option<Origin>,
    ) -> Result<bool> {
        let holder = from.to_owned();
        let opened = images::blocking(move || Ok(images.open_blob(&holder, &digest)?)).await?;
        let Some(file) = opened else { return Ok(false) };
        let mut writer = self.uploads.start_file(repository, self.now()).await?;
        let copied = tokio::task::spawn_blocking(move || {
            let copied = writer.append_file(&file);
            (writer, copied)
        });
        let (writer, copied) = copied.await.map_err(fault)?;
        if let Err(error) = copied {
            self.uploads.discard(Writer::File(writer)).await;
            return Err(error);
        }
        let source = Source { origin, mounted_from: Some(from.to_owned()) };
        self.finish_as(Writer::File(writer), (repository, digest.into()), source).await.map(|()| true)
    }

    /// Takes a blob from the repository.
    pub(crate) async fn delete_blob(
        &self,
        repository: &str,
        digest: Digest,
        origin: Option<Origin>,
    ) -> Result<()> {
        let (repository, rules, now) = (repository.to_owned(), Arc::clone(&self.rules), self.now());
        let source = Source { origin, mounted_from: None };
        let unlink = move |writing: &crate::records::Writing| {
            links::unlink(writing, &repository, &digest, source.by(&rules, now))
        };
        self.records.write(unlink).await
    }

    /// Finds a manifest, and its raw bytes unless `is_known` says that the client has them.
    pub(crate) fn manifest(
        &self,
        repository: &str,
        reference: &Reference,
        is_known: impl Fn(&ContentDigest) -> bool,
    ) -> Result<(Found, Option<Bytes>)> {
        // One view for both: a manifest that is found has its bytes.
        let view = self.records.view()?;
        let recorded = manifests::resolve(&view, repository, reference);
        if let Some(document) = self.document_elsewhere(&view, repository, reference, &recorded)? {
            let found = document.found();
            let bytes = (!is_known(&found.name)).then_some(document.bytes);
            return Ok((found, bytes));
        }
        let found = recorded?;
        let bytes =
            if is_known(&found.name) { None } else { Some(manifests::document(&view, &found.digest)?) };
        Ok((found, bytes))
    }

    /// A manifest of the other store, unless the records know it, or know the tag by a later push.
    fn document_elsewhere(
        &self,
        view: &redb::ReadTransaction,
        repository: &str,
        reference: &Reference,
        recorded: &Result<Found>,
    ) -> Result<Option<Document>> {
        let Some(images) = &self.images else { return Ok(None) };
        let pushed = match (reference, recorded) {
            (_, Err(Error::Failed(_))) | (Reference::Digest(_), Ok(_)) => return Ok(None),
            (_, Err(Error::Refused(_))) => None,
            (Reference::Tag(tag), Ok(_)) => manifests::tag_time(view, repository, tag)?,
        };
        let document = images.manifest(repository, reference)?;
        Ok(document.filter(|document| pushed.is_none_or(|pushed| document.tagged > pushed)))
    }

    /// Stores a manifest under a tag, or under its digest and further tags; when this returns it survives
    /// power loss. Returns what it is called, and what it speaks about.
    pub(crate) async fn put_manifest(
        &self,
        repository: &str,
        reference: &Reference,
        more_tags: Vec<Tag>,
        (content_type, bytes): (Option<&str>, Bytes),
        origin: Option<Origin>,
    ) -> Result<(ContentDigest, Option<ContentDigest>)> {
        let manifest = manifest::parse(content_type, &bytes)?;
        let digest = Digest::of(&bytes);
        let (mut name, mut tags) = (ContentDigest::from(digest), more_tags);
        match reference {
            Reference::Digest(expected) => {
                name = expected.same_of(&bytes);
                if name != *expected {
                    return Err(crate::uploads::mismatch(expected, &name).into());
                }
            }
            Reference::Tag(tag) => tags.push(tag.clone()),
        }
        let subject = manifest.subject;
        // The other store has one name for everything.
        let has_one_name = manifest.names().chain([&name]).all(|name| name.sha256().is_some());
        let is_taken = has_one_name && self.hand_over(repository, &tags, &manifest, &bytes).await?;
        let elsewhere = if is_taken { HashSet::new() } else { self.parts_elsewhere(repository, &manifest)? };
        let repository = repository.to_owned();
        let push =
            Push { repository, tags, digest, name, bytes, manifest, elsewhere, now: self.now(), origin };
        let rules = Arc::clone(&self.rules);
        match is_taken {
            true if rules.webhooks.is_empty() => {}
            true => self.records.write(move |writing| manifests::tell_pushed(writing, &push, &rules)).await?,
            false => self.records.write(move |writing| manifests::put(writing, &push, &rules)).await?,
        }
        Ok((name, subject))
    }

    /// Gives an image that is pushed under tags to the other store; whether that has it now.
    async fn hand_over(
        &self,
        repository: &str,
        tags: &[Tag],
        manifest: &Manifest,
        bytes: &Bytes,
    ) -> Result<bool> {
        let Some(images) = self.images.clone().filter(|_| !tags.is_empty()) else { return Ok(false) };
        if manifest.subject.is_some() {
            return Ok(false);
        }
        let (repository, tags, bytes) = (repository.to_owned(), tags.to_vec(), bytes.clone());
        let view = self.records.view()?;
        // An engine keeps what it is handed as files.
        let Blobs::Files(store) = self.blobs.clone() else { return Ok(false) };
        let (name, names) = (repository.clone(), tags.clone());
        let taken = images::blocking(move || {
            let blob = |digest: &Digest| {
                if links::size(&view, &name, digest).map_err(Error::into_failed)?.is_none() {
                    return Ok(None);
                }
                match store.open_blob(digest) {
                    Ok(file) => Ok(Some(file)),
                    Err(yare_content::Error::NotFound(_)) => Ok(None),
                    Err(error) => Err(yare_errdefs::Error::wrap("cannot open a pushed blob", error)),
                }
            };
            let document = |digest: &Digest| match manifests::resolve(
                &view,
                &name,
                &Reference::Digest((*digest).into()),
            ) {
                Ok(found) => manifests::document(&view, &found.digest).map(Some).map_err(Error::into_failed),
                Err(Error::Refused(_)) => Ok(None),
                Err(error) => Err(error.into_failed()),
            };
            let pushed = Pushed {
                repository: &name,
                tags: &names,
                manifest: &bytes,
                blob: &blob,
                document: &document,
            };
            images.take(&pushed).map_err(images::refused)
        });
        if !taken.await? {
            return Ok(false);
        }
        let members = manifest.members.iter().filter_map(ContentDigest::sha256).collect();
        self.forget_taken(&repository, tags, members).await?;
        Ok(true)
    }

    /// Takes tags, and the images of an index, off the records that the other store has now.
    async fn forget_taken(&self, repository: &str, tags: Vec<Tag>, members: Vec<Digest>) -> Result<()> {
        let view = self.records.view()?;
        let mut recorded = Vec::new();
        for tag in tags {
            if manifests::tag_time(&view, repository, &tag)?.is_some() {
                recorded.push(tag);
            }
        }
        drop(view);
        if recorded.is_empty() && members.is_empty() {
            return Ok(());
        }
        let repository = repository.to_owned();
        let change = move |writing: &crate::records::Writing| {
            recorded.iter().try_for_each(|tag| manifests::forget_tag(writing, &repository, tag))?;
            members.iter().try_for_each(|member| manifests::forget_unnamed(writing, &repository, member))
        };
        self.records.write(change).await
    }

    /// What a manifest needs and the other store has for the repository.
    fn parts_elsewhere(&self, repository: &str, manifest: &Manifest) -> Result<HashSet<ContentDigest>> {
        let mut found = HashSet::new();
        let Some(images) = &self.images else { return Ok(found) };
        for blob in manifest.blobs.iter().filter_map(ContentDigest::sha256) {
            if images.blob_size(repository, &blob)?.is_some() {
                found.insert(blob.into());
            }
        }
        for member in &manifest.members {
            if images.manifest(repository, &Reference::Digest(*member))?.is_some() {
                found.insert(*member);
            }
        }
        Ok(found)
    }

    /// Deletes a tag, or a manifest with its tags.
    pub(crate) async fn delete_manifest(
        &self,
        repository: &str,
        reference: &Reference,
        origin: Option<Origin>,
    ) -> Result<()> {
        let mut is_recorded = true;
        if let Some(images) = self.images.clone() {
            let (repository, reference) = (repository.to_owned(), reference.clone());
            is_recorded = manifests::is_there(&self.records.view()?, &repository, &reference)?;
            let remove = move || images.remove(&repository, &reference).map_err(images::refused);
            is_recorded |= !images::blocking(remove).await?;
        }
        let (repository, reference, rules) = (repository.to_owned(), reference.clone(), self.rules.clone());
        let delete = move |writing: &crate::records::Writing| {
            let by = (origin.as_ref(), &*rules);
            // What only the other store had is gone by now.
            match is_recorded {
                true => manifests::delete(writing, &repository, &reference, by),
                false => manifests::tell_deleted(writing, &repository, &reference, by),
            }
        };
        self.records.write(delete).await
    }

    /// Writes what is only in memory and closes the records; later requests are refused.
    pub async fn close(&self) {
        if let Err(error) = self.usage.flush(&self.records).await {
            tracing::warn!(error = yare_errdefs::chain(&error), "the last pulls are not noted");
        }
        self.hooks.flush(&self.records).await;
        self.records.close();
    }
}

/// As [`By`], for another thread.
struct Source {
    origin: Option<Origin>,
    mounted_from: Option<String>,
}

impl Source {
    fn by<'a>(&'a self, rules: &'a PushRules, now: u64) -> By<'a> {
        let (origin, mounted_from) = (self.origin.as_ref(), self.mounted_from.as_deref());
        By { now, rules, origin, mounted_from }
    }
}

/// An upload that was checked.
#[derive(Debug, Clone, Copy)]
struct Stored {
    name: ContentDigest,
    digest: Digest,
    size: u64,
}

/// As [`Whole`], for another thread.
enum Owned {
    File(PathBuf),
    Object(String),
}

/// A panic on another thread.
pub(crate) fn fault(error: tokio::task::JoinError) -> Error {
    yare_errdefs::Error::internal("a task of the registry failed").caused_by(error).into()
}

fn make_root(root: &Path) -> Result<()> {
    if root.as_os_str().is_empty() {
        return Err(yare_errdefs::Error::invalid("no root folder is given")
            .with_hint("say where to keep things: --root DIR, or `root` in the configuration")
            .into());
    }
    if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| file_error("make the folder", parent, error))?;
    }
    make_folder(root)
}

fn make_folder(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(file_error("make the folder", path, error)),
    }
}

fn lock(root: &Path) -> Result<yare_sys::fs::Lock> {
    yare_sys::fs::lock_file(root.join("lock")).map_err(|error| {
        let busy = error.kind() == std::io::ErrorKind::WouldBlock;
        let error = if busy {
            yare_errdefs::Error::conflict(format!("the registry at {} is open already", root.display()))
                .with_hint(
                    "another `yare registry serve` has it; `yare registry gc` and `scrub` talk to that one",
                )
        } else {
            yare_errdefs::Error::from(error)
        };
        error.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{BLOBS, LINKED, LINKS, MANIFESTS, REPOSITORIES, TAGS, Writing};
    use std::time::{Duration, Instant};

    /// A hundred thousand blobs, and records that nobody can read.
    fn fill(writing: &Writing) -> Result<()> {
        let mut blobs = writing.tables.open_table(BLOBS)?;
        let mut links = writing.tables.open_table(LINKS)?;
        let mut linked = writing.tables.open_table(LINKED)?;
        for number in 0..100_000_u32 {
            let (digest, repository) = (Digest::of(number.to_le_bytes()), format!("small/{}", number % 100));
            blobs.insert(digest.as_bytes(), 1)?;
            links.insert((repository.as_str(), digest.as_bytes()), 1)?;
            linked.insert((digest.as_bytes(), repository.as_str()), ())?;
        }
        for number in 0..100 {
            let (name, digest) = (format!("small/{number}"), Digest::of("manifest"));
            writing.tables.open_table(REPOSITORIES)?.insert(name.as_str(), b"unreadable".as_slice())?;
            let tag = (name.as_str(), "v1", "v1");
            writing.tables.open_table(TAGS)?.insert(tag, b"unreadable".as_slice())?;
            let manifest = (name.as_str(), digest.as_bytes());
            writing.tables.open_table(MANIFESTS)?.insert(manifest, b"unreadable".as_slice())?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_start_reads_nothing_of_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let text = "[[quota]]\nrepositories = '**'\nbytes = '1TB'\n[[webhook]]\nurl = 'http://127.0.0.1:1'\n\
                    [[retention]]\nrepositories = '**'\npulled_within = '30d'";
        let config = Config { root: folder.path().to_owned(), ..Config::parse(text).unwrap() };
        let registry = Registry::open(config.clone()).unwrap();
        registry.records.write(fill).await.unwrap();
        registry.close().await;
        drop(registry);
        let begun = Instant::now();
        let registry = Registry::open(config).unwrap();
        let took = begun.elapsed();
        // Tens of milliseconds, on a machine that has nothing else to do.
        assert!(took < Duration::from_secs(5), "{took:?}");
        println!("100,000 blobs: {took:?}");
        assert_eq!(
            links::size(&registry.records.view().unwrap(), "small/7", &Digest::of(7_u32.to_le_bytes()))
                .unwrap(),
            Some(1)
        );
    }
}
