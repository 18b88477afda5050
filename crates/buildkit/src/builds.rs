//! Builds by the id that their client chose: the calls of one build find each other here, and those that are
//! over stay a while as its history.

use crate::calls::Loaded;
use crate::grpc::{Code, Status};
use crate::history::{Change, Record};
use crate::link::Stop;
use crate::news::News;
use crate::proto::control::SolveRequest;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, oneshot};

/// How long a call waits for the build that it is about.
const PATIENCE: Duration = Duration::from_secs(10);
/// Builds at once.
const MOST: usize = 1000;
/// Builds that are remembered.
const REMEMBERED: usize = 50;
/// Most bytes of an id.
const LONGEST: usize = 256;

/// What a client returns from its frontend.
pub(crate) type Returned = Result<Option<Arc<Loaded>>, Status>;

/// A build, under way or over.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) request: SolveRequest,
    pub(crate) news: Arc<News>,
    pub(crate) stop: Stop,
    pub(crate) record: Mutex<Record>,
    /// What frontends loaded, by the id that its client knows it by.
    loaded: Mutex<HashMap<String, Arc<Loaded>>>,
    returned: Mutex<Option<oneshot::Sender<Returned>>>,
    /// Operations of graphs that were to be done whatever the cache had, and were.
    pub(crate) done: Mutex<HashSet<String>>,
}

impl Build {
    /// Keeps what a frontend loaded.
    pub(crate) fn keep(&self, id: String, loaded: Arc<Loaded>) -> Result<(), Status> {
        let mut all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            return Err(Status::new(Code::ResourceExhausted, "a build has too many results"));
        }
        all.insert(id, loaded);
        Ok(())
    }

    /// What is known by this id.
    pub(crate) fn loaded(&self, id: &str) -> Result<Arc<Loaded>, Status> {
        let all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(id).cloned();
        found.ok_or_else(|| Status::new(Code::NotFound, format!("this build has no result {id:?}")))
    }

    /// The client is done with its frontend.
    pub(crate) fn returns(&self, what: Returned) -> Result<(), Status> {
        let sender = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sender = sender
            .ok_or_else(|| Status::new(Code::FailedPrecondition, "the build has its result already"))?;
        sender.send(what).map_err(|_| Status::new(Code::FailedPrecondition, "the build is over"))
    }
}

/// All builds.
#[derive(Debug)]
pub(crate) struct Builds {
    active: Mutex<HashMap<String, Arc<Build>>>,
    over: Mutex<VecDeque<Arc<Build>>>,
    begun: Notify,
    changes: broadcast::Sender<Change>,
}

impl Default for Builds {
    fn default() -> Self {
        Self {
            active: Mutex::default(),
            over: Mutex::default(),
            begun: Notify::new(),
            changes: broadcast::Sender::new(64),
        }
    }
}

/// A build under way. It ends when this is dropped, whatever the reason.
pub(crate) struct Active<'a> {
    builds: &'a Builds,
    pub(crate) build: Arc<Build>,
    /// Comes when the client returns from its frontend.
    pub(crate) returned: oneshot::Receiver<Returned>,
}

impl Builds {
    fn active(&self) -> MutexGuard<'_, HashMap<String, Arc<Build>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn over(&self) -> MutexGuard<'_, VecDeque<Arc<Build>>> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a build.
    pub(crate) fn begin(&self, request: SolveRequest) -> Result<Active<'_>, Status> {
        let id = request.r#ref.clone();
        if id.is_empty() || id.len() > LONGEST {
            return Err(Status::new(Code::InvalidArgument, "a build needs an id of at most 256 bytes"));
        }
        let (sender, returned) = oneshot::channel();
        let build = Arc::new(Build {
            record: Mutex::new(Record::begin()),
            request,
            news: Arc::default(),
            stop: Stop::new(),
            loaded: Mutex::default(),
            done: Mutex::default(),
            returned: Mutex::new(Some(sender)),
        });
        {
            let mut active = self.active();
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
        self.tell(&build, Change::Started);
        Ok(Active { builds: self, build, returned })
    }

    fn tell(&self, build: &Arc<Build>, change: fn(Arc<Build>) -> Change) {
        if !build.request.internal {
            // Nobody may be listening.
            drop(self.changes.send(change(Arc::clone(build))));
        }
    }

    /// Finds a build that is under way, waiting for it a little.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Build>, Status> {
        self.wait(|| self.active().get(id).cloned(), id, PATIENCE).await
    }

    /// Finds a build, also one that is over.
    pub(crate) async fn recall(&self, id: &str) -> Result<Arc<Build>, Status> {
        let known = || {
            let active = self.active().get(id).cloned();
            active.or_else(|| self.over().iter().find(|build| build.request.r#ref == id).cloned())
        };
        self.wait(known, id, PATIENCE).await
    }

    async fn wait(
        &self,
        known: impl Fn() -> Option<Arc<Build>>,
        id: &str,
        patience: Duration,
    ) -> Result<Arc<Build>, Status> {
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

    /// All that is known, the oldest first, with whether it is over.
    pub(crate) fn list(&self) -> Vec<(Arc<Build>, bool)> {
        let over: Vec<_> = self.over().iter().map(|build| (Arc::clone(build), true)).collect();
        let active: Vec<_> = self.active().values().map(|build| (Arc::clone(build), false)).collect();
        let shown = over.into_iter().chain(active);
        shown.filter(|(build, _)| !build.request.internal).collect()
    }

    /// What changes from now on.
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Forgets a build that is over.
    pub(crate) fn forget(&self, id: &str) -> Result<(), Status> {
        let removed = {
            let mut over = self.over();
            let place = over.iter().position(|build| build.request.r#ref == id);
            place.and_then(|place| over.remove(place))
        };
        let build = removed.ok_or_else(|| Status::new(Code::NotFound, format!("no such build {id}")))?;
        self.tell(&build, Change::Deleted);
        Ok(())
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        let build = &self.build;
        build.stop.stop();
        build.news.end();
        build.loaded.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.builds.active().remove(&build.request.r#ref);
        if build.request.internal {
            return;
        }
        build.record.lock().unwrap_or_else(PoisonError::into_inner).end();
        {
            let mut over = self.builds.over();
            over.push_back(Arc::clone(build));
            // Pinned ones stay until there is nothing else to forget.
            while over.len() > REMEMBERED {
                let pinned =
                    |build: &Arc<Build>| build.record.lock().unwrap_or_else(PoisonError::into_inner).pinned;
                let place = over.iter().position(|build| !pinned(build)).unwrap_or(0);
                over.remove(place);
            }
        }
        self.builds.tell(build, Change::Completed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: &str) -> SolveRequest {
        SolveRequest { r#ref: id.to_owned(), ..SolveRequest::default() }
    }

    #[tokio::test]
    async fn a_build_ends_with_its_call_and_is_remembered() {
        let builds = Builds::default();
        let active = builds.begin(request("a")).expect("begun");
        assert!(builds.begin(request("a")).is_err(), "an id is used once at a time");
        let build = builds.find("a").await.expect("under way");
        build.returns(Ok(None)).expect("returned");
        assert!(build.returns(Ok(None)).is_err(), "a result comes once");
        assert!(matches!(builds.list().as_slice(), [(_, false)]));
        drop(active);
        assert!(build.stop.cancel.is_cancelled());
        assert_eq!(build.news.after(0).await, None, "its news end");
        assert!(matches!(builds.list().as_slice(), [(_, true)]));
        builds.forget("a").expect("forgotten");
        assert!(builds.forget("a").is_err());
    }

    #[tokio::test]
    async fn a_bounded_number_is_remembered() {
        let builds = Builds::default();
        for number in 0..REMEMBERED + 20 {
            drop(builds.begin(request(&number.to_string())).expect("begun"));
        }
        assert_eq!(builds.list().len(), REMEMBERED);
        assert_eq!(builds.list()[0].0.request.r#ref, "20");
    }

    #[tokio::test]
    async fn nobody_waits_for_ever() {
        let waited = Builds::default().wait(|| None, "x", Duration::ZERO).await;
        assert_eq!(waited.expect_err("not there").code, Code::NotFound);
    }
}
