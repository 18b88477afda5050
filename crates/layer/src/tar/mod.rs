//! Reading of tar streams: v7, ustar, pax and GNU, with their sparse files.
//!
//! Where the formats leave room, the reading is that of Go's `archive/tar`, because the field's layers were
//! written by it and checked against it: two readers that disagree about a layer are a weakness.

mod header;
mod input;
mod pax;
mod reader;
mod sparse;

pub(crate) use input::Input;
pub use reader::Timestamp;
pub(crate) use reader::{Entry, Kind, Reader, lossy};
pub(crate) use sparse::Segment;
