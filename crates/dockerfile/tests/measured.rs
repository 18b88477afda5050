//! A small evaluation of the Dockerfiles that the field's daemon built: its history and its warnings are ours.

use serde_json::Value;
use std::collections::BTreeMap;
use yare_dockerfile::expand::{Escape, Expanded, expand, expand_content};
use yare_dockerfile::instruction::{
    Arg, Copy, Instruction, Pair, Script, Shell, Step, StopSignal, User, Workdir,
};
use yare_dockerfile::lint::{Warning, evaluated, lint, violation};
use yare_dockerfile::text::{history, parse_ports, parse_signal};
use yare_dockerfile::{Dockerfile, Stage, parse, parse_trigger};

fn measured() -> Vec<Value> {
    let path = format!("{}/tests/data/dockerfile-build-vectors.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    all["cases"].as_array().cloned().unwrap_or_default()
}

/// Values of one option of the command line.
fn options(case: &Value, name: &str) -> Vec<String> {
    let words: Vec<&str> = case["args"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    words.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].to_owned()).collect()
}

/// What a stage has come to.
#[derive(Clone)]
struct State {
    env: BTreeMap<String, String>,
    args: Vec<(String, Option<String>)>,
    shell: Vec<String>,
    workdir: String,
    on_build: Vec<String>,
    history: Vec<String>,
}

struct Build<'a> {
    file: &'a Dockerfile,
    build_args: BTreeMap<String, String>,
    warnings: Vec<Warning>,
}

impl Build<'_> {
    fn escape(&self) -> Escape {
        self.file.escape()
    }

    fn stage(&mut self, stage: &Stage) -> State {
        let globals = self.globals();
        let lookup = |name: &str| globals.get(name).cloned();
        let base = expand(&stage.from.base, &lookup, self.escape()).expect("a base").text;
        let mut state = match self.file.stage_named(&base, stage.index) {
            Some(base) => self.stage(base),
            None => State {
                env: BTreeMap::from([("PATH".into(), "/bin".into())]),
                args: Vec::new(),
                shell: vec!["/bin/sh".into(), "-c".into()],
                workdir: "/".into(),
                on_build: Vec::new(),
                history: Vec::new(),
            },
        };
        for trigger in std::mem::take(&mut state.on_build) {
            let step = parse_trigger(&trigger).expect("a trigger");
            self.step(&mut state, &step);
        }
        stage.steps.iter().for_each(|step| self.step(&mut state, step));
        state
    }

    fn globals(&self) -> BTreeMap<String, String> {
        let mut values = self.build_args.clone();
        for arg in self.file.global_args.iter().flat_map(|global| &global.arg.0) {
            let lookup = |name: &str| values.get(name).cloned();
            let default =
                arg.default.as_deref().map(|text| expand(text, &lookup, self.escape()).expect("a default"));
            if let Some(default) = default {
                values.entry(arg.name.clone()).or_insert(default.text);
            }
        }
        values
    }

    /// A word with the values of a state, and a warning for what it has not.
    fn word(&mut self, state: &State, step: &Step, word: &str) -> Expanded {
        self.text(state, step, word, expand)
    }

    fn text(
        &mut self,
        state: &State,
        step: &Step,
        word: &str,
        how: impl Fn(
            &str,
            &dyn Fn(&str) -> Option<String>,
            Escape,
        ) -> Result<Expanded, yare_dockerfile::expand::ExpandError>,
    ) -> Expanded {
        let lookup = |name: &str| {
            let arg =
                || state.args.iter().rev().find(|(own, _)| own == name).and_then(|(_, value)| value.clone());
            state.env.get(name).cloned().or_else(arg)
        };
        let expanded = how(word, &lookup, self.escape()).expect("a word");
        let declared: Vec<&str> = state.args.iter().map(|(name, _)| name.as_str()).collect();
        let known: Vec<&str> = state.env.keys().map(String::as_str).collect();
        let undefined = expanded.undefined.iter().map(String::as_str);
        self.warnings.extend(evaluated::undefined_vars(step.span, undefined, &declared, &known));
        expanded
    }

    fn pairs(&mut self, state: &State, step: &Step, pairs: &[Pair]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|pair| (self.word(state, step, &pair.key).text, self.word(state, step, &pair.value).text))
            .collect()
    }

    fn step(&mut self, state: &mut State, step: &Step) {
        let line = match &step.instruction {
            Instruction::Env(env) => {
                let pairs = self.pairs(state, step, &env.0);
                state.env.extend(pairs.iter().cloned());
                history::pairs("ENV", &pairs)
            }
            Instruction::Label(label) => history::pairs("LABEL", &self.pairs(state, step, &label.0)),
            Instruction::Arg(arg) => self.arg(state, step, arg),
            Instruction::Run(run) => {
                let argv = match run.command.script() {
                    Script::Exec(argv) => argv,
                    Script::Shell(text) => [state.shell.clone(), vec![text]].concat(),
                    Script::File { name, .. } => {
                        [state.shell.clone(), vec![format!("/dev/pipes/{name}")]].concat()
                    }
                };
                let given: Vec<(String, String)> = state
                    .args
                    .iter()
                    .filter_map(|(name, value)| {
                        Some((name.clone(), state.env.get(name).or(value.as_ref())?.clone()))
                    })
                    .collect();
                history::run(&given, &argv)
            }
            Instruction::Cmd(cmd) => history::command("CMD", &cmd.0.argv(&state.shell)),
            Instruction::Entrypoint(program) => history::command("ENTRYPOINT", &program.0.argv(&state.shell)),
            Instruction::Copy(copy) => history::copy(&self.copy(state, step, copy)),
            Instruction::Workdir(Workdir(path)) => {
                let path = self.word(state, step, path).text;
                let base = state.workdir.trim_end_matches('/');
                state.workdir = if path.starts_with('/') { path } else { format!("{base}/{path}") };
                history::word("WORKDIR", &state.workdir)
            }
            Instruction::User(User(user)) => history::word("USER", &self.word(state, step, user).text),
            Instruction::StopSignal(StopSignal(signal)) => {
                let signal = self.word(state, step, signal).text;
                parse_signal(&signal).expect("a signal");
                history::word("STOPSIGNAL", &signal)
            }
            Instruction::Shell(Shell(shell)) => {
                state.shell.clone_from(shell);
                history::list("SHELL", shell)
            }
            Instruction::Expose(ports) => {
                let words: Vec<String> =
                    ports.0.iter().flat_map(|port| self.word(state, step, port).words).collect();
                let ports: Vec<String> =
                    words.iter().flat_map(|word| parse_ports(word).expect("ports")).collect();
                history::list("EXPOSE", &ports)
            }
            Instruction::HealthCheck(check) => history::healthcheck(&check.0),
            Instruction::OnBuild(trigger) => {
                state.on_build.push(trigger.expression.clone());
                return;
            }
            _ => return,
        };
        state.history.push(line);
    }

    fn arg(&mut self, state: &mut State, step: &Step, arg: &Arg) -> String {
        let mut declared = arg.0.clone();
        let globals = self.globals();
        for arg in &mut declared {
            let default = arg.default.as_ref().map(|default| self.word(state, step, default).text);
            let global = if default.is_none() { globals.get(&arg.name).cloned() } else { None };
            let value = self.build_args.get(&arg.name).cloned().or(default).or(global);
            state.args.push((arg.name.clone(), value.clone()));
            arg.default = value;
        }
        history::arg(&declared)
    }

    fn copy(&mut self, state: &State, step: &Step, copy: &Copy) -> Copy {
        let mut copy = copy.clone();
        copy.paths.destination = self.word(state, step, &copy.paths.destination).text;
        for source in &mut copy.paths.sources {
            *source = self.word(state, step, source).text;
        }
        for content in copy.paths.contents.iter().filter(|content| content.expand) {
            self.text(state, step, &content.data, expand_content);
        }
        copy
    }
}

fn build<'a>(file: &'a Dockerfile, case: &Value) -> (Build<'a>, State) {
    let build_args = options(case, "--build-arg");
    let pairs = build_args.iter().filter_map(|pair| pair.split_once('='));
    let build_args = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut build = Build { file, build_args, warnings: Vec::new() };
    let target = options(case, "--target").into_iter().next();
    let state = build.stage(file.target(target.as_deref()).expect("a target"));
    (build, state)
}

#[test]
fn the_history_is_the_daemons() {
    let mut count = 0;
    for case in measured() {
        let Some(expected) = case["history"].as_array().filter(|_| case["exit"] == 0) else { continue };
        let file = parse(case["dockerfile"].as_str().unwrap_or_default().as_bytes()).expect("a Dockerfile");
        let (_, mut state) = build(&file, &case);
        state.history.reverse();
        let expected: Vec<&str> = expected.iter().filter_map(|step| step[0].as_str()).collect();
        assert_eq!(state.history, expected, "{case}");
        assert!(case["history"].as_array().into_iter().flatten().all(|step| step[1] == history::COMMENT));
        count += 1;
    }
    assert_eq!(count, 53);
}

#[test]
fn the_warnings_are_the_daemons() {
    let mut count = 0;
    for case in measured() {
        // The rest of the cases fails before anything is looked at.
        let Ok(file) = parse(case["dockerfile"].as_str().unwrap_or_default().as_bytes()) else { continue };
        let mut warnings = lint(&file, &file.directives.check);
        if case["exit"] == 0 {
            warnings.extend(build(&file, &case).0.warnings);
        }
        let own: Vec<(String, String, Vec<u32>)> = warnings
            .iter()
            .map(|warning| {
                (warning.rule.to_string(), warning.message.clone(), warning.span.lines().collect())
            })
            .collect();
        let expected: Vec<(String, String, Vec<u32>)> = case["check_warnings"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|warning| {
                let text = |member: &str| warning[member].as_str().unwrap_or_default().to_owned();
                let lines = warning["line"].as_array().into_iter().flatten().filter_map(Value::as_u64);
                (text("rule"), text("detail"), lines.filter_map(|line| u32::try_from(line).ok()).collect())
            })
            .collect();
        assert_eq!(own, expected, "{case}");
        if file.directives.check.error {
            let said = case["error"][0].as_str().unwrap_or_default();
            assert!(said.ends_with(&violation(&warnings).expect("a violation")), "{said}");
        }
        for warning in &warnings {
            assert!(warning.render(&file, "Dockerfile").contains(warning.rule.name()));
        }
        count += warnings.len();
    }
    assert!(count >= 14, "{count}");
}
