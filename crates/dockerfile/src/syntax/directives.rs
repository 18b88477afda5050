//! Parser directives: `# key=value` at the very top.

use super::lines::Lines;
use super::{Span, column, error_at};
use crate::error::ParseError;
use crate::expand::Escape;

/// What the directives of a file say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directives {
    /// The front end the file was written for: `docker/dockerfile:1`.
    pub syntax: Option<String>,
    /// The escape character.
    pub escape: Escape,
    /// Options of the lint rules.
    pub check: CheckOptions,
}

/// A choice of lint rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Selection {
    /// None of them.
    #[default]
    None,
    /// `all`.
    All,
    /// Those with these names.
    Named(Vec<String>),
}

impl Selection {
    fn parse(text: &str) -> Self {
        if text.trim().eq_ignore_ascii_case("all") {
            return Self::All;
        }
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self::Named(names.map(str::to_owned).collect())
    }

    /// Whether the rule is among them.
    pub fn has(&self, rule: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name.eq_ignore_ascii_case(rule)),
        }
    }
}

/// `check=skip=A,B;error=true;experimental=all`, of a directive or of `BUILDKIT_DOCKERFILE_CHECK`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Rules that are not looked at.
    pub skip: Selection,
    /// Experimental rules that are.
    pub experimental: Selection,
    /// Whether a warning ends the build.
    pub error: bool,
}

impl CheckOptions {
    /// Parses what is behind `check=`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for option in text.split(';').map(str::trim).filter(|option| !option.is_empty()) {
            let (key, value) =
                option.split_once('=').ok_or_else(|| format!("invalid check option {option:?}"))?;
            match key.trim() {
                "skip" => options.skip = Selection::parse(value),
                "experimental" => options.experimental = Selection::parse(value),
                "error" => {
                    options.error = crate::flags::go_bool(value.trim()).ok_or_else(|| {
                        format!("failed to parse check option {key:?}: {value:?} is neither true nor false")
                    })?;
                }
                _ => return Err(format!("invalid check option {key:?}")),
            }
        }
        Ok(options)
    }
}

/// Reads the directives at the start of a source, and says which line has the last of them. A first line that
/// begins with `#!` is passed over.
pub(super) fn read(source: &str) -> Result<(Directives, u32), ParseError> {
    let mut directives = Directives::default();
    let mut seen: Vec<String> = Vec::new();
    let mut last = 0;
    for line in Lines::new(source) {
        if line.number == 1 && line.text.starts_with("#!") {
            last = 1;
            continue;
        }
        let Some((key, value)) = line.trimmed().strip_prefix('#').and_then(directive) else { break };
        let key = key.to_ascii_lowercase();
        if !["syntax", "escape", "check"].contains(&key.as_str()) {
            break;
        }
        let span = Span {
            start: line.offset,
            end: line.offset + line.text.len(),
            line: line.number,
            column: column(source, line.offset),
            end_line: line.number,
        };
        if seen.contains(&key) {
            return Err(error_at(source, format!("only one {key} parser directive can be used"), span));
        }
        match key.as_str() {
            "syntax" => directives.syntax = Some(value.to_owned()),
            "check" => {
                directives.check =
                    CheckOptions::parse(value).map_err(|message| error_at(source, message, span))?;
            }
            _ => directives.escape = escape(value).map_err(|message| error_at(source, message, span))?,
        }
        seen.push(key);
        last = line.number;
    }
    Ok((directives, last))
}

/// Key and value of `key = value`, behind the sign of a comment.
fn directive(comment: &str) -> Option<(&str, &str)> {
    let (key, value) = comment.split_once('=')?;
    let (key, value) = (key.trim(), value.trim());
    let named =
        key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.bytes().all(|b| b.is_ascii_alphanumeric());
    (named && !value.is_empty()).then_some((key, value))
}

fn escape(value: &str) -> Result<Escape, String> {
    match value {
        "\\" => Ok(Escape::Backslash),
        "`" => Ok(Escape::Backquote),
        _ => Err(format!("invalid escape token '{value}' does not match ` or \\")),
    }
}

/// The front end that a file of any language asks for: a `syntax` directive after `#` or `//`, or the member
/// `syntax` of a JSON object. A first line that begins with `#!` is passed over.
pub fn detect_syntax(input: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Json {
        syntax: String,
    }
    let source = std::str::from_utf8(input.get(..input.len().min(super::LARGEST))?).ok()?;
    let of = |comment: &str| {
        let lines = Lines::new(source).skip_while(|line| line.number == 1 && line.text.starts_with("#!"));
        let directives = lines.map_while(|line| {
            let line = line.trimmed().strip_prefix(comment)?;
            let (key, value) = directive(line)?;
            Some((key.to_ascii_lowercase(), value.to_owned()))
        });
        let mut known =
            directives.take_while(|(key, _)| ["syntax", "escape", "check"].contains(&key.as_str()));
        known.find_map(|(key, value)| (key == "syntax").then_some(value))
    };
    let json = || {
        let object = source.trim_start_matches('\u{feff}').trim_start();
        let json: Option<Json> = object.starts_with('{').then(|| serde_json::from_str(object).ok()).flatten();
        json.map(|json| json.syntax).filter(|syntax| !syntax.is_empty())
    };
    of("#").or_else(|| of("//")).or_else(json)
}
