//! The history of an image as a cache, as the classic builder reads it: where the layers below are the same
//! and the commands up to a `RUN` are, its layer is the same.
//!
//! What a `COPY` takes is not in a history of BuildKit's kind, so it is done anew; the layer it makes tells
//! whether it was the same.

use crate::graph::{Op, VertexId};
use crate::lower::Lowered;
use crate::solve::Tools;
use crate::{Error, Result};
use std::collections::HashMap;
use yare_image::Image;
use yare_oci::{DiffId, ImageConfig};
use yare_snapshot::Stack;

/// What images' histories say of a build's steps.
#[derive(Debug, Default)]
pub(super) struct Known {
    layers: HashMap<VertexId, Vec<Candidate>>,
}

/// A layer, and those that it was made above.
#[derive(Debug, PartialEq, Eq)]
struct Candidate {
    below: Vec<DiffId>,
    layer: DiffId,
}

impl Known {
    pub(super) fn compare(&mut self, lowered: &Lowered, image: &Image) {
        for target in &lowered.targets {
            let steps = target.history.iter().map(|step| {
                let kind = step.vertex.map(|vertex| (vertex, &lowered.graph.vertex(vertex).op));
                let kind = match kind {
                    Some((vertex, Op::Run(_))) => Kind::Run(vertex),
                    Some((_, Op::Copy(_))) => Kind::Copy,
                    _ => Kind::Other,
                };
                (step.created_by.as_str(), kind)
            });
            let other = (&*image.config, &image.layers[..]);
            for (vertex, candidate) in same(&target.config, steps, other) {
                self.layers.entry(vertex).or_default().push(candidate);
            }
        }
    }

    /// The layer of a step above this stack.
    pub(super) fn layer(&self, id: VertexId, base: &Stack, tools: &Tools<'_>) -> Result<Option<DiffId>> {
        let Some(candidates) = self.layers.get(&id) else { return Ok(None) };
        let mut below = base.layers.clone();
        for draft in &base.drafts {
            let info = tools.snapshots.hash_draft(draft);
            below.push(info.map_err(|error| Error::wrap("cannot hash the result of a step", error))?.diff_id);
        }
        let found = candidates.iter().find(|candidate| candidate.below == below);
        Ok(found.map(|candidate| candidate.layer))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Run(VertexId),
    Copy,
    Other,
}

/// The steps whose commands, and those before them, are the same in an image with these layers.
fn same<'a>(
    base: &ImageConfig,
    steps: impl Iterator<Item = (&'a str, Kind)>,
    (image, layers): (&ImageConfig, &[DiffId]),
) -> Vec<(VertexId, Candidate)> {
    let mut found = Vec::new();
    let below = &base.rootfs.diff_ids;
    let Some((first, rest)) = image.history.split_at_checked(base.history.len()) else { return found };
    let alike = |(one, other): (&yare_oci::History, &yare_oci::History)| {
        (&one.created_by, one.empty_layer) == (&other.created_by, other.empty_layer)
    };
    if !layers.starts_with(below) || !base.history.iter().zip(first).all(alike) {
        return found;
    }
    let mut at = below.len();
    for ((command, kind), line) in steps.zip(rest) {
        if kind != Kind::Copy && plain(command) != plain(&line.created_by) {
            break;
        }
        if line.empty_layer {
            continue;
        }
        let Some(layer) = layers.get(at) else { break };
        if let Kind::Run(vertex) = kind {
            found.push((vertex, Candidate { below: layers[..at].to_vec(), layer: *layer }));
        }
        at += 1;
    }
    found
}

/// A command without what the builder of its time put around it: `RUN … # buildkit`, and the classic one's
/// `/bin/sh -c #(nop) `.
fn plain(command: &str) -> &str {
    let command = command.strip_suffix("# buildkit").unwrap_or(command).trim();
    let command = command.strip_prefix("/bin/sh -c #(nop)").unwrap_or(command).trim();
    command.strip_prefix("RUN ").unwrap_or(command).trim()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yare_oci::{Digest, History};

    fn image(lines: &[(&str, bool)]) -> (ImageConfig, Vec<DiffId>) {
        let history = lines.iter().map(|(command, empty_layer)| History {
            created_by: (*command).to_owned(),
            empty_layer: *empty_layer,
            ..History::default()
        });
        let layers = lines.iter().filter(|(_, empty)| !empty).map(|(text, _)| DiffId(Digest::of(*text)));
        let layers: Vec<DiffId> = layers.collect();
        let mut config = ImageConfig { history: history.collect(), ..ImageConfig::default() };
        config.rootfs.diff_ids.clone_from(&layers);
        (config, layers)
    }

    #[test]
    fn commands_of_both_builders_are_the_same_up_to_the_first_that_differs() {
        let (base, _) = image(&[("base", false)]);
        let (config, layers) = image(&[
            ("base", false),
            ("/bin/sh -c #(nop)  ENV A=b", true),
            ("|1 N=x /bin/sh -c make", false),
            ("/bin/sh -c #(nop) COPY file:1234 in /f", false),
            ("RUN /bin/sh -c test # buildkit", false),
            ("RUN /bin/sh -c other # buildkit", false),
        ]);
        let (run, test, last) = (VertexId(1), VertexId(2), VertexId(3));
        let steps = |env: &'static str| {
            [
                (env, Kind::Other),
                ("RUN |1 N=x /bin/sh -c make # buildkit", Kind::Run(run)),
                ("COPY f /f # buildkit", Kind::Copy),
                ("RUN /bin/sh -c test # buildkit", Kind::Run(test)),
                ("RUN /bin/sh -c changed # buildkit", Kind::Run(last)),
            ]
        };
        let found = same(&base, steps("ENV A=b").into_iter(), (&config, &layers));
        let at = |count: usize| Candidate { below: layers[..count].to_vec(), layer: layers[count] };
        assert_eq!(found, [(run, at(1)), (test, at(3))]);
        assert!(same(&base, steps("ENV A=c").into_iter(), (&config, &layers)).is_empty());
        let (other, _) = image(&[("another", false)]);
        assert!(same(&other, steps("ENV A=b").into_iter(), (&config, &layers)).is_empty());
        let (long, _) = image(&[("base", false); 9]);
        assert!(same(&long, steps("ENV A=b").into_iter(), (&config, &layers)).is_empty());
    }
}
