//! The roots of images as a plain tar.

use super::blobs::Watched;
use crate::Cancel;
use std::io::Write;
use std::os::fd::BorrowedFd;
use yare_errdefs::{Error, Result};
use yare_layer::write_trees;

/// A tree of a tar: the folder that it is in, empty for the tar itself, and its files.
pub(crate) type Part<'a> = (&'a str, BorrowedFd<'a>);

/// Writes trees as a tar: sorted, owners and times as they are. Those with the same folder follow one another.
pub fn write_rootfs(parts: &[Part<'_>], sink: &mut dyn Write, cancel: &Cancel) -> Result<()> {
    let written = write_trees(parts, Watched { sink, cancel });
    cancel.check()?;
    written.map(drop).map_err(|error| Error::wrap("cannot write the root as a tar", error))
}
