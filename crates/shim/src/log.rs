//! Where a container's output goes: a file for readers, a courier for what may keep one waiting.

use crate::courier::{Courier, Errand};
use crate::journal::Journal;
use crate::protocol::{Failure, LogDriver, LogSpec};
use jiff::Timestamp;
use std::path::Path;
use yare_errdefs::Error;
use yare_logs::{Stream, Writer, WriterOptions};

/// The log of one container.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Written here: a file does not keep anybody waiting, but for a disk that hangs.
    pub(crate) file: Option<Writer>,
    pub(crate) courier: Option<Courier>,
}

impl Log {
    /// Opens it. A server that is to be reached is reached when this returns.
    pub(crate) fn open(spec: &LogSpec, run_dir: &Path) -> Result<Self, Failure> {
        let file = (spec.driver == LogDriver::JsonFile).then(|| Writer::new(&spec.path, options(spec)));
        // With `mode=non-blocking` a disk that hangs is not waited for either.
        let (file, errand) = match (&spec.target, spec.buffer, file) {
            (Some(target), _, file) => (file, Errand::Send(target.clone(), Box::new(spec.about.clone()))),
            (None, Some(_), Some(file)) => (None, Errand::Write(Box::new(file))),
            (None, _, file) => return Ok(Self { file, courier: None }),
        };
        let courier = Courier::start(errand, spec.buffer, run_dir).map_err(|error| {
            let error = Error::new(yare_errdefs::class_of_io(&error), "failed to initialize logging driver")
                .caused_by(error);
            Failure::new(&error)
        })?;
        Ok(Self { file, courier: Some(courier) })
    }

    /// Takes output; no bytes end the stream.
    pub(crate) fn write(&mut self, journal: &mut Journal, stream: Stream, bytes: &[u8]) {
        let now = Timestamp::now();
        if let Some(file) = &mut self.file {
            let result =
                if bytes.is_empty() { file.finish(stream, now) } else { file.append(stream, bytes, now) };
            if let Err(error) = result {
                journal.log_failed(&error);
            }
        }
        if let Some(courier) = &mut self.courier {
            courier.take(stream, bytes, now);
        }
    }

    /// Hands on what was taken in this round.
    pub(crate) fn flush(&mut self, journal: &mut Journal) {
        if let Some(Err(error)) = self.file.as_mut().map(Writer::flush) {
            journal.log_failed(&error);
        }
        if let Some(courier) = &mut self.courier {
            courier.hand_over(journal);
        }
    }

    /// Whether the container has to wait before it says more.
    pub(crate) fn is_full(&self) -> bool {
        self.courier.as_ref().is_some_and(Courier::is_full)
    }
}

fn options(spec: &LogSpec) -> WriterOptions {
    WriterOptions {
        max_size: spec.max_size,
        max_file: spec.max_file,
        compress: spec.compress,
        attrs: spec.attrs.clone(),
    }
}
