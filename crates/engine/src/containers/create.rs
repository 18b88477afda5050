//! Creating a container: everything is checked, what it needs is made, then it is recorded.

use crate::container::{Container, Record, StateRecord};
use crate::images::blocking;
use crate::prepare::{self, Prepared};
use crate::{Engine, task};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use yare_api::{ContainerCreateRequest, ContainerCreateResponse, EndpointSettings};
use yare_errdefs::{Error, Result};
use yare_image::Image;
use yare_oci::Platform;
use yare_specgen::Plan;

/// Creates a container. Goes on when the caller leaves.
///
/// Not found means that the image is not here, with the text that makes Docker's clients pull it. When this
/// returns, the container survives power loss, unless it is one that removes itself at its end.
pub async fn create(
    engine: &Arc<Engine>,
    name: Option<String>,
    platform: Option<Platform>,
    request: ContainerCreateRequest,
) -> Result<ContainerCreateResponse> {
    let engine = Arc::clone(engine);
    engine.clone().detached(async move { create_now(&engine, name, platform.as_ref(), request).await }).await
}

async fn create_now(
    engine: &Arc<Engine>,
    name: Option<String>,
    platform: Option<&Platform>,
    request: ContainerCreateRequest,
) -> Result<ContainerCreateResponse> {
    let id = crate::random_id();
    let name = settle_name(engine, name)?;
    let claim = engine.containers.claim(&name, &id)?;
    if request.config.image.is_empty() {
        return Err(Error::invalid("no image specified"));
    }
    let image = engine.images.resolve(&request.config.image, platform);
    let image = image.map_err(|missing| wrong_anyway(engine, &request).unwrap_or(missing))?;
    let lease = engine.images.hold(&image.id, &id)?;
    let mut plan = yare_specgen::settle(&request, &image.config, &engine.facts).map_err(together)?;
    plan.identify(&id);
    let networks = wanted_endpoints(engine, &request)?;
    let links = crate::links::resolve(engine, &plan.host_config)?;
    let warnings = std::mem::take(&mut plan.warnings);
    let mut prepared = prepare::mounts(engine, &id, &plan).await?;
    let holds = (std::mem::take(&mut prepared.holds), std::mem::take(&mut prepared.leases));
    let unfinished = Unfinished {
        engine: Arc::clone(engine),
        id: id.clone(),
        anonymous: prepared.anonymous.clone(),
        kept: false,
    };
    let mut record = record(engine, (id.clone(), name), &request, &image, plan, (&prepared, networks));
    record.links = links;
    blocking({
        let (engine, record) = (Arc::clone(engine), record.clone());
        move || make(&engine, &record, &prepared)
    })
    .await?;
    let container = Arc::new(Container::new(record));
    // Commit point: with its record the container exists.
    save(engine, &container).await?;
    engine.containers.insert(Arc::clone(&container));
    claim.keep();
    unfinished.keep();
    // From here on the list of containers says who uses what.
    drop((lease, holds));
    engine.images.touch(&image.id);
    engine.publish_container(&container, "create", BTreeMap::new());
    Ok(ContainerCreateResponse { id, warnings })
}

/// What is wrong with a request whatever its image is. Docker looks at that first: a client that is told of a
/// missing image pulls it.
fn wrong_anyway(engine: &Engine, request: &ContainerCreateRequest) -> Option<Error> {
    let mut request = request.clone();
    // The image may have one.
    request.config.cmd.get_or_insert_with(|| vec!["-".to_owned()]);
    yare_specgen::settle(&request, &Default::default(), &engine.facts).err().map(together)
}

/// Puts the container on record, together with the volumes that were made for it.
async fn save(engine: &Engine, container: &Container) -> Result<()> {
    let edits = crate::volumes::edits(engine, &container.record().anonymous);
    engine.hand_over(container, edits).await
}

/// The name asked for, or one that nobody has.
fn settle_name(engine: &Engine, name: Option<String>) -> Result<String> {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        let name = name.trim_start_matches('/');
        return yare_api::names::check(name).map(str::to_owned);
    }
    for tries in 0.. {
        let random = u64::from_str_radix(&crate::random_id()[..16], 16).unwrap_or(0);
        let name = yare_api::names::generate(random, tries);
        if !engine.containers.has_name(&name) {
            return Ok(name);
        }
    }
    Err(Error::internal("no name is free"))
}

/// All that is wrong with a request, as one error of the first one's class.
pub(crate) fn together(errors: Vec<Error>) -> Error {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else {
        return Error::internal("the request was refused without a reason");
    };
    let more: Vec<String> = errors.map(|error| format!("also wrong: {error}")).collect();
    if more.is_empty() { first } else { first.with_hint(more.join("\n")) }
}

fn record(
    engine: &Engine,
    (id, name): (String, String),
    request: &ContainerCreateRequest,
    image: &Image,
    mut plan: Plan,
    (prepared, networks): (&Prepared, BTreeMap<String, EndpointSettings>),
) -> Record {
    let config = std::mem::take(&mut plan.config);
    let host_config = std::mem::take(&mut plan.host_config);
    Record {
        id,
        name,
        created: engine.clock.now(),
        image: image.id.0,
        image_name: request.config.image.clone(),
        layers: image.layers.to_vec(),
        config,
        host_config,
        networks,
        links: Vec::new(),
        plan,
        mounts: prepared.points.clone(),
        origins: prepared.origins.clone(),
        anonymous: prepared.anonymous.clone(),
        state: StateRecord::default(),
        endpoints: Vec::new(),
    }
}

/// The networks that it is to be on, by name. That one is not there is found out by the start, as with dockerd.
fn wanted_endpoints(
    engine: &Engine,
    request: &ContainerCreateRequest,
) -> Result<BTreeMap<String, EndpointSettings>> {
    let wanted = request.networking_config.as_ref().and_then(|config| config.endpoints_config.as_ref());
    let named = wanted.into_iter().flatten();
    let mut networks: BTreeMap<_, _> = named
        .map(|(name, settings)| {
            (crate::networks::canonical(engine, name), settings.clone().unwrap_or_default())
        })
        .collect();
    let mode = request.host_config.as_ref().map_or("", |config| config.network_mode.as_str());
    let mode = crate::networks::canonical(engine, mode);
    crate::networks::connect::check_all(engine, &mode, &networks)?;
    if !mode.starts_with("container:") {
        networks.entry(mode).or_default();
    }
    Ok(networks)
}

/// Makes the writable layer, the folder for its files, and fills new volumes from the image.
fn make(engine: &Engine, record: &Record, prepared: &Prepared) -> Result<()> {
    let snapshots = engine.images.snapshots();
    let failed =
        |error| Error::wrap(format!("cannot make the writable layer of container {}", record.id), error);
    snapshots.prepare(&record.id, &record.layers).map_err(failed)?;
    crate::volumes::fill::fill_volumes(engine, &record.layers, &prepared.to_fill)?;
    let folder = |path: std::path::PathBuf, mode: u32| {
        std::fs::DirBuilder::new().mode(mode).create(&path).map_err(|error| {
            Error::internal(format!("cannot make the folder {}", path.display())).caused_by(error)
        })
    };
    folder(engine.container_dir(&record.id), 0o710)?;
    if record.auto_remove() {
        folder(task::run_dir(engine, &record.id), 0o700)?;
    }
    Ok(())
}

/// What was made for a container that is not recorded yet; dropped before it is kept, it goes again.
struct Unfinished {
    engine: Arc<Engine>,
    id: String,
    anonymous: Vec<String>,
    kept: bool,
}

impl Unfinished {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let engine = &self.engine;
        let _ = engine.images.snapshots().remove(&self.id);
        let _ = engine.trash.take(&engine.container_dir(&self.id));
        engine.trash_run_dir(&self.id);
        for volume in &self.anonymous {
            if let Err(error) = crate::volumes::take_away(engine, volume) {
                tracing::warn!(volume, error = yare_errdefs::chain(&error), "cannot remove the volume");
            }
        }
    }
}
