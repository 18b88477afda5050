//! What hooks find of a container, and the hooks that are run here: the runtime runs those of the creation.

use crate::journal::Journal;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use yare_oci::runtime::{self, Spec, State};

/// Hooks of a container's running and end.
#[derive(Debug)]
pub(crate) struct Hooks {
    hooks: runtime::Hooks,
    state: State,
}

impl Hooks {
    /// Makes the run directory a bundle, in which hooks look for the specification and the root; `None` for a
    /// container without hooks.
    ///
    /// # Errors
    /// The files cannot be made.
    pub(crate) fn prepare(id: &str, spec: &Spec, run_dir: &Path) -> io::Result<Option<Self>> {
        let Some(hooks) = spec.hooks.clone() else { return Ok(None) };
        let text = serde_json::to_vec(spec).map_err(io::Error::other)?;
        // It has the environment, with secrets perhaps, as the process itself has.
        let config = run_dir.join("config.json");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(config)?;
        io::Write::write_all(&mut file, &text)?;
        match std::fs::DirBuilder::new().mode(0o700).create(run_dir.join(yare_runtime::BUNDLE_ROOT)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let state = State {
            oci_version: "1.2.0".to_owned(),
            id: id.to_owned(),
            bundle: PathBuf::from(run_dir).to_string_lossy().into_owned(),
            annotations: spec.annotations.clone(),
            ..State::default()
        };
        Ok(Some(Self { hooks, state }))
    }

    /// The program runs. What fails is noted.
    pub(crate) fn started(&mut self, pid: i32, journal: &mut Journal) {
        self.state.pid = Some(pid);
        self.run("running", &self.hooks.poststart, journal);
    }

    /// The container is no more. What fails is noted.
    pub(crate) fn stopped(&mut self, journal: &mut Journal) {
        self.state.pid = None;
        self.run("stopped", &self.hooks.poststop, journal);
    }

    fn run(&self, status: &str, hooks: &[runtime::Hook], journal: &mut Journal) {
        let state = State { status: status.to_owned(), ..self.state.clone() };
        yare_runtime::run_hooks(hooks, &state).iter().for_each(|warning| journal.note(warning));
    }
}
