//! Manifests and indexes: asked for, checked, put.

use crate::error::Asked;
use crate::refusal::legible;
use crate::repository::{Access, Repository, Tries};
use crate::session::{Call, Session};
use crate::wire::{Response, header};
use crate::{Error, Result};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use std::fmt;
use yare_errdefs::{Class, Classified};
use yare_oci::{ContentDigest, Descriptor, Digest, MediaType};

/// The largest manifest that is taken, in bytes (8 MiB, as the content store's documents).
pub const LARGEST_MANIFEST: usize = 8 << 20;

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

const KINDS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                     application/vnd.docker.distribution.manifest.list.v2+json, \
                     application/vnd.docker.distribution.manifest.v2+json";

/// What names a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A tag.
    Tag(String),
    /// A digest.
    Digest(ContentDigest),
}

impl From<Digest> for Name {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest or index: its raw, verified bytes and what they are.
#[derive(Debug, Clone)]
pub struct Document {
    /// Kind, digest and size.
    pub descriptor: Descriptor,
    /// What it is called: as it was asked for, or by the registry, where that says so under a tag.
    pub name: ContentDigest,
    /// The bytes, as the registry has them.
    pub bytes: Bytes,
}

impl Repository {
    /// What a name stands for, without fetching it where the registry can say so.
    ///
    /// # Errors
    /// Of the registry, when it does not have it or cannot be reached.
    pub async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        let asked = self.asked(format!("resolve {name}"));
        let mut tries = Tries::new(&asked);
        for session in self.sessions(Access::Resolve(name)) {
            match head(&session, &asked, name).await {
                Ok(Some(descriptor)) => return Ok(descriptor),
                Ok(None) => match get(&session, &asked, name).await {
                    Ok(document) => return Ok(document.descriptor),
                    Err(error) => tries.failed(error),
                },
                Err(error) => tries.failed(error),
            }
        }
        Err(tries.error())
    }

    /// Fetches a manifest or index. By digest its bytes hash to it; by tag they hash to what the registry
    /// says, where it says so.
    ///
    /// # Errors
    /// Of the registry, when it does not have it or cannot be reached; class failed precondition when what
    /// came is larger than [`LARGEST_MANIFEST`], has another digest, or is of another kind than it claims.
    pub async fn manifest(&self, name: &Name) -> Result<Document> {
        let asked = self.asked(format!("fetch manifest {name}"));
        let mut tries = Tries::new(&asked);
        for session in self.sessions(Access::Resolve(name)) {
            match get(&session, &asked, name).await {
                Ok(document) => return Ok(document),
                Err(error) => tries.failed(error),
            }
        }
        Err(tries.error())
    }

    /// What content under a name is called, if it is there: by the registry, or by SHA-256 where it does not say.
    ///
    /// # Errors
    /// Of the registry, when it cannot be reached or forbids the question.
    pub async fn called(&self, name: &Name) -> Result<Option<ContentDigest>> {
        let asked = self.asked(format!("resolve {name}"));
        let mut tries = Tries::new(&asked);
        for session in self.sessions(Access::Resolve(name)) {
            let called = match claim(&session, &asked, name).await {
                Ok(None) => get(&session, &asked, name).await.map(|document| document.name),
                Ok(Some(called)) => Ok(called),
                Err(error) => Err(error),
            };
            match called {
                Ok(called) => return Ok(Some(called)),
                Err(error) => tries.failed(error),
            }
        }
        match tries.error() {
            error if error.class() == Class::NotFound => Ok(None),
            error => Err(error),
        }
    }

    /// Stores a manifest under a name.
    ///
    /// # Errors
    /// Of the registry, when it does not take it.
    pub async fn put_manifest(&self, name: &Name, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        self.put(name, media_type, bytes).await.map(|(digest, _)| digest)
    }

    /// Stores a manifest by what it is called, and under a tag, which then tells that name where the registry can
    /// do both at once.
    ///
    /// # Errors
    /// Of the registry, when it does not take it.
    pub async fn put_called(&self, tag: &str, document: &Document) -> Result<Digest> {
        let (kind, bytes) = (document.descriptor.media_type.as_str(), &document.bytes);
        let put = self.put_at(format!("manifests/{}?tag={tag}", document.name), kind, bytes).await?;
        if put.has_tag {
            Ok(put.digest)
        } else {
            self.put_manifest(&Name::Tag(tag.to_owned()), kind, bytes).await
        }
    }

    /// The same under one name; also tells whether the registry has noted what the manifest speaks about.
    pub(crate) async fn put(&self, name: &Name, media_type: &str, bytes: &[u8]) -> Result<(Digest, bool)> {
        let put = self.put_at(format!("manifests/{name}"), media_type, bytes).await?;
        Ok((put.digest, put.is_noted))
    }

    async fn put_at(&self, path: String, media_type: &str, bytes: &[u8]) -> Result<Put> {
        let name = path.trim_start_matches("manifests/");
        let asked = self.asked(format!("put manifest {name}"));
        let digest = Digest::of(bytes);
        let sent = Bytes::copy_from_slice(bytes);
        let session = self.push_session(&asked)?;
        let body = || Full::new(sent.clone()).map_err(|never| match never {}).boxed_unsync();
        let call = Call::new(&asked, Method::PUT, path.as_str(), &[200, 201, 202])
            .header(CONTENT_TYPE, media_type)
            .body(&body);
        let response = session.send(&call).await?;
        let said = claimed(response.headers());
        let (is_noted, has_tag) =
            (response.header("oci-subject").is_some(), response.header("oci-tag").is_some());
        let is_created = response.status() == StatusCode::CREATED;
        response.drain(&asked).await;
        match said {
            Some(other) if other.same_of(&sent) != other => {
                Err(Error::content(&asked, format!("it was stored as {other}, and is {digest}")))
            }
            // Not what a registry says that has taken it, but what any page on the way may say.
            None if !is_created => Err(Error::content(&asked, "the answer does not say that it was stored")),
            _ => Ok(Put { digest, is_noted, has_tag }),
        }
    }

    /// Takes a tag away, or a manifest with all its tags. One that is not there is no error.
    ///
    /// # Errors
    /// Of the registry, when it does not do it; many do not let tags be deleted.
    pub async fn delete_manifest(&self, name: &Name) -> Result<()> {
        let asked = self.asked(format!("delete {name}"));
        let path = format!("manifests/{name}");
        let call = Call::new(&asked, Method::DELETE, path, &[200, 202, 204, 404]);
        self.push_session(&asked)?.send(&call).await?.drain(&asked).await;
        Ok(())
    }
}

/// What a registry says of a manifest that it took.
struct Put {
    digest: Digest,
    /// It has noted what the manifest speaks about.
    is_noted: bool,
    /// It has set the tag that it was asked to set, too.
    has_tag: bool,
}

/// Asks for the head only. `None` when the answer says no without a reason.
async fn ask_head(session: &Session, asked: &Asked, name: &Name) -> Result<Option<Response>> {
    let call = Call::new(asked, Method::HEAD, format!("manifests/{name}"), &[200]).header(ACCEPT, KINDS);
    match session.send(&call).await {
        Ok(response) => Ok(Some(response)),
        // A reply to HEAD has no body; the GET that follows brings the registry's reason.
        Err(Error::Status { status, .. }) if !matches!(status.as_u16(), 429 | 500..=599) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a registry calls a manifest; `None` when it does not say.
async fn claim(session: &Session, asked: &Asked, name: &Name) -> Result<Option<ContentDigest>> {
    let Some(response) = ask_head(session, asked, name).await? else { return Ok(None) };
    match (name, claimed(response.headers())) {
        (Name::Digest(wanted), Some(claimed)) if claimed != *wanted => {
            // Another name of the same content, perhaps: the bytes will tell.
            Ok(None)
        }
        (_, claimed) => Ok(claimed),
    }
}

/// What a manifest is, by its head. `None` when that does not say enough.
async fn head(session: &Session, asked: &Asked, name: &Name) -> Result<Option<Descriptor>> {
    let Some(response) = ask_head(session, asked, name).await? else { return Ok(None) };
    // A descriptor has the digest by SHA-256; of content that is called otherwise it comes with the bytes.
    let digest = claimed(response.headers()).and_then(|digest| digest.sha256());
    let (Some(digest), Some(size)) = (digest, response.length()) else { return Ok(None) };
    if size > LARGEST_MANIFEST as u64 {
        return Err(too_large(asked, size));
    }
    let kind = media_type(response.headers());
    match name {
        Name::Digest(wanted) if *wanted != digest => Err(mismatch(asked, *wanted, digest.into())),
        _ if is_known(&kind) => Ok(Some(Descriptor::new(&kind, digest, size))),
        _ => Ok(None),
    }
}

async fn get(session: &Session, asked: &Asked, name: &Name) -> Result<Document> {
    let call = Call::new(asked, Method::GET, format!("manifests/{name}"), &[200]).header(ACCEPT, KINDS);
    let answer = session.document(&call, LARGEST_MANIFEST).await?;
    check(asked, name, claimed(&answer.headers), &media_type(&answer.headers), answer.body)
}

fn check(
    asked: &Asked,
    name: &Name,
    claimed: Option<ContentDigest>,
    kind: &str,
    bytes: Bytes,
) -> Result<Document> {
    let wanted = match name {
        Name::Digest(wanted) => Some(*wanted),
        Name::Tag(_) => claimed,
    };
    if let Some(wanted) = wanted {
        let actual = wanted.same_of(&bytes);
        if actual != wanted {
            return Err(mismatch(asked, wanted, actual));
        }
    }
    let kind = kind_of(&bytes, kind).map_err(|why| Error::content(asked, why))?;
    let descriptor = Descriptor::of(&kind, &bytes);
    let name = wanted.unwrap_or(descriptor.digest.into());
    Ok(Document { descriptor, name, bytes })
}

/// The kind of a document: what it says itself and what the registry says of it must agree, and it must not
/// be readable as two kinds at once.
fn kind_of(bytes: &[u8], announced: &str) -> Result<String, String> {
    let document: Value =
        serde_json::from_slice(bytes).map_err(|error| format!("the manifest is no JSON: {error}"))?;
    let has = |member: &str| document.get(member).is_some_and(|value| !value.is_null());
    if has("manifests") && (has("layers") || has("config")) {
        return Err("the manifest is an index and an image at once".to_owned());
    }
    if document.get("schemaVersion").and_then(Value::as_u64) == Some(1) || has("fsLayers") {
        return Err(
            "the manifest has the format schema 1, which is no longer supported; push the image again \
                    with a newer client"
                .to_owned(),
        );
    }
    let own = document.get("mediaType").and_then(Value::as_str).unwrap_or_default();
    let kind = match (own, announced) {
        ("", announced) if is_known(announced) => announced,
        ("", _) if has("manifests") => MediaType::OCI_INDEX,
        ("", _) => MediaType::OCI_MANIFEST,
        (own, announced) if own == announced || !is_known(announced) => own,
        (own, announced) => {
            return Err(format!("the manifest is a {}, and was announced as a {announced}", legible(own)));
        }
    };
    if !is_known(kind) {
        return Err(format!("the manifest is of the unknown kind \"{}\"", legible(kind)));
    }
    if MediaType::is_index(kind) != has("manifests") {
        return Err(format!("the manifest says it is a {kind}, and is not built like one"));
    }
    Ok(kind.to_owned())
}

fn is_known(kind: &str) -> bool {
    MediaType::is_index(kind) || MediaType::is_manifest(kind)
}

fn claimed(headers: &HeaderMap) -> Option<ContentDigest> {
    header(headers, CONTENT_DIGEST.as_str())?.parse().ok()
}

fn media_type(headers: &HeaderMap) -> String {
    let kind = header(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn mismatch(asked: &Asked, wanted: ContentDigest, actual: ContentDigest) -> Error {
    Error::content(asked, format!("the manifest has digest {actual}, expected {wanted}"))
}

fn too_large(asked: &Asked, size: u64) -> Error {
    Error::content(
        asked,
        format!("the manifest has {size} bytes, more than the {LARGEST_MANIFEST} of a document"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_must_agree() {
        let manifest = br#"{"schemaVersion":2,"config":{},"layers":[]}"#;
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(kind_of(manifest, MediaType::DOCKER_MANIFEST).unwrap(), MediaType::DOCKER_MANIFEST);
        assert_eq!(kind_of(manifest, "application/json").unwrap(), MediaType::OCI_MANIFEST);
        assert_eq!(kind_of(index, "").unwrap(), MediaType::OCI_INDEX);
        let said = |kind: &str| format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","layers":[]}}"#);
        assert_eq!(
            kind_of(said(MediaType::OCI_MANIFEST).as_bytes(), "text/plain").unwrap(),
            MediaType::OCI_MANIFEST
        );
        let wrong: [(&[u8], &str, &str); 7] = [
            (br#"{"manifests":[],"layers":[]}"#, MediaType::OCI_INDEX, "at once"),
            (br#"{"schemaVersion":1,"fsLayers":[]}"#, "", "schema 1"),
            (index, MediaType::OCI_MANIFEST, "not built"),
            (manifest, MediaType::OCI_INDEX, "not built"),
            (b"{", "", "no JSON"),
            (br#"{"mediaType":"text/x"}"#, "", "unknown kind"),
            (
                br#"{"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#,
                MediaType::DOCKER_MANIFEST,
                "announced",
            ),
        ];
        for (bytes, announced, why) in wrong {
            let error = kind_of(bytes, announced).unwrap_err();
            assert!(error.contains(why), "{}: {error}", String::from_utf8_lossy(bytes));
        }
    }
}
