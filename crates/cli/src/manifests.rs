//! Manifest lists on their way: put together here entry by entry, then pushed.
//!
//! They are where Docker's command line keeps them and in its form, so that a list that one of both began is
//! annotated and pushed by the other:
//!
//! ```text
//! <config folder>/manifests/<list>/<image>     a reference, with - for : and _ for /
//!   {"Ref": "docker.io/library/a:1", "Descriptor": {…, "platform": {…}}, "Raw": "<base64>",
//!    "SchemaV2Manifest" or "OCIManifest": {…}}
//! ```

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use yare_oci::{Descriptor, Digest, MediaType, Platform, Reference};
use yare_sys::fs::Durability;

use crate::failure::Failure;
use crate::format::json::Json;

/// One image of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Entry {
    /// Where it is.
    #[serde(rename = "Ref")]
    reference: String,
    /// What it is, and for which platform.
    pub descriptor: Descriptor,
    /// The manifest's bytes, in base64.
    raw: String,
    /// The manifest once more, readable, when it has Docker's form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    schema_v2_manifest: Option<Box<RawValue>>,
    /// The same when it has OCI's.
    #[serde(default, rename = "OCIManifest", skip_serializing_if = "Option::is_none")]
    oci_manifest: Option<Box<RawValue>>,
}

impl Entry {
    /// An image as a registry has it.
    ///
    /// # Errors
    /// When the manifest is no JSON.
    pub(crate) fn new(
        reference: &Reference,
        descriptor: Descriptor,
        platform: Platform,
        bytes: &[u8],
    ) -> Result<Self, Failure> {
        let manifest: Box<RawValue> = serde_json::from_slice(bytes)
            .map_err(|error| Failure::new(format!("the manifest of {reference} is no JSON: {error}")))?;
        let is_docker = descriptor.media_type == MediaType::DOCKER_MANIFEST;
        let (schema_v2_manifest, oci_manifest) =
            if is_docker { (Some(manifest), None) } else { (None, Some(manifest)) };
        Ok(Self {
            reference: reference.to_string(),
            descriptor: Descriptor { platform: Some(platform), ..descriptor },
            raw: BASE64.encode(bytes),
            schema_v2_manifest,
            oci_manifest,
        })
    }

    /// Where it is.
    ///
    /// # Errors
    /// When the file says nonsense.
    pub(crate) fn reference(&self) -> Result<Reference, Failure> {
        let parsed = Reference::parse(&self.reference);
        parsed.map_err(|error| Failure::new(format!("the entry {:?}: {error}", self.reference)))
    }

    /// The manifest's bytes.
    ///
    /// # Errors
    /// When they are not those of its digest.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Failure> {
        let bytes = BASE64.decode(&self.raw).ok();
        let whole = bytes.filter(|bytes| Digest::of(bytes) == self.descriptor.digest);
        whole.ok_or_else(|| {
            let text = format!("the entry {} is not the manifest {}", self.reference, self.descriptor.digest);
            Failure::new(text).with_hint("take the list away and create it again")
        })
    }
}

/// All lists of one user.
#[derive(Debug)]
pub(crate) struct Lists(PathBuf);

impl Lists {
    /// Those in the folder of a configuration file.
    pub(crate) fn of(config_folder: &Path) -> Self {
        Self(config_folder.join("manifests"))
    }

    fn folder(&self, list: &Reference) -> PathBuf {
        self.0.join(file_name(list))
    }

    /// The entries of a list in the order of their names; `None` when there is no such list.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub(crate) fn list(&self, list: &Reference) -> Result<Option<Vec<Entry>>, Failure> {
        let folder = self.folder(list);
        let failed = |error: io::Error| Failure::new(format!("cannot read {}: {error}", folder.display()));
        let files = match std::fs::read_dir(&folder) {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut paths = Vec::new();
        for file in files {
            let file = file.map_err(failed)?;
            // Drafts of a writer that was killed; no reference begins like that.
            if !file.file_name().to_string_lossy().starts_with('.') {
                paths.push(file.path());
            }
        }
        paths.sort();
        let entries = paths.iter().filter_map(|path| read(path).transpose());
        entries.collect::<Result<_, _>>().map(Some)
    }

    /// One entry; `None` when the list has none of that name, or there is no list.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn entry(&self, list: &Reference, image: &Reference) -> Result<Option<Entry>, Failure> {
        read(&self.folder(list).join(file_name(image)))
    }

    /// Puts an entry into a list, in place of one of the same name.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, list: &Reference, image: &Reference, entry: &Entry) -> Result<(), Failure> {
        let folder = self.folder(list);
        let failed = |error: io::Error| Failure::new(format!("cannot write {}: {error}", folder.display()));
        DirBuilder::new().recursive(true).mode(0o755).create(&folder).map_err(failed)?;
        let text = Json::of(entry).compact();
        yare_sys::fs::atomic_write(&folder, file_name(image), text.as_bytes(), Durability::Relaxed)
            .map_err(|error| Failure::new(error.to_string()))
    }

    /// Takes a list away.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&self, list: &Reference) -> Result<(), Failure> {
        let folder = self.folder(list);
        std::fs::remove_dir_all(&folder)
            .map_err(|error| Failure::new(format!("cannot remove {}: {error}", folder.display())))
    }
}

fn file_name(reference: &Reference) -> String {
    reference.to_string().replace(':', "-").replace('/', "_")
}

fn read(path: &Path) -> Result<Option<Entry>, Failure> {
    let failed = |why: String| Failure::new(format!("the manifest list's entry {}: {why}", path.display()));
    match std::fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.to_string())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// A manifest list in the order of members that Docker writes, so that the same entries are the same digest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: Vec<Member<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Member<'a> {
    media_type: &'a str,
    size: u64,
    digest: Digest,
    platform: &'a Platform,
}

/// The list of these entries: its media type, OCI's when the first image has OCI's form, and its text.
///
/// # Errors
/// When nobody said for which platform one is.
pub(crate) fn document(entries: &[Entry]) -> Result<(&'static str, String), Failure> {
    let is_oci = entries.first().is_some_and(|entry| entry.descriptor.media_type == MediaType::OCI_MANIFEST);
    let media_type = if is_oci { MediaType::OCI_INDEX } else { MediaType::DOCKER_LIST };
    let manifests = entries.iter().map(member).collect::<Result<_, _>>()?;
    let document = Document { schema_version: 2, media_type, manifests };
    Ok((media_type, Json::of(&document).pretty("   ")))
}

fn member(entry: &Entry) -> Result<Member<'_>, Failure> {
    let platform = entry.descriptor.platform.as_ref();
    let platform = platform.filter(|platform| !platform.os.is_empty() && !platform.architecture.is_empty());
    let platform = platform.ok_or_else(|| {
        let text = "must have an OS and Architecture to be pushed to a registry";
        Failure::new(format!("manifest {} {text}", entry.reference))
            .with_hint("say it with manifest annotate --os OS --arch ARCHITECTURE")
    })?;
    Ok(Member {
        media_type: &entry.descriptor.media_type,
        size: entry.descriptor.size,
        digest: entry.descriptor.digest,
        platform,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    fn entry(name: &str, architecture: &str) -> Entry {
        let bytes = format!("{{\n   \"schemaVersion\": 2,\n   \"of\": \"{name}\"\n}}").into_bytes();
        let descriptor = Descriptor::new(MediaType::DOCKER_MANIFEST, Digest::of(&bytes), bytes.len() as u64);
        let platform = Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: String::new(),
            os_version: String::new(),
            os_features: Vec::new(),
        };
        Entry::new(&reference(name), descriptor, platform, &bytes).unwrap()
    }

    #[test]
    fn lists_are_kept_as_docker_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let lists = Lists::of(folder.path());
        let list = reference("r.example:5000/team/app:1");
        assert!(lists.list(&list).unwrap().is_none());
        for (name, architecture) in [("r.example:5000/team/app:b", "arm64"), ("alpine:3", "amd64")] {
            lists.save(&list, &reference(name), &entry(name, architecture)).unwrap();
        }
        let path = folder.path().join("manifests/r.example-5000_team_app-1/r.example-5000_team_app-b");
        let text = std::fs::read_to_string(&path).unwrap();
        let start =
            r#"{"Ref":"r.example:5000/team/app:b","Descriptor":{"mediaType":"application/vnd.docker."#;
        assert!(text.starts_with(start), "{text}");
        let end = r#""SchemaV2Manifest":{"schemaVersion":2,"of":"r.example:5000/team/app:b"}}"#;
        assert!(text.ends_with(end), "{text}");
        // Left by a writer that was killed.
        std::fs::write(path.with_file_name(".tmp-1"), "{").unwrap();
        let names =
            |entries: Vec<Entry>| entries.into_iter().map(|entry| entry.reference).collect::<Vec<_>>();
        let names = names(lists.list(&list).unwrap().unwrap());
        assert_eq!(names, ["docker.io/library/alpine:3", "r.example:5000/team/app:b"]);
        lists.remove(&list).unwrap();
        assert!(lists.entry(&list, &reference("alpine:3")).unwrap().is_none());
    }

    #[test]
    fn entries_that_are_not_what_they_say_are_refused() {
        let mut changed = entry("a.example/x:1", "amd64");
        changed.raw = BASE64.encode("{}");
        assert!(changed.bytes().unwrap_err().text.contains("is not the manifest sha256:"));
        let failure = document(&[entry("a.example/x:1", "")]).unwrap_err();
        assert!(failure.text.contains("manifest a.example/x:1 must have an OS"), "{}", failure.text);
    }
}
