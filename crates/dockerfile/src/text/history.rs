//! What an image's history says of a step (`created_by`), as BuildKit writes it. Images of ours then compare
//! equal with images of the field.
//!
//! Values are those after expansion.

use crate::instruction::{Add, ArgDeclaration, Copy, Paths};
use yare_gotext::format_duration;
use yare_gotext::quote;
use yare_oci::Healthcheck;

/// `comment` of every step that a Dockerfile made.
pub const COMMENT: &str = "buildkit.dockerfile.v0";

/// Steps that change files end so.
const CHANGES_FILES: &str = " # buildkit";

/// `RUN |2 A=1 B=2 /bin/sh -c …`: arguments that have a value, in the order of their declaration, then the
/// program.
pub fn run(args: &[(String, String)], argv: &[String]) -> String {
    let mut words = Vec::with_capacity(args.len() + argv.len() + 2);
    words.push("RUN".to_owned());
    if !args.is_empty() {
        words.push(format!("|{}", args.len()));
        words.extend(args.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(argv.iter().cloned());
    words.join(" ") + CHANGES_FILES
}

/// `COPY --chown=1 a b /c`.
pub fn copy(copy: &Copy) -> String {
    let parents = if copy.parents { " --parents" } else { "" };
    files(&format!("COPY{parents}"), copy.chown.as_deref(), copy.chmod.as_deref(), &copy.paths)
}

/// `ADD a /b`.
pub fn add(add: &Add) -> String {
    files("ADD", add.chown.as_deref(), add.chmod.as_deref(), &add.paths)
}

fn files(keyword: &str, chown: Option<&str>, chmod: Option<&str>, paths: &Paths) -> String {
    let mut text = keyword.to_owned();
    text.extend(chown.map(|owner| format!(" --chown={owner}")));
    text.extend(chmod.map(|mode| format!(" --chmod={mode}")));
    text.extend(paths.sources.iter().map(|source| format!(" {source}")));
    text.extend(paths.contents.iter().map(|content| format!(" <<{}", content.path)));
    format!("{text} {}{CHANGES_FILES}", paths.destination)
}

/// `ENV A=1 B=2` or `LABEL a=b`.
pub fn pairs(keyword: &str, pairs: &[(String, String)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!(" {key}={value}"));
    keyword.to_owned() + &pairs.collect::<String>()
}

/// `ARG A=1 B`.
pub fn arg(declarations: &[ArgDeclaration]) -> String {
    let words = declarations.iter().map(|arg| match &arg.default {
        Some(value) => format!(" {}={value}", arg.name),
        None => format!(" {}", arg.name),
    });
    "ARG".to_owned() + &words.collect::<String>()
}

/// `CMD ["a" "b"]`, `ENTRYPOINT [...]`.
pub fn command(keyword: &str, argv: &[String]) -> String {
    format!("{keyword} {}", quoted(argv))
}

/// `EXPOSE [80/tcp]`, `VOLUME [/a /b]`, `SHELL [/bin/sh -c]`.
pub fn list(keyword: &str, words: &[String]) -> String {
    format!("{keyword} [{}]", words.join(" "))
}

/// `WORKDIR /a`, `USER u`, `STOPSIGNAL s`, `MAINTAINER m`.
pub fn word(keyword: &str, value: &str) -> String {
    format!("{keyword} {value}")
}

/// `HEALTHCHECK &{["CMD" "a"] "0s" "0s" "0s" "0s" '\x00'}`.
pub fn healthcheck(check: &Healthcheck) -> String {
    let times = [check.interval, check.timeout, check.start_period, check.start_interval];
    let times: Vec<String> = times.iter().map(|time| quote(&format_duration(*time))).collect();
    format!("HEALTHCHECK &{{{} {} {}}}", quoted(&check.test), times.join(" "), quoted_char(check.retries))
}

fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("[{}]", words.join(" "))
}

/// Go's `%q` of a number: the character of that number, in single quotes.
fn quoted_char(number: i64) -> String {
    match u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}') {
        '\'' => r"'\''".into(),
        '"' => "'\"'".into(),
        c => {
            let quoted = quote(&c.to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn healthchecks_look_like_go_s_structs() {
        let test = vec!["CMD".into(), "a \"b\"".into()];
        let check = Healthcheck { test, interval: 5_000_000_000, retries: 3, ..Healthcheck::default() };
        assert_eq!(healthcheck(&check), r#"HEALTHCHECK &{["CMD" "a \"b\""] "5s" "0s" "0s" "0s" '\x03'}"#);
        assert_eq!(
            (quoted_char(39), quoted_char(34), quoted_char(10)),
            (r"'\''".into(), "'\"'".into(), r"'\n'".into())
        );
    }

    #[test]
    fn files_show_owner_and_mode() {
        let copied = Copy {
            paths: Paths {
                sources: vec!["a".into(), "b".into()],
                contents: vec![],
                destination: "/c".into(),
            },
            chown: Some("1:2".into()),
            chmod: Some("600".into()),
            parents: true,
            link: true,
            ..Copy::default()
        };
        assert_eq!(copy(&copied), "COPY --parents --chown=1:2 --chmod=600 a b /c # buildkit");
    }
}
