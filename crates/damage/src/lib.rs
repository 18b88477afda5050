//! For tests of parsers: input that is valid, with random damage. The same on every run, so that what failed
//! once fails again.

/// Marsaglia's xorshift64.
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// A number of all that fit.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `limit`, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.number() % limit.max(1) as u64).unwrap_or_default()
    }

    /// One of `choices`, which must not be empty.
    pub fn one<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }

    /// One of `texts` with up to six pieces taken out or put in: of the other texts, of `pieces` (what means
    /// something in such texts), and single characters.
    pub fn damaged(&mut self, texts: &[String], pieces: &[&str]) -> String {
        let mut text: Vec<char> = self.one(texts).chars().collect();
        for _ in 0..=self.below(5) {
            let at = self.below(text.len() + 1);
            let end = (at + self.below(8)).min(text.len());
            let piece: Vec<char> = match self.below(4) {
                0 => Vec::new(),
                1 => self.one(texts).chars().skip(self.below(20)).take(self.below(20)).collect(),
                2 => u32::try_from(self.below(0x300)).ok().and_then(char::from_u32).into_iter().collect(),
                _ => self.one(pieces).chars().collect(),
            };
            text.splice(at..end, piece);
        }
        text.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_the_same_on_every_run_and_of_every_kind() {
        let texts = ["a=1,b=2".to_owned(), "c".repeat(30)];
        let damaged = || {
            let mut random = Random::default();
            (0..200).map(|_| random.damaged(&texts, &["\"", "=="])).collect::<Vec<_>>()
        };
        let first = damaged();
        assert_eq!(first, damaged());
        assert!(first.iter().any(|text| text.contains("==")), "a piece");
        assert!(first.iter().any(|text| text.contains('c') && text.contains('b')), "of another text");
        assert!(first.iter().any(|text| text.chars().count() < 7), "shorter");
        assert!(first.iter().any(|text| !text.is_ascii()), "a character");
    }
}
