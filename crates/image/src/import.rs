//! `import`: a file system in a tar becomes an image of one layer.

use crate::changes;
use crate::commit::NewImage;
use crate::failure::Lift;
use crate::image::Image;
use crate::store::Store;
use crate::unpack::unpack;
use jiff::Timestamp;
use std::io::Read;
use std::sync::Arc;
use yare_errdefs::Result;
use yare_oci::{ContainerConfig, History, ImageConfig, Platform, Reference, RootFs};

/// How to import.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// A name for the image.
    pub reference: Option<Reference>,
    /// Its comment; empty is Docker's `Imported from -`.
    pub message: String,
    /// Dockerfile instructions that make its config, see [`changes::apply`].
    pub changes: Vec<String>,
    /// What it is for; the host's platform by default.
    pub platform: Option<Platform>,
}

impl Store {
    /// Makes an image of the file system in a tar, which may be compressed with gzip, zstd or xz.
    pub fn import(&self, source: impl Read, options: &ImportOptions) -> Result<Arc<Image>> {
        self.import_at(source, options, Timestamp::now())
    }

    /// The same, made at this moment.
    pub fn import_at(
        &self,
        source: impl Read,
        options: &ImportOptions,
        created: Timestamp,
    ) -> Result<Arc<Image>> {
        let mut container = ContainerConfig::default();
        changes::apply(&mut container, &options.changes)?;
        let mut lease = self.lease();
        let unpacked = unpack(self, source)?;
        let diff_id = unpacked.applied.diff_id;
        lease.layer(diff_id);
        self.inner.snapshots.commit_layers(vec![(unpacked.pending, unpacked.applied)]).lift()?;
        let config = config(container, options, diff_id, created);
        let mut new = NewImage::from_config(&config)?;
        new.references.extend(options.reference.clone());
        Ok(self.commit_image(new)?.image)
    }
}

fn config(
    container: ContainerConfig,
    options: &ImportOptions,
    layer: yare_oci::DiffId,
    created: Timestamp,
) -> ImageConfig {
    let created = Some(created.to_string());
    let comment =
        if options.message.is_empty() { "Imported from -".to_owned() } else { options.message.clone() };
    let platform = options.platform.clone().unwrap_or_else(Platform::host);
    ImageConfig {
        created: created.clone(),
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        config: container,
        rootfs: RootFs { diff_ids: vec![layer], ..RootFs::default() },
        history: vec![History { created, comment: comment.clone(), ..History::default() }],
        comment,
        ..ImageConfig::default()
    }
}
