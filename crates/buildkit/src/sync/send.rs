//! A folder of ours, told to a client that takes it.

use super::Go;
use crate::grpc::client::Exchange;
use crate::grpc::{Code, Status};
use crate::proto::files::{DATA, ERROR, FINISH, Packet, REQUEST, STAT, Stat};
use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use tokio::sync::mpsc;
use yare_errdefs::{Error, Result};

/// Bytes of a file in one packet.
const PIECE: usize = 32 << 10;

/// Most bytes of the path of a directory.
const DEEPEST: usize = 2048;

/// Sends a folder that nobody changes meanwhile, and waits until the client has it.
pub(crate) async fn send_folder(exchange: Exchange, root: OwnedFd) -> Result<()> {
    let (mut outbound, mut incoming) = exchange.split();
    let (told, mut asked) = mpsc::unbounded_channel::<u32>();
    let entries = entries(&root)?;
    let most = u32::try_from(entries.len()).unwrap_or(u32::MAX);
    let read = async {
        while let Some(packet) = incoming.message::<Packet>().await? {
            match packet.kind {
                // Each is asked for once, so that what waits is bounded by what there is.
                REQUEST if packet.id < most => drop(told.send(packet.id)),
                FINISH => {
                    drop(told);
                    return Ok(());
                }
                ERROR => {
                    let text =
                        String::from_utf8_lossy(&packet.data[..packet.data.len().min(4096)]).into_owned();
                    return Err(Status::new(
                        Code::Unknown,
                        format!("the client cannot take the output: {text}"),
                    ));
                }
                kind => {
                    return Err(Status::new(Code::InvalidArgument, format!("an unexpected packet {kind}")));
                }
            }
        }
        Err(Status::new(Code::Unavailable, "the client broke off"))
    };
    let write = async {
        for stat in &entries {
            let packet = Packet { kind: STAT, stat: Some(stat.clone()), ..Packet::default() };
            outbound.send(&packet).await?;
        }
        outbound.send(&Packet { kind: STAT, ..Packet::default() }).await?;
        let mut sent = vec![false; entries.len()];
        while let Some(number) = asked.recv().await {
            let index = number as usize;
            if std::mem::replace(&mut sent[index], true) {
                return Err(Status::new(Code::InvalidArgument, "the client asks for a file twice"));
            }
            let file = open(&root, &entries[index].path)?;
            content(&mut outbound, number, file).await?;
        }
        outbound.send(&Packet { kind: FINISH, ..Packet::default() }).await?;
        outbound.close()
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

fn open(root: &OwnedFd, path: &[u8]) -> Result<std::fs::File, Status> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    yare_sys::fs::open_strict(root.as_fd(), OsStr::from_bytes(path), flags, Mode::empty())
        .map(std::fs::File::from)
        .map_err(|error| Status::new(Code::Internal, format!("cannot read a file of the output: {error}")))
}

async fn content(
    outbound: &mut crate::grpc::Outbound,
    id: u32,
    mut file: std::fs::File,
) -> Result<(), Status> {
    let mut buffer = vec![0; PIECE];
    loop {
        let read = file.read(&mut buffer);
        let count =
            read.map_err(|error| Status::new(Code::Internal, format!("cannot read a file: {error}")))?;
        let data = Bytes::copy_from_slice(&buffer[..count]);
        outbound.send(&Packet { kind: DATA, id, data, ..Packet::default() }).await?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// What travels of an entry; an empty name is the directory's own.
pub(crate) fn stat_of(dir: BorrowedFd<'_>, path: Vec<u8>, name: &[u8]) -> std::io::Result<Stat> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let stat = rustix::fs::statat(dir, OsStr::from_bytes(name), flags)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let link = match kind {
        FileType::Symlink => rustix::fs::readlinkat(dir, OsStr::from_bytes(name), Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    Ok(Stat {
        path,
        mode: Go::mode(kind, stat.st_mode),
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if kind == FileType::RegularFile { stat.st_size } else { 0 },
        modified: stat
            .st_mtime
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        link,
        xattrs: Vec::new(),
    })
}

/// All entries, each directory before what is in it, in the order of names.
fn entries(root: &OwnedFd) -> Result<Vec<Stat>> {
    let mut found = Vec::new();
    walk(root, b"", &mut found)
        .map_err(|error| Error::internal("cannot read the folder of an output").caused_by(error))?;
    Ok(found)
}

fn walk(dir: &OwnedFd, prefix: &[u8], found: &mut Vec<Stat>) -> std::io::Result<()> {
    // As deep as a path may be: what a build made decides the depth.
    if prefix.len() > DEEPEST {
        return Err(rustix::io::Errno::NAMETOOLONG.into());
    }
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    for name in names {
        let path = if prefix.is_empty() { name.clone() } else { [prefix, b"/", &name].concat() };
        let stat = rustix::fs::statat(dir, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if !matches!(kind, FileType::Directory | FileType::RegularFile | FileType::Symlink) {
            continue;
        }
        found.push(stat_of(dir.as_fd(), path.clone(), &name)?);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(dir, OsStr::from_bytes(&name), flags, Mode::empty())?;
            walk(&below, &path, found)?;
        }
    }
    Ok(())
}
