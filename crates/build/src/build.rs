//! A build from beginning to end.

use crate::attest::Wanted;
use crate::cache::Lease;
use crate::check;
use crate::definition;
use crate::deliver::{self, Plan};
use crate::export::{self, Product};
use crate::failure::Failure;
use crate::lower::{self, Lowered};
use crate::output::archive::{Packed, pack};
use crate::output::blobs::Blobs;
use crate::output::{Packing, Request as Output};
use crate::progress::{Progress, now};
use crate::request::{Request, SecretScan};
use crate::solve::{Beside, Outcome, Solver, Tools};
use crate::transfer::{self, Export, Imports};
use crate::{Error, graph::VertexId, verify};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use yare_api::build::{BuildStep, Vertex};
use yare_dockerfile::Dockerfile;
use yare_image::{Image, NewImage, NewIndex, Store};
use yare_layer::Compression;
use yare_oci::{Descriptor, Digest, MediaType};

/// What came of a build.
#[derive(Debug)]
pub struct Built {
    /// The image, when it went into the store.
    pub image: Option<Arc<Image>>,
    /// Digest of the image's config, when there is one image; of the index of several in the store.
    pub id: Option<Digest>,
    /// Digest of the manifest or index that was made.
    pub digest: Option<Digest>,
    /// The account: a row a step in the order of the Dockerfile.
    pub steps: Vec<BuildStep>,
    /// Keys of the results it used, to be settled ([`crate::cache::Cache::settle`]).
    pub keys: Vec<Digest>,
    /// Names under which the image in the store is to be sent to its registries, and whether without a tag.
    pub push: Vec<(yare_oci::Reference, bool)>,
    /// Names that other images lost.
    pub replaced: Vec<(yare_oci::Reference, yare_image::ImageId)>,
}

/// Builds, and makes of the result what the request asks for. ● The image's commit is the commit point, or
/// the renames of files where no image is kept: before it nothing is there but cached results.
///
/// # Errors
/// What is wrong with the Dockerfile or what failed, with the place and the lines around it.
pub fn build(request: &Request, images: &Store, tools: Tools<'_>) -> Result<Built, Failure> {
    let plan = Plan::of(request)?;
    let wanted = Wanted::of(request)?;
    let exports = request.cache_to.iter().map(Export::of).collect::<crate::Result<Vec<_>>>()?;
    let mut imports = Imports::open(&request.cache_from, images, &tools)?;
    let (mut lowered, source) = understand(request, &tools)?;
    let quoting = |failure: Failure| failure.quoting(&request.dockerfile_name, &source);
    imports.compare(&lowered);
    let lease = tools.cache.lease();
    let solved = solve(&lowered, request, (&plan, &lease, &imports), tools).map_err(quoting)?;
    if exports.contains(&Export::Inline) {
        note_cache(&mut lowered, &solved);
    }
    // Protects the layers until an image is on record, and lets them go when none shall be.
    let mut layers = images.lease();
    let mut products = solved.products(&plan, (&lowered, request), (images, &mut layers), &tools)?;
    if request.verify {
        verify(&lowered, request, &solved, tools)?;
    }
    wanted.attest(&mut products, (&lowered, &solved.needed), &solved.outcomes, (request, &tools))?;
    let delivered = deliver::deliver(&plan, &products, images, &tools)?;
    for export in &exports {
        keep_cache(export, (&lowered, &solved), &tools)?;
    }
    let digest = delivered.digest;
    tools.cancel.check()?;
    delivered.place()?;
    let committed =
        plan.store().map(|output| commit((&plan, output), &products, images, &tools)).transpose()?;
    let (stored, committed) = committed.unzip();
    let image = committed.as_ref().map(|committed| Arc::clone(&committed.image));
    Ok(Built {
        id: match products.as_slice() {
            [only] if plan.wants_layers() => Some(Digest::of(&only.image.config)),
            // Several images are known by their index.
            _ => stored,
        },
        digest: stored.or(digest),
        image,
        steps: account(&lowered, &solved),
        keys: lease.keys(),
        push: plan.pushed(),
        replaced: committed.map(|committed| committed.replaced).unwrap_or_default(),
    })
}

/// The graph of what is asked for, and the text that errors point into.
fn understand(request: &Request, tools: &Tools<'_>) -> Result<(Lowered, String), Failure> {
    if let Some(definition) = &request.definition {
        return Ok((definition::assemble(definition, request, tools.worker)?, String::new()));
    }
    let dockerfile = parse(request)?;
    let quoting = |failure: Failure| failure.quoting(&request.dockerfile_name, &dockerfile.source);
    let ignore = tools.contexts.ignore();
    let mut lowered = lower::lower(&dockerfile, request, tools.worker, ignore).map_err(quoting)?;
    let found = std::mem::take(&mut lowered.warnings);
    warn(&dockerfile, found, request, tools).map_err(quoting)?;
    for name in &lowered.unused_args {
        tracing::debug!(name, "an argument that nothing declares");
    }
    Ok((lowered, dockerfile.source))
}

/// A graph that is done.
struct Solved {
    needed: Vec<VertexId>,
    outcomes: BTreeMap<VertexId, Outcome>,
    beside: Beside,
}

fn solve(
    lowered: &Lowered,
    request: &Request,
    (plan, lease, imports): (&Plan, &Lease, &Imports<'_>),
    tools: Tools<'_>,
) -> Result<Solved, Failure> {
    let (progress, cancel) = (tools.progress.clone(), tools.cancel.clone());
    let beside = Beside::new(tools.snapshots.clone(), progress, cancel, request.secret_scan);
    // Files alone need no hashes; but who wants to be stopped by a secret wants it of them, too.
    let hashed = plan.wants_layers() || request.secret_scan == SecretScan::Fail;
    let layers =
        if hashed { export::layer_vertices(&lowered.graph, &lowered.targets) } else { HashSet::new() };
    let needed = lowered.graph.needed(lowered.targets.iter().map(|target| target.root));
    tools.contexts.expect(&lowered.graph.context_paths(&needed));
    let outcomes = Solver::new(&lowered.graph, request, tools, lease, (&layers, &beside))
        .importing(imports)
        .solve(&needed)?;
    Ok(Solved { needed, outcomes, beside })
}

impl Solved {
    /// What came out, with layers where some output is made of them.
    fn products(
        &self,
        plan: &Plan,
        (lowered, request): (&Lowered, &Request),
        (images, lease): (&Store, &mut yare_image::Lease),
        tools: &Tools<'_>,
    ) -> Result<Vec<Product>, Failure> {
        let mut products = Vec::new();
        for target in &lowered.targets {
            let mut product = Product::new(target, &self.outcomes)?;
            self.beside.finish(&product.stack.drafts)?;
            if plan.wants_layers() {
                let squashed = if request.squash { product.squash(tools)? } else { None };
                let made = product.assemble(target, &self.outcomes, &self.beside, images, lease);
                // Nobody finds it under a key: what keeps it now is its layer.
                let released = squashed.map(|draft| tools.snapshots.release_draft(&draft)).transpose();
                made?;
                released.map_err(|error| Error::wrap("cannot let go of a squashed layer", error))?;
            }
            products.push(product);
        }
        Ok(products)
    }
}

/// Puts the keys of its layers into the config of each image. Those of layers that were made one are no use.
fn note_cache(lowered: &mut Lowered, solved: &Solved) {
    for target in &mut lowered.targets {
        let Some(root) = solved.outcomes.get(&target.root) else { continue };
        let layers = root.stack.layers.len() + root.stack.drafts.len();
        target.cache = Some(transfer::inline(&lowered.graph, target, &solved.outcomes, layers));
    }
}

/// Writes the cache to another place. Where the user wants it so, a failure is only told of.
fn keep_cache(
    export: &Export,
    (lowered, solved): (&Lowered, &Solved),
    tools: &Tools<'_>,
) -> Result<(), Failure> {
    let Export::Apart(export) = export else { return Ok(()) };
    let work = tools.progress.work(export.title());
    let graph = (&lowered.graph, lowered.targets.as_slice(), solved.needed.as_slice());
    let Err(error) = export.write(graph, &solved.outcomes, tools) else { return Ok(()) };
    work.failed(&yare_errdefs::chain(&error));
    tools.cancel.check()?;
    if export.ignore_error {
        tracing::warn!(error = yare_errdefs::chain(&error), "a build cache is not written");
        return Ok(());
    }
    Err(Error::wrap("cannot export the build cache", error).into())
}

/// Builds again without the cache and for itself alone, and compares.
fn verify(lowered: &Lowered, request: &Request, first: &Solved, tools: Tools<'_>) -> Result<(), Failure> {
    let work = tools.progress.work("building again to compare");
    let lease = tools.cache.lease();
    // Its steps have been told of once.
    let silent = Progress::none();
    let again = Tools { progress: &silent, ..tools };
    let beside = Beside::new(tools.snapshots.clone(), silent.clone(), tools.cancel.clone(), SecretScan::Off);
    let none = HashSet::new();
    let word = format!("{:?} {}", std::thread::current().id(), now());
    let solver = Solver::new(&lowered.graph, request, again, &lease, (&none, &beside)).apart(&word);
    let compared = solver.solve(&first.needed).and_then(|second| {
        let outcomes = (&first.outcomes, &second);
        Ok(verify::compare(lowered, outcomes, tools.snapshots, tools.cancel)?)
    });
    tools.cache.forget(lease);
    match compared {
        Ok(None) => Ok(()),
        Ok(Some(differences)) => {
            work.failed("the second build came out differently");
            let text = format!("the second build came out differently:\n{differences}");
            Err(Error::precondition(text.trim_end())
                .with_hint(
                    "look for steps that download, or write the time, a random name or a log into a file",
                )
                .into())
        }
        Err(failure) => {
            work.failed(&yare_errdefs::chain(&failure));
            Err(failure)
        }
    }
}

/// Puts the image, or the index of several and of what is attested, into the store; the digest of its
/// manifest or index.
fn commit(
    (plan, output): (&Plan, &Output),
    products: &[Product],
    images: &Store,
    tools: &Tools<'_>,
) -> Result<(Digest, yare_image::Committed), Failure> {
    let work = tools.progress.work("exporting to image");
    let commit = || -> crate::Result<(Digest, yare_image::Committed)> {
        let product = match products {
            [product] if product.image.attestations.is_empty() => product,
            _ => return commit_index((plan, output), products, images, tools),
        };
        let annotations = output.annotations.manifest(&product.image.platform);
        let manifest = match annotations.is_empty() {
            true => None,
            false => Some(annotated(&product.image, annotations, images)?),
        };
        tools.cancel.check()?;
        let committed = images.commit_image(NewImage {
            config: product.image.config.clone(),
            manifest,
            references: plan.names(),
            built: true,
            ..NewImage::default()
        })?;
        Ok((committed.image.manifest, committed))
    };
    let committed = commit();
    if let Err(error) = &committed {
        work.failed(&yare_errdefs::chain(error));
    }
    committed.map_err(Failure::from)
}

/// Puts an index into the store. Its manifests are over the layers as the store has them.
fn commit_index(
    (plan, output): (&Plan, &Output),
    products: &[Product],
    images: &Store,
    tools: &Tools<'_>,
) -> crate::Result<(Digest, yare_image::Committed)> {
    let pictures: Vec<_> = products.iter().map(|product| product.image.clone()).collect();
    let names = plan.names();
    let plain = Packing { compression: Compression::Plain, level: None };
    let mut blobs = Blobs::new(images, tools.scratch, plain);
    let packed = pack(&pictures, &names, &output.annotations, &mut blobs, tools.cancel)?;
    let index: yare_oci::Index = serde_json::from_slice(&packed.top.bytes)
        .map_err(|error| Error::internal("an index that was made here cannot be read").caused_by(error))?;
    let mut new = NewIndex { document: packed.top.bytes.clone(), references: names, ..NewIndex::default() };
    let members = index.manifests.iter().filter(|member| !yare_image::platforms::is_attestation(member));
    let mut pairs = Vec::new();
    for (member, picture) in members.zip(&pictures) {
        let manifest = packed.documents().get(&member.digest).cloned();
        let manifest = manifest.ok_or_else(|| Error::internal("a manifest that was made here is gone"))?;
        new.present.push((manifest.clone(), yare_image::ImageId(Digest::of(&picture.config))));
        pairs.push((manifest, picture.config.clone()));
    }
    let lease = keep_attestations(&packed, &mut new, images)?;
    tools.cancel.check()?;
    let image = |(manifest, config)| NewImage {
        config,
        manifest: Some(manifest),
        built: true,
        ..NewImage::default()
    };
    let (_, mut indexes) = images.commit(pairs.into_iter().map(image).collect(), vec![new])?;
    drop(lease);
    let committed = indexes.pop();
    let committed = committed.ok_or_else(|| Error::internal("an index was committed and is not there"))?;
    Ok((packed.top.descriptor.digest, committed))
}

/// Puts what is attested into the content store, under a lease until the index is on record.
fn keep_attestations(
    packed: &Packed,
    new: &mut NewIndex,
    images: &Store,
) -> crate::Result<yare_image::Lease> {
    let mut lease = images.lease();
    for (digest, bytes) in packed.documents() {
        let is_image = new.present.iter().any(|(manifest, id)| id.0 == *digest || manifest == bytes);
        if is_image || *digest == packed.top.descriptor.digest {
            continue;
        }
        lease.blob(*digest);
        images.content().put(bytes).map_err(|error| Error::wrap("cannot keep an attestation", error))?;
        new.kept.push(*digest);
    }
    Ok(lease)
}

/// A manifest over the layers as the store has them.
fn annotated(
    image: &crate::output::Image,
    annotations: BTreeMap<String, String>,
    images: &Store,
) -> crate::Result<Vec<u8>> {
    let layer = |layer: &yare_oci::DiffId| {
        let info = images.snapshots().layer(layer);
        let info = info.map_err(|error| Error::wrap("cannot describe a layer of the image", error))?;
        Ok(Descriptor::new(MediaType::OCI_LAYER, layer.0, info.size))
    };
    let layers = image.layers.iter().map(layer).collect::<crate::Result<_>>()?;
    Ok(crate::output::layout::manifest(&image.config, layers, annotations)?.bytes)
}

pub(crate) fn parse(request: &Request) -> Result<Dockerfile, Failure> {
    yare_dockerfile::parse(&request.dockerfile).map_err(|error| {
        let lines = (error.line(), error.span().end_line);
        let source = String::from_utf8_lossy(&request.dockerfile).into_owned();
        let suggestion = error.suggestion().map(str::to_owned);
        let wrapped = Error::invalid(error.to_string());
        let wrapped = match suggestion {
            Some(suggestion) => wrapped.with_hint(suggestion),
            None => wrapped,
        };
        Failure::from(wrapped).at(lines).quoting(&request.dockerfile_name, &source)
    })
}

/// Tells of the Dockerfile, and what the rules say of it.
fn warn(
    dockerfile: &Dockerfile,
    found: Vec<yare_dockerfile::lint::Warning>,
    request: &Request,
    tools: &Tools<'_>,
) -> Result<(), Failure> {
    tools.progress.vertex(Vertex {
        digest: Digest::of("definition").to_string(),
        name: format!("[internal] load build definition from {}", request.dockerfile_name),
        started: Some(now()),
        completed: Some(now()),
        ..Vertex::default()
    });
    let options = check::options(dockerfile, request)?;
    check::tell(&check::all(dockerfile, &options, found), &options, tools.progress)
}

/// Where the time and the bytes went.
fn account(lowered: &Lowered, solved: &Solved) -> Vec<BuildStep> {
    let row = |id: &VertexId| {
        let (vertex, outcome) = (lowered.graph.vertex(*id), solved.outcomes.get(id)?);
        (vertex.line > 0).then(|| BuildStep {
            name: vertex.name.clone(),
            cached: outcome.cached,
            duration: outcome.took,
            size: outcome.size,
            reason: outcome.reason.clone(),
        })
    };
    solved.needed.iter().filter_map(row).collect()
}
