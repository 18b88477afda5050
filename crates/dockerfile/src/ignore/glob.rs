//! Patterns of paths: `*` and `?` within a name, `[a-z]`, `\` before what is meant literally, and where it is
//! allowed `**` across names.
//!
//! A pattern is compiled once. What begins or ends with plain text is told apart by that alone; the rest runs
//! as a set of states, so that no pattern takes more time than its length times the path's.

use std::fmt;
use yare_errdefs::{Class, Classified};

/// A pattern that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternError {
    pattern: String,
}

impl PatternError {
    pub(super) fn new(pattern: &str) -> Self {
        Self { pattern: pattern.to_owned() }
    }
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "syntax error in pattern {}", yare_gotext::quote(&self.pattern))
    }
}

impl std::error::Error for PatternError {}

impl Classified for PatternError {
    fn class(&self) -> Class {
        Class::InvalidArgument
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    One(char),
    /// `?`.
    AnyInName,
    /// `*`.
    StarInName,
    /// `**` at the end: anything.
    Everything,
    /// `**/` or `**` before something: nothing, or what the next token takes.
    Names,
    /// Always behind `Names`: anything that ends in a slash.
    NamesInside,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
    /// Plain text that every match begins with.
    prefix: String,
    /// Plain text that every match ends with.
    suffix: String,
    kind: Kind,
}

/// How a match is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The path is the text.
    Exact,
    /// The path begins with the text.
    Prefix,
    /// The path ends with the text, which begins a name.
    Suffix,
    /// The path ends with the text: `**x`.
    SuffixOfName,
    /// The path is matched state by state.
    States,
}

impl Glob {
    /// A pattern as Go's `filepath.Match` has it: nothing in it crosses a slash.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        Self::compile(pattern, false)
    }

    /// A pattern with `**`.
    pub fn with_double_star(pattern: &str) -> Result<Self, PatternError> {
        Self::compile(pattern, true)
    }

    fn compile(pattern: &str, double_star: bool) -> Result<Self, PatternError> {
        let tokens = tokens(pattern, double_star).ok_or_else(|| PatternError::new(pattern))?;
        let plain = |token: &Token| match token {
            Token::One(c) => Some(*c),
            _ => None,
        };
        let prefix: String = tokens.iter().map_while(plain).collect();
        let mut suffix: Vec<char> = tokens.iter().rev().map_while(plain).collect();
        suffix.reverse();
        let kind = match tokens.as_slice() {
            [.., Token::Everything] if prefix.chars().count() == tokens.len() - 1 => Kind::Prefix,
            tokens if prefix.chars().count() == tokens.len() => Kind::Exact,
            [Token::Names, _, rest @ ..] if suffix.len() == rest.len() => {
                if pattern.starts_with("**/") {
                    Kind::Suffix
                } else {
                    Kind::SuffixOfName
                }
            }
            _ => Kind::States,
        };
        Ok(Self { tokens, prefix, suffix: suffix.into_iter().collect(), kind })
    }

    /// Whether it matches the whole of `path`.
    pub fn matches(&self, path: &str) -> bool {
        match self.kind {
            Kind::Exact => path == self.prefix,
            Kind::Prefix => path.starts_with(&self.prefix),
            Kind::Suffix => match path.strip_suffix(self.suffix.as_str()) {
                Some(before) => before.is_empty() || before.ends_with('/'),
                None => false,
            },
            Kind::SuffixOfName => path.ends_with(&self.suffix),
            Kind::States => {
                path.len() >= self.prefix.len().max(self.suffix.len())
                    && path.starts_with(&self.prefix)
                    && path.ends_with(&self.suffix)
                    && self.run(path.chars()).is_some_and(|states| states[self.tokens.len()])
            }
        }
    }

    /// Whether it matches anything below `directory`.
    pub fn reaches_below(&self, directory: &str) -> bool {
        match self.kind {
            Kind::Exact => self.prefix.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/')),
            Kind::Suffix | Kind::SuffixOfName => true,
            Kind::Prefix | Kind::States => {
                let states = self.run(directory.chars().chain(['/']));
                // What is left to match must be something: below a directory there are names.
                states.is_some_and(|states| {
                    states[..self.tokens.len()].contains(&true)
                        || self.tokens.last() == Some(&Token::Everything)
                })
            }
        }
    }

    /// The states after `text`; `None` if none is left.
    fn run(&self, text: impl Iterator<Item = char>) -> Option<Vec<bool>> {
        let mut now = vec![false; self.tokens.len() + 1];
        let mut then = now.clone();
        now[0] = true;
        self.skip_empty(&mut now);
        for c in text {
            then.fill(false);
            for (index, token) in self.tokens.iter().enumerate() {
                if now[index] {
                    step(token, index, c, &mut then);
                }
            }
            self.skip_empty(&mut then);
            std::mem::swap(&mut now, &mut then);
            if !now.contains(&true) {
                return None;
            }
        }
        Some(now)
    }

    /// What may match nothing is passed over.
    fn skip_empty(&self, states: &mut [bool]) {
        for (index, token) in self.tokens.iter().enumerate() {
            if !states[index] {
                continue;
            }
            match token {
                Token::StarInName | Token::Everything => states[index + 1] = true,
                Token::Names => states[index + 1..=index + 2].fill(true),
                _ => {}
            }
        }
    }
}

/// Where a token leads with `c`.
fn step(token: &Token, index: usize, c: char, then: &mut [bool]) {
    match token {
        Token::One(own) => then[index + 1] |= *own == c,
        Token::AnyInName => then[index + 1] |= c != '/',
        Token::StarInName => then[index] |= c != '/',
        Token::Everything => then[index] = true,
        Token::Names => {}
        Token::NamesInside => {
            then[index] = true;
            then[index + 1] |= c == '/';
        }
        Token::Class { negated, ranges } => {
            then[index + 1] |= ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated;
        }
    }
}

fn tokens(pattern: &str, double_star: bool) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            '*' if double_star && chars.peek() == Some(&'*') => {
                chars.next();
                chars.next_if_eq(&'/');
                if chars.peek().is_none() { Token::Everything } else { Token::Names }
            }
            '*' => Token::StarInName,
            '?' => Token::AnyInName,
            '\\' => Token::One(chars.next()?),
            '[' => class(&mut chars)?,
            c => Token::One(c),
        };
        let names = token == Token::Names;
        tokens.push(token);
        tokens.extend(names.then_some(Token::NamesInside));
    }
    Some(tokens)
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let low = class_char(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { class_char(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn class_char(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

/// Whether a source of `COPY` is a pattern.
pub fn has_wildcards(source: &str) -> bool {
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}
