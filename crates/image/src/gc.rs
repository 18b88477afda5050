//! What may be thrown away: computed from records alone, then done.

use crate::image::ImageId;
use std::collections::HashSet;
use yare_oci::{DiffId, Digest};

/// What one image record refers to.
#[derive(Debug, Clone, Copy)]
pub struct Root<'a> {
    /// The image; its config is the document of that digest.
    pub id: ImageId,
    /// Its manifest document.
    pub manifest: Digest,
    /// Its layers.
    pub layers: &'a [DiffId],
    /// Compressed layers that are kept for it.
    pub kept: &'a [Digest],
}

/// Everything that some record refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Layers in use.
    pub layers: HashSet<DiffId>,
    /// Documents in use.
    pub blobs: HashSet<Digest>,
}

/// Marks what these records of images refer to. Pure.
pub fn mark<'a>(roots: impl IntoIterator<Item = Root<'a>>) -> Marked {
    let mut marked = Marked::default();
    for root in roots {
        marked.layers.extend(root.layers);
        marked.blobs.extend([root.id.0, root.manifest]);
        marked.blobs.extend(root.kept);
    }
    marked
}

impl Marked {
    /// Marks what indexes refer to beside their images: their documents, manifests and attestations.
    pub fn indexes(mut self, blobs: impl IntoIterator<Item = Digest>) -> Self {
        self.blobs.extend(blobs);
        self
    }

    /// The layers among `present` that nothing refers to.
    pub fn garbage_layers(&self, present: impl IntoIterator<Item = DiffId>) -> Vec<DiffId> {
        present.into_iter().filter(|layer| !self.layers.contains(layer)).collect()
    }

    /// The documents among `present` that nothing refers to.
    pub fn garbage_blobs(&self, present: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        present.into_iter().filter(|blob| !self.blobs.contains(blob)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_any_record_refers_to() {
        let [a, b, c] = ["a", "b", "c"].map(|text| DiffId(Digest::of(text)));
        let [one, two, lost] = ["1", "2", "x"].map(Digest::of);
        let kept = Digest::of("kept");
        let roots = [Root { id: ImageId(one), manifest: two, layers: &[a, b], kept: &[kept] }];
        let marked = mark(roots);
        assert_eq!(marked.garbage_layers([a, b, c]), [c]);
        assert_eq!(marked.garbage_blobs([one, two, kept, lost]), [lost]);
        assert_eq!(mark([]).garbage_blobs([one]), [one]);
        assert_eq!(mark([]).indexes([one]).garbage_blobs([one, two]), [two]);
    }
}
