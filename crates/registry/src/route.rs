//! From a path to what it means.

use crate::name::{Reference, RepositoryName, parse_digest};
use crate::problem::{Code, Refusal};
use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use yare_oci::ContentDigest;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, ContentDigest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, ContentDigest),
    /// `/token`
    Token,
    /// `/token/keys`
    TokenKeys,
    /// `/healthz`
    Health,
    /// `/metrics`
    Metrics,
}

impl Target {
    /// The repository that it is in.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => Some(name),
            _ => None,
        }
    }

    /// The word for it in metrics and in the audit log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
            Self::Token | Self::TokenKeys => "token",
            Self::Health => "health",
            Self::Metrics => "metrics",
        }
    }
}

/// Takes the path of a request apart; escapes are decoded first and names are checked after it.
pub fn parse(path: &str) -> Result<Target, Refusal> {
    let decoded = percent_decode_str(path).decode_utf8().map_err(|_| nowhere(path))?;
    match decoded.as_ref() {
        "/v2" | "/v2/" => return Ok(Target::Base),
        "/v2/_catalog" => return Ok(Target::Catalog),
        "/token" => return Ok(Target::Token),
        "/token/keys" => return Ok(Target::TokenKeys),
        "/healthz" => return Ok(Target::Health),
        "/metrics" => return Ok(Target::Metrics),
        _ => {}
    }
    let rest = decoded.strip_prefix("/v2/").ok_or_else(|| nowhere(path))?;
    // Names may hold any of these words, so the path is read from its end.
    let segments: Vec<&str> = rest.split('/').collect();
    let (name, target) = match segments.as_slice() {
        [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => (name, Part::Uploads),
        [name @ .., "blobs", "uploads", id] => (name, Part::Upload(id)),
        [name @ .., "blobs", digest] => (name, Part::Blob(digest)),
        [name @ .., "manifests", reference] => (name, Part::Manifest(reference)),
        [name @ .., "referrers", digest] => (name, Part::Referrers(digest)),
        [name @ .., "tags", "list"] => (name, Part::Tags),
        _ => return Err(nowhere(path)),
    };
    let name = RepositoryName::parse(&name.join("/"))?;
    Ok(match target {
        Part::Uploads => Target::Uploads(name),
        Part::Upload(id) => Target::Upload(name, id.to_owned()),
        Part::Blob(digest) => Target::Blob(name, parse_digest(digest)?),
        Part::Manifest(reference) => Target::Manifest(name, Reference::parse(reference)?),
        Part::Referrers(digest) => Target::Referrers(name, parse_digest(digest)?),
        Part::Tags => Target::Tags(name),
    })
}

/// What a request is about. By a tag that cannot be there is no manifest: that is all that those are told who ask
/// for one, or delete it. Who pushes is told what is wrong with the tag.
pub fn of_request(method: &Method, path: &str) -> Result<Target, Refusal> {
    parse(path).map_err(|refusal| match (refusal.code, method) {
        (Code::TagInvalid, &(Method::GET | Method::HEAD | Method::DELETE)) => {
            Refusal::new(Code::ManifestUnknown, "manifest unknown").with_detail(refusal.detail)
        }
        _ => refusal,
    })
}

enum Part<'a> {
    Uploads,
    Upload(&'a str),
    Blob(&'a str),
    Manifest(&'a str),
    Referrers(&'a str),
    Tags,
}

fn nowhere(path: &str) -> Refusal {
    let shown: String = path.chars().take(200).collect();
    Refusal::new(Code::Unsupported, format!("no such endpoint: {shown}")).with_status(StatusCode::NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_oci::Digest;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = Digest::of("x");
        let cases = [
            ("/v2/".to_owned(), Target::Base),
            ("/v2/_catalog".to_owned(), Target::Catalog),
            ("/v2/a/b/tags/list".to_owned(), Target::Tags(name("a/b"))),
            (
                "/v2/manifests/tags/list/manifests/v1".to_owned(),
                Target::Manifest(name("manifests/tags/list"), Reference::parse("v1").unwrap()),
            ),
            (format!("/v2/a/blobs/{digest}"), Target::Blob(name("a"), digest.into())),
            (format!("/v2/a/blobs/sha256%3A{}", digest.hex()), Target::Blob(name("a"), digest.into())),
            ("/v2/a/blobs/uploads/".to_owned(), Target::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/x1".to_owned(), Target::Upload(name("a"), "x1".into())),
            (format!("/v2/a/referrers/{digest}"), Target::Referrers(name("a"), digest.into())),
        ];
        for (path, want) in cases {
            assert_eq!(parse(&path).unwrap(), want, "{path}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        let cases = [
            ("/v2/../etc/manifests/v1", Code::NameInvalid),
            ("/v2/%2e%2e/manifests/v1", Code::NameInvalid),
            ("/v2/a%2f..%2fb/tags/list", Code::NameInvalid),
            ("/v2/A/tags/list", Code::NameInvalid),
            ("/v2/a/manifests/..", Code::TagInvalid),
            ("/v2/a/blobs/sha256:x", Code::DigestInvalid),
            ("/v2/a/blobs/sha512:x", Code::DigestInvalid),
            ("/v2/a", Code::Unsupported),
            ("/v2/%ff/tags/list", Code::Unsupported),
            ("/etc/passwd", Code::Unsupported),
        ];
        for (path, want) in cases {
            assert_eq!(parse(path).unwrap_err().code, want, "{path}");
        }
    }
}
