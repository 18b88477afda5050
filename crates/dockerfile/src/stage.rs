//! A whole Dockerfile: global arguments and stages.

use crate::Span;
use crate::error::ParseError;
use crate::expand::Escape;
use crate::instruction::{Arg, Context, Descriptions, From, Instruction, Parsed, Step, instruction};
use crate::syntax::{self, Directives, Statement, error_at, line_at};
use std::collections::BTreeMap;

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// Its text.
    pub source: String,
    /// What the top says.
    pub directives: Directives,
    /// `ARG`s before the first `FROM`: they expand in `FROM` lines.
    pub global_args: Vec<GlobalArg>,
    /// Stages, in order; never empty.
    pub stages: Vec<Stage>,
    /// Stages of each name, in order.
    names: BTreeMap<String, Vec<usize>>,
    /// Instructions that have empty lines in them.
    pub(crate) empty_continuations: Vec<Span>,
}

/// An `ARG` before the first `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GlobalArg {
    /// What it declares.
    pub arg: Arg,
    /// The instruction itself.
    pub step: Step,
}

/// One `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Position among the stages, from 0.
    pub index: usize,
    /// The `FROM` line.
    pub from: From,
    /// `FROM` as written.
    pub keyword: String,
    /// The joined `FROM` line.
    pub text: String,
    /// The `FROM` line's place.
    pub span: Span,
    /// Comment lines directly above, without `#`.
    pub comments: Vec<String>,
    /// What comments above say about it: `# NAME description`.
    pub description: Option<String>,
    /// What is done in it.
    pub steps: Vec<Step>,
}

impl Stage {
    /// Its name in lower case.
    pub fn name(&self) -> Option<&str> {
        self.from.name.as_deref()
    }

    /// What it is called in output: its name, or `stage-N`.
    pub fn display_name(&self) -> String {
        self.name().map_or_else(|| format!("stage-{}", self.index), str::to_owned)
    }
}

impl Dockerfile {
    /// The escape character.
    pub fn escape(&self) -> Escape {
        self.directives.escape
    }

    /// The last stage of that name (in any case) before stage `before`: what a `FROM` means by it.
    pub fn stage_named(&self, name: &str, before: usize) -> Option<&Stage> {
        let same = self.names.get(&name.to_lowercase())?;
        let earlier = &same[..same.partition_point(|index| *index < before)];
        earlier.last().and_then(|index| self.stages.get(*index))
    }

    /// What `COPY --from` and `RUN --mount=from=` of a stage mean by a word, if it is an earlier stage: its
    /// name or its number.
    pub fn stage_referred(&self, word: &str, before: usize) -> Option<&Stage> {
        self.stage_named(word, before).or_else(|| {
            word.parse().ok().filter(|index| *index < before).and_then(|index: usize| self.stages.get(index))
        })
    }

    /// The stage that a build is for: by name, or the last one. A number is no name, as in the field.
    pub fn target(&self, target: Option<&str>) -> Result<&Stage, String> {
        let Some(target) = target.filter(|target| !target.is_empty()) else {
            return self.stages.last().ok_or_else(|| "dockerfile contains no stages to build".into());
        };
        self.stage_named(target, self.stages.len()).ok_or_else(|| {
            let names = self.stages.iter().filter_map(Stage::name);
            let near = crate::suggest::parenthesis(crate::suggest::nearest(target, names));
            format!("target stage {} could not be found{near}", yare_gotext::quote(target))
        })
    }

    /// The source line that a place is on.
    pub fn line_at(&self, span: Span) -> &str {
        line_at(&self.source, span.start)
    }
}

/// Reads a Dockerfile.
///
/// # Errors
/// The first fault, with its place and the text that Docker's builder has for it.
pub fn parse(input: &[u8]) -> Result<Dockerfile, ParseError> {
    let read = syntax::read(input)?;
    let mut dockerfile = Dockerfile {
        source: read.source.to_owned(),
        directives: read.directives,
        global_args: Vec::new(),
        stages: Vec::new(),
        names: BTreeMap::new(),
        empty_continuations: read.empty_continuations.iter().map(|empty| empty.span).collect(),
    };
    for statement in read.statements {
        add(&mut dockerfile, read.source, statement)?;
    }
    if dockerfile.stages.is_empty() {
        let span = dockerfile.global_args.last().map(|arg| arg.step.span).unwrap_or_default();
        let error = error_at(read.source, "dockerfile contains no stages to build", span);
        return Err(error.suggest(Some("add a FROM instruction".into())));
    }
    Ok(dockerfile)
}

fn add(dockerfile: &mut Dockerfile, source: &str, statement: Statement) -> Result<(), ParseError> {
    let context = Context { source, statement: &statement, escape: dockerfile.directives.escape };
    let instruction = match instruction(&context)? {
        Parsed::Instruction(instruction) => instruction,
        Parsed::From(from) => {
            let index = dockerfile.stages.len();
            if let Some(name) = &from.name {
                dockerfile.names.entry(name.clone()).or_default().push(index);
            }
            let description =
                from.name.as_deref().and_then(|name| Descriptions::new(&statement.comments).of(name));
            dockerfile.stages.push(Stage {
                index,
                from,
                description,
                keyword: statement.keyword,
                text: statement.line.text.trim_end().to_owned(),
                span: statement.span,
                comments: statement.comments,
                steps: Vec::new(),
            });
            return Ok(());
        }
    };
    let place = statement.keyword_place(source);
    let step = step(statement, instruction);
    match (dockerfile.stages.last_mut(), &step.instruction) {
        (Some(stage), _) => stage.steps.push(step),
        (None, Instruction::Arg(arg)) => dockerfile.global_args.push(GlobalArg { arg: arg.clone(), step }),
        (None, _) => {
            let error = error_at(source, "no build stage in current context", place);
            return Err(error.suggest(Some("begin with FROM; only ARG may stand before it".into())));
        }
    }
    Ok(())
}

fn step(statement: Statement, instruction: Instruction) -> Step {
    Step {
        instruction,
        keyword: statement.keyword,
        text: statement.line.text.trim_end().to_owned(),
        span: statement.span,
        comments: statement.comments,
    }
}

/// Reads the one instruction that an image's `OnBuild` has.
///
/// # Errors
/// The fault, its place being one in `expression`. `FROM`, `MAINTAINER` and `ONBUILD` are refused.
pub fn parse_trigger(expression: &str) -> Result<Step, ParseError> {
    let read = syntax::read(expression.as_bytes())?;
    let mut statements = read.statements.into_iter();
    let start = Span { line: 1, column: 1, end_line: 1, ..Span::default() };
    let (Some(statement), None) = (statements.next(), statements.next()) else {
        return Err(error_at(read.source, "an ONBUILD trigger is one instruction", start));
    };
    let context = Context { source: read.source, statement: &statement, escape: read.directives.escape };
    let keyword = statement.keyword.to_ascii_uppercase();
    if matches!(keyword.as_str(), "FROM" | "MAINTAINER" | "ONBUILD") {
        let message = format!("{keyword} isn't allowed as an ONBUILD trigger");
        return Err(error_at(read.source, message, start));
    }
    match instruction(&context)? {
        Parsed::Instruction(instruction) => Ok(step(statement, instruction)),
        Parsed::From(_) => Err(error_at(read.source, "FROM isn't allowed as an ONBUILD trigger", start)),
    }
}
