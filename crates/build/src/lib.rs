//! The build engine: a Dockerfile becomes a graph of content-addressed steps, which is solved in parallel and
//! cached exactly.

pub mod attest;
pub mod cancel;
pub mod output;
pub mod scan;
pub mod source;

pub use cancel::Cancel;

pub use yare_errdefs::{Error, Result};
