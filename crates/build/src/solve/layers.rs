//! File systems as chains of layers: laid one above the other, and taken apart again. No file is copied.

use super::{Outcome, Solver, source};
use crate::graph::{DiffOp, OutputOp, VertexId};
use crate::keys::Parts;
use crate::{Error, Result};
use std::collections::HashSet;
use yare_snapshot::Stack;

impl Solver<'_> {
    pub(super) fn merge(&self, inputs: &[VertexId]) -> Result<Outcome> {
        let mut stack = Stack::default();
        let mut parts = Parts::of("merge", &());
        for (place, input) in inputs.iter().enumerate() {
            let above = self.outcome(*input)?;
            parts = parts.with(format!("input {place:06}"), above.key);
            lay(&mut stack, above.stack)?;
        }
        Ok(source(parts.key(), stack))
    }

    pub(super) fn diff(&self, op: &DiffOp) -> Result<Outcome> {
        let (lower, upper) = (self.outcome(op.lower)?, self.outcome(op.upper)?);
        let stack = above(&lower.stack, &upper.stack).ok_or_else(|| {
            Error::unimplemented(
                "a diff of two file systems that do not stand on one another is not built into this Yare yet",
            )
            .with_hint("the upper one must be made of steps on top of the lower one")
        })?;
        let key = Parts::of("diff", &()).with("lower", lower.key).with("upper", upper.key).key();
        Ok(source(key, stack))
    }

    /// What a process left in a mount.
    pub(super) fn output(&self, id: VertexId, op: OutputOp) -> Result<Outcome> {
        let run = self.outcome(op.run)?;
        let (key, stack) =
            run.outputs.get(&op.mount).cloned().ok_or_else(|| {
                Error::internal("a process kept nothing of a mount that another step needs")
            })?;
        if let Some(draft) = stack.drafts.last().filter(|_| self.layers.contains(&id)) {
            self.beside.begin(draft, &self.digest(id), (!run.cached).then(HashSet::new));
        }
        Ok(Outcome { cached: run.cached, added: true, ..source(key, stack) })
    }
}

/// Lays a stack on another.
fn lay(below: &mut Stack, above: Stack) -> Result<()> {
    if !below.drafts.is_empty() && !above.layers.is_empty() {
        return Err(Error::unimplemented(
            "a merge with an image above the results of steps is not built into this Yare yet",
        )
        .with_hint("name the image first, or copy its files"));
    }
    below.layers.extend(above.layers);
    below.drafts.extend(above.drafts);
    Ok(())
}

/// What a stack has above one that it stands on; `None` when it does not stand on it. Pure.
fn above(lower: &Stack, upper: &Stack) -> Option<Stack> {
    let layers = upper.layers.strip_prefix(lower.layers.as_slice())?;
    if !layers.is_empty() && !lower.drafts.is_empty() {
        return None;
    }
    let drafts = upper.drafts.strip_prefix(lower.drafts.as_slice())?;
    Some(Stack { layers: layers.to_vec(), drafts: drafts.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_errdefs::{Class, Classified};
    use yare_oci::{DiffId, Digest};
    use yare_snapshot::DraftId;

    fn stack(layers: &[&str], drafts: &[&str]) -> Stack {
        Stack {
            layers: layers.iter().map(|name| DiffId(Digest::of(name))).collect(),
            drafts: drafts.iter().map(|name| DraftId::parse(&format!("{name:0>32}")).unwrap()).collect(),
        }
    }

    #[test]
    fn a_diff_is_what_stands_above() {
        let upper = stack(&["a", "b"], &["1", "2"]);
        assert_eq!(above(&Stack::default(), &upper), Some(upper.clone()));
        assert_eq!(above(&stack(&["a"], &[]), &upper), Some(stack(&["b"], &["1", "2"])));
        assert_eq!(above(&stack(&["a", "b"], &["1"]), &upper), Some(stack(&[], &["2"])));
        assert_eq!(above(&upper, &upper), Some(Stack::default()));
        for other in [stack(&["b"], &[]), stack(&["a"], &["1"]), stack(&["a", "b"], &["2"])] {
            assert_eq!(above(&other, &upper), None);
        }
    }

    #[test]
    fn a_merge_is_a_chain() {
        let mut merged = stack(&["a"], &[]);
        lay(&mut merged, stack(&["b"], &["1"])).unwrap();
        lay(&mut merged, stack(&[], &["2"])).unwrap();
        assert_eq!(merged, stack(&["a", "b"], &["1", "2"]));
        assert_eq!(lay(&mut merged, stack(&["c"], &[])).unwrap_err().class(), Class::Unimplemented);
    }
}
