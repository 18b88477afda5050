//! Registries that live as long as a test.

use crate::client::Client;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use yare_registry::{Clock, Config, Registry};

/// A registry that serves a port of its own.
pub(crate) struct Served {
    pub(crate) client: Client,
    pub(crate) registry: Arc<Registry>,
    pub(crate) runtime: Runtime,
    pub(crate) root: PathBuf,
    /// The time that the registry goes by.
    pub(crate) clock: Clock,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    serving: Option<tokio::task::JoinHandle<yare_errdefs::Result<()>>>,
    /// Kept until the registry has ended.
    folder: Option<TempDir>,
}

impl Served {
    /// One with this configuration (TOML without `root` and `listen`).
    pub(crate) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("registry");
        let mut served = Self::at(root, text);
        served.folder = Some(folder);
        served
    }

    /// One over a root that outlives it.
    pub(crate) fn at(root: PathBuf, text: &str) -> Self {
        Self::at_time(root, text, &Clock::default())
    }

    /// The same at a time that the test knows.
    pub(crate) fn at_time(root: PathBuf, text: &str, clock: &Clock) -> Self {
        let mut config = Config::parse(text).unwrap();
        config.clock = clock.clone();
        if config.storage.url.is_none() && std::env::var_os(crate::buckets::EVERYWHERE).is_some() {
            crate::buckets::store_there(&mut config, &root);
        }
        config.root.clone_from(&root);
        config.limits.reserve = 0;
        let listener = yare_registry::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let registry = Registry::open(config).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serving = runtime.spawn(yare_registry::serve(Arc::clone(&registry), vec![listener], async {
            let _ = stopped.await;
        }));
        let client = Client::new(address);
        Self {
            client,
            registry,
            runtime,
            root,
            clock: clock.clone(),
            stop: Some(stop),
            serving: Some(serving),
            folder: None,
        }
    }

    /// Collects, and returns what went.
    pub(crate) fn collect(&self, dry_run: bool) -> yare_registry::Collected {
        self.runtime.block_on(yare_registry::collect(&self.registry, dry_run)).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            let ended = self.runtime.block_on(serving);
            if !std::thread::panicking() {
                ended.unwrap().unwrap();
            }
        }
    }
}
