//! One stage: where it begins, and the lines after that one by one.

use super::scope::{self, Env};
use super::{HistoryStep, Lowering, Target};
use crate::failure::Failure;
use crate::graph::{CopyDefinition, CopyOp, CopySource, FetchOp, Op, Vertex, VertexId};
use crate::request::{ContextSource, Request};
use crate::source::git::GitKeys;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use yare_dockerfile::expand::{Expanded, expand};
use yare_dockerfile::lint::evaluated;
use yare_dockerfile::{Instruction, Span, Stage, Step};
use yare_image::Image;
use yare_oci::{ImageConfig, Platform, Reference};

/// How deep stages may stand on one another.
const DEEPEST: usize = 200;

/// Where a stage stands.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) root: VertexId,
    pub(super) config: ImageConfig,
    pub(super) env: Env,
    /// Arguments in the order of declaration, with their values.
    pub(super) args: Vec<(String, Option<String>)>,
    /// Arguments that got their value after the variable of the same name, which they hide.
    pub(super) hiding: BTreeSet<String>,
    pub(super) platform: Platform,
    pub(super) history: Vec<HistoryStep>,
    /// Whether this stage has said `CMD`: `ENTRYPOINT` clears an inherited one only.
    pub(super) has_cmd: bool,
    /// The time that files get, seconds since 1970.
    pub(super) epoch: i64,
    pub(super) done: usize,
    pub(super) total: usize,
}

impl State {
    fn new(root: VertexId, config: ImageConfig, platform: Platform) -> Self {
        let env = Env::of(&config.config.env);
        Self {
            root,
            config,
            env,
            args: Vec::new(),
            hiding: BTreeSet::new(),
            platform,
            history: Vec::new(),
            has_cmd: false,
            epoch: DEFAULT_EPOCH,
            done: 0,
            total: 0,
        }
    }

    pub(super) fn into_target(mut self, request: &Request) -> Target {
        for (key, value) in &request.labels {
            self.config.config.labels.insert(key.clone(), value.clone());
        }
        self.config.config.env = self.env.list();
        self.config.architecture.clone_from(&self.platform.architecture);
        self.config.os.clone_from(&self.platform.os);
        self.config.variant.clone_from(&self.platform.variant);
        Target {
            root: self.root,
            config: self.config,
            history: self.history,
            epoch: self.epoch,
            cache: None,
            given: false,
        }
    }

    /// The value of a variable: of `ENV` and `ARG`, what was said last.
    pub(super) fn lookup(&self, name: &str) -> Option<String> {
        match self.env.get(name) {
            Some(value) if !self.hiding.contains(name) => Some(value.to_owned()),
            _ => self.arg(name),
        }
    }

    /// The value of an argument, whatever hides it.
    pub(super) fn arg(&self, name: &str) -> Option<String> {
        self.args.iter().rev().find(|(arg, _)| arg == name).and_then(|(_, value)| value.clone())
    }
}

/// The time of what stands on nothing: the first that a zip archive can hold, which some tools insist on.
pub(crate) const DEFAULT_EPOCH: i64 = 315_532_800;

/// The path that programs are looked for in when an image has none.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn lines(span: Span) -> (u32, u32) {
    (span.line, span.end_line)
}

impl Lowering<'_> {
    /// Lowers a stage and what it needs, once for each platform.
    pub(super) fn stage(&mut self, index: usize, platform: &Platform) -> Result<State, Failure> {
        let key = (index, platform.clone());
        if let Some(state) = self.stages.get(&key) {
            return Ok(state.clone());
        }
        let dockerfile = self.dockerfile;
        let stage = dockerfile
            .stages
            .get(index)
            .ok_or_else(|| Failure::from(Error::invalid(format!("invalid stage index {index}"))))?;
        if self.open.contains(&index) {
            let text = format!("circular dependency detected on stage: {}", stage.display_name());
            return Err(Failure::from(Error::invalid(text)).at(lines(stage.span)));
        }
        if self.open.len() >= DEEPEST {
            let text = format!("stages stand on one another more than {DEEPEST} deep");
            return Err(Failure::from(Error::invalid(text)).at(lines(stage.span)));
        }
        self.open.push(index);
        let lowered = self.stage_anew(stage, platform);
        self.open.pop();
        let state = lowered?;
        self.stages.insert(key, state.clone());
        Ok(state)
    }

    fn stage_anew(&mut self, stage: &Stage, platform: &Platform) -> Result<State, Failure> {
        let begun = self.begin(stage, platform).map_err(|failure| failure.at(lines(stage.span)))?;
        let (mut state, triggers) = begun;
        let makes_vertex = |step: &&Step| {
            matches!(
                step.instruction,
                Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
            )
        };
        state.total += triggers.iter().chain(&stage.steps).filter(makes_vertex).count();
        for step in triggers.iter().chain(&stage.steps) {
            self.at.set(step.span);
            self.step(stage, &mut state, step).map_err(|failure| failure.at(lines(step.span)))?;
        }
        Ok(state)
    }

    /// `FROM`: the state that the first line finds, and the triggers of the base.
    fn begin(&mut self, stage: &Stage, target: &Platform) -> Result<(State, Vec<Step>), Failure> {
        let name = self.expand_global(&stage.from.base, target)?;
        if name.text.is_empty() {
            let text = format!("base name ({}) should not be blank", stage.from.base);
            let error = Error::invalid(text);
            return Err(match name.undefined.first() {
                Some(variable) => error.with_hint(format!(
                    "{variable} has no value here: declare it before the first FROM (ARG {variable}=…) or give it with --build-arg"
                )),
                None => error,
            }
            .into());
        }
        let platform = match &stage.from.platform {
            Some(text) => platform_of(&self.expand_global(text, target)?.text)?,
            None => target.clone(),
        };
        let mut state = self.base(stage, &name.text, &platform)?;
        // Arguments are inherited from stages; the variables of an image are seen again.
        state.hiding.clear();
        state.has_cmd = false;
        let triggers = std::mem::take(&mut state.config.config.on_build);
        let mut steps = Vec::new();
        for trigger in triggers {
            let step = yare_dockerfile::parse_trigger(&trigger)
                .map_err(|error| Error::wrap(format!("the trigger {trigger:?} of the base image"), error))?;
            steps.push(step);
        }
        Ok((state, steps))
    }

    /// The file system and config that a stage begins with.
    fn base(&mut self, stage: &Stage, name: &str, platform: &Platform) -> Result<State, Failure> {
        if let Some(source) = self.request.contexts.get(name).filter(|_| !name.is_empty()).cloned() {
            return self.base_context(stage, name, &source, platform);
        }
        if let Some(earlier) = self.dockerfile.stage_named(name, stage.index) {
            let (index, from) = (earlier.index, lines(stage.span));
            let mut state = self.stage(index, platform).map_err(|failure| failure.at(from))?;
            state.done = 0;
            state.total = 0;
            return Ok(state);
        }
        if name == "scratch" {
            let root = self.shared("scratch", Op::Scratch, "scratch".to_owned());
            let mut config = ImageConfig::default();
            config.config.env = Vec::new();
            "/".clone_into(&mut config.config.working_dir);
            let mut state = State::new(root, config, platform.clone());
            state.epoch = self.epoch(None)?;
            state.env.set("PATH", DEFAULT_PATH);
            return Ok(state);
        }
        let image = self.image(name, platform)?;
        self.base_image(stage, name, image, platform)
    }

    fn base_image(
        &mut self,
        stage: &Stage,
        name: &str,
        image: Arc<Image>,
        platform: &Platform,
    ) -> Result<State, Failure> {
        let shown =
            Reference::parse(name).map_or_else(|_| name.to_owned(), |name| name.or_latest().to_string());
        let title = format!("{}FROM {shown}", self.prefix(stage, platform, 1, total_of(stage) + 1));
        let epoch = self.epoch(Some(&image))?;
        let (op, line) = (Op::Image(image.layers.to_vec()), lines(stage.span).0);
        let root = self.graph.add(Vertex { op, name: title, line, no_cache: false, epoch });
        let config = (*image.config).clone();
        let own = config.platform();
        self.warn(evaluated::base_platform(stage.span, name, platform, &own));
        let mut state = State::new(root, config, own);
        (state.done, state.total, state.epoch) = (1, 1, epoch);
        if state.env.get("PATH").is_none() {
            state.env.set("PATH", DEFAULT_PATH);
        }
        Ok(state)
    }

    fn base_context(
        &mut self,
        stage: &Stage,
        name: &str,
        source: &ContextSource,
        platform: &Platform,
    ) -> Result<State, Failure> {
        if let ContextSource::Image(reference) = source {
            let name = reference.to_string();
            let image = self.image(&name, platform)?;
            return self.base_image(stage, &name, image, platform);
        }
        let root = self.context(name, source, platform)?;
        let mut state = State::new(root, ImageConfig::default(), platform.clone());
        state.epoch = self.epoch(None)?;
        state.env.set("PATH", DEFAULT_PATH);
        Ok(state)
    }

    /// A base image, asked for once a build.
    pub(super) fn image(&mut self, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        let key = (name.to_owned(), platform.clone());
        if let Some(image) = self.images.get(&key) {
            return Ok(Arc::clone(image));
        }
        let reference = Reference::parse(name)
            .map_err(|error| Error::invalid(format!("failed to parse stage name {name:?}: {error}")))?;
        let host_only = self.request.platforms.is_empty() && *platform == Platform::host();
        let wanted = (!host_only).then_some(platform);
        let image = self.worker.image(&reference.or_latest(), wanted, self.request.pull)?;
        self.images.insert(key, Arc::clone(&image));
        Ok(image)
    }

    /// The vertex of a stage, a named context or an image that files are taken from, and whether it is a
    /// stage.
    pub(super) fn files_of(&mut self, word: &str, state: &mut State) -> Result<VertexId, Failure> {
        if let Some(source) = self.request.contexts.get(word).filter(|_| !word.is_empty()).cloned() {
            return self.context(word, &source, &state.platform.clone());
        }
        if let Some(stage) = self.dockerfile.stage_referred(word, self.dockerfile.stages.len()) {
            let (index, platform) = (stage.index, state.platform.clone());
            let other = self.stage(index, &platform)?;
            return Ok(other.root);
        }
        if word.parse::<usize>().is_ok() {
            return Err(Error::invalid(format!("invalid stage index {word}: there is no such stage")).into());
        }
        let image = self.image(word, &state.platform.clone())?;
        let title = format!(
            "FROM {}",
            Reference::parse(word).map_or_else(|_| word.to_owned(), |name| name.or_latest().to_string())
        );
        Ok(self.shared(&format!("image {}", image.id), Op::Image(image.layers.to_vec()), title))
    }

    /// The vertex of a named context.
    fn context(
        &mut self,
        name: &str,
        source: &ContextSource,
        platform: &Platform,
    ) -> Result<VertexId, Failure> {
        let key = format!("context {name}");
        let title = format!("[context {name}] load from client");
        Ok(match source {
            ContextSource::Image(reference) => {
                let image = self.image(&reference.to_string(), platform)?;
                self.shared(&key, Op::Image(image.layers.to_vec()), format!("[context {name}] {reference}"))
            }
            ContextSource::Folder => {
                let base = self.shared("scratch", Op::Scratch, "scratch".to_owned());
                let spec = CopyDefinition {
                    sources: vec![".".to_owned()],
                    dest: "/".to_owned(),
                    ..CopyDefinition::default()
                };
                let source = CopySource::Context(name.to_owned());
                self.shared(&key, Op::Copy(CopyOp { base, source, spec }), title)
            }
            ContextSource::Git(remote) => {
                let fetch = FetchOp::Git {
                    remote: remote.clone(),
                    keep_git_dir: false,
                    checksum: None,
                    keys: GitKeys::default(),
                };
                self.shared(&key, Op::Fetch(fetch), title)
            }
            ContextSource::Http(url) => {
                let fetch = FetchOp::Http { url: url.clone(), name: String::new(), checksum: None };
                self.shared(&key, Op::Fetch(fetch), title)
            }
        })
    }

    /// A vertex that is there once, whoever needs it.
    pub(super) fn shared(&mut self, key: &str, op: Op, name: String) -> VertexId {
        if let Some(id) = self.contexts.get(key) {
            return *id;
        }
        let id = self.graph.add(Vertex { op, name, line: 0, no_cache: false, epoch: DEFAULT_EPOCH });
        self.contexts.insert(key.to_owned(), id);
        id
    }

    /// The time of what is built on this image: the client's choice, or the time of the image. The clock is
    /// no part of a build.
    fn epoch(&self, image: Option<&Image>) -> Result<i64> {
        if let Some(given) = given_epoch(self.request)? {
            return Ok(given);
        }
        let created = image.map(Image::created_unix).filter(|created| *created > 0);
        Ok(created.unwrap_or(DEFAULT_EPOCH))
    }

    /// `[build 2/5] `, with the platform where there are several.
    pub(super) fn prefix(&self, stage: &Stage, platform: &Platform, number: usize, total: usize) -> String {
        let mut words = Vec::new();
        if self.many_platforms {
            words.push(platform.to_string());
        }
        if self.dockerfile.stages.len() > 1 {
            words.push(stage.display_name());
        }
        words.push(format!("{number}/{total}"));
        format!("[{}] ", words.join(" "))
    }

    /// Expands with the arguments before the first `FROM`.
    fn expand_global(&mut self, word: &str, target: &Platform) -> Result<Expanded> {
        let values = self.global_args(target)?;
        let used = expand(word, &|name| values.get(name).cloned().flatten(), self.dockerfile.escape())
            .map_err(|error| Error::wrap("cannot expand FROM", error))?;
        self.declared.extend(used.used.iter().cloned());
        Ok(used)
    }

    /// The arguments before the first `FROM`, as given or by default.
    pub(super) fn global_args(&mut self, target: &Platform) -> Result<BTreeMap<String, Option<String>>> {
        let mut values: BTreeMap<String, Option<String>> = scope::platform_args(target, &self.request.target)
            .into_iter()
            .map(|(name, value)| (name, Some(value)))
            .collect();
        for (name, value) in &self.request.build_args {
            if values.contains_key(name) {
                values.insert(name.clone(), value.clone());
            }
        }
        let escape = self.dockerfile.escape();
        let mut declared = BTreeSet::new();
        for global in &self.dockerfile.global_args {
            for arg in &global.arg.0 {
                declared.insert(arg.name.clone());
                let value = match (self.request.build_args.get(&arg.name), &arg.default) {
                    (Some(given), _) => given.clone(),
                    (None, Some(default)) => {
                        let lookup = |name: &str| values.get(name).cloned().flatten();
                        Some(yare_dockerfile::expand::process_word(default, &lookup, escape).map_err(
                            |error| {
                                Error::wrap(format!("cannot expand the default of ARG {}", arg.name), error)
                            },
                        )?)
                    }
                    (None, None) => values.get(&arg.name).cloned().flatten(),
                };
                values.insert(arg.name.clone(), value);
            }
        }
        self.declared.extend(declared);
        Ok(values)
    }
}

fn platform_of(text: &str) -> Result<Platform> {
    Platform::parse(text)
        .map_err(|error| Error::invalid(format!("failed to parse platform {text}")).caused_by(error))
}

/// How many vertices the lines of a stage make.
fn total_of(stage: &Stage) -> usize {
    let counts = |step: &&Step| {
        matches!(
            step.instruction,
            Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
        )
    };
    stage.steps.iter().filter(counts).count()
}

/// The time that the client chose for what is built, seconds since 1970.
pub(crate) fn given_epoch(request: &Request) -> Result<Option<i64>> {
    let given = request.build_args.get("SOURCE_DATE_EPOCH").cloned().flatten();
    let parse = |given: String| {
        given.parse().map_err(|_| {
            Error::invalid(format!("invalid SOURCE_DATE_EPOCH {given:?}: seconds since 1970 are wanted"))
        })
    };
    given.filter(|given| !given.is_empty()).map(parse).transpose()
}
