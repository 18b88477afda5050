//! Files from and to a container, as tar streams: what `cp` is made of.

use super::view::{self, Access, View};
use crate::Engine;
use crate::clock::rfc3339;
use crate::images::{self, Body, BodyReader, Output, blocking};
use futures_util::StreamExt;
use jiff::Timestamp;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use yare_api::archive::{ContainerPathStat, go_file_mode};
use yare_api::texts;
use yare_errdefs::{Class, Classified, Error, Result, class_of_io};
use yare_layer::{ApplyError, Decompressor, Form, Limits};
use yare_sys::fs as files;

/// How to extract an archive into a container.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// The directory, which is there.
    pub path: String,
    /// Refuse to replace a directory by something else, or something else by a directory.
    pub kinds_stay: bool,
    /// Give everything to the container's user instead of the owners in the archive.
    pub to_user: bool,
}

/// What a path in a container is. A link at its end is not followed.
pub async fn stat_path(engine: &Arc<Engine>, id: &str, path: &str) -> Result<ContainerPathStat> {
    let container = engine.containers.find(id)?;
    let view = view::open(engine, &container, Access::Read).await?;
    let (id, path) = (id.to_owned(), path.to_owned());
    blocking(move || Ok(locate(&view, &id, &path)?.shown)).await
}

/// A file or directory as a tar. A link at its end is not followed; what is in a directory is under the
/// directory's name.
pub async fn archive(engine: &Arc<Engine>, id: &str, path: &str) -> Result<(ContainerPathStat, Output)> {
    let container = engine.containers.find(id)?;
    let view = view::open(engine, &container, Access::Read).await?;
    let (found, view) = blocking({
        let (id, path) = (id.to_owned(), path.to_owned());
        move || Ok((locate(&view, &id, &path)?, view))
    })
    .await?;
    engine.publish_container(&container, "archive-path", BTreeMap::new());
    let Found { shown, place } = found;
    let name = if shown.name == "/" { String::new() } else { shown.name.clone() };
    let output = images::written(move |writer| {
        let _mounted = view;
        let written = match place {
            Place::Directory(directory) => yare_layer::write_directory(directory.as_fd(), &name, writer),
            Place::Entry { parent, name, stat } => yare_layer::write_file(parent, name, *stat, writer),
        };
        written.map(drop).map_err(|error| Error::wrap("cannot copy from the container", error))
    })?;
    Ok((shown, output))
}

/// Extracts an archive, which may be compressed, into a directory of a container. Links on the way to it are
/// followed inside the container; those that the archive makes, inside the directory.
pub async fn extract(engine: &Arc<Engine>, id: &str, options: ExtractOptions, body: Body) -> Result<()> {
    let container = engine.containers.find(id)?;
    let view = view::open(engine, &container, Access::Write).await?;
    let user = if options.to_user { container.record().plan.user.clone() } else { String::new() };
    let (told, outcome) = oneshot::channel();
    let body = if view.is_in_the_way() { in_time(body, PATIENCE) } else { body };
    let (id, reader) = (id.to_owned(), BodyReader::new(body));
    let now = engine.clock.now().as_second();
    images::lasting(move || {
        // Whoever waited may have left.
        let _ = told.send(extract_now(&view, &id, &options, &user, reader, now));
    })?;
    outcome.await.map_err(|error| Error::internal("the copy broke off").caused_by(error))??;
    engine.publish_container(&container, "extract-to-dir", BTreeMap::new());
    Ok(())
}

/// How long the next part of an archive may take to come while the container is kept from being started.
const PATIENCE: Duration = Duration::from_secs(60);

/// A body that breaks off when nothing comes any more.
fn in_time(body: Body, patience: Duration) -> Body {
    Box::pin(futures_util::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout(patience, body.next()).await {
            Ok(part) => part.map(|part| (part, Some(body))),
            Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, "it stopped coming")), None)),
        }
    }))
}

fn extract_now(
    view: &View,
    id: &str,
    options: &ExtractOptions,
    user: &str,
    reader: BodyReader,
    now: i64,
) -> Result<()> {
    let path = clean(&options.path);
    let missing = || Error::not_found(texts::no_such_file(&options.path, id));
    let directory = match files::open_beneath(view.root(), &path, OFlags::PATH, Mode::empty()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        opened => opened.map_err(|error| Error::invalid(words(&error)))?,
    };
    let stat = rustix::fs::fstat(&directory).map_err(|error| Error::invalid(words(&error.into())))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Error::invalid(texts::NO_EXTRACTION_POINT));
    }
    view.check_writable(&directory)?;
    let owner = match user {
        "" => None,
        user => {
            let found = yare_build::resolve_owner(view.root(), user);
            Some(found.map_err(|error| Error::invalid(error.to_string()))?)
        }
    };
    let time = |seconds, nanos| (seconds, nanos);
    let extraction = yare_layer::ExtractOptions {
        limits: Limits { bytes: None, entries: u64::MAX },
        owner,
        time: &time,
        now,
        form: Form::Plain,
        root: false,
        kinds_stay: options.kinds_stay.then_some(path.as_str()),
        list: false,
    };
    let reader = Decompressor::new(reader)
        .map_err(|error| Error::invalid(format!("cannot read the archive: {}", words(&error))))?;
    yare_layer::extract(reader, directory.as_fd(), &extraction).map(drop).map_err(refused)
}

/// Why an archive was not extracted, in the words of a copy.
fn refused(error: ApplyError) -> Error {
    let class = error.class();
    match &error {
        ApplyError::Format { offset, reason } => {
            Error::invalid(format!("invalid tar archive at byte {offset}: {reason}"))
        }
        ApplyError::Entry { path, reason } => Error::invalid(format!("cannot extract {path:?}: {reason}")),
        ApplyError::Io { operation, path, source } => {
            Error::new(class, format!("cannot {operation} {path}: {}", words(source)))
        }
        ApplyError::Read(source) => Error::new(class, format!("cannot read the archive: {}", words(source))),
        ApplyError::Overwrite { .. } | ApplyError::Limit { .. } | ApplyError::Record(_) => {
            Error::new(class, error.to_string())
        }
    }
}

/// The system's words for an error as Go writes them.
fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    characters.next().map(|first| first.to_lowercase().chain(characters).collect()).unwrap_or_default()
}

/// Something in a container.
struct Found {
    shown: ContainerPathStat,
    place: Place,
}

enum Place {
    Directory(OwnedFd),
    Entry { parent: OwnedFd, name: CString, stat: Box<Stat> },
}

/// Finds a path; a link at its end is found itself.
fn locate(view: &View, id: &str, asked: &str) -> Result<Found> {
    let path = clean(asked);
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(texts::no_such_file(asked, id)),
        _ => {
            let class = match class_of_io(&error) {
                Class::Internal => Class::InvalidArgument,
                class => class,
            };
            Error::new(class, format!("lstat {path}: {}", words(&error)))
        }
    };
    let open =
        |path: &str| files::open_beneath(view.root(), path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
    let fd = open(&path).map_err(failed)?;
    let stat = rustix::fs::fstat(&fd).map_err(|error| failed(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(Found { shown: shown(&path, &stat, String::new()), place: Place::Directory(fd) });
    }
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let name = CString::new(name).map_err(|error| failed(error.into()))?;
    let parent = files::open_beneath(view.root(), folder, OFlags::PATH | OFlags::DIRECTORY, Mode::empty());
    let parent = parent.map_err(failed)?;
    let stat = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| failed(error.into()))?;
    let target = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => link_target(view, &path)?,
        _ => String::new(),
    };
    Ok(Found {
        shown: shown(&path, &stat, target),
        place: Place::Entry { parent, name, stat: Box::new(stat) },
    })
}

fn shown(path: &str, stat: &Stat, link_target: String) -> ContainerPathStat {
    let nanos = i32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    ContainerPathStat {
        name: base(path).to_owned(),
        size: stat.st_size,
        mode: go_file_mode(stat.st_mode),
        mtime: rfc3339(Timestamp::new(stat.st_mtime, nanos).ok()),
        link_target,
    }
}

/// As many links as Go follows.
const MOST_LINKS: usize = 255;

/// Where a link leads in the end, as a path from the root. What is not there is taken as it is written.
fn link_target(view: &View, path: &str) -> Result<String> {
    let names =
        |path: &str| path.split('/').filter(|name| !matches!(*name, "" | ".")).map(str::to_owned).collect();
    let mut ahead: VecDeque<String> = names(path);
    let mut behind: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            behind.pop();
            continue;
        }
        behind.push(name);
        let here = behind.join("/");
        let found = files::open_beneath(view.root(), &here, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        let target = found.ok().and_then(|fd| rustix::fs::readlinkat(fd, c"", Vec::new()).ok());
        let Some(target) = target else { continue };
        links += 1;
        if links > MOST_LINKS {
            return Err(Error::invalid(format!("too many links in {path}")));
        }
        let target = String::from_utf8_lossy(target.as_bytes());
        behind.pop();
        if target.starts_with('/') {
            behind.clear();
        }
        let mut next: VecDeque<String> = names(&target);
        next.append(&mut ahead);
        ahead = next;
    }
    Ok(format!("/{}", behind.join("/")))
}

/// The path from the root, without `..` and doubled slashes; what asks for a directory at its end (`/`, `/.`)
/// stays.
fn clean(path: &str) -> String {
    let mut clean = yare_oci::path::clean(path);
    let end = path.rsplit('/').next().unwrap_or_default();
    if matches!(end, "" | ".") && !clean.ends_with('/') {
        clean.push('/');
    }
    if end == "." {
        clean.push('.');
    }
    clean
}

/// The last part of a clean path.
fn base(path: &str) -> &str {
    let trimmed = path.trim_end_matches('/');
    if trimmed.is_empty() { "/" } else { trimmed.rsplit('/').next().unwrap_or(trimmed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_root_and_keep_their_end() {
        for (path, expected, name) in [
            ("/etc", "/etc", "etc"),
            ("etc/", "/etc/", "etc"),
            ("/etc/.", "/etc/.", "."),
            ("/", "/", "/"),
            (".", "/.", "."),
            ("/a//b/../../c", "/c", "c"),
            ("../../x", "/x", "x"),
        ] {
            assert_eq!((clean(path).as_str(), base(&clean(path))), (expected, name), "{path}");
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_breaks_off() {
        let part = || futures_util::stream::iter([Ok(bytes::Bytes::from_static(b"x"))]);
        let stopping = Box::pin(part().chain(futures_util::stream::pending()));
        let body: Vec<_> = in_time(stopping, Duration::from_millis(50)).collect().await;
        assert_eq!(body.len(), 2);
        assert_eq!(body[1].as_ref().unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(in_time(Box::pin(part()), PATIENCE).collect::<Vec<_>>().await.len(), 1);
    }

    #[test]
    fn errors_are_in_go_s_words() {
        assert_eq!(words(&io::Error::from_raw_os_error(20)), "not a directory");
        assert_eq!(words(&io::Error::other("Odd")), "odd");
    }
}
