//! Heredocs: `[fd]<<[-]NAME`, and the lines up to one that is `NAME`.

use super::{Statement, json_strings};
use crate::expand::Rules;

/// A piece of text written in the Dockerfile itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it.
    pub name: String,
    /// Its lines, as written.
    pub content: String,
    /// Whether variables in it are expanded: no part of the name is quoted.
    pub expand: bool,
    /// `<<-`: leading tabs of every line go.
    pub chomp: bool,
    /// The descriptor before `<<`; 0 if there is none.
    pub fd: u32,
}

impl Heredoc {
    /// The content as it is meant: without leading tabs for `<<-`.
    pub fn text(&self) -> String {
        if self.chomp { chomped(&self.content) } else { self.content.clone() }
    }
}

/// Every line without its leading tabs.
fn chomped(content: &str) -> String {
    content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

/// What stands before the name: descriptor, whether it is `<<-`, and the rest of the word.
fn opening(word: &str) -> Option<(u32, bool, &str)> {
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let name = word[digits..].strip_prefix("<<")?;
    let (chomp, name) = name.strip_prefix('-').map_or((false, name), |name| (true, name));
    Some((word[..digits].parse().unwrap_or(0), chomp, name))
}

/// A heredoc's start, if `word` is one. An error if its name has a quote that doesn't end.
pub(crate) fn parse_heredoc(word: &str) -> Result<Option<Heredoc>, String> {
    match opening(word) {
        Some((fd, chomp, name)) => named(fd, chomp, name.trim_start()),
        None => Ok(None),
    }
}

fn named(fd: u32, chomp: bool, name: &str) -> Result<Option<Heredoc>, String> {
    if name.is_empty() || name.contains('<') {
        return Ok(None);
    }
    let rules = Rules { skip_variables: true, ..Rules::default() };
    let words = |rules: Rules| rules.apply(name, &|_| None).map(|expanded| expanded.words);
    let plain = words(rules).map_err(|error| error.to_string())?;
    let [plain] = plain.as_slice() else { return Ok(None) };
    // If keeping the quotes makes a difference, there are some.
    let quoted = words(Rules { raw_quotes: true, ..rules }).map_err(|error| error.to_string())?;
    let expand = quoted.first() == Some(plain);
    Ok(Some(Heredoc { name: plain.clone(), content: String::new(), expand, chomp, fd }))
}

/// Whether a line is one heredoc's opening and nothing else.
pub(crate) fn is_heredoc_alone(line: &str) -> bool {
    matches!(parse_heredoc(line.trim()), Ok(Some(_)))
}

/// Whether a statement can have heredocs at all.
pub(super) fn possible(statement: &Statement) -> bool {
    let takes =
        |keyword: &str| ["add", "copy", "run"].iter().any(|known| keyword.eq_ignore_ascii_case(known));
    if !statement.line.text.contains("<<") {
        return false;
    }
    if statement.keyword.eq_ignore_ascii_case("onbuild") {
        let inner = statement.inner();
        return takes(&inner.keyword) && !matches!(json_strings(&inner.rest.text), Ok(Some(_)));
    }
    takes(&statement.keyword) && !matches!(json_strings(&statement.rest.text), Ok(Some(_)))
}

/// The heredocs that a line begins.
fn of_words<'a>(words: impl Iterator<Item = &'a str>) -> Vec<Heredoc> {
    let mut heredocs = Vec::new();
    let mut before: Option<(u32, bool)> = None;
    for word in words {
        let heredoc = match before.take() {
            // `<< NAME`; but `$((1 << 2))` is arithmetic.
            Some((fd, chomp)) if !word.contains(')') => named(fd, chomp, word),
            _ => {
                before = opening(word).filter(|(.., name)| name.is_empty()).map(|(fd, chomp, _)| (fd, chomp));
                parse_heredoc(word)
            }
        };
        heredocs.extend(heredoc.ok().flatten());
    }
    heredocs
}

/// The heredocs that a line begins.
pub(super) fn of_line(line: &str) -> Vec<Heredoc> {
    let rules = Rules { raw_quotes: true, raw_escapes: true, skip_variables: true, ..Rules::default() };
    // A line with quotes that don't end is the shell's to complain about.
    let words = rules.apply(line, &|_| None).map(|expanded| expanded.words).unwrap_or_default();
    of_words(words.iter().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_is_no_heredoc() {
        assert_eq!(of_line("RUN echo $((1<<2))"), []);
        assert_eq!(of_line("RUN echo $((1 << 2))"), []);
        assert_eq!(of_line("RUN cat <<<x"), []);
        // Forms of variables that only the shell knows are no reason not to see one.
        assert_eq!(of_line("RUN cat <<B > ${x^^} \"${#x}\"").len(), 1);
        assert_eq!(of_line("RUN echo 'a <<B'"), []);
    }
}
