//! Flags and words: pure.

use yare_errdefs::{Error, Result};

/// A flag that a command takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    name: &'static str,
    short: Option<char>,
    takes_value: bool,
}

impl Flag {
    /// A flag followed by a value.
    pub(super) const fn value(name: &'static str, short: Option<char>) -> Self {
        Self { name, short, takes_value: true }
    }

    /// A flag that is there or not.
    pub(super) const fn switch(name: &'static str, short: Option<char>) -> Self {
        Self { name, short, takes_value: false }
    }
}

/// Flags and the words between and after them.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    flags: Vec<(&'static str, String)>,
    words: Vec<String>,
}

impl Arguments {
    /// Parses flags up to `words` words; everything after the last of them is words too.
    pub(super) fn parse(args: &[String], flags: &[Flag], words: usize) -> Result<Self> {
        let mut parsed = Self::default();
        let mut rest = args;
        while let Some((first, tail)) = rest.split_first() {
            if first == "--" {
                parsed.words.extend_from_slice(tail);
                return Ok(parsed);
            }
            if parsed.words.len() >= words || !first.starts_with('-') || first == "-" {
                parsed.words.push(first.clone());
                rest = tail;
                continue;
            }
            rest = parsed.flag(first, tail, flags)?;
        }
        Ok(parsed)
    }

    /// Parses flags up to the first word; the rest is given back.
    pub(super) fn parse_leading<'a>(args: &'a [String], flags: &[Flag]) -> Result<(Self, &'a [String])> {
        let mut parsed = Self::default();
        let mut rest = args;
        while let Some((first, tail)) = rest.split_first().filter(|(first, _)| first.starts_with('-')) {
            rest = parsed.flag(first, tail, flags)?;
        }
        Ok((parsed, rest))
    }

    fn flag<'a>(&mut self, word: &str, tail: &'a [String], flags: &[Flag]) -> Result<&'a [String]> {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_string())),
            None => (word, None),
        };
        let bare = name.trim_start_matches('-');
        let known = flags.iter().find(|flag| {
            flag.name == bare || flag.short.is_some_and(|short| bare.len() == 1 && bare.starts_with(short))
        });
        let flag = known.ok_or_else(|| Error::invalid(format!("unknown flag {name}")))?;
        match (flag.takes_value, inline) {
            (true, Some(value)) => self.flags.push((flag.name, value)),
            (true, None) => {
                let (value, tail) =
                    tail.split_first().ok_or_else(|| Error::invalid(format!("flag {name} needs a value")))?;
                self.flags.push((flag.name, value.clone()));
                return Ok(tail);
            }
            (false, Some(value)) if value == "false" => {}
            (false, _) => self.flags.push((flag.name, String::new())),
        }
        Ok(tail)
    }

    /// Whether a flag was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|(known, _)| *known == name)
    }

    /// The last value of a flag.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).last()
    }

    /// All values of a flag.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The words.
    pub(super) fn words(&self) -> &[String] {
        &self.words
    }

    /// The first word: a container's id.
    pub(super) fn id(&self) -> Result<&str> {
        let id = self.words.first().ok_or_else(|| Error::invalid("the id of a container is missing"))?;
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
        if id.is_empty() || id.len() > 1024 || !id.bytes().all(good) || id == "." || id == ".." {
            return Err(Error::invalid(format!("invalid container id {id:?}")));
        }
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] =
        &[Flag::value("bundle", Some('b')), Flag::value("env", Some('e')), Flag::switch("tty", Some('t'))];

    fn parse(text: &str, words: usize) -> Result<Arguments> {
        let args: Vec<String> = text.split(' ').map(str::to_string).collect();
        Arguments::parse(&args, FLAGS, words)
    }

    #[test]
    fn flags_end_where_the_program_begins() {
        let parsed = parse("-e A=1 --env=B=2 -t id ls -t --env x", 1).unwrap();
        assert_eq!(parsed.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert!(parsed.has("tty"));
        assert_eq!(parsed.words(), ["id", "ls", "-t", "--env", "x"]);
    }

    #[test]
    fn flags_after_the_id_count_when_no_program_follows() {
        let parsed = parse("id --bundle /b", 2).unwrap();
        assert_eq!((parsed.value("bundle"), parsed.id().unwrap()), (Some("/b"), "id"));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(parse("--nonsense", 1).unwrap_err().to_string().contains("--nonsense"));
        assert!(parse("id --bundle", 2).is_err());
        for id in ["a/b", "..", "a b"] {
            let arguments = Arguments { words: vec![id.to_string()], ..Arguments::default() };
            assert!(arguments.id().is_err(), "{id}");
        }
    }
}
