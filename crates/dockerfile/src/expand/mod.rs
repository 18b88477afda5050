//! Variables and quotes in the words of instructions.
//!
//! The forms are those of a POSIX shell that Docker's builder knows: `$v`, `${v}`, `${v:-w}`, `${v-w}`,
//! `${v:+w}`, `${v+w}`, `${v:?w}`, `${v?w}`, `${v#p}`, `${v##p}`, `${v%p}`, `${v%%p}`, `${v/p/r}`, `${v//p/r}`.
//! Single quotes stop expansion, double quotes keep words together, the escape character takes the meaning
//! of the next one away. What `RUN`, `CMD` and `ENTRYPOINT` have is left to their shell.

mod pattern;

use pattern::Pattern;
use std::collections::BTreeSet;
use std::fmt;
use yare_errdefs::{Class, Classified};
use yare_gotext::quote;

/// The longest text an expansion may make, in bytes: `ENV A=$A$A` doubles a value with each line.
pub const LONGEST: usize = 16 << 20;

/// How deep `${a:-${b:-…}}` may go.
const DEEPEST: usize = 100;

/// The character that takes the meaning of the next one away: `\` unless the `escape` directive says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Escape {
    /// `\`.
    #[default]
    Backslash,
    /// A backquote, for Windows paths.
    Backquote,
}

impl Escape {
    /// The character.
    pub fn char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backquote => '`',
        }
    }
}

/// The value of a variable, or that there is none.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// What became of a word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The word with its variables replaced and its quotes taken off.
    pub text: String,
    /// The same, split at spaces that are not quoted.
    pub words: Vec<String>,
    /// Variables it names that have a value.
    pub used: BTreeSet<String>,
    /// Variables it names that have none.
    pub undefined: BTreeSet<String>,
}

/// A word whose variables can't be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpandError {
    word: String,
    why: String,
    /// Variables that were met before and have no value.
    pub undefined: BTreeSet<String>,
}

impl fmt::Display for ExpandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to process {}: {}", quote(&self.word), self.why)
    }
}

impl std::error::Error for ExpandError {}

impl Classified for ExpandError {
    fn class(&self) -> Class {
        Class::InvalidArgument
    }
}

/// Replaces the variables of `word` and takes its quotes off.
pub fn expand(word: &str, lookup: &Lookup<'_>, escape: Escape) -> Result<Expanded, ExpandError> {
    Rules { escape: escape.char(), ..Rules::default() }.apply(word, lookup)
}

/// The text of [`expand`]: for instructions whose argument is one word whatever spaces it has.
pub fn process_word(word: &str, lookup: &Lookup<'_>, escape: Escape) -> Result<String, ExpandError> {
    expand(word, lookup, escape).map(|expanded| expanded.text)
}

/// The words of [`expand`]: for instructions that take several.
pub fn process_words(word: &str, lookup: &Lookup<'_>, escape: Escape) -> Result<Vec<String>, ExpandError> {
    expand(word, lookup, escape).map(|expanded| expanded.words)
}

/// Replaces the variables of a heredoc's content, in which quotes are just text.
pub fn expand_content(text: &str, lookup: &Lookup<'_>, escape: Escape) -> Result<Expanded, ExpandError> {
    Rules { escape: escape.char(), skip_quotes: true, ..Rules::default() }.apply(text, lookup)
}

/// A line for people: variables that have a value are shown with it, all else stays as written.
pub fn display(text: &str, lookup: &Lookup<'_>, escape: Escape) -> String {
    let rules = Rules { escape: escape.char(), raw_quotes: true, raw_escapes: true, ..Rules::default() };
    let shown = |name: &str| lookup(name).or_else(|| Some(format!("${name}")));
    rules.apply(text, &shown).map_or_else(|_| text.to_owned(), |expanded| expanded.text)
}

/// What a pass over a word does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) escape: char,
    /// Leave quotes in the text.
    pub(crate) raw_quotes: bool,
    /// Leave escape characters in the text.
    pub(crate) raw_escapes: bool,
    /// `$` is just a character.
    pub(crate) skip_variables: bool,
    /// Quotes are just characters.
    pub(crate) skip_quotes: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            escape: '\\',
            raw_quotes: false,
            raw_escapes: false,
            skip_variables: false,
            skip_quotes: false,
        }
    }
}

impl Rules {
    pub(crate) fn apply(self, word: &str, lookup: &Lookup<'_>) -> Result<Expanded, ExpandError> {
        let mut pass = Pass {
            rules: self,
            rest: word,
            lookup,
            depth: 0,
            made: 0,
            used: BTreeSet::new(),
            undefined: BTreeSet::new(),
        };
        match pass.until(None, self.raw_escapes) {
            Ok((text, words)) => Ok(Expanded { text, words, used: pass.used, undefined: pass.undefined }),
            Err(why) => {
                Err(ExpandError { word: word.chars().take(1000).collect(), why, undefined: pass.undefined })
            }
        }
    }
}

/// The text that was made so far, and its words.
#[derive(Default)]
struct Output {
    text: String,
    words: Vec<String>,
    word: String,
    in_word: bool,
}

impl Output {
    /// A character that ends a word if it is a space.
    fn plain(&mut self, c: char) {
        if !c.is_whitespace() {
            self.word.push(c);
            self.in_word = true;
        } else if self.in_word && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.in_word = false;
        }
        self.text.push(c);
    }

    /// What a variable stood for: spaces in it end words.
    fn substituted(&mut self, text: &str) {
        if text.contains(char::is_whitespace) {
            text.chars().for_each(|c| self.plain(c));
        } else if !text.is_empty() {
            self.word.push_str(text);
            self.text.push_str(text);
            self.in_word = true;
        }
    }

    /// A character that belongs to the word, space or not.
    fn literal(&mut self, c: char) {
        self.word.push(c);
        self.text.push(c);
        self.in_word = true;
    }

    fn done(mut self) -> (String, Vec<String>) {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        (self.text, self.words)
    }
}

/// One pass over a word, from its front to its end.
struct Pass<'a> {
    rules: Rules,
    rest: &'a str,
    lookup: &'a Lookup<'a>,
    depth: usize,
    /// Bytes that came from variables, in all.
    made: usize,
    used: BTreeSet<String>,
    undefined: BTreeSet<String>,
}

type Text = Result<String, String>;

impl Pass<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Up to `stop`, which is taken, or to the end of the word.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("substitutions are nested more than {DEEPEST} deep"));
        }
        let before = std::mem::replace(&mut self.rules.raw_escapes, raw_escapes);
        let result = self.scan(stop);
        self.rules.raw_escapes = before;
        self.depth -= 1;
        result
    }

    fn scan(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), String> {
        let mut output = Output::default();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.next();
                return Ok(output.done());
            }
            match c {
                '$' if !self.rules.skip_variables => output.substituted(&self.dollar()?),
                '\'' | '"' if !self.rules.skip_quotes => {
                    let quoted = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    output.text.push_str(&quoted);
                    output.word.push_str(&quoted);
                    output.in_word = true;
                }
                c if c == self.rules.escape => {
                    self.next();
                    if self.rules.raw_escapes {
                        output.literal(c);
                    }
                    if let Some(escaped) = self.next() {
                        output.literal(escaped);
                    }
                }
                c => {
                    self.next();
                    output.plain(c);
                }
            }
        }
        match stop {
            None => Ok(output.done()),
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
        }
    }

    /// `'…'`: everything as it is; there is no way to write a single quote in it.
    fn single_quoted(&mut self) -> Text {
        let length = self.rest[1..].find('\'');
        let length = length.ok_or("unexpected end of statement while looking for matching single-quote")?;
        let (quoted, rest) = self.rest.split_at(length + 2);
        self.rest = rest;
        let text = if self.rules.raw_quotes { quoted } else { &quoted[1..quoted.len() - 1] };
        Ok(text.to_owned())
    }

    /// `"…"`: variables, and escapes of `"`, `$` and the escape character itself.
    fn double_quoted(&mut self) -> Text {
        let mut text = String::new();
        self.next();
        if self.rules.raw_quotes {
            text.push('"');
        }
        loop {
            match self.peek() {
                None => {
                    return Err("unexpected end of statement while looking for matching double-quote".into());
                }
                Some('"') => {
                    self.next();
                    if self.rules.raw_quotes {
                        text.push('"');
                    }
                    return Ok(text);
                }
                Some('$') if !self.rules.skip_variables => text.push_str(&self.dollar()?),
                Some(c) if c == self.rules.escape => {
                    self.next();
                    if self.rules.raw_escapes {
                        text.push(c);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == c => {
                            self.next();
                            text.push(escaped);
                        }
                        Some(_) => text.push(c),
                    }
                }
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    /// `$name`, `${name…}`, or a dollar sign.
    fn dollar(&mut self) -> Text {
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let value = self.value(&name).unwrap_or_default();
            return self.account(value);
        }
        self.next();
        match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        let text = match self.next() {
            Some('}') => Ok(self.value(&name).unwrap_or_default()),
            Some(':') => {
                let modifier = self.next().unwrap_or('\u{fffd}');
                self.modified(&name, modifier, true)
            }
            Some('/') => self.replaced(&name),
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, modifier, false),
            other => Err(format!("unsupported modifier ({}) in substitution", other.unwrap_or('\u{fffd}'))),
        };
        self.account(text?)
    }

    /// `${name` is read and its modifier: what it stands for.
    fn modified(&mut self, name: &str, modifier: char, colon: bool) -> Text {
        let written = if colon { format!(":{modifier}") } else { modifier.to_string() };
        let pattern = matches!(modifier, '#' | '%');
        let word = match self.until(Some('}'), pattern) {
            Ok((word, _)) => word,
            Err(_) if self.rest.is_empty() => return Err("syntax error: missing '}'".into()),
            Err(why) => return Err(why),
        };
        if !matches!(modifier, '+' | '-' | '?') && (colon || !pattern) {
            return Err(format!("unsupported modifier ({written}) in substitution"));
        }
        let value = self.value(name);
        let counts = value.clone().filter(|value| !(colon && value.is_empty()));
        match modifier {
            '-' => Ok(counts.unwrap_or(word)),
            '+' => Ok(if counts.is_some() { word } else { String::new() }),
            '?' => counts.ok_or_else(|| {
                let state = if value.is_none() { "unset" } else { "empty" };
                let reason = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
                format!("{name}: {reason}")
            }),
            end => {
                // The sign twice: the longest piece that matches goes, else the shortest.
                let longest = word.starts_with(end);
                let word = if longest { &word[1..] } else { word.as_str() };
                let value = value.unwrap_or_default();
                let parsed = Pattern::parse(word).map_err(|why| invalid_pattern(word, &why))?;
                if end == '#' { parsed.trim_start(&value, longest) } else { parsed.trim_end(&value, longest) }
            }
        }
    }

    /// `${name/pattern/replacement}`, `${name//pattern/replacement}`.
    fn replaced(&mut self, name: &str) -> Text {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let part = |pass: &mut Self, end: char, missing: &str| match pass.until(Some(end), true) {
            Ok((part, _)) => Ok(part),
            Err(_) if pass.rest.is_empty() => Err(format!("syntax error: missing {missing}")),
            Err(why) => Err(why),
        };
        let pattern = part(self, '/', "'/' in ${}")?;
        let replacement = part(self, '}', "'}'")?;
        let value = self.value(name).unwrap_or_default();
        let parsed = Pattern::parse(&pattern).map_err(|why| invalid_pattern(&pattern, &why))?;
        parsed.replace(&value, &replacement, all, LONGEST)
    }

    /// The name of a variable: letters, digits and `_`; or digits; or one of the special parameters.
    fn name(&mut self) -> String {
        let first = self.peek();
        let length = match first {
            Some(c) if c.is_numeric() => self.rest.find(|c: char| !c.is_numeric()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => self.rest.find(|c: char| !c.is_alphanumeric() && c != '_'),
        };
        let (name, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
        self.rest = rest;
        name.to_owned()
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        let seen = if value.is_some() { &mut self.used } else { &mut self.undefined };
        if !seen.contains(name) {
            seen.insert(name.to_owned());
        }
        value
    }

    /// Counts what a substitution made, and refuses too much of it.
    fn account(&mut self, text: String) -> Text {
        self.made += text.len();
        if self.made > LONGEST {
            return Err(format!("the result is larger than {} MiB", LONGEST >> 20));
        }
        Ok(text)
    }
}

fn invalid_pattern(pattern: &str, why: &str) -> String {
    format!("invalid pattern ({pattern}) in substitution: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        let known = [("A", "x"), ("EMPTY", ""), ("SPACED", "one two"), ("P", "/a/b/c.tar.gz")];
        known.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn text(word: &str) -> String {
        expand(word, &lookup, Escape::Backslash)
            .map(|expanded| expanded.text)
            .unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn quotes_and_escapes_decide_what_is_a_variable() {
        assert_eq!(text(r#"$A "$A" '$A' \$A "\$A""#), "x x $A $A $A");
        assert_eq!(text("a$"), "a$");
        assert_eq!(text("$A-${A}b$1"), "x-xb");
        assert_eq!(text(r#""a\b" a\b a\ b"#), r#"a\b ab a b"#);
    }

    #[test]
    fn words_are_split_after_expansion_unless_quoted() {
        let words = |word| process_words(word, &lookup, Escape::Backslash).expect("words");
        assert_eq!(words("$SPACED b"), ["one", "two", "b"]);
        assert_eq!(words("\"$SPACED\" b"), ["one two", "b"]);
        assert_eq!(words(r"a\ b 'c d'"), ["a b", "c d"]);
    }

    #[test]
    fn patterns_cut_and_replace() {
        assert_eq!(text("${P##*/}"), "c.tar.gz");
        assert_eq!(text("${P#*/}"), "a/b/c.tar.gz");
        assert_eq!(text("${P%.*}"), "/a/b/c.tar");
        assert_eq!(text("${P%%.*}"), "/a/b/c");
        assert_eq!(text(r"${P//\//-}"), "-a-b-c.tar.gz");
        assert_eq!(text("${P/b*./X}"), "/a/Xgz");
    }

    #[test]
    fn errors_have_the_texts_of_the_field() {
        let error = |word| expand(word, &lookup, Escape::Backslash).expect_err("an error").to_string();
        assert_eq!(
            error("${s"),
            "failed to process \"${s\": unsupported modifier (\u{fffd}) in substitution"
        );
        assert_eq!(error("${A!x}"), "failed to process \"${A!x}\": unsupported modifier (!) in substitution");
        assert_eq!(error("${"), "failed to process \"${\": syntax error: missing '}'");
        assert_eq!(error("${}"), "failed to process \"${}\": syntax error: bad substitution");
        assert_eq!(error("${A:-x"), "failed to process \"${A:-x\": syntax error: missing '}'");
        assert_eq!(error("${NOPE:?must be}"), "failed to process \"${NOPE:?must be}\": NOPE: must be");
        assert_eq!(
            error("${EMPTY:?}"),
            "failed to process \"${EMPTY:?}\": EMPTY: is not allowed to be empty"
        );
        assert_eq!(error("${NOPE?}"), "failed to process \"${NOPE?}\": NOPE: is not allowed to be unset");
        assert!(error("'a").ends_with("looking for matching single-quote"));
        assert!(error("\"a").ends_with("looking for matching double-quote"));
        assert!(error(r"${A/\x/y}").contains(r"invalid pattern (\x) in substitution: invalid escape '\x'"));
    }

    #[test]
    fn hostile_words_end_soon() {
        let deep = "${A:+".repeat(100_000);
        assert!(expand(&deep, &lookup, Escape::Backslash).is_err());
        let big = |_: &str| Some("x".repeat(1 << 16));
        let error = expand(&"$A".repeat(300), &big, Escape::Backslash).expect_err("too much");
        assert!(error.to_string().contains("larger than 16 MiB"));
        let error = expand(&format!("${{A//x/{}}}", "y".repeat(1000)), &big, Escape::Backslash);
        assert!(error.expect_err("too much").to_string().contains("larger"));
        let error = expand(&format!("${{A/{}/}}", "*x".repeat(5000)), &big, Escape::Backslash);
        assert!(error.expect_err("too much").to_string().contains("too large"));
    }

    #[test]
    fn the_content_of_a_heredoc_keeps_its_quotes() {
        let expanded =
            expand_content("\"$A\" '$A' \\$A $NOPE\n", &lookup, Escape::Backslash).expect("content");
        assert_eq!(expanded.text, "\"x\" 'x' $A \n");
        assert_eq!(expanded.undefined.into_iter().collect::<Vec<_>>(), ["NOPE"]);
    }
}
