//! Layer tar: apply and diff, whiteouts, compression, copies between trees.
//!
//! A layer is applied into a directory of its own, in the form in which overlayfs wants it as a lower
//! directory: a deleted name is a character device 0:0, a directory that hides what is below carries
//! `trusted.overlay.opaque=y`. Nothing about the layers below is needed for that, so layers apply in any
//! order and side by side; what can only be settled with them ([`Applied::implied_dirs`],
//! [`Applied::lower_links`]) is reported to the caller.
//!
//! The tar is hostile input. Every name is taken apart, and every step is one name opened below the
//! descriptor of its parent without following links; links inside the layer are expanded by this crate and
//! end at the layer's root.

mod apply;
mod blocks;
mod compression;
mod copy;
mod error;
mod extract;
mod gzip;
mod metadata;
mod ordered;
mod readahead;
mod rebuild;
mod record;
mod tar;
mod tree;
mod walk;
mod write;

pub use apply::{Applied, ApplyOptions, Limits, apply};
pub use compression::{Compression, Compressor, Decompressor, compress};
pub use copy::{copy_metadata, copy_tree, merge_layer, tree_size};
pub use error::{ApplyError, LayerError};
pub use extract::{ExtractOptions, Extracted, extract, is_archive};
pub use gzip::{rebuild_gzip, write_gzip_recipe};
pub use metadata::{Metadata, Xattrs, image_xattrs, permitted_xattr};
pub use readahead::ReadAhead;
pub use rebuild::rebuild_tar;
pub use tar::Timestamp;
pub use walk::{Found, Walk, data_pieces};
pub use write::{Form, WriteOptions, Written, write_directory, write_file, write_tar, write_trees};
