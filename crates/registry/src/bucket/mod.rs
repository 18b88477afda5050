//! A bucket of an object store: S3, Google Cloud Storage or Azure.
//!
//! # Objects, format 1
//!
//! ```text
//! <prefix>/registry.json                what this is: {"format": 1, "id": "<32 hex>"}
//! <prefix>/log/<20 digits>              the records, a commit each: see `log`
//! <prefix>/checkpoints/<20 digits>      all records as of that commit
//! <prefix>/blobs/<32 hex>               the bytes of a blob; which one it is, the records say (`objects`)
//! <prefix>/uploads/<32 hex>             how far an upload is: see `uploads`
//! <prefix>/token-key                    the key that signs tokens, of all processes
//! ```
//!
//! A name below `blobs/` is random and used once, so that what is deleted can never be what somebody is
//! about to store. Everything rests on one promise of the store, which is tried out at the start: a put on
//! condition that there is no such object succeeds once.

pub(crate) mod blobs;
pub(crate) mod collect;
mod connector;
pub(crate) mod log;
pub(crate) mod uploads;

use crate::problem::{Error, Result, file_error};
use crate::secrets::Secrets;
use connector::Connector;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::multipart::MultipartStore;
use object_store::path::Path as Key;
use object_store::signer::Signer;
use object_store::{GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use yare_sys::fs::Durability;

/// The format of what is in a bucket.
const FORMAT: u32 = 1;

/// How to reach a bucket.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    /// Its kind, its name, and what all names in it begin with.
    place: Place,
    /// Settings of the configuration; they win over those of the environment.
    options: Secrets,
    environment: Secrets,
    /// Authorities of its certificate, PEM, instead of the system's.
    authorities: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Google,
    Azure,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    kind: Kind,
    name: String,
    prefix: String,
}

impl Place {
    /// Reads `s3://name/prefix`, `gs://…`, `az://…`.
    fn parse(url: &str) -> yare_errdefs::Result<Self> {
        let wrong = |why: &str| {
            yare_errdefs::Error::invalid(format!("storage.url {url:?}: {why}"))
                .with_hint("want s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("no kind of storage"))?;
        let kind = match scheme {
            "s3" => Kind::S3,
            "gs" => Kind::Google,
            "az" => Kind::Azure,
            _ => return Err(wrong("a kind of storage that is not known")),
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            return Err(wrong("no bucket"));
        }
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
                && !part.bytes().all(|byte| byte == b'.')
        };
        if !prefix.is_empty() && !prefix.split('/').all(is_plain) {
            return Err(wrong(
                "a prefix has letters, digits, dots, dashes and underscores between its slashes",
            ));
        }
        Ok(Self { kind, name: name.to_owned(), prefix: prefix.to_owned() })
    }
}

impl Opening {
    /// What the configuration says; `None` when blobs are files. `environment` has the variables that the
    /// stores' own tools read, too.
    pub(crate) fn new(
        storage: &crate::config::Storage,
        environment: &Secrets,
    ) -> yare_errdefs::Result<Option<Self>> {
        let Some(url) = &storage.url else {
            if storage.redirect || !storage.options.is_empty() || storage.authorities.is_some() {
                return Err(yare_errdefs::Error::invalid(
                    "storage: `redirect`, `options` and `authorities` need a `url`",
                ));
            }
            return Ok(None);
        };
        let opening = Self {
            place: Place::parse(url)?,
            options: storage.options.clone(),
            environment: environment.clone(),
            authorities: storage.authorities.clone(),
        };
        for name in opening.options.keys() {
            let is_known = match opening.place.kind {
                Kind::S3 => AmazonS3ConfigKey::from_str(name).is_ok(),
                Kind::Google => GoogleConfigKey::from_str(name).is_ok(),
                Kind::Azure => AzureConfigKey::from_str(name).is_ok(),
            };
            if !is_known {
                let message = format!("storage.options: {name:?} is no option of {url}");
                return Err(yare_errdefs::Error::invalid(message));
            }
        }
        Ok(Some(opening))
    }

    /// The settings that a builder knows, those of the environment first.
    fn settings<K: FromStr>(&self) -> Vec<(K, String)> {
        let lower = self.environment.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
        let given = self.options.iter().map(|(name, value)| (name.clone(), value));
        let known = lower.chain(given).filter_map(|(name, value)| Some((name.parse().ok()?, value.clone())));
        known.collect()
    }

    /// Makes a client of the bucket, whose connections belong to the runtime that this is called in.
    pub(crate) fn connect(&self) -> Result<Bucket> {
        let connector = Connector::new(self.authorities.as_deref())?;
        let name = self.place.name.as_str();
        let wrong = |error: object_store::Error| -> Error {
            let message = format!("cannot use the storage {name}");
            yare_errdefs::Error::invalid(message).caused_by(error).into()
        };
        let plain = self.options.iter().any(|(key, value)| {
            key.to_ascii_lowercase().contains("endpoint") && value.starts_with("http://")
        });
        let (prefix, shown) = (self.place.prefix.clone(), name.to_owned());
        Ok(match self.place.kind {
            Kind::S3 => {
                let mut builder =
                    AmazonS3Builder::new().with_bucket_name(name).with_http_connector(connector);
                for (key, value) in self.settings() {
                    builder = builder.with_config(key, value);
                }
                if plain {
                    builder = builder.with_allow_http(true);
                }
                Bucket::new(Arc::new(builder.build().map_err(wrong)?), prefix, shown)
            }
            Kind::Google => {
                let builder = GoogleCloudStorageBuilder::new().with_bucket_name(name);
                let mut builder = builder.with_http_connector(connector);
                for (key, value) in self.settings() {
                    builder = builder.with_config(key, value);
                }
                Bucket::new(Arc::new(builder.build().map_err(wrong)?), prefix, shown)
            }
            Kind::Azure => {
                let builder = MicrosoftAzureBuilder::new().with_container_name(name);
                let mut builder = builder.with_http_connector(connector);
                for (key, value) in self.settings() {
                    builder = builder.with_config(key, value);
                }
                if plain {
                    builder = builder.with_allow_http(true);
                }
                Bucket::new(Arc::new(builder.build().map_err(wrong)?), prefix, shown)
            }
        })
    }
}

/// A bucket, and what is in front of all names in it.
#[derive(Clone)]
pub(crate) struct Bucket {
    objects: Arc<dyn ObjectStore>,
    multipart: Arc<dyn MultipartStore>,
    signer: Arc<dyn Signer>,
    prefix: String,
    shown: String,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("name", &self.shown)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    id: String,
}

impl Bucket {
    fn new<S: ObjectStore + MultipartStore + Signer>(store: Arc<S>, prefix: String, shown: String) -> Self {
        Self {
            objects: Arc::clone(&store) as _,
            multipart: Arc::clone(&store) as _,
            signer: store,
            prefix,
            shown,
        }
    }

    /// The key of an object.
    fn key(&self, name: &str) -> Key {
        Key::from_iter(self.prefix.split('/').chain(name.split('/')).filter(|part| !part.is_empty()))
    }

    /// What of an object is wrong.
    fn failed(&self, what: &str, name: &str, error: object_store::Error) -> Error {
        let message = format!("cannot {what} {name} in the bucket {}", self.shown);
        yare_errdefs::Error::unavailable(message).caused_by(error).into()
    }

    /// The bytes of a small object, if there is one.
    async fn read(&self, name: &str) -> Result<Option<bytes::Bytes>> {
        let got = match self.objects.get_opts(&self.key(name), GetOptions::default()).await {
            Ok(got) => got.bytes().await,
            Err(error) => Err(error),
        };
        match got {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", name, error)),
        }
    }

    /// Puts an object, if there is none of that name. Whether there was none.
    async fn create(&self, name: &str, payload: PutPayload) -> Result<bool, object_store::Error> {
        let options = PutOptions::from(PutMode::Create);
        match self.objects.put_opts(&self.key(name), payload, options).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object; one that is not there is as good as deleted.
    async fn delete(&self, name: &str) -> Result<()> {
        match object_store::ObjectStoreExt::delete(&*self.objects, &self.key(name)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", name, error)),
        }
    }

    /// What this bucket is called, for ever; it is given a name when it has none. Makes sure that the store
    /// keeps its promise about conditions.
    pub(crate) async fn identify(&self) -> Result<String> {
        const NAME: &str = "registry.json";
        if self.read(NAME).await?.is_none() {
            let identity = Identity { format: FORMAT, id: crate::uploads::random_id()? };
            let payload = PutPayload::from(serde_json::to_vec(&identity)?);
            self.create(NAME, payload).await.map_err(|error| self.failed("create", NAME, error))?;
        }
        let Some(bytes) = self.read(NAME).await? else {
            let message = format!("the bucket {} does not show {NAME}, which was just put", self.shown);
            return Err(yare_errdefs::Error::unavailable(message).into());
        };
        let identity: Identity = serde_json::from_slice(&bytes)?;
        if identity.format > FORMAT {
            let message =
                format!("the bucket has format {}, this yare knows up to {FORMAT}", identity.format);
            return Err(yare_errdefs::Error::precondition(message)
                .with_hint("serve it with the newer yare that wrote it")
                .into());
        }
        let again = self.create(NAME, PutPayload::from(bytes)).await;
        if again.map_err(|error| self.failed("try to create", NAME, error))? {
            let message = format!("the store of the bucket {} ignores `If-None-Match`", self.shown);
            return Err(yare_errdefs::Error::precondition(message)
                .with_hint("without it two processes could overwrite each other's records")
                .into());
        }
        Ok(identity.id)
    }

    /// Makes a file that all processes have alike: the first one's becomes everybody's.
    pub(crate) async fn share_file(&self, path: &Path, name: &str) -> Result<()> {
        let shared = match self.read(name).await? {
            Some(shared) => shared,
            None => {
                let Ok(own) = std::fs::read(path) else { return Ok(()) };
                let put = self.create(name, PutPayload::from(own.clone())).await;
                put.map_err(|error| self.failed("create", name, error))?;
                self.read(name).await?.unwrap_or_else(|| own.into())
            }
        };
        let (Some(folder), Some(file)) = (path.parent(), path.file_name()) else { return Ok(()) };
        yare_sys::fs::atomic_write(folder, file, &shared, Durability::Relaxed)
            .map_err(|error| file_error("write", path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_buckets() {
        let place = |kind, name: &str, prefix: &str| Place { kind, name: name.into(), prefix: prefix.into() };
        assert_eq!(Place::parse("s3://images").unwrap(), place(Kind::S3, "images", ""));
        assert_eq!(Place::parse("gs://b/a/b/").unwrap(), place(Kind::Google, "b", "a/b"));
        assert_eq!(Place::parse("az://c/x").unwrap(), place(Kind::Azure, "c", "x"));
        for bad in ["images", "ftp://x", "s3://", "s3:///x", "s3://b/../c", "s3://b/a//c", "s3://b/ä"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
