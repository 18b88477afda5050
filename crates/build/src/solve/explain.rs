//! Why a step ran.

use super::Solver;
use crate::graph::VertexId;
use crate::keys::Parts;
use yare_oci::Digest;

impl Solver<'_> {
    /// Compares with what the step at this place was made of last time, and remembers this time. Empty
    /// unless somebody asked.
    pub(super) fn explain(&self, id: VertexId, parts: &Parts) -> String {
        let vertex = self.graph.vertex(id);
        let place = Digest::of(format!("{}\0{}", self.request.identity, place_of(&vertex.name)));
        let before = self.tools.cache.seen(&place);
        if let Ok(text) = serde_json::to_vec(parts) {
            self.tools.cache.keep_seen(place, text);
        }
        if !self.request.explain {
            return String::new();
        }
        if vertex.no_cache {
            return "the cache was switched off for it".to_owned();
        }
        let Some(old) = before.and_then(|text| serde_json::from_slice::<Parts>(&text).ok()) else {
            return "it has not run here before".to_owned();
        };
        parts.differs_from(&old).unwrap_or_else(|| "its result was pruned".to_owned())
    }
}

/// A step's place in the Dockerfile: stage and number, whatever it does.
fn place_of(name: &str) -> &str {
    name.split_inclusive(']').next().unwrap_or(name)
}
