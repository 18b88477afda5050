//! Downloads: `ADD https://…` and contexts at an URL.
//!
//! Who speaks HTTP is a [`Fetch`]; what was downloaded is kept and asked for again with its `ETag` or
//! `Last-Modified`, so that an unchanged file costs one short answer. What a download is worth for a cache
//! key is the digest of its bytes, with the name and the time that the file gets.
//!
//! # The cache (format 1)
//!
//! ```text
//! <cache>/urls/<sha256 of the URL>.json  a record: ETag, Last-Modified, file name, digest, size
//! <cache>/urls/<sha256 of the URL>.lock  held while that URL is asked for
//! <cache>/blobs/<sha256>                 the bytes
//! ```
//!
//! A record whose bytes are gone counts as none. The URL itself is not written down: it may hold a token.

use crate::Cancel;
use crate::source::{failed, lock, private_folder, unused};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use yare_errdefs::{Class, Classified, Error, Result};
use yare_oci::{Digest, Hasher};
use yare_sys::fs::{Durability, atomic_write, unique_name};

/// What an earlier download lets the server compare with.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions<'a> {
    /// For `If-None-Match`.
    pub etag: Option<&'a str>,
    /// For `If-Modified-Since`, verbatim as the server sent it.
    pub last_modified: Option<&'a str>,
}

/// A server's answer after redirects.
pub struct Response {
    /// 200, 304, …
    pub status: u16,
    /// `ETag`, verbatim.
    pub etag: Option<String>,
    /// `Last-Modified`, verbatim.
    pub last_modified: Option<String>,
    /// `Content-Disposition`, verbatim.
    pub content_disposition: Option<String>,
    /// `Content-Length`, when the server says it.
    pub length: Option<u64>,
    /// The content; an early end of a body of known length is an error of the reader.
    pub body: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response").field("status", &self.status).finish_non_exhaustive()
    }
}

/// A client that gets an URL and follows redirects. The engine's is asynchronous inside; the tests' speaks to
/// a server of their own.
pub trait Fetch: Send + Sync {
    /// Asks for `url`. An error is for connections that fail; an answer of any status is a response.
    fn get(&self, url: &str, conditions: Conditions<'_>, cancel: &Cancel) -> Result<Response>;
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `http://` or `https://`.
    pub url: &'a str,
    /// What it must be (`--checksum`).
    pub checksum: Option<Digest>,
    /// Most bytes.
    pub limit: u64,
}

/// A file that was downloaded, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// The bytes; not to be changed.
    pub path: PathBuf,
    /// Their hash.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Seconds since 1970 of `Last-Modified`, the time that the file gets.
    pub modified: Option<i64>,
    /// The name that the server gives it in `Content-Disposition`; a plain name.
    pub suggested_name: Option<String>,
}

/// Mode of a file that `ADD` downloads, unless `--chmod` says another.
pub const MODE: u32 = 0o600;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    etag: Option<String>,
    last_modified: Option<String>,
    suggested_name: Option<String>,
    digest: Digest,
    size: u64,
}

const FORMAT: u32 = 1;
/// Most bytes of a download.
pub const LARGEST: u64 = 64 << 30;

/// The downloads that are kept.
#[derive(Debug, Clone)]
pub struct Downloads {
    root: PathBuf,
}

/// Reads the value of `ADD --checksum` for a download.
pub fn parse_checksum(text: &str) -> Result<Digest> {
    text.parse::<Digest>().map_err(|error| {
        Error::invalid(format!("invalid checksum {text:?}"))
            .caused_by(error)
            .with_hint("a checksum is sha256: and 64 hex digits, as sha256sum prints them")
    })
}

/// The address for people and records: without user, password and query, which may hold secrets.
pub fn redact(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    crate::source::git::redact_url(url)
}

/// The name of the file that `ADD url dest` makes: the last name of `dest`, or the URL's when `dest` is a
/// directory (ends with a slash, or `is_directory`).
pub fn file_name(url: &str, suggested: Option<&str>, into_directory: bool) -> Result<Option<String>> {
    if !into_directory {
        return Ok(None);
    }
    let name = name_of_url(url).or_else(|| suggested.map(str::to_owned));
    let missing = || {
        Error::invalid(format!("cannot determine filename from url: {}", redact(url)))
            .with_hint("name the file in the destination, as in ADD <url> /dir/file")
    };
    name.map(Some).ok_or_else(missing)
}

/// The last name of the URL's path, decoded; nothing when there is none that a file can have.
fn name_of_url(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let path = rest.split(['?', '#']).next()?.split_once('/')?.1;
    let name = path.rsplit('/').next()?;
    plain_name(&percent_encoding::percent_decode_str(name).decode_utf8().ok()?)
}

fn plain_name(name: &str) -> Option<String> {
    let bad = matches!(name, "" | "." | "..") || name.len() > 255;
    (!bad && !name.contains(['/', '\\']) && !name.chars().any(char::is_control)).then(|| name.to_owned())
}

/// `filename="…"` of a `Content-Disposition` (RFC 6266); a path in it counts by its last name.
fn name_of_disposition(header: &str) -> Option<String> {
    let value = header.split(';').map(str::trim).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case("filename").then(|| value.trim().trim_matches('"'))
    })?;
    plain_name(value.rsplit(['/', '\\']).next()?)
}

impl Downloads {
    /// The cache below `root`, made when missing.
    pub fn open(root: &Path) -> Result<Self> {
        private_folder(&root.join("urls"))?;
        private_folder(&root.join("blobs"))?;
        Ok(Self { root: root.to_owned() })
    }

    /// Gets the file, from the server or, when that says it is unchanged, from the cache. With a checksum,
    /// bytes that are in the cache already are not asked for.
    pub fn get(&self, fetch: &dyn Fetch, wanted: &Wanted<'_>, cancel: &Cancel) -> Result<Download> {
        check_url(wanted.url)?;
        let key = Digest::of(wanted.url).hex();
        let _lock = lock(&self.root.join("urls").join(format!("{key}.lock")), cancel)?;
        let known = self.known(&key);
        if let Some(known) = known.as_ref().filter(|known| Some(known.digest) == wanted.checksum) {
            self.remember(&key, known)?;
            return Ok(self.download(known));
        }
        let conditions = match &known {
            Some(known) => {
                Conditions { etag: known.etag.as_deref(), last_modified: known.last_modified.as_deref() }
            }
            None => Conditions::default(),
        };
        let shown = redact(wanted.url);
        let response = fetch.get(wanted.url, conditions, cancel);
        let response = response.map_err(|error| Error::wrap(format!("cannot get {shown}"), error))?;
        let record = match (response.status, known) {
            (304, Some(known)) => known,
            (200..=299, _) => self.store(response, wanted, cancel)?,
            (status, _) => return Err(refused(&shown, status)),
        };
        verify(record.digest, wanted)?;
        self.remember(&key, &record)?;
        Ok(self.download(&record))
    }

    /// Forgets the downloads that were last used before `limit`, and returns the bytes that this frees. A build
    /// may still be reading what it got before then: the caller chooses a limit that lies before its start.
    pub fn prune(&self, limit: SystemTime) -> Result<u64> {
        for record in unused(&self.root.join("urls"), "json", limit)? {
            std::fs::remove_file(&record).map_err(|error| failed("remove", &record, error))?;
        }
        let records = unused(&self.root.join("urls"), "json", far_away())?;
        let kept: BTreeSet<PathBuf> = records.iter().filter_map(|path| self.blob_of(path)).collect();
        let mut freed = 0;
        for blob in unused(&self.root.join("blobs"), "", limit)? {
            if !kept.contains(&blob) {
                freed += blob.metadata().map_or(0, |metadata| metadata.len());
                std::fs::remove_file(&blob).map_err(|error| failed("remove", &blob, error))?;
            }
        }
        Ok(freed)
    }

    fn blob_of(&self, record: &Path) -> Option<PathBuf> {
        let record: Record = serde_json::from_slice(&std::fs::read(record).ok()?).ok()?;
        Some(self.blob(&record.digest))
    }

    fn known(&self, key: &str) -> Option<Record> {
        let bytes = std::fs::read(self.root.join("urls").join(format!("{key}.json"))).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let whole = std::fs::metadata(self.blob(&record.digest)).is_ok_and(|file| file.len() == record.size);
        (record.format == FORMAT && whole).then_some(record)
    }

    fn remember(&self, key: &str, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|error| Error::internal("cannot write a download's record").caused_by(error))?;
        let folder = self.root.join("urls");
        Ok(atomic_write(&folder, format!("{key}.json"), &bytes, Durability::Relaxed)?)
    }

    /// Takes the body into the cache.
    fn store(&self, response: Response, wanted: &Wanted<'_>, cancel: &Cancel) -> Result<Record> {
        let shown = redact(wanted.url);
        let too_large = |size: u64| {
            Error::invalid(format!("{shown} has {size} bytes or more, the limit is {}", wanted.limit))
        };
        if let Some(length) = response.length.filter(|length| *length > wanted.limit) {
            return Err(too_large(length));
        }
        let temporary = Temporary(self.root.join("blobs").join(unique_name(".tmp-")));
        let mut file = create(&temporary.0)?;
        let mut body = response.body.take(wanted.limit + 1);
        let (digest, size) = copy(&mut body, &mut file, cancel)
            .map_err(|error| Error::wrap(format!("cannot download {shown}"), error))?;
        if size > wanted.limit {
            return Err(too_large(size));
        }
        if let Some(length) = response.length.filter(|length| *length != size) {
            return Err(Error::unavailable(format!("{shown} ended after {size} of {length} bytes")));
        }
        let path = self.blob(&digest);
        std::fs::rename(&temporary.0, &path).map_err(|error| failed("rename to", &path, error))?;
        Ok(Record {
            format: FORMAT,
            etag: response.etag,
            last_modified: response.last_modified,
            suggested_name: response.content_disposition.as_deref().and_then(name_of_disposition),
            digest,
            size,
        })
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    fn download(&self, record: &Record) -> Download {
        Download {
            path: self.blob(&record.digest),
            digest: record.digest,
            size: record.size,
            modified: record.last_modified.as_deref().and_then(http_date),
            suggested_name: record.suggested_name.clone(),
        }
    }
}

/// Later than every file's time.
fn far_away() -> SystemTime {
    SystemTime::now() + Duration::from_secs(1 << 32)
}

/// Removes a file that never got its name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn create(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| failed("create", path, error))
}

fn copy(from: &mut impl Read, to: &mut File, cancel: &Cancel) -> Result<(Digest, u64)> {
    let (mut hasher, mut size, mut buffer) = (Hasher::new(), 0, vec![0; 128 << 10]);
    loop {
        cancel.check()?;
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Error::unavailable("the connection broke").caused_by(error));
            }
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        hasher.update(bytes);
        to.write_all(bytes)?;
        size += count as u64;
    }
}

fn verify(digest: Digest, wanted: &Wanted<'_>) -> Result<()> {
    match wanted.checksum.filter(|checksum| *checksum != digest) {
        None => Ok(()),
        Some(checksum) => {
            Err(Error::invalid(format!("digest mismatch {digest}: {checksum}")).with_hint(format!(
                "{} is not what the checksum was made of; compare it with what its author publishes",
                redact(wanted.url)
            )))
        }
    }
}

/// Whether it is an address that can be asked for.
pub fn check_url(url: &str) -> Result<()> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    if !matches!(scheme.as_deref(), Some("http" | "https")) || url.chars().any(|c| c.is_control() || c == ' ')
    {
        return Err(Error::invalid(format!("{:?} is no http or https address", redact(url))));
    }
    Ok(())
}

fn refused(url: &str, status: u16) -> Error {
    Error::new(class_of(status), format!("{url}: invalid response status {status}"))
}

/// What a status says that is no success.
pub fn class_of(status: u16) -> Class {
    match status {
        401 => Class::Unauthenticated,
        403 => Class::PermissionDenied,
        404 | 410 => Class::NotFound,
        429 | 500..=599 => Class::Unavailable,
        _ => Class::InvalidArgument,
    }
}

/// Whether a failure may go away by itself.
pub fn is_temporary(error: &Error) -> bool {
    error.class() == Class::Unavailable
}

/// Seconds since 1970 of an HTTP date (RFC 9110, IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT`).
fn http_date(text: &str) -> Option<i64> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    date.ok().map(|date| date.as_second())
}

#[cfg(test)]
mod tests;
