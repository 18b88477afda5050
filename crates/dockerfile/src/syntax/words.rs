//! Words of a joined line.

/// A piece of a line and where it begins in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    /// Offset in the joined line.
    pub(crate) at: usize,
}

/// What separates words.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\x0b' | '\x0c')
}

/// A word without blanks at its start.
pub(crate) fn trim_start(word: &Word) -> Word {
    let text = word.text.trim_start();
    Word { text: text.to_owned(), at: word.at + (word.text.len() - text.len()) }
}

/// The flags behind a keyword that ends at `at`, and where the rest begins.
///
/// Quotes in flags are taken off and `\` takes the meaning of the next character away, whatever the escape
/// directive says. `--` ends them.
pub(super) fn flags(line: &str, mut at: usize) -> (Vec<Word>, usize) {
    let mut flags = Vec::new();
    loop {
        at += line[at..].len() - line[at..].trim_start().len();
        if !line[at..].starts_with("--") {
            return (flags, at);
        }
        let (text, length) = flag(&line[at..]);
        let start = at;
        at += length;
        if text == "--" {
            at += line[at..].len() - line[at..].trim_start().len();
            return (flags, at);
        }
        flags.push(Word { text, at: start });
    }
}

/// The flag at the start of `text`, and how much of the text it takes.
fn flag(text: &str) -> (String, usize) {
    let mut flag = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((index, c)) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => return (flag, index),
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (_, '\\') => flag.extend(chars.next().map(|(_, escaped)| escaped)),
            (_, c) => flag.push(c),
        }
    }
    (flag, text.len())
}

/// Words separated by blanks, quotes or not.
pub(crate) fn spaced_words(rest: &Word) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = 0;
    for piece in rest.text.split(is_blank) {
        if !piece.is_empty() {
            words.push(Word { text: piece.to_owned(), at: rest.at + at });
        }
        at += piece.len() + 1;
    }
    words
}

/// Words separated by spaces outside of quotes. Quotes and escapes stay in them.
pub(crate) fn quoted_words(rest: &Word, escape: char) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut chars = rest.text.char_indices().peekable();
    while let Some((index, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take().filter(|word| !word.text.is_empty()));
            continue;
        }
        let current = word.get_or_insert_with(|| Word { text: String::new(), at: rest.at + index });
        if c == escape && quote != Some('\'') {
            // One at the very end has nothing to escape and goes.
            if let Some((_, escaped)) = chars.next() {
                current.text.push(c);
                current.text.push(escaped);
            }
            continue;
        }
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        current.text.push(c);
    }
    words.extend(word.filter(|word| !word.text.is_empty()));
    words
}

/// An array of strings in JSON: `None` if it is not JSON at all, an error if it has other things than strings.
pub(crate) fn json_strings(text: &str) -> Result<Option<Vec<String>>, String> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Ok(text),
        _ => Err("when using JSON array syntax, arrays must be comprised of strings only".to_owned()),
    });
    strings.collect::<Result<_, _>>().map(Some)
}
