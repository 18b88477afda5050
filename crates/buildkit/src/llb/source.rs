//! Where files come from.

use super::{Assembly, Operation};
use crate::layout::LayoutImage;
use crate::proto::Platform as WirePlatform;
use crate::proto::graph::SourceOp;
use std::collections::BTreeMap;
use yare_build::definition::Does;
use yare_build::graph::{CopyDefinition, CopyOp, CopySource, FetchOp, Op, VertexId};
use yare_build::source::git::GitKeys;
use yare_errdefs::{Error, Result};
use yare_oci::path::clean;
use yare_oci::{Digest, Platform, Reference};

/// A folder that a client sends.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Local {
    /// What the client calls it.
    pub(crate) dir: String,
    /// Patterns of what is wanted; without any, all.
    pub(crate) include: Vec<String>,
    /// Patterns of what is not.
    pub(crate) exclude: Vec<String>,
    /// Paths that are wanted wherever their links lead.
    pub(crate) follow: Vec<String>,
    /// The session that has it; empty for the build's own.
    pub(crate) session: String,
}

impl Assembly {
    pub(super) fn source(&mut self, operation: &Operation<'_>, source: &SourceOp) -> Result<VertexId> {
        if !operation.inputs.is_empty() {
            return Err(Error::invalid("invalid definition: a source has no inputs"));
        }
        let identifier = source.identifier.as_str();
        let (scheme, rest) = identifier
            .split_once("://")
            .ok_or_else(|| Error::invalid(format!("invalid source identifier {identifier:?}")))?;
        match scheme {
            "docker-image" => {
                let reference = image(identifier)?;
                let pull = source.attributes.get("image.resolvemode").is_some_and(|mode| mode == "pull");
                let platform = operation.op.platform.as_ref().map(platform);
                Ok(self.push_node(operation, identifier, Does::Image { reference, platform, pull }))
            }
            "local" => self.local(operation, rest, &source.attributes),
            "git" => self.git(operation, rest, &source.attributes),
            "http" | "https" => self.http(operation, identifier, &source.attributes),
            "oci-layout" => self.present(operation, (operation.digest, identifier)),
            _ if identifier.starts_with(crate::inputs::SCHEME) => {
                self.present(operation, (identifier, "load result"))
            }
            other => Err(Error::unimplemented(format!(
                "a source of the kind {other:?} is not built into this Yare yet: {identifier}"
            ))),
        }
    }

    /// An image that is here for this graph, by what it is known by.
    fn present(&mut self, operation: &Operation<'_>, (key, name): (&str, &str)) -> Result<VertexId> {
        let reference = self.surroundings.results.get(key).cloned();
        let reference =
            reference.ok_or_else(|| Error::not_found(format!("the result {key} is not there any more")))?;
        Ok(self.push_node(operation, name, Does::Image { reference, platform: None, pull: false }))
    }

    fn local(
        &mut self,
        operation: &Operation<'_>,
        dir: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<VertexId> {
        let mut local = Local { dir: dir.to_owned(), ..Local::default() };
        for (name, value) in attributes {
            match name.as_str() {
                "local.includepattern" => local.include = patterns(name, value)?,
                "local.excludepatterns" => local.exclude = patterns(name, value)?,
                "local.followpaths" => local.follow = patterns(name, value)?,
                "local.session" => local.session.clone_from(value),
                // Hints of what may be shared, and how files are compared; nothing depends on them.
                "local.unique" | "local.sharedkeyhint" | "local.differ" => {}
                other => return Err(unknown(other)),
            }
        }
        let context = serde_json::to_string(&local).unwrap_or_default();
        self.locals.insert(context.clone(), local);
        let base = self.scratch();
        let spec = CopyDefinition {
            sources: vec![".".to_owned()],
            dest: "/".to_owned(),
            ..CopyDefinition::default()
        };
        let copy = CopyOp { base, source: CopySource::Context(context.clone()), spec };
        let vertex = self.push(operation, &format!("local://{dir}"), Op::Copy(copy));
        self.folders.insert(vertex, context);
        Ok(vertex)
    }

    fn git(
        &mut self,
        operation: &Operation<'_>,
        rest: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<VertexId> {
        let (place, fragment) = match rest.split_once('#') {
            Some((place, fragment)) => (place, format!("#{fragment}")),
            None => (rest, String::new()),
        };
        let mut remote = format!("https://{place}");
        let (mut keep_git_dir, mut checksum) = (false, None);
        let mut keys = GitKeys::none();
        for (name, value) in attributes {
            let given = || Some(value.clone()).filter(|value| !value.is_empty());
            match name.as_str() {
                "git.fullurl" => remote.clone_from(value),
                "git.keepgitdir" => keep_git_dir = value == "true",
                "git.checksum" => checksum = Some(value.clone()),
                "git.authtokensecret" => keys.token = given(),
                "git.authheadersecret" => keys.header = given(),
                "git.mountsshsock" => keys.agent = given(),
                "git.knownsshhosts" => keys.known_hosts = given(),
                other => return Err(unknown(other)),
            }
        }
        let fetch = FetchOp::Git { remote: format!("{remote}{fragment}"), keep_git_dir, checksum, keys };
        Ok(self.push(operation, &format!("git://{rest}"), Op::Fetch(fetch)))
    }

    fn http(
        &mut self,
        operation: &Operation<'_>,
        url: &str,
        attributes: &BTreeMap<String, String>,
    ) -> Result<VertexId> {
        let (mut name, mut checksum) = (String::new(), None);
        let (mut mode, mut uid, mut gid) = (None, None, None);
        let bad = |name: &str, value: &str| Error::invalid(format!("invalid {name} {value:?}"));
        for (key, value) in attributes {
            let number = |value: &String| value.parse::<u32>().map_err(|_| bad(key, value));
            match key.as_str() {
                "http.filename" => name = clean(value).trim_start_matches('/').to_owned(),
                "http.checksum" => {
                    checksum = Some(value.parse::<Digest>().map_err(|_| bad(key, value))?);
                }
                "http.perm" => {
                    let octal = value.trim_start_matches("0o");
                    mode = Some(u32::from_str_radix(octal, 8).map_err(|_| bad(key, value))?);
                }
                "http.uid" => uid = Some(number(value)?),
                "http.gid" => gid = Some(number(value)?),
                other => return Err(unknown(other)),
            }
        }
        if name.contains('/') {
            return Err(Error::invalid(format!("invalid http.filename {name:?}: it is no name of a file")));
        }
        let fetched =
            self.push(operation, url, Op::Fetch(FetchOp::Http { url: url.to_owned(), name, checksum }));
        if mode.is_none() && uid.is_none() && gid.is_none() {
            return Ok(fetched);
        }
        let spec = CopyDefinition {
            sources: vec![".".to_owned()],
            dest: "/".to_owned(),
            chown: Some(format!("{}:{}", uid.unwrap_or(0), gid.unwrap_or(0))),
            chmod: mode.map(|mode| format!("{mode:o}")),
            ..CopyDefinition::default()
        };
        let base = self.scratch();
        let copy = CopyOp { base, source: CopySource::Vertex(fetched), spec };
        Ok(self.push(operation, url, Op::Copy(copy)))
    }
}

/// The image that `oci-layout://…` names; `None` when the source is another one.
pub(crate) fn layout(source: &SourceOp) -> Result<Option<LayoutImage>> {
    let Some(name) = source.identifier.strip_prefix("oci-layout://") else { return Ok(None) };
    let (mut session, mut store) = ("", "");
    for (name, value) in &source.attributes {
        match name.as_str() {
            "oci.session" => session = value,
            "oci.store" => store = value,
            other => return Err(unknown(other)),
        }
    }
    LayoutImage::parse(name)?.held_by(session, store).map(Some)
}

/// The image that `docker-image://…` names.
pub(crate) fn image(identifier: &str) -> Result<Reference> {
    let name = identifier.strip_prefix("docker-image://").unwrap_or(identifier);
    let reference = Reference::parse(name).map_err(|error| Error::invalid(error.to_string()))?;
    Ok(reference.or_latest())
}

/// The platform that a message names.
pub(crate) fn platform(platform: &WirePlatform) -> Platform {
    let or = |text: &str, or: String| if text.is_empty() { or } else { text.to_owned() };
    let host = Platform::host();
    Platform::new(
        &or(&platform.os, host.os),
        &or(&platform.architecture, host.architecture),
        &platform.variant,
    )
}

fn patterns(name: &str, value: &str) -> Result<Vec<String>> {
    serde_json::from_str::<Option<Vec<String>>>(value)
        .map(Option::unwrap_or_default)
        .map_err(|error| Error::invalid(format!("invalid {name}: a list in JSON is wanted")).caused_by(error))
}

fn unknown(attribute: &str) -> Error {
    Error::unimplemented(format!("the source attribute {attribute} is not built into this Yare yet"))
}
