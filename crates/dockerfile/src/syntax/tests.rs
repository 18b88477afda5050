//! The parser against the field's own test files and tables.

use super::*;
use crate::expand::Escape;
use crate::instruction::{Command, Context, Instruction, Parsed, instruction};
use serde_json::Value;
use yare_gotext::quote;

fn data(name: &str) -> Value {
    let path = format!("{}/tests/data/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn table(file: &str, function: &str, variable: &str) -> Value {
    let all = data(file);
    let mut tables = all["tables"].as_array().into_iter().flatten();
    let found = tables.find(|table| table["func"] == function && table["var"] == variable);
    found.unwrap_or_else(|| panic!("{function} {variable}"))["cases"].clone()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(|word| format!(" {}", quote(word))).collect()
}

fn command(command: &Command) -> String {
    match command {
        Command::Exec(argv) => quoted(argv.iter().map(String::as_str)),
        Command::Shell { line, .. } if line.is_empty() => String::new(),
        Command::Shell { line, .. } => quoted([line.as_str()]),
    }
}

/// A statement as the field's parser prints its tree.
fn dump(syntax: &Syntax<'_>, statement: &Statement) -> String {
    let context = Context { source: syntax.source, statement, escape: syntax.directives.escape };
    let mut dump = format!("({}", statement.keyword.to_lowercase());
    if !statement.flags.is_empty() {
        let flags = quoted(statement.flags.iter().map(|flag| flag.text.as_str()));
        dump.push_str(&format!(" [{}]", flags.trim()));
    }
    let words = |words: &[String]| quoted(words.iter().map(String::as_str));
    let arguments = match instruction(&context) {
        Ok(Parsed::From(from)) => quoted([from.base.as_str()]),
        Ok(Parsed::Instruction(parsed)) => match parsed {
            Instruction::Env(crate::instruction::Env(pairs))
            | Instruction::Label(crate::instruction::Label(pairs)) => {
                let sign = |legacy: bool| if legacy { "" } else { "=" };
                let pairs = pairs.iter();
                pairs.map(|pair| quoted([pair.key.as_str(), &pair.value, sign(pair.legacy)])).collect()
            }
            Instruction::Arg(arg) => {
                let declared = arg.0.into_iter().map(|arg| match arg.default {
                    Some(default) => format!("{}={default}", arg.name),
                    None => arg.name,
                });
                words(&declared.collect::<Vec<_>>())
            }
            Instruction::Copy(copy) => words(&[copy.paths.sources, vec![copy.paths.destination]].concat()),
            Instruction::Add(add) => words(&[add.paths.sources, vec![add.paths.destination]].concat()),
            Instruction::Run(run) => command(&run.command),
            Instruction::Cmd(cmd) => command(&cmd.0),
            Instruction::Entrypoint(entrypoint) => command(&entrypoint.0),
            Instruction::HealthCheck(check) => format!(" \"CMD\"{}", words(&check.0.test[1..])),
            Instruction::Expose(ports) => words(&ports.0),
            Instruction::Volume(paths) => words(&paths.0),
            Instruction::User(user) => quoted([user.0.as_str()]),
            Instruction::Workdir(path) => quoted([path.0.as_str()]),
            Instruction::OnBuild(_) => format!(" {}", self::dump(syntax, &statement.inner())),
            other => panic!("no test file has {other:?}"),
        },
        // Two of the files have flags and words that no instruction takes.
        Err(_) if statement.keyword == "HEALTHCHECK" => {
            quoted(statement.rest.text.splitn(2, ' ').filter(|word| !word.is_empty()))
        }
        Err(_) => {
            let words = context.list().expect("words");
            quoted(words.iter().map(|word| word.text.as_str()))
        }
    };
    dump + &arguments + ")"
}

#[test]
fn the_fields_test_files_read_as_they_should() {
    let folder = format!("{}/tests/data/parser-testfiles", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect(&folder) {
        let path = entry.expect("entry").path();
        let file = std::fs::read(path.join("Dockerfile")).expect("Dockerfile");
        let syntax = read(&file).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let dumped: Vec<String> = syntax.statements.iter().map(|one| dump(&syntax, one)).collect();
        let expected = std::fs::read_to_string(path.join("result")).expect("result");
        let expected: Vec<String> = expected.trim_end().lines().map(ports_sorted).collect();
        assert_eq!(dumped, expected, "{}", path.display());
        count += 1;
    }
    assert_eq!(count, 33);
}

/// The tree has ports as written; instructions have them sorted.
fn ports_sorted(line: &str) -> String {
    let Some(ports) = line.strip_prefix("(expose ") else { return line.to_owned() };
    let mut ports: Vec<&str> = ports.trim_end_matches(')').split(' ').collect();
    ports.sort_unstable();
    format!("(expose {})", ports.join(" "))
}

#[test]
fn wrong_files_are_refused() {
    let folder = format!("{}/tests/data/parser-testfiles-negative", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect(&folder) {
        let path = entry.expect("entry").path();
        let file = std::fs::read(path.join("Dockerfile")).expect("Dockerfile");
        assert!(crate::parse(&file).is_err(), "{}", path.display());
        count += 1;
    }
    assert_eq!(count, 4);
}

#[test]
fn json_is_an_array_of_strings_or_none() {
    for case in list(&table("parser-json", "", "invalidJSONArraysOfStrings")) {
        assert!(json_strings(text(case)).is_err(), "{case}");
    }
    let valid = table("parser-json", "", "validJSONArraysOfStrings");
    for (input, expected) in valid.as_object().expect("map") {
        let strings = json_strings(input).expect(input).expect(input);
        assert_eq!(Value::from(strings), *expected, "{input}");
    }
    assert_eq!(json_strings("['a']"), Ok(None));
}

#[test]
fn words_keep_their_quotes() {
    for case in list(&table("parser-parser", "TestParseWords", "tests")) {
        let input = Word { text: text(&case["input"][0]).to_owned(), at: 0 };
        let words: Vec<String> =
            quoted_words(&input, Escape::Backslash.char()).into_iter().map(|word| word.text).collect();
        assert_eq!(Value::from(words), case["expect"], "{}", input.text);
    }
}

/// What the table of heredocs was taken from: the table itself has only what comes out.
const HEREDOCS: &str = "FROM alpine:3.6\n\nENV NAME=me\nRUN ls\nUSER <<INVALID\nINVALID\n\
    RUN <<EMPTY\nEMPTY\nRUN 3<<EMPTY2\nEMPTY2\nRUN \"<<NOHEREDOC\"\n\
    RUN <<INDENT\n\tfoo\n\tbar\nINDENT\nRUN <<-UNINDENT\n\tbaz\n\tquux\nUNINDENT\n\
    RUN <<-UNINDENT2\n\tbaz\n\tquux\n\tUNINDENT2\nRUN <<-EXPAND\n\texpand $NAME\nEXPAND\n\
    RUN <<-'NOEXPAND'\n\tdon't expand $NAME\nNOEXPAND\nRUN <<COPY\necho hello world\necho foo bar\nCOPY\n\
    RUN <<COMMENT\n# internal comment\necho hello world\necho foo bar # trailing comment\nCOMMENT\n\
    RUN --mount=type=cache,target=/foo <<MOUNT\necho hello\nMOUNT\n\
    COPY <<FILE1 <<FILE2 /dest\ncontent 1\nFILE1\ncontent 2\nFILE2\n\
    COPY <<EOF /quotes\n\"foo\"\n'bar'\nEOF\nCOPY <<X <<Y /dest\nY\nX\nX\nY\n\
    RUN <<COMPLEX python3\nprint('hello world')\nCOMPLEX\nCOPY <<file.txt /dest\nhello world\nfile.txt\n\
    RUN <<eo'f'\necho foo\neof\nRUN <<eo\\'f\necho foo\neo'f\nRUN <<'e'o\\'f\necho foo\neo'f\n\
    RUN <<'one two'\necho bar\none two\nRUN <<$EOF\n$EOF\nRUN <<  EOF\nEOF\nRUN <<  EOF  > foo\nEOF\n";

#[test]
fn heredocs_are_taken_with_their_lines() {
    let syntax = read(HEREDOCS.as_bytes()).expect("syntax");
    let expected = table("parser-parser_heredoc", "TestParseExtractsHeredoc", "tests");
    let expected = list(&expected);
    assert_eq!(syntax.statements.len(), expected.len() + 1);
    for (statement, expected) in syntax.statements[1..].iter().zip(expected) {
        let none = Vec::new();
        let expected: Vec<Heredoc> = expected.as_array().unwrap_or(&none).iter().map(heredoc_of).collect();
        assert_eq!(statement.heredocs, expected, "{}", statement.line.text);
    }
}

fn heredoc_of(value: &Value) -> Heredoc {
    Heredoc {
        name: text(&value["Name"]).to_owned(),
        content: text(&value["Content"]).to_owned(),
        expand: value["Expand"].as_bool().unwrap_or(false),
        chomp: value["Chomp"].as_bool().unwrap_or(false),
        fd: value["FileDescriptor"].as_u64().and_then(|fd| u32::try_from(fd).ok()).unwrap_or(0),
    }
}

#[test]
fn words_are_heredocs_or_not() {
    let cases = |variable| table("parser-parser_heredoc", "TestParseHeredocHelpers", variable);
    for case in list(&cases("validHeredocs")) {
        let heredoc = parse_heredoc(text(case)).expect("valid").expect("a heredoc");
        assert_eq!(heredoc.name, "EOF", "{case}");
    }
    for case in list(&cases("invalidHeredocs")) {
        assert!(parse_heredoc(text(case)).is_err(), "{case}");
    }
    for case in list(&cases("notHeredocs")) {
        assert_eq!(parse_heredoc(text(case)), Ok(None), "{case}");
    }
    for case in list(&table("parser-parser_heredoc", "TestHeredocsFromLine", "srcs")) {
        let names: Vec<String> =
            heredoc::of_line(text(&case["line"])).into_iter().map(|heredoc| heredoc.name).collect();
        let expected = case["heredocNames"].as_array().cloned().unwrap_or_default();
        assert_eq!(Value::from(names), Value::from(expected), "{case}");
    }
}

#[test]
fn places_lead_back_to_the_source() {
    let source = "\u{feff}# c\r\nFROM a\r\nENV é=1 \\\r\n# between\r\n\r\n  b=2\r\nRUN <<A\r\nx\r\nA\r\n";
    let syntax = read(source.as_bytes()).expect("syntax");
    let [from, env, run] = syntax.statements.as_slice() else { panic!("{:?}", syntax.statements) };
    assert_eq!((from.span.line, from.span.column, from.span.end_line), (2, 1, 2));
    assert_eq!((env.span.line, env.span.end_line), (3, 6));
    assert_eq!(&source[env.span.start..env.span.end], "ENV é=1 \\\r\n# between\r\n\r\n  b=2");
    let words = quoted_words(&env.rest, '\\');
    let place = env.place(source, words[1].at, words[1].text.len());
    assert_eq!((place.line, place.column), (6, 3));
    assert_eq!(&source[place.start..place.end], "b=2");
    assert_eq!(run.heredocs[0].content, "x\r\n");
    assert_eq!((run.span.line, run.span.end_line), (7, 9));
    assert_eq!(syntax.empty_continuations.len(), 1);
}

#[test]
fn directives_are_at_the_very_top() {
    let directives = |source: &str| read(source.as_bytes()).expect(source).directives;
    let all = directives(
        "#!/usr/bin/env x\n# Syntax = docker/dockerfile:1\n#escape=`\n# check=skip=A,b;error=true\nFROM a",
    );
    assert_eq!(all.syntax.as_deref(), Some("docker/dockerfile:1"));
    assert_eq!(all.escape, Escape::Backquote);
    assert!(all.check.error && all.check.skip.has("B") && !all.check.skip.has("C"));
    for late in ["\n# escape=`\nFROM a", "# c\n# escape=`\nFROM a", "# x=1\n# escape=`\nFROM a"] {
        assert_eq!(directives(late).escape, Escape::Backslash, "{late}");
    }
    for (wrong, why) in [
        ("# escape=x\nFROM a", "invalid escape token 'x' does not match ` or \\"),
        ("# escape=`\n# escape=\\\nFROM a", "only one escape parser directive can be used"),
    ] {
        assert_eq!(read(wrong.as_bytes()).expect_err(wrong).message(), why);
    }
    assert!(read(b"# check=foo=1\nFROM a").is_err());
}

#[test]
fn a_file_of_any_language_names_its_front_end() {
    for (file, syntax) in [
        ("# syntax=a/b:1\nFROM x", Some("a/b:1")),
        ("#!/bin/x\n// Syntax = a/b\nthing", Some("a/b")),
        ("{\"syntax\": \"a/b\", \"x\": 1}", Some("a/b")),
        ("# escape=`\n# syntax=a/b\n", Some("a/b")),
        ("FROM x\n# syntax=a/b", None),
        ("# c\n# syntax=a/b", None),
        ("", None),
    ] {
        assert_eq!(detect_syntax(file.as_bytes()).as_deref(), syntax, "{file}");
    }
}

#[test]
fn lines_are_joined_at_the_escape_character() {
    let lines = |source: &str| -> Vec<String> {
        read(source.as_bytes()).expect(source).statements.into_iter().map(|one| one.line.text).collect()
    };
    assert_eq!(lines("RUN a \\ \t\n  b\\\\\nRUN c \\"), ["RUN a   b\\\\", "RUN c "]);
    assert_eq!(lines("# escape=`\nRUN a `\nb\\\nRUN c"), ["RUN a b\\", "RUN c"]);
}

#[test]
fn large_files_take_time_by_their_size() {
    let mut source = String::from("FROM a\n");
    for index in 0..20_000 {
        source.push_str(&format!("ONBUILD RUN echo {index} \\\n\n# c\n && cat <<A \\\n\n;\nx\nA\n"));
    }
    source.push_str("RUN a");
    source.push_str(&" \\\n".repeat(200_000));
    source.push_str("b\nENV a=1");
    source.push_str(&" b=2".repeat(200_000));
    let syntax = read(source.as_bytes()).expect("syntax");
    assert_eq!(syntax.statements.len(), 20_003);
    assert!(
        read(&b"USER a\n".repeat(MOST_STATEMENTS + 1)).expect_err("too many").message().contains("more than")
    );
    assert!(read(&vec![b' '; LARGEST + 1]).expect_err("too large").message().contains("too large"));
}
