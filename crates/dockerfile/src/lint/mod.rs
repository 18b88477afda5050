//! Rules about Dockerfiles that build, and could be better.
//!
//! [`lint`] looks at the file alone. What needs the values of a build (the base image's environment, the
//! ignore file, a platform) is in [`evaluated`], for whoever has them.

pub mod evaluated;
mod names;
mod rules;

pub(crate) use names::defaults as default_args;

use crate::error::render;
use crate::{CheckOptions, Dockerfile, Span};
use serde::Serialize;
use std::fmt;

/// A rule. Names and texts are those of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "`description` says what each is about")]
pub enum Rule {
    StageNameCasing,
    FromAsCasing,
    NoEmptyContinuation,
    ConsistentInstructionCasing,
    DuplicateStageName,
    ReservedStageName,
    JSONArgsRecommended,
    MaintainerDeprecated,
    UndefinedArgInFrom,
    WorkdirRelativePath,
    UndefinedVar,
    MultipleInstructionsDisallowed,
    LegacyKeyValueFormat,
    InvalidBaseImagePlatform,
    RedundantTargetPlatform,
    SecretsUsedInArgOrEnv,
    InvalidDefaultArgInFrom,
    FromPlatformFlagConstDisallowed,
    CopyIgnoredFile,
    InvalidDefinitionDescription,
    ExposeProtoCasing,
    ExposeInvalidFormat,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::StageNameCasing,
        Self::FromAsCasing,
        Self::NoEmptyContinuation,
        Self::ConsistentInstructionCasing,
        Self::DuplicateStageName,
        Self::ReservedStageName,
        Self::JSONArgsRecommended,
        Self::MaintainerDeprecated,
        Self::UndefinedArgInFrom,
        Self::WorkdirRelativePath,
        Self::UndefinedVar,
        Self::MultipleInstructionsDisallowed,
        Self::LegacyKeyValueFormat,
        Self::InvalidBaseImagePlatform,
        Self::RedundantTargetPlatform,
        Self::SecretsUsedInArgOrEnv,
        Self::InvalidDefaultArgInFrom,
        Self::FromPlatformFlagConstDisallowed,
        Self::CopyIgnoredFile,
        Self::InvalidDefinitionDescription,
        Self::ExposeProtoCasing,
        Self::ExposeInvalidFormat,
    ];

    /// Its name, as `# check=skip=` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StageNameCasing => "StageNameCasing",
            Self::FromAsCasing => "FromAsCasing",
            Self::NoEmptyContinuation => "NoEmptyContinuation",
            Self::ConsistentInstructionCasing => "ConsistentInstructionCasing",
            Self::DuplicateStageName => "DuplicateStageName",
            Self::ReservedStageName => "ReservedStageName",
            Self::JSONArgsRecommended => "JSONArgsRecommended",
            Self::MaintainerDeprecated => "MaintainerDeprecated",
            Self::UndefinedArgInFrom => "UndefinedArgInFrom",
            Self::WorkdirRelativePath => "WorkdirRelativePath",
            Self::UndefinedVar => "UndefinedVar",
            Self::MultipleInstructionsDisallowed => "MultipleInstructionsDisallowed",
            Self::LegacyKeyValueFormat => "LegacyKeyValueFormat",
            Self::InvalidBaseImagePlatform => "InvalidBaseImagePlatform",
            Self::RedundantTargetPlatform => "RedundantTargetPlatform",
            Self::SecretsUsedInArgOrEnv => "SecretsUsedInArgOrEnv",
            Self::InvalidDefaultArgInFrom => "InvalidDefaultArgInFrom",
            Self::FromPlatformFlagConstDisallowed => "FromPlatformFlagConstDisallowed",
            Self::CopyIgnoredFile => "CopyIgnoredFile",
            Self::InvalidDefinitionDescription => "InvalidDefinitionDescription",
            Self::ExposeProtoCasing => "ExposeProtoCasing",
            Self::ExposeInvalidFormat => "ExposeInvalidFormat",
        }
    }

    /// What it asks for.
    pub fn description(self) -> &'static str {
        match self {
            Self::StageNameCasing => "names of stages are in lower case",
            Self::FromAsCasing => "FROM and AS are in the same case",
            Self::NoEmptyContinuation => "no line within a continued instruction is empty",
            Self::ConsistentInstructionCasing => "all instructions are in the same case",
            Self::DuplicateStageName => "every stage has a name of its own",
            Self::ReservedStageName => "no stage has the name of something else",
            Self::JSONArgsRecommended => "CMD and ENTRYPOINT are in JSON, so that the program gets signals",
            Self::MaintainerDeprecated => "a label instead of MAINTAINER",
            Self::UndefinedArgInFrom => "arguments in FROM are declared before the first one",
            Self::WorkdirRelativePath => "WORKDIR is absolute, unless an absolute one is above",
            Self::UndefinedVar => "variables are defined where they are used",
            Self::MultipleInstructionsDisallowed => "an instruction that counts once is there once",
            Self::LegacyKeyValueFormat => "key=value instead of key value",
            Self::InvalidBaseImagePlatform => "the base image is for the platform of the build",
            Self::RedundantTargetPlatform => "no --platform that is the default",
            Self::SecretsUsedInArgOrEnv => "secrets are not in ARG or ENV, which the image shows to everyone",
            Self::InvalidDefaultArgInFrom => "FROM has a valid image without any build argument",
            Self::FromPlatformFlagConstDisallowed => "--platform of FROM is a variable",
            Self::CopyIgnoredFile => "what is copied is not hidden by .dockerignore",
            Self::InvalidDefinitionDescription => "a comment above a definition begins with its name",
            Self::ExposeProtoCasing => "protocols of EXPOSE are in lower case",
            Self::ExposeInvalidFormat => "EXPOSE has ports of the container alone",
        }
    }

    /// Where the field describes it.
    pub fn url(self) -> String {
        format!("https://docs.docker.com/go/dockerfile/rule/{}/", kebab(self.name()))
    }

    /// Whether it is looked at only when asked for.
    pub fn experimental(self) -> bool {
        self == Self::InvalidDefinitionDescription
    }

    /// Whether it is looked at with these options.
    pub fn enabled(self, options: &CheckOptions) -> bool {
        let name = self.name();
        if self.experimental() { options.experimental.has(name) } else { !options.skip.has(name) }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A rule that a file breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Which.
    pub rule: Rule,
    /// How, in the field's words.
    pub message: String,
    /// Where.
    pub span: Span,
}

impl Warning {
    pub(crate) fn new(rule: Rule, span: Span, message: impl Into<String>) -> Self {
        Self { rule, message: message.into(), span }
    }

    /// The warning with its place and the line, as errors are shown.
    pub fn render(&self, dockerfile: &Dockerfile, file: &str) -> String {
        let line = dockerfile.line_at(self.span);
        let line: String = line.trim_end().chars().take(200).collect();
        render(
            file,
            self.span,
            &format!("{}: {}", self.rule, self.message),
            &line,
            Some(self.rule.description()),
        )
    }
}

/// Looks at a file with the rules that `options` leave, ordered by place.
pub fn lint(dockerfile: &Dockerfile, options: &CheckOptions) -> Vec<Warning> {
    let mut warnings = Vec::new();
    names::check(dockerfile, &mut warnings);
    rules::check(dockerfile, &mut warnings);
    warnings.retain(|warning| warning.rule.enabled(options));
    warnings.sort_by_key(|warning| (warning.span.line, warning.rule));
    warnings
}

/// What ends the build if warnings are errors: `None` if there are none.
pub fn violation(warnings: &[Warning]) -> Option<String> {
    let mut rules: Vec<&str> = warnings.iter().map(|warning| warning.rule.name()).collect();
    rules.sort_unstable();
    rules.dedup();
    (!rules.is_empty()).then(|| format!("lint violation found for rules: {}", rules.join(", ")))
}

/// `JSONArgsRecommended` as `json-args-recommended`.
fn kebab(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    let mut text = String::new();
    for (place, letter) in letters.iter().enumerate() {
        let before = place.checked_sub(1).and_then(|place| letters.get(place));
        let after = letters.get(place + 1);
        let begins = letter.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase() || after.is_some_and(char::is_ascii_lowercase)
            });
        if begins {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_the_fields_addresses() {
        assert_eq!(kebab("JSONArgsRecommended"), "json-args-recommended");
        assert_eq!(kebab("FromAsCasing"), "from-as-casing");
        assert_eq!(kebab("SecretsUsedInArgOrEnv"), "secrets-used-in-arg-or-env");
    }
}
