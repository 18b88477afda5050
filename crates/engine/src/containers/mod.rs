//! Containers: one file a use case.

pub mod attach;
pub mod create;
pub(crate) mod exit;
pub mod inspect;
pub mod list;
pub mod logs;
pub mod remove;
pub mod rename;
pub mod start;
pub mod stop;
pub mod update;

pub use attach::{AttachOptions, attach, resize};
pub use create::create;
pub use inspect::{inspect, inspect_with_size, top, wait};
pub use list::{ListOptions, list, list_with_sizes};
pub use logs::{LogsOptions, logs};
pub use remove::{RemoveOptions, prune, remove};
pub use rename::rename;
pub use start::start;
pub use stop::{kill, pause, restart, stop, unpause};
pub use update::update;

use crate::Engine;
use std::path::PathBuf;

/// The current file of a container's log.
pub(crate) fn log_path(engine: &Engine, id: &str) -> PathBuf {
    engine.container_dir(id).join(format!("{id}-json.log"))
}
