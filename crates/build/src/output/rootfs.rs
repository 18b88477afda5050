//! The roots of images as a plain tar.

use super::Image;
use super::blobs::Watched;
use super::local::platform_folder;
use crate::Cancel;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use yare_errdefs::{Error, Result};
use yare_layer::{Form, WriteOptions, write_tar, write_trees};

/// Writes the trees of images, their merged layers, as a tar: sorted, owners and times as in the image. One
/// image fills the tar; of several, each has a folder named by its platform.
pub fn write_rootfs(images: &[(&Image, OwnedFd)], sink: &mut dyn Write, cancel: &Cancel) -> Result<()> {
    let sink = Watched { sink, cancel };
    let written = match images {
        [(_, root)] => {
            write_tar(root.as_fd(), sink, &WriteOptions { form: Form::Plain, ..WriteOptions::default() })
        }
        _ => {
            let names: Vec<String> = images.iter().map(|(image, _)| platform_folder(image)).collect();
            let trees = names.iter().zip(images).map(|(name, (_, root))| (name.as_str(), root.as_fd()));
            write_trees(&trees.collect::<Vec<_>>(), sink)
        }
    };
    cancel.check()?;
    written.map(drop).map_err(|error| Error::wrap("cannot write the root as a tar", error))
}
