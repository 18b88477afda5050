//! Looking into results: `LLBBridge`'s `ReadFile`, `ReadDir`, `StatFile`, and what is known of images.
//!
//! A result is evaluated for each call: what was done is in the cache, and nothing is kept between calls that
//! a client could pile up. Paths are looked up below the result's root, and links in it lead nowhere else.

use crate::Kit;
use crate::builds::Build;
use crate::gateway::bridge::Caller;
use crate::grpc::{Code, Status};
use crate::keys::ClientKeys;
use crate::layout::LayoutImage;
use crate::link::Link;
use crate::llb;
use crate::proto::Platform as WirePlatform;
use crate::proto::files::Stat;
use crate::proto::gateway::{
    FileRange, ReadDirRequest, ReadDirResponse, ReadFileRequest, ReadFileResponse, ResolveImageConfigRequest,
    ResolveImageConfigResponse, ResolveSourceRequest, ResolveSourceResponse, SourceImage, StatFileRequest,
    StatFileResponse,
};
use crate::solve::{self, evaluated, on_thread, progress};
use crate::sync::stat_of;
use rustix::fs::{AtFlags, Dir, FileType, OFlags};
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use yare_build::definition::Evaluated;
use yare_build::files::{find, matches};
use yare_engine::build;
use yare_errdefs::{Error, Result};

/// Most bytes of a file in one answer: what fits into a message.
const LONGEST: u64 = 15 << 20;
/// Most entries of a directory in one answer.
const MOST: usize = 50_000;

/// Gives the root of a result to `look`.
async fn inside<T: Send + 'static>(
    kit: &Arc<Kit>,
    caller: &Caller,
    result: &str,
    look: impl FnOnce(OwnedFd) -> Result<T> + Send + 'static,
) -> Result<T, Status> {
    let loaded = caller.bridge().loaded(result)?;
    let (evaluated, _held) = evaluated(kit, caller, loaded).await?;
    let kit = Arc::clone(kit);
    on_thread(move || {
        let root = build::open(&kit.engine, &evaluated, 0)?;
        Ok(look(root)?)
    })
    .await
}

pub(crate) async fn read_file(
    kit: &Arc<Kit>,
    caller: &Caller,
    request: ReadFileRequest,
) -> Result<ReadFileResponse, Status> {
    let ReadFileRequest { r#ref, path, range } = request;
    let range = range.unwrap_or_default();
    let data = inside(kit, caller, &r#ref, move |root| content(&root, &path, range));
    Ok(ReadFileResponse { data: data.await? })
}

/// A file of something that was evaluated.
pub(crate) async fn file(kit: &Arc<Kit>, evaluated: Evaluated, path: String) -> Result<Vec<u8>, Status> {
    let kit = Arc::clone(kit);
    on_thread(move || {
        let root = build::open(&kit.engine, &evaluated, 0)?;
        Ok(content(&root, &path, FileRange::default())?)
    })
    .await
}

fn content(root: &OwnedFd, path: &str, range: FileRange) -> Result<Vec<u8>> {
    let fd = find(root.as_fd(), path)?;
    let failed = |error: std::io::Error| Error::internal(format!("cannot read {path}")).caused_by(error);
    if kind(&fd).map_err(failed)? != FileType::RegularFile {
        return Err(Error::invalid(format!("{path} is no regular file")));
    }
    let number =
        |number: i64| u64::try_from(number).map_err(|_| Error::invalid(format!("invalid range of {path}")));
    let (offset, length) = (number(range.offset)?, number(range.length)?);
    let mut file = std::fs::File::open(yare_sys::fs::proc_path(fd.as_fd())).map_err(failed)?;
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let wanted = if length == 0 { u64::MAX } else { length };
    let mut data = Vec::new();
    file.take(wanted.min(LONGEST + 1)).read_to_end(&mut data).map_err(failed)?;
    if data.len() as u64 > LONGEST {
        let text = format!("{path} has more than {LONGEST} bytes: ask for ranges of it");
        return Err(Error::invalid(text));
    }
    Ok(data)
}

pub(crate) async fn read_dir(
    kit: &Arc<Kit>,
    caller: &Caller,
    request: ReadDirRequest,
) -> Result<ReadDirResponse, Status> {
    let ReadDirRequest { r#ref, path, pattern } = request;
    let entries = inside(kit, caller, &r#ref, move |root| {
        let fd = find(root.as_fd(), &path)?;
        list(&fd, &pattern).map_err(|error| Error::invalid(format!("cannot list {path}")).caused_by(error))
    });
    Ok(ReadDirResponse { entries: entries.await? })
}

fn list(fd: &OwnedFd, pattern: &str) -> std::io::Result<Vec<Stat>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(yare_sys::fs::proc_path(fd.as_fd()), flags, rustix::fs::Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        let wanted = pattern.is_empty() || matches(pattern.as_bytes(), &name).unwrap_or(false);
        if !matches!(name.as_slice(), b"." | b"..") && wanted {
            names.push(name);
        }
        if names.len() > MOST {
            return Err(std::io::Error::other(format!("it has more than {MOST} entries")));
        }
    }
    names.sort();
    names.into_iter().map(|name| stat_of(dir.as_fd(), name.clone(), &name)).collect()
}

pub(crate) async fn stat_file(
    kit: &Arc<Kit>,
    caller: &Caller,
    request: StatFileRequest,
) -> Result<StatFileResponse, Status> {
    let StatFileRequest { r#ref, path } = request;
    let stat = inside(kit, caller, &r#ref, move |root| {
        let fd = find(root.as_fd(), &path)?;
        let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        stat_of(fd.as_fd(), name.as_bytes().to_vec(), b"")
            .map_err(|error| Error::internal(format!("cannot stat {path}")).caused_by(error))
    });
    Ok(StatFileResponse { stat: Some(stat.await?) })
}

fn kind(fd: &OwnedFd) -> std::io::Result<FileType> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// An image that a frontend asks about: the digest of its manifest, and its config.
pub(crate) async fn image(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    (name, mode): (&str, &str),
    platform: Option<WirePlatform>,
) -> Result<(String, Vec<u8>), Status> {
    let reference = llb::image(name)?;
    let pull = mode == "pull";
    let session = kit.sessions.find(&build.request.session).await?;
    let link = Link { session, runtime: tokio::runtime::Handle::current(), stop: build.stop.clone() };
    let (kit, progress) = (Arc::clone(kit), progress(build, None));
    on_thread(move || {
        let keys = ClientKeys::new(link.clone(), &kit.engine.config().exec_root);
        let platform = platform.as_ref().map(llb::platform);
        let wanted = (&reference, platform.as_ref(), pull);
        Ok(build::image(&kit.engine, wanted, &keys, (&link.runtime, &progress))?)
    })
    .await
}

/// An image in a layout of the client's: its digest there, and its config.
async fn layout(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    named: LayoutImage,
    platform: Option<WirePlatform>,
) -> Result<(String, Vec<u8>), Status> {
    let digest = named.digest().to_string();
    let platform = platform.as_ref().map_or_else(yare_oci::Platform::host, llb::platform);
    let (_held, reference) = solve::held_layout(kit, build, named, platform).await?;
    let (_, config) = image(kit, build, (&reference.to_string(), ""), None).await?;
    Ok((digest, config))
}

pub(crate) async fn resolve_image(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    request: ResolveImageConfigRequest,
) -> Result<ResolveImageConfigResponse, Status> {
    if request.resolver != 0 {
        let named = LayoutImage::parse(&request.r#ref)?.held_by(&request.session, &request.store)?;
        let (digest, config) = layout(kit, build, named, request.platform).await?;
        return Ok(ResolveImageConfigResponse { digest, config, r#ref: request.r#ref });
    }
    let (digest, config) = image(kit, build, (&request.r#ref, &request.mode), request.platform).await?;
    Ok(ResolveImageConfigResponse { digest, config, r#ref: request.r#ref })
}

pub(crate) async fn resolve_source(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    request: ResolveSourceRequest,
) -> Result<ResolveSourceResponse, Status> {
    let source =
        request.source.ok_or_else(|| Status::new(Code::InvalidArgument, "the request names no source"))?;
    if let Some(named) = llb::layout(&source)? {
        let (digest, config) = layout(kit, build, named, request.platform).await?;
        return Ok(ResolveSourceResponse {
            source: Some(source),
            image: Some(SourceImage { digest, config }),
        });
    }
    if !source.identifier.starts_with("docker-image://") {
        // It is what it is called: what is known of others is known when they are fetched.
        return Ok(ResolveSourceResponse { source: Some(source), image: None });
    }
    let (digest, config) = image(kit, build, (&source.identifier, &request.mode), request.platform).await?;
    Ok(ResolveSourceResponse { source: Some(source), image: Some(SourceImage { digest, config }) })
}
