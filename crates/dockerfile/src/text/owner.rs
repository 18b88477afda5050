//! `--chown` and `--chmod`.

use std::fmt;
use yare_errdefs::{Class, Classified};

/// The two halves of `user[:group]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chown {
    /// Name or number.
    pub user: String,
    /// Name or number; the user's own group if not said.
    pub group: Option<String>,
}

impl Chown {
    /// Splits it. An empty user (`:group`) is root.
    pub fn parse(text: &str) -> Self {
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let group = group.filter(|group| !group.is_empty()).map(str::to_owned);
        Self { user: if user.is_empty() { "0".into() } else { user.to_owned() }, group }
    }
}

/// Text that is no mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModeError(String);

impl fmt::Display for ModeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid chmod parameter: '{}'. it should be octal string and between 0 and 07777", self.0)
    }
}

impl std::error::Error for ModeError {}

impl Classified for ModeError {
    fn class(&self) -> Class {
        Class::InvalidArgument
    }

    fn hint(&self) -> Option<String> {
        Some("write an octal number such as 0755, or letters such as u=rwX,go=rX".into())
    }
}

/// A change of permissions: an octal number, or clauses of letters (`u+x,go=rX`) as `chmod` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode(Change);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Octal(u32),
    Clauses(Vec<Clause>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Clause {
    /// Bits of whom it is about: 0o700, 0o070, 0o007.
    who: u32,
    actions: Vec<Action>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Action {
    operator: char,
    /// Letters of `rwxXst`, or one of `ugo`.
    letters: String,
}

/// Set-user-id, set-group-id.
const SET_IDS: u32 = 0o6000;
const STICKY: u32 = 0o1000;

impl Mode {
    /// Reads it.
    pub fn parse(text: &str) -> Result<Self, ModeError> {
        let error = || ModeError(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| error())?;
            return if mode <= 0o7777 { Ok(Self(Change::Octal(mode))) } else { Err(error()) };
        }
        let clauses = text.split(',').map(|text| clause(text).ok_or_else(error));
        Ok(Self(Change::Clauses(clauses.collect::<Result<_, _>>()?)))
    }

    /// The permissions of something that has `old` (12 bits), after the change.
    pub fn apply(&self, old: u32, directory: bool) -> u32 {
        match &self.0 {
            Change::Octal(mode) => *mode,
            Change::Clauses(clauses) => clauses.iter().fold(old & 0o7777, |mode, clause| {
                clause.actions.iter().fold(mode, |mode, action| action.apply(mode, clause.who, directory))
            }),
        }
    }
}

fn clause(text: &str) -> Option<Clause> {
    let end = text.find(|c| !matches!(c, 'u' | 'g' | 'o' | 'a'))?;
    let who = text[..end].chars().fold(0, |who, c| {
        who | match c {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            _ => 0o777,
        }
    });
    // Without a word on whom, everybody: a builder has no umask.
    let who = if who == 0 { 0o777 } else { who };
    let mut actions = Vec::new();
    let mut rest = &text[end..];
    while let Some(operator) = rest.chars().next() {
        let letters = rest.get(1..).filter(|_| matches!(operator, '+' | '-' | '='))?;
        let end = letters.find(['+', '-', '=']).unwrap_or(letters.len());
        let (letters, after) = letters.split_at(end);
        let permissions = letters.chars().all(|c| "rwxXst".contains(c));
        if !permissions && !matches!(letters, "u" | "g" | "o") {
            return None;
        }
        actions.push(Action { operator, letters: letters.to_owned() });
        rest = after;
    }
    (!actions.is_empty()).then_some(Clause { who, actions })
}

impl Action {
    fn apply(&self, mode: u32, who: u32, directory: bool) -> u32 {
        let bits = self.bits(mode, who, directory);
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            _ => {
                // A directory keeps its set-id bits, as with chmod.
                let ids = if directory { 0 } else { SET_IDS & self.special(who) };
                let sticky = if who == 0o777 && !directory { STICKY } else { 0 };
                mode & !(who | ids | sticky) | bits
            }
        }
    }

    /// Which set-id bits belong to whom.
    fn special(&self, who: u32) -> u32 {
        (if who & 0o700 != 0 { 0o4000 } else { 0 }) | (if who & 0o070 != 0 { 0o2000 } else { 0 })
    }

    fn bits(&self, mode: u32, who: u32, directory: bool) -> u32 {
        let copied = match self.letters.as_str() {
            "u" => Some(mode >> 6),
            "g" => Some(mode >> 3),
            "o" => Some(mode),
            _ => None,
        };
        if let Some(bits) = copied {
            return ((bits & 7) * 0o111) & who;
        }
        self.letters.chars().fold(0, |bits, letter| {
            bits | match letter {
                'r' => 0o444 & who,
                'w' => 0o222 & who,
                'x' => 0o111 & who,
                'X' if directory || mode & 0o111 != 0 => 0o111 & who,
                's' => self.special(who),
                't' if who & 0o007 != 0 => STICKY,
                _ => 0,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_in_octal_and_in_letters() {
        for (text, old, directory, new) in [
            ("0755", 0o644, false, 0o755),
            ("1777", 0o755, true, 0o1777),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, false, 0o700),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a=r", 0o4755, false, 0o444),
            ("g=u", 0o750, false, 0o770),
            ("u+s,g-w", 0o775, false, 0o4755),
            ("u=rw+x", 0o000, false, 0o700),
            ("o+t", 0o777, true, 0o1777),
            ("=", 0o777, false, 0o000),
        ] {
            let mode = Mode::parse(text).expect(text);
            assert_eq!(
                mode.apply(old, directory),
                new,
                "{text} of {old:o}: {:o}",
                mode.apply(old, directory)
            );
        }
        for bad in ["", "zz", "8", "10000", "u", "u+q", "u+x,", "x+u", "7é"] {
            assert!(Mode::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_are_split_at_the_colon() {
        let split = |text| {
            let Chown { user, group } = Chown::parse(text);
            (user, group)
        };
        assert_eq!(split("a:b"), ("a".into(), Some("b".into())));
        assert_eq!(split("55"), ("55".into(), None));
        assert_eq!(split("a:"), ("a".into(), None));
        assert_eq!(split(":b"), ("0".into(), Some("b".into())));
    }
}
