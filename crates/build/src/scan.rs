//! Secrets in files that a build adds: found before they are in a layer for good.
//!
//! One pass over the bytes looks for the fixed beginnings of all rules at once; only where one stands is the
//! rule's own check run. Memory is bounded, a file may have any size. Binary files are passed over after a
//! look at their beginning, unless they are key stores. A finding never holds the secret.

mod allowed;
mod rules;

#[cfg(test)]
mod tests;

use crate::Cancel;
use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use rules::{Form, Place, RULES, Rule};
use rustix::fs::{FileType, OFlags};
use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use yare_errdefs::{Error, Result};
use yare_layer::Walk;

/// Bytes that are looked at together.
const WINDOW: usize = 256 << 10;
/// Most bytes of a secret, with what stands before it, that a check needs to see.
const REACH: usize = 8 << 10;
/// What is kept of the bytes before.
const BEFORE: usize = 256;
/// Bytes that decide whether a file is binary.
const BEGINNING: usize = 8 << 10;
/// Most findings of one file.
const MOST_IN_FILE: usize = 50;
/// Most findings of one tree.
const MOST: usize = 1000;

/// A secret in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Below the root of the tree, lossily as text, with a leading slash.
    pub path: String,
    /// From 1; 0 for a binary file.
    pub line: u64,
    /// Name of the rule: `aws-access-key`.
    pub rule: &'static str,
    /// What it is, for people: `AWS access key`.
    pub description: &'static str,
    /// The secret's fixed beginning and its length, nothing else of it.
    pub excerpt: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ({}): {}", self.path, self.line, self.description, self.rule, self.excerpt)
    }
}

/// What a scan saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings, by path and line.
    pub findings: Vec<Finding>,
    /// Files that were read to their end.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Whether there were more findings than are listed.
    pub more: bool,
}

/// The rules, ready to be used by many threads.
#[derive(Debug)]
pub struct Scanner {
    /// Rules for every file.
    all: Matcher,
    /// All rules, for files whose name says that they hold secrets.
    named: Matcher,
}

#[derive(Debug)]
struct Matcher {
    automaton: AhoCorasick,
    /// The rule of each pattern.
    rules: Vec<&'static Rule>,
}

impl Matcher {
    fn new(wanted: impl Fn(&Rule) -> bool) -> Result<Self> {
        let chosen = RULES.iter().filter(|rule| wanted(rule));
        let pairs: Vec<_> =
            chosen.flat_map(|rule| rule.prefixes.iter().map(move |prefix| (prefix, rule))).collect();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .kind(Some(AhoCorasickKind::DFA))
            .build(pairs.iter().map(|(prefix, _)| prefix.as_bytes()))
            .map_err(|error| Error::internal("cannot build the table of secrets").caused_by(error))?;
        Ok(Self { automaton, rules: pairs.into_iter().map(|(_, rule)| rule).collect() })
    }
}

impl Scanner {
    /// Builds the tables; to be kept for a process's life.
    pub fn new() -> Result<Self> {
        Ok(Self {
            all: Matcher::new(|rule| rule.place == Place::Everywhere)?,
            named: Matcher::new(|_| true)?,
        })
    }

    /// Scans every regular file below `root`: the upper directory of a step, or a context. `prefix` is where
    /// the tree will lie in the image. Links are not followed; files that cannot be read are an error. Those
    /// in `known` were looked through before; their paths are below the root.
    pub fn scan_tree(
        &self,
        root: BorrowedFd<'_>,
        prefix: &str,
        known: &HashSet<Vec<u8>>,
        cancel: &Cancel,
    ) -> Result<Report> {
        let failed = |path: &[u8], error: io::Error| {
            let text = format!("cannot scan {} for secrets", String::from_utf8_lossy(path));
            Error::new(yare_errdefs::class_of_io(&error), text).caused_by(error)
        };
        let mut report = Report::default();
        let mut walk = Walk::new(root).map_err(|error| failed(b"/", error))?;
        while let Some(found) = walk.advance().map_err(|error| failed(b"/", error))? {
            cancel.check()?;
            let is_text = found.kind() == FileType::RegularFile && found.stat.st_size > 0;
            if !is_text || known.contains(&found.path) {
                continue;
            }
            let path = shown(prefix, &found.path);
            if allowed::path(&path) {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
            let file = found.open(flags).map_err(|error| failed(&found.path, error))?;
            let findings = self.scan(&path, &mut File::from(file), &mut report.bytes);
            report.files += 1;
            for finding in findings.map_err(|error| failed(&found.path, error))? {
                if report.findings.len() < MOST { report.findings.push(finding) } else { report.more = true }
            }
        }
        Ok(report)
    }

    /// Scans one file; `path` is where it lies in the image, with a leading slash. Adds to `bytes` what was
    /// read.
    pub fn scan(&self, path: &str, source: &mut dyn Read, bytes: &mut u64) -> io::Result<Vec<Finding>> {
        let mut window = Window::new(source);
        window.fill(BEGINNING)?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let mut findings = Vec::new();
        if memchr::memchr(0, window.bytes()).is_some() || rules::is_key_store(name, window.bytes()).is_some()
        {
            findings.extend(rules::is_key_store(name, window.bytes()).map(|description| Finding {
                path: path.to_owned(),
                line: 0,
                rule: "key-store",
                description,
                excerpt: "the whole file".to_owned(),
            }));
            *bytes += window.total;
            return Ok(findings);
        }
        let matcher = if allowed::is_named(name) { &self.named } else { &self.all };
        loop {
            window.fill(WINDOW)?;
            matcher.look(path, &mut window, &mut findings);
            if window.ended || findings.len() >= MOST_IN_FILE {
                *bytes += window.total;
                return Ok(findings);
            }
            window.slide();
        }
    }
}

impl Matcher {
    /// Looks at what is new in the window.
    fn look(&self, path: &str, window: &mut Window<'_>, findings: &mut Vec<Finding>) {
        let end = window.decidable();
        let mut from = window.done;
        while findings.len() < MOST_IN_FILE {
            let input = aho_corasick::Input::new(window.bytes()).range(from..);
            let Some(hit) = self.automaton.find(input).filter(|hit| hit.start() < end) else { break };
            let rule = self.rules[hit.pattern().as_usize()];
            from = hit.end();
            let Some(length) = rule.check(window.bytes(), hit.start(), hit.end()) else { continue };
            let secret = &window.bytes()[hit.start()..(hit.end() + length).min(window.bytes().len())];
            if allowed::secret(secret) {
                continue;
            }
            from = hit.start() + secret.len();
            findings.push(Finding {
                path: path.to_owned(),
                line: window.line_of(hit.start()),
                rule: rule.name,
                description: rule.description,
                excerpt: redacted(rule, &window.bytes()[hit.start()..hit.end()], length),
            });
        }
        window.done = end.max(from.min(window.bytes().len()));
    }
}

/// The fixed part, and how much follows.
fn redacted(rule: &Rule, prefix: &[u8], length: usize) -> String {
    let shown: String = String::from_utf8_lossy(prefix).chars().filter(|c| !c.is_control()).collect();
    match rule.form {
        Form::Token => format!("{shown}*** ({length} characters)"),
        Form::Block => format!("{shown} ***"),
    }
}

fn shown(prefix: &str, path: &[u8]) -> String {
    let path: String =
        String::from_utf8_lossy(path).chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    format!("/{}/{path}", prefix.trim_matches('/')).replace("//", "/")
}

/// A part of a file, moved along it.
struct Window<'a> {
    source: &'a mut dyn Read,
    buffer: Vec<u8>,
    length: usize,
    ended: bool,
    /// Place in the buffer up to which everything was decided.
    done: usize,
    /// Line breaks before this place of the buffer.
    lines: u64,
    counted: usize,
    total: u64,
}

impl<'a> Window<'a> {
    fn new(source: &'a mut dyn Read) -> Self {
        Self { source, buffer: Vec::new(), length: 0, ended: false, done: 0, lines: 0, counted: 0, total: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Reads until the window has so many bytes or the file ends.
    fn fill(&mut self, size: usize) -> io::Result<()> {
        // Grown to what a small file needs first: most are small.
        while !self.ended && self.length < size {
            let room = size.min((self.length * 2).max(BEGINNING)).max(self.length + 1);
            self.buffer.resize(room.max(self.buffer.len()), 0);
            match self.source.read(&mut self.buffer[self.length..room]) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    self.length += count;
                    self.total += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A match that begins before this place has all that its check needs.
    fn decidable(&self) -> usize {
        if self.ended { self.length } else { self.length.saturating_sub(REACH).max(self.done) }
    }

    fn line_of(&mut self, place: usize) -> u64 {
        self.count_to(place);
        self.lines + 1
    }

    fn count_to(&mut self, place: usize) {
        if place > self.counted {
            let passed = &self.buffer[self.counted..place];
            self.lines += memchr::memchr_iter(b'\n', passed).count() as u64;
            self.counted = place;
        }
    }

    /// Drops what was decided, but for the little that a check looks back at.
    fn slide(&mut self) {
        let from = self.done.saturating_sub(BEFORE);
        self.count_to(from);
        self.buffer.copy_within(from..self.length, 0);
        self.length -= from;
        self.done -= from;
        self.counted -= from.min(self.counted);
    }
}
