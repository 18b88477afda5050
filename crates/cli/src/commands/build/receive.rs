//! What comes of a build, as files of ours: outputs that the engine sends, the image's id, the metadata.
//!
//! A file is there whole or not at all: it is written beside its place and renamed when all has arrived.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use yare_api::build::BuildMessage;

use super::attributes::Destination;
use super::options::file_error;
use crate::commands::cp::extract::{Extraction, Options, Place};
use crate::context::Context;
use crate::failure::Failure;
use crate::session;

/// The outputs that the engine sends.
pub(super) struct Receiver {
    /// By their places in the request, with those that it does not send.
    sinks: Vec<Option<Sink>>,
}

enum Sink {
    Stdout(session::Output),
    File(Draft),
    /// What is there is no regular file: a pipe, a device.
    Special(PathBuf, File),
    Directory(Extraction),
}

impl Receiver {
    /// Makes ready for outputs with these destinations; `None` for one that the engine does not send.
    pub(super) fn new(cx: &Context, destinations: &[Option<Destination>]) -> Result<Self, Failure> {
        let sinks = destinations.iter().map(|destination| {
            let Some(destination) = destination else { return Ok(None) };
            Ok(Some(match destination {
                Destination::Stdout => {
                    cx.flush()?;
                    Sink::Stdout(session::Output::new(cx.stdio.output))
                }
                Destination::File(path) => file(Path::new(&cx.absolute(path)))?,
                Destination::Directory(path) => {
                    let root = PathBuf::from(cx.absolute(path));
                    fs::create_dir_all(&root).map_err(|error| failed(&root, &error))?;
                    let place = Place::directory(root);
                    Sink::Directory(Extraction::begin(Options { place, keep_owner: false })?)
                }
            }))
        });
        Ok(Self { sinks: sinks.collect::<Result<_, Failure>>()? })
    }

    /// Takes the bytes of a message.
    pub(super) async fn take(&mut self, message: &BuildMessage) -> Result<(), Failure> {
        let at = match self.sinks.iter().flatten().count() {
            1 => self.sinks.iter().position(Option::is_some).unwrap_or_default(),
            _ => message.output,
        };
        let Some(Some(sink)) = self.sinks.get_mut(at) else {
            return Err(Failure::new(format!("the engine sent output {at}, which was not asked for")));
        };
        let Ok(bytes) = STANDARD.decode(&message.data) else {
            return Err("the engine's answer has an output that is not base64".into());
        };
        match sink {
            Sink::Stdout(output) => output.write_all(&bytes).await?,
            Sink::File(draft) => draft.write(&bytes)?,
            Sink::Special(path, file) => file.write_all(&bytes).map_err(|error| failed(path, &error))?,
            Sink::Directory(extraction) => {
                if !extraction.feed(&bytes).await
                    && let Some(Sink::Directory(extraction)) = self.sinks[at].take()
                {
                    extraction.finish().await?;
                }
            }
        }
        Ok(())
    }

    /// Puts everything in its place: the build has succeeded.
    pub(super) async fn finish(self) -> Result<(), Failure> {
        for sink in self.sinks.into_iter().flatten() {
            match sink {
                Sink::Stdout(_) | Sink::Special(..) => {}
                Sink::File(draft) => draft.commit()?,
                Sink::Directory(extraction) => extraction.finish().await?,
            }
        }
        Ok(())
    }
}

fn file(path: &Path) -> Result<Sink, Failure> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(Failure::new(format!("failed to write {}: it is a directory", path.display()))
                .with_hint("give dest= the path of a file"))
        }
        Ok(found) if !found.is_file() => {
            let file = File::options().write(true).open(path).map_err(|error| failed(path, &error))?;
            Ok(Sink::Special(path.to_owned(), file))
        }
        _ => Ok(Sink::File(Draft::new(path)?)),
    }
}

/// Writes a file whole.
pub(super) fn write(path: &str, bytes: &[u8]) -> Result<(), Failure> {
    let mut draft = Draft::new(Path::new(path))?;
    draft.write(bytes)?;
    draft.commit()
}

/// Takes away a file that an earlier build left, lest it be taken for this one's.
pub(super) fn forget(path: &str) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(Path::new(path), &error)),
        _ => Ok(()),
    }
}

/// A file beside its place; gone again unless it is committed.
struct Draft {
    path: PathBuf,
    draft: PathBuf,
    file: File,
    committed: bool,
}

impl Draft {
    fn new(path: &Path) -> Result<Self, Failure> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = path.with_file_name(format!(".{name}.{}.part", std::process::id()));
        let file = File::options().write(true).create_new(true).open(&draft);
        let file = file.map_err(|error| failed(path, &error))?;
        Ok(Self { path: path.to_owned(), draft, file, committed: false })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.file.write_all(bytes).map_err(|error| failed(&self.path, &error))
    }

    fn commit(mut self) -> Result<(), Failure> {
        fs::rename(&self.draft, &self.path).map_err(|error| failed(&self.path, &error))?;
        self.committed = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.committed {
            drop(fs::remove_file(&self.draft));
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    let why = file_error(&path.display().to_string(), error);
    Failure::new(format!("failed to write {}: {why}", path.display()))
}
