//! Builds by the id that their client chose: the calls of one build find each other here, and what those that
//! are over said goes into the history.
//!
//! A client asks for a build and for its news at once, and either question may come first. What a client does
//! for itself is over in a millisecond and has no place in the history; so its news stay here for a while.

use crate::gateway::bridge::{Bridge, Given, Returned};
use crate::gateway::frontend;
use crate::gateway::local::Local;
use crate::grpc::{Code, Status};
use crate::history::{self, Record, Store};
use crate::link::Stop;
use crate::news::News;
use crate::proto::control::{COMPLETE, HistoryEvent, HistoryRecord, STARTED, SolveRequest};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, broadcast, oneshot};

/// How long a call waits for the build that it is about.
const PATIENCE: Duration = Duration::from_secs(10);
/// Builds at once.
const MOST: usize = 1000;
/// Most bytes of an id.
const LONGEST: usize = 256;
/// Builds without a place in the history whose news stay, and bytes of these.
const RECENT: usize = 256;
const RECENT_BYTES: usize = 4 << 20;

/// A build, under way or over.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) request: SolveRequest,
    pub(crate) news: Arc<News>,
    pub(crate) stop: Stop,
    pub(crate) record: Mutex<Record>,
    /// What it has here, when no client's session has it.
    pub(crate) local: Option<Local>,
    /// What its client has, as a frontend of its own.
    pub(crate) bridge: Bridge,
    /// Room for frontends that run.
    pub(crate) frontends: Arc<Semaphore>,
    /// Operations of graphs that were to be done whatever the cache had, and were.
    pub(crate) done: Mutex<HashSet<String>>,
}

impl Build {
    pub(crate) fn new(request: SolveRequest, bridge: Bridge) -> Self {
        Self {
            record: Mutex::new(Record::begin()),
            request,
            news: Arc::default(),
            stop: Stop::new(),
            local: None,
            bridge,
            frontends: frontend::places(),
            done: Mutex::default(),
        }
    }
}

/// All builds.
#[derive(Debug)]
pub(crate) struct Builds {
    active: Mutex<HashMap<String, Arc<Build>>>,
    /// Those that are over.
    pub(crate) store: Arc<Store>,
    /// News of those that are over and that the history does not keep, the oldest first.
    recent: Mutex<VecDeque<Recent>>,
    begun: Notify,
    changes: broadcast::Sender<HistoryEvent>,
}

#[derive(Debug)]
struct Recent {
    id: String,
    news: Arc<News>,
    bytes: usize,
}

/// Where the news of a build are.
#[derive(Debug)]
pub(crate) enum Recalled {
    Here(Arc<News>),
    Stored,
}

/// A build under way. It ends when this is dropped, whatever the reason.
pub(crate) struct Active<'a> {
    builds: &'a Builds,
    pub(crate) build: Arc<Build>,
    /// Comes when the client returns from its frontend.
    pub(crate) returned: oneshot::Receiver<Returned>,
}

impl Builds {
    /// None, and those that were.
    pub(crate) fn new(store: Arc<Store>) -> Self {
        let changes = broadcast::Sender::new(64);
        let (active, recent) = (Mutex::default(), Mutex::default());
        Self { active, store, recent, begun: Notify::new(), changes }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Build>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A build that is under way.
    pub(crate) fn active(&self, id: &str) -> Option<Arc<Build>> {
        self.lock().get(id).cloned()
    }

    /// Begins a build.
    pub(crate) fn begin(&self, request: SolveRequest) -> Result<Active<'_>, Status> {
        self.begin_local(request, None)
    }

    /// Begins a build, perhaps one that has no client here.
    pub(crate) fn begin_local(
        &self,
        request: SolveRequest,
        local: Option<Local>,
    ) -> Result<Active<'_>, Status> {
        let id = request.r#ref.clone();
        if id.is_empty() || id.len() > LONGEST {
            return Err(Status::new(Code::InvalidArgument, "a build needs an id of at most 256 bytes"));
        }
        let (bridge, returned) = Bridge::new(Given::default(), 0);
        let build = Arc::new(Build { local, ..Build::new(request, bridge) });
        {
            let mut active = self.lock();
            if active.contains_key(&id) {
                return Err(Status::new(Code::AlreadyExists, format!("there is a build {id} already")));
            }
            if active.len() >= MOST {
                return Err(Status::new(
                    Code::ResourceExhausted,
                    format!("{MOST} builds are under way already"),
                ));
            }
            active.insert(id, Arc::clone(&build));
        }
        self.begun.notify_waiters();
        if !build.request.internal {
            self.tell(STARTED, history::shown(&build));
        }
        Ok(Active { builds: self, build, returned })
    }

    /// Tells those who listen to the history.
    pub(crate) fn tell(&self, kind: i32, record: HistoryRecord) {
        // Nobody may be listening.
        drop(self.changes.send(history::event(kind, record)));
    }

    /// Finds a build that is under way, waiting for it a little.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Build>, Status> {
        self.wait(|| self.active(id), id, PATIENCE).await
    }

    /// Finds the news of a build, also of one that is over.
    pub(crate) async fn recall(&self, id: &str) -> Result<Recalled, Status> {
        let known = || {
            let active = || self.active(id).map(|build| Arc::clone(&build.news));
            let stored = || self.store.find(id).map(|_| Recalled::Stored);
            active().or_else(|| self.recent(id)).map(Recalled::Here).or_else(stored)
        };
        self.wait(known, id, PATIENCE).await
    }

    fn recent(&self, id: &str) -> Option<Arc<News>> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.iter().rfind(|one| one.id == id).map(|one| Arc::clone(&one.news))
    }

    /// Keeps the news of a build that has no place in the history. The newest stay, whatever they take.
    fn keep_recent(&self, build: &Build) {
        let bytes = build.news.all().iter().map(prost::Message::encoded_len).sum();
        let one = Recent { id: build.request.r#ref.clone(), news: Arc::clone(&build.news), bytes };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back(one);
        while recent.len() > 1
            && (recent.len() > RECENT || recent.iter().map(|one| one.bytes).sum::<usize>() > RECENT_BYTES)
        {
            recent.pop_front();
        }
    }

    async fn wait<T>(
        &self,
        known: impl Fn() -> Option<T>,
        id: &str,
        patience: Duration,
    ) -> Result<T, Status> {
        let waited = tokio::time::timeout(patience, async {
            loop {
                let mut begun = std::pin::pin!(self.begun.notified());
                begun.as_mut().enable();
                if let Some(build) = known() {
                    return build;
                }
                begun.await;
            }
        });
        waited.await.map_err(|_| Status::new(Code::NotFound, format!("no such job {id}")))
    }

    /// All that is known, those under way last.
    pub(crate) fn list(&self) -> Vec<HistoryEvent> {
        let active: Vec<_> = self.lock().values().map(Arc::clone).collect();
        let under_way =
            |record: &HistoryRecord| active.iter().any(|build| build.request.r#ref == record.r#ref);
        let over = self.store.list().into_iter().filter(|record| !under_way(record));
        let mut all: Vec<_> = over.map(|record| history::event(COMPLETE, record)).collect();
        let shown = active.iter().filter(|build| !build.request.internal);
        all.extend(shown.map(|build| history::event(STARTED, history::shown(build))));
        all
    }

    /// What changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<HistoryEvent> {
        self.changes.subscribe()
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let build = &self.build;
        build.stop.stop();
        build.news.end();
        build.bridge.clear();
        // Before it is taken from those under way: there is no moment at which nobody knows of it.
        if build.request.internal {
            self.builds.keep_recent(build);
        } else {
            build.record.lock().unwrap_or_else(PoisonError::into_inner).end();
            if let Err(error) = self.builds.store.add(history::shown(build), &build.news.all()) {
                tracing::warn!(error = yare_errdefs::chain(&error), "a build is not remembered");
                self.builds.keep_recent(build);
            }
        }
        self.builds.lock().remove(&build.request.r#ref);
        if let Some(record) = self.builds.store.find(&build.request.r#ref) {
            self.builds.tell(COMPLETE, record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::bridge::Outcome;
    use crate::proto::control::VertexWarning;

    fn request(id: &str) -> SolveRequest {
        SolveRequest { r#ref: id.to_owned(), ..SolveRequest::default() }
    }

    fn place() -> (tempfile::TempDir, Builds) {
        let root = tempfile::tempdir().expect("a folder");
        let store = Store::open(root.path().to_owned()).expect("opened");
        (root, Builds::new(Arc::new(store)))
    }

    #[tokio::test]
    async fn a_build_ends_with_its_call_and_is_remembered() {
        let (_root, builds) = place();
        let mut changes = builds.changes();
        let active = builds.begin(request("a")).expect("begun");
        assert!(builds.begin(request("a")).is_err(), "an id is used once at a time");
        let build = builds.find("a").await.expect("under way");
        build.bridge.returns(Ok(Outcome::default())).expect("returned");
        assert!(build.bridge.returns(Ok(Outcome::default())).is_err(), "a result comes once");
        assert!(matches!(builds.list().as_slice(), [HistoryEvent { kind: STARTED, .. }]));
        drop(active);
        assert!(build.stop.cancel.is_cancelled());
        assert_eq!(build.news.after(0).await, None, "its news end");
        assert!(matches!(builds.list().as_slice(), [HistoryEvent { kind: COMPLETE, .. }]));
        assert!(matches!(builds.recall("a").await, Ok(Recalled::Stored)));
        let kinds = [changes.recv().await.expect("told").kind, changes.recv().await.expect("told").kind];
        assert_eq!(kinds, [STARTED, COMPLETE]);
        let internal = SolveRequest { internal: true, ..request("i") };
        drop(builds.begin(internal).expect("begun"));
        assert_eq!(builds.list().len(), 1, "what a client does for itself is not remembered");
    }

    #[tokio::test]
    async fn news_of_what_a_client_does_for_itself_may_be_asked_for_late() {
        let (_root, builds) = place();
        let internal = |id: &str| SolveRequest { internal: true, ..request(id) };
        let warned = |builds: &Builds, id: &str, text: usize| {
            let active = builds.begin(internal(id)).expect("begun");
            let short = vec![b'x'; text];
            active.build.news.warn(VertexWarning { short, ..VertexWarning::default() });
        };
        warned(&builds, "early", 1);
        let Ok(Recalled::Here(news)) = builds.recall("early").await else { panic!("forgotten at its end") };
        assert_eq!(news.after(0).await.expect("news").0.warnings[0].short, b"x");
        assert_eq!(news.after(1).await, None, "and they end");
        for number in 0..RECENT {
            warned(&builds, &number.to_string(), 0);
        }
        assert!(builds.recent("early").is_none(), "they are few");
        warned(&builds, "large", RECENT_BYTES);
        assert!(builds.recent("large").is_some() && builds.recent("7").is_none(), "and small");
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let waited = place().1.wait(|| None::<()>, "x", Duration::ZERO).await;
        assert_eq!(waited.expect_err("not there").code, Code::NotFound);
    }
}
