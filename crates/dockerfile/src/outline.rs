//! What a file offers to whoever builds it: its stages (`--call=targets`), and the arguments and secrets that
//! one of them takes (`--call=outline`). They serialise as the field's answers do.

use crate::args::PLATFORM;
use crate::expand::expand;
use crate::instruction::{Arg, ArgDeclaration, Instruction, MountKind, Run, Step};
use crate::lint::default_args;
use crate::{Dockerfile, Span, Stage};
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use std::collections::{BTreeMap, BTreeSet};

/// All stages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// In order.
    pub targets: Vec<Target>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name; empty if it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whether it is what a build without `--target` makes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// What a comment above says about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it is built on, as written.
    pub base: String,
    /// `--platform`, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Its `FROM`.
    pub location: Location,
}

/// What a build of one stage takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The stage's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What a comment above says about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Arguments that have an influence, by place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<OutlineArg>,
    /// Secrets that are mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Needed>,
    /// Agents that are mounted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Needed>,
}

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// What a comment above says about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its value without any build argument.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Its declaration.
    pub location: Location,
}

/// A secret or an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Needed {
    /// Its id.
    pub name: String,
    /// Whether the build fails without.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The first step that mounts it.
    pub location: Location,
}

/// Lines of the file: `{"ranges":[{"start":{"line":1},"end":{"line":1}}]}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location(pub Span);

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Position {
            line: u32,
        }
        #[derive(Serialize)]
        struct Range {
            start: Position,
            end: Position,
        }
        let range = Range { start: Position { line: self.0.line }, end: Position { line: self.0.end_line } };
        let mut location = serializer.serialize_struct("Location", 1)?;
        location.serialize_field("ranges", &[range])?;
        location.end()
    }
}

/// The stages of a file.
pub fn targets(dockerfile: &Dockerfile) -> Targets {
    let last = dockerfile.stages.len().saturating_sub(1);
    let targets = dockerfile.stages.iter().map(|stage| Target {
        name: stage.name().unwrap_or_default().to_owned(),
        default: stage.index == last,
        description: stage.description.clone(),
        base: stage.from.base.clone(),
        platform: stage.from.platform.clone(),
        location: Location(stage.span),
    });
    Targets { targets: targets.collect() }
}

/// Stages that a build of `target` needs, itself included, in the order of the file. Bases are expanded with
/// the defaults of global arguments.
pub fn needed_stages<'a>(dockerfile: &'a Dockerfile, target: &'a Stage) -> Vec<&'a Stage> {
    let defaults = default_args(dockerfile);
    let mut needed = BTreeMap::new();
    let mut open = vec![target];
    while let Some(stage) = open.pop() {
        if needed.insert(stage.index, stage).is_some() {
            continue;
        }
        let lookup = |name: &str| defaults.get(name).cloned();
        let base = expand(&stage.from.base, &lookup, dockerfile.escape());
        let base = base.ok().and_then(|base| dockerfile.stage_named(&base.text, stage.index));
        let sources = stage.steps.iter().flat_map(sources);
        open.extend(base);
        open.extend(sources.filter_map(|source| dockerfile.stage_referred(source, stage.index)));
    }
    needed.into_values().collect()
}

/// Where a step takes files from.
fn sources(step: &Step) -> Vec<&str> {
    match &step.instruction {
        Instruction::Copy(copy) => copy.from.as_deref().into_iter().collect(),
        Instruction::Run(run) => run.mounts.iter().filter_map(|mount| mount.from()).collect(),
        _ => Vec::new(),
    }
}

/// What a build of a stage takes.
///
/// # Errors
/// The target is unknown.
pub fn outline(dockerfile: &Dockerfile, target: Option<&str>) -> Result<Outline, String> {
    let stage = dockerfile.target(target)?;
    let stages = needed_stages(dockerfile, stage);
    let globals = default_args(dockerfile);
    let mut found = Found::default();
    global_args(dockerfile, &stages, &globals, &mut found.args);
    for stage in stages {
        let mut values = BTreeMap::new();
        for step in &stage.steps {
            match &step.instruction {
                Instruction::Arg(arg) => found.declared(dockerfile, step, arg, &globals, &mut values),
                Instruction::Run(run) => found.mounted(dockerfile, step, run, &values),
                _ => {}
            }
        }
    }
    Ok(Outline {
        name: stage.name().unwrap_or_default().to_owned(),
        description: stage.description.clone(),
        args: by_place(found.args, |arg| arg.location),
        secrets: by_place(found.secrets, |secret| secret.location),
        ssh: by_place(found.ssh, |agent| agent.location),
    })
}

fn by_place<T>(found: BTreeMap<String, T>, location: impl Fn(&T) -> Location) -> Vec<T> {
    let mut sorted: Vec<T> = found.into_values().collect();
    sorted.sort_by_key(|one| location(one).0.line);
    sorted
}

/// What was found so far, by name. The first of a name counts.
#[derive(Default)]
struct Found {
    args: BTreeMap<String, OutlineArg>,
    secrets: BTreeMap<String, Needed>,
    ssh: BTreeMap<String, Needed>,
}

impl Found {
    /// Takes the arguments that a stage declares, and their values into those of the stage.
    fn declared(
        &mut self,
        dockerfile: &Dockerfile,
        step: &Step,
        arg: &Arg,
        globals: &BTreeMap<String, String>,
        values: &mut BTreeMap<String, String>,
    ) {
        for arg in &arg.0 {
            let own = arg.default.as_ref().and_then(|default| {
                let lookup = |name: &str| values.get(name).cloned();
                expand(default, &lookup, dockerfile.escape()).ok().map(|expanded| expanded.text)
            });
            let value = own.or_else(|| globals.get(&arg.name).cloned()).unwrap_or_default();
            values.insert(arg.name.clone(), value.clone());
            if !PLATFORM.contains(&arg.name.as_str()) {
                self.args.entry(arg.name.clone()).or_insert_with(|| described(arg, value, step.span));
            }
        }
    }

    /// Takes the secrets and agents that a step mounts.
    fn mounted(
        &mut self,
        dockerfile: &Dockerfile,
        step: &Step,
        run: &Run,
        values: &BTreeMap<String, String>,
    ) {
        for mount in &run.mounts {
            let lookup = |name: &str| values.get(name).cloned();
            let resolved = mount.resolve(|text| {
                expand(text, &lookup, dockerfile.escape())
                    .map(|one| one.text)
                    .map_err(|error| error.to_string())
            });
            let (known, name, required) = match resolved.map(|mount| mount.kind) {
                Ok(MountKind::Secret { id, required, .. }) => (&mut self.secrets, id, required),
                Ok(MountKind::Ssh { id, required, .. }) => (&mut self.ssh, id, required),
                _ => continue,
            };
            let location = Location(step.span);
            known.entry(name.clone()).or_insert(Needed { name, required, location });
        }
    }
}

fn described(arg: &ArgDeclaration, value: String, span: Span) -> OutlineArg {
    OutlineArg {
        name: arg.name.clone(),
        description: arg.description.clone(),
        value,
        location: Location(span),
    }
}

/// Global arguments that the `FROM`s of stages name, and those that they are made of.
fn global_args(
    dockerfile: &Dockerfile,
    stages: &[&Stage],
    globals: &BTreeMap<String, String>,
    found: &mut BTreeMap<String, OutlineArg>,
) {
    let names = |text: &str| {
        let expanded = expand(text, &|name| globals.get(name).cloned(), dockerfile.escape());
        let expanded = expanded.unwrap_or_default();
        expanded.used.into_iter().chain(expanded.undefined)
    };
    let froms = stages.iter().flat_map(|stage| [Some(&stage.from.base), stage.from.platform.as_ref()]);
    let mut used: BTreeSet<String> = froms.flatten().flat_map(|text| names(text)).collect();
    for global in dockerfile.global_args.iter().rev() {
        for arg in global.arg.0.iter().rev().filter(|arg| used.contains(&arg.name)).collect::<Vec<_>>() {
            used.extend(arg.default.iter().flat_map(|default| names(default)));
            let value = globals.get(&arg.name).cloned().unwrap_or_default();
            found.entry(arg.name.clone()).or_insert_with(|| described(arg, value, global.step.span));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# V the version\nARG V=1 U\nARG W=$V\nFROM a:$W AS base\nARG X=$U\n\
        FROM scratch AS other\nARG NOT\n# last the one\nFROM base AS last\nARG TARGETOS Y=2\n\
        RUN --mount=type=secret,id=s,required --mount=type=ssh --mount=type=secret,id=s true\n";

    #[test]
    fn an_outline_has_what_the_target_takes() {
        let file = crate::parse(FILE.as_bytes()).expect("a file");
        let outline = outline(&file, None).expect("an outline");
        assert_eq!(outline.description.as_deref(), Some("the one"));
        let args: Vec<(&str, &str, u32)> = outline
            .args
            .iter()
            .map(|arg| (arg.name.as_str(), arg.value.as_str(), arg.location.0.line))
            .collect();
        assert_eq!(args, [("V", "1", 2), ("W", "1", 3), ("X", "", 5), ("Y", "2", 10)]);
        assert_eq!(outline.args[0].description.as_deref(), Some("the version"));
        let [secret] = outline.secrets.as_slice() else { panic!("{outline:?}") };
        assert!(secret.required && secret.name == "s");
        assert_eq!(outline.ssh[0].name, "default");
        let json = serde_json::to_value(&outline).expect("JSON");
        assert_eq!(json["ssh"][0]["location"]["ranges"][0]["start"]["line"], 11);
    }

    #[test]
    fn targets_are_the_stages() {
        let file = crate::parse(FILE.as_bytes()).expect("a file");
        let targets = targets(&file).targets;
        let names: Vec<(&str, bool)> = targets.iter().map(|one| (one.name.as_str(), one.default)).collect();
        assert_eq!(names, [("base", false), ("other", false), ("last", true)]);
        assert_eq!(
            outline(&file, Some("lost")).expect_err("unknown"),
            "target stage \"lost\" could not be found (did you mean last?)"
        );
    }
}
