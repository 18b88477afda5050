//! What is wrong with a Dockerfile, and where.

use crate::Span;
use std::fmt;
use yare_errdefs::{Class, Classified};

/// The longest quoted source line, in characters; the rest of a longer one is cut.
const QUOTED: usize = 200;

/// A Dockerfile that can't be understood.
///
/// Its text is the one that Docker's builder has for the same fault, where that has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    message: String,
    span: Span,
    source_line: String,
    suggestion: Option<String>,
}

impl ParseError {
    pub(crate) fn new(message: impl Into<String>, span: Span, source_line: &str) -> Self {
        let source_line = source_line.trim_end_matches(['\r', '\n']).chars().take(QUOTED).collect();
        Self { message: message.into(), span, source_line, suggestion: None }
    }

    pub(crate) fn suggest(mut self, suggestion: Option<String>) -> Self {
        self.suggestion = suggestion;
        self
    }

    /// What is wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Line, from 1.
    pub fn line(&self) -> u32 {
        self.span.line
    }

    /// Column in characters, from 1.
    pub fn column(&self) -> u32 {
        self.span.column
    }

    /// The line it is on, as written; a very long one is cut.
    pub fn source_line(&self) -> &str {
        &self.source_line
    }

    /// What may help, as a sentence.
    pub fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// The fault with its place, the line, and a caret below the column:
    ///
    /// ```text
    /// Dockerfile:2:9: Syntax error - can't find = in "c". Must be of the form: name=value
    ///   2 | ENV a=b c
    ///     |         ^
    /// hint: put a value with spaces in double quotes
    /// ```
    pub fn render(&self, file: &str) -> String {
        render(file, self.span, &self.message, &self.source_line, self.suggestion.as_deref())
    }
}

/// A message with its place and the line it is about.
pub(crate) fn render(file: &str, span: Span, message: &str, source: &str, hint: Option<&str>) -> String {
    let number = span.line.to_string();
    let gutter = " ".repeat(number.len());
    let before = span.column.saturating_sub(1) as usize;
    let wide = source.chars().count();
    // Tabs stay tabs, so that the caret stands below the column however wide the terminal shows them.
    let pad: String = source.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let marked = if span.end_line > span.line { wide } else { before + (span.end - span.start) };
    let carets = "^".repeat(marked.min(wide).saturating_sub(before).max(1));
    let shown: String =
        source.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let mut text = format!("{file}:{}:{}: {message}\n", span.line, span.column);
    text.push_str(&format!("  {number} | {shown}\n  {gutter} | {pad}{carets}"));
    if let Some(hint) = hint {
        text.push_str(&format!("\nhint: {hint}"));
    }
    text
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParseError {}

impl Classified for ParseError {
    fn class(&self) -> Class {
        Class::InvalidArgument
    }

    fn hint(&self) -> Option<String> {
        self.suggestion.clone()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn errors_show_the_line_and_the_place() {
        let shown = |file: &str| crate::parse(file.as_bytes()).expect_err(file).render("Dockerfile");
        assert_eq!(
            shown("FROM a\nENV a=b c\n"),
            "Dockerfile:2:9: Syntax error - can't find = in \"c\". Must be of the form: name=value\n  \
             2 | ENV a=b c\n    |         ^\nhint: put a value with spaces in double quotes"
        );
        assert_eq!(
            shown("FROM a\n\tCOPY\t--fron=x \\\n a b\n"),
            "Dockerfile:2:7: dockerfile parse error on line 2: unknown flag: --fron (did you mean from?)\n  \
             2 | \tCOPY\t--fron=x \\\n    | \t    \t^^^^^^^^"
        );
        assert_eq!(
            shown("FROM a\nRUN x \\\n  && y \\\n --\nCOPY <<'Ö' /x\n\x1b[31m"),
            "Dockerfile:5:6: unterminated heredoc\n  5 | COPY <<'Ö' /x\n    |      ^^\nhint: end it with a line that has Ö and nothing else"
        );
        let long = format!("FROM a\nBOGUSBOGUS {}\n", "x".repeat(100_000));
        assert!(shown(&long).len() < 1000);
    }
}
