//! A build from beginning to end.

use crate::export;
use crate::failure::Failure;
use crate::lower::{self, Lowered, Target};
use crate::progress::now;
use crate::request::Request;
use crate::solve::{Beside, Outcome, Solver, Tools};
use crate::{Error, graph::VertexId};
use std::collections::BTreeMap;
use std::sync::Arc;
use yare_api::build::{BuildStep, SourcePosition, SourceRange, Vertex, VertexWarning};
use yare_dockerfile::Dockerfile;
use yare_image::{Image, NewImage, Store};
use yare_oci::Digest;

/// What came of a build.
#[derive(Debug)]
pub struct Built {
    /// The image, in the store.
    pub image: Arc<Image>,
    /// The account: a row a step in the order of the Dockerfile.
    pub steps: Vec<BuildStep>,
    /// Keys of the results it used, to be settled ([`crate::cache::Cache::settle`]).
    pub keys: Vec<Digest>,
    /// Names that other images lost.
    pub replaced: Vec<(yare_oci::Reference, yare_image::ImageId)>,
}

/// Builds an image into the store. ● The image's commit is the commit point: before it nothing is there but
/// cached results.
///
/// # Errors
/// What is wrong with the Dockerfile or what failed, with the place and the lines around it.
pub fn build(request: &Request, images: &Store, tools: Tools<'_>) -> Result<Built, Failure> {
    let dockerfile = parse(request)?;
    let quoting = |failure: Failure| failure.quoting(&request.dockerfile_name, &dockerfile.source);
    warn(&dockerfile, request, &tools);
    let lowered = lower::lower(&dockerfile, request, tools.worker).map_err(quoting)?;
    let lease = tools.cache.lease();
    let beside = Beside::new(
        tools.snapshots.clone(),
        tools.progress.clone(),
        tools.cancel.clone(),
        request.secret_scan,
    );
    let layers = export::layer_vertices(&lowered.graph, &lowered.targets);
    let needed = lowered.graph.needed(lowered.targets.iter().map(|target| target.root));
    tools.contexts.expect(&lowered.graph.context_paths(&needed));
    let solver = Solver::new(&lowered.graph, request, tools, &lease, (&layers, &beside));
    let outcomes = solver.solve(&needed).map_err(quoting)?;
    for name in &lowered.unused_args {
        tracing::debug!(name, "an argument that nothing declares");
    }
    let [target] = lowered.targets.as_slice() else {
        return Err(Error::unimplemented(
            "an image for several platforms in the image store is not built into this Yare yet",
        )
        .with_hint("build one platform at a time")
        .into());
    };
    let committed = commit(request, target, &outcomes, &beside, images, &tools)?;
    Ok(Built {
        steps: account(&lowered, &needed, &outcomes),
        keys: lease.keys(),
        image: committed.image,
        replaced: committed.replaced,
    })
}

fn commit(
    request: &Request,
    target: &Target,
    outcomes: &BTreeMap<VertexId, Outcome>,
    beside: &Beside,
    images: &Store,
    tools: &Tools<'_>,
) -> Result<yare_image::Committed, Failure> {
    let work = tools.progress.work("exporting to image");
    let commit = || -> crate::Result<yare_image::Committed> {
        let mut lease = images.lease();
        let config = export::assemble(target, outcomes, beside, images, &mut lease)?;
        tools.cancel.check()?;
        let references = request.tags.clone();
        let new = NewImage { config, references, built: true, ..NewImage::default() };
        images.commit_image(new)
    };
    let committed = commit();
    if let Err(error) = &committed {
        work.failed(&yare_errdefs::chain(error));
    }
    committed.map_err(Failure::from)
}

fn parse(request: &Request) -> Result<Dockerfile, Failure> {
    let dockerfile = yare_dockerfile::parse(&request.dockerfile).map_err(|error| {
        let lines = (error.line(), error.span().end_line);
        let source = String::from_utf8_lossy(&request.dockerfile).into_owned();
        let suggestion = error.suggestion().map(str::to_owned);
        let wrapped = Error::invalid(error.to_string());
        let wrapped = match suggestion {
            Some(suggestion) => wrapped.with_hint(suggestion),
            None => wrapped,
        };
        Failure::from(wrapped).at(lines).quoting(&request.dockerfile_name, &source)
    })?;
    check_frontend(&dockerfile)?;
    Ok(dockerfile)
}

/// `# syntax=`: the stock family is this builder; another frontend is a program that nothing here can run.
fn check_frontend(dockerfile: &Dockerfile) -> Result<(), Failure> {
    let Some(syntax) = dockerfile.directives.syntax.as_deref() else { return Ok(()) };
    let name = syntax.split(['@', ':']).next().unwrap_or_default();
    let name = name.trim_start_matches("docker.io/");
    if matches!(name, "docker/dockerfile" | "docker/dockerfile-upstream") {
        return Ok(());
    }
    Err(Error::unimplemented(format!("the frontend {syntax} is not built into this Yare yet"))
        .with_hint("Dockerfiles of the stock syntax need no such line, or # syntax=docker/dockerfile:1")
        .into())
}

/// Tells what the lint rules have to say.
fn warn(dockerfile: &Dockerfile, request: &Request, tools: &Tools<'_>) {
    for warning in yare_dockerfile::lint::lint(dockerfile, &dockerfile.directives.check) {
        let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
        let position = |line: u32| SourcePosition { line: i64::from(line), character: 0 };
        tools.progress.warning(VertexWarning {
            vertex: Digest::of("warnings").to_string(),
            level: 1,
            short: encode(&format!(
                "{}: {} (line {})",
                warning.rule.name(),
                warning.message,
                warning.span.line
            )),
            detail: vec![encode(warning.rule.description())],
            range: vec![SourceRange {
                start: position(warning.span.line),
                end: position(warning.span.end_line),
            }],
            ..VertexWarning::default()
        });
    }
    let loaded = Vertex {
        digest: Digest::of("definition").to_string(),
        name: format!("[internal] load build definition from {}", request.dockerfile_name),
        started: Some(now()),
        completed: Some(now()),
        ..Vertex::default()
    };
    tools.progress.vertex(loaded);
}

/// Where the time and the bytes went.
fn account(lowered: &Lowered, needed: &[VertexId], outcomes: &BTreeMap<VertexId, Outcome>) -> Vec<BuildStep> {
    let row = |id: &VertexId| {
        let (vertex, outcome) = (lowered.graph.vertex(*id), outcomes.get(id)?);
        (vertex.line > 0).then(|| BuildStep {
            name: vertex.name.clone(),
            cached: outcome.cached,
            duration: outcome.took,
            size: outcome.size,
            reason: outcome.reason.clone(),
        })
    };
    needed.iter().filter_map(row).collect()
}
