//! Sources become one document. It is decided by their bytes and the flags alone, so that the same command gives
//! the same digest, here and with Docker's Buildx.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use yare_oci::{Descriptor, Digest, MediaType, Platform, Reference};

use super::attestation;
use super::source::Found;
use crate::commands::remote::read;
use crate::failure::Failure;
use crate::format::Json;
use crate::opts::annotation::Annotation;
use crate::opts::quote;

/// What is wanted of the result.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    /// What is noted in it.
    pub annotations: Vec<Annotation>,
    /// One image becomes an index of one, too.
    pub prefer_index: bool,
    /// What it is for; empty for all.
    pub platforms: Vec<Platform>,
}

/// The result.
#[derive(Debug)]
pub(super) struct Combined {
    /// Its kind.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What has to be in its repository before it, or it alone: each with where it is.
    pub members: Vec<(Digest, Reference)>,
}

/// An index in the order of members that Go's programs write.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    manifests: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Document {
    fn text(&self) -> Vec<u8> {
        Json::of(self).pretty_escaped("  ").into_bytes()
    }
}

/// Puts sources together.
///
/// # Errors
/// When one is not what it says, or the result cannot be what is wanted.
pub(super) fn combine(sources: &[Found], wishes: &Wishes) -> Result<Combined, Failure> {
    match sources {
        [index] if index.is_index() && wishes.annotations.is_empty() => same_index(index, &wishes.platforms),
        [image] if !image.is_index() && wishes.annotations.is_empty() && !wishes.prefer_index => {
            same_image(image, &wishes.platforms)
        }
        _ => new_index(sources, wishes),
    }
}

/// An index as it is, byte for byte, unless something of it is not wanted.
fn same_index(index: &Found, platforms: &[Platform]) -> Result<Combined, Failure> {
    let mut document: Document = read("index", &index.place, &index.bytes)?;
    let was_cut = cut(&mut document, platforms)?;
    let bytes = if was_cut { document.text() } else { index.bytes.clone() };
    let members = document.manifests.iter().map(|member| (member.digest, index.place.clone())).collect();
    Ok(Combined { media_type: index.descriptor.media_type.clone(), bytes, members })
}

/// An image as it is.
fn same_image(image: &Found, platforms: &[Platform]) -> Result<Combined, Failure> {
    let descriptor = &image.descriptor;
    if let Some(own) = descriptor.platform.as_ref().filter(|own| !fits(own, platforms)) {
        let text = format!("input platform {own} does not match any of the provided platforms");
        return Err(Failure::new(text));
    }
    Ok(Combined {
        media_type: descriptor.media_type.clone(),
        bytes: image.bytes.clone(),
        members: vec![(descriptor.digest, image.place.clone())],
    })
}

/// An index of all sources and of the members of those that are indexes.
fn new_index(sources: &[Found], wishes: &Wishes) -> Result<Combined, Failure> {
    let mut members = Members::default();
    for source in sources {
        if source.is_index() {
            let document: Document = read("index", &source.place, &source.bytes)?;
            document.manifests.into_iter().for_each(|member| members.add(member, &source.place));
        } else {
            members.add(source.descriptor.clone(), &source.place);
        }
    }
    let mut document = Document {
        schema_version: 2,
        media_type: kind_of(&members.descriptors).to_owned(),
        artifact_type: None,
        manifests: members.descriptors,
        subject: None,
        annotations: BTreeMap::new(),
    };
    annotate(&mut document, &wishes.annotations)?;
    cut(&mut document, &wishes.platforms)?;
    let placed = |member: &Descriptor| Some((member.digest, members.places.get(&member.digest)?.1.clone()));
    Ok(Combined {
        bytes: document.text(),
        members: document.manifests.iter().filter_map(placed).collect(),
        media_type: document.media_type,
    })
}

/// Descriptors in the order in which they came, each digest once.
#[derive(Default)]
struct Members {
    descriptors: Vec<Descriptor>,
    /// Which descriptor it is, and where it came from first.
    places: BTreeMap<Digest, (usize, Reference)>,
}

impl Members {
    /// What is said of a digest later is said of it in addition, or instead.
    fn add(&mut self, descriptor: Descriptor, place: &Reference) {
        if let Some((at, _)) = self.places.get(&descriptor.digest) {
            let known = &mut self.descriptors[*at];
            if known.media_type.is_empty() {
                known.media_type = descriptor.media_type;
            }
            known.platform = descriptor.platform.or_else(|| known.platform.take());
            known.annotations.extend(descriptor.annotations);
            return;
        }
        self.places.insert(descriptor.digest, (self.descriptors.len(), place.clone()));
        self.descriptors.push(descriptor);
    }
}

/// Docker's list, where all members have Docker's form.
fn kind_of(members: &[Descriptor]) -> &'static str {
    let is_docker = |member: &Descriptor| member.media_type.starts_with("application/vnd.docker.");
    if members.iter().all(is_docker) { MediaType::DOCKER_LIST } else { MediaType::OCI_INDEX }
}

/// Notes what is to be noted. What is for one platform is instead of what is for all; a list in Docker's form has
/// no place for any of it.
fn annotate(document: &mut Document, annotations: &[Annotation]) -> Result<(), Failure> {
    if document.media_type == MediaType::DOCKER_LIST {
        return Ok(());
    }
    let (special, general): (Vec<_>, Vec<_>) =
        annotations.iter().partition(|annotation| annotation.platform().is_some());
    for annotation in general.into_iter().chain(special) {
        let Annotation { kind, key, value, .. } = annotation;
        match kind.as_str() {
            "index" => drop(document.annotations.insert(key.clone(), value.clone())),
            "manifest-descriptor" => {
                let wanted = annotation.platform();
                for member in &mut document.manifests {
                    let own = member.platform.as_ref();
                    if wanted.as_ref().is_none_or(|wanted| own.is_some_and(|own| own.is_exactly(wanted))) {
                        member.annotations.insert(key.clone(), value.clone());
                    }
                }
            }
            "index-descriptor" => {
                let text = format!("{} annotations are invalid while creating an image", quote(kind));
                return Err(Failure::new(text));
            }
            _ => return Err(Failure::new(format!("{} annotations are not supported yet", quote(kind)))),
        }
    }
    Ok(())
}

fn fits(own: &Platform, platforms: &[Platform]) -> bool {
    platforms.is_empty() || platforms.iter().any(|wanted| own.is_exactly(wanted))
}

/// Takes out what is for other platforms; whether there was any. What is for none stays, and an image's
/// attestations stay with it.
fn cut(document: &mut Document, platforms: &[Platform]) -> Result<bool, Failure> {
    let members = &mut document.manifests;
    if platforms.is_empty() || members.is_empty() {
        return Ok(false);
    }
    let is_wanted = |member: &&Descriptor| member.platform.as_ref().is_none_or(|own| fits(own, platforms));
    let images: BTreeSet<Digest> = members.iter().filter(is_wanted).map(|member| member.digest).collect();
    let speaks = |member: &&Descriptor| attestation::subject(member).is_some_and(|of| images.contains(&of));
    let mut kept: BTreeSet<Digest> = members.iter().filter(speaks).map(|member| member.digest).collect();
    kept.extend(images);
    if kept.is_empty() {
        return Err("none of the manifests match the provided platforms".into());
    }
    let before = members.len();
    members.retain(|member| kept.contains(&member.digest));
    Ok(members.len() < before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opts::annotation;

    const A: &str = "aeb6ffbb198b9b92f3399d48cfca2c1cebbf4fbb76513088749623093a344b05";
    const B: &str = "1a456aa8eb92cc595a4a036bc480500e54dfaec9423b92bcec1107e6f1345944";
    const OF_B: &str = "138adb6af20645e14e65b448e9e22e74da84640a8acccc13c2b1419ec240ce8d";

    fn member(digest: &str, platform: &str) -> String {
        let parts: Vec<&str> = platform.split('/').collect();
        let variant = parts.get(2).map_or(String::new(), |variant| format!(r#","variant":"{variant}""#));
        let platform = match parts.as_slice() {
            [os, architecture, ..] => {
                format!(r#","platform":{{"architecture":"{architecture}","os":"{os}"{variant}}}"#)
            }
            _ => String::new(),
        };
        let kind = MediaType::OCI_MANIFEST;
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{digest}","size":417{platform}}}"#)
    }

    fn attestation(of: &str) -> String {
        let notes = format!(
            r#""annotations":{{"vnd.docker.reference.digest":"sha256:{of}","vnd.docker.reference.type":"attestation-manifest"}}"#
        );
        member(OF_B, "unknown/unknown").replacen(r#""platform""#, &format!(r#"{notes},"platform""#), 1)
    }

    fn place(tag: &str) -> Reference {
        Reference::parse(&format!("r.io/c:{tag}")).unwrap()
    }

    fn image(tag: &str, descriptor: &str) -> Found {
        Found {
            place: place(tag),
            descriptor: serde_json::from_str(descriptor).unwrap(),
            bytes: format!("{{\"{tag}\": 1}}").into_bytes(),
        }
    }

    fn index(tag: &str, members: &[String], more: &str) -> Found {
        let kind = MediaType::OCI_INDEX;
        let bytes = format!(
            r#"{{"schemaVersion": 2, "mediaType": "{kind}", "manifests": [{}]{more}}}"#,
            members.join(", ")
        );
        let bytes = bytes.into_bytes();
        Found { place: place(tag), descriptor: Descriptor::of(kind, &bytes), bytes }
    }

    fn wishes(annotations: &[&str], platforms: &[&str]) -> Wishes {
        Wishes {
            annotations: annotations.iter().flat_map(|text| annotation::parse(text).unwrap()).collect(),
            prefer_index: true,
            platforms: platforms.iter().map(|text| Platform::parse(text).unwrap()).collect(),
        }
    }

    /// The result without white space, and with short digests.
    fn shown(sources: &[Found], wishes: &Wishes) -> String {
        match combine(sources, wishes) {
            Ok(combined) => {
                let mut text = serde_json::from_slice::<Json>(&combined.bytes).unwrap().compact();
                for (digest, short) in [(A, "a"), (B, "b"), (OF_B, "of b")] {
                    text = text.replace(&format!("sha256:{digest}"), short);
                }
                text.replace(MediaType::OCI_MANIFEST, "image").replace(MediaType::OCI_INDEX, "index")
            }
            Err(failure) => failure.text,
        }
    }

    /// Byte for byte what `docker buildx imagetools create --dry-run` 0.29 printed.
    #[test]
    fn an_index_of_images_is_buildxs() {
        let sources = [image("amd64", &member(A, "linux/amd64")), image("armv7", &member(B, "linux/arm/v7"))];
        let combined = combine(&sources, &wishes(&["index,manifest-descriptor:a=b<&>"], &[])).unwrap();
        let expected = r#"{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [
    {
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "digest": "sha256:aeb6ffbb198b9b92f3399d48cfca2c1cebbf4fbb76513088749623093a344b05",
      "size": 417,
      "annotations": {
        "a": "b\u003c\u0026\u003e"
      },
      "platform": {
        "architecture": "amd64",
        "os": "linux"
      }
    },
    {
      "mediaType": "application/vnd.oci.image.manifest.v1+json",
      "digest": "sha256:1a456aa8eb92cc595a4a036bc480500e54dfaec9423b92bcec1107e6f1345944",
      "size": 417,
      "annotations": {
        "a": "b\u003c\u0026\u003e"
      },
      "platform": {
        "architecture": "arm",
        "os": "linux",
        "variant": "v7"
      }
    }
  ],
  "annotations": {
    "a": "b\u003c\u0026\u003e"
  }
}"#;
        assert_eq!(String::from_utf8(combined.bytes).unwrap(), expected);
        let places: Vec<String> = combined.members.iter().map(|(_, place)| place.to_string()).collect();
        assert_eq!(places, ["r.io/c:amd64", "r.io/c:armv7"]);
    }

    #[test]
    fn what_is_named_alone_stays_as_it_is() {
        let two = [member(A, "linux/amd64"), member(B, "linux/arm64/v8")];
        let sources = [index("two", &two, r#", "annotations": {"z": "1"}, "unknown": 1"#)];
        for platforms in [&[] as &[&str], &["linux/arm64", "linux/amd64"]] {
            let same = combine(&sources, &wishes(&[], platforms)).unwrap();
            assert_eq!((same.bytes, same.members.len()), (sources[0].bytes.clone(), 2));
        }
        let sources = [image("amd64", &member(A, "linux/amd64"))];
        let copy = Wishes { prefer_index: false, ..wishes(&[], &["linux/amd64"]) };
        let same = combine(&sources, &copy).unwrap();
        assert_eq!((same.bytes, &*same.media_type), (sources[0].bytes.clone(), MediaType::OCI_MANIFEST));
        let other = Wishes { prefer_index: false, ..wishes(&[], &["linux/arm64"]) };
        let why = "input platform linux/amd64 does not match any of the provided platforms";
        assert_eq!(shown(&sources, &other), why);
        // A note makes it an index all the same.
        let noted = Wishes { prefer_index: false, ..wishes(&["index:a=b"], &[]) };
        assert!(shown(&sources, &noted).ends_with(r#"],"annotations":{"a":"b"}}"#));
    }

    #[test]
    fn members_are_merged_by_digest() {
        let first = [member(A, "linux/amd64"), member(B, "linux/arm64")];
        let notes = |name: &str| format!(r#""annotations":{{"{name}":"1","both":"{name}"}},"platform""#);
        let first = first.map(|member| member.replacen(r#""platform""#, &notes("x"), 1));
        let again = member(A, "linux/riscv64").replacen(r#""platform""#, &notes("y"), 1);
        let sources = [index("first", &first, r#", "annotations": {"gone": "1"}"#), image("again", &again)];
        let expected = concat!(
            r#"{"schemaVersion":2,"mediaType":"index","manifests":[{"mediaType":"image","digest":"a","size":417,"#,
            r#""annotations":{"both":"y","x":"1","y":"1"},"platform":{"architecture":"riscv64","os":"linux"}},"#,
            r#"{"mediaType":"image","digest":"b","size":417,"annotations":{"both":"x","x":"1"},"#,
            r#""platform":{"architecture":"arm64","os":"linux"}}]}"#,
        );
        assert_eq!(shown(&sources, &wishes(&[], &[])), expected);
        let docker = member(A, "linux/amd64").replace(MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST);
        let combined = combine(&[image("docker", &docker)], &wishes(&["a=b"], &[])).unwrap();
        assert_eq!(combined.media_type, MediaType::DOCKER_LIST);
        assert!(!String::from_utf8(combined.bytes).unwrap().contains("annotations"));
    }

    #[test]
    fn platforms_that_are_not_wanted_go_with_their_attestations() {
        let members = [member(A, "linux/amd64"), member(B, "linux/arm64/v8"), attestation(B)];
        let sources = [index(
            "all",
            &members,
            r#", "subject": {"mediaType": "x", "digest": "sha256:aeb6ffbb198b9b92f3399d48cfca2c1cebbf4fbb76513088749623093a344b05", "size": 1}, "artifactType": "y""#,
        )];
        let only = |platform: &str| shown(&sources, &wishes(&[], &[platform]));
        let arm = only("linux/arm64");
        assert!(arm.starts_with(r#"{"schemaVersion":2,"mediaType":"index","artifactType":"y","manifests":[{"mediaType":"image","digest":"b""#), "{arm}");
        assert!(
            arm.contains(r#""digest":"of b""#)
                && arm.ends_with(r#"],"subject":{"mediaType":"x","digest":"a","size":1}}"#),
            "{arm}"
        );
        let amd = only("linux/amd64");
        assert!(amd.contains(r#""digest":"a""#) && !amd.contains("of b"), "{amd}");
        assert_eq!(only("linux/s390x"), "none of the manifests match the provided platforms");
        // One that is for no platform is for all.
        let bare = [index("bare", &[member(A, ""), member(B, "linux/arm64")], "")];
        let kept = shown(&bare, &wishes(&[], &["linux/s390x"]));
        assert!(kept.contains(r#""digest":"a""#) && !kept.contains(r#""digest":"b""#), "{kept}");
    }

    #[test]
    fn notes_are_for_the_index_or_its_members() {
        let members = [member(A, "linux/amd64"), member(B, "linux/arm64/v8"), attestation(B)];
        let noted = |texts: &[&str]| shown(&[index("all", &members, "")], &wishes(texts, &[]));
        let special = noted(&["manifest-descriptor[linux/arm64]:k=special", "manifest-descriptor:k=general"]);
        assert_eq!(special.matches(r#""k":"general""#).count(), 2, "{special}");
        assert!(special.contains(r#""digest":"b","size":417,"annotations":{"k":"special"}"#), "{special}");
        for (text, why) in [
            ("a=b", "\"\" annotations are not supported yet"),
            ("manifest:a=b", "\"manifest\" annotations are not supported yet"),
            ("index-descriptor:a=b", "\"index-descriptor\" annotations are invalid while creating an image"),
        ] {
            assert_eq!(noted(&[text]), why);
        }
    }
}
