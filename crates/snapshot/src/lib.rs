//! Snapshotters: layer directories to mounts described as data.
//!
//! On disk, below the store's root (format 1; the file `version` holds the number):
//!
//! ```text
//! layers/<diffid hex>/fs          one layer in overlay form, immutable
//! layers/<diffid hex>/meta.json   its sizes, and what must be settled with the layers below
//! layers/<diffid hex>/tar-split   the record from which its tar is rebuilt (yare_layer::rebuild_tar)
//! layers/<diffid hex>             or a link to the draft that it is
//! drafts/<id>/fs                  a layer whose hash nobody asked for yet (`drafts.rs`); `meta.json` as above
//!                                 once it is known
//! fixups/<chainid hex>/fs         goes above the chain's top layer: see `fixup.rs`
//! fixups/<chainid hex>/layers     the chain's DiffIDs, bottom first, one a line
//! deep/<hash>/fs                  the lowest layers and drafts of a chain that is too long: see `deep.rs`
//! deep/<hash>/layers              their names, bottom first, one a line
//! views/<chainid hex>/root        the chain as one tree (copy), and `layers` as above
//! active/<id>/{upper,work}        a container's writable layer (overlay), or
//! active/<id>/root                its whole file system (copy)
//! empty/                          the lower directory of an image without layers
//! skeleton/                       below every container's layers (overlay): see `skeleton.rs`
//! nothing/                        a second lower directory where overlay wants two
//! tmp/<unique>/                   a layer or fixup being made; moved to the trash when the store is opened
//! trash/<unique>                  being removed in the background
//! ```
//!
//! Nothing here mounts in the host's namespace: [`Snapshots::mounts`] describes ([`Rootfs`]), the process
//! that owns the container's mount namespace executes; [`Snapshots::tree_fd`] makes a mount that is
//! attached nowhere.

mod changes;
mod deep;
mod drafts;
mod error;
mod fixup;
mod layers;
mod merged;
mod rootfs;
mod skeleton;
mod snapshotter;
mod store;
mod trash;

pub use changes::{Change, ChangeKind};
pub use drafts::{DraftId, PendingDraft, Place, Stack};
pub use error::Error;
pub use layers::{LayerInfo, PendingLayer};
pub use rootfs::{OVERLAY_OPTIONS, Rootfs, escape_overlay_path};
pub use snapshotter::Snapshotter;
pub use store::{Kind, Snapshots};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
