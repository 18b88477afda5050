//! `cp`: between a container and the local file system, as tar streams.

pub(super) mod extract;
mod pack;

use std::path::{Path, PathBuf};

use yare_api::archive::ContainerPathStat;
use yare_client::{Body, Request};

use crate::context::Context;
use crate::failure::Failure;
use crate::flags::Given;
use crate::opts;
use crate::session::Input;
use crate::table::Outcome;

/// How often a symbolic link is followed to find out where to copy to.
const LINKS: usize = 10;

/// `cp`.
pub(crate) async fn copy(cx: &Context, given: &Given) -> Outcome {
    let (source, target) = (split(given.argument(0)), split(given.argument(1)));
    match (source, target) {
        ((Some(_), _), (Some(_), _)) => Err("copying between containers is not supported".into()),
        ((None, _), (None, _)) => Err("must specify at least one container source".into()),
        ((Some(container), path), (None, local)) => from_container(cx, given, container, path, local).await,
        ((None, local), (Some(container), path)) => to_container(cx, given, local, container, path).await,
    }
}

/// `container:path`, or a local path: one that starts with `/` or `.`, or has no colon.
fn split(argument: &str) -> (Option<&str>, &str) {
    if argument.starts_with('/') {
        return (None, argument);
    }
    match argument.split_once(':') {
        Some((container, path)) if !container.starts_with('.') => (Some(container), path),
        _ => (None, argument),
    }
}

/// Whether a path asks for a directory: `x/` or `x/.`.
fn wants_directory(path: &str) -> bool {
    path.ends_with('/') || wants_contents(path)
}

/// Whether a path asks for what is in a directory: `x/.`.
fn wants_contents(path: &str) -> bool {
    path == "." || path.ends_with("/.")
}

/// The last component of a path.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches("/.").trim_end_matches('/');
    trimmed.rsplit('/').next().unwrap_or(trimmed)
}

/// The path without its last component.
fn parent(path: &str) -> String {
    let trimmed = path.trim_end_matches("/.").trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some(("", _)) => "/".to_owned(),
        Some((parent, _)) => parent.to_owned(),
        None => ".".to_owned(),
    }
}

fn archive(method: fn(String) -> Request, container: &str, path: &str) -> Request {
    method(format!("/containers/{}/archive", Request::segment(container))).query("path", path)
}

fn said(cx: &Context, given: &Given, bytes: u64, target: &str) {
    // As Docker's client, it says so to people only.
    if !given.bool_or("quiet", !cx.terminal) {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        cx.warn(format_args!("Successfully copied {} to {target}", crate::format::size(bytes)));
    }
}

async fn stat(cx: &Context, container: &str, path: &str) -> Result<ContainerPathStat, yare_client::Error> {
    let response = cx.client().send(archive(Request::head, container, path)).await?;
    decode_stat(&response)
}

fn decode_stat(response: &yare_client::Response) -> Result<ContainerPathStat, yare_client::Error> {
    let header = response.header("x-docker-container-path-stat").unwrap_or_default();
    ContainerPathStat::decode(header).map_err(|error| yare_client::Error::Decode {
        method: "HEAD".to_owned(),
        path: "archive".to_owned(),
        what: error.to_string(),
    })
}

async fn from_container(cx: &Context, given: &Given, container: &str, path: &str, local: &str) -> Outcome {
    let asked = path;
    let mut path = asked.to_owned();
    // What was a link keeps the link's name.
    let mut name = None;
    if given.bool("follow-link") {
        let found = stat(cx, container, &path).await?;
        if found.is_symlink() {
            path = follow(&path, &found.link_target);
            name = Some(base(asked));
        }
    }
    let mut response = cx.client().send(archive(Request::get, container, &path)).await?;
    if local == "-" {
        if cx.terminal {
            return Err("refusing to write a tar archive to a terminal; redirect it".into());
        }
        while let Some(chunk) = response.chunk().await? {
            cx.write(chunk)?;
        }
        return Ok(0);
    }
    let found = decode_stat(&response)?;
    if given.bool("follow-link") && found.is_symlink() {
        // A link of the container's that is made here would lead somewhere on this side.
        return Err(Failure::new(format!("{container}:{asked} has become another link meanwhile")));
    }
    let target = cx.absolute(local);
    let place = extract::place(&found, name.unwrap_or(&found.name), local, Path::new(&target))?;
    let options = extract::Options { place, keep_owner: given.bool("archive") };
    let bytes = extract::extract(response, options).await?;
    said(cx, given, bytes, &target);
    Ok(0)
}

/// Where a link in a container leads.
fn follow(path: &str, target: &str) -> String {
    if target.starts_with('/') { target.to_owned() } else { opts::volume::absolute(target, &parent(path)) }
}

/// Where in the container, and under which name.
struct Destination {
    directory: String,
    name: Option<String>,
}

async fn to_container(cx: &Context, given: &Given, local: &str, container: &str, path: &str) -> Outcome {
    let (found, path) = resolve(cx, container, path).await?;
    let put = |directory: &str, body: Body| {
        let copy_owner = given.bool("archive").then_some("true");
        archive(Request::put, container, directory)
            .query("noOverwriteDirNonDir", "true")
            .query_opt("copyUIDGID", copy_owner)
            .body("application/x-tar", body)
    };
    if local == "-" {
        if !found.as_ref().is_some_and(ContainerPathStat::is_dir) {
            return Err(Failure::new(format!("destination \"{container}:{path}\" must be a directory")));
        }
        let body = Body::reader(super::transfer::InputReader(Input::new(cx.stdio.input)));
        cx.client().call(put(&path, body)).await?;
        return Ok(0);
    }
    let source = PathBuf::from(cx.absolute(local));
    let metadata = if given.bool("follow-link") { source.metadata() } else { source.symlink_metadata() };
    let metadata = metadata.map_err(|error| {
        let why = opts::env::open_error(&source.display().to_string(), &error);
        Failure::new(why.replacen("open ", "lstat ", 1))
    })?;
    if wants_directory(local) && !metadata.is_dir() {
        return Err(Failure::new(format!("not a directory: {local}")));
    }
    let destination = destination(found.as_ref(), &path, local, metadata.is_dir())?;
    let pack = pack::Pack {
        source: if given.bool("follow-link") { source.canonicalize().unwrap_or(source) } else { source },
        name: destination.name,
    };
    let (body, count) = pack::stream(pack)?;
    cx.client().call(put(&destination.directory, body)).await?;
    let bytes = count.wait().await?;
    said(cx, given, bytes, &format!("{container}:{path}"));
    Ok(0)
}

/// What is at the destination, links followed; nothing there is no failure.
async fn resolve(
    cx: &Context,
    container: &str,
    path: &str,
) -> Result<(Option<ContainerPathStat>, String), Failure> {
    let mut path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    for _ in 0..LINKS {
        match stat(cx, container, &path).await {
            Ok(found) if found.is_symlink() => path = follow(&path, &found.link_target),
            Ok(found) => return Ok((Some(found), path)),
            // A missing container says so too; the put that follows repeats it.
            Err(error) if error.is_not_found() && !error.message().contains("No such container") => {
                return Ok((None, path));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(Failure::new(format!("too many symbolic links: {path}")))
}

/// The rules of `cp`, as in `cp -a`: into a directory that is there, else under the new name.
fn destination(
    found: Option<&ContainerPathStat>,
    path: &str,
    local: &str,
    source_is_directory: bool,
) -> Result<Destination, Failure> {
    match found {
        Some(found) if found.is_dir() => {
            let name = if wants_contents(local) { None } else { Some(base(local).to_owned()) };
            Ok(Destination { directory: path.to_owned(), name })
        }
        Some(_) if source_is_directory => Err("cannot copy directory".into()),
        Some(_) if wants_directory(path) => Err(Failure::new(format!("not a directory: {path}"))),
        None if !source_is_directory && wants_directory(path) => {
            Err(Failure::new(format!("no such directory: {path}")))
        }
        _ => Ok(Destination { directory: parent(path), name: Some(base(path).to_owned()) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_side_is_the_container() {
        assert_eq!(split("web:/etc"), (Some("web"), "/etc"));
        assert_eq!(split("/a:b"), (None, "/a:b"));
        assert_eq!(split("./a:b"), (None, "./a:b"));
        assert_eq!(split("file"), (None, "file"));
        assert_eq!((base("/a/b/"), base("/a/b/."), base("b")), ("b", "b", "b"));
        assert_eq!(
            (parent("/a/b/"), parent("/b"), parent("b")),
            ("/a".to_owned(), "/".to_owned(), ".".to_owned())
        );
    }
}
