//! The public interface against the tables of the field, and against what its daemon answered.

use serde_json::Value;
use yare_dockerfile::expand::{Escape, expand};
use yare_dockerfile::ignore::{Glob, Ignore};
use yare_dockerfile::instruction::{Command, Instruction, Network, Script, Security};
use yare_dockerfile::text::parse_ports;
use yare_dockerfile::{Dockerfile, parse, parse_trigger};

fn data(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn table(file: &str, function: &str, variable: &str) -> Vec<Value> {
    let all = data(file);
    let mut tables = all["tables"].as_array().into_iter().flatten();
    let found = tables.find(|table| table["func"] == function && table["var"] == variable);
    let found = found.unwrap_or_else(|| panic!("{function} {variable}"));
    found["cases"].as_array().unwrap_or_else(|| panic!("{function} {variable}")).clone()
}

fn text<'a>(case: &'a Value, member: &str) -> &'a str {
    case[member].as_str().unwrap_or_default()
}

fn fails(dockerfile: &str) -> String {
    match parse(dockerfile.as_bytes()) {
        Err(error) => error.message().to_owned(),
        Ok(_) => panic!("{dockerfile:?} is taken"),
    }
}

fn first_step(dockerfile: &str) -> Instruction {
    let parsed = parse(dockerfile.as_bytes()).unwrap_or_else(|error| panic!("{dockerfile}: {error}"));
    parsed.stages[0].steps[0].instruction.clone()
}

#[test]
fn expansions() {
    let cases = table("shell-lex", "TestProcessWithMatches", "tc");
    assert_eq!(cases.len(), 47);
    for case in cases {
        let lookup = |name: &str| case["envs"][name].as_str().map(str::to_owned);
        let result = expand(text(&case, "input"), &lookup, Escape::Backslash);
        let names = |member: &str| -> Vec<String> {
            case[member].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
        };
        match result {
            Err(error) => {
                assert_eq!(case["expectedErr"], true, "{case}: {error}");
            }
            Ok(expanded) => {
                assert_ne!(case["expectedErr"], true, "{case}");
                assert_eq!(expanded.text, text(&case, "expected"), "{case}");
                assert_eq!(expanded.used.into_iter().collect::<Vec<_>>(), names("matches"), "{case}");
                assert_eq!(expanded.undefined.into_iter().collect::<Vec<_>>(), names("unmatched"), "{case}");
            }
        }
    }
}

#[test]
fn instructions_want_their_arguments() {
    for (function, why) in [
        ("TestCommandsExactlyOneArgument", "requires exactly one argument"),
        ("TestCommandsAtLeastOneArgument", "requires at least one argument"),
        ("TestCommandsNoDestinationArgument", "requires at least two arguments"),
    ] {
        for case in table("instr-parse", function, "commands") {
            let keyword = case.as_str().unwrap_or_default();
            let error = fails(&format!("FROM a\n{keyword}"));
            assert!(error.contains(&format!("{keyword} {why}")), "{error}");
        }
    }
    for case in table("instr-parse", "TestCommandsBlankNames", "commands") {
        let keyword = case.as_str().unwrap_or_default();
        assert!(
            fails(&format!("FROM a\n{keyword} =x")).ends_with(&format!("{keyword} names can not be blank"))
        );
    }
    for case in table("instr-parse", "TestErrorCases", "cases") {
        let error = fails(&format!("FROM a\n{}", text(&case, "dockerfile")));
        assert!(error.contains(text(&case, "expectedError")), "{case}: {error}");
    }
}

#[test]
fn heredocs_of_copy_and_run() {
    for case in table("instr-parse_heredoc", "TestCopyHeredoc", "cases") {
        let Instruction::Copy(copy) = first_step(&format!("FROM a\n{}", text(&case, "dockerfile"))) else {
            panic!("{case}")
        };
        let expected = &case["sourcesAndDest"];
        assert_eq!(copy.paths.destination, text(expected, "DestPath"), "{case}");
        let sources = expected["SourcePaths"].as_array().cloned().unwrap_or_default();
        assert_eq!(Value::from(copy.paths.sources), Value::from(sources), "{case}");
        let contents = expected["SourceContents"].as_array().cloned().unwrap_or_default();
        let own: Vec<Value> = copy.paths.contents.iter().map(|content| {
            serde_json::json!({"Path": content.path, "Data": &*content.data, "Expand": content.expand})
        }).collect();
        assert_eq!(own, contents, "{case}");
    }
    for case in table("instr-parse_heredoc", "TestRunHeredoc", "cases") {
        let Instruction::Run(run) = first_step(&format!("FROM a\n{}", text(&case, "dockerfile"))) else {
            panic!("{case}")
        };
        let (argv, shell, heredocs) = match run.command {
            Command::Exec(argv) => (argv, false, Vec::new()),
            Command::Shell { line, heredocs } => (vec![line], true, heredocs),
        };
        assert_eq!(Value::from(argv), case["command"], "{case}");
        assert_eq!(Value::from(shell), case["shell"], "{case}");
        for (heredoc, expected) in heredocs.iter().zip(case["files"].as_array().into_iter().flatten()) {
            assert_eq!(heredoc.name, text(expected, "Name"), "{case}");
            assert_eq!(heredoc.content, text(expected, "Data"), "{case}");
            assert_eq!(heredoc.chomp, expected["Chomp"].as_bool().unwrap_or(false), "{case}");
        }
    }
}

#[test]
fn ports() {
    for case in table("llb-convert_expose", "TestParsePortEmptyContainerPort", "tests") {
        let error = parse_ports(text(&case, "spec")).expect_err("refused").to_string();
        assert_eq!(error, text(&case, "expError"), "{case}");
    }
    for case in table("llb-convert_expose", "TestPartPortIPV6", "cases") {
        let ports = parse_ports(text(&case, "spec")).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(Value::from(ports), case["expected"], "{case}");
    }
}

/// What the daemon was asked to build, and what it said.
fn measured() -> Vec<Value> {
    data("dockerfile-build-vectors")["cases"].as_array().cloned().unwrap_or_default()
}

/// Flags that the measured daemon's own front end did not know yet.
const NEWER: &[&str] = &["unknown flag: --security", "unknown flag: --parents"];

/// What is found out only when a build is evaluated or run.
const LATER: &[&str] = &[
    "failed to process",
    "failed to parse stage name",
    "invalid port",
    "invalid signal",
    "lint violation",
    "invalid syntax",
    "failed to resolve source metadata",
];

#[test]
fn the_daemons_errors() {
    let (mut checked, mut later, mut newer, mut targets) = (0, 0, 0, 0);
    for case in measured() {
        let parsed: Result<Dockerfile, _> = parse(text(&case, "dockerfile").as_bytes());
        let said = case["error"][0].as_str().unwrap_or_default();
        let said = said.trim_start_matches("ERROR: failed to build: failed to solve: ");
        // Only what the check alone found, too, is a fault of the file.
        let at_build = case["check_build_error"].is_null() && !said.contains("parse error");
        match parsed {
            Err(error) => {
                assert_eq!(error.message(), said, "{case}");
                assert!(!error.render("Dockerfile").is_empty());
                checked += 1;
            }
            Ok(_) if NEWER.iter().any(|known| said.contains(known)) => newer += 1,
            Ok(file) if said.starts_with("target stage") => {
                let target = case["args"][1].as_str();
                assert_eq!(file.target(target).expect_err("no target"), said, "{case}");
                targets += 1;
            }
            Ok(_) => {
                assert!(at_build || LATER.iter().any(|known| said.contains(known)), "{case}");
                later += usize::from(!said.is_empty());
            }
        }
    }
    assert_eq!((checked, newer, targets), (18, 2, 1), "{later} later");
}

#[test]
fn a_heredoc_alone_is_a_script() {
    let script = |dockerfile: &str| match first_step(dockerfile) {
        Instruction::Run(run) => run.command.script(),
        other => panic!("{other:?}"),
    };
    assert_eq!(script("FROM a\nRUN <<-E\n\ta\n\tE\n"), Script::Shell("a\n".into()));
    assert_eq!(script("FROM a\nRUN cat <<E\na\nE\n"), Script::Shell("cat <<E\na\nE".into()));
    let file = Script::File { name: "E".into(), content: "#!/bin/x\n".into() };
    assert_eq!(script("FROM a\nRUN <<E\n#!/bin/x\nE\n"), file);
}

#[test]
fn ignore_files() {
    let written = "test1\n/test2\n/a/file/here\n\nlastfile\n# this is a comment\n! /inverted/abs/path\n";
    let parsed = Ignore::parse(written).expect("an ignore file");
    assert_eq!(parsed.patterns().len(), 5);
    for (path, ignored) in [("test1", true), ("test2/x", true), ("a/file/here", true), ("here", false)] {
        assert_eq!(parsed.is_ignored(path), ignored, "{path}");
    }
    for case in table("patternmatcher", "TestMatches", "tests") {
        let pattern = Ignore::parse(text(&case, "pattern")).expect("a pattern");
        assert_eq!(Value::from(pattern.is_ignored(text(&case, "text"))), case["pass"], "{case}");
    }
    for case in table("patternmatcher", "TestMatches", "multiPatternTests") {
        let patterns = case["patterns"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let pattern = Ignore::from_patterns(patterns).expect("patterns");
        assert_eq!(Value::from(pattern.is_ignored(text(&case, "text"))), case["pass"], "{case}");
    }
    for case in table("patternmatcher", "", "matchTests") {
        let pattern = Ignore::from_patterns([text(&case, "pattern")]);
        assert_eq!(pattern.is_err(), !case["err"].is_null(), "{case}");
        if let Ok(pattern) = pattern {
            assert_eq!(Value::from(pattern.is_ignored(text(&case, "s"))), case["match"], "{case}");
            // A plain pattern does not match what is below a match.
            let alone = Glob::new(text(&case, "pattern")).expect("a pattern").matches(text(&case, "s"));
            assert!(!alone || case["match"] == true, "{case}");
        }
    }
}

/// The files of the context that the daemon's answers are about.
const CONTEXT: &[&str] = &[
    ".dockerignore",
    "Dockerfile",
    "README.md",
    "a.txt",
    "abslink",
    "arch.tar.gz",
    "b.txt",
    "dir",
    "dir/.hidden",
    "dir/c.txt",
    "dir/sub",
    "dir/sub/d.txt",
    "dirlink",
    "empty",
    "exec.sh",
    "hard.txt",
    "link",
    "node_modules",
    "node_modules/m",
    "node_modules/m/i.js",
    "priv.txt",
    "secret.log",
    "sp ace.txt",
    "uplink",
];

#[test]
fn what_the_daemon_ignored() {
    let mut count = 0;
    for case in measured() {
        let (ignore, Some(files)) = (text(&case, "ignore"), case["files"].as_array()) else { continue };
        if ignore.is_empty() || text(&case, "dockerfile") != "FROM scratch\nCOPY . /\n" {
            continue;
        }
        let names: Vec<&str> = files
            .iter()
            .filter_map(Value::as_str)
            .filter_map(|file| {
                ["dir ", "file ", "symlink ", "hardlink "]
                    .iter()
                    .find_map(|kind| Some(file.split_once(&format!(" {kind}"))?.0))
            })
            .collect();
        let parsed = Ignore::parse(ignore).expect("an ignore file");
        for path in CONTEXT {
            // A directory is made when anything in it is taken.
            let below = |other: &&&str| other.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
            let seen = !parsed.is_ignored(path)
                || CONTEXT.iter().filter(below).any(|other| !parsed.is_ignored(other));
            assert_eq!(seen, names.contains(path), "{path}: {case}");
        }
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn triggers_keep_their_heredocs() {
    let file = "FROM a\nONBUILD COPY --chmod=600 <<-'E' \\\n  /f\n\tx $y\n\tE\nONBUILD RUN <<A cat <<B\na\nA\nb\nB\nUSER u\n";
    let parsed = parse(file.as_bytes()).expect("a Dockerfile");
    let [copy, run, _] = parsed.stages[0].steps.as_slice() else { panic!("{parsed:?}") };
    let trigger = |instruction: &Instruction| match instruction {
        Instruction::OnBuild(trigger) => parse_trigger(&trigger.expression).expect("a trigger").instruction,
        other => panic!("{other:?}"),
    };
    let Instruction::Copy(copy) = trigger(&copy.instruction) else { panic!("{copy:?}") };
    assert_eq!((copy.paths.destination.as_str(), copy.chmod.as_deref()), ("/f", Some("600")));
    assert_eq!((&*copy.paths.contents[0].data, copy.paths.contents[0].expand), ("x $y\n", false));
    let Instruction::Run(run) = trigger(&run.instruction) else { panic!("{run:?}") };
    assert_eq!(run.command.script(), Script::Shell("<<A cat <<B\na\nA\nb\nB".into()));
    for wrong in ["FROM x", "ONBUILD RUN x", "RUN a\nRUN b", "BOGUS", ""] {
        assert!(parse_trigger(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn all_flags_of_files() {
    let flags = "--from=s --chown=a:b --chmod=u+x --link --parents --exclude=*.o --exclude=**/t";
    let Instruction::Copy(copy) = first_step(&format!("FROM a\nCOPY {flags} [\"x y\", \"/z\"]")) else {
        panic!()
    };
    assert_eq!((copy.from.as_deref(), copy.chown.as_deref()), (Some("s"), Some("a:b")));
    assert!(copy.link && copy.parents);
    assert_eq!(copy.exclude, ["*.o", "**/t"]);
    assert_eq!((copy.paths.sources, copy.paths.destination), (vec!["x y".to_owned()], "/z".to_owned()));
    let flags = "--checksum=sha256:1 --keep-git-dir --unpack=false --link=false --exclude=a";
    let Instruction::Add(add) = first_step(&format!("FROM a\nADD {flags} https://x/y /z")) else { panic!() };
    assert_eq!((add.keep_git_dir, add.unpack, add.link), (Some(true), Some(false), false));
    assert_eq!(add.checksum.as_deref(), Some("sha256:1"));
    assert!(fails("FROM a\nADD --from=x a /z").contains("unknown flag: --from"));
}

#[test]
fn all_flags_of_run() {
    let flags = "--mount=target=/a --network=none --security=insecure --device=vendor.com/gpu=all,required --device=required=false,name=v.com/c";
    let Instruction::Run(run) = first_step(&format!("FROM a\nRUN {flags} -- --x")) else { panic!() };
    assert_eq!((run.network, run.security), (Network::None, Security::Insecure));
    assert_eq!((run.devices[0].name.as_str(), run.devices[0].required), ("vendor.com/gpu=all", true));
    assert_eq!((run.devices[1].name.as_str(), run.devices[1].required), ("v.com/c", false));
    assert_eq!(
        (run.mounts.len(), run.command.argv(&["sh".into()])),
        (1, vec!["sh".to_owned(), "--x".into()])
    );
    assert!(
        fails("FROM a\nRUN --network=hots x").contains("invalid network mode \"hots\" (did you mean host?)")
    );
    assert!(fails("FROM a\nRUN --device= x").contains("device name is required"));
    for (wrong, right) in [
        ("v.com/c=d,bogus", "invalid field 'bogus' must be a key=value pair"),
        ("v.com/c=d,bogus=1", "unexpected key 'bogus' in 'bogus=1'"),
        ("v.com/c=d,name=e", "device name already set to v.com/c=d"),
        ("v.com/c=d,required=maybe", "invalid value for required: maybe"),
    ] {
        let said = fails(&format!("FROM a\nRUN --device={wrong} x"));
        assert!(said.contains(right), "{said}");
    }
}
