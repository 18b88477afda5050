//! The folders of a build whose files its client has.

use crate::frontend::Place;
use crate::gateway::local::Local;
use crate::grpc::client::Exchange;
use crate::keys::ClientKeys;
use crate::link::Link;
use crate::proto::session::BytesMessage;
use crate::session::Session;
use crate::sync::{Folder, Folders, Limits, Wanted, receive};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use yare_api::build::VertexStatus;
use yare_build::Progress;
use yare_build::attest::provenance::Material;
use yare_build::context::{ContextTree, Contexts, parse_ignore};
use yare_build::files::{Tree, read_file};
use yare_build::progress::{Work, now};
use yare_build::source::git::{Git, GitKeys, GitRef};
use yare_build::source::upload::{self, Received};
use yare_dockerfile::ignore::Ignore;
use yare_engine::Engine;
use yare_engine::build::{self, Keys};
use yare_errdefs::{Class, Classified, Error, Result};

/// Most bytes of a Dockerfile or an ignore file.
const LONGEST: u64 = 4 << 20;
/// Most bytes of an uploaded tar's files.
const LARGEST: u64 = 256 << 30;
/// How often the progress of a transfer is told.
const EVERY: Duration = Duration::from_millis(100);

/// A Dockerfile and what belongs to it.
#[derive(Debug, Default)]
pub(crate) struct Definition {
    pub(crate) dockerfile: Vec<u8>,
    pub(crate) ignore: Option<Arc<Ignore>>,
    /// The repository that the main context is a commit of.
    pub(crate) repository: Option<Material>,
    /// The main context, when it is here already.
    main: Option<(Arc<OwnedFd>, Folder)>,
}

/// Brings files from a client.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) link: Link,
    /// Sessions that have folders which the build's own has not, by the folder's name.
    pub(crate) others: BTreeMap<String, Arc<Session>>,
    pub(crate) folders: Arc<Folders>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) progress: Progress,
    /// Folders that are here, and not at a client.
    pub(crate) local: Option<Local>,
}

impl Source {
    /// The session that has a folder.
    pub(crate) fn session(&self, dir: &str) -> &Session {
        self.others.get(dir).unwrap_or(&self.link.session)
    }

    /// A session by its id: the build's own, which an empty id means too, or one that the client named with a
    /// folder. `what` is there.
    pub(crate) fn session_of(&self, id: &str, what: &str) -> Result<&Session> {
        let own = &self.link.session;
        if id.is_empty() || id == own.offer.id {
            return Ok(own);
        }
        let other = self.others.values().find(|session| session.offer.id == id);
        other
            .map(AsRef::as_ref)
            .ok_or_else(|| Error::denied(format!("{what} is in a session that is not this build's")))
    }

    /// Fetches the Dockerfile of this name and its ignore file.
    pub(crate) fn definition(&self, context: &Place, dir: Option<&str>, name: &str) -> Result<Definition> {
        let main = self.main(context)?;
        let dockerfile_ignore = format!("{name}.dockerignore");
        let (dockerfile, ignore) = {
            let work = self.progress.work(&format!("[internal] load build definition from {name}"));
            let read = |work: &Work| match (dir, &main) {
                (_, Main::Dockerfile(text)) => Ok((text.clone(), None)),
                (Some(dir), _) => {
                    let mut follow = vec![name.to_owned(), dockerfile_ignore.clone()];
                    if name == "Dockerfile" {
                        // As the field, which looks for the other case too.
                        follow.push("dockerfile".to_owned());
                    }
                    let (root, _folder) = self.once(dir, follow, work)?;
                    definition(root, name)
                }
                (None, Main::Folder { root, .. }) => definition(root.try_clone().map_err(Error::from)?, name),
                (None, Main::Client(dir)) => Err(Error::internal(format!("no Dockerfile in {dir}"))),
            };
            noted(work, read)?
        };
        let ignore = match (ignore, &main) {
            (Some(ignore), _) => Some(ignore),
            (None, Main::Client(dir)) => self.ignore_file(dir, "[internal] load .dockerignore")?,
            (None, Main::Folder { root, .. }) => {
                optional(root.try_clone().map_err(Error::from)?, ".dockerignore", "build context")?
            }
            (None, Main::Dockerfile(_)) => None,
        };
        let ignore = ignore.map(|text| parse_ignore(&text)).transpose()?.map(Arc::new);
        let (main, repository) = match main {
            Main::Folder { root, folder, repository } => (Some((Arc::new(root), folder)), repository),
            Main::Client(_) | Main::Dockerfile(_) => (None, None),
        };
        Ok(Definition { dockerfile, ignore, repository, main })
    }

    fn ignore_file(&self, dir: &str, title: &str) -> Result<Option<Vec<u8>>> {
        let work = self.progress.work(title);
        let read = |work: &Work| {
            let (root, _folder) = self.once(dir, vec![".dockerignore".to_owned()], work)?;
            optional(root, ".dockerignore", "build context")
        };
        noted(work, read)
    }

    /// A few files of a client's folder, in a folder that is not kept.
    fn once(&self, dir: &str, follow: Vec<String>, work: &Work) -> Result<(OwnedFd, Folder)> {
        let folder = self.folders.take("")?;
        let mut tree = folder.tree()?;
        let wanted = Wanted { dir: dir.to_owned(), follow, ..Wanted::default() };
        // A link may lead to a directory; but nobody's Dockerfile needs that many.
        let limits = Limits { entries: 10_000, names: 4 << 20, bytes: 64 << 20 };
        let mut transfer = Transfer::new(&self.progress, work, dir);
        let progress = &mut |bytes| transfer.at(bytes);
        let received = receive(self.session(dir), &wanted, &mut tree, limits, progress);
        let received = self.link.wait(received)?;
        transfer.done(received.bytes);
        Ok((tree.into_root(), folder))
    }

    fn main(&self, context: &Place) -> Result<Main> {
        let bring: Box<dyn FnOnce() -> Result<Main> + '_> = match context {
            Place::Client(dir) => return Ok(Main::Client(dir.clone())),
            Place::Git(remote) => Box::new(move || self.checkout(remote)),
            Place::Web(url) => Box::new(move || {
                let Link { runtime, stop, .. } = &self.link;
                self.unpack(build::download(&self.engine, runtime, url, &stop.cancel)?)
            }),
            Place::Upload(id) => Box::new(move || self.unpack(Upload::begin(&self.link, id)?)),
        };
        noted(self.progress.work("[internal] load remote build context"), |_| bring())
    }

    fn checkout(&self, remote: &str) -> Result<Main> {
        let wanted =
            GitRef::parse(remote)?.ok_or_else(|| Error::invalid(format!("{remote} is no git repository")))?;
        let folder = self.folders.take("")?;
        let mut git = Git::new(build::kept_folder(&self.engine, "sources")?.join("git"));
        let keys = ClientKeys::new(self.link.clone(), &self.engine.config().exec_root);
        git.unlock(&wanted.url, &GitKeys::default(), |id| keys.secret(id), |id| keys.agent(id))?;
        let checkout = git.checkout(&wanted, folder.path(), (false, 0), &self.link.stop.cancel)?;
        // The asked folder of the repository, which is checked to be in it.
        let root = yare_sys::fs::open_dir(&checkout.dir).map_err(Error::from)?;
        let repository = Some(Material::git(&wanted.fragment_form(true), &checkout.commit));
        Ok(Main::Folder { root, folder, repository })
    }

    /// Takes a tar apart, or the text of a Dockerfile.
    fn unpack(&self, source: impl std::io::Read) -> Result<Main> {
        let folder = self.folders.take("")?;
        let root = folder.open()?;
        let limits = yare_layer::Limits { bytes: Some(LARGEST), ..yare_layer::Limits::default() };
        Ok(match upload::receive(source, root.as_fd(), limits, &self.link.stop.cancel)? {
            Received::Files { .. } => Main::Folder { root, folder, repository: None },
            Received::Dockerfile(text) => Main::Dockerfile(text),
        })
    }
}

/// Where the main context is.
enum Main {
    /// The client has it.
    Client(String),
    /// Here, and perhaps a commit of a repository.
    Folder { root: OwnedFd, folder: Folder, repository: Option<Material> },
    /// There is none: what came is a Dockerfile.
    Dockerfile(Vec<u8>),
}

/// Does a piece of work, and ends it with its error if there is one.
pub(crate) fn noted<T>(work: Work, does: impl FnOnce(&Work) -> Result<T>) -> Result<T> {
    let done = does(&work);
    if let Err(error) = &done {
        work.failed(&yare_errdefs::chain(error));
    }
    done
}

/// The Dockerfile and the ignore file that goes with it.
fn definition(root: OwnedFd, name: &str) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let again = root.try_clone().map_err(Error::from)?;
    let third = root.try_clone().map_err(Error::from)?;
    let found = match optional(root, name, "build context")? {
        None if name == "Dockerfile" => optional(again, "dockerfile", "build context")?,
        found => found,
    };
    let dockerfile = found.ok_or_else(|| {
        Error::not_found(format!("failed to read dockerfile: open {name}: no such file or directory"))
            .with_hint("name it with -f")
    })?;
    Ok((dockerfile, optional(third, &format!("{name}.dockerignore"), "build context")?))
}

fn optional(root: OwnedFd, path: &str, title: &str) -> Result<Option<Vec<u8>>> {
    let tree = Tree { root, ignore: None, name: title.to_owned() };
    match read_file(&tree, path, LONGEST) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.class() == Class::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Tells how far a transfer is.
pub(crate) struct Transfer<'a> {
    progress: &'a Progress,
    status: VertexStatus,
    last: Instant,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(progress: &'a Progress, work: &Work, dir: &str) -> Self {
        let status = VertexStatus {
            id: format!("transferring {dir}:"),
            vertex: work.digest().to_owned(),
            name: "transferring".to_owned(),
            started: Some(now()),
            ..VertexStatus::default()
        };
        Self { progress, status, last: Instant::now() }
    }

    pub(crate) fn at(&mut self, bytes: u64) {
        if self.last.elapsed() >= EVERY {
            self.last = Instant::now();
            self.tell(bytes);
        }
    }

    pub(crate) fn done(mut self, bytes: u64) {
        self.status.completed = Some(now());
        self.tell(bytes);
    }

    fn tell(&mut self, bytes: u64) {
        self.status.current = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.status.timestamp = now();
        self.progress.status(self.status.clone());
    }
}

/// The folders of one build.
pub(crate) struct ClientContexts<'a> {
    source: &'a Source,
    definition: &'a Definition,
    /// What the client calls the main one.
    main: String,
    paths: Mutex<BTreeMap<String, Vec<String>>>,
    open: Fetched,
}

/// Folders that were fetched for one build, by name: each once, for whoever needs it first.
#[derive(Debug, Default)]
pub(crate) struct Fetched(Mutex<BTreeMap<String, Arc<Slot>>>);

type Slot = Mutex<Option<(ContextTree, Folder)>>;

impl Fetched {
    /// The folder of this name; others that want it wait while it is fetched.
    pub(crate) fn get(
        &self,
        name: &str,
        fetch: impl FnOnce() -> Result<(ContextTree, Folder)>,
    ) -> Result<ContextTree> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(slots.entry(name.to_owned()).or_default())
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((tree, _)) = &*slot {
            return Ok(tree.clone());
        }
        let (tree, folder) = fetch()?;
        *slot = Some((tree.clone(), folder));
        Ok(tree)
    }
}

impl<'a> ClientContexts<'a> {
    pub(crate) fn new(source: &'a Source, definition: &'a Definition, context: &Place) -> Self {
        let main = if let Place::Client(dir) = context { dir.clone() } else { String::new() };
        Self { source, definition, main, paths: Mutex::default(), open: Fetched::default() }
    }

    fn fetch(&self, name: &str) -> Result<(ContextTree, Folder)> {
        let source = self.source;
        let (dir, title, ignore) = if name.is_empty() {
            let ignore = self.definition.ignore.clone();
            (self.main.as_str(), "[internal] load build context".to_owned(), ignore)
        } else {
            let text = source.ignore_file(name, &format!("[context {name}] load .dockerignore"))?;
            let ignore = text.map(|text| parse_ignore(&text)).transpose()?.map(Arc::new);
            (name, format!("[internal] load context {name}"), ignore)
        };
        let work = source.progress.work(&title);
        let fetch = |work: &Work| {
            let session = source.session(dir);
            let shared = &session.offer.shared_key;
            let key = if shared.is_empty() { String::new() } else { format!("{dir}\0{shared}") };
            let folder = source.folders.take(&key)?;
            let mut tree = folder.tree()?;
            let wanted = Wanted {
                dir: dir.to_owned(),
                include: Vec::new(),
                follow: self.paths(name),
                exclude: ignore
                    .iter()
                    .flat_map(|ignore| ignore.patterns())
                    .map(|one| one.text.clone())
                    .collect(),
            };
            let mut transfer =
                Transfer::new(&source.progress, work, if name.is_empty() { "context" } else { name });
            let progress = &mut |bytes| transfer.at(bytes);
            let received = receive(session, &wanted, &mut tree, Limits::default(), progress);
            let received = source.link.wait(received)?;
            transfer.done(received.bytes);
            tracing::debug!(dir, entries = received.entries, files = received.files, "a context is here");
            folder.measured(tree.size());
            let root = Arc::new(tree.into_root());
            Ok((ContextTree { root, ignore, lasting: folder.lasting() }, folder))
        };
        noted(work, fetch)
    }

    fn paths(&self, name: &str) -> Vec<String> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned().unwrap_or_default()
    }
}

impl Contexts for ClientContexts<'_> {
    fn open(&self, name: &str) -> Result<ContextTree> {
        if name.is_empty()
            && let Some((root, _)) = &self.definition.main
        {
            let ignore = self.definition.ignore.clone();
            return Ok(ContextTree { root: Arc::clone(root), ignore, lasting: false });
        }
        if name.is_empty() && self.main.is_empty() {
            return Err(Error::invalid("this build has no build context"));
        }
        self.open.get(name, || self.fetch(name))
    }

    fn ignore(&self) -> Option<Arc<Ignore>> {
        self.definition.ignore.clone()
    }

    fn expect(&self, paths: &BTreeMap<String, Vec<String>>) {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).clone_from(paths);
    }
}

/// A stream that the client uploads.
struct Upload<'a> {
    link: &'a Link,
    exchange: Exchange,
    piece: Bytes,
}

impl<'a> Upload<'a> {
    fn begin(link: &'a Link, id: &str) -> Result<Self> {
        let text = |value: &str| {
            HeaderValue::try_from(value).map_err(|_| Error::invalid("the id of an upload is no plain text"))
        };
        let mut metadata = HeaderMap::new();
        metadata.insert("urlpath", text(&format!("/{id}"))?);
        metadata.insert("urlhost", HeaderValue::from_static("buildkit-session"));
        let exchange = link.wait(link.session.call("/moby.upload.v1.Upload/Pull", metadata))?;
        Ok(Self { link, exchange, piece: Bytes::new() })
    }
}

impl std::io::Read for Upload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() {
            let next = self.link.wait(self.exchange.message::<BytesMessage>());
            match next.map_err(std::io::Error::other)? {
                Some(message) => self.piece = message.data,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
