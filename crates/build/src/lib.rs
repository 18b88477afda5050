//! The build engine: a Dockerfile becomes a graph of content-addressed steps, which is solved in parallel and
//! cached exactly.

pub mod cache;
pub mod cancel;
pub mod files;
pub mod graph;
pub mod source;

pub use cancel::Cancel;

pub use yare_errdefs::{Error, Result};
