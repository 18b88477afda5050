//! Who speaks on `LLBBridge`: a client that runs its frontend itself, or the process of a frontend; and what
//! each of them has.

use super::container::Containers;
use crate::Kit;
use crate::builds::Build;
use crate::calls::{Loaded, Metadata};
use crate::graphs::{Graph, Graphs};
use crate::grpc::{Code, Status};
use crate::inputs;
use crate::proto::Definition;
use crate::proto::gateway::{Answer, Ref, RefMap};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};
use yare_errdefs::Error;

/// Results of one speaker, and the bytes of their graphs.
const MOST: usize = 1000;
const LARGEST: usize = 256 << 20;
/// Calls of one frontend.
const MOST_CALLS: usize = 100_000;

/// What a frontend returns.
pub(crate) type Returned = Result<Outcome, Status>;

/// What one speaker has.
#[derive(Debug)]
pub(crate) struct Bridge {
    results: Mutex<Results>,
    returned: Mutex<Option<oneshot::Sender<Returned>>>,
    done: Notify,
    calls: AtomicUsize,
    /// Containers in which it runs processes.
    pub(crate) containers: Containers,
    /// What a frontend was given by its caller; a client has what its request says.
    given: Given,
    /// How many frontends called each other up to this one.
    pub(crate) depth: usize,
}

/// Graphs that a frontend was given, and the results of its caller's that they stand on, by identifier.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) inputs: BTreeMap<String, Definition>,
    pub(crate) results: HashMap<String, (Arc<Build>, Arc<Loaded>)>,
}

#[derive(Debug, Default)]
struct Results {
    known: HashMap<String, Arc<Loaded>>,
    bytes: usize,
}

impl Bridge {
    /// One of a client, or of a frontend this many calls deep; and what comes when it returns.
    pub(crate) fn new(given: Given, depth: usize) -> (Self, oneshot::Receiver<Returned>) {
        let (sender, receiver) = oneshot::channel();
        let returned = Mutex::new(Some(sender));
        let (results, done, calls) = (Mutex::default(), Notify::new(), AtomicUsize::new(0));
        (Self { results, returned, done, calls, containers: Containers::default(), given, depth }, receiver)
    }

    fn results(&self) -> MutexGuard<'_, Results> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a result under a new id.
    pub(crate) fn keep(&self, loaded: Arc<Loaded>) -> Result<String, Status> {
        let id = yare_sys::fs::unique_name("");
        let size = loaded.graphs.as_ref().map_or(0, Graphs::size);
        let mut results = self.results();
        if results.known.len() >= MOST || results.bytes + size > LARGEST {
            return Err(Status::new(Code::ResourceExhausted, "a build has too many results"));
        }
        results.bytes += size;
        results.known.insert(id.clone(), loaded);
        Ok(id)
    }

    /// What is known by this id.
    pub(crate) fn loaded(&self, id: &str) -> Result<Arc<Loaded>, Status> {
        let found = self.results().known.get(id).cloned();
        found.ok_or_else(|| Status::new(Code::NotFound, format!("this build has no result {id:?}")))
    }

    /// Lets go of all results, and ends all containers.
    pub(crate) fn clear(&self) {
        self.containers.clear();
        *self.results() = Results::default();
    }

    /// The speaker is done.
    pub(crate) fn returns(&self, what: Returned) -> Result<(), Status> {
        let sender = self.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sender = sender
            .ok_or_else(|| Status::new(Code::FailedPrecondition, "the build has its result already"))?;
        self.done.notify_one();
        sender.send(what).map_err(|_| Status::new(Code::FailedPrecondition, "the build is over"))
    }

    /// Comes when the speaker has returned; one waits.
    pub(crate) async fn has_returned(&self) {
        self.done.notified().await;
    }
}

/// A speaker, within its build. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) build: Arc<Build>,
    /// A frontend's own; a client has the build's.
    frontend: Option<Arc<Bridge>>,
}

impl Caller {
    /// The client of a build.
    pub(crate) fn client(build: Arc<Build>) -> Self {
        Self { build, frontend: None }
    }

    /// A frontend of a build.
    pub(crate) fn frontend(build: Arc<Build>, bridge: Arc<Bridge>) -> Self {
        Self { build, frontend: Some(bridge) }
    }

    pub(crate) fn bridge(&self) -> &Bridge {
        self.frontend.as_deref().unwrap_or(&self.build.bridge)
    }

    /// Counts a call. A frontend's are bounded; whoever has a client's connection may do anything anyway.
    pub(crate) fn counted(self) -> Result<Self, Status> {
        let calls = self.bridge().calls.fetch_add(1, Ordering::Relaxed);
        if self.frontend.is_some() && calls >= MOST_CALLS {
            let text = format!("a frontend called more than {MOST_CALLS} times");
            return Err(Status::new(Code::ResourceExhausted, text));
        }
        Ok(self)
    }

    /// The graphs that it was given.
    pub(crate) fn inputs(&self) -> &BTreeMap<String, Definition> {
        match &self.frontend {
            Some(bridge) => &bridge.given.inputs,
            None => &self.build.request.inputs,
        }
    }

    /// The result that an input of a request stands for, which a client may have from any of its builds.
    pub(crate) async fn input(
        &self,
        kit: &Kit,
        identifier: &str,
    ) -> Result<(Arc<Build>, Arc<Loaded>), Status> {
        match (inputs::place(identifier), &self.frontend) {
            (Some((id, result)), None) => {
                let build = kit.builds.find(&id).await?;
                let loaded = build.bridge.loaded(&result)?;
                Ok((build, loaded))
            }
            _ => self.find(kit, identifier).await,
        }
    }

    /// The result that an identifier in a graph stands for: one of its own, or one that it was given.
    pub(crate) async fn find(
        &self,
        kit: &Kit,
        identifier: &str,
    ) -> Result<(Arc<Build>, Arc<Loaded>), Status> {
        let unknown = || Status::new(Code::NotFound, format!("there is no result {identifier}"));
        let (id, result) = inputs::place(identifier).ok_or_else(unknown)?;
        let own = id == self.build.request.r#ref;
        if own && let Ok(loaded) = self.bridge().loaded(&result) {
            return Ok((Arc::clone(&self.build), loaded));
        }
        if let Some(bridge) = &self.frontend {
            return bridge.given.results.get(identifier).cloned().ok_or_else(unknown);
        }
        let given = self.build.request.inputs.iter();
        let given = given.map(|(name, input)| inputs::parse(name, input)).collect::<Result<Vec<_>, _>>()?;
        if own || !given.into_iter().flatten().any(|(other, _)| other == id) {
            return Err(unknown());
        }
        let other = kit.builds.find(&id).await?;
        let loaded = other.bridge.loaded(&result)?;
        Ok((other, loaded))
    }
}

/// What a frontend made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Results by name; one that is alone may have the empty name.
    pub(crate) refs: Vec<(String, Arc<Loaded>)>,
    /// What it says of them.
    pub(crate) metadata: Metadata,
}

impl Outcome {
    /// A result without a name.
    pub(crate) fn single(loaded: Arc<Loaded>, metadata: Metadata) -> Self {
        Self { refs: vec![(String::new(), loaded)], metadata }
    }

    /// What a speaker says that it made: results of its own.
    pub(crate) fn of(caller: &Caller, answer: Answer) -> Result<Self, Status> {
        if !answer.attestations.is_empty() {
            let error =
                Error::unimplemented("attestations that a frontend makes are not kept by this Yare yet")
                    .with_hint("ask for them of the engine: --sbom, --provenance");
            return Err(error.into());
        }
        let single = answer.r#ref.iter().map(|one| ("", one.id.as_str())).filter(|(_, id)| !id.is_empty());
        let several = answer.refs.iter().flat_map(|refs| &refs.refs);
        let several = several.map(|(name, one)| (name.as_str(), one.id.as_str()));
        let mut refs = Vec::new();
        for (name, id) in single.chain(several) {
            let loaded = match id {
                // The empty file system has no id.
                "" => Arc::new(Loaded::graph(&caller.build, Graphs::empty())?),
                id => caller.bridge().loaded(id)?,
            };
            refs.push((name.to_owned(), loaded));
        }
        Ok(Self { refs, metadata: answer.metadata })
    }

    /// As one thing to build; `None` when there is nothing to build.
    pub(crate) fn build(self, build: &Build) -> Result<Option<Arc<Loaded>>, Status> {
        let Self { mut refs, metadata } = self;
        match refs.as_slice() {
            // An image of nothing is one.
            [] if metadata.contains_key("containerimage.config") => {
                refs.push((String::new(), Arc::new(Loaded::graph(build, Graphs::empty())?)));
            }
            [] => return Ok(None),
            [(_, only)] if only.graphs.is_none() => return Ok(Some(Arc::clone(only))),
            _ => {}
        }
        let mut all = Vec::new();
        let (mut results, mut contained) = (BTreeMap::new(), BTreeMap::new());
        for (name, loaded) in &refs {
            let graphs = loaded
                .graphs
                .as_ref()
                .ok_or_else(|| Status::new(Code::Internal, "one of several results has no graph"))?;
            results.extend(graphs.results.clone());
            contained.extend(graphs.contained.clone());
            let wire = graphs.all.first().map(|graph| graph.wire.clone()).unwrap_or_default();
            all.push((name.clone(), wire));
        }
        let all: Vec<Graph> = crate::graphs::described(all, &metadata)?;
        let graphs =
            Graphs { all, results, contained, _on: refs.into_iter().map(|(_, loaded)| loaded).collect() };
        Ok(Some(Arc::new(Loaded::graph(build, graphs)?)))
    }

    /// As an answer to a caller, whose results they become.
    pub(crate) fn answer(self, caller: &Caller) -> Result<Answer, Status> {
        let Self { refs, metadata } = self;
        let mut known = Vec::new();
        for (name, loaded) in refs {
            let graph = loaded.graphs.as_ref().and_then(|graphs| graphs.all.first());
            let wire = graph.map(|graph| graph.wire.clone());
            let id = caller.bridge().keep(loaded)?;
            let def = wire.unwrap_or_else(|| inputs::definition(&caller.build.request.r#ref, &id));
            known.push((name, Ref { id, def: Some(def) }));
        }
        if let [(name, _)] = known.as_slice()
            && name.is_empty()
        {
            return Ok(Answer { r#ref: known.pop().map(|(_, one)| one), metadata, ..Answer::default() });
        }
        let refs = (!known.is_empty()).then(|| RefMap { refs: known.into_iter().collect() });
        Ok(Answer { refs, metadata, ..Answer::default() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::proto::control::SolveRequest;

    pub(crate) fn caller(id: &str) -> Caller {
        let request = SolveRequest { r#ref: id.to_owned(), ..SolveRequest::default() };
        let (bridge, _) = Bridge::new(Given::default(), 0);
        Caller::client(Arc::new(Build::new(request, bridge)))
    }

    fn frontend_of(client: &Caller) -> Caller {
        let (bridge, _) = Bridge::new(Given::default(), 1);
        Caller::frontend(Arc::clone(&client.build), Arc::new(bridge))
    }

    fn nothing(caller: &Caller) -> Arc<Loaded> {
        Arc::new(Loaded::graph(&caller.build, Graphs::empty()).expect("a graph"))
    }

    #[test]
    fn what_a_frontend_attests_is_not_dropped_in_silence() {
        let attestations = BTreeMap::from([("linux/amd64".to_owned(), crate::proto::Empty {})]);
        let refused = Outcome::of(&caller("b"), Answer { attestations, ..Answer::default() });
        assert_eq!(refused.expect_err("refused").code, Code::Unimplemented);
    }

    #[test]
    fn a_frontend_has_its_own_results_alone() {
        let client = caller("b");
        let frontend = frontend_of(&client);
        let theirs = client.bridge().keep(nothing(&client)).expect("kept");
        let own = frontend.bridge().keep(nothing(&client)).expect("kept");
        let said = |id: &str| {
            let one = Ref { id: id.to_owned(), def: None };
            Outcome::of(&frontend, Answer { r#ref: Some(one), ..Answer::default() })
        };
        assert_eq!(said(&theirs).expect_err("not its own").code, Code::NotFound);
        let outcome = said(&own).expect("its own");
        let answer = outcome.answer(&client).expect("handed on");
        let id = answer.r#ref.expect("one").id;
        assert!(id != own && client.bridge().loaded(&id).is_ok(), "it is the caller's under a new id");
    }

    #[test]
    fn what_a_frontend_makes_is_bounded() {
        let client = caller("b");
        let frontend = frontend_of(&client);
        for _ in 0..MOST {
            frontend.bridge().keep(nothing(&client)).expect("kept");
        }
        assert_eq!(frontend.bridge().keep(nothing(&client)).expect_err("full").code, Code::ResourceExhausted);
        frontend.bridge().calls.store(MOST_CALLS, Ordering::Relaxed);
        assert_eq!(frontend.counted().expect_err("enough").code, Code::ResourceExhausted);
    }

    #[test]
    fn nothing_and_an_image_of_nothing_differ() {
        let client = caller("b");
        assert!(Outcome::default().build(&client.build).expect("understood").is_none());
        let config = br#"{"architecture":"amd64","os":"linux"}"#.to_vec();
        let metadata = Metadata::from([("containerimage.config".to_owned(), config)]);
        let image = Outcome { metadata, ..Outcome::default() }.build(&client.build).expect("understood");
        let image = image.expect("an image");
        assert!(image.graphs.as_ref().is_some_and(|graphs| graphs.all[0].config.is_some()));
    }
}
