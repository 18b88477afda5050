//! Flags of instructions: `--name[=value]`.

use crate::suggest::{nearest, parenthesis};
use crate::syntax::Word;

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, or `true` or `false`.
    Bool,
    /// A value, once.
    Text,
    /// A value, as often as one likes.
    Texts,
}

/// A wrong flag.
#[derive(Debug)]
pub(crate) struct FlagError {
    pub(crate) message: String,
    /// Offset in the joined line and length.
    pub(crate) at: usize,
    pub(crate) length: usize,
}

/// The flags of one instruction, checked against what it knows.
#[derive(Debug)]
pub(crate) struct Flags {
    known: &'static [(&'static str, Kind)],
    given: Vec<(&'static str, Option<String>, usize)>,
}

impl Flags {
    pub(crate) fn parse(given: &[Word], known: &'static [(&'static str, Kind)]) -> Result<Self, FlagError> {
        let mut flags = Self { known, given: Vec::new() };
        for word in given {
            flags.add(word).map_err(|message| FlagError { message, at: word.at, length: word.text.len() })?;
        }
        Ok(flags)
    }

    fn add(&mut self, word: &Word) -> Result<(), String> {
        let flag = word.text.strip_prefix("--").unwrap_or(&word.text);
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let Some((known, kind)) = self.known.iter().find(|(known, _)| *known == name) else {
            let near = nearest(name, self.known.iter().map(|(known, _)| *known));
            return Err(format!("unknown flag: --{name}{}", parenthesis(near)));
        };
        if *kind != Kind::Texts && self.given.iter().any(|(given, ..)| given == known) {
            return Err(format!("duplicate flag specified: {name}"));
        }
        match (kind, value) {
            (Kind::Bool, Some("")) | (Kind::Text | Kind::Texts, None) => {
                return Err(format!("missing a value on flag: {name}"));
            }
            (Kind::Bool, Some(value))
                if !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false") =>
            {
                return Err(format!("expecting boolean value for flag {name}, not: {value}"));
            }
            _ => {}
        }
        self.given.push((known, value.map(str::to_owned), word.at));
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&(&'static str, Option<String>, usize)> {
        self.given.iter().find(|(given, ..)| *given == name)
    }

    /// Whether a flag without a value, or with `true`, was given.
    pub(crate) fn bool(&self, name: &str) -> bool {
        self.optional_bool(name).unwrap_or(false)
    }

    /// The value of such a flag if it was given.
    pub(crate) fn optional_bool(&self, name: &str) -> Option<bool> {
        let (_, value, _) = self.find(name)?;
        Some(value.as_deref().is_none_or(|value| value.eq_ignore_ascii_case("true")))
    }

    /// The value of a flag; an empty one counts as none.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.find(name).and_then(|(_, value, _)| value.clone()).filter(|value| !value.is_empty())
    }

    /// All values of a flag, with their places.
    pub(crate) fn texts(&self, name: &str) -> impl Iterator<Item = (&str, usize)> {
        let same = self.given.iter().filter(move |(given, ..)| *given == name);
        same.filter_map(|(_, value, at)| Some((value.as_deref()?, *at)))
    }

    /// Where a flag stands in the joined line.
    pub(crate) fn at(&self, name: &str) -> usize {
        self.find(name).map_or(0, |(.., at)| *at)
    }
}

/// The words that Go's `strconv.ParseBool` takes.
pub(crate) fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[(&str, Kind)] = &[("link", Kind::Bool), ("from", Kind::Text), ("exclude", Kind::Texts)];

    fn parse(words: &[&str]) -> Result<Flags, String> {
        let words: Vec<Word> = words.iter().map(|text| Word { text: (*text).to_owned(), at: 0 }).collect();
        Flags::parse(&words, KNOWN).map_err(|error| error.message)
    }

    #[test]
    fn flags_are_taken_or_refused() {
        let flags = parse(&["--link", "--exclude=a", "--exclude=b", "--from= "]).expect("flags");
        assert!(flags.bool("link"));
        assert_eq!(flags.texts("exclude").map(|(text, _)| text).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(flags.text("from").as_deref(), Some(" "));
        for (bad, why) in [
            (&["--foo"][..], "unknown flag: --foo (did you mean from?)"),
            (&["--from"], "missing a value on flag: from"),
            (&["--link="], "missing a value on flag: link"),
            (&["--link=2"], "expecting boolean value for flag link, not: 2"),
            (&["--from=a", "--from=b"], "duplicate flag specified: from"),
        ] {
            assert_eq!(parse(bad).expect_err("refused"), why);
        }
    }
}
