//! Reading a command line against a list of flags.

use super::{Flag, Given, Kind};

/// What is wrong with a command line, in pflag's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Misuse {
    /// `--help` (or `-h` where it has no other meaning): not an error.
    Help,
    /// A flag that does not exist, lacks its value, or has a bad one.
    Flag(String),
}

/// Reads `words` against `flags`.
///
/// With `stop_at_positional` the first word that is no flag ends the flags: it and all that follow are
/// arguments, whatever they look like.
pub(crate) fn parse<'f>(
    flags: impl Iterator<Item = &'f Flag> + Clone,
    words: &[String],
    stop_at_positional: bool,
) -> Result<Given, Misuse> {
    let mut given = Given::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            given.arguments.extend(words.by_ref().cloned());
        } else if let Some(long) = word.strip_prefix("--") {
            parse_long(&mut given, flags.clone(), long, &mut words)?;
        } else if word.len() > 1 && word.starts_with('-') {
            parse_short(&mut given, flags.clone(), &word[1..], &mut words)?;
        } else {
            given.arguments.push(word.clone());
            if stop_at_positional {
                given.arguments.extend(words.by_ref().cloned());
            }
        }
    }
    Ok(given)
}

type Words<'w> = std::slice::Iter<'w, String>;

fn parse_long<'f>(
    given: &mut Given,
    mut flags: impl Iterator<Item = &'f Flag>,
    word: &str,
    words: &mut Words<'_>,
) -> Result<(), Misuse> {
    let (name, value) = match word.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (word, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(Misuse::Flag(format!("bad flag syntax: --{word}")));
    }
    let Some(flag) = flags.find(|flag| flag.long == name) else {
        if name == "help" {
            return Err(Misuse::Help);
        }
        return Err(Misuse::Flag(format!("unknown flag: --{name}")));
    };
    let value = match value {
        Some(value) => value,
        None if flag.kind == Kind::Bool => "true".to_owned(),
        None => match words.next() {
            Some(value) => value.clone(),
            None => return Err(Misuse::Flag(format!("flag needs an argument: --{name}"))),
        },
    };
    accept(given, flag, value)
}

fn parse_short<'f>(
    given: &mut Given,
    flags: impl Iterator<Item = &'f Flag> + Clone,
    letters: &str,
    words: &mut Words<'_>,
) -> Result<(), Misuse> {
    let mut rest = letters;
    while let Some(letter) = rest.chars().next() {
        let here = rest;
        rest = &rest[letter.len_utf8()..];
        let Some(flag) = flags.clone().find(|flag| flag.short == Some(letter)) else {
            if letter == 'h' {
                return Err(Misuse::Help);
            }
            return Err(Misuse::Flag(format!("unknown shorthand flag: '{letter}' in -{here}")));
        };
        let value = if let Some(value) = rest.strip_prefix('=') {
            rest = "";
            value.to_owned()
        } else if flag.kind == Kind::Bool {
            "true".to_owned()
        } else if !rest.is_empty() {
            std::mem::take(&mut rest).to_owned()
        } else if let Some(value) = words.next() {
            value.clone()
        } else {
            return Err(Misuse::Flag(format!("flag needs an argument: '{letter}' in -{here}")));
        };
        accept(given, flag, value)?;
    }
    Ok(())
}

fn accept(given: &mut Given, flag: &Flag, value: String) -> Result<(), Misuse> {
    if let Err(why) = flag.kind.check(&value) {
        let quoted = crate::opts::quote(&value);
        return Err(Misuse::Flag(format!("invalid argument {quoted} for \"{}\" flag: {why}", flag.label())));
    }
    given.push(flag.long, value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::flag;

    const FLAGS: &[Flag] = &[
        flag("interactive", Some('i'), Kind::Bool, "", ""),
        flag("tty", Some('t'), Kind::Bool, "", ""),
        flag("name", None, Kind::Text, "", ""),
        flag("publish", Some('p'), Kind::List, "", ""),
        flag("memory", Some('m'), Kind::Bytes, "", ""),
    ];

    fn read(line: &str, stop: bool) -> Result<Given, Misuse> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(FLAGS.iter(), &words, stop)
    }

    fn misuse(line: &str) -> String {
        match read(line, false).unwrap_err() {
            Misuse::Flag(text) => text,
            Misuse::Help => "help".to_owned(),
        }
    }

    #[test]
    fn the_ways_to_write_a_flag() {
        let given =
            read("-it -p80:80 -p 81:81 -p=82 --publish=83 --publish 84 --name=x img ls -l", true).unwrap();
        assert!(given.bool("interactive") && given.bool("tty"));
        assert_eq!(given.list("publish"), ["80:80", "81:81", "82", "83", "84"]);
        assert_eq!(given.text("name"), "x");
        assert_eq!(given.arguments, ["img", "ls", "-l"]);
    }

    #[test]
    fn flags_may_follow_arguments_unless_they_belong_to_the_program() {
        assert!(read("x -t", false).unwrap().bool("tty"));
        assert!(!read("x -t", true).unwrap().bool("tty"));
        assert_eq!(read("-- -t --", false).unwrap().arguments, ["-t", "--"]);
        assert_eq!(read("- x", false).unwrap().arguments, ["-", "x"]);
        assert_eq!(read("-itp 1 -- x", true).unwrap().list("publish"), ["1"]);
    }

    #[test]
    fn bools_take_values_only_after_an_equals_sign() {
        let given = read("--tty=false -i=0 x", false).unwrap();
        assert!(given.has("tty") && !given.bool("tty") && !given.bool_or("interactive", true));
        assert_eq!(given.arguments, ["x"]);
    }

    #[test]
    fn errors_are_pflags() {
        assert_eq!(misuse("--frob"), "unknown flag: --frob");
        assert_eq!(misuse("-tz"), "unknown shorthand flag: 'z' in -z");
        assert_eq!(misuse("-tzi"), "unknown shorthand flag: 'z' in -zi");
        assert_eq!(misuse("--name"), "flag needs an argument: --name");
        assert_eq!(misuse("-p"), "flag needs an argument: 'p' in -p");
        assert_eq!(misuse("--help"), "help");
        assert_eq!(misuse("-h"), "help");
        assert_eq!(
            misuse("-m 10x"),
            "invalid argument \"10x\" for \"-m, --memory\" flag: invalid suffix: 'x'"
        );
        assert_eq!(
            misuse("--tty=maybe"),
            "invalid argument \"maybe\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
    }
}
