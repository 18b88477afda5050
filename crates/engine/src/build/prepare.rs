//! From what a client sent to a [`yare_build::Request`]: the context where it can be read, the Dockerfile,
//! the options.

use super::foreign::WithFile;
use super::keys::{Keys, Sent};
use crate::Engine;
use crate::images::BodyReader;
use base64::Engine as _;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_api::build::{BuildContext, BuildRequest};
use yare_build::Cancel;
use yare_build::attest::provenance::Material;
use yare_build::context::{ContextTree, Contexts, parse_ignore};
use yare_build::devices::DeviceGrants;
use yare_build::files::{Tree, read_file};
use yare_build::request::{ContextSource, Entitlement, NoCache, Request, RunSettings, SecretScan};
use yare_build::source::git::{Git, GitKeys, GitRef};
use yare_build::source::http::{Downloads, Fetch, Wanted};
use yare_build::source::upload::{self, Received};
use yare_errdefs::{Class, Classified, Error, Result};
use yare_oci::{Platform, Reference};

/// Most bytes of a Dockerfile or an ignore file.
const LONGEST: u64 = 4 << 20;
/// Most bytes of a context that is sent.
const LARGEST: u64 = 256 << 30;

/// A build that can begin.
pub(super) struct Prepared {
    pub(super) request: Request,
    pub(super) contexts: Folders,
}

/// The folders of one build; those made for it go with it.
pub(super) struct Folders {
    trees: BTreeMap<String, ContextTree>,
    made: Vec<Made>,
}

impl Contexts for Folders {
    fn open(&self, name: &str) -> Result<ContextTree> {
        self.trees.get(name).cloned().ok_or_else(|| {
            let text = match name {
                "" => "this build has no files: only a Dockerfile was sent".to_owned(),
                name => format!("this build has no build context {name:?}"),
            };
            Error::invalid(text).with_hint("give a directory: yare build .")
        })
    }
}

/// A folder that is removed when the build ends.
struct Made {
    engine: Arc<Engine>,
    path: PathBuf,
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Err(error) = self.engine.trash.take(&self.path) {
            tracing::warn!(
                error = yare_errdefs::chain(&error),
                "a build's context stays until the next start"
            );
        }
    }
}

impl Prepared {
    /// Its request and its folders; for a frontend that is a program, with one that has the file alone.
    pub(super) fn opened(self, engine: &Arc<Engine>, foreign: bool) -> Result<(Request, Arc<dyn Contexts>)> {
        let Self { request, contexts: mut folders } = self;
        if !foreign {
            return Ok((request, Arc::new(folders)));
        }
        let (made, root) = folder(engine)?;
        let path = made.path.join(&request.dockerfile_name);
        std::fs::write(&path, &request.dockerfile)
            .map_err(|error| Error::internal(format!("cannot write {}", path.display())).caused_by(error))?;
        folders.made.push(made);
        let file = ContextTree { root: Arc::new(root), ignore: None, lasting: false };
        Ok((request, Arc::new(WithFile { folders, file })))
    }
}

/// The main context.
#[derive(Default)]
struct Main {
    root: Option<OwnedFd>,
    lasting: bool,
    /// What came instead of files.
    dockerfile: Option<Vec<u8>>,
    /// The repository that it is a commit of.
    repository: Option<Material>,
    made: Option<Made>,
}

pub(super) fn prepare(
    engine: &Arc<Engine>,
    asked: &BuildRequest,
    (reader, web): (&mut BodyReader, &dyn Fetch),
    cancel: &Cancel,
) -> Result<Prepared> {
    let main = main_context(engine, asked, (reader, web), cancel)?;
    let name = if asked.dockerfile.is_empty() { "Dockerfile" } else { &asked.dockerfile };
    let (dockerfile, ignore) = definition(asked, &main, name)?;
    let mut trees = BTreeMap::new();
    let mut sources = BTreeMap::new();
    if let Some(root) = main.root {
        let ignore = ignore.map(|text| parse_ignore(&text)).transpose()?.map(Arc::new);
        trees.insert(String::new(), ContextTree { root: Arc::new(root), ignore, lasting: main.lasting });
    }
    for (name, context) in &asked.contexts {
        sources.insert(name.clone(), named(name, context, &mut trees)?);
    }
    let request = Request { repository: main.repository, ..settle(asked, dockerfile, sources)? };
    Ok(Prepared { request, contexts: Folders { trees, made: main.made.into_iter().collect() } })
}

/// Takes the options of a request together with its Dockerfile and the places of its named contexts. Pure.
pub(super) fn settle(
    asked: &BuildRequest,
    dockerfile: Vec<u8>,
    contexts: BTreeMap<String, ContextSource>,
) -> Result<Request> {
    let name = if asked.dockerfile.is_empty() { "Dockerfile" } else { &asked.dockerfile };
    let (allow, devices) = entitlements(asked)?;
    Ok(Request {
        dockerfile,
        definition: None,
        dockerfile_name: shown_name(name).to_owned(),
        repository: None,
        identity: identity(asked),
        contexts,
        build_args: asked.build_args.clone(),
        target: asked.target.clone(),
        platforms: platforms(asked)?,
        no_cache: match (asked.no_cache, asked.no_cache_filter.as_slice()) {
            (true, _) => NoCache::Always,
            (false, []) => NoCache::Never,
            (false, stages) => NoCache::Stages(stages.to_vec()),
        },
        pull: asked.pull,
        labels: asked.labels.clone(),
        annotations: asked.annotations.clone(),
        tags: tags(asked)?,
        run: settings(asked)?,
        cache_from: asked.cache_from.clone(),
        cache_to: asked.cache_to.clone(),
        outputs: asked.outputs.clone(),
        squash: asked.squash,
        allow,
        devices,
        secret_scan: match asked.secret_scan.as_str() {
            "" | "warn" => SecretScan::Warn,
            "off" | "false" => SecretScan::Off,
            "fail" => SecretScan::Fail,
            other => return Err(Error::invalid(format!("invalid secret scan {other:?}: off, warn or fail"))),
        },
        verify: asked.verify,
        explain: asked.explain,
        attest: asked.attest.clone(),
    })
}

fn identity(asked: &BuildRequest) -> String {
    let context = asked.context.as_ref().map(|context| context.value.clone()).unwrap_or_default();
    let tag = asked.tags.first().cloned().unwrap_or_default();
    format!("{context}\0{tag}\0{}\0{}", shown_name(&asked.dockerfile), asked.target)
}

/// What a Dockerfile is called. Docker's client gives one from outside the context a random name.
fn shown_name(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    if name.starts_with(".dockerfile.") { "Dockerfile" } else { name }
}

fn main_context(
    engine: &Arc<Engine>,
    asked: &BuildRequest,
    (reader, web): (&mut BodyReader, &dyn Fetch),
    cancel: &Cancel,
) -> Result<Main> {
    match &asked.context {
        None => sent(engine, reader, cancel),
        Some(context) => match context.kind.as_str() {
            "local" => {
                let root = Some(open_local(context)?);
                Ok(Main { root, lasting: true, ..Main::default() })
            }
            "git" => cloned(engine, asked, &context.value, cancel),
            "none" => Ok(Main::default()),
            "http" => sent(engine, download(engine, web, &context.value, cancel)?, cancel),
            other => Err(Error::invalid(format!("unknown kind of build context {other:?}"))),
        },
    }
}

/// Gets a context from the web; it stays among the downloads.
pub(super) fn download(engine: &Engine, web: &dyn Fetch, url: &str, cancel: &Cancel) -> Result<File> {
    let downloads = Downloads::open(&engine.builder.folder.join("sources").join("http"))?;
    let wanted = Wanted { url, checksum: None, limit: LARGEST };
    let path = downloads.get(web, &wanted, cancel)?.path;
    File::open(&path)
        .map_err(|error| Error::internal(format!("cannot open {}", path.display())).caused_by(error))
}

/// A directory of this host. That the client means the same one is known by its device and inode.
fn open_local(context: &BuildContext) -> Result<OwnedFd> {
    let path = Path::new(&context.value);
    let differs = || {
        Error::precondition(format!(
            "the engine does not see the build context {} as its client does",
            path.display()
        ))
        .with_hint("send the context instead: the client does so by itself when the engine is elsewhere")
    };
    if !path.is_absolute() {
        return Err(Error::invalid(format!("the build context {} is no absolute path", path.display())));
    }
    let root = yare_sys::fs::open_dir(path).map_err(|error| differs().caused_by(error))?;
    let stat = rustix::fs::fstat(&root).map_err(|error| differs().caused_by(std::io::Error::from(error)))?;
    if (stat.st_dev, stat.st_ino) != (context.device, context.inode) {
        return Err(differs());
    }
    Ok(root)
}

fn folder(engine: &Arc<Engine>) -> Result<(Made, OwnedFd)> {
    let path = engine.builder.folder.join("contexts").join(crate::random_id());
    let failed = |error: std::io::Error| {
        Error::internal(format!("cannot make the folder {}", path.display())).caused_by(error)
    };
    std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
    let dir = yare_sys::fs::open_dir(&path).map_err(failed)?;
    Ok((Made { engine: Arc::clone(engine), path }, dir))
}

/// Unpacks a tar, or takes the text of a Dockerfile.
fn sent(engine: &Arc<Engine>, reader: impl Read, cancel: &Cancel) -> Result<Main> {
    let (made, dir) = folder(engine)?;
    let limits = yare_layer::Limits { bytes: Some(LARGEST), ..yare_layer::Limits::default() };
    let dockerfile = match upload::receive(reader, dir.as_fd(), limits, cancel)? {
        Received::Files { .. } => None,
        Received::Dockerfile(text) => Some(text),
    };
    Ok(Main { root: Some(dir), dockerfile, made: Some(made), ..Main::default() })
}

fn cloned(engine: &Arc<Engine>, asked: &BuildRequest, remote: &str, cancel: &Cancel) -> Result<Main> {
    let (made, _) = folder(engine)?;
    let wanted =
        GitRef::parse(remote)?.ok_or_else(|| Error::invalid(format!("{remote} is no git repository")))?;
    let mut git = Git::new(engine.builder.folder.join("sources").join("git"));
    let keys = Sent { request: asked, auths: &BTreeMap::new() };
    git.unlock(&wanted.url, &GitKeys::default(), |id| keys.secret(id), |id| keys.agent(id))?;
    let checkout = git.checkout(&wanted, &made.path, (false, 0), cancel)?;
    let dir = yare_sys::fs::open_dir(&checkout.dir).map_err(Error::from)?;
    let repository = Some(Material::git(&wanted.fragment_form(true), &checkout.commit));
    Ok(Main { root: Some(dir), made: Some(made), repository, ..Main::default() })
}

fn named(
    name: &str,
    context: &BuildContext,
    trees: &mut BTreeMap<String, ContextTree>,
) -> Result<ContextSource> {
    Ok(match context.kind.as_str() {
        "local" => {
            let root = Arc::new(open_local(context)?);
            let tree = Tree {
                root: root.try_clone().map_err(Error::from)?,
                ignore: None,
                name: format!("context {name:?}"),
            };
            let ignore = optional(read_file(&tree, ".dockerignore", LONGEST))?;
            let ignore = ignore.map(|text| parse_ignore(&text)).transpose()?.map(Arc::new);
            trees.insert(name.to_owned(), ContextTree { root, ignore, lasting: true });
            ContextSource::Folder
        }
        "image" => ContextSource::Image(parse(&context.value)?.or_latest()),
        "git" => ContextSource::Git(context.value.clone()),
        "http" => ContextSource::Http(context.value.clone()),
        other => {
            return Err(Error::unimplemented(format!(
                "the build context {name} of kind {other:?} is not built into this Yare yet"
            )));
        }
    })
}

/// The Dockerfile, and the ignore file that goes with it.
fn definition(asked: &BuildRequest, main: &Main, name: &str) -> Result<(Vec<u8>, Option<Vec<u8>>)> {
    let tree = main
        .root
        .as_ref()
        .map(|root| {
            let root = root.try_clone().map_err(Error::from)?;
            Ok::<_, Error>(Tree { root, ignore: None, name: "build context".to_owned() })
        })
        .transpose()?;
    let read = |path: &str| match &tree {
        Some(tree) => optional(read_file(tree, path, LONGEST)),
        None => Ok(None),
    };
    let inline = asked.dockerfile_inline.as_deref().map(|text| decode(text, "Dockerfile")).transpose()?;
    let dockerfile = match inline.or_else(|| main.dockerfile.clone()) {
        Some(text) => text,
        None => match read(name)? {
            Some(text) => text,
            // As Docker, which looks for the other case too.
            None if name == "Dockerfile" => read("dockerfile")?.ok_or_else(|| missing(name))?,
            None => return Err(missing(name)),
        },
    };
    let ignore = match asked.ignore_inline.as_deref() {
        Some(text) => Some(decode(text, "ignore file")?),
        None => match read(&format!("{name}.dockerignore"))? {
            Some(text) => Some(text),
            None => read(".dockerignore")?,
        },
    };
    Ok((dockerfile, ignore))
}

fn missing(name: &str) -> Error {
    Error::invalid(format!("Cannot locate specified Dockerfile: {name}"))
        .with_hint("name it with -f, relative to the build context")
}

fn optional(read: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match read {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.class() == Class::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode(text: &str, what: &str) -> Result<Vec<u8>> {
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| Error::invalid(format!("the {what} of the request is no base64")).caused_by(error))
}

fn parse(text: &str) -> Result<Reference> {
    Reference::parse(text).map_err(|error| Error::invalid(error.to_string()))
}

fn platforms(asked: &BuildRequest) -> Result<Vec<Platform>> {
    let list = asked.platforms.iter().filter(|text| !text.is_empty());
    list.map(|text| Platform::parse(text).map_err(Error::invalid)).collect()
}

fn tags(asked: &BuildRequest) -> Result<Vec<Reference>> {
    let mut tags = Vec::new();
    for text in asked.tags.iter().filter(|text| !text.is_empty()) {
        let reference =
            parse(text).map_err(|error| Error::invalid(format!("invalid tag {text:?}: {error}")))?;
        if reference.digest().is_some() {
            return Err(Error::invalid("build tag cannot contain a digest"));
        }
        let reference = reference.or_latest();
        if !tags.contains(&reference) {
            tags.push(reference);
        }
    }
    Ok(tags)
}

/// What the client grants: rights, and devices.
fn entitlements(asked: &BuildRequest) -> Result<(BTreeSet<Entitlement>, DeviceGrants)> {
    let (mut allowed, mut devices) = (BTreeSet::new(), DeviceGrants::default());
    for text in &asked.allow {
        match text.split_once('=').unwrap_or((text, "")) {
            ("device", named) => devices.add(named)?,
            _ => {
                let right = Entitlement::parse(text);
                allowed.insert(right.ok_or_else(|| Error::invalid(format!("unknown entitlement {text:?}")))?);
            }
        }
    }
    if asked.network_mode == "host" {
        // Who may choose the network of all steps has granted it.
        allowed.insert(Entitlement::NetworkHost);
    }
    Ok((allowed, devices))
}

/// Limits as a container has them; checked as those are when the first step runs.
fn settings(asked: &BuildRequest) -> Result<RunSettings> {
    let mut limits = yare_api::HostConfig {
        memory: asked.memory,
        memory_swap: asked.memory_swap,
        cpu_shares: asked.cpu_shares,
        cpu_period: asked.cpu_period,
        cpu_quota: asked.cpu_quota,
        cpuset_cpus: asked.cpuset_cpus.clone(),
        cpuset_mems: asked.cpuset_mems.clone(),
        cgroup_parent: asked.cgroup_parent.clone(),
        ..yare_api::HostConfig::default()
    };
    let ulimits = asked.ulimits.iter().map(|text| ulimit(text)).collect::<Result<Vec<_>>>()?;
    limits.ulimits = (!ulimits.is_empty()).then_some(ulimits);
    Ok(RunSettings {
        network: asked.network_mode.clone(),
        extra_hosts: asked.extra_hosts.clone(),
        shm_size: asked.shm_size,
        limits,
    })
}

fn ulimit(text: &str) -> Result<yare_api::Ulimit> {
    let invalid = || Error::invalid(format!("invalid ulimit argument: {text}"));
    let (name, values) = text.split_once('=').ok_or_else(invalid)?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| text.parse().map_err(|_| invalid());
    Ok(yare_api::Ulimit { name: name.to_owned(), soft: number(soft)?, hard: number(hard)? })
}
