//! The Docker Engine API as values.
//!
//! The types are those of the newest version served, 1.51, named as its specification names them; requests
//! of older versions are lifted to it and replies taken down from it by [`compat`]. Requests take `null`
//! and missing members everywhere and ignore unknown ones, as Go does; replies are written member for
//! member as dockerd 28.5 writes them, which the tests compare with recorded ones.
//!
//! Beside the types are the parts of the protocol that are not JSON objects: [`filters`], the
//! [`stream`] framing, [`progress`] messages, [`auth`] headers, [`archive`] headers, and what clients show
//! or match literally: [`units`], [`status`], [`texts`], [`names`].

pub mod archive;
pub mod auth;
pub mod build;
pub mod compat;
pub mod container;
pub mod event;
pub mod exec;
pub mod filters;
pub mod image;
pub mod mount;
pub mod names;
pub mod network;
mod null;
mod pattern;
pub mod progress;
pub mod stats;
pub mod status;
pub mod stream;
pub mod system;
pub mod texts;
pub mod time;
pub mod units;
pub mod version;
pub mod volume;

pub use container::*;
pub use event::*;
pub use exec::*;
pub use image::*;
pub use network::*;
pub use pattern::Pattern;
pub use system::*;
pub use version::Version;
pub use volume::*;
