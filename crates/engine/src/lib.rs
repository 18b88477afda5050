//! The use cases of Yare.
//!
//! [`Engine`] is a set of handles with a constructor and an end; what can be done with it are functions in
//! modules named after what they act on: [`build`], [`containers`], [`exec`], [`images`], [`volumes`], [`networks`],
//! [`events`], [`served`], [`system`]. Each use case reads from top to bottom and has one commit point. What may happen
//! next to a container is decided in [`lifecycle`], purely.
//!
//! Operations that change things go on when the client that asked leaves: they run as tasks of their own
//! (`Engine::detached`).

mod apparmor;
pub mod build;
mod carrier;
pub mod cleaning;
pub mod clock;
mod companion;
pub mod config;
pub mod container;
pub mod containers;
pub mod devices;
pub mod events;
pub mod exec;
mod facts;
mod growth;
pub mod health;
mod holders;
pub mod images;
pub mod lifecycle;
pub mod links;
pub mod networks;
mod prepare;
mod processes;
pub mod records;
mod registry;
mod resolver;
mod restore;
pub mod served;
pub mod session;
pub mod system;
mod task;
mod trash;
pub mod volumes;
mod wiring;

pub use config::{BuildCacheRule, BuildCacheSettings, Config};
pub use container::Attached;
pub use yare_api::Ulimit;
pub use yare_net::AddressPool;

use clock::Clock;
use container::{Container, Record};
use events::Events;
use records::{Edit, Records, Table};
use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use trash::Trash;
use yare_errdefs::{Error, Result};
use yare_shim::Launcher;

/// One engine: its handles.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    clock: Clock,
    records: Records,
    images: yare_image::Store,
    builder: build::Builder,
    transfers: images::Transfers,
    /// The default bridge; `None` when it is switched off or this kernel cannot hold it.
    bridge: Option<Arc<yare_net::Network>>,
    /// Why there is no bridge.
    bridge_error: Option<String>,
    networks: networks::Networks,
    resolver: Arc<resolver::Resolver>,
    cgroups: yare_cgroup::Host,
    launcher: Launcher,
    containers: registry::Registry,
    volumes: volumes::Volumes,
    execs: exec::Execs,
    served: served::Served,
    events: Events,
    /// Who follows logs; opened when somebody does.
    growth: parking_lot::Mutex<Option<Arc<growth::Growth>>>,
    facts: yare_specgen::HostFacts,
    trash: Trash,
    /// Trash of the run root, which may be another filesystem.
    run_trash: Trash,
    /// Random, kept with the data root.
    engine_id: String,
    started: jiff::Timestamp,
    stopping: AtomicBool,
    /// Warnings about this host that `info` shows.
    warnings: Vec<String>,
    _roots: Roots,
}

/// The roots of one engine, made and locked. Taken before anything else of an engine is touched: its socket
/// and its pid file too belong to whoever has the roots.
#[derive(Debug)]
pub struct Roots {
    _data: yare_sys::fs::Lock,
    _exec: yare_sys::fs::Lock,
}

impl Roots {
    /// Makes the folders where they are missing and locks both. Fails when another engine has one of them.
    pub fn claim(config: &Config) -> Result<Self> {
        Ok(Self {
            _data: claim_root(config, &config.data_root, "data")?,
            _exec: claim_root(config, &config.exec_root, "exec")?,
        })
    }
}

/// Makes the way out of an engine that has left the host's network usable for containers; gives why it is not.
fn guard_uplink() -> Option<String> {
    let error = yare_net::guard_uplink().err()?;
    let warning = format!("connections of containers may break: {}", yare_errdefs::chain(&error));
    tracing::warn!("{warning}");
    Some(warning)
}

/// How long a lock may outlive its engine: a child that an engine was making when it was killed has its
/// descriptors until it has become another program.
const LINGERING: Duration = Duration::from_secs(1);

fn claim_root(config: &Config, root: &Path, kind: &str) -> Result<yare_sys::fs::Lock> {
    folder_of_mode(root, if config.sole_user { 0o700 } else { 0o710 })?;
    let begun = std::time::Instant::now();
    let locked = loop {
        match yare_sys::fs::lock_file(root.join("yare.lock")) {
            Err(_) if begun.elapsed() < LINGERING => std::thread::sleep(Duration::from_millis(20)),
            outcome => break outcome,
        }
    };
    locked.map_err(|error| {
        Error::conflict(format!("cannot lock {}", root.display())).caused_by(error).with_hint(format!(
            "another engine uses this {kind} root; stop it, or give this one another --{kind}-root"
        ))
    })
}

impl Engine {
    /// Opens an engine on its roots, finds the containers that run, and finishes what was half done.
    ///
    /// Must be called inside a tokio runtime. Fails when another engine has the data root, when the root is
    /// of a newer format, or when the kernel lacks something that no container can do without.
    pub fn open(config: Config, roots: Roots, launcher: Launcher) -> Result<Arc<Self>> {
        yare_specgen::logs::check_defaults(&config.log_driver, &config.log_opts)?;
        for folder in ["containers", "volumes"] {
            private_folder(&config.data_root.join(folder))?;
        }
        private_folder(&config.exec_root.join("containers"))?;
        let records = Records::open(&config.data_root)?;
        let images = yare_image::Store::open(&config.data_root, records.database())?;
        let builder = build::Builder::open(&config, &records, &images)?;
        let volumes = volumes::Volumes::load(records.all(Table::Volumes)?)?;
        let trash = Trash::open(&config.data_root)?;
        let run_trash = Trash::open(&config.exec_root)?;
        let (cgroups, mut warnings) = facts::cgroups()?;
        let engine_id = facts::engine_id(&config.data_root)?;
        if config.outside.is_some() {
            warnings.extend(guard_uplink());
        }
        let carrier = carrier::Carrier::new(&config.exec_root, config.outside.clone());
        let (bridge, bridge_error, networks) =
            networks::open(&config, &engine_id, &carrier, records.all(Table::Networks)?)?;
        warnings.extend(bridge_error.clone());
        let apparmor = apparmor::survey();
        apparmor.warning.iter().for_each(|warning| tracing::warn!("{warning}"));
        warnings.extend(apparmor.warning.clone());
        if facts::has_selinux() {
            warnings.push("SELinux does not confine containers: its labels are not built".to_owned());
        }
        let resolver = resolver::Resolver::new(&config.exec_root);
        let predecessor = companion::predecessor(&config.exec_root, resolver::NAME);
        let engine = Arc::new(Self {
            facts: facts::gather(&config, &cgroups, &apparmor)?,
            engine_id,
            clock: Clock::wall(),
            transfers: images::Transfers::new(&config),
            started: jiff::Timestamp::now(),
            containers: registry::Registry::default(),
            execs: exec::Execs::default(),
            served: served::Served::default(),
            events: Events::default(),
            growth: parking_lot::Mutex::default(),
            stopping: AtomicBool::new(false),
            config,
            records,
            images,
            builder,
            bridge,
            bridge_error,
            networks,
            resolver,
            cgroups,
            launcher,
            volumes,
            trash,
            run_trash,
            warnings,
            _roots: roots,
        });
        restore::restore(&engine)?;
        // Its containers have a new one.
        predecessor.into_iter().for_each(companion::end);
        carrier.succeed();
        networks::dropping(&engine).iter().for_each(|warning| tracing::warn!("{warning}"));
        keep_last_used(&engine);
        images::once::settle(&engine);
        build::collect::keep_small(&engine);
        cleaning::keep_clean(&engine);
        Ok(engine)
    }

    /// Ends what serves a client only, as builds do: the engine is about to close.
    pub fn end(&self) {
        self.builder.end();
        self.served.end();
    }

    /// Stops serving: what was promised is written. Containers run on.
    pub fn close(&self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Err(error) = self.images.flush_last_used() {
            tracing::warn!(error = yare_errdefs::chain(&error), "cannot write when images were last used");
        }
        self.builder.close();
        self.records.close();
    }

    /// Whether no container runs.
    pub fn is_idle(&self) -> bool {
        !self.containers.all().iter().any(|container| container.state().has_process())
    }

    /// The settings this engine was opened with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Runs a use case as a task of its own, so that it goes on when the caller is dropped.
    async fn detached<T: Send + 'static>(
        &self,
        use_case: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        tokio::spawn(use_case)
            .await
            .unwrap_or_else(|error| Err(Error::internal("the operation broke off").caused_by(error)))
    }

    fn publish(&self, kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) {
        self.events.publish(self.clock.now(), kind, action, id, attributes);
    }

    fn publish_container(&self, container: &Container, action: &str, more: BTreeMap<String, String>) {
        let mut attributes = container.record().event_attributes();
        attributes.extend(more);
        self.publish("container", action, &container.id, attributes);
    }

    /// Where a container's hosts file, resolver file and log are.
    fn container_dir(&self, id: &str) -> PathBuf {
        self.config.data_root.join("containers").join(id)
    }

    /// The cgroup of a container, beneath each hierarchy.
    fn cgroup_path(&self, record: &Record) -> String {
        let parent = match record.host_config.cgroup_parent.as_str() {
            "" => self.config.cgroup_parent.as_str(),
            parent => parent,
        };
        format!("{}/{}", parent.trim_end_matches('/'), record.id)
    }

    /// Writes a container's record; when this returns it survives power loss, unless the container removes
    /// itself at its end: then it survives the engine.
    async fn save(&self, container: &Container) -> Result<()> {
        self.hand_over(container, Vec::new()).await
    }

    /// Writes a container's record as it is at this moment, together with other edits. The future says when
    /// it is done; the order among changes is that of the calls. A record that was deleted is not written.
    fn hand_over(
        &self,
        container: &Container,
        mut edits: Vec<Edit>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let deleted = container.deleted.lock();
        let record = container.record();
        let mut written = Ok(());
        if record.auto_remove() && !*deleted {
            written = self.save_in_run_dir(&record).map_err(|error| {
                Error::internal(format!("cannot write the record of container {}", record.id))
                    .caused_by(error)
            });
        } else if !*deleted {
            edits.push(Edit::put(Table::Containers, &container.id, to_json(&*record)));
        }
        if let Err(error) = &written {
            tracing::warn!(
                container = container.id,
                error = yare_errdefs::chain(error),
                "it is not on record"
            );
        }
        let committed = (written.is_ok() && !edits.is_empty()).then(|| self.records.commit(edits));
        drop(deleted);
        async move {
            match committed {
                Some(committed) => committed.await,
                None => written,
            }
        }
    }

    /// Takes a container off the records, together with other edits; as if nothing had been asked when that
    /// fails.
    async fn delete(&self, container: &Container, mut edits: Vec<Edit>) -> Result<()> {
        let committed = {
            let mut deleted = container.deleted.lock();
            *deleted = true;
            if !container.record().auto_remove() {
                edits.push(Edit::delete(Table::Containers, &container.id));
            }
            (!edits.is_empty()).then(|| self.records.commit(edits))
        };
        let Some(committed) = committed else { return Ok(()) };
        let outcome = committed.await;
        *container.deleted.lock() = outcome.is_ok();
        outcome
    }

    /// Writes a container's record some time soon: to the database, or if it removes itself, to its run
    /// directory.
    fn save_soon(&self, container: &Container) {
        drop(self.hand_over(container, Vec::new()));
    }

    fn save_in_run_dir(&self, record: &Record) -> std::io::Result<()> {
        let folder = task::run_dir(self, &record.id);
        let temporary = folder.join("record.json.tmp");
        std::fs::write(&temporary, to_json(record))?;
        std::fs::rename(temporary, folder.join(restore::RUN_RECORD))
    }

    fn trash_run_dir(&self, id: &str) {
        if let Err(error) = self.run_trash.take(&task::run_dir(self, id)) {
            tracing::warn!(
                container = id,
                error = yare_errdefs::chain(&error),
                "cannot remove the run directory"
            );
        }
    }

    /// Tells of the volumes that a run begins to use.
    fn publish_mounted(&self, container: &Container) {
        for mount in volumes_of(&container.record()) {
            let attributes = BTreeMap::from([
                ("container".to_owned(), container.id.clone()),
                ("destination".to_owned(), mount.destination.clone()),
                ("driver".to_owned(), mount.driver.clone()),
                ("propagation".to_owned(), mount.propagation.clone()),
                ("read/write".to_owned(), mount.rw.to_string()),
            ]);
            self.publish("volume", "mount", &mount.name, attributes);
        }
    }

    /// Tells of the volumes that a run used.
    fn publish_unmounted(&self, container: &Container) {
        for mount in volumes_of(&container.record()) {
            let attributes = BTreeMap::from([
                ("container".to_owned(), container.id.clone()),
                ("driver".to_owned(), mount.driver.clone()),
            ]);
            self.publish("volume", "unmount", &mount.name, attributes);
        }
    }

    fn publish_connected(&self, container: &Container) {
        for endpoint in &container.record().endpoints {
            networks::publish_member(self, "connect", networks::of_endpoint(endpoint), &container.id);
        }
    }

    /// Gives up its places in networks; says which.
    fn detach_networks(&self, container: &Container) -> Vec<String> {
        let record = container.record();
        self.resolver.forget(&container.id);
        let shared = !record.endpoints.is_empty() && wiring::is_network_shared(self, &container.id);
        for endpoint in &record.endpoints {
            match networks::live(self, networks::of_endpoint(endpoint)) {
                Ok(network) if shared => network.detach_shared(&container.id),
                Ok(network) => network.detach(&container.id),
                Err(_) => {}
            }
        }
        record.endpoints.iter().map(|endpoint| networks::of_endpoint(endpoint).to_owned()).collect()
    }

    /// Lets go of images that were removed by force and whose last container is gone.
    fn reap_images(&self) {
        if let Err(error) = self.images.reap(&|image| !holders::of_image(self, &image.0).is_empty()) {
            tracing::warn!(
                error = yare_errdefs::chain(&error),
                "cannot remove images that nothing uses any more"
            );
        }
    }
}

fn volumes_of(record: &Record) -> impl Iterator<Item = &yare_api::MountPoint> {
    record.mounts.iter().filter(|mount| mount.r#type == "volume")
}

/// How often last-used times reach the disk: what a crash may forget of them.
const LAST_USED_EVERY: std::time::Duration = std::time::Duration::from_secs(30);

/// Writes last-used times now and then, as long as the engine lives.
fn keep_last_used(engine: &Arc<Engine>) {
    let engine = Arc::downgrade(engine);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LAST_USED_EVERY).await;
            let Some(engine) = engine.upgrade() else { return };
            let written = images::blocking(move || engine.images.flush_last_used()).await;
            if let Err(error) = written {
                tracing::warn!(
                    error = yare_errdefs::chain(&error),
                    "cannot write when images were last used"
                );
            }
        }
    });
}

/// Makes a folder that only root may enter, and mends the mode of one that is there.
fn private_folder(path: &Path) -> Result<()> {
    folder_of_mode(path, 0o710)
}

fn folder_of_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |error: std::io::Error| {
        Error::internal(format!("cannot make the folder {}", path.display())).caused_by(error)
    };
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

/// 64 random hex digits, of which the first twelve are never all decimal: as a host name, the short form
/// would look like a number.
fn random_id() -> String {
    loop {
        let id = random_hex();
        if !id[..12].bytes().all(|digit| digit.is_ascii_digit()) {
            return id;
        }
    }
}

fn random_hex() -> String {
    let mut bytes = [0_u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("the kernel gives no random bytes: {error}"),
        }
    }
    hex::encode(bytes)
}

/// A record as JSON.
fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have text keys and no failing parts")
}
