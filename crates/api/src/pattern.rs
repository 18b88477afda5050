//! A small regular expression engine for name filters and options.
//!
//! Patterns come from clients, so matching takes time proportional to pattern times text whatever they are:
//! all alternatives are followed at once (Thompson's construction). Known: literals, `.`, classes with
//! ranges and negation, `\d \w \s` and their opposites, `^`, `$`, `|`, groups, `*`, `+`, `?`. Lazy marks are
//! taken and mean nothing, since only whether there is a match is asked.

/// Longest pattern taken, in characters.
const LONGEST: usize = 1000;
/// Deepest nesting of groups.
const DEEPEST: usize = 50;

/// A regular expression.
#[derive(Debug, Clone)]
pub struct Pattern {
    program: Vec<Step>,
}

#[derive(Debug, Clone)]
enum Step {
    One(Class),
    Start,
    End,
    Jump(usize),
    Split(usize, usize),
    Match,
}

#[derive(Debug, Clone, Default)]
struct Class {
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Class {
    fn of(ranges: &[(char, char)]) -> Self {
        Self { ranges: ranges.to_vec(), negated: false }
    }

    fn has(&self, char: char) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&char)) != self.negated
    }
}

impl Pattern {
    /// Reads an expression; `None` when it cannot be read or is too long.
    pub fn parse(text: &str) -> Option<Self> {
        let chars: Vec<char> = text.chars().collect();
        if chars.len() > LONGEST {
            return None;
        }
        let mut parser = Parser { chars, at: 0, depth: 0 };
        let mut program = parser.alternatives()?;
        if parser.at < parser.chars.len() {
            return None;
        }
        program.push(Step::Match);
        Some(Self { program })
    }

    /// Whether any part of the text matches.
    pub fn is_match(&self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        let mut live = Vec::new();
        for at in 0..=chars.len() {
            // A match may start anywhere.
            let mut seen = vec![false; self.program.len()];
            let mut now = Vec::new();
            for step in live.drain(..).chain([0]) {
                if self.follow(step, at, chars.len(), &mut seen, &mut now) {
                    return true;
                }
            }
            if let Some(char) = chars.get(at) {
                live.extend(now.into_iter().filter(|step| self.takes(*step, *char)).map(|step| step + 1));
            }
        }
        false
    }

    fn takes(&self, step: usize, char: char) -> bool {
        matches!(&self.program[step], Step::One(class) if class.has(char))
    }

    /// Follows the steps that take no character; true when one of them is the match.
    fn follow(&self, from: usize, at: usize, end: usize, seen: &mut [bool], now: &mut Vec<usize>) -> bool {
        let mut waiting = vec![from];
        while let Some(step) = waiting.pop() {
            if std::mem::replace(&mut seen[step], true) {
                continue;
            }
            match &self.program[step] {
                Step::One(_) => now.push(step),
                Step::Start if at == 0 => waiting.push(step + 1),
                Step::End if at == end => waiting.push(step + 1),
                Step::Start | Step::End => {}
                Step::Jump(to) => waiting.push(*to),
                Step::Split(one, two) => waiting.extend([*two, *one]),
                Step::Match => return true,
            }
        }
        false
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += 1;
        Some(char)
    }

    fn take(&mut self, wanted: char) -> bool {
        let is = self.peek() == Some(wanted);
        self.at += usize::from(is);
        is
    }

    fn alternatives(&mut self) -> Option<Vec<Step>> {
        let mut left = self.sequence()?;
        while self.take('|') {
            let right = self.sequence()?;
            let after = left.len() + right.len() + 2;
            let mut both = vec![Step::Split(1, left.len() + 2)];
            append(&mut both, left);
            both.push(Step::Jump(after));
            append(&mut both, right);
            left = both;
        }
        Some(left)
    }

    fn sequence(&mut self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        while let Some(char) = self.peek() {
            if char == '|' || (char == ')' && self.depth > 0) {
                break;
            }
            let atom = self.atom()?;
            append(&mut steps, self.repeated(atom));
        }
        Some(steps)
    }

    fn repeated(&mut self, atom: Vec<Step>) -> Vec<Step> {
        let Some(mark) = self.peek().filter(|char| "*+?".contains(*char)) else { return atom };
        self.at += 1;
        self.take('?');
        let length = atom.len();
        let mut steps = Vec::new();
        match mark {
            '*' => {
                steps.push(Step::Split(1, length + 2));
                append(&mut steps, atom);
                steps.push(Step::Jump(0));
            }
            '+' => {
                append(&mut steps, atom);
                steps.push(Step::Split(0, length + 1));
            }
            _ => {
                steps.push(Step::Split(1, length + 1));
                append(&mut steps, atom);
            }
        }
        steps
    }

    fn atom(&mut self) -> Option<Vec<Step>> {
        let step = match self.next()? {
            '(' => return self.group(),
            ')' | '*' | '+' | '?' => return None,
            '^' => Step::Start,
            '$' => Step::End,
            '.' => Step::One(Class { ranges: vec![('\n', '\n')], negated: true }),
            '[' => Step::One(self.class()?),
            '\\' => Step::One(escape(self.next()?)),
            char => Step::One(Class::of(&[(char, char)])),
        };
        Some(vec![step])
    }

    fn group(&mut self) -> Option<Vec<Step>> {
        if self.depth == DEEPEST {
            return None;
        }
        if self.take('?') && !self.take(':') {
            return None;
        }
        self.depth += 1;
        let inner = self.alternatives()?;
        self.depth -= 1;
        self.take(')').then_some(inner)
    }

    fn class(&mut self) -> Option<Class> {
        let mut class = Class { negated: self.take('^'), ranges: Vec::new() };
        let mut first = true;
        loop {
            let low = match self.next()? {
                ']' if !first => return Some(class),
                '\\' => {
                    let escaped = self.next()?;
                    if "dws".contains(escaped) {
                        class.ranges.extend(escape(escaped).ranges);
                        first = false;
                        continue;
                    }
                    escaped
                }
                char => char,
            };
            first = false;
            let ranged =
                self.peek() == Some('-') && self.chars.get(self.at + 1).is_some_and(|char| *char != ']');
            let high = if ranged {
                self.at += 1;
                self.next()?
            } else {
                low
            };
            class.ranges.push((low, high));
        }
    }
}

fn escape(char: char) -> Class {
    let mut class = match char.to_ascii_lowercase() {
        'd' => Class::of(&[('0', '9')]),
        'w' => Class::of(&[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
        's' => Class::of(&[(' ', ' '), ('\t', '\r')]),
        _ => return Class::of(&[(char, char)]),
    };
    class.negated = char.is_ascii_uppercase();
    class
}

/// Appends steps whose targets count from their own start.
fn append(steps: &mut Vec<Step>, more: Vec<Step>) {
    let base = steps.len();
    steps.extend(more.into_iter().map(|step| match step {
        Step::Jump(to) => Step::Jump(to + base),
        Step::Split(one, two) => Step::Split(one + base, two + base),
        other => other,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_what_go_matches() {
        for (pattern, text, fits) in [
            ("web", "my-web-1", true),
            ("^web", "my-web-1", false),
            ("^/?web$", "/web", true),
            ("^web|db$", "a-db", true),
            ("(a|b)+c", "xabac", true),
            ("(a|b)+c", "xc", false),
            ("a.c", "abc", true),
            ("[a-c]x[^0-9]", "bxz", true),
            ("[a-c]x[^0-9]", "bx1", false),
            (r"\d+\.\w*", "v12.", true),
            (r"[\w-]+$", "a-b", true),
            ("a?b", "b", true),
            ("", "anything", true),
            ("(?:ab)*$", "abab", true),
            ("a|", "zzz", true),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().is_match(text), fits, "{pattern} on {text}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for bad in ["(", "a)", "*a", "[a", "\\", "(?P<n>a)", &"(".repeat(60)] {
            assert!(Pattern::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn takes_linear_time_on_patterns_made_to_be_slow() {
        let pattern = Pattern::parse(&format!("{}{}$", "a?".repeat(200), "a".repeat(200))).unwrap();
        assert!(!pattern.is_match(&"a".repeat(199)));
        assert!(Pattern::parse("(a*)*b").unwrap().is_match(&format!("{}b", "a".repeat(500))));
    }
}
