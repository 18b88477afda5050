//! Containers: one file a use case.

pub mod archive;
pub mod attach;
pub mod changes;
pub mod commit;
pub mod create;
pub(crate) mod exit;
pub mod export;
pub mod inspect;
pub mod list;
pub mod logs;
pub mod remove;
pub mod rename;
pub mod start;
pub mod stats;
pub mod stop;
pub mod update;
pub(crate) mod view;

pub use archive::{ExtractOptions, archive, extract, stat_path};
pub use attach::{AttachOptions, attach, resize};
pub use changes::changes;
pub use commit::{CommitRequest, commit};
pub use create::create;
pub use export::export;
pub use inspect::{inspect, inspect_with_size, top, wait};
pub use list::{ListOptions, list, list_with_sizes};
pub use logs::{LogsOptions, logs};
pub use remove::{RemoveOptions, prune, remove};
pub use rename::rename;
pub use start::start;
pub use stats::{StatsOptions, stats};
pub use stop::{kill, pause, restart, stop, unpause};
pub use update::update;
