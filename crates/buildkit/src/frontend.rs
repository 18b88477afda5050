//! What a client asks of the Dockerfile frontend, as a [`BuildRequest`]. Pure.

use crate::cache;
use crate::layout::LayoutImage;
use std::collections::BTreeMap;
use yare_api::build::BuildRequest;
use yare_build::request::ContextSource;
use yare_build::syntax::{Foreign, is_stock};
use yare_errdefs::{Error, Result};
use yare_oci::Reference;

/// Options of a frontend or a solve.
pub(crate) type Options = BTreeMap<String, String>;

/// A request as the wire has it.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// The options that the build engine knows.
    pub(crate) request: BuildRequest,
    /// Where named contexts are.
    pub(crate) sources: BTreeMap<String, ContextSource>,
    /// The main context.
    pub(crate) context: Place,
    /// What the client calls the folder with the Dockerfile, when it is not in the main context.
    pub(crate) dockerfile_dir: Option<String>,
    /// Sessions that have folders which the build's own session has not, by the folder's name.
    pub(crate) sessions: BTreeMap<String, String>,
    /// Named contexts that are results of other builds: the input's name in the request.
    pub(crate) inputs: BTreeMap<String, String>,
    /// Named contexts that are images in the client's OCI layouts.
    pub(crate) layouts: BTreeMap<String, LayoutImage>,
    /// Something else than a build.
    pub(crate) call: Option<String>,
    /// Kinds of places from which no cache can be read here.
    pub(crate) unknown_caches: Vec<String>,
    /// Options that have no effect here, and why.
    pub(crate) notes: Vec<String>,
}

/// Where files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder that the client sends under this name.
    Client(String),
    /// A stream that the client uploads: a tar.
    Upload(String),
    /// A git repository.
    Git(String),
    /// A tar or a Dockerfile on the web.
    Web(String),
}

impl Default for Place {
    fn default() -> Self {
        Self::Client("context".to_owned())
    }
}

/// Where clients put streams that they upload.
const UPLOADS: &str = "http://buildkit-session/";

/// Reads the options of `dockerfile.v0`.
///
/// # Errors
/// An option is not understood or not built: it would change what comes out.
pub(crate) fn parse(options: &Options, entitlements: &[String]) -> Result<Asked> {
    let mut asked = Asked::default();
    asked.request.allow = entitlements.to_vec();
    // The main context's name may be given behind its place.
    if let Some(key) = options.get("contextkey") {
        asked.context = Place::Client(key.clone());
    }
    for (name, value) in options {
        option(&mut asked, options, (name, value))?;
    }
    if asked.request.platforms.len() > 1 && !asked.layouts.is_empty() {
        return Err(Error::unimplemented(
            "a context from an OCI layout serves no more than one platform in this Yare yet",
        )
        .with_hint("build for one platform at a time, or take the context from a registry"));
    }
    let from_client = matches!(asked.context, Place::Client(_));
    if from_client && asked.dockerfile_dir.is_none() {
        asked.dockerfile_dir = Some("dockerfile".to_owned());
    }
    Ok(asked)
}

fn option(asked: &mut Asked, options: &Options, (name, value): (&str, &str)) -> Result<()> {
    let request = &mut asked.request;
    let list = || value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned);
    match name {
        "filename" => request.dockerfile = value.to_owned(),
        "target" => request.target = value.to_owned(),
        "platform" => request.platforms = list().collect(),
        "no-cache" if value.is_empty() => request.no_cache = true,
        "no-cache" => request.no_cache_filter = list().collect(),
        "image-resolve-mode" => request.pull = value == "pull",
        "add-hosts" => request.extra_hosts = list().map(|host| host.replacen('=', ":", 1)).collect(),
        "force-network-mode" => {
            request.network_mode = if value == "sandbox" { String::new() } else { value.to_owned() }
        }
        "shm-size" => {
            request.shm_size =
                value.parse().map_err(|_| Error::invalid(format!("invalid shm-size {value:?}: bytes")))?
        }
        "ulimit" => request.ulimits = list().collect(),
        "cgroup-parent" => request.cgroup_parent = value.to_owned(),
        "context" => asked.context = place(value),
        "dockerfilekey" => asked.dockerfile_dir = Some(value.to_owned()),
        "cache-imports" => {
            let (used, others) = cache::usable(cache::imports(value)?);
            request.cache_from.extend(used);
            asked.unknown_caches.extend(others);
        }
        // Older clients say it in both ways.
        "cache-from" if !options.contains_key("cache-imports") => {
            request.cache_from.extend(cache::references(value));
        }
        "build-arg:BUILDKIT_INLINE_CACHE" if matches!(value, "1" | "true") => {
            request.cache_to.push(cache::entry("inline", &BTreeMap::new()));
        }
        "requestid" => asked.call = Some(value.to_owned()),
        // Read elsewhere, about what clients keep for themselves, or true anyway.
        "contextkey"
        | "frontend.caps"
        | "multi-platform"
        | "source"
        | "cmdline"
        | "cache-from"
        | "build-arg:BUILDKIT_INLINE_CACHE"
        | "build-arg:BUILDKIT_SYNTAX"
        | "input-metadata" => {}
        "hostname" => asked.notes.push("the host name of steps cannot be set in this Yare yet".to_owned()),
        _ => return prefixed(asked, name, value),
    }
    Ok(())
}

fn prefixed(asked: &mut Asked, name: &str, value: &str) -> Result<()> {
    let request = &mut asked.request;
    match name.split_once(':') {
        Some(("build-arg", key)) => {
            request.build_args.insert(key.to_owned(), Some(value.to_owned()));
        }
        Some(("label", key)) => {
            request.labels.insert(key.to_owned(), value.to_owned());
        }
        Some(("context", key)) => {
            // A platform may follow; the same source serves all.
            let key = key.split("::").next().unwrap_or(key);
            if let Some(input) = value.strip_prefix("input:") {
                asked.inputs.insert(key.to_owned(), input.to_owned());
            } else if let Some(image) = value.strip_prefix("oci-layout://") {
                asked.layouts.insert(key.to_owned(), LayoutImage::parse(image)?);
            } else {
                asked.sources.insert(key.to_owned(), named_context(key, value)?);
            }
        }
        Some(("attest", kind)) => {
            request.attest.insert(kind.to_owned(), attributes(kind, value)?);
        }
        Some(("local-sessionid", key)) => {
            asked.sessions.insert(key.to_owned(), value.to_owned());
        }
        // What the client knows of its repository is for attestations.
        Some(("vcs" | "input-metadata", _)) => {}
        _ => {
            return Err(Error::unimplemented(format!(
                "the build option {name:?} is not built into this Yare yet"
            )));
        }
    }
    Ok(())
}

/// `mode=max,version=v1`.
fn attributes(kind: &str, value: &str) -> Result<BTreeMap<String, String>> {
    let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pair = |part: &str| match part.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!("invalid attribute {part:?} of the attestation {kind}"))),
    };
    parts.map(pair).collect()
}

fn place(value: &str) -> Place {
    if let Some(id) = value.strip_prefix(UPLOADS) {
        return Place::Upload(id.to_owned());
    }
    let path = value.split(['#', '?']).next().unwrap_or_default();
    let web = value.starts_with("http://") || value.starts_with("https://");
    if web && !path.ends_with(".git") { Place::Web(value.to_owned()) } else { Place::Git(value.to_owned()) }
}

fn named_context(key: &str, value: &str) -> Result<ContextSource> {
    if let Some(name) = value.strip_prefix("docker-image://") {
        let reference = Reference::parse(name).map_err(|error| Error::invalid(error.to_string()))?;
        return Ok(ContextSource::Image(reference.or_latest()));
    }
    if value.starts_with("local:") {
        return Ok(ContextSource::Folder);
    }
    Ok(match place(value) {
        Place::Web(url) => ContextSource::Http(url),
        Place::Git(remote) => ContextSource::Git(remote),
        _ => return Err(Error::invalid(format!("the build context {key} is at no known place: {value}"))),
    })
}

/// Who understands what is to be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frontend<'a> {
    /// This engine: the Dockerfile's stock frontend.
    Stock,
    /// A program in this image.
    Program(&'a str),
}

/// The frontend that a request names.
///
/// # Errors
/// There is none of this name.
pub(crate) fn named<'a>(frontend: &str, options: &'a Options) -> Result<Frontend<'a>> {
    match frontend {
        "dockerfile.v0" => Ok(Frontend::Stock),
        "gateway.v0" => {
            let source = options.get("source").map(String::as_str).unwrap_or_default();
            match source {
                "" => Err(Error::invalid("no source specified for gateway")),
                source if is_stock(source) => Ok(Frontend::Stock),
                source => Ok(Frontend::Program(source)),
            }
        }
        other => Err(Error::not_found(format!("frontend {other} not found"))),
    }
}

/// The program that the stock frontend hands its work to, when it is asked to or its file is for that one. Who
/// says in which words it was called has chosen already.
pub(crate) fn forwarded(options: &Options, dockerfile: &[u8]) -> Option<Foreign> {
    if options.contains_key("cmdline") {
        return None;
    }
    match options.get("build-arg:BUILDKIT_SYNTAX") {
        Some(cmdline) => Foreign::of(cmdline),
        None => Foreign::of_file(dockerfile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rows: &[(&str, &str)]) -> Options {
        rows.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_become_a_request() {
        let asked = parse(
            &options(&[
                ("filename", "Dockerfile.x"),
                ("build-arg:A", "b"),
                ("label:x", "y"),
                ("no-cache", "one,two"),
                ("add-hosts", "a=1.2.3.4,b=::1"),
                ("ulimit", "nofile=1:2"),
                ("platform", "linux/amd64"),
                ("image-resolve-mode", "pull"),
                ("force-network-mode", "sandbox"),
                ("context:base", "docker-image://busybox"),
                ("context:files", "local:files"),
                ("vcs:revision", "x"),
                ("cache-from", "one,two"),
                ("build-arg:BUILDKIT_INLINE_CACHE", "1"),
            ]),
            &["network.host".to_owned(), "device=vendor.com/class".to_owned()],
        )
        .expect("understood");
        let request = &asked.request;
        assert_eq!(request.dockerfile, "Dockerfile.x");
        assert_eq!(request.build_args["A"].as_deref(), Some("b"));
        assert_eq!(request.no_cache_filter, ["one", "two"]);
        assert!(!request.no_cache && request.pull && request.network_mode.is_empty());
        assert_eq!(request.extra_hosts, ["a:1.2.3.4", "b:::1"]);
        assert_eq!(request.allow, ["network.host", "device=vendor.com/class"]);
        assert_eq!(
            (request.cache_from[1]["ref"].as_str(), request.cache_to[0]["type"].as_str()),
            ("two", "inline")
        );
        assert_eq!(asked.sources["files"], ContextSource::Folder);
        assert!(
            matches!(&asked.sources["base"], ContextSource::Image(name) if name.familiar() == "busybox:latest")
        );
        assert_eq!((asked.context, asked.dockerfile_dir.as_deref()), (Place::default(), Some("dockerfile")));
    }

    #[test]
    fn contexts_are_in_many_places() {
        let context = |value: &str| parse(&options(&[("context", value)]), &[]).expect("understood").context;
        assert_eq!(context("http://buildkit-session/abc"), Place::Upload("abc".to_owned()));
        assert_eq!(context("https://x/y.tar.gz"), Place::Web("https://x/y.tar.gz".to_owned()));
        assert_eq!(context("https://x/y.git#main"), Place::Git("https://x/y.git#main".to_owned()));
    }

    #[test]
    fn attestations_come_with_their_attributes() {
        let rows = [("attest:sbom", ""), ("attest:provenance", "mode=max,inline-only=true")];
        let asked = parse(&options(&rows), &[]).expect("understood").request;
        assert!(asked.attest["sbom"].is_empty());
        assert_eq!(asked.attest["provenance"]["mode"], "max");
        assert_eq!(asked.attest["provenance"]["inline-only"], "true");
        let layout = format!("oci-layout://s/a@{}", yare_oci::Digest::of("a"));
        let rows = [("platform", "linux/amd64,linux/arm64"), ("context:a", layout.as_str())];
        let error = parse(&options(&rows), &[]).expect_err("one platform alone");
        assert!(error.to_string().contains("no more than one platform"), "{error}");
    }

    #[test]
    fn what_would_change_the_result_is_refused() {
        for row in [("attest:sbom", "what"), ("context:a", "oci-layout://a"), ("new-option", "1")] {
            assert!(parse(&options(&[row]), &[]).is_err(), "{row:?}");
        }
    }

    #[test]
    fn frontends_are_this_engine_or_programs() {
        let source = |source: &str| options(&[("source", source)]);
        assert_eq!(named("dockerfile.v0", &Options::new()).expect("known"), Frontend::Stock);
        assert_eq!(named("gateway.v0", &source("docker/dockerfile:1.7")).expect("known"), Frontend::Stock);
        let other = source("other/frontend");
        assert_eq!(named("gateway.v0", &other).expect("known"), Frontend::Program("other/frontend"));
        assert!(named("gateway.v0", &Options::new()).is_err());
        assert!(named("other.v0", &Options::new()).is_err());
        let file = b"# syntax=other/frontend\n";
        assert!(forwarded(&Options::new(), file).is_some());
        assert_eq!(forwarded(&options(&[("cmdline", "x")]), file), None, "whoever forwards has chosen");
        let stock = options(&[("build-arg:BUILDKIT_SYNTAX", "docker/dockerfile:1")]);
        assert_eq!(forwarded(&stock, file), None);
    }
}
