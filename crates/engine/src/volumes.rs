//! Volumes of the local driver: folders with a name, kept until they are removed by name.
//!
//! `<data root>/volumes/<name>/_data` is the folder that containers see; beside it, what `volumes::fill` notes. A volume
//! is in use while any container, running or not, mounts it, or is being created to. With options of the driver it
//! is a mount (`volumes::local`).

mod archive;
pub(crate) mod fill;
pub(crate) mod holds;
pub(crate) mod local;

use crate::Engine;
use crate::clock::rfc3339;
pub use archive::{export, import};
use holds::{Hold, Holds, Leaving};
use jiff::Timestamp;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_api::filters::Filters;
use yare_api::volume::{VolumeCreateOptions, VolumeListResponse, VolumePruneResponse};
use yare_errdefs::{Error, Result};

use crate::records::{Edit, Table};

/// The names of the filters that a list of volumes takes.
const LIST_FILTERS: &[&str] = &["dangling", "driver", "label", "name"];
const PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

/// What is recorded of a volume, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Driver options.
    pub options: BTreeMap<String, String>,
    /// Whether it was made without a name, for one container.
    pub anonymous: bool,
}

/// The volumes of an engine.
#[derive(Debug, Default)]
pub struct Volumes {
    by_name: RwLock<BTreeMap<String, Arc<Volume>>>,
    holds: Arc<Holds>,
    mounted: local::Mounted,
}

impl Volumes {
    /// The volumes on record.
    pub fn load(rows: Vec<(String, Vec<u8>)>) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (name, row) in rows {
            let volume = serde_json::from_slice(&row).map_err(|error| {
                Error::internal(format!("cannot read the record of volume {name}: {error}"))
            })?;
            by_name.insert(name, Arc::new(volume));
        }
        Ok(Self { by_name: RwLock::new(by_name), holds: Arc::default(), mounted: local::Mounted::default() })
    }

    /// The volume with this name.
    pub fn find(&self, name: &str) -> Option<Arc<Volume>> {
        self.by_name.read().get(name).cloned()
    }

    fn all(&self) -> Vec<Arc<Volume>> {
        self.by_name.read().values().cloned().collect()
    }
}

/// A volume and whether this call made it.
#[derive(Debug)]
pub struct Ensured {
    /// Where its content is.
    pub folder: PathBuf,
    /// Whether it is new.
    pub fresh: bool,
    /// Its name.
    pub name: String,
    /// Whether it is a mount by its options.
    pub is_mount: bool,
}

impl Ensured {
    fn new(engine: &Engine, volume: &Volume, fresh: bool) -> Self {
        let (name, is_mount) = (volume.name.clone(), !volume.options.is_empty());
        Self { folder: folder(engine, &name), fresh, name, is_mount }
    }
}

/// The folder of a volume's content.
pub fn folder(engine: &Engine, name: &str) -> PathBuf {
    engine.config.data_root.join("volumes").join(name).join("_data")
}

/// Keeps a volume from being removed while a container that mounts it is created. Waits for a removal that is
/// under way.
pub(crate) async fn hold(engine: &Engine, name: &str, by: &str) -> Hold {
    engine.volumes.holds.hold(name, by).await
}

/// Finds or makes a volume that the caller holds. Without a name it is anonymous and gets 64 hex digits.
pub(crate) async fn ensure(
    engine: &Arc<Engine>,
    name: &str,
    options: &VolumeCreateOptions,
) -> Result<Ensured> {
    if let Some(volume) = engine.volumes.find(name) {
        return Ok(Ensured::new(engine, &volume, false));
    }
    let volume = make(engine, name, options)?;
    engine.records.put(Table::Volumes, &volume.name, crate::to_json(&*volume)).await?;
    Ok(announce(engine, volume))
}

/// Makes an anonymous volume for a container. It gets on record together with the container ([`edits`]):
/// should the engine die before, the folder has no owner and is swept.
pub(crate) async fn make_for_container(
    engine: &Engine,
    id: &str,
    options: &VolumeCreateOptions,
) -> Result<(Ensured, Hold)> {
    let volume = make(engine, "", options)?;
    let hold = hold(engine, &volume.name, id).await;
    Ok((announce(engine, volume), hold))
}

/// What puts these volumes on record.
pub(crate) fn edits(engine: &Engine, names: &[String]) -> Vec<Edit> {
    let volumes = names.iter().filter_map(|name| engine.volumes.find(name));
    volumes.map(|volume| Edit::put(Table::Volumes, &volume.name, crate::to_json(&*volume))).collect()
}

fn announce(engine: &Engine, volume: Arc<Volume>) -> Ensured {
    let ensured = Ensured::new(engine, &volume, true);
    let name = ensured.name.clone();
    // Two creations of one name make one volume: the first one's record is as good as ours.
    engine.volumes.by_name.write().entry(name.clone()).or_insert(volume);
    engine.publish("volume", "create", &name, BTreeMap::from([("driver".to_owned(), "local".to_owned())]));
    ensured
}

fn make(engine: &Engine, name: &str, options: &VolumeCreateOptions) -> Result<Arc<Volume>> {
    let anonymous = name.is_empty();
    let name = if anonymous { crate::random_id() } else { name.to_owned() };
    check_new(&name, options)?;
    let folder = folder(engine, &name);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o701)
        .create(folder.parent().unwrap_or(&folder))
        .map_err(|error| {
            Error::internal(format!("cannot make the folder of volume {name} at {}", folder.display()))
                .caused_by(error)
        })?;
    make_folder(&folder)?;
    Ok(Arc::new(Volume {
        name,
        created: engine.clock.now(),
        labels: options.labels.clone().unwrap_or_default(),
        options: options.driver_opts.clone().unwrap_or_default(),
        anonymous,
    }))
}

/// Makes the folder that containers see, if it is not there.
fn make_folder(folder: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o755).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::internal(format!("cannot make {}", folder.display())).caused_by(error))
        }
        _ => Ok(()),
    }
}

fn check_new(name: &str, options: &VolumeCreateOptions) -> Result<()> {
    let driver = options.driver.as_str();
    if !matches!(driver, "" | "default" | "local") {
        return Err(Error::not_found(format!(
            "create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found"
        )));
    }
    if name.len() == 1 {
        return Err(Error::invalid(format!(
            "create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )));
    }
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !(first && rest && name.len() >= 2) {
        return Err(Error::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    local::check(name, options.driver_opts.as_ref().unwrap_or(&BTreeMap::new()))
}

/// Makes a volume, or gives the one that has the name.
pub async fn create(engine: &Arc<Engine>, options: VolumeCreateOptions) -> Result<yare_api::volume::Volume> {
    let _hold = hold(engine, &options.name, "its own creation").await;
    let ensured = ensure(engine, &options.name, &options).await?;
    inspect(engine, &ensured.name)
}

/// One volume.
pub fn inspect(engine: &Engine, name: &str) -> Result<yare_api::volume::Volume> {
    let volume = engine.volumes.find(name).ok_or_else(|| missing(name))?;
    Ok(describe(engine, &volume))
}

fn missing(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume"))
}

fn describe(engine: &Engine, volume: &Volume) -> yare_api::volume::Volume {
    let seconds = Timestamp::from_second(volume.created.as_second()).unwrap_or(volume.created);
    let labels = match (volume.anonymous, volume.labels.is_empty()) {
        (true, true) => Some(BTreeMap::from([("com.docker.volume.anonymous".to_owned(), String::new())])),
        (false, true) => None,
        _ => Some(volume.labels.clone()),
    };
    yare_api::volume::Volume {
        created_at: rfc3339(Some(seconds)),
        driver: "local".to_owned(),
        labels,
        mountpoint: folder(engine, &volume.name).display().to_string(),
        name: volume.name.clone(),
        options: (!volume.options.is_empty()).then(|| volume.options.clone()),
        scope: "local".to_owned(),
        ..Default::default()
    }
}

/// Ids of the containers that mount a volume.
pub fn users(engine: &Engine, name: &str) -> Vec<String> {
    engine
        .containers
        .all()
        .iter()
        .filter(|container| container.record().mounts.iter().any(|mount| mount.name == name))
        .map(|container| container.id.clone())
        .collect()
}

/// Names of all volumes that containers mount, with how many do.
pub(crate) fn all_users(engine: &Engine) -> HashMap<String, usize> {
    let mut users = HashMap::new();
    for container in engine.containers.all() {
        for mount in crate::volumes_of(&container.record()) {
            *users.entry(mount.name.clone()).or_default() += 1;
        }
    }
    users
}

/// All volumes that pass the filters.
pub fn list(engine: &Engine, filters: &Filters) -> Result<VolumeListResponse> {
    filters.validate(LIST_FILTERS)?;
    let dangling = filters.boolean("dangling")?;
    let names = filters.values("name");
    let drivers = filters.values("driver");
    let users = if dangling.is_some() { all_users(engine) } else { HashMap::new() };
    let volumes = engine
        .volumes
        .all()
        .into_iter()
        .filter(|volume| names.is_empty() || names.iter().any(|part| volume.name.contains(part.as_str())))
        .filter(|_| drivers.is_empty() || drivers.iter().any(|driver| driver == "local"))
        .filter(|volume| filters.match_labels("label", &volume.labels))
        .filter(|volume| dangling.is_none_or(|dangling| users.contains_key(&volume.name) != dangling))
        .map(|volume| describe(engine, &volume))
        .collect();
    Ok(VolumeListResponse { volumes: Some(volumes), warnings: None })
}

/// Claims a volume for its removal; fails with the ids of those who mount it, but for `except`.
pub(crate) async fn leave(
    engine: &Engine,
    name: &str,
    except: Option<&str>,
) -> std::result::Result<Leaving, Vec<String>> {
    let leaving = engine.volumes.holds.leave(name).await?;
    // Asked when nobody can come any more.
    let mut users = users(engine, name);
    users.retain(|user| Some(user.as_str()) != except);
    if users.is_empty() { Ok(leaving) } else { Err(users) }
}

/// Removes a volume that nothing mounts. `force` forgives a missing one. Goes on when the caller leaves.
pub async fn remove(engine: &Arc<Engine>, name: &str, force: bool) -> Result<()> {
    let (engine, name) = (Arc::clone(engine), name.to_owned());
    engine.clone().detached(async move { remove_now(&engine, &name, force).await }).await
}

async fn remove_now(engine: &Engine, name: &str, force: bool) -> Result<()> {
    let claimed = leave(engine, name, None).await;
    if engine.volumes.find(name).is_none() {
        return if force { Ok(()) } else { Err(missing(name)) };
    }
    match claimed {
        Ok(_leaving) => discard(engine, name).await,
        Err(users) => {
            let error = Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", ")));
            Err(error.with_hint(crate::holders::explain(engine, &users)))
        }
    }
}

/// Takes a volume that the caller has claimed off the records and its folder away.
async fn discard(engine: &Engine, name: &str) -> Result<()> {
    engine.records.delete(Table::Volumes, name).await?;
    take_away(engine, name)
}

/// Takes the folder of a volume away that is not on record any more.
pub(crate) fn take_away(engine: &Engine, name: &str) -> Result<()> {
    engine.volumes.by_name.write().remove(name);
    trash(engine, name)?;
    engine.publish("volume", "destroy", name, BTreeMap::from([("driver".to_owned(), "local".to_owned())]));
    Ok(())
}

/// Takes the folder of a volume away. What is mounted on it is somebody's data and no part of it.
pub(crate) fn trash(engine: &Engine, name: &str) -> Result<()> {
    local::unmount(&folder(engine, name))?;
    engine.trash.take(&engine.config.data_root.join("volumes").join(name))
}

/// Removes volumes that nothing mounts: anonymous ones, or with `all=true` named ones too. Goes on when the
/// caller leaves.
pub async fn prune(engine: &Arc<Engine>, filters: &Filters) -> Result<VolumePruneResponse> {
    filters.validate(PRUNE_FILTERS)?;
    let all = filters.boolean("all")?.unwrap_or(false);
    let wanted = |volume: &Arc<Volume>| {
        (all || volume.anonymous)
            && filters.match_labels("label", &volume.labels)
            && !(filters.contains("label!") && filters.match_labels("label!", &volume.labels))
    };
    let candidates: Vec<Arc<Volume>> = engine.volumes.all().into_iter().filter(wanted).collect();
    let engine = Arc::clone(engine);
    engine.clone().detached(async move { prune_now(&engine, candidates).await }).await
}

async fn prune_now(engine: &Arc<Engine>, candidates: Vec<Arc<Volume>>) -> Result<VolumePruneResponse> {
    let mut response = VolumePruneResponse { volumes_deleted: Some(Vec::new()), space_reclaimed: 0 };
    for volume in candidates {
        let Ok(_leaving) = leave(engine, &volume.name, None).await else { continue };
        if engine.volumes.find(&volume.name).is_none() {
            continue;
        }
        let (user, measured) = (Arc::clone(engine), Arc::clone(&volume));
        let size = crate::images::blocking(move || Ok(size_of(&user, &measured))).await?.unwrap_or(0);
        discard(engine, &volume.name).await?;
        response.space_reclaimed += i64::try_from(size).unwrap_or(i64::MAX);
        response.volumes_deleted.get_or_insert_default().push(volume.name.clone());
    }
    let reclaimed = response.space_reclaimed.to_string();
    engine.publish("volume", "prune", "", BTreeMap::from([("reclaimed".to_owned(), reclaimed)]));
    Ok(response)
}

/// Bytes that a volume takes here; `None` for one that is a mount, whose bytes are elsewhere.
pub(crate) fn size_of(engine: &Engine, volume: &Volume) -> Option<u64> {
    volume.options.is_empty().then(|| disk_usage(&folder(engine, &volume.name)))
}

/// Bytes on disk beneath a folder. What containers write into volumes passes by the engine, so this one
/// number has to be walked; links are not followed.
fn disk_usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?, entry.path())))
        .map(|(metadata, path)| {
            let own = metadata.blocks() * 512;
            if metadata.is_dir() { own + disk_usage(&path) } else { own }
        })
        .sum()
}
