//! Rules about single instructions and their casing.

use super::evaluated::secret_name;
use super::{Rule, Warning};
use crate::instruction::{Command, Instruction, Pair, Step};
use crate::text::is_plain_port;
use crate::{Dockerfile, Span, Stage};
use yare_gotext::quote;

pub(super) fn check(dockerfile: &Dockerfile, warnings: &mut Vec<Warning>) {
    for span in &dockerfile.empty_continuations {
        // The last line is named, as the field does it: the instruction is known to have one only there.
        let line =
            Span { line: span.end_line, start: line_start(&dockerfile.source, span.end), column: 1, ..*span };
        warnings.push(Warning::new(Rule::NoEmptyContinuation, line, "Empty continuation line"));
    }
    keywords(dockerfile, warnings);
    descriptions(dockerfile, warnings);
    let mut facts: Vec<Facts> = Vec::with_capacity(dockerfile.stages.len());
    for stage in &dockerfile.stages {
        let base = dockerfile.stage_named(&stage.from.base, stage.index);
        let inherited = base.and_then(|base| facts.get(base.index)).copied().unwrap_or_default();
        facts.push(steps(stage, inherited, warnings));
    }
}

fn line_start(source: &str, offset: usize) -> usize {
    source.as_bytes()[..offset.min(source.len())]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1)
}

/// What a stage passes on to those on top of it.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// There is a `WORKDIR`.
    workdir: bool,
    /// There is a `SHELL`, so that the shell form is what is wanted.
    shell: bool,
}

fn steps(stage: &Stage, mut facts: Facts, warnings: &mut Vec<Warning>) -> Facts {
    let mut once: [Option<Span>; 3] = [None; 3];
    for step in &stage.steps {
        let mut warn = |rule, message: String| warnings.push(Warning::new(rule, step.span, message));
        match &step.instruction {
            Instruction::Maintainer(_) => warn(
                Rule::MaintainerDeprecated,
                "Maintainer instruction is deprecated in favor of using label".into(),
            ),
            Instruction::Shell(_) => facts.shell = true,
            Instruction::Workdir(path) => {
                // Where a variable stands first, only a build knows.
                if !facts.workdir && !path.0.starts_with(['/', '$', '"', '\'']) {
                    let path = quote(&path.0);
                    let message = format!(
                        "Relative workdir {path} can have unexpected results if the base image changes"
                    );
                    warn(Rule::WorkdirRelativePath, message);
                }
                facts.workdir = true;
            }
            Instruction::Env(env) => {
                legacy(&env.0, "ENV", step.span, warnings);
                warnings.extend(env.0.iter().filter_map(|pair| secret_name(step.span, "ENV", &pair.key)));
            }
            Instruction::Label(label) => legacy(&label.0, "LABEL", step.span, warnings),
            Instruction::Arg(arg) => {
                warnings.extend(arg.0.iter().filter_map(|arg| secret_name(step.span, "ARG", &arg.name)));
            }
            Instruction::Expose(expose) => expose.0.iter().for_each(|port| ports(port, step.span, warnings)),
            Instruction::Cmd(cmd) => program(step, &cmd.0, facts, &mut once[0], warnings),
            Instruction::Entrypoint(entrypoint) => {
                program(step, &entrypoint.0, facts, &mut once[1], warnings);
            }
            Instruction::HealthCheck(_) => only_once(step, &mut once[2], warnings),
            _ => {}
        }
    }
    facts
}

fn program(
    step: &Step,
    command: &Command,
    facts: Facts,
    once: &mut Option<Span>,
    warnings: &mut Vec<Warning>,
) {
    if matches!(command, Command::Shell { .. }) && !facts.shell {
        let keyword = step.instruction.keyword();
        let message = format!(
            "JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals"
        );
        warnings.push(Warning::new(Rule::JSONArgsRecommended, step.span, message));
    }
    only_once(step, once, warnings);
}

/// Of several the last one counts; the ones before are told.
fn only_once(step: &Step, once: &mut Option<Span>, warnings: &mut Vec<Warning>) {
    if let Some(before) = once.replace(step.span) {
        let message = format!(
            "Multiple {} instructions should not be used in the same stage because only the last one will be used",
            step.instruction.keyword()
        );
        warnings.push(Warning::new(Rule::MultipleInstructionsDisallowed, before, message));
    }
}

fn legacy(pairs: &[Pair], keyword: &str, span: Span, warnings: &mut Vec<Warning>) {
    if pairs.iter().any(|pair| pair.legacy) {
        let message = format!(
            "\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format"
        );
        warnings.push(Warning::new(Rule::LegacyKeyValueFormat, span, message));
    }
}

fn ports(port: &str, span: Span, warnings: &mut Vec<Warning>) {
    if port.contains('$') {
        return;
    }
    let protocol = port.rsplit_once('/').map_or("", |(_, protocol)| protocol);
    if protocol != protocol.to_lowercase() {
        let message = format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
        warnings.push(Warning::new(Rule::ExposeProtoCasing, span, message));
    }
    if !is_plain_port(port) {
        let message = format!(
            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
        );
        warnings.push(Warning::new(Rule::ExposeInvalidFormat, span, message));
    }
}

fn keywords(dockerfile: &Dockerfile, warnings: &mut Vec<Warning>) {
    let all = || {
        dockerfile.stages.iter().flat_map(|stage| {
            let steps = stage.steps.iter().map(|step| (step.keyword.as_str(), step.span));
            std::iter::once((stage.keyword.as_str(), stage.span)).chain(steps)
        })
    };
    let lower = all().filter(|(keyword, _)| *keyword == keyword.to_lowercase()).count();
    let upper = all().filter(|(keyword, _)| *keyword == keyword.to_uppercase()).count();
    for (keyword, span) in all() {
        let (wanted, casing) = match lower > upper {
            true => (keyword.to_lowercase(), "lowercase"),
            false => (keyword.to_uppercase(), "uppercase"),
        };
        if keyword != wanted {
            let message =
                format!("Command '{keyword}' should match the case of the command majority ({casing})");
            warnings.push(Warning::new(Rule::ConsistentInstructionCasing, span, message));
        }
    }
}

/// A comment directly above `ARG` or a named `FROM` describes it, and begins with the name.
fn descriptions(dockerfile: &Dockerfile, warnings: &mut Vec<Warning>) {
    let mut describe = |keyword: &str, names: &[&str], comments: &[String], span: Span| {
        let (Some(comment), Some(first)) = (comments.last(), names.first()) else { return };
        let word = comment.split(' ').next().unwrap_or_default();
        if !names.contains(&word) {
            let name = if names.len() > 1 { "<arg_key>" } else { first };
            let message = format!("Comment for {keyword} should follow the format: `# {name} <description>`");
            warnings.push(Warning::new(Rule::InvalidDefinitionDescription, span, message));
        }
    };
    let steps = dockerfile.global_args.iter().map(|global| &global.step);
    for step in steps.chain(dockerfile.stages.iter().flat_map(|stage| &stage.steps)) {
        if let Instruction::Arg(arg) = &step.instruction {
            let names: Vec<&str> = arg.0.iter().map(|arg| arg.name.as_str()).collect();
            describe("ARG", &names, &step.comments, step.span);
        }
    }
    for stage in &dockerfile.stages {
        if let Some(name) = stage.name() {
            describe("FROM", &[name], &stage.comments, stage.span);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lint;
    use crate::{CheckOptions, Selection};

    /// Rule, line and text of everything that is said about a file.
    fn said(file: &str) -> Vec<(String, u32, String)> {
        let file = crate::parse(file.as_bytes()).expect(file);
        let options = CheckOptions { experimental: Selection::All, ..file.directives.check.clone() };
        let warnings = lint(&file, &options).into_iter();
        warnings.map(|warning| (warning.rule.to_string(), warning.span.line, warning.message)).collect()
    }

    fn one(file: &str, rule: &str, line: u32, text: &str) {
        assert_eq!(said(file), [(rule.to_owned(), line, text.to_owned())], "{file}");
    }

    #[test]
    fn names_of_stages() {
        one("FROM a AS Base", "StageNameCasing", 1, "Stage name 'Base' should be lowercase");
        one("FROM a as b", "FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match");
        one(
            "FROM a AS b\nFROM a AS b",
            "DuplicateStageName",
            2,
            "Duplicate stage name \"b\", stage names should be unique",
        );
        assert_eq!(said("from a as b\nrun x\nfrom b"), []);
    }

    #[test]
    fn platforms_and_arguments_of_from() {
        one(
            "FROM --platform=linux/amd64 a",
            "FromPlatformFlagConstDisallowed",
            1,
            "FROM --platform flag should not use constant value \"linux/amd64\"",
        );
        assert_eq!(said("FROM --platform=linux/amd64 a AS for-amd64"), []);
        assert_eq!(said("FROM --platform=$BUILDPLATFORM a"), []);
        one(
            "ARG VERSION=1\nFROM a:${VERSIN:-1}",
            "UndefinedArgInFrom",
            2,
            "FROM argument 'VERSIN' is not declared (did you mean VERSION?)",
        );
        one(
            "ARG TAG\nFROM a:${TAG}",
            "InvalidDefaultArgInFrom",
            2,
            "Default value for ARG a:${TAG} results in empty or invalid base image name",
        );
    }

    #[test]
    fn instructions_that_count_once() {
        let text = |keyword| {
            format!(
                "Multiple {keyword} instructions should not be used in the same stage because only the last one \
                 will be used"
            )
        };
        one("FROM a\nCMD [\"a\"]\nCMD [\"b\"]", "MultipleInstructionsDisallowed", 2, &text("CMD"));
        let twice = "FROM a\nHEALTHCHECK NONE\nHEALTHCHECK NONE\nFROM a\nHEALTHCHECK NONE";
        one(twice, "MultipleInstructionsDisallowed", 2, &text("HEALTHCHECK"));
        assert_eq!(
            said("FROM a AS b\nSHELL [\"s\"]\nFROM b\nENTRYPOINT x"),
            [],
            "the shell is what is wanted"
        );
    }

    #[test]
    fn the_majority_decides_on_casing() {
        let message = "Command 'run' should match the case of the command majority (uppercase)";
        one("FROM a\nrun x\nUSER b", "ConsistentInstructionCasing", 2, message);
        let message = "Command 'Run' should match the case of the command majority (lowercase)";
        one("from a\nRun x", "ConsistentInstructionCasing", 2, message);
    }

    #[test]
    fn directories_and_descriptions() {
        assert_eq!(said("FROM a AS b\nWORKDIR /a\nWORKDIR c\nFROM b\nWORKDIR d"), []);
        let message = "Comment for ARG should follow the format: `# A <description>`";
        one("FROM a\n# something else\nARG A", "InvalidDefinitionDescription", 3, message);
        assert_eq!(said("FROM a\n# A is described\nARG A\n# far\n\nARG B"), []);
    }

    #[test]
    fn rules_can_be_left_out() {
        assert_eq!(said("# check=skip=MaintainerDeprecated\nFROM a\nMAINTAINER x"), []);
        assert_eq!(said("# check=skip=all\nFROM a AS B\nMAINTAINER x\nCMD x"), []);
    }
}
