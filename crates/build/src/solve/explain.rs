//! Why a step ran.

use super::Solver;
use crate::graph::VertexId;
use crate::keys::Parts;
use yare_oci::Digest;

impl Solver<'_> {
    /// What the step at this place was made of last time; remembers this time.
    pub(super) fn before(&self, id: VertexId, parts: &Parts) -> Option<Parts> {
        let name = place_of(&self.graph.vertex(id).name);
        let place = Digest::of(format!("{}\0{name}", self.request.identity));
        let before = self.tools.cache.seen(&place);
        if let Ok(text) = serde_json::to_vec(parts) {
            self.tools.cache.keep_seen(place, text);
        }
        serde_json::from_slice(&before?).ok()
    }

    /// Compares with what the step at this place was made of last time. Empty unless somebody asked.
    pub(super) fn explain(&self, id: VertexId, parts: &Parts, before: Option<&Parts>) -> String {
        if !self.request.explain {
            return String::new();
        }
        if self.graph.vertex(id).no_cache {
            return "the cache was switched off for it".to_owned();
        }
        let Some(old) = before else {
            return "it has not run here before".to_owned();
        };
        parts.differs_from(old).unwrap_or_else(|| "its result was pruned".to_owned())
    }
}

/// A step's place in the Dockerfile: stage and number, whatever it does.
fn place_of(name: &str) -> &str {
    name.split_inclusive(']').next().unwrap_or(name)
}
