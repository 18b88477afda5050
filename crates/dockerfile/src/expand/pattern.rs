//! The patterns of `${v#p}`, `${v%p}` and `${v/p/r}`: `?`, `*`, and `\` before what is meant literally.
//!
//! A pattern runs as a set of states over the text, never by trying and going back, so that time grows with
//! the product of the two lengths at worst; and that product is bounded.

/// The most steps a match may take.
const STEPS: usize = 50_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// This character.
    One(char),
    /// `?`: any character but a line's end.
    Any,
    /// `*`: any number of them.
    Star,
}

impl Token {
    fn takes(self, c: char) -> bool {
        match self {
            Self::One(own) => own == c,
            Self::Any | Self::Star => c != '\n',
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

/// States a run is in: positions in the pattern.
struct States {
    now: Vec<bool>,
    then: Vec<bool>,
}

impl Pattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            let token = match c {
                // Two stars are as good as one.
                '*' if tokens.last() == Some(&Token::Star) => continue,
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(escaped @ ('*' | '?' | '\\' | '}' | '/')) => Token::One(escaped),
                    other => return Err(format!("invalid escape '\\{}'", other.unwrap_or('\u{fffd}'))),
                },
                c => Token::One(c),
            };
            tokens.push(token);
        }
        Ok(Self(tokens))
    }

    /// `value` without the shortest or longest piece at its start that matches.
    pub(super) fn trim_start(&self, value: &str, longest: bool) -> Result<String, String> {
        self.affordable(value.len())?;
        let taken = self.prefix(value.chars(), longest).unwrap_or(0);
        Ok(value.chars().skip(taken).collect())
    }

    /// `value` without the shortest or longest piece at its end that matches.
    pub(super) fn trim_end(&self, value: &str, longest: bool) -> Result<String, String> {
        self.affordable(value.len())?;
        let taken = self.reversed().prefix(value.chars().rev(), longest).unwrap_or(0);
        let kept = value.chars().count() - taken;
        Ok(value.chars().take(kept).collect())
    }

    /// `value` with the first or every match replaced, leftmost and longest first; at most `limit` bytes.
    pub(super) fn replace(
        &self,
        value: &str,
        replacement: &str,
        all: bool,
        limit: usize,
    ) -> Result<String, String> {
        self.affordable(value.len())?;
        let chars: Vec<char> = value.chars().collect();
        let starts = self.starts(&chars);
        let mut text = String::new();
        let (mut at, mut last_end, mut replaced) = (0, None, 0);
        while at <= chars.len() {
            let found = (all || replaced == 0) && starts[at];
            let length = if found { self.prefix(chars[at..].iter().copied(), true) } else { None };
            // An empty match directly behind another one is part of it.
            if let Some(length) = length.filter(|length| *length > 0 || last_end != Some(at)) {
                text.push_str(replacement);
                replaced += 1;
                at += length;
                last_end = Some(at);
                if length > 0 {
                    continue;
                }
            }
            text.extend(chars.get(at));
            at += 1;
            if text.len() > limit {
                return Err(format!("the result is larger than {} MiB", limit >> 20));
            }
        }
        Ok(text)
    }

    fn reversed(&self) -> Self {
        Self(self.0.iter().rev().copied().collect())
    }

    fn affordable(&self, length: usize) -> Result<(), String> {
        if length.saturating_mul(self.0.len() + 1) > STEPS {
            return Err("pattern and value are too large".into());
        }
        Ok(())
    }

    /// How many of `chars` the shortest or longest match takes that begins with the first of them.
    fn prefix(&self, chars: impl Iterator<Item = char>, longest: bool) -> Option<usize> {
        let mut states = self.begin();
        let mut taken = states.now[self.0.len()].then_some(0);
        for (index, c) in chars.enumerate() {
            if taken.is_some() && !longest {
                break;
            }
            if !self.step(&mut states, c) {
                break;
            }
            if states.now[self.0.len()] {
                taken = Some(index + 1);
            }
        }
        taken
    }

    /// For every position whether a match begins there: the reversed pattern, run from the end.
    fn starts(&self, chars: &[char]) -> Vec<bool> {
        let reversed = self.reversed();
        let mut states = reversed.begin();
        let mut starts = vec![false; chars.len() + 1];
        starts[chars.len()] = states.now[self.0.len()];
        for (index, c) in chars.iter().enumerate().rev() {
            reversed.step(&mut states, *c);
            states.now[0] = true;
            reversed.skip_stars(&mut states.now);
            starts[index] = states.now[self.0.len()];
        }
        starts
    }

    fn begin(&self) -> States {
        let mut now = vec![false; self.0.len() + 1];
        now[0] = true;
        self.skip_stars(&mut now);
        States { now, then: vec![false; self.0.len() + 1] }
    }

    /// A star may take nothing.
    fn skip_stars(&self, states: &mut [bool]) {
        for (index, token) in self.0.iter().enumerate() {
            if states[index] && *token == Token::Star {
                states[index + 1] = true;
            }
        }
    }

    /// Whether any state is left after `c`.
    fn step(&self, states: &mut States, c: char) -> bool {
        states.then.fill(false);
        for (index, token) in self.0.iter().enumerate() {
            if states.now[index] && token.takes(c) {
                let next = if *token == Token::Star { index } else { index + 1 };
                states.then[next] = true;
            }
        }
        self.skip_stars(&mut states.then);
        std::mem::swap(&mut states.now, &mut states.then);
        states.now.contains(&true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_reversed_reads_from_the_end() {
        for (forward, backward) in [(r"a\*c", r"c\*a"), (r"\\b", r"b\\"), ("👽🚀\\?", "\\?🚀👽")] {
            let (forward, backward) = (Pattern::parse(forward), Pattern::parse(backward));
            assert_eq!(forward.expect("valid").reversed(), backward.expect("valid"));
        }
    }

    #[test]
    fn only_what_is_special_may_be_escaped() {
        for bad in [r"\", r"\x", r"\\\"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn empty_matches_stand_between_characters() {
        let empty = Pattern::parse("").expect("valid");
        assert_eq!(empty.replace("ab", "-", true, 100).expect("text"), "-a-b-");
        assert_eq!(empty.replace("ab", "-", false, 100).expect("text"), "-ab");
        let star = Pattern::parse("*").expect("valid");
        assert_eq!(star.replace("ab\ncd", "x", true, 100).expect("text"), "x\nx");
    }
}
