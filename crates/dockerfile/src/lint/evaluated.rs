//! Rules about what a build finds out.

use super::{Rule, Warning};
use crate::Span;
use crate::args::is_proxy;
use crate::ignore::{Ignore, clean};
use crate::suggest::nearest;
use yare_gotext::quote;
use yare_oci::Platform;

/// Variables that an instruction names and nothing defines. `undefined` is what expansion found, `declared`
/// the stage's `ARG`s so far (which may have no value), `known` the names that have one.
pub fn undefined_vars<'a>(
    span: Span,
    undefined: impl IntoIterator<Item = &'a str>,
    declared: &[&str],
    known: &[&str],
) -> Vec<Warning> {
    let undefined = undefined.into_iter().filter(|name| !declared.contains(name) && !is_proxy(name));
    let warnings = undefined.map(|name| {
        let near = nearest(name, known.iter().copied()).map(|near| format!(" (did you mean ${near}?)"));
        let message = format!("Usage of undefined variable '${name}'{}", near.unwrap_or_default());
        Warning::new(Rule::UndefinedVar, span, message)
    });
    warnings.collect()
}

/// A source of `COPY` (or `ADD`) that the ignore file hides. Nothing is said if the file takes things back in:
/// which parts of a directory are left can't be told from its name.
pub fn copy_ignored(span: Span, is_add: bool, source: &str, ignore: &Ignore) -> Option<Warning> {
    if ignore.is_empty() || ignore.has_negations() {
        return None;
    }
    let cleaned = clean(source);
    let path = cleaned.trim_start_matches('/');
    let hidden = match path {
        // The context itself is never hidden, but everything in it may be.
        "" | "." => {
            ignore.patterns().iter().any(|pattern| matches!(pattern.text.as_str(), "*" | "**" | "**/*"))
        }
        path => ignore.is_ignored(path),
    };
    let verb = if is_add { "Add" } else { "Copy" };
    let message = format!("Attempting to {verb} file {} that is excluded by .dockerignore", quote(&cleaned));
    hidden.then(|| Warning::new(Rule::CopyIgnoredFile, span, message))
}

/// A base image of another platform than the build's.
pub fn base_platform(span: Span, image: &str, expected: &Platform, actual: &Platform) -> Option<Warning> {
    let message = format!(
        "Base image {image} was pulled with platform {}, expected {} for current build",
        quote(&actual.to_string()),
        quote(&expected.to_string())
    );
    let same = expected.os == actual.os && expected.architecture == actual.architecture;
    (!same).then(|| Warning::new(Rule::InvalidBaseImagePlatform, span, message))
}

/// A name of `ENV` or `ARG` that sounds like a secret.
pub fn secret_name(span: Span, keyword: &str, name: &str) -> Option<Warning> {
    const SECRET: &[&str] = &[
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    let secret = has(SECRET) && !has(&["public", "file", "version"]);
    let message =
        format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {})", quote(name));
    secret.then(|| Warning::new(Rule::SecretsUsedInArgOrEnv, span, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undefined_variables_are_named_with_a_near_one() {
        let warnings = undefined_vars(
            Span::default(),
            ["PTAH", "HTTP_PROXY", "DECLARED"],
            &["DECLARED"],
            &["PATH", "HOME"],
        );
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        assert_eq!(warning.message, "Usage of undefined variable '$PTAH' (did you mean $PATH?)");
    }

    #[test]
    fn hidden_sources_are_told_unless_something_is_taken_back() {
        let ignore = Ignore::parse("a.txt\ndir\n").expect("patterns");
        let warning = copy_ignored(Span::default(), false, "./dir/x", &ignore).expect("a warning");
        assert_eq!(warning.message, "Attempting to Copy file \"dir/x\" that is excluded by .dockerignore");
        assert_eq!(copy_ignored(Span::default(), true, ".", &ignore), None);
        assert_eq!(copy_ignored(Span::default(), true, "b", &ignore), None);
        let all = Ignore::parse("*").expect("patterns");
        assert!(copy_ignored(Span::default(), true, "/", &all).is_some());
        let back = Ignore::parse("*\n!x").expect("patterns");
        assert_eq!(copy_ignored(Span::default(), true, "y", &back), None);
    }

    #[test]
    fn names_that_sound_like_secrets() {
        for (name, secret) in [
            ("API_KEY", true),
            ("DATABASE_PASSWORD", true),
            ("secret_MESSAGE", true),
            ("PUBLIC_KEY", false),
            ("TOKEN_FILE", false),
            ("KEYBOARD", false),
        ] {
            assert_eq!(secret_name(Span::default(), "ENV", name).is_some(), secret, "{name}");
        }
        let warning = secret_name(Span::default(), "ARG", "TOKEN").expect("a warning");
        assert_eq!(warning.message, "Do not use ARG or ENV instructions for sensitive data (ARG \"TOKEN\")");
    }

    #[test]
    fn platforms_are_compared_without_their_variant() {
        let (amd, arm) = (Platform::new("linux", "amd64", ""), Platform::new("linux", "arm64", "v8"));
        let warning = base_platform(Span::default(), "a:1", &amd, &arm).expect("a warning");
        assert!(warning.message.starts_with("Base image a:1 was pulled with platform \"linux/arm64"));
        assert_eq!(base_platform(Span::default(), "a:1", &amd, &amd), None);
    }
}
