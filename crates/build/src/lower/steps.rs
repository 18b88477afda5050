//! The instructions after `FROM`, one function each.

use super::stage::{State, lines};
use super::{HistoryStep, Lowering, scope, words};
use crate::devices;
use crate::failure::Failure;
use crate::graph::{
    CopyDefinition, CopyOp, CopySource, FetchOp, MakeDirOp, MountKind, Op, RunDefinition, RunDevice,
    RunMount, RunOp, Vertex, VertexId,
};
use crate::request::Entitlement;
use crate::source::git::GitKeys;
use crate::source::git::GitRef;
use crate::{Error, Result};
use yare_dockerfile::args::is_proxy;
use yare_dockerfile::expand::{Expanded, expand, expand_content};
use yare_dockerfile::instruction::{
    self as syntax, Add, Arg, Command, Copy, HealthCheck, Instruction, Network, Paths, Run, Script, Security,
};
use yare_dockerfile::lint::evaluated;
use yare_dockerfile::text::{Mode, history, parse_ports, parse_signal};
use yare_dockerfile::{Stage, Step};
use yare_oci::Digest;
use yare_oci::path::clean;

/// What runs lines when nothing else is said.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl Lowering<'_> {
    pub(super) fn step(&mut self, stage: &Stage, state: &mut State, step: &Step) -> Result<(), Failure> {
        match &step.instruction {
            Instruction::Run(run) => self.run(stage, state, step, run)?,
            Instruction::Copy(copy) => self.copy(stage, state, step, copy)?,
            Instruction::Add(add) => self.add_files(stage, state, step, add)?,
            Instruction::Workdir(syntax::Workdir(path)) => self.workdir(stage, state, step, path)?,
            Instruction::Arg(arg) => self.arg(state, arg)?,
            other => self.edit(state, other)?,
        }
        Ok(())
    }

    fn expand(&self, state: &State, word: &str) -> Result<Expanded> {
        expand(word, &|name| state.lookup(name), self.dockerfile.escape())
            .map_err(|error| Error::invalid(error.to_string()))
    }

    fn text(&self, state: &State, word: &str) -> Result<String> {
        let expanded = self.expand(state, word)?;
        if !expanded.undefined.is_empty() {
            let declared: Vec<&str> = state.args.iter().map(|(name, _)| name.as_str()).collect();
            let known = state.known();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let undefined = expanded.undefined.iter().map(String::as_str);
            self.warn(evaluated::undefined_vars(self.at.get(), undefined, &declared, &known));
        }
        Ok(expanded.text)
    }

    /// Instructions that only change the config.
    fn edit(&mut self, state: &mut State, instruction: &Instruction) -> Result<()> {
        let line = match instruction {
            Instruction::Env(syntax::Env(pairs)) => {
                // All of it is expanded with what was defined before the line.
                let pairs = self.pairs(state, pairs)?;
                let secrets = pairs.iter();
                self.warn(secrets.filter_map(|(key, _)| evaluated::secret_name(self.at.get(), "ENV", key)));
                for (key, value) in &pairs {
                    state.env.set(key, value);
                    state.hiding.remove(key);
                }
                history::pairs("ENV", &pairs)
            }
            Instruction::Label(syntax::Label(pairs)) => {
                let pairs = self.pairs(state, pairs)?;
                state.config.config.labels.extend(pairs.iter().cloned());
                history::pairs("LABEL", &pairs)
            }
            Instruction::Maintainer(syntax::Maintainer(name)) => {
                state.config.author.clone_from(name);
                history::word("MAINTAINER", name)
            }
            Instruction::Cmd(syntax::Cmd(command)) => {
                let argv = self.argv(state, command);
                state.config.config.args_escaped = true;
                // An empty list is none, as in the field.
                state.config.config.cmd = (!argv.is_empty()).then(|| argv.clone());
                state.has_cmd = true;
                history::command("CMD", &argv)
            }
            Instruction::Entrypoint(syntax::Entrypoint(command)) => {
                let argv = self.argv(state, command);
                state.config.config.entrypoint = (!argv.is_empty()).then(|| argv.clone());
                if !state.has_cmd {
                    state.config.config.cmd = None;
                }
                history::command("ENTRYPOINT", &argv)
            }
            Instruction::Expose(syntax::Expose(ports)) => self.expose(state, ports)?,
            Instruction::Volume(syntax::Volume(paths)) => {
                let mut shown = Vec::new();
                for path in paths {
                    let path = self.text(state, path)?;
                    if path.is_empty() {
                        return Err(Error::invalid("VOLUME specified can not be an empty string"));
                    }
                    state.config.config.volumes.insert(path.clone(), yare_oci::image::Empty {});
                    shown.push(path);
                }
                history::list("VOLUME", &shown)
            }
            Instruction::User(syntax::User(user)) => {
                state.config.config.user = self.text(state, user)?;
                history::word("USER", &state.config.config.user)
            }
            Instruction::StopSignal(syntax::StopSignal(signal)) => {
                let signal = self.text(state, signal)?;
                parse_signal(&signal).map_err(Error::invalid)?;
                state.config.config.stop_signal.clone_from(&signal);
                history::word("STOPSIGNAL", &signal)
            }
            Instruction::Shell(syntax::Shell(shell)) => {
                state.config.config.shell.clone_from(shell);
                history::list("SHELL", shell)
            }
            Instruction::HealthCheck(HealthCheck(check)) => {
                state.config.config.healthcheck = Some(check.clone());
                history::healthcheck(check)
            }
            Instruction::OnBuild(syntax::OnBuild { expression }) => {
                state.config.config.on_build.push(expression.clone());
                return Ok(());
            }
            // The others make vertices or arguments.
            _ => return Ok(()),
        };
        state.history.push(HistoryStep { created_by: line, vertex: None });
        Ok(())
    }

    fn shell(&self, state: &State) -> Vec<String> {
        match state.config.config.shell.as_slice() {
            [] => SHELL.map(str::to_owned).to_vec(),
            shell => shell.to_vec(),
        }
    }

    fn argv(&self, state: &State, command: &Command) -> Vec<String> {
        command.argv(&self.shell(state))
    }

    fn expose(&mut self, state: &mut State, words: &[String]) -> Result<String> {
        let mut shown = Vec::new();
        for word in words {
            for word in self.expand(state, word)?.words {
                let ports = parse_ports(&word).map_err(|error| Error::invalid(error.to_string()))?;
                for port in ports {
                    state.config.config.exposed_ports.insert(port.clone(), yare_oci::image::Empty {});
                    shown.push(port);
                }
            }
        }
        Ok(history::list("EXPOSE", &shown))
    }

    fn pairs(&self, state: &State, pairs: &[syntax::Pair]) -> Result<Vec<(String, String)>> {
        let pair = |pair: &syntax::Pair| Ok((self.text(state, &pair.key)?, self.text(state, &pair.value)?));
        pairs.iter().map(pair).collect()
    }

    fn arg(&mut self, state: &mut State, Arg(declarations): &Arg) -> Result<()> {
        let globals = self.global_args(&state.platform.clone())?;
        let mut shown = Vec::new();
        for declaration in declarations {
            let name = &declaration.name;
            self.declared.insert(name.clone());
            self.warn(evaluated::secret_name(self.at.get(), "ARG", name));
            let default = match &declaration.default {
                Some(default) => Some(self.text(state, default)?),
                None => globals.get(name).cloned().flatten(),
            };
            let value = match self.request.build_args.get(name) {
                Some(given) => given.clone(),
                None => default,
            };
            shown.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            if value.is_some() && state.env.get(name).is_some() {
                state.hiding.insert(name.clone());
            }
            // Without a value of its own it keeps what it has from the stage below.
            let value = value.or_else(|| state.arg(name));
            state.args.retain(|(other, _)| other != name);
            state.args.push((name.clone(), value));
        }
        state.history.push(HistoryStep { created_by: format!("ARG {}", shown.join(" ")), vertex: None });
        Ok(())
    }

    /// Adds the vertex of a step on top of the stage.
    fn stack(&mut self, stage: &Stage, state: &mut State, step: &Step, op: Op, title: &str) -> VertexId {
        state.done += 1;
        let prefix = self.prefix(stage, &state.platform.clone(), state.done, state.total);
        let no_cache = self.request.no_cache.covers(stage.name(), stage.index);
        let name = format!("{prefix}{title}");
        let (line, epoch) = (lines(step.span).0, state.epoch);
        let id = self.graph.add(Vertex { op, name, line, no_cache, epoch });
        state.root = id;
        id
    }

    fn workdir(&mut self, stage: &Stage, state: &mut State, step: &Step, path: &str) -> Result<()> {
        let path = self.text(state, path)?;
        // An absolute path is kept as it is written.
        let joined = match path.starts_with('/') {
            true => path,
            false => clean(&join(&state.config.config.working_dir, &path)),
        };
        state.config.config.working_dir.clone_from(&joined);
        let created_by = history::word("WORKDIR", &joined);
        let op = MakeDirOp { base: state.root, path: clean(&joined), user: state.config.config.user.clone() };
        // The root is there.
        let vertex = (joined != "/").then(|| self.stack(stage, state, step, Op::MakeDir(op), &step.text));
        state.history.push(HistoryStep { created_by, vertex });
        Ok(())
    }

    fn run(&mut self, stage: &Stage, state: &mut State, step: &Step, run: &Run) -> Result<(), Failure> {
        let shell = self.shell(state);
        let in_shell = |text: &str| shell.iter().cloned().chain([text.to_owned()]).collect::<Vec<_>>();
        let mut files = Vec::new();
        let argv = match run.command.script() {
            Script::Exec(argv) => argv,
            Script::Shell(text) => in_shell(&text),
            Script::File { name, content } => {
                let path = format!("/dev/pipes/{name}");
                files.push((path.clone(), content));
                in_shell(&path)
            }
        };
        if argv.iter().all(String::is_empty) {
            return Err(Error::invalid("RUN without a command").into());
        }
        let spec = RunDefinition {
            env: self.run_env(state),
            cwd: if state.config.config.working_dir.is_empty() {
                "/".to_owned()
            } else {
                clean(&state.config.config.working_dir)
            },
            user: state.config.config.user.clone(),
            network: self.network(run.network)?,
            insecure: self.insecure(run.security)?,
            devices: self.devices(run)?,
            hostname: self.hostname(),
            extra_hosts: self.request.run.extra_hosts.clone(),
            shm_size: self.request.run.shm_size,
            files,
            mounts: self.mounts(state, run)?,
            argv: argv.clone(),
            ..RunDefinition::default()
        };
        let proxies = scope::proxies(&self.request.build_args);
        let op = RunOp { base: state.root, spec, proxies, platform: Box::new(state.platform.clone()) };
        let title = self.run_title(state, step, run);
        let id = self.stack(stage, state, step, Op::Run(Box::new(op)), &title);
        let args: Vec<_> = state.args.iter().filter(|(name, _)| !is_proxy(name)).cloned().collect();
        let seen =
            |(name, _): &(String, Option<String>)| (name.clone(), state.lookup(name).unwrap_or_default());
        let args: Vec<_> = args.iter().map(seen).collect();
        state.history.push(HistoryStep { created_by: history::run(&args, &argv), vertex: Some(id) });
        Ok(())
    }

    /// What a process sees: the image's environment and the arguments.
    fn run_env(&self, state: &State) -> Vec<String> {
        let mut env = state.env.clone();
        for (name, value) in &state.args {
            if let Some(value) = value
                && (env.get(name).is_none() || state.hiding.contains(name))
            {
                env.set(name, value);
            }
        }
        env.list()
    }

    fn run_title(&self, state: &State, step: &Step, run: &Run) -> String {
        if let Command::Shell { heredocs, .. } = &run.command
            && let [only] = heredocs.as_slice()
            && !matches!(run.command.script(), Script::Shell(text) if text.starts_with(&step.text))
            && is_alone(&step.text)
        {
            return words::heredoc_title(&step.text, &only.content);
        }
        // Variables that have a value are shown with it.
        yare_dockerfile::expand::display(&step.text, &|name| state.args_only(name), self.dockerfile.escape())
    }

    fn hostname(&self) -> String {
        let given = self.request.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").cloned().flatten();
        given.filter(|name| !name.is_empty()).unwrap_or_else(|| "buildkitsandbox".to_owned())
    }

    fn allowed(&self, right: Entitlement, text: &str, flag: &str) -> Result<()> {
        if self.request.allow.contains(&right) {
            return Ok(());
        }
        Err(Error::denied(format!("{text} is not allowed"))
            .with_hint(format!("grant it with --allow {flag} if you trust this Dockerfile")))
    }

    fn network(&self, network: Network) -> Result<String> {
        match network {
            Network::None => Ok("none".to_owned()),
            Network::Host => {
                self.allowed(Entitlement::NetworkHost, "network.host", "network.host")?;
                Ok("host".to_owned())
            }
            Network::Default => Ok(match self.request.run.network.as_str() {
                "" => "default".to_owned(),
                other => other.to_owned(),
            }),
        }
    }

    fn insecure(&self, security: Security) -> Result<bool> {
        if security == Security::Insecure {
            self.allowed(Entitlement::SecurityInsecure, "security.insecure", "security.insecure")?;
        }
        Ok(security == Security::Insecure)
    }

    fn devices(&self, run: &Run) -> Result<Vec<RunDevice>> {
        let asked = run.devices.iter();
        let asked: Vec<_> =
            asked.map(|device| RunDevice { name: device.name.clone(), optional: !device.required }).collect();
        devices::settle(&asked, &self.request.devices, || self.worker.devices())
    }

    fn mounts(&mut self, state: &mut State, run: &Run) -> Result<Vec<RunMount>, Failure> {
        let mut mounts = Vec::new();
        let mut agents = 0;
        for written in &run.mounts {
            let mount = written
                .resolve(|word| self.text(state, word).map_err(|error| error.to_string()))
                .map_err(Error::invalid)?;
            let mut mount = self.mount(state, &mount)?;
            if matches!(mount.kind, MountKind::Ssh { .. }) {
                if mount.target.is_empty() {
                    mount.target = format!("/run/buildkit/ssh_agent.{agents}");
                }
                agents += 1;
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }

    fn mount(&mut self, state: &mut State, mount: &syntax::Mount) -> Result<RunMount, Failure> {
        let target = match mount.target.as_str() {
            "" => String::new(),
            target => clean(&join(&state.config.config.working_dir, target)),
        };
        if target == "/" {
            return Err(Error::invalid("invalid mount target \"/\"").into());
        }
        let kind = match &mount.kind {
            syntax::MountKind::Bind { from, source } => MountKind::Bind {
                from: match from {
                    Some(from) => self.files_of(from, state)?,
                    None => self.context_files(source),
                },
                source: if from.is_some() { clean(&join("/", source)) } else { bound_in_copy(source) },
                writable: !mount.read_only,
            },
            syntax::MountKind::Cache { id, sharing, from, source, mode, uid, gid } => MountKind::Cache {
                id: cache_id(id, &target, self.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS")),
                from: match from {
                    Some(from) => Some(self.files_of(from, state)?),
                    None => None,
                },
                source: clean(&join("/", source)),
                read_only: mount.read_only,
                sharing: *sharing,
                mode: *mode,
                uid: *uid,
                gid: *gid,
            },
            syntax::MountKind::Tmpfs { size } => MountKind::Tmpfs { size: size.unwrap_or_default() },
            syntax::MountKind::Secret { id, env, required, mode, uid, gid } => MountKind::Secret {
                id: id.clone(),
                env: env.clone().unwrap_or_default(),
                required: *required,
                mode: *mode,
                uid: *uid,
                gid: *gid,
            },
            syntax::MountKind::Ssh { id, required, mode, uid, gid } => {
                MountKind::Ssh { id: id.clone(), required: *required, mode: *mode, uid: *uid, gid: *gid }
            }
        };
        let may_lack = matches!(kind, MountKind::Secret { .. } | MountKind::Ssh { .. });
        if target.is_empty() && !may_lack {
            return Err(Error::invalid("invalid mount: it needs a target")
                .with_hint("add target=/path")
                .into());
        }
        Ok(RunMount { target, kind })
    }

    /// The files of the main context as a file system of their own, only what a mount asks for.
    fn context_files(&mut self, source: &str) -> VertexId {
        let base = self.shared("scratch", Op::Scratch, "scratch".to_owned());
        let source = clean(&join("/", source));
        let spec = CopyDefinition {
            sources: vec![source.clone()],
            // A file becomes `/bound`, of a directory the content lies in it.
            dest: if source == "/" { "/".to_owned() } else { "/bound".to_owned() },
            ..CopyDefinition::default()
        };
        let op = Op::Copy(CopyOp { base, source: CopySource::Context(String::new()), spec });
        self.shared(&format!("bound {source}"), op, format!("[internal] load {source} of the build context"))
    }

    fn copy(&mut self, stage: &Stage, state: &mut State, step: &Step, copy: &Copy) -> Result<(), Failure> {
        let from = match &copy.from {
            Some(from) => Some(self.files_of(from, state)?),
            None => None,
        };
        let spec = CopyDefinition {
            link: copy.link,
            parents: copy.parents,
            ..self.copy_definition(state, &copy.paths, &copy.chown, &copy.chmod, &copy.exclude)?
        };
        let words = Words {
            keyword: "COPY",
            flags: copy_flags(&spec),
            paths: &copy.paths,
            dest: self.text(state, &copy.paths.destination)?,
        };
        let sources = from.map_or_else(|| CopySource::Context(String::new()), CopySource::Vertex);
        self.copy_vertices(stage, state, step, sources, spec, &words)
    }

    fn copy_definition(
        &self,
        state: &State,
        paths: &Paths,
        chown: &Option<String>,
        chmod: &Option<String>,
        exclude: &[String],
    ) -> Result<CopyDefinition> {
        let optional = |word: &Option<String>| word.as_ref().map(|word| self.text(state, word)).transpose();
        let chmod = optional(chmod)?;
        if let Some(mode) = &chmod {
            Mode::parse(mode).map_err(|error| Error::wrap("--chmod", error))?;
        }
        let dest = self.text(state, &paths.destination)?;
        Ok(CopyDefinition {
            sources: paths.sources.iter().map(|source| self.text(state, source)).collect::<Result<_>>()?,
            dest: absolute(&state.config.config.working_dir, &dest),
            chown: optional(chown)?.filter(|chown| !chown.is_empty()),
            chmod,
            exclude: exclude.iter().map(|pattern| self.text(state, pattern)).collect::<Result<_>>()?,
            ..CopyDefinition::default()
        })
    }

    /// One vertex for the files, and one more for heredocs when there are both.
    fn copy_vertices(
        &mut self,
        stage: &Stage,
        state: &mut State,
        step: &Step,
        source: CopySource,
        spec: CopyDefinition,
        words: &Words<'_>,
    ) -> Result<(), Failure> {
        let contents = &words.paths.contents;
        if spec.sources.is_empty() && contents.is_empty() {
            return Err(Error::invalid(format!("{} without a source", words.keyword)).into());
        }
        if let (CopySource::Context(name), Some(ignore)) = (&source, &self.ignore)
            && name.is_empty()
        {
            let hidden =
                |source| evaluated::copy_ignored(self.at.get(), words.keyword == "ADD", source, ignore);
            self.warn(spec.sources.iter().filter_map(|source| hidden(source)));
        }
        let created_by = words.line(&spec);
        let title = self.copy_title(state, step, words);
        let mut inline = Vec::new();
        for content in contents {
            let data = if content.expand {
                let lookup = |name: &str| state.lookup(name);
                let expanded = expand_content(&content.data, &lookup, self.dockerfile.escape());
                expanded.map_err(|error| Error::invalid(error.to_string()))?.text
            } else {
                content.data.to_string()
            };
            inline.push((content.path.clone(), data.into_bytes()));
        }
        let mut last = None;
        if !spec.sources.is_empty() {
            let op = CopyOp { base: state.root, source, spec: spec.clone() };
            last = Some(self.stack(stage, state, step, Op::Copy(op), &title));
        }
        if !inline.is_empty() {
            if last.is_some() {
                state.done -= 1;
            }
            let spec = CopyDefinition { sources: Vec::new(), unpack: false, ..spec };
            let op = CopyOp { base: state.root, source: CopySource::Inline(inline), spec };
            if let Some(first) = last {
                // A history line has one layer; the files before the heredocs have a line of their own.
                let created_by = format!("{created_by} (files)");
                state.history.push(HistoryStep { created_by, vertex: Some(first) });
            }
            last = Some(self.stack(stage, state, step, Op::Copy(op), &title));
        }
        state.history.push(HistoryStep { created_by, vertex: last });
        Ok(())
    }

    fn copy_title(&self, state: &State, step: &Step, words: &Words<'_>) -> String {
        let json = step.text.contains('[') && words.paths.contents.is_empty();
        if json && let Some(start) = step.text.find('[') {
            let list: std::result::Result<Vec<String>, _> = serde_json::from_str(&step.text[start..]);
            if let Ok(list) = list {
                return format!("{}[{}]", &step.text[..start], list.join(","));
            }
        }
        yare_dockerfile::expand::display(&step.text, &|name| state.lookup(name), self.dockerfile.escape())
    }

    fn add_files(&mut self, stage: &Stage, state: &mut State, step: &Step, add: &Add) -> Result<(), Failure> {
        let mut spec = CopyDefinition {
            link: add.link,
            unpack: add.unpack.unwrap_or(true),
            ..self.copy_definition(state, &add.paths, &add.chown, &add.chmod, &add.exclude)?
        };
        let words = Words {
            keyword: "ADD",
            flags: copy_flags(&spec),
            paths: &add.paths,
            dest: self.text(state, &add.paths.destination)?,
        };
        let checksum = add.checksum.as_ref().map(|word| self.text(state, word)).transpose()?;
        let (mut remote, mut local) = (Vec::new(), Vec::new());
        for source in spec.sources.drain(..) {
            if is_remote(&source)? { &mut remote } else { &mut local }.push(source);
        }
        if checksum.is_some() && !(remote.len() == 1 && local.is_empty()) {
            return Err(Error::invalid("checksum requires exactly one remote source").into());
        }
        if remote.is_empty() {
            spec.sources = local;
            let source = CopySource::Context(String::new());
            return self.copy_vertices(stage, state, step, source, spec, &words);
        }
        let created_by = words.line(&CopyDefinition {
            sources: remote.iter().chain(&local).cloned().collect(),
            ..spec.clone()
        });
        let title = self.copy_title(state, step, &words);
        let mut vertices = Vec::new();
        for source in remote {
            let (fetch, whole) = self.fetch(&source, &spec, add, checksum.as_deref())?;
            let from = self.shared(&format!("fetch {fetch:?}"), Op::Fetch(fetch), source.clone());
            let spec = CopyDefinition {
                sources: vec![if whole { "/".to_owned() } else { "/*".to_owned() }],
                unpack: !whole && add.unpack.unwrap_or(false),
                fetched: true,
                ..spec.clone()
            };
            let op = CopyOp { base: state.root, source: CopySource::Vertex(from), spec };
            vertices.push(self.stack(stage, state, step, Op::Copy(op), &title));
            state.done -= 1;
        }
        if !local.is_empty() {
            let spec = CopyDefinition { sources: local, ..spec };
            let op = CopyOp { base: state.root, source: CopySource::Context(String::new()), spec };
            vertices.push(self.stack(stage, state, step, Op::Copy(op), &title));
            state.done -= 1;
        }
        state.done += 1;
        for vertex in vertices {
            state.history.push(HistoryStep { created_by: created_by.clone(), vertex: Some(vertex) });
        }
        Ok(())
    }

    /// What is fetched for a remote source, and whether it is a tree rather than a file.
    fn fetch(
        &self,
        source: &str,
        spec: &CopyDefinition,
        add: &Add,
        checksum: Option<&str>,
    ) -> Result<(FetchOp, bool)> {
        if is_git(source)? {
            let keep = add.keep_git_dir.unwrap_or_else(|| {
                let given = self.request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").cloned().flatten();
                given.is_some_and(|value| value == "1" || value == "true")
            });
            let remote = source.to_owned();
            return Ok((
                FetchOp::Git {
                    remote,
                    keep_git_dir: keep,
                    checksum: checksum.map(str::to_owned),
                    keys: GitKeys::default(),
                },
                true,
            ));
        }
        let checksum = checksum
            .map(|text| {
                text.parse::<Digest>()
                    .map_err(|error| Error::invalid(format!("invalid checksum {text:?}: {error}")))
            })
            .transpose()?;
        let name = if spec.dest.ends_with('/') { String::new() } else { base_name(&spec.dest).to_owned() };
        Ok((FetchOp::Http { url: source.to_owned(), name, checksum }, false))
    }
}

impl State {
    /// The names that have a value.
    fn known(&self) -> Vec<String> {
        let args = self.args.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.clone());
        self.env.names().map(str::to_owned).chain(args).collect()
    }

    /// The value of an argument that no variable hides.
    fn args_only(&self, name: &str) -> Option<String> {
        let declared = self.args.iter().any(|(arg, _)| arg == name);
        if declared { self.lookup(name) } else { None }
    }
}

/// What a `COPY` or `ADD` is made of, for its history.
struct Words<'a> {
    keyword: &'static str,
    flags: String,
    paths: &'a Paths,
    /// As it is written, with the values of variables.
    dest: String,
}

impl Words<'_> {
    fn line(&self, spec: &CopyDefinition) -> String {
        let heredocs = self.paths.contents.iter().map(|content| format!("<<{}", content.path));
        let sources: Vec<String> = spec.sources.iter().cloned().chain(heredocs).collect();
        format!("{}{} {} {} # buildkit", self.keyword, self.flags, sources.join(" "), self.dest)
    }
}

fn copy_flags(spec: &CopyDefinition) -> String {
    let mut flags = String::new();
    if spec.parents {
        flags.push_str(" --parents");
    }
    if let Some(chown) = &spec.chown {
        flags.push_str(&format!(" --chown={chown}"));
    }
    if let Some(chmod) = &spec.chmod {
        flags.push_str(&format!(" --chmod={chmod}"));
    }
    if spec.link {
        flags.push_str(" --link");
    }
    flags
}

/// Whether a source is a repository. A path of this host that looks like one is none.
fn is_git(source: &str) -> Result<bool> {
    Ok(GitRef::parse(source)?.is_some_and(|git| !git.indistinguishable_from_local))
}

fn is_remote(source: &str) -> Result<bool> {
    Ok(source.starts_with("http://") || source.starts_with("https://") || is_git(source)?)
}

fn is_alone(text: &str) -> bool {
    let word = text.split_whitespace().nth(1).unwrap_or_default();
    word.starts_with("<<") && text.split_whitespace().count() == 2
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

fn cache_id(id: &str, target: &str, namespace: Option<&Option<String>>) -> String {
    let id = if id.is_empty() { target } else { id };
    match namespace.and_then(Option::as_ref) {
        Some(namespace) => format!("{namespace}/{id}"),
        None => id.to_owned(),
    }
}

/// Where a path of the context is in its copy.
fn bound_in_copy(source: &str) -> String {
    let source = clean(&join("/", source));
    if source == "/" { source } else { "/bound".to_owned() }
}

/// A path from a directory: an absolute one is itself. Keeps a final slash.
pub(super) fn join(from: &str, path: &str) -> String {
    if path.starts_with('/') {
        return path.to_owned();
    }
    let from = if from.is_empty() { "/" } else { from };
    format!("{}/{path}", from.trim_end_matches('/'))
}

/// A destination: clean, and with its final slash if it names a directory.
fn absolute(from: &str, dest: &str) -> String {
    let directory = dest.ends_with('/') || dest == "." || dest.ends_with("/.") || dest.is_empty();
    let path = clean(&join(from, dest));
    if directory && path != "/" { format!("{path}/") } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_keep_their_slash() {
        assert_eq!(absolute("/w", "b/"), "/w/b/");
        assert_eq!(absolute("", "."), "/");
        assert_eq!(absolute("/w", "."), "/w/");
        assert_eq!(absolute("/w", "/x/../y"), "/y");
        assert_eq!(clean("/../../a//b/./c/.."), "/a/b");
    }

    #[test]
    fn remote_sources_are_known() {
        let git =
            ["https://h/x.git", "https://h/x.git#v1:sub", "git@h:x", "me@h:x.git", "ssh://h/x", "git://h/x"];
        for git in git {
            assert!(is_git(git).unwrap() && is_remote(git).unwrap(), "{git}");
        }
        assert!(!is_git("https://h/x.tar").unwrap() && is_remote("https://h/x.tar").unwrap());
        for local in ["x.git", "github.com/x/y", "a\tb", "d/me@h:x"] {
            assert!(!is_remote(local).unwrap(), "{local}");
        }
        assert!(is_remote("git@h").is_err(), "neither a repository nor a path");
    }
}
