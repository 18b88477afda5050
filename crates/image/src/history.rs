//! How an image came to be, in Docker's form.

use crate::image::Image;
use crate::store::Store;
use jiff::Timestamp;
use std::sync::Arc;

/// One step of an image's making, newest first in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Id of the local image that ends with this step, `<missing>` where there is none.
    pub id: String,
    /// When, in seconds since 1970; 0 where unknown.
    pub created: i64,
    /// By what command.
    pub created_by: String,
    /// Names of that image.
    pub tags: Vec<String>,
    /// Bytes on disk of the step's layer.
    pub size: u64,
    /// A remark.
    pub comment: String,
}

impl Store {
    /// The steps that made an image, newest first.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let index = self.index();
        let mut layers = image.layers.iter();
        let mut entries = Vec::with_capacity(image.config.history.len());
        for step in &image.config.history {
            let size = if step.empty_layer {
                0
            } else {
                // A history with more steps than layers is told as far as the layers go.
                layers.next().and_then(|layer| index.layer(layer)).map_or(0, |layer| layer.content)
            };
            let created = step.created.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
            entries.push(HistoryEntry {
                id: "<missing>".into(),
                created: created.map_or(0, Timestamp::as_second),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size,
                comment: step.comment.clone(),
            });
        }
        entries.reverse();
        let mut local = Some(Arc::new(image.clone()));
        for entry in &mut entries {
            let Some(image) = local else { break };
            entry.id = image.id.to_string();
            entry.tags = image.tags();
            local = image.parent.and_then(|parent| index.image(&parent).cloned());
        }
        entries
    }
}
