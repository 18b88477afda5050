//! The root of one image as a plain tar.

use super::Image;
use super::blobs::Watched;
use crate::Cancel;
use std::io::Write;
use std::os::fd::BorrowedFd;
use yare_errdefs::{Error, Result};
use yare_layer::{Form, WriteOptions, write_tar};

/// Writes the tree at `root`, the merged layers of the only image, as a tar: sorted, owners and times as in
/// the image.
pub fn write_rootfs(
    root: BorrowedFd<'_>,
    images: &[Image],
    sink: &mut dyn Write,
    cancel: &Cancel,
) -> Result<()> {
    if images.len() > 1 {
        return Err(Error::unimplemented("a tar of several platforms is not written")
            .with_hint("build one platform, or use type=local, which makes a folder for each"));
    }
    let options = WriteOptions { form: Form::Plain, root: false };
    let written = write_tar(root, Watched { sink, cancel }, &options);
    cancel.check()?;
    written.map(drop).map_err(|error| Error::wrap("cannot write the root as a tar", error))
}
