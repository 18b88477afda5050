//! `commit`: what a container changed becomes a layer, and with its image's layers another image.

use crate::commit::NewImage;
use crate::failure::Lift;
use crate::image::ImageId;
use crate::store::Store;
use jiff::Timestamp;
use yare_errdefs::{Error, Result};
use yare_oci::{ContainerConfig, DiffId, History, ImageConfig, Reference, RootFs};

/// What to make an image of.
#[derive(Debug, Clone)]
pub struct Capture {
    /// The writable snapshot. What writes to it meanwhile may be seen or not.
    pub snapshot: String,
    /// The layers below it, bottom first; somebody keeps them.
    pub layers: Vec<DiffId>,
    /// The image they are of.
    pub parent: ImageId,
    /// How containers of the new image run by default.
    pub config: ContainerConfig,
    /// Who makes it.
    pub author: String,
    /// A remark.
    pub comment: String,
    /// When.
    pub created: Timestamp,
    /// What the container ran.
    pub created_by: String,
    /// A name for the image.
    pub reference: Option<Reference>,
}

impl Store {
    /// Makes the image. The snapshot stays as it is. ● Committing the image is the commit point: killed before
    /// it, the next start sweeps the layer.
    pub fn capture(&self, capture: Capture) -> Result<ImageId> {
        let parent = self
            .image(&capture.parent)
            .ok_or_else(|| Error::not_found(format!("No such image: {}", capture.parent)))?;
        let mut lease = self.lease();
        let (pending, applied) = self.inner.snapshots.capture(&capture.snapshot).lift()?;
        let mut layers = capture.layers;
        // As with dockerd, who changed nothing adds no layer.
        let empty_layer = applied.files == 0 && !applied.root_opaque;
        if !empty_layer {
            lease.layer(applied.diff_id);
            layers.push(applied.diff_id);
            self.inner.snapshots.commit_layers(vec![(pending, applied)]).lift()?;
        }
        let created = Some(capture.created.to_string());
        let mut history = parent.config.history.clone();
        history.push(History {
            created: created.clone(),
            created_by: capture.created_by,
            author: capture.author.clone(),
            comment: capture.comment.clone(),
            empty_layer,
        });
        let base = &parent.config;
        let config = ImageConfig {
            created,
            author: capture.author,
            architecture: base.architecture.clone(),
            os: base.os.clone(),
            variant: base.variant.clone(),
            os_version: base.os_version.clone(),
            config: capture.config,
            rootfs: RootFs { diff_ids: layers, ..RootFs::default() },
            history,
            comment: capture.comment,
            ..ImageConfig::default()
        };
        let mut new = NewImage::from_config(&config)?;
        new.parent = Some(capture.parent);
        new.references.extend(capture.reference);
        Ok(self.commit_image(new)?.image.id)
    }
}
