//! Why a build failed, and where in the Dockerfile.

use std::fmt;
use yare_errdefs::{Class, Classified, Error};
use yare_oci::Digest;

/// A failed build.
#[derive(Debug)]
pub struct Failure {
    /// Why.
    pub error: Error,
    /// First and last line of the Dockerfile that it is about.
    pub lines: Option<(u32, u32)>,
    /// Code of the process that failed.
    pub code: Option<i32>,
    /// What the client's graph calls the operation that failed. Boxed, for every step may fail.
    pub operation: Option<Box<Digest>>,
    /// The lines around, as the field's builders show them.
    pub excerpt: Box<str>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, lines: None, code: None, operation: None, excerpt: Box::default() }
    }
}

impl Failure {
    /// The same with its place, unless it has one.
    pub(crate) fn at(mut self, lines: (u32, u32)) -> Self {
        self.lines.get_or_insert(lines);
        self
    }

    /// Quotes the lines that it is about, out of the Dockerfile of that name.
    pub fn quoting(mut self, name: &str, source: &str) -> Self {
        if let Some((first, last)) = self.lines.filter(|_| self.excerpt.is_empty()) {
            self.excerpt = excerpt(name, source, first as usize, last as usize).into();
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.error)
    }
}

impl Classified for Failure {
    fn class(&self) -> Class {
        self.error.class()
    }

    fn hint(&self) -> Option<String> {
        self.error.hint()
    }
}

/// Lines shown before and behind.
const AROUND: usize = 3;
const RULE: &str = "--------------------";

/// ```text
/// Dockerfile:2
/// --------------------
///    1 |     FROM busybox
///    2 | >>> RUN false
/// --------------------
/// ```
fn excerpt(name: &str, source: &str, first: usize, last: usize) -> String {
    let mut text = format!("{name}:{first}\n{RULE}\n");
    let shown = first.saturating_sub(AROUND).max(1)..=last.saturating_add(AROUND);
    for (number, line) in source.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if shown.contains(&number) {
            let mark = if (first..=last).contains(&number) { ">>>" } else { "   " };
            text.push_str(&format!("{number:4} | {mark} {line}\n"));
        }
    }
    text.push_str(RULE);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_quoted() {
        let source = "FROM busybox\nRUN false\nRUN true\n";
        let failure = Failure::from(Error::invalid("no")).at((2, 2)).at((9, 9)).quoting("Dockerfile", source);
        assert_eq!(
            &*failure.excerpt,
            "Dockerfile:2\n--------------------\n   1 |     FROM busybox\n   2 | >>> RUN false\n   3 |     RUN true\n--------------------\n"
        );
    }
}
