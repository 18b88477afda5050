//! A build from what a client sends to what it is told at the end.

use crate::Kit;
use crate::builds::{Active, Build};
use crate::cache;
use crate::calls::{Loaded, file_name};
use crate::context::{ClientContexts, Source};
use crate::export::Exporters;
use crate::frontend::{self, Asked, Options};
use crate::graphs::{self, Assembled, Graphs, LocalContexts};
use crate::grpc::{Code, Status};
use crate::inputs::{self, Held};
use crate::keys::ClientKeys;
use crate::layout::LayoutImage;
use crate::link::Link;
use crate::llb;
use crate::proto::control::VertexWarning as VertexWarningNews;
use crate::proto::control::{SolveRequest, SolveResponse};
use crate::proto::gateway::{Answer, WarnRequest};
use crate::proto::{Any, Definition, Empty, SourceInfo};
use base64::Engine as _;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use tokio::sync::oneshot;
use yare_api::build::{BuildOutput, BuildRequest, BuildResult, SolveStatus, VertexWarning};
use yare_build::definition::Evaluated;
use yare_build::request::ContextSource;
use yare_build::{Failure, Progress};
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
    let loaded = if request.frontend.is_empty() && !raw {
        let left = || Status::new(Code::Cancelled, "the client left its build");
        (&mut active.returned).await.map_err(|_| left())??
    } else {
        let options = &request.frontend_attributes;
        let wanted = Wanted { definition: request.definition.as_ref(), frontend: &request.frontend, options };
        Some(load(kit, &build, wanted, &request.inputs).await?)
    };
    let Some(loaded) = loaded else { return Ok(SolveResponse::default()) };
    if loaded.asked.call.is_some() {
        return Ok(SolveResponse::default());
    }
    let source = source(kit, &build, &loaded.asked, progress(&build, Some(file(&loaded)))).await?;
    let kit = Arc::clone(kit);
    on_thread(move || run(&kit, &build, &source, &loaded)).await
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
    build: &Arc<Build>,
    wanted: Wanted<'_>,
    inputs: &BTreeMap<String, Definition>,
) -> Result<Arc<Loaded>, Status> {
    let Wanted { definition, frontend, options } = wanted;
    if let Some(definition) = definition.filter(|graph| frontend.is_empty() || !graph.def.is_empty()) {
        return load_graph(kit, build, definition).await;
    }
    if frontend.is_empty() {
        return load_graph(kit, build, &Definition::default()).await;
    }
    frontend::check(frontend, options)?;
    let mut asked = frontend::parse(options, &build.request.entitlements)?;
    let mut inputs = build_inputs(kit, build, &mut asked, inputs).await?;
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

/// Reads a graph.
async fn load_graph(kit: &Arc<Kit>, build: &Arc<Build>, wire: &Definition) -> Result<Arc<Loaded>, Status> {
    let asked = graph_options(build)?;
    let mut results = BTreeMap::new();
    let mut inputs = Vec::new();
    for identifier in llb::results(wire)? {
        let (name, reference) = build_result(kit, build, &identifier).await?;
        results.insert(identifier, reference);
        inputs.push(name);
    }
    for llb::Layout { operation, image, platform } in llb::layouts(wire)? {
        let (name, reference) = held_layout(kit, build, image, platform).await?;
        results.insert(operation, reference);
        inputs.push(name);
    }
    let graphs = Graphs::of(wire.clone(), results);
    graphs::check(&graphs, build)?;
    let definition = crate::context::Definition::default();
    Ok(Arc::new(Loaded { asked, definition, graphs: Some(graphs), _inputs: inputs }))
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

/// Builds a result that a graph stands on: one of this build, or one that the build was given.
async fn build_result(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    identifier: &str,
) -> Result<(Held, Reference), Status> {
    let unknown = || Status::new(Code::NotFound, format!("there is no result {identifier}"));
    let (id, result) = inputs::place(identifier).ok_or_else(unknown)?;
    let given = build.request.inputs.iter();
    let given = given.map(|(name, input)| inputs::parse(name, input)).collect::<Result<Vec<_>, _>>()?;
    let own = id == build.request.r#ref;
    if !own && !given.into_iter().flatten().any(|(other, _)| other == id) {
        return Err(unknown());
    }
    let other = if own { Arc::clone(build) } else { kit.builds.find(&id).await? };
    let loaded = other.loaded(&result)?;
    hold(kit, &other, loaded).await
}

/// Builds the targets of the client that this one stands on.
async fn build_inputs(
    kit: &Arc<Kit>,
    own: &Arc<Build>,
    asked: &mut Asked,
    inputs: &BTreeMap<String, Definition>,
) -> Result<Vec<Held>, Status> {
    let mut held = Vec::new();
    for (context, input) in std::mem::take(&mut asked.inputs) {
        let unknown = || Status::new(Code::InvalidArgument, format!("the request has no input {input:?}"));
        let definition = inputs.get(&input).ok_or_else(unknown)?;
        let (build, loaded) = match inputs::parse(&input, definition)? {
            Some((id, result)) => {
                let build = kit.builds.find(&id).await?;
                let loaded = build.loaded(&result)?;
                (build, loaded)
            }
            None => (Arc::clone(own), Box::pin(load_graph(kit, own, definition)).await?),
        };
        let (name, reference) = hold(kit, &build, loaded).await?;
        asked.sources.insert(context, ContextSource::Image(reference));
        held.push(name);
    }
    Ok(held)
}

/// Builds a result into an image that has a name of its own for a while.
async fn hold(kit: &Arc<Kit>, build: &Arc<Build>, loaded: Arc<Loaded>) -> Result<(Held, Reference), Status> {
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
pub(crate) async fn evaluate(kit: &Arc<Kit>, build: &Arc<Build>, result: &str) -> Result<Empty, Status> {
    let loaded = build.loaded(result)?;
    match (&loaded.graphs, &loaded.asked.call) {
        (Some(_), _) => drop(evaluated(kit, build, loaded).await?),
        (None, None) => drop(hold(kit, build, loaded).await?),
        (None, Some(_)) => {}
    }
    Ok(Empty {})
}

/// The file systems of a result, which stay as long as what is returned.
pub(crate) async fn evaluated(
    kit: &Arc<Kit>,
    build: &Arc<Build>,
    loaded: Arc<Loaded>,
) -> Result<(Evaluated, Option<Held>), Status> {
    if loaded.graphs.is_none() {
        // As an image, so that its files are found whatever it was made of.
        let (held, reference) = hold(kit, build, loaded).await?;
        let identifier = format!("docker-image://{reference}");
        let loaded = Box::pin(load_graph(kit, build, &inputs::graph(&identifier))).await?;
        let (evaluated, _) = Box::pin(evaluated(kit, build, loaded)).await?;
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
    let Assembled { definition, locals, fresh } = graphs.assemble(build)?;
    let keys = ClientKeys::new(source.link.clone(), &kit.engine.config().exec_root);
    let contexts = LocalContexts::new(source, &locals);
    let job = Job {
        asked,
        dockerfile: Vec::new(),
        definition: Some(definition),
        repository: None,
        sources: BTreeMap::new(),
        contexts: &contexts,
        keys: &keys,
        runtime: &source.link.runtime,
        send,
        progress: &source.progress,
        cancel: &source.link.stop.cancel,
    };
    let done = does(job).map_err(|failure| Status::of_build(&failure))?;
    build.done.lock().unwrap_or_else(PoisonError::into_inner).extend(fresh);
    let published = keys.published.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok((done, published))
}

/// What a frontend returned, as something to build.
pub(crate) fn result(build: &Build, answer: &Answer) -> Result<Option<Arc<Loaded>>, Status> {
    let single = answer.r#ref.iter().map(|one| ("", one.id.as_str()));
    let several =
        answer.refs.iter().flat_map(|refs| &refs.refs).map(|(name, one)| (name.as_str(), one.id.as_str()));
    let refs: Vec<(&str, &str)> = single.chain(several).filter(|(_, id)| !id.is_empty()).collect();
    let loaded = refs.iter().map(|(_, id)| build.loaded(id)).collect::<Result<Vec<_>, _>>()?;
    match loaded.as_slice() {
        [] => return Ok(None),
        [only] if only.graphs.is_none() => return Ok(Some(Arc::clone(only))),
        _ => {}
    }
    let mut all = Vec::new();
    let mut results = BTreeMap::new();
    for ((name, _), loaded) in refs.iter().zip(&loaded) {
        let graphs = loaded.graphs.as_ref().ok_or_else(|| {
            let text = "a result of several builds of Dockerfiles is not built into this Yare yet";
            Status::new(Code::Unimplemented, text)
        })?;
        results.extend(graphs.results.clone());
        all.extend(graphs.all.iter().map(|graph| ((*name).to_owned(), graph.wire.clone())));
    }
    let graphs = Graphs { all: graphs::described(all, &answer.metadata)?, results, _on: loaded };
    let definition = crate::context::Definition::default();
    let asked = graph_options(build)?;
    Ok(Some(Arc::new(Loaded { asked, definition, graphs: Some(graphs), _inputs: Vec::new() })))
}

/// The way to the sessions that have the files.
async fn source(kit: &Kit, build: &Build, asked: &Asked, progress: Progress) -> Result<Source, Status> {
    let session = kit.sessions.find(&build.request.session).await?;
    let mut others = BTreeMap::new();
    for (dir, id) in &asked.sessions {
        others.insert(dir.clone(), kit.sessions.find(id).await?);
    }
    let link = Link { session, runtime: tokio::runtime::Handle::current(), stop: build.stop.clone() };
    let (engine, folders) = (Arc::clone(&kit.engine), Arc::clone(&kit.folders));
    Ok(Source { link, others, folders, engine, progress })
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
    for note in &asked.notes {
        let short = base64::engine::general_purpose::STANDARD.encode(note);
        progress.warning(VertexWarning { level: 1, short, ..VertexWarning::default() });
    }
    let mut request = asked.request.clone();
    request.tags = names.to_vec();
    request.outputs = outputs.to_vec();
    request.attest = Exporters::attestations(outputs, &asked.request.attest);
    request.cache_to.extend(exports);
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
        status.details.push(source_detail(file, first, last));
    }
    status
}

/// The details of BuildKit's errors are JSON in a value that is made for protobuf.
fn source_detail(file: &SourceInfo, first: u32, last: u32) -> Any {
    let data = base64::engine::general_purpose::STANDARD.encode(&file.data);
    let value = json!({
        "info": { "filename": file.filename, "data": data, "language": file.language },
        "ranges": [{ "start": { "line": first }, "end": { "line": last } }],
    });
    Any {
        type_url: "github.com/moby/buildkit/errdefs.Source+json".to_owned(),
        value: value.to_string().into_bytes(),
    }
}
