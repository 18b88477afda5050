//! From bytes to statements: keyword, flags, the rest of the joined line, heredocs.
//!
//! Nothing here knows what an instruction means. A statement is one or more source lines: those that end in
//! the escape character are joined with the next one, comments and empty lines in between are left out, and
//! the lines of heredocs follow. Every byte of the joined line can be led back to its place in the source.

mod directives;
mod heredoc;
mod lines;
mod words;

pub use directives::{CheckOptions, Directives, Selection, detect_syntax};
pub use heredoc::Heredoc;
pub(crate) use heredoc::{is_heredoc_alone, parse_heredoc};
pub(crate) use words::{Word, json_strings, quoted_words, spaced_words, trim_start};

use crate::error::ParseError;
use crate::span::Span;
use lines::Lines;

/// Larger Dockerfiles are refused, in bytes. What is made of one that is all words of one letter takes many times
/// its size.
pub const LARGEST: usize = 4 << 20;

/// Dockerfiles with more instructions are refused.
const MOST_STATEMENTS: usize = 1 << 16;

/// Something odd that is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EmptyContinuation {
    /// The statement it is in.
    pub(crate) span: Span,
}

/// All statements of a file.
#[derive(Debug)]
pub(crate) struct Syntax<'a> {
    pub(crate) source: &'a str,
    pub(crate) directives: Directives,
    pub(crate) statements: Vec<Statement>,
    pub(crate) empty_continuations: Vec<EmptyContinuation>,
}

/// One instruction as written.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// The first word.
    pub(crate) keyword: String,
    /// `--name[=value]` behind it, quotes taken off.
    pub(crate) flags: Vec<Word>,
    /// What is left of the line.
    pub(crate) rest: Word,
    /// The joined line, from the keyword on.
    pub(crate) line: Joined,
    pub(crate) heredocs: Vec<Heredoc>,
    /// Comment lines directly above, without `#`.
    pub(crate) comments: Vec<String>,
    /// All its lines.
    pub(crate) span: Span,
}

/// Source lines joined to one, with the way back.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined {
    pub(crate) text: String,
    /// Offset in `text`, offset in the source, line number: one for each source line.
    pieces: Vec<(usize, usize, u32)>,
}

impl Joined {
    fn push(&mut self, text: &str, offset: usize, line: u32) {
        self.pieces.push((self.text.len(), offset, line));
        self.text.push_str(text);
    }

    /// The piece that has the byte at `at` in the joined text: its source offset and line.
    fn locate(&self, at: usize) -> (usize, u32) {
        let index = self.pieces.partition_point(|piece| piece.0 <= at).saturating_sub(1);
        self.pieces.get(index).map_or((0, 1), |(start, offset, line)| (offset + (at - start), *line))
    }

    /// The place of a piece of the joined text.
    pub(crate) fn span(&self, source: &str, at: usize, length: usize) -> Span {
        let (start, line) = self.locate(at);
        let (end, end_line) = match length {
            0 => (start, line),
            length => {
                let (last, line) = self.locate(at + length - 1);
                (last + 1, line)
            }
        };
        Span { start, end, line, column: column(source, start), end_line }
    }
}

/// The column of a byte, in characters from 1.
fn column(source: &str, offset: usize) -> u32 {
    let bytes = &source.as_bytes()[..offset.min(source.len())];
    let begin = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    // Bytes that continue a character don't count, so that an offset inside of one is no fault.
    let characters = bytes[begin..].iter().filter(|byte| (**byte & 0xc0) != 0x80).count();
    u32::try_from(characters + 1).unwrap_or(u32::MAX)
}

impl Statement {
    /// The place of a piece of the joined text.
    pub(crate) fn place(&self, source: &str, at: usize, length: usize) -> Span {
        self.line.span(source, at, length)
    }

    /// The place of the keyword.
    pub(crate) fn keyword_place(&self, source: &str) -> Span {
        self.place(source, 0, self.keyword.len())
    }
}

/// The source line that a place is on.
pub(crate) fn line_at(source: &str, offset: usize) -> &str {
    let bytes = source.as_bytes();
    let offset = offset.min(bytes.len());
    let begin = bytes[..offset].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let end = bytes[offset..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| offset + at);
    source.get(begin..end).unwrap_or_default()
}

/// An error at a place of the source.
pub(crate) fn error_at(source: &str, message: impl Into<String>, span: Span) -> ParseError {
    ParseError::new(message, span, line_at(source, span.start))
}

/// Reads all statements.
pub(crate) fn read(input: &[u8]) -> Result<Syntax<'_>, ParseError> {
    let source = text(input)?;
    let (directives, directive_lines) = directives::read(source)?;
    let mut reader = Reader {
        source,
        escape: directives.escape.char(),
        lines: Lines::new(source),
        directive_lines,
        statements: Vec::new(),
        empty_continuations: Vec::new(),
    };
    reader.read()?;
    let Reader { statements, empty_continuations, .. } = reader;
    if statements.is_empty() {
        return Err(error_at(
            source,
            "file with no instructions",
            Span { line: 1, column: 1, end_line: 1, ..Span::default() },
        )
        .suggest(Some("a Dockerfile begins with FROM".into())));
    }
    Ok(Syntax { source, directives, statements, empty_continuations })
}

/// The input as text. Byte order marks stay: the lines leave one at the start out.
fn text(input: &[u8]) -> Result<&str, ParseError> {
    let start = Span { line: 1, column: 1, end_line: 1, ..Span::default() };
    if input.is_empty() {
        let error = ParseError::new("the Dockerfile cannot be empty", start, "");
        return Err(error.suggest(Some("a Dockerfile begins with FROM".into())));
    }
    if input.len() > LARGEST {
        let message = format!(
            "the Dockerfile is too large: {} bytes, and {} MiB is the most",
            input.len(),
            LARGEST >> 20
        );
        return Err(ParseError::new(message, start, ""));
    }
    std::str::from_utf8(input).map_err(|error| {
        let valid = std::str::from_utf8(&input[..error.valid_up_to()]).unwrap_or_default();
        let line = 1 + valid.bytes().filter(|byte| *byte == b'\n').count();
        let line = u32::try_from(line).unwrap_or(u32::MAX);
        let span = Span {
            start: valid.len(),
            end: valid.len() + 1,
            line,
            column: column(valid, valid.len()),
            end_line: line,
        };
        ParseError::new("the Dockerfile is not valid UTF-8", span, line_at(valid, valid.len()))
    })
}

struct Reader<'a> {
    source: &'a str,
    escape: char,
    lines: Lines<'a>,
    /// Lines at the top that are directives and so no comments.
    directive_lines: u32,
    statements: Vec<Statement>,
    empty_continuations: Vec<EmptyContinuation>,
}

impl<'a> Reader<'a> {
    fn read(&mut self) -> Result<(), ParseError> {
        let mut comments = Vec::new();
        while let Some(first) = self.lines.next() {
            let trimmed = first.trimmed();
            if let Some(comment) = trimmed.strip_prefix('#') {
                match comment.trim() {
                    _ if first.number <= self.directive_lines => {}
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            if trimmed.trim().is_empty() {
                comments.clear();
                continue;
            }
            let (line, empty) = self.join(first);
            if line.text.trim().is_empty() {
                continue;
            }
            let statement = self.statement(line, std::mem::take(&mut comments))?;
            if empty {
                self.empty_continuations.push(EmptyContinuation { span: statement.span });
            }
            if self.statements.len() == MOST_STATEMENTS {
                let message = format!("the Dockerfile has more than {MOST_STATEMENTS} instructions");
                return Err(error_at(self.source, message, statement.keyword_place(self.source)));
            }
            self.statements.push(statement);
        }
        Ok(())
    }

    /// The whole logical line that begins with `first`, and whether there are empty lines in it.
    fn join(&mut self, first: lines::Line<'a>) -> (Joined, bool) {
        let mut joined = Joined::default();
        let mut empty = false;
        let skipped = first.text.len() - first.trimmed().len();
        let (text, mut more) = continued(first.trimmed(), self.escape);
        joined.push(text, first.offset + skipped, first.number);
        while more {
            let Some(line) = self.lines.next() else { break };
            let trimmed = line.trimmed();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                empty = true;
                continue;
            }
            let (text, goes_on) = continued(line.text, self.escape);
            joined.push(text, line.offset, line.number);
            more = goes_on;
        }
        (joined, empty)
    }

    fn statement(&mut self, line: Joined, comments: Vec<String>) -> Result<Statement, ParseError> {
        let mut statement = split(line);
        statement.comments = comments;
        if heredoc::possible(&statement) {
            for mut heredoc in heredoc::of_line(&statement.line.text) {
                self.content(&mut heredoc, &statement)?;
                statement.heredocs.push(heredoc);
            }
        }
        let (start, line) = statement.line.locate(0);
        statement.span = Span {
            start,
            end: self.lines.end_of_last(),
            line,
            column: column(self.source, start),
            end_line: self.lines.number(),
        };
        Ok(statement)
    }

    /// Reads the lines of a heredoc up to its end.
    fn content(&mut self, heredoc: &mut Heredoc, statement: &Statement) -> Result<(), ParseError> {
        for line in self.lines.by_ref() {
            let end = if heredoc.chomp { line.text.trim_start_matches('\t') } else { line.text };
            if end == heredoc.name {
                return Ok(());
            }
            heredoc.content.push_str(line.raw);
        }
        let at = statement.line.text.find("<<").unwrap_or(0);
        let span = statement.place(self.source, at, 2);
        let hint = format!("end it with a line that has {} and nothing else", heredoc.name);
        Err(error_at(self.source, "unterminated heredoc", span).suggest(Some(hint)))
    }
}

/// A line without its continuation, and whether it has one: the escape character as the last that is not
/// blank, unless another one stands directly before it.
fn continued(line: &str, escape: char) -> (&str, bool) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

/// Splits a joined line into keyword, flags and the rest.
pub(crate) fn split(line: Joined) -> Statement {
    let text = line.text.trim_end();
    let length = text.find(words::is_blank).unwrap_or(text.len());
    let keyword = text[..length].to_owned();
    let (flags, at) = words::flags(text, length);
    let rest = Word { text: text[at..].trim_end().to_owned(), at };
    Statement {
        keyword,
        flags,
        rest,
        line,
        heredocs: Vec::new(),
        comments: Vec::new(),
        span: Span::default(),
    }
}

impl Statement {
    /// The statement that is the argument of this one: what `ONBUILD` has. It keeps its places.
    pub(crate) fn inner(&self) -> Self {
        let mut line = Joined { text: self.rest.text.clone(), pieces: Vec::new() };
        for (start, offset, number) in &self.line.pieces {
            let (start, offset) = match start.checked_sub(self.rest.at) {
                Some(start) => (start, *offset),
                None => (0, offset + (self.rest.at - start)),
            };
            // A later piece at the same place is the one that counts.
            line.pieces.pop_if(|piece| piece.0 == start);
            line.pieces.push((start, offset, *number));
        }
        let mut inner = split(line);
        inner.heredocs.clone_from(&self.heredocs);
        inner.span = self.span;
        inner
    }
}

#[cfg(test)]
mod tests;
