//! A build from what a client sends to what it is told at the end.

use crate::Kit;
use crate::builds::{Active, Build};
use crate::cache;
use crate::calls::{self, Loaded, Metadata, file_name};
use crate::context::{ClientContexts, Source};
use crate::export::Exporters;
use crate::frontend::{self, Asked, Frontend, Options};
use crate::gateway;
use crate::gateway::bridge::{Caller, Outcome};
use crate::gateway::frontend::Program;
use crate::graphs::{self, Assembled, Graphs, LocalContexts};
use crate::grpc::{Code, Status};
use crate::inputs::{self, Held};
use crate::keys::ClientKeys;
use crate::layout::LayoutImage;
use crate::link::Link;
use crate::llb;
use crate::proto::control::VertexWarning as VertexWarningNews;
use crate::proto::control::{SolveRequest, SolveResponse};
use crate::proto::gateway::WarnRequest;
use crate::proto::{Any, Definition, Empty, Position, Range, SourceInfo};
use crate::read;
use base64::Engine as _;
use prost::Message;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use tokio::sync::oneshot;
use yare_api::build::{BuildOutput, BuildRequest, BuildResult, SolveStatus, VertexWarning};
use yare_build::definition::Evaluated;
use yare_build::request::ContextSource;
use yare_build::syntax::Foreign;
use yare_build::{Failure, Prepared, Progress};
use yare_engine::build::{self, Job};
use yare_errdefs::Error;
use yare_oci::{Descriptor, Digest, Platform, Reference};

/// `Control/Solve`: waits for what the client's frontend returns, or runs the one that is named, then builds.
pub(crate) async fn solve(kit: &Arc<Kit>, request: SolveRequest) -> Result<SolveResponse, Status> {
    let mut active = kit.builds.begin(request)?;
    let built = build_active(kit, &mut active).await;
    let mut record = active.build.record.lock().unwrap_or_else(PoisonError::into_inner);
    match &built {
        Ok(response) => record.response.clone_from(&response.exporter_response),
        Err(status) => record.error = Some(status.clone()),
    }
    drop(record);
    built
}

async fn build_active(kit: &Arc<Kit>, active: &mut Active<'_>) -> Result<SolveResponse, Status> {
    let build = Arc::clone(&active.build);
    let request = &build.request;
    let raw = request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty());
    let outcome = if request.frontend.is_empty() && !raw {
        let left = || Status::new(Code::Cancelled, "the client left its build");
        (&mut active.returned).await.map_err(|_| left())??
    } else {
        let options = &request.frontend_attributes;
        let wanted = Wanted { definition: request.definition.as_ref(), frontend: &request.frontend, options };
        load(kit, &Caller::client(Arc::clone(&build)), wanted, &request.inputs).await?
    };
    let (outcome, _images) = assembled(kit, &build, outcome).await?;
    let Some(loaded) = outcome.build(&build)? else { return Ok(SolveResponse::default()) };
    if loaded.asked.call.is_some() {
        return Ok(SolveResponse::default());
    }
    let source = source(kit, &build, &loaded.asked, progress(&build, Some(file(&loaded)))).await?;
    let kit = Arc::clone(kit);
    on_thread(move || run(&kit, &build, &source, &loaded)).await
}

/// Builds those of several results that are Dockerfiles, since an index is made of graphs: each becomes a graph
/// of its image, which has a name as long as what is returned.
async fn assembled(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    mut outcome: Outcome,
) -> Result<(Outcome, Vec<Held>), Status> {
    let mut images = Vec::new();
    if outcome.refs.len() < 2 {
        return Ok((outcome, images));
    }
    for (name, loaded) in outcome.refs.iter_mut().filter(|(_, loaded)| loaded.graphs.is_none()) {
        let (held, reference) = hold(kit, build, Arc::clone(loaded)).await?;
        let image = reference.to_string();
        let (_, config) = read::image(kit, build, (&image, ""), None).await?;
        outcome.metadata.entry(format!("containerimage.config/{name}")).or_insert(config);
        let graph = inputs::graph(&format!("docker-image://{image}"));
        *loaded = Arc::new(Loaded::graph(build, Graphs::of(graph, BTreeMap::new()))?);
        images.push(held);
    }
    Ok((outcome, images))
}

/// What a client wants solved.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// A graph, which needs no frontend.
    pub(crate) definition: Option<&'a Definition>,
    pub(crate) frontend: &'a str,
    pub(crate) options: &'a Options,
}

/// Runs a frontend to where it knows what is to be built.
pub(crate) async fn load(
    kit: &Arc<Kit>,
    caller: &Caller,
    wanted: Wanted<'_>,
    inputs: &BTreeMap<String, Definition>,
) -> Result<Outcome, Status> {
    let Wanted { definition, frontend, options } = wanted;
    if let Some(definition) = definition.filter(|graph| frontend.is_empty() || !graph.def.is_empty()) {
        return Ok(Outcome::single(load_graph(kit, caller, definition).await?, Metadata::new()));
    }
    if frontend.is_empty() {
        let nothing = load_graph(kit, caller, &Definition::default()).await?;
        return Ok(Outcome::single(nothing, Metadata::new()));
    }
    if let Frontend::Program(source) = frontend::named(frontend, options)? {
        return gateway::frontend::run(kit, caller, Program { source, options, inputs }).await;
    }
    let asked_for = frontend::forwarded(options, &[]);
    let loaded = match &asked_for {
        Some(_) => None,
        None => Some(load_dockerfile(kit, caller, options, inputs).await?),
    };
    let file = loaded.as_ref().map(|loaded| loaded.definition.dockerfile.as_slice()).unwrap_or_default();
    if let Some(foreign) = asked_for.or_else(|| frontend::forwarded(options, file)) {
        let forwarded = forward(kit, caller, (&foreign, options), inputs).await;
        return forwarded.map_err(|status| placed(status, &foreign, loaded.as_deref()));
    }
    let loaded = loaded.ok_or_else(|| Status::new(Code::Internal, "a frontend without a file"))?;
    let metadata = match &loaded.asked.call {
        Some(call) => calls::answer(call, &loaded)?,
        None => Metadata::new(),
    };
    Ok(Outcome::single(loaded, metadata))
}

/// Hands a file on to the frontend that it is for.
async fn forward(
    kit: &Arc<Kit>,
    caller: &Caller,
    (foreign, options): (&Foreign, &Options),
    inputs: &BTreeMap<String, Definition>,
) -> Result<Outcome, Status> {
    let mut options = options.clone();
    options.insert("cmdline".to_owned(), foreign.cmdline.clone());
    options.insert("source".to_owned(), foreign.source.clone());
    let program = Program { source: &foreign.source, options: &options, inputs };
    gateway::frontend::run(kit, caller, program).await
}

/// A frontend's failure with the line that asks for the frontend, unless it names another.
fn placed(mut status: Status, foreign: &Foreign, loaded: Option<&Loaded>) -> Status {
    let has_place = status.details.iter().any(|detail| detail.type_url.contains(SOURCE));
    match loaded {
        Some(loaded) if foreign.line > 0 && !has_place => {
            let line = i32::try_from(foreign.line).unwrap_or_default();
            status.details.push(source_detail(&file(loaded), &[lines(line, line)]));
        }
        None => {
            let cmdline = &foreign.cmdline;
            status.message = format!("failed with build-arg:BUILDKIT_SYNTAX = {cmdline}: {}", status.message);
        }
        _ => {}
    }
    status
}

/// Fetches a Dockerfile, and all that its options name.
async fn load_dockerfile(
    kit: &Arc<Kit>,
    caller: &Caller,
    options: &Options,
    inputs: &BTreeMap<String, Definition>,
) -> Result<Arc<Loaded>, Status> {
    let build = &caller.build;
    if build.local.is_some() {
        let text = "a frontend that hands its file back to the stock one needs a client with a session";
        return Err(Error::unimplemented(text).with_hint("use docker buildx build").into());
    }
    let mut asked = frontend::parse(options, &build.request.entitlements)?;
    let mut inputs = build_inputs(kit, caller, &mut asked, inputs).await?;
    let source = source(kit, build, &asked, progress(build, None)).await?;
    let images = std::mem::take(&mut asked.layouts);
    let names = images.iter().map(|_| Held::new(kit)).collect::<Result<Vec<_>, _>>()?;
    on_thread(move || {
        for ((context, image), (name, reference)) in images.iter().zip(names) {
            let platform = asked.request.platforms.first().map(|text| Platform::parse(text)).transpose();
            let platform = platform.map_err(Error::invalid)?.unwrap_or_else(Platform::host);
            bring(&source, &format!("[context {context}]"), (image, &platform), name.name())?;
            asked.sources.insert(context.clone(), ContextSource::Image(reference));
            inputs.push(name);
        }
        let name = file_name(&asked.request.dockerfile);
        let dir = asked.dockerfile_dir.as_deref();
        // In a folder of the client's it is there by its own name; elsewhere, by its path.
        let path = match (dir, asked.request.dockerfile.as_str()) {
            (Some(_), _) | (None, "") => name,
            (None, path) => path,
        };
        let definition = source.definition(&asked.context, dir, path);
        let definition = definition.map_err(|error| Status::of_build(&error))?;
        Ok(Arc::new(Loaded { asked, definition, graphs: None, _inputs: inputs }))
    })
    .await
}

/// Brings an image of the client's into the store, under this name.
fn bring(
    source: &Source,
    title: &str,
    (image, platform): (&LayoutImage, &Platform),
    name: &str,
) -> Result<(), Status> {
    let work = source.progress.work(&format!("{title} load from the client's OCI layout"));
    let folder = source.folders.take("")?;
    let brought = image.bring(source, platform, (&folder, name));
    let loaded = brought.and_then(|archive| yare_engine::images::adopt(&source.engine, archive));
    if let Err(error) = &loaded {
        work.failed(&yare_errdefs::chain(error));
    }
    Ok(loaded?)
}

/// How deep graphs may be in files that other graphs make, and bytes of all these.
const DEEPEST: usize = 8;
const LARGEST: usize = 64 << 20;

/// The graph that is in a file of what another one makes.
async fn read_graph(
    kit: &Arc<Kit>,
    caller: &Caller,
    llb::Contained { holder, file, .. }: &llb::Contained,
    depth: usize,
) -> Result<Arc<Loaded>, Status> {
    if depth > DEEPEST {
        let text = format!("graphs are in files of each other more than {DEEPEST} deep");
        return Err(Status::new(Code::InvalidArgument, text));
    }
    let loaded = load_graph_at(kit, caller, holder, depth).await?;
    let (evaluated, _held) = evaluated(kit, caller, loaded).await?;
    let bytes = read::file(kit, evaluated, file.clone()).await.map_err(|status| {
        let message = format!("cannot read the graph in a file: {}", status.message);
        Status { message, ..status }
    })?;
    let wire = Definition::decode(bytes.as_slice()).map_err(|error| {
        Error::invalid(format!("the file {file} has no graph that can be read")).caused_by(error)
    })?;
    load_graph_at(kit, caller, &wire, depth).await
}

/// Reads a graph.
async fn load_graph(kit: &Arc<Kit>, caller: &Caller, wire: &Definition) -> Result<Arc<Loaded>, Status> {
    load_graph_at(kit, caller, wire, 0).await
}

async fn load_graph_at(
    kit: &Arc<Kit>,
    caller: &Caller,
    wire: &Definition,
    depth: usize,
) -> Result<Arc<Loaded>, Status> {
    let mut results = BTreeMap::new();
    let mut inputs = Vec::new();
    for identifier in llb::results(wire)? {
        let (build, loaded) = caller.find(kit, &identifier).await?;
        let (name, reference) = hold(kit, &build, loaded).await?;
        results.insert(identifier, reference);
        inputs.push(name);
    }
    for llb::Layout { operation, image, platform } in llb::layouts(wire)? {
        let (name, reference) = held_layout(kit, &caller.build, image, platform).await?;
        results.insert(operation, reference);
        inputs.push(name);
    }
    let (mut contained, mut on) = (BTreeMap::new(), Vec::new());
    for one in llb::contained(wire)? {
        let loaded = Box::pin(read_graph(kit, caller, &one, depth + 1)).await?;
        if let Some(graphs) = &loaded.graphs {
            results.extend(graphs.results.clone());
            contained.extend(graphs.contained.clone());
            contained.extend(graphs.all.first().map(|graph| (one.operation, graph.wire.clone())));
        }
        on.push(loaded);
        if contained.values().map(Message::encoded_len).sum::<usize>() > LARGEST {
            return Err(Status::new(Code::ResourceExhausted, "the graphs in files are too large"));
        }
    }
    let graphs = Graphs { contained, _on: on, ..Graphs::of(wire.clone(), results) };
    graphs::check(&graphs, &caller.build)?;
    Ok(Arc::new(Loaded { _inputs: inputs, ..Loaded::graph(&caller.build, graphs)? }))
}

/// Brings an image of the client's into the store, under a name of its own for a while.
pub(crate) async fn held_layout(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    image: LayoutImage,
    platform: Platform,
) -> Result<(Held, Reference), Status> {
    let source = source(kit, build, &graph_options(build)?, progress(build, None)).await?;
    let (held, reference) = Held::new(kit)?;
    let name = held.name().to_owned();
    on_thread(move || bring(&source, "[internal]", (&image, &platform), &name)).await?;
    Ok((held, reference))
}

/// What of a build's options counts for graphs.
pub(crate) fn graph_options(build: &Build) -> Result<Asked, Status> {
    let request = &build.request;
    Ok(frontend::parse(&graphs::options(&request.frontend_attributes), &request.entitlements)?)
}

/// Builds the targets of the client that this one stands on.
async fn build_inputs(
    kit: &Arc<Kit>,
    caller: &Caller,
    asked: &mut Asked,
    inputs: &BTreeMap<String, Definition>,
) -> Result<Vec<Held>, Status> {
    let mut held = Vec::new();
    for (context, input) in std::mem::take(&mut asked.inputs) {
        let unknown = || Status::new(Code::InvalidArgument, format!("the request has no input {input:?}"));
        let definition = inputs.get(&input).ok_or_else(unknown)?;
        let (build, loaded) = match inputs::parse(&input, definition)? {
            Some((id, result)) => caller.input(kit, &inputs::identifier(&id, &result)).await?,
            None => (Arc::clone(&caller.build), load_graph(kit, caller, definition).await?),
        };
        let (name, reference) = hold(kit, &build, loaded).await?;
        asked.sources.insert(context, ContextSource::Image(reference));
        held.push(name);
    }
    Ok(held)
}

/// Builds a result into an image that has a name of its own for a while.
pub(crate) async fn hold(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    loaded: Arc<Loaded>,
) -> Result<(Held, Reference), Status> {
    let source = source(kit, build, &loaded.asked, progress(build, Some(file(&loaded)))).await?;
    let (name, reference) = Held::new(kit)?;
    let (kit, tag, build) = (Arc::clone(kit), name.name().to_owned(), Arc::clone(build));
    on_thread(move || {
        let nowhere = |_: usize, _: &[u8]| Err(std::io::ErrorKind::Unsupported.into());
        build_image(&kit, (&build, &source), &loaded, ((&[tag], &[]), Vec::new()), &nowhere).map(drop)
    })
    .await?;
    Ok((name, reference))
}

/// `LLBBridge/Evaluate`: does what a result needs, which is in the cache then.
pub(crate) async fn evaluate(kit: &Arc<Kit>, caller: &Caller, result: &str) -> Result<Empty, Status> {
    evaluate_loaded(kit, caller, caller.bridge().loaded(result)?).await
}

pub(crate) async fn evaluate_loaded(
    kit: &Arc<Kit>,
    caller: &Caller,
    loaded: Arc<Loaded>,
) -> Result<Empty, Status> {
    match (&loaded.graphs, &loaded.asked.call) {
        (Some(_), _) => drop(evaluated(kit, caller, loaded).await?),
        (None, None) => drop(hold(kit, &caller.build, loaded).await?),
        (None, Some(_)) => {}
    }
    Ok(Empty {})
}

/// The file systems of a result, which stay as long as what is returned.
pub(crate) async fn evaluated(
    kit: &Arc<Kit>,
    caller: &Caller,
    loaded: Arc<Loaded>,
) -> Result<(Evaluated, Option<Held>), Status> {
    let build = &caller.build;
    if loaded.graphs.is_none() {
        // As an image, so that its files are found whatever it was made of.
        let (held, reference) = hold(kit, build, loaded).await?;
        let identifier = format!("docker-image://{reference}");
        let loaded = load_graph(kit, caller, &inputs::graph(&identifier)).await?;
        let (evaluated, _) = Box::pin(evaluated(kit, caller, loaded)).await?;
        return Ok((evaluated, Some(held)));
    }
    let source = source(kit, build, &loaded.asked, progress(build, None)).await?;
    let (kit, build) = (Arc::clone(kit), Arc::clone(build));
    let evaluated = on_thread(move || {
        let nowhere = |_: usize, _: &[u8]| Err(std::io::ErrorKind::Unsupported.into());
        with_graphs(&kit, &build, &source, &loaded, (&loaded.asked.request, &nowhere), |job| {
            build::evaluate(&kit.engine, job)
        })
        .map(|(evaluated, _)| evaluated)
    })
    .await?;
    Ok((evaluated, None))
}

/// Gives the build engine the graphs of a result; what was to be done anew is done when it has done it.
fn with_graphs<T>(
    kit: &Kit,
    build: &Build,
    source: &Source,
    loaded: &Loaded,
    (asked, send): (&BuildRequest, &build::Send<'_>),
    does: impl FnOnce(Job<'_>) -> Result<T, Failure>,
) -> Result<(T, Option<Descriptor>), Status> {
    let graphs = loaded.graphs.as_ref().ok_or_else(|| Error::internal("a result without a graph"))?;
    let assembled = graphs.assemble(build)?;
    let fresh = assembled.fresh.clone();
    let failed = |failure| of_graph(&failure, graphs);
    let keys = ClientKeys::new(source.link.clone(), &kit.engine.config().exec_root);
    let done = with_job((source, &keys), asked, assembled, send, |job| does(job).map_err(failed))?;
    build.done.lock().unwrap_or_else(PoisonError::into_inner).extend(fresh);
    let published = keys.published.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((done, published))
}

/// Puts together what the build engine takes of a graph.
fn with_job<T>(
    (source, keys): (&Source, &ClientKeys),
    asked: &BuildRequest,
    assembled: Assembled,
    send: &build::Send<'_>,
    does: impl FnOnce(Job<'_>) -> Result<T, Status>,
) -> Result<T, Status> {
    let Assembled { definition, locals, .. } = assembled;
    let contexts = LocalContexts::new(source, &locals);
    does(Job {
        asked,
        dockerfile: Vec::new(),
        definition: Some(definition),
        repository: None,
        sources: BTreeMap::new(),
        contexts: &contexts,
        keys,
        runtime: &source.link.runtime,
        send,
        progress: &source.progress,
        cancel: &source.link.stop.cancel,
    })
}

/// Makes the process that is a graph's one goal ready, and gives it to `does` with all that it stands on.
pub(crate) fn prepared<T>(
    kit: &Kit,
    source: &Source,
    asked: &BuildRequest,
    assembled: Assembled,
    does: impl FnOnce(Prepared) -> Result<T, Status>,
) -> Result<T, Status> {
    let nowhere = |_: usize, _: &[u8]| Err(std::io::ErrorKind::Unsupported.into());
    // Holds the sockets of agents, which the process may have.
    let keys = ClientKeys::new(source.link.clone(), &kit.engine.config().exec_root);
    let prepared = with_job((source, &keys), asked, assembled, &nowhere, |job| {
        build::prepare(&kit.engine, job).map_err(|failure| Status::of_build(&failure))
    })?;
    does(prepared)
}

/// The way to the sessions that have the files.
pub(crate) async fn source(
    kit: &Kit,
    build: &Build,
    asked: &Asked,
    progress: Progress,
) -> Result<Source, Status> {
    let session = kit.sessions.find(&build.request.session).await?;
    let mut others = BTreeMap::new();
    for (dir, id) in &asked.sessions {
        others.insert(dir.clone(), kit.sessions.find(id).await?);
    }
    let link = Link { session, runtime: tokio::runtime::Handle::current(), stop: build.stop.clone() };
    let (engine, folders) = (Arc::clone(&kit.engine), Arc::clone(&kit.folders));
    Ok(Source { link, others, folders, engine, progress, local: build.local.clone() })
}

/// The Dockerfile, as warnings and errors point into it.
fn file(loaded: &Loaded) -> SourceInfo {
    SourceInfo {
        filename: file_name(&loaded.asked.request.dockerfile).to_owned(),
        data: loaded.definition.dockerfile.clone(),
        language: "Dockerfile".to_owned(),
    }
}

/// A build may take hours: it holds no thread that others need.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let (done, over) = oneshot::channel();
    std::thread::Builder::new()
        .name("build".into())
        // Nobody may be waiting any more.
        .spawn(move || drop(done.send(work())))
        .map_err(|error| {
            Status::new(Code::Unavailable, format!("cannot start a thread for a build: {error}"))
        })?;
    over.await.unwrap_or_else(|_| Err(Status::new(Code::Internal, "the build broke off")))
}

/// Builds on its own thread.
fn run(kit: &Kit, build: &Arc<Build>, source: &Source, loaded: &Loaded) -> Result<SolveResponse, Status> {
    let exporters = Exporters::of(&build.request, &source.link, &kit.folders)?;
    let wanted = (exporters.names.as_slice(), exporters.outputs.as_slice());
    let send = |place: usize, piece: &[u8]| exporters.take(place, piece);
    let options = build.request.cache.as_ref();
    let exports = cache::entries(options.map(|cache| cache.exports.as_slice()).unwrap_or_default());
    let (result, published) = build_image(kit, (build, source), loaded, (wanted, exports), &send)?;
    let (names, outputs) = (exporters.names.clone(), exporters.outputs.clone());
    exporters.finish().map_err(|error| Status::of_build(&error))?;
    let platforms = match &loaded.graphs {
        Some(graphs) => graphs.all.len(),
        None => loaded.asked.request.platforms.len(),
    };
    let mut rows = image_rows(result, &outputs, platforms > 1);
    rows.push(("image.name", names.iter().map(|name| full_name(name)).collect::<Vec<_>>().join(",")));
    rows.push(("cache.manifest", published.map(|manifest| json!(manifest).to_string()).unwrap_or_default()));
    let rows = rows.into_iter().filter(|(_, value)| !value.is_empty());
    Ok(SolveResponse { exporter_response: rows.map(|(name, value)| (name.to_owned(), value)).collect() })
}

/// What a client is told of the image. One that stays in the store is known by its config, as everywhere in
/// the API, and clients compare it with that; what leaves, or has several platforms, by its manifest or index.
fn image_rows(result: BuildResult, outputs: &[BuildOutput], several: bool) -> Vec<(&'static str, String)> {
    let BuildResult { image_id, digest, mut metadata, .. } = result;
    let leaves = |output: &BuildOutput| {
        output.kind != "image" || output.attributes.get("push").is_some_and(|push| push == "true")
    };
    if several {
        // No config is that of all, and the id is the index's.
        return vec![("containerimage.digest", digest), descriptor_row(&mut metadata)];
    }
    if outputs.iter().any(leaves) {
        return vec![
            ("containerimage.config.digest", image_id),
            ("containerimage.digest", digest),
            descriptor_row(&mut metadata),
        ];
    }
    vec![("containerimage.config.digest", image_id.clone()), ("containerimage.digest", image_id)]
}

fn descriptor_row(metadata: &mut BTreeMap<String, serde_json::Value>) -> (&'static str, String) {
    const NAME: &str = "containerimage.descriptor";
    let descriptor = metadata.remove(NAME).map(|descriptor| descriptor.to_string());
    let encoded = descriptor.map(|text| base64::engine::general_purpose::STANDARD.encode(text));
    (NAME, encoded.unwrap_or_default())
}

/// Builds what a frontend loaded, under these names, into these outputs and places of caches.
fn build_image(
    kit: &Kit,
    (build, source): (&Build, &Source),
    loaded: &Loaded,
    ((names, outputs), exports): ((&[String], &[BuildOutput]), Vec<cache::Entry>),
    send: &build::Send<'_>,
) -> Result<(BuildResult, Option<Descriptor>), Status> {
    let Loaded { asked, definition, .. } = loaded;
    let progress = &source.progress;
    let imports = build.request.cache.as_ref().map(|cache| cache.imports.as_slice()).unwrap_or_default();
    let (imports, others) = cache::usable(cache::entries(imports));
    for kind in asked.unknown_caches.iter().chain(&others) {
        let work = progress.work(&format!("importing cache manifest from {kind}"));
        work.failed(&format!("unknown cache importer: {kind}"));
    }
    for note in &asked.notes {
        let short = base64::engine::general_purpose::STANDARD.encode(note);
        progress.warning(VertexWarning { level: 1, short, ..VertexWarning::default() });
    }
    let mut request = asked.request.clone();
    request.tags = names.to_vec();
    request.outputs = outputs.to_vec();
    request.attest = Exporters::attestations(outputs, &asked.request.attest);
    request.cache_to.extend(exports);
    let named = imports.into_iter().filter(|entry| !asked.request.cache_from.contains(entry));
    request.cache_from.extend(named);
    if let Some(graphs) = &loaded.graphs {
        let platforms = graphs.all.iter().filter_map(|graph| Some(graph.platform.as_ref()?.to_string()));
        request.platforms = platforms.collect();
        return with_graphs(kit, build, source, loaded, (&request, send), |job| build::run(&kit.engine, job));
    }
    let keys = ClientKeys::new(source.link.clone(), &kit.engine.config().exec_root);
    let contexts = ClientContexts::new(source, definition, &asked.context);
    let job = Job {
        asked: &request,
        dockerfile: definition.dockerfile.clone(),
        definition: None,
        repository: definition.repository.clone(),
        sources: asked.sources.clone(),
        contexts: &contexts,
        keys: &keys,
        runtime: &source.link.runtime,
        send,
        progress,
        cancel: &source.link.stop.cancel,
    };
    let built = build::run(&kit.engine, job).map_err(|failure| failed(&failure, &file(loaded)))?;
    let published = keys.published.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((built, published))
}

fn full_name(name: &str) -> String {
    yare_oci::Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.or_latest().to_string())
}

/// Takes the news of a build. What the engine says of the definition itself was told when it was fetched.
pub(crate) fn progress(build: &Arc<Build>, file: Option<SourceInfo>) -> Progress {
    if let Some(local) = &build.local {
        return local.progress.clone();
    }
    let news = Arc::clone(&build.news);
    let told = Digest::of("definition").to_string();
    let id = build.request.r#ref.clone();
    Progress::new(move |mut status: SolveStatus| {
        status.vertexes.retain(|vertex| vertex.digest != told);
        apart(&id, &mut status);
        news.tell(status, file.as_ref());
    })
}

/// A client shows several builds at once, and takes vertices with the same digest for the same.
fn apart(build: &str, status: &mut SolveStatus) {
    let own = |digest: &mut String| {
        if !digest.is_empty() {
            *digest = own_digest(build, digest);
        }
    };
    for vertex in &mut status.vertexes {
        own(&mut vertex.digest);
        vertex.inputs.iter_mut().for_each(own);
    }
    status.statuses.iter_mut().for_each(|one| own(&mut one.vertex));
    status.logs.iter_mut().for_each(|one| own(&mut one.vertex));
    status.warnings.iter_mut().for_each(|one| own(&mut one.vertex));
}

/// `LLBBridge/Warn`.
pub(crate) fn warn(build: &Build, request: WarnRequest) {
    let vertex = match request.digest.as_str() {
        "" => String::new(),
        digest => own_digest(&build.request.r#ref, digest),
    };
    build.news.warn(VertexWarningNews {
        vertex,
        level: request.level,
        short: request.short,
        detail: request.detail,
        url: request.url,
        info: request.info,
        ranges: request.ranges,
    });
}

fn own_digest(build: &str, digest: &str) -> String {
    Digest::of(format!("{build} {digest}")).to_string()
}

/// A failure with its lines, which the client shows.
fn failed(failure: &Failure, file: &SourceInfo) -> Status {
    let mut status = Status::of_build(failure);
    if let Some((first, last)) = failure.lines {
        let line = |line: u32| i32::try_from(line).unwrap_or(i32::MAX);
        status.details.push(source_detail(file, &[lines(line(first), line(last))]));
    }
    status
}

/// The failure of an operation of a graph, with the lines that its frontend says it is of.
fn of_graph(failure: &Failure, graphs: &Graphs) -> Status {
    let mut status = Status::of_build(failure);
    let operation = failure.operation.as_ref().map(ToString::to_string).unwrap_or_default();
    let origins = graphs.origins(&operation);
    status.details.extend(origins.into_iter().map(|(file, ranges)| source_detail(file, ranges)));
    status
}

fn lines(first: i32, last: i32) -> Range {
    let at = |line| Some(Position { line, character: 0 });
    Range { start: at(first), end: at(last) }
}

/// What the detail of an error is called that says where it is.
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source";

/// The details of BuildKit's errors are JSON in a value that is made for protobuf.
fn source_detail(file: &SourceInfo, ranges: &[Range]) -> Any {
    let data = base64::engine::general_purpose::STANDARD.encode(&file.data);
    let at = |position: Option<Position>| {
        let Position { line, character } = position.unwrap_or_default();
        json!({ "line": line, "character": character })
    };
    let ranges = ranges.iter().map(|range| json!({ "start": at(range.start), "end": at(range.end) }));
    let value = json!({
        "info": { "filename": file.filename, "data": data, "language": file.language },
        "ranges": ranges.collect::<Vec<_>>(),
    });
    Any { type_url: format!("{SOURCE}+json"), value: value.to_string().into_bytes() }
}
