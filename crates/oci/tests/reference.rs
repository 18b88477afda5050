//! References against the tables of distribution/reference.

use serde_json::Value;
use yare_damage::Random;
use yare_oci::reference::{Reference, ReferenceError};

fn table(file: &str, function: &str, variable: &str) -> Vec<Value> {
    let path = format!("{}/tests/data/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let all: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut tables = all["tables"].as_array().into_iter().flatten();
    let found = tables.find(|table| table["func"] == function && table["var"] == variable);
    found
        .and_then(|table| table["cases"].as_array())
        .unwrap_or_else(|| panic!("{function} {variable}"))
        .clone()
}

fn text<'a>(case: &'a Value, member: &str) -> &'a str {
    case[member].as_str().unwrap_or_default()
}

fn parse(text: &str) -> Reference {
    Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn names_are_taken_or_refused() {
    for (variable, valid) in [("validRepoNames", true), ("invalidRepoNames", false)] {
        for case in table("normalize", "TestValidateReferenceName", variable) {
            let name = case.as_str().unwrap_or_default();
            assert_eq!(Reference::parse(name).is_ok(), valid, "{name}");
        }
    }
    for (variable, valid) in [("validRepositoryNames", true), ("invalidRepositoryNames", false)] {
        for case in table("normalize", "TestValidateRemoteName", variable) {
            let name = case.as_str().unwrap_or_default();
            assert_eq!(Reference::parse(name).is_ok(), valid, "{name}");
        }
    }
}

#[test]
fn names_are_normalized() {
    for case in table("normalize", "TestParseRepositoryInfo", "tests") {
        let forms = ["FamiliarName", "FullName", "AmbiguousName"].map(|member| text(&case, member));
        for name in forms.into_iter().filter(|name| !name.is_empty()) {
            let reference = parse(name);
            assert_eq!(reference.domain(), text(&case, "Domain"), "{name}");
            assert_eq!(reference.path(), text(&case, "RemoteName"), "{name}");
            assert_eq!(reference.familiar_name(), text(&case, "FamiliarName"), "{name}");
            assert_eq!(reference.repository(), text(&case, "FullName"), "{name}");
        }
    }
    for case in table("normalize", "TestNormalizedSplitHostname", "tests") {
        let reference = parse(text(&case, "input"));
        assert_eq!((reference.domain(), reference.path()), (text(&case, "domain"), text(&case, "path")));
    }
    for case in table("normalize", "TestParseAnyReference", "tests") {
        // An id is no reference; whoever takes both looks for ids first.
        if case["Expected"].is_string() {
            assert!(
                text(&case, "Reference").starts_with("sha256:")
                    || Reference::parse(text(&case, "Reference")).is_err()
            );
            continue;
        }
        assert_eq!(parse(text(&case, "Reference")).to_string(), text(&case, "Equivalent"));
    }
}

#[test]
fn latest_is_filled_in() {
    for case in table("normalize", "TestParseDockerRef", "tests") {
        let reference = parse(text(&case, "input")).or_latest();
        // Of a tag and a digest, Docker keeps the digest for looking up.
        let reference = match reference.digest() {
            Some(digest) => reference.with_digest(digest),
            None => reference,
        };
        assert_eq!(reference.to_string(), text(&case, "expected"), "{}", text(&case, "name"));
    }
}

#[test]
fn tags_and_digests_are_split_off() {
    for case in table("reference", "TestReferenceParse", "tests") {
        let input = text(&case, "input");
        match case["err"].as_str() {
            Some(expected) => {
                let error = Reference::parse(input).expect_err(input);
                let fits = match expected {
                    "expr:ErrNameContainsUppercase" => matches!(error, ReferenceError::UpperCase(_)),
                    "expr:ErrNameTooLong" => error == ReferenceError::TooLong,
                    "expr:ErrReferenceInvalidFormat" | "expr:ErrNameEmpty" => error == ReferenceError::Format,
                    _ => matches!(error, ReferenceError::Digest(_)),
                };
                assert!(fits, "{input}: {error:?}, expected {expected}");
            }
            None => {
                let reference = parse(input);
                assert_eq!(reference.tag().unwrap_or_default(), text(&case, "tag"), "{input}");
                let digest = reference.digest().map(|digest| digest.to_string()).unwrap_or_default();
                assert_eq!(digest, text(&case, "digest"), "{input}");
                assert!(reference.repository().ends_with(text(&case, "repository")), "{input}");
            }
        }
    }
}

#[test]
fn the_grammar_is_that_of_the_expressions() {
    for case in table("regexp", "TestDomainRegexp", "tests") {
        let input = text(&case, "input");
        // A host name of one word is a domain only with a port, or as `localhost`.
        let plain = !input.contains(['.', ':']) && input != "localhost";
        let reference = Reference::parse(&format!("{input}/name"));
        let taken = reference.is_ok_and(|reference| reference.domain() == input);
        assert_eq!(taken, case["match"] == true && !plain, "{input}");
    }
    for case in table("regexp", "TestFullNameRegexp", "tests") {
        let input = text(&case, "input");
        // These are unnormalized names: `foo_bar.com:8080` has a tag for us, and is refused as a name alone.
        // The expression has no limit of length.
        if input != "foo_bar.com:8080" && input.len() <= 255 {
            assert_eq!(Reference::parse(input).is_ok(), case["match"] == true, "{input}");
        }
    }
    for case in table("regexp", "TestReferenceRegexp", "tests") {
        let input = text(&case, "input");
        assert_eq!(Reference::parse(input).is_ok(), case["match"] == true, "{input}");
    }
}

#[test]
fn the_short_form_reads_as_the_same_reference() {
    let id = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a";
    for path in ["ghcr.io/x", "docker.io/x", "localhost/x/y", &format!("library/{id}"), "library/localhost"] {
        let reference = parse(&format!("docker.io/{path}"));
        assert_eq!(parse(&reference.familiar_name()), reference, "{path}");
    }
    assert_eq!(parse("docker.io/ghcr.io/x").familiar(), "docker.io/ghcr.io/x");
}

#[test]
fn texts_are_those_of_docker() {
    let error = Reference::parse("UPPER CASE").expect_err("upper case");
    assert_eq!(
        error.to_string(),
        "invalid reference format: repository name (library/UPPER CASE) must be lowercase"
    );
    let id = "1a3f5e7d9c1b3a5f7e9d1c3b5a7f9e1d3c5b7a9f1e3d5d7c9b1a3f5e7d9c1b3a";
    assert_eq!(
        Reference::parse(id).expect_err("an id").to_string(),
        format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings")
    );
    assert_eq!(Reference::parse("a b").expect_err("a space").to_string(), "invalid reference format");
}

#[test]
fn what_is_printed_of_any_reference_reads_back() {
    let digest = yare_oci::Digest::of("x");
    let texts = [
        "busybox".to_owned(),
        "docker.io/library/busybox:1.36".to_owned(),
        "localhost:5000/team/a-b__c.d/app:v1".to_owned(),
        format!("[2001:db8::1]:5000/x@{digest}"),
        format!("Host.example/x:tag@{digest}"),
        "a".repeat(64),
    ];
    let pieces = [
        "/",
        ":",
        "@",
        ".",
        "-",
        "__",
        "localhost",
        "library/",
        "docker.io/",
        "index.",
        "A",
        "0",
        "é",
        "sha256:",
    ];
    let mut random = Random::default();
    let mut read = 0;
    for _ in 0..20_000 {
        let text = random.damaged(&texts, &pieces);
        let Ok(reference) = Reference::parse(&text) else { continue };
        read += 1;
        assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference), "full: {text}");
        assert_eq!(Reference::parse(&reference.familiar()).as_ref(), Ok(&reference), "short: {text}");
        let trimmed = reference.trimmed();
        assert_eq!(Reference::parse(&reference.repository()).as_ref(), Ok(&trimmed), "repository: {text}");
        assert_eq!(Reference::parse(&reference.familiar_name()).as_ref(), Ok(&trimmed), "short name: {text}");
        let latest = reference.or_latest();
        assert_eq!(Reference::parse(&latest.to_string()).as_ref(), Ok(&latest), "with a tag: {text}");
    }
    assert!(read > 2000, "only {read} were read: the damage is too much");
}
