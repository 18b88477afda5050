//! SLSA provenance, versions 1 and 0.2, with BuildKit's members: what was asked for, what went in, who built.
//!
//! `mode=min` says what and from which materials; `mode=max` also says with which build arguments, labels,
//! secrets (their names), sources and steps. Values of secrets are in neither: they are not in what this
//! module gets.

use super::{Attestation, image_purl};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use yare_errdefs::{Error, Result};
use yare_oci::{Digest, Platform, Reference};

/// Which document is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// SLSA 1.
    #[default]
    V1,
    /// SLSA 0.2, which older tools read.
    V02,
}

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// What can be told to everybody.
    #[default]
    Min,
    /// Everything.
    Max,
}

/// Attributes of `--provenance`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// `version`.
    pub version: Version,
    /// `mode`.
    pub mode: Mode,
    /// `builder-id`.
    pub builder_id: String,
    /// `reproducible`: the user vouches that the build can be repeated.
    pub reproducible: bool,
}

impl Options {
    /// Reads the attributes; `None` when they switch provenance off (`disabled=true`).
    pub fn from_attributes(attributes: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let mut options = Self::default();
        for (key, value) in attributes {
            let bad = |allowed: &str| {
                Error::invalid(format!("invalid provenance {key} {value:?}: must be {allowed}"))
            };
            let switch = || value.parse::<bool>().map_err(|_| bad("true or false"));
            match (key.as_str(), value.as_str()) {
                ("mode", "min") => options.mode = Mode::Min,
                ("mode", "max") => options.mode = Mode::Max,
                ("mode", _) => return Err(bad("min or max")),
                ("version", "v1") => options.version = Version::V1,
                ("version", "v0.2") => options.version = Version::V02,
                ("version", _) => return Err(bad("v1 or v0.2")),
                ("builder-id", id) => options.builder_id = id.to_owned(),
                ("reproducible", _) => options.reproducible = switch()?,
                ("disabled", _) if switch()? => return Ok(None),
                ("disabled" | "inline-only" | "type", _) => {}
                _ => return Err(Error::invalid(format!("unknown provenance attribute {key:?}"))),
            }
        }
        Ok(Some(options))
    }
}

/// Something that went into the build, by address and digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Material {
    /// Package URL of an image, `url#ref` of a repository, address of a download. Without passwords.
    pub uri: String,
    /// Digests by algorithm: `sha256`, `sha1`.
    pub digest: BTreeMap<String, String>,
}

impl Material {
    /// A base image.
    pub fn image(reference: &Reference, platform: &Platform, digest: &Digest) -> Self {
        Self { uri: image_purl(reference, Some(platform)), digest: super::digest_set(digest) }
    }

    /// A repository: [`crate::source::git::GitRef::fragment_form`] and the commit.
    pub fn git(uri: &str, commit: &str) -> Self {
        let algorithm = if commit.len() == 64 { "sha256" } else { "sha1" };
        Self { uri: uri.to_owned(), digest: BTreeMap::from([(algorithm.to_owned(), commit.to_owned())]) }
    }

    /// A download: its redacted address and the digest of its bytes.
    pub fn http(uri: &str, digest: &Digest) -> Self {
        Self { uri: uri.to_owned(), digest: super::digest_set(digest) }
    }
}

/// A secret or SSH agent that steps could use: its name, never its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Named {
    /// `id` of the mount.
    pub id: String,
    /// Whether the build goes on without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// One step, for `mode=max`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Names it within the build.
    pub id: String,
    /// For people.
    pub name: String,
    /// Ids of the steps that it needs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
}

/// What is known of a build.
#[derive(Debug, Clone, Default)]
pub struct Build {
    /// The main context when it is remote.
    pub config_source: Option<Material>,
    /// Path of the Dockerfile.
    pub dockerfile: String,
    /// Frontend attributes: `target`, `build-arg:X`, `label:X`, `context:X` ….
    pub args: BTreeMap<String, String>,
    /// Secrets.
    pub secrets: Vec<Named>,
    /// SSH agents.
    pub ssh: Vec<Named>,
    /// Names of local contexts.
    pub locals: Vec<String>,
    /// What went in.
    pub materials: Vec<Material>,
    /// The steps.
    pub steps: Vec<Step>,
    /// Sources by file name: the Dockerfile.
    pub sources: BTreeMap<String, String>,
    /// `vcs:source`, `vcs:revision` and the like, without prefix.
    pub vcs: BTreeMap<String, String>,
    /// Digests of the layers.
    pub layers: Vec<Digest>,
    /// Platform of the builder.
    pub platform: String,
    /// Whether no step had a network.
    pub hermetic: bool,
    /// RFC 3339; both are left out of a reproducible build.
    pub started: Option<String>,
    /// RFC 3339.
    pub finished: Option<String>,
}

const V1: &str = "https://slsa.dev/provenance/v1";
const V02: &str = "https://slsa.dev/provenance/v0.2";
const BUILD_TYPE_V1: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_V02: &str = "https://mobyproject.org/buildkit@v1";

/// Variables that lead to a proxy; their values tell of the builder's network.
fn is_proxy(key: &str) -> bool {
    let name = key.strip_prefix("build-arg:").unwrap_or_default().to_ascii_lowercase();
    matches!(name.as_str(), "http_proxy" | "https_proxy" | "ftp_proxy" | "no_proxy" | "all_proxy")
}

/// The predicate about a build.
pub fn provenance(build: &Build, options: &Options) -> Attestation {
    let mut build = build.clone();
    // The order in which parallel steps ended must not show.
    build.materials.sort();
    build.materials.dedup();
    build.secrets.sort();
    build.ssh.sort();
    build.locals.sort();
    let private = |key: &str| key.starts_with("build-arg:") || key.starts_with("label:");
    build.args.retain(|key, _| !is_proxy(key) && (options.mode == Mode::Max || !private(key)));
    let (predicate_type, predicate) = match options.version {
        Version::V1 => (V1, v1(&build, options)),
        Version::V02 => (V02, v02(&build, options)),
    };
    Attestation { predicate_type: predicate_type.to_owned(), predicate }
}

fn v1(build: &Build, options: &Options) -> Value {
    let mut internal = Map::new();
    internal.insert("builderPlatform".into(), json!(build.platform));
    let mut metadata = Map::new();
    metadata.insert("invocationID".into(), json!(invocation(build)));
    put(&mut metadata, "startedOn", build.started.as_ref());
    put(&mut metadata, "finishedOn", build.finished.as_ref());
    let complete = complete(build, options);
    let completeness = json!({ "request": complete, "resolvedDependencies": build.locals.is_empty() });
    metadata.insert("buildkit_completeness".into(), completeness);
    metadata.insert("buildkit_hermetic".into(), json!(build.hermetic));
    metadata.insert("buildkit_reproducible".into(), json!(options.reproducible));
    if options.mode == Mode::Max {
        internal.insert("buildConfig".into(), json!({ "steps": build.steps }));
        metadata.insert("buildkit_metadata".into(), details(build));
    }
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE_V1,
            "externalParameters": {
                "configSource": config_source(build, "path"),
                "request": request(build, options),
            },
            "internalParameters": internal,
            "resolvedDependencies": build.materials,
        },
        "runDetails": { "builder": { "id": options.builder_id }, "metadata": metadata },
    })
}

fn v02(build: &Build, options: &Options) -> Value {
    let mut metadata = Map::new();
    metadata.insert("buildInvocationID".into(), json!(invocation(build)));
    put(&mut metadata, "buildStartedOn", build.started.as_ref());
    put(&mut metadata, "buildFinishedOn", build.finished.as_ref());
    let complete = complete(build, options);
    let completeness =
        json!({ "parameters": complete, "environment": true, "materials": build.locals.is_empty() });
    metadata.insert("completeness".into(), completeness);
    metadata.insert("reproducible".into(), json!(options.reproducible));
    metadata.insert(format!("{BUILD_TYPE_V02}#hermetic"), json!(build.hermetic));
    let mut predicate = json!({
        "builder": { "id": options.builder_id },
        "buildType": BUILD_TYPE_V02,
        "materials": build.materials,
        "invocation": {
            "configSource": config_source(build, "entryPoint"),
            "parameters": request(build, options),
            "environment": { "platform": build.platform },
        },
    });
    if options.mode == Mode::Max {
        metadata.insert(format!("{BUILD_TYPE_V02}#metadata"), details(build));
        predicate["buildConfig"] = json!({ "steps": build.steps });
    }
    predicate["metadata"] = Value::Object(metadata);
    predicate
}

/// Stands for the invocation and is the same for the same build.
fn invocation(build: &Build) -> String {
    let steps: Vec<&str> = build.steps.iter().map(|step| step.id.as_str()).collect();
    let known =
        json!([build.args, build.materials, steps, build.layers.iter().map(Digest::hex).collect::<Vec<_>>()]);
    Digest::of(known.to_string()).hex()[..25].to_owned()
}

/// Whether all that was asked for is said.
fn complete(build: &Build, options: &Options) -> bool {
    options.mode == Mode::Max && build.config_source.is_some()
}

fn put(map: &mut Map<String, Value>, key: &str, value: Option<&String>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), json!(value));
    }
}

fn config_source(build: &Build, path: &str) -> Value {
    let mut source = match &build.config_source {
        Some(material) => json!(material),
        None => json!({}),
    };
    source[path] = json!(build.dockerfile);
    source
}

fn request(build: &Build, options: &Options) -> Value {
    let mut request = json!({ "frontend": "dockerfile.v0" });
    if !build.args.is_empty() {
        request["args"] = json!(build.args);
    }
    if !build.locals.is_empty() {
        request["locals"] = build.locals.iter().map(|name| json!({ "name": name })).collect();
    }
    if options.mode == Mode::Max {
        for (key, names) in [("secrets", &build.secrets), ("ssh", &build.ssh)] {
            if !names.is_empty() {
                request[key] = json!(names);
            }
        }
    }
    request
}

/// Sources, layers and version control, for `mode=max`.
fn details(build: &Build) -> Value {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let infos: Vec<Value> = build
        .sources
        .iter()
        .map(|(name, text)| json!({ "filename": name, "language": "Dockerfile", "data": encode(text) }))
        .collect();
    let layers: Vec<String> = build.layers.iter().map(Digest::to_string).collect();
    json!({ "vcs": build.vcs, "source": { "infos": infos }, "layers": layers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> Build {
        let args =
            [("target", "app"), ("build-arg:TOKEN_NAME", "x"), ("build-arg:HTTPS_PROXY", "http://me:pw@p")];
        let base = Reference::parse("alpine:3.20").unwrap();
        Build {
            config_source: Some(Material::git("https://h/a.git#v1", &"1".repeat(40))),
            dockerfile: "Dockerfile".into(),
            args: args.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            secrets: vec![Named { id: "npm".into(), optional: true }],
            materials: vec![
                Material::image(&base, &Platform::new("linux", "amd64", ""), &Digest::of("a")),
                Material::http("https://h/x.tgz", &Digest::of("b")),
                Material::http("https://h/x.tgz", &Digest::of("b")),
            ],
            steps: vec![Step { id: "s1".into(), name: "RUN make".into(), inputs: Vec::new() }],
            sources: BTreeMap::from([("Dockerfile".into(), "FROM alpine".into())]),
            platform: "linux/amd64".into(),
            ..Build::default()
        }
    }

    fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn attributes_choose_version_and_mode() {
        let read = |pairs: &[(&str, &str)]| Options::from_attributes(&attributes(pairs));
        assert_eq!(read(&[]).unwrap(), Some(Options::default()));
        let max =
            read(&[("mode", "max"), ("version", "v0.2"), ("builder-id", "me"), ("inline-only", "true")]);
        let max = max.unwrap().unwrap();
        assert_eq!((max.mode, max.version, max.builder_id.as_str()), (Mode::Max, Version::V02, "me"));
        assert_eq!(read(&[("disabled", "true")]).unwrap(), None);
        for bad in [("mode", "all"), ("version", "v2"), ("reproducible", "maybe"), ("modus", "max")] {
            assert!(read(&[bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn both_versions_have_what_slsa_requires() {
        let made = provenance(&build(), &Options { mode: Mode::Max, ..Options::default() });
        assert_eq!(made.predicate_type, "https://slsa.dev/provenance/v1");
        let definition = &made.predicate["buildDefinition"];
        assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
        assert_eq!(definition["externalParameters"]["request"]["args"]["build-arg:TOKEN_NAME"], "x");
        assert_eq!(definition["externalParameters"]["request"]["secrets"][0]["id"], "npm");
        assert_eq!(definition["resolvedDependencies"].as_array().unwrap().len(), 2, "each once");
        assert_eq!(
            definition["resolvedDependencies"][1]["uri"],
            "pkg:docker/alpine@3.20?platform=linux%2Famd64"
        );
        assert!(
            made.predicate["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"][0]["data"]
                .is_string()
        );
        let old = provenance(&build(), &Options { version: Version::V02, ..Options::default() });
        assert_eq!(old.predicate_type, "https://slsa.dev/provenance/v0.2");
        assert_eq!(old.predicate["invocation"]["configSource"]["digest"]["sha1"], "1".repeat(40));
        assert_eq!(old.predicate["invocation"]["environment"]["platform"], "linux/amd64");
        assert_eq!(old.predicate["buildConfig"], Value::Null);
    }

    #[test]
    fn nothing_private_is_in_the_small_form_and_proxies_are_in_none() {
        for (mode, version) in [(Mode::Min, Version::V1), (Mode::Min, Version::V02), (Mode::Max, Version::V1)]
        {
            let made = provenance(&build(), &Options { mode, version, ..Options::default() });
            let text = made.predicate.to_string();
            assert!(!text.contains("me:pw"), "{text}");
            assert_eq!(text.contains("TOKEN_NAME"), mode == Mode::Max, "{text}");
            assert!(text.contains("\"target\":\"app\""));
        }
    }

    #[test]
    fn the_order_of_materials_does_not_show() {
        let mut turned = build();
        turned.materials.reverse();
        assert_eq!(provenance(&build(), &Options::default()), provenance(&turned, &Options::default()));
    }
}
