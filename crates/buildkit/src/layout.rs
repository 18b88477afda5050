//! Images in OCI layouts that the client has: `containerd.services.content.v1.Content` of its session.
//!
//! The client names a store and the digest of what is wanted. What it sends is checked as it comes and put
//! into an archive, which goes into the image store as any archive does, under a name that lives as long as
//! the build.

use crate::context::Source;
use crate::grpc::client::Exchange;
use crate::proto::content::{ReadRequest, ReadResponse};
use crate::sync::Folder;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use serde_json::json;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};
use yare_errdefs::{Error, Result};
use yare_oci::{Descriptor, Digest, Hasher, Manifest, MediaType, Platform};

const READ: &str = "/containerd.services.content.v1.Content/Read";
/// Most bytes of a manifest, an index or a config.
const LONGEST: u64 = 4 << 20;
/// How deep indexes may be nested.
const DEPTH: usize = 4;

/// An image in a client's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayoutImage {
    /// What the client calls the layout.
    store: String,
    /// The session that has it; empty for the build's own.
    session: String,
    digest: Digest,
}

impl LayoutImage {
    /// Reads `STORE[:TAG]@DIGEST`, what stands behind `oci-layout://`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            Error::invalid(format!("invalid OCI layout {text:?}"))
                .with_hint("the client resolves a tag to a digest: oci-layout://DIR[:TAG][@DIGEST]")
        };
        let (name, digest) = text.split_once('@').ok_or_else(invalid)?;
        let store = name.split(':').next().unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
        if store.is_empty() || !store.bytes().all(plain) {
            return Err(invalid());
        }
        let digest = digest.parse().map_err(|_| invalid())?;
        Ok(Self { store: store.to_owned(), session: String::new(), digest })
    }

    /// The same image of another layout or session, where these are named.
    ///
    /// # Errors
    /// The name of the layout is no plain text.
    pub(crate) fn held_by(self, session: &str, store: &str) -> Result<Self> {
        let at = |store: &str| Self::parse(&format!("{store}@{}", self.digest));
        let held = if store.is_empty() { self } else { at(store)? };
        Ok(Self { session: session.to_owned(), ..held })
    }

    /// The digest of its manifest or index.
    pub(crate) fn digest(&self) -> Digest {
        self.digest
    }

    /// Brings the image as an archive in which it has this name; it lies in `folder`.
    pub(crate) fn bring(
        &self,
        source: &Source,
        platform: &Platform,
        (folder, name): (&Folder, &str),
    ) -> Result<File> {
        let failed = |error| failed(&self.digest, error);
        let (root, bytes) = self.descend(source, platform)?;
        let manifest: Manifest = document(&bytes, &root.digest)?;
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true);
        let file = options.open(folder.path().join("archive")).map_err(failed)?;
        let mut archive = tar::Builder::new(BufWriter::new(file));
        let mut there = HashSet::new();
        let mut add = |path: &str, size: u64, content: &mut dyn Read| {
            let mut header = tar::Header::new_ustar();
            header.set_size(size);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, content).map_err(failed)
        };
        let marker = br#"{"imageLayoutVersion":"1.0.0"}"#;
        add("oci-layout", marker.len() as u64, &mut marker.as_slice())?;
        let annotations = json!({ "io.containerd.image.name": name });
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": root.media_type, "digest": root.digest, "size": bytes.len(),
                "annotations": annotations,
            }],
        })
        .to_string();
        add("index.json", index.len() as u64, &mut index.as_bytes())?;
        add(&path(&root.digest), bytes.len() as u64, &mut bytes.as_slice())?;
        for blob in std::iter::once(&manifest.config).chain(&manifest.layers) {
            if there.insert(blob.digest) {
                add(&path(&blob.digest), blob.size, &mut self.read(source, blob)?)?;
            }
        }
        let written = archive.into_inner().map_err(failed)?;
        let mut file = written.into_inner().map_err(|error| failed(error.into_error()))?;
        file.rewind().map_err(failed)?;
        Ok(file)
    }

    /// Follows indexes to the manifest for a platform.
    fn descend(&self, source: &Source, platform: &Platform) -> Result<(Descriptor, Vec<u8>)> {
        let mut wanted = Descriptor::new("", self.digest, LONGEST);
        for _ in 0..DEPTH {
            let mut bytes = Vec::new();
            let mut blob = Blob { exact: false, ..self.read(source, &wanted)? };
            blob.read_to_end(&mut bytes).map_err(|error| failed(&wanted.digest, error))?;
            let index: Head = document(&bytes, &wanted.digest)?;
            if index.manifests.is_empty() {
                let media_type = match index.media_type.as_str() {
                    "" => MediaType::OCI_MANIFEST,
                    told => told,
                };
                return Ok((Descriptor::new(media_type, wanted.digest, bytes.len() as u64), bytes));
            }
            wanted = choose(&index.manifests, platform, &wanted.digest)?;
        }
        Err(Error::invalid(format!("{}: indexes are nested more than {DEPTH} deep", self.digest)))
    }

    fn read<'a>(&self, source: &'a Source, blob: &Descriptor) -> Result<Blob<'a>> {
        let mut metadata = HeaderMap::new();
        let store = HeaderValue::try_from(format!("oci:{}", self.store))
            .map_err(|_| Error::invalid("the name of an OCI layout is no plain text"))?;
        metadata.insert("buildkit-attachable-store-id", store);
        let link = &source.link;
        let session = source.session_of(&self.session, &format!("the OCI layout {}", self.store))?;
        let mut exchange = link.wait(session.call(READ, metadata))?;
        let question = ReadRequest { digest: blob.digest.to_string(), ..ReadRequest::default() };
        link.wait(exchange.send::<ReadResponse>(&question))?;
        if let Err(status) = exchange.outbound.close() {
            tracing::debug!(message = status.message, "a client answers before it is asked");
        }
        let (digest, left) = (blob.digest, blob.size);
        Ok(Blob {
            source,
            exchange,
            piece: Bytes::new(),
            hasher: Some(Hasher::new()),
            digest,
            left,
            exact: true,
        })
    }
}

/// What tells an index from a manifest.
#[derive(Default, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    media_type: String,
    manifests: Vec<Descriptor>,
}

fn failed(digest: &Digest, error: io::Error) -> Error {
    let text = format!("cannot bring {digest} from the client's OCI layout");
    let error_of =
        if error.kind() == io::ErrorKind::InvalidData { Error::invalid } else { Error::unavailable };
    error_of(text).caused_by(error)
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn document<T: serde::de::DeserializeOwned>(bytes: &[u8], digest: &Digest) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::invalid(format!("{digest} in the OCI layout is no manifest")).caused_by(error)
    })
}

fn choose(members: &[Descriptor], platform: &Platform, digest: &Digest) -> Result<Descriptor> {
    let rank = |member: &Descriptor| member.platform.as_ref().and_then(|found| found.rank(platform));
    let chosen = match members {
        [only] if only.platform.is_none() => Some(only),
        several => {
            let ranked = several.iter().filter_map(|member| Some((rank(member)?, member)));
            ranked.min_by_key(|(rank, _)| *rank).map(|(_, member)| member)
        }
    };
    let chosen = chosen.ok_or_else(|| {
        Error::not_found(format!("the OCI layout has no manifest for {platform} in {digest}"))
    })?;
    Ok(Descriptor::new(&chosen.media_type, chosen.digest, LONGEST.min(chosen.size)))
}

/// A blob on its way in. Its end is reported only when it is what it should be.
struct Blob<'a> {
    source: &'a Source,
    exchange: Exchange,
    piece: Bytes,
    /// Gone at the end.
    hasher: Option<Hasher>,
    digest: Digest,
    left: u64,
    /// Whether all of what is left must come.
    exact: bool,
}

impl Blob<'_> {
    fn wrong(&self, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("the client's blob {} {what}", self.digest))
    }

    fn end(&mut self) -> io::Result<usize> {
        let Some(hasher) = self.hasher.take() else { return Ok(0) };
        if self.exact && self.left > 0 {
            return Err(self.wrong("ends early"));
        }
        if hasher.finish() != self.digest {
            return Err(self.wrong("has another content"));
        }
        Ok(0)
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let next = self.source.link.wait(self.exchange.message::<ReadResponse>());
            match next.map_err(|error| io::Error::other(yare_errdefs::chain(&error)))? {
                Some(message) => self.piece = message.data,
                None => return self.end(),
            }
            let length = self.piece.len() as u64;
            self.left = self.left.checked_sub(length).ok_or_else(|| self.wrong("is longer than told"))?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&self.piece);
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_is_named_by_store_and_digest() {
        let digest = Digest::of("x");
        for text in [format!("abc@{digest}"), format!("abc:latest@{digest}")] {
            let expected = LayoutImage { store: "abc".to_owned(), session: String::new(), digest };
            let parsed = LayoutImage::parse(&text).expect("understood");
            assert_eq!(parsed, expected);
            let held = parsed.held_by("s", "other").expect("understood");
            assert_eq!((held.store.as_str(), held.session.as_str(), held.digest), ("other", "s", digest));
            assert!(held.held_by("s", "a\nb").is_err());
        }
        for text in
            [format!("@{digest}"), format!("a\nb@{digest}"), "abc".to_owned(), "abc@sha256:1".to_owned()]
        {
            assert!(LayoutImage::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_member_is_chosen_by_its_platform() {
        let host = Platform::new("linux", "amd64", "");
        let member = |arch: &str| Descriptor {
            platform: Some(Platform::new("linux", arch, "")),
            ..Descriptor::of(MediaType::OCI_MANIFEST, arch.as_bytes())
        };
        let both = [member("arm64"), member("amd64")];
        assert_eq!(choose(&both, &host, &Digest::of("")).expect("there").digest, Digest::of("amd64"));
        assert!(choose(&both[..1], &host, &Digest::of("")).is_err());
    }
}
