//! `.dockerignore`: which files of a context a build does not see.
//!
//! One pattern a line; `#` at its start makes it a comment, `!` in front takes files back in, the last pattern
//! that matches wins. A pattern that matches a directory matches everything below. `**` stands for any number
//! of directories.
//!
//! A walk over a context asks [`Cursor`]s, which remember what matched the directories above; single paths are
//! asked with [`Ignore::why`].

mod glob;

pub use glob::{Glob, PatternError, has_wildcards};

/// One line of an ignore file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// As written, without blanks around it.
    pub text: String,
    /// Its line, from 1.
    pub line: u32,
    /// `!`: files are taken back in.
    pub negated: bool,
    glob: Glob,
}

/// An ignore file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

impl Ignore {
    /// Reads one.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let mut patterns = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let line_number = u32::try_from(index + 1).unwrap_or(u32::MAX);
            patterns.push(pattern(line.trim(), line_number)?);
        }
        Ok(Self { patterns })
    }

    /// Patterns of `--exclude`, which have the same rules.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let patterns = patterns.into_iter().map(str::trim).filter(|text| !text.is_empty());
        let patterns = patterns.map(|text| pattern(text, 1));
        Ok(Self { patterns: patterns.collect::<Result<_, _>>()? })
    }

    /// Whether there is no pattern.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Its patterns, in order.
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Whether any pattern takes files back in.
    pub fn has_negations(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }

    /// Whether a path (relative, with slashes) is ignored.
    pub fn is_ignored(&self, path: &str) -> bool {
        self.why(path).is_some()
    }

    /// The pattern because of which a path is ignored; `None` if it isn't.
    pub fn why(&self, path: &str) -> Option<&Pattern> {
        let mut cursor = self.root();
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            cursor = cursor.enter(&path[..at]);
        }
        cursor.why(path)
    }

    /// The begin of a walk: the context itself.
    pub fn root(&self) -> Cursor<'_> {
        Cursor {
            ignore: self,
            matched: vec![false; self.patterns.len()],
            decided: None,
            directory: String::new(),
        }
    }
}

/// A directory that a walk is in.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    ignore: &'a Ignore,
    /// For every pattern whether it matches the directory or one above.
    matched: Vec<bool>,
    /// The pattern because of which the directory is ignored.
    decided: Option<usize>,
    directory: String,
}

impl<'a> Cursor<'a> {
    /// The directory at `path`, which is directly in this one.
    #[must_use]
    pub fn enter(&self, path: &str) -> Self {
        let patterns = self.ignore.patterns.iter().zip(&self.matched);
        let matched: Vec<bool> =
            patterns.map(|(pattern, above)| *above || pattern.glob.matches(path)).collect();
        let decided = decide(self.ignore, |index| matched[index]);
        Self { ignore: self.ignore, matched, decided, directory: path.to_owned() }
    }

    /// The pattern because of which the file at `path`, directly in this directory, is ignored.
    pub fn why(&self, path: &str) -> Option<&'a Pattern> {
        let patterns = &self.ignore.patterns;
        let index = decide(self.ignore, |index| self.matched[index] || patterns[index].glob.matches(path));
        index.map(|index| &patterns[index])
    }

    /// Whether the file at `path`, directly in this directory, is ignored.
    pub fn is_ignored(&self, path: &str) -> bool {
        self.why(path).is_some()
    }

    /// Whether this directory itself is ignored.
    pub fn ignored(&self) -> bool {
        self.decided.is_some()
    }

    /// Whether nothing below this directory can be taken back in, so that a walk need not enter it.
    pub fn prunable(&self) -> bool {
        let Some(decided) = self.decided else { return false };
        let later = &self.ignore.patterns[decided + 1..];
        !later.iter().any(|pattern| pattern.negated && pattern.glob.reaches_below(&self.directory))
    }
}

/// The pattern that ignores a file, given which ones match it: the last that changes anything.
fn decide(ignore: &Ignore, matches: impl Fn(usize) -> bool) -> Option<usize> {
    let mut decided = None;
    for (index, pattern) in ignore.patterns.iter().enumerate() {
        // Only a pattern that would change something is asked; matching is what costs.
        if pattern.negated == decided.is_some() && matches(index) {
            decided = (!pattern.negated).then_some(index);
        }
    }
    decided
}

fn pattern(text: &str, line: u32) -> Result<Pattern, PatternError> {
    let (negated, path) = match text.strip_prefix('!') {
        Some(path) => (true, path.trim()),
        None => (false, text),
    };
    if path.is_empty() {
        return Err(PatternError::new(text));
    }
    let cleaned = clean(path);
    let relative = match cleaned.strip_prefix('/') {
        Some(relative) if !relative.is_empty() => relative,
        _ => &cleaned,
    };
    let glob = Glob::with_double_star(relative)?;
    Ok(Pattern { text: text.to_owned(), line, negated, glob })
}

/// The shortest path that means the same: no double slashes, no `.`, `..` taken with the name before it.
pub fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if absolute => {}
            name => names.push(name),
        }
    }
    let joined = names.join("/");
    match (absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

/// A source of `COPY` or `ADD` in the context, a stage or an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopySource {
    /// The path from which what is matched keeps its directories: with `--parents`, what is before `/./`, or
    /// the root; without, the source itself.
    pub base: String,
    /// With `--parents`: what is copied, relative to `base`, `**` allowed.
    pub pattern: Option<String>,
    /// Whether there are wildcards, so that it is no error if nothing matches.
    pub wildcards: bool,
}

/// Understands a source whose variables are expanded. Paths are beneath the root: `..` can't lead out of it.
pub fn copy_source(source: &str, parents: bool) -> CopySource {
    let rooted = |path: &str| clean(&format!("/{path}"));
    let wildcards = has_wildcards(source);
    if !parents {
        return CopySource { base: rooted(source), pattern: None, wildcards };
    }
    let (base, pattern) = source.split_once("/./").unwrap_or(("/", source));
    let pattern = rooted(pattern).trim_start_matches('/').to_owned();
    CopySource { base: rooted(base), pattern: Some(pattern), wildcards }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(text).expect(text)
    }

    #[test]
    fn the_last_match_wins_and_says_why() {
        let file = ignore("# c\n*.md\n!README.md\nREAD*\n\n/dir\n ! dir/keep \n");
        assert_eq!(
            file.why("README.md").map(|pattern| (pattern.text.as_str(), pattern.line)),
            Some(("READ*", 4))
        );
        assert_eq!(file.why("dir/x/y").map(|pattern| pattern.line), Some(6));
        assert_eq!(file.why("dir/keep/y"), None);
        assert_eq!(file.why("src/a"), None);
        assert!(Ignore::parse("!").is_err() && Ignore::parse("a[").is_err());
    }

    #[test]
    fn a_walk_prunes_what_nothing_takes_back() {
        let file = ignore("node_modules\n**/target\n!a/target/keep\nlate\n");
        let pruned = |path: &str| {
            let mut cursor = file.root();
            for (at, _) in path.match_indices('/') {
                cursor = cursor.enter(&path[..at]);
            }
            cursor.enter(path).prunable()
        };
        assert!(pruned("node_modules") && pruned("b/target") && pruned("late"));
        assert!(!pruned("a/target") && !pruned("src"));
        let early = ignore("!a/b\na\n");
        assert!(early.root().enter("a").prunable(), "the negation comes too early to count");
        let all = ignore("*\n!**/*.rs\n");
        assert!(!all.root().enter("src").prunable());
    }

    #[test]
    fn a_walk_and_a_single_question_agree() {
        let file = ignore("*\n!a\na/b\n!**/*.txt\n**/x?\n");
        let paths = ["a", "a/b", "a/c", "a/b/d.txt", "q/r.txt", "q/xy", "xy", "a/b/x1/z.txt"];
        for path in paths {
            let mut cursor = file.root();
            for (at, _) in path.match_indices('/') {
                cursor = cursor.enter(&path[..at]);
            }
            assert_eq!(cursor.is_ignored(path), file.is_ignored(path), "{path}");
            assert_eq!(cursor.enter(path).ignored(), file.is_ignored(path), "{path}");
        }
    }

    #[test]
    fn many_paths_and_hard_patterns_take_little_time() {
        let hard = ignore(&format!("{}b\n{}\n", "*a".repeat(200), "**/a/".repeat(50)));
        assert!(!hard.is_ignored(&"a".repeat(2000)));
        let file = ignore("**/node_modules\n*.log\n**/*.tmp\n!keep.tmp\nbuild/**\n");
        let root = file.root();
        let ignored = (0..50_000).filter(|index| root.is_ignored(&format!("file{index}.tmp"))).count();
        assert_eq!(ignored, 50_000);
    }

    #[test]
    fn sources_of_copy_have_a_base() {
        let source = |text, parents| {
            let CopySource { base, pattern, wildcards } = copy_source(text, parents);
            (base, pattern, wildcards)
        };
        assert_eq!(source("../a//b/", false), ("/a/b".into(), None, false));
        assert_eq!(source("a/b/./c/*.txt", true), ("/a/b".into(), Some("c/*.txt".into()), true));
        assert_eq!(source("x/y", true), ("/".into(), Some("x/y".into()), false));
        assert!(!has_wildcards(r"a\*"));
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, cleaned) in [
            ("", "."),
            ("a/./b//c/..", "a/b"),
            ("/..", "/"),
            ("../a", "../a"),
            ("/a/", "/a"),
            ("a/../..", ".."),
        ] {
            assert_eq!(clean(path), cleaned, "{path}");
        }
    }
}
