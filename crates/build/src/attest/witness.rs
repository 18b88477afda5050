//! What a build knows of itself, put into attestations.

use super::packages::inventory;
use super::provenance::{self, Build, Material, Named, Step};
use super::sbom::{Described, spdx};
use crate::export::Product;
use crate::graph::{CopyOp, CopySource, MountKind, Op, RunOp, VertexId};
use crate::lower::{Lowered, Target};
use crate::request::{ContextSource, Request};
use crate::solve::{Outcome, Tools};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use yare_oci::Platform;

/// Which attestations are wanted. Pure.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    sbom: bool,
    provenance: Option<provenance::Options>,
}

impl Wanted {
    /// Reads `--sbom`, `--provenance` and `--attest`.
    ///
    /// # Errors
    /// An attribute is unknown, or wants what is not here.
    pub(crate) fn of(request: &Request) -> Result<Self> {
        let mut wanted = Self::default();
        for (kind, attributes) in &request.attest {
            match kind.as_str() {
                "provenance" => wanted.provenance = provenance::Options::from_attributes(attributes)?,
                "sbom" => wanted.sbom = sbom_is_wanted(attributes)?,
                other => {
                    return Err(Error::invalid(format!("unsupported attestation type {other:?}"))
                        .with_hint("the types are sbom and provenance"));
                }
            }
        }
        Ok(wanted)
    }

    pub(crate) fn any(&self) -> bool {
        self.sbom || self.provenance.is_some()
    }

    /// Adds what is wanted to every product.
    pub(crate) fn attest(
        &self,
        products: &mut [Product],
        (lowered, needed): (&Lowered, &[VertexId]),
        outcomes: &BTreeMap<VertexId, Outcome>,
        (request, tools): (&Request, &Tools<'_>),
    ) -> Result<()> {
        if !self.any() {
            return Ok(());
        }
        let work = tools.progress.work("attesting");
        for (product, target) in products.iter_mut().zip(&lowered.targets) {
            if self.sbom {
                let bill = bill(product, target, request, tools).inspect_err(|error| {
                    tracing::debug!(error = yare_errdefs::chain(error), "no bill of materials");
                });
                product.image.attestations.push(bill?);
            }
            if let Some(options) = &self.provenance {
                let mut build = build(lowered, needed, outcomes, request);
                build.layers = product.image.layers.iter().map(|layer| layer.0).collect();
                product.image.attestations.push(provenance::provenance(&build, options));
            }
        }
        drop(work);
        Ok(())
    }
}

fn sbom_is_wanted(attributes: &BTreeMap<String, String>) -> Result<bool> {
    for (key, value) in attributes {
        match (key.as_str(), value.as_str()) {
            ("disabled", "true") => return Ok(false),
            ("disabled" | "type", _) => {}
            ("generator", _) => {
                return Err(Error::unimplemented(format!("the SBOM generator {value} is not run"))
                    .with_hint("leave out generator=: the engine looks through the image itself"));
            }
            _ => return Err(Error::invalid(format!("unknown sbom attribute {key:?}"))),
        }
    }
    Ok(true)
}

fn bill(
    product: &Product,
    target: &Target,
    request: &Request,
    tools: &Tools<'_>,
) -> Result<super::Attestation> {
    let root = tools
        .snapshots
        .stack_fd(&product.stack)
        .map_err(|error| Error::wrap("cannot open the result of the build", error))?;
    let created = jiff::Timestamp::from_second(target.epoch).map(|time| time.to_string());
    let described = Described {
        name: request.tags.first().map_or_else(|| "image".to_owned(), yare_oci::Reference::familiar),
        created: created.unwrap_or_default(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    spdx(&inventory(root.as_fd(), tools.cancel)?, &described)
}

/// What went in and what was done. Of parallel steps the order is that of the Dockerfile; nothing tells of
/// this host or the time.
fn build(
    lowered: &Lowered,
    needed: &[VertexId],
    outcomes: &BTreeMap<VertexId, Outcome>,
    request: &Request,
) -> Build {
    let mut build = Build {
        config_source: request.repository.clone(),
        dockerfile: request.dockerfile_name.clone(),
        args: arguments(request),
        sources: [(
            request.dockerfile_name.clone(),
            String::from_utf8_lossy(&request.dockerfile).into_owned(),
        )]
        .into(),
        platform: Platform::host().to_string(),
        hermetic: true,
        ..Build::default()
    };
    let image = |(reference, platform, image): &(_, _, std::sync::Arc<yare_image::Image>)| {
        Material::image(reference, platform, &image.manifest)
    };
    build.materials.extend(lowered.images.iter().map(image));
    build.materials.extend(request.repository.clone());
    let mut locals = BTreeSet::new();
    let id = |vertex: &VertexId| outcomes.get(vertex).map(|outcome| outcome.key.to_string());
    for vertex in needed {
        let known = lowered.graph.vertex(*vertex);
        build.steps.push(Step {
            id: id(vertex).unwrap_or_default(),
            name: known.name.clone(),
            inputs: known.op.inputs().iter().filter_map(id).collect(),
        });
        match &known.op {
            // What is in a commit is told by the commit.
            Op::Copy(CopyOp { source: CopySource::Context(name), .. })
                if name.is_empty() && request.repository.is_some() => {}
            Op::Copy(CopyOp { source: CopySource::Context(name), .. }) => {
                locals.insert(if name.is_empty() { "context".to_owned() } else { name.clone() });
            }
            Op::Fetch(_) => {
                build.hermetic = false;
                let outcome = outcomes.get(vertex);
                build.materials.extend(outcome.and_then(|outcome| outcome.material.as_deref().cloned()));
            }
            Op::Run(run) => running(run, &mut build),
            _ => {}
        }
    }
    build.locals = locals.into_iter().collect();
    build.secrets.dedup();
    build.ssh.dedup();
    build
}

fn running(run: &RunOp, build: &mut Build) {
    build.hermetic &= run.spec.network == "none";
    for mount in &run.spec.mounts {
        let (named, list) = match &mount.kind {
            MountKind::Secret { id, required, .. } => ((id, required), &mut build.secrets),
            MountKind::Ssh { id, required, .. } => ((id, required), &mut build.ssh),
            _ => continue,
        };
        list.push(Named { id: named.0.clone(), optional: !named.1 });
        list.sort();
    }
}

fn arguments(request: &Request) -> BTreeMap<String, String> {
    let mut args = BTreeMap::new();
    if !request.target.is_empty() {
        args.insert("target".to_owned(), request.target.clone());
    }
    for (name, value) in &request.build_args {
        args.insert(format!("build-arg:{name}"), value.clone().unwrap_or_default());
    }
    for (name, value) in &request.labels {
        args.insert(format!("label:{name}"), value.clone());
    }
    for (name, source) in &request.contexts {
        let value = match source {
            ContextSource::Folder => "local".to_owned(),
            ContextSource::Image(reference) => format!("docker-image://{reference}"),
            // An address may have a password in it.
            ContextSource::Git(_) => "git".to_owned(),
            ContextSource::Http(_) => "http".to_owned(),
        };
        args.insert(format!("context:{name}"), value);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(kind: &str, attributes: &[(&str, &str)]) -> Result<Wanted> {
        let attributes =
            attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Wanted::of(&Request { attest: [(kind.to_owned(), attributes)].into(), ..Request::default() })
    }

    #[test]
    fn attributes_are_read_strictly() {
        assert!(wanted("sbom", &[]).unwrap().sbom);
        assert!(!wanted("sbom", &[("disabled", "true")]).unwrap().any());
        assert!(wanted("provenance", &[("mode", "max")]).unwrap().any());
        for (kind, key) in
            [("sbom", "generator"), ("sbom", "what"), ("provenance", "modus"), ("other", "type")]
        {
            assert!(wanted(kind, &[(key, "x")]).is_err(), "{kind} {key}");
        }
    }
}
