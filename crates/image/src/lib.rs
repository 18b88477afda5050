//! Image store: tags, layers, save and load, import, history, leases, garbage collection.
//!
//! An image is immutable and addressed by the digest of its config ([`ImageId`]); all its names show that
//! one id. [`Store`] keeps what is known of images in memory (readers never wait for a disk), the truth in
//! the engine's database, documents in the content store and layers as directories of the snapshotter.
//!
//! # Several platforms under one name
//!
//! A name stands for one image, or for an OCI *index* ([`ImageIndex`]): its document is kept byte for byte,
//! with the manifests of those of its images that are here and the documents of their attestations. An image
//! of an index is an image like any other, with the digest of its config as id. A name of an index *shows*
//! one of them: the host's where it is here, else the first in the order of the index. That is what lists
//! give as its id, and what everything means that wishes for no platform. The other images have no name of
//! their own and are in no list; the index keeps them. An index that no name stands for any more is gone:
//! removed by the user together with its images, pushed aside by another image its images stay, nameless.
//!
//! # What is on disk (format 2)
//!
//! ```text
//! <root>/content/    manifests and configs, and compressed layers that nothing else makes again, by digest;
//!                    also what was fetched of layers whose pull broke off (yare-content)
//! <root>/snapshots/  layers by DiffID, each with what rebuilds its tar (yare-snapshot)
//! ```
//!
//! Tables in the engine's database; a digest as key or value is its 32 raw bytes:
//!
//! | table             | key                         | value                                               |
//! |-------------------|-----------------------------|-----------------------------------------------------|
//! | `image_meta`      | `"format"`                  | 2; 1 is migrated, a greater number is refused by [`Store::open`] |
//! | `images`          | image id                    | JSON: manifest, layers, kept, parent, tagged, detached |
//! | `image_tags`      | `domain/path:tag`           | image id                                            |
//! | `image_digests`   | `domain/path@sha256:…`      | image id                                            |
//! | `image_layers`    | DiffID                      | (bytes of content, bytes of the tar)                   |
//! | `image_last_used` | image id                    | seconds since 1970; written with relaxed durability |
//! | `image_indexes`   | digest of the index         | JSON: present (manifest to image id), kept (documents of attestations) |
//! | `image_name_indexes` | a name of the tables above | digest of the index that it stands for; the other table has the image that it shows |
//! | `image_embedded`  | reference                   | JSON: fingerprint of the sources, image id          |
//!
//! Format 1 had no indexes: the migration makes the two tables and changes nothing else.
//!
//! # What a crash leaves
//!
//! A commit is: layers synced and renamed into place, documents written and synced, then one durable
//! transaction. Before that transaction nothing refers to what was written; [`Store::open`] computes what
//! the records refer to ([`gc::mark`]) and removes the rest. Removal goes the other way round: first the
//! transaction, then the files. Between the two lies at most garbage, never a record without its files.
//!
//! While the engine runs, a [`Lease`] protects what is written and not yet recorded.
//!
//! An image that is removed by force while stopped containers use it becomes *detached*: it has no name,
//! is in no list, and keeps its layers until the last of them is gone ([`Store::reap`]).

mod archive;
mod capture;
pub mod changes;
mod commit;
mod db;
mod document;
pub mod documents;
mod embedded;
mod failure;
pub mod filter;
pub mod gc;
mod history;
mod image;
mod import;
mod index;
mod lease;
mod load;
mod once;
pub mod platforms;
mod remove;
mod rewrite;
mod save;
mod store;
mod unpack;
mod usage;

#[cfg(test)]
mod tests;

pub use archive::Writer as ArchiveWriter;
pub use capture::Capture;
pub use commit::{Committed, NewImage, NewIndex};
pub use embedded::{EmbeddedContent, EmbeddedFile};
pub use filter::{ListFilters, Listed, parse_unused_for, period};
pub use history::HistoryEntry;
pub use image::{Image, ImageId};
pub use import::ImportOptions;
pub use lease::Lease;
pub use load::{LoadEvent, LoadProgress};
pub use once::KeptOnce;
pub use platforms::{ImageIndex, Member};
pub use remove::{Holder, ImageEvent, InUse, PrunedImage, Removal, RemoveOptions, Removed};
pub use rewrite::Rewritten;
pub use store::Store;
pub use unpack::Allowance;
pub use usage::{ImageUsage, SharedLayer, Usage};

pub use yare_database::Database;
pub use yare_errdefs::{Error, Result};
