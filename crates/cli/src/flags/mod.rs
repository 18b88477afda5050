//! Command-line flags with the semantics of Go's pflag, which every Docker script relies on: `-it`, `-p80:80`,
//! `--name=x`, `--rm=false`, flags after arguments, `--`.

mod kind;
mod parse;

pub(crate) use kind::{Kind, parse_bool};
pub(crate) use parse::{Misuse, parse};

/// One flag of the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Name after `--`.
    pub long: &'static str,
    /// Letter after `-`.
    pub short: Option<char>,
    /// What its values are.
    pub kind: Kind,
    /// The default as help shows it; empty when help shows none.
    pub default: &'static str,
    /// What it does; may have several lines.
    pub usage: &'static str,
    /// Not listed in help: a former name, or of another system.
    pub hidden: bool,
}

/// A flag of the table.
pub(crate) const fn flag(
    long: &'static str,
    short: Option<char>,
    kind: Kind,
    default: &'static str,
    usage: &'static str,
) -> Flag {
    Flag { long, short, kind, default, usage, hidden: false }
}

impl Flag {
    /// The same flag, not listed in help.
    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// The name as pflag's errors write it: `-m, --memory`.
    pub(crate) fn label(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }
}

/// What a command line gave to one command. All values have been checked by their kinds.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Flags in their order, by long name.
    values: Vec<(&'static str, String)>,
    /// Arguments that are no flags.
    pub arguments: Vec<String>,
}

impl Given {
    /// Records a value.
    pub(crate) fn push(&mut self, long: &'static str, value: String) {
        self.values.push((long, value));
    }

    /// Whether no flag was given.
    pub(crate) fn is_plain(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether the flag was given.
    pub(crate) fn has(&self, long: &str) -> bool {
        self.values.iter().any(|(name, _)| *name == long)
    }

    /// The last value of the flag.
    pub(crate) fn text_opt(&self, long: &str) -> Option<&str> {
        self.values.iter().rev().find(|(name, _)| *name == long).map(|(_, value)| value.as_str())
    }

    /// The last value of the flag, or nothing.
    pub(crate) fn text(&self, long: &str) -> &str {
        self.text_opt(long).unwrap_or_default()
    }

    /// Whether a bool flag was set; `default` when it was not given.
    pub(crate) fn bool_or(&self, long: &str, default: bool) -> bool {
        self.text_opt(long).and_then(parse_bool).unwrap_or(default)
    }

    /// Whether a bool flag was set.
    pub(crate) fn bool(&self, long: &str) -> bool {
        self.bool_or(long, false)
    }

    /// All values of a list flag.
    pub(crate) fn list(&self, long: &str) -> Vec<String> {
        self.values.iter().filter(|(name, _)| *name == long).map(|(_, value)| value.clone()).collect()
    }

    /// All values of a list flag whose values may themselves be lists with commas.
    pub(crate) fn comma_list(&self, long: &str) -> Vec<String> {
        self.list(long).iter().flat_map(|value| crate::opts::csv(value).unwrap_or_default()).collect()
    }

    /// An integer flag; `None` when it was not given.
    pub(crate) fn int(&self, long: &str) -> Option<i64> {
        self.text_opt(long).and_then(|text| kind::parse_int(text).ok())
    }

    /// A size flag in bytes; `None` when it was not given.
    pub(crate) fn bytes(&self, long: &str) -> Option<i64> {
        self.text_opt(long).and_then(|text| kind::parse_size(text).ok())
    }

    /// A duration flag in nanoseconds; `None` when it was not given.
    pub(crate) fn duration(&self, long: &str) -> Option<i64> {
        self.text_opt(long).and_then(|text| yare_gotext::parse_duration(text).ok())
    }

    /// The one argument at this place; the arity has been checked.
    pub(crate) fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).map_or("", String::as_str)
    }
}
