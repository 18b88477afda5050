//! What a client gets from the frontend: something to build, or an answer about the Dockerfile.

use crate::builds::Build;
use crate::context::Definition;
use crate::frontend::Asked;
use crate::graphs::Graphs;
use crate::grpc::{Code, Status};
use crate::inputs::Held;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use yare_dockerfile::outline::{outline, targets};
use yare_dockerfile::{Dockerfile, lint};
use yare_errdefs::{Error, Result};

/// What a frontend loaded and what is to be built of it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) asked: Asked,
    pub(crate) definition: Definition,
    /// What is to be built when no Dockerfile says so.
    pub(crate) graphs: Option<Graphs>,
    /// Names of images that it stands on.
    pub(crate) _inputs: Vec<Held>,
}

impl Loaded {
    /// Graphs, with the options of a build that count for them.
    pub(crate) fn graph(build: &Build, graphs: Graphs) -> Result<Self, Status> {
        let asked = crate::solve::graph_options(build)?;
        Ok(Self { asked, definition: Definition::default(), graphs: Some(graphs), _inputs: Vec::new() })
    }
}

/// Metadata of a result.
pub(crate) type Metadata = BTreeMap<String, Vec<u8>>;

/// Answers a call that is no build.
pub(crate) fn answer(call: &str, loaded: &Loaded) -> Result<Metadata, Status> {
    let Loaded { asked, definition, .. } = loaded;
    let name = file_name(&asked.request.dockerfile);
    match call {
        "frontend.subrequests.describe" => Ok(described()),
        "frontend.lint" => Ok(linted(&definition.dockerfile, name)),
        "frontend.targets" => {
            let found = targets(&parse(&definition.dockerfile)?);
            let rows = found.targets.iter().map(|target| {
                let default = if target.default { " (default)" } else { "" };
                let name = if target.name.is_empty() { "(no name)" } else { &target.name };
                format!("{name}{default}\t{}\n", target.description.as_deref().unwrap_or_default())
            });
            let text = format!("TARGET\tDESCRIPTION\n{}", rows.collect::<String>());
            Ok(result(&json!(found), &text))
        }
        "frontend.outline" => {
            let dockerfile = parse(&definition.dockerfile)?;
            let target = Some(asked.request.target.as_str()).filter(|target| !target.is_empty());
            let found = outline(&dockerfile, target).map_err(Error::invalid)?;
            let rows = found.args.iter().map(|arg| format!("{}\t{}\n", arg.name, arg.value));
            let text = format!("BUILD ARG\tVALUE\n{}", rows.collect::<String>());
            Ok(result(&json!(found), &text))
        }
        other => Err(Status::new(Code::Unimplemented, format!("the frontend does not answer {other:?}"))),
    }
}

/// What a file is called, without the folder it is in.
pub(crate) fn file_name(path: &str) -> &str {
    match path.rsplit('/').next() {
        Some("") | None => "Dockerfile",
        Some(name) => name,
    }
}

fn parse(source: &[u8]) -> Result<Dockerfile> {
    yare_dockerfile::parse(source).map_err(|error| Error::invalid(error.to_string()))
}

fn result(json: &Value, text: &str) -> Metadata {
    let json = format!("{json:#}");
    [("result.json", json.as_str()), ("result.txt", text), ("version", "1.0.0")]
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
        .into()
}

fn described() -> Metadata {
    let calls = [
        ("frontend.lint", "Lint source code of Dockerfile for issues"),
        ("frontend.outline", "List all parameters current build target supports"),
        ("frontend.targets", "List all targets current build supports"),
        ("frontend.subrequests.describe", "List available subrequest types"),
    ];
    let row = |(name, description): &(&str, &str)| {
        json!({
            "Name": name, "Version": "1.0.0", "Type": "rpc", "Description": description,
            "Metadata": [{ "Name": "result.json" }, { "Name": "result.txt" }],
        })
    };
    let text: String = calls.iter().map(|(name, description)| format!("{name}\t{description}\n")).collect();
    result(&Value::Array(calls.iter().map(row).collect()), &text)
}

/// A file that cannot be parsed is an answer too.
fn linted(source: &[u8], name: &str) -> Metadata {
    use base64::Engine as _;
    let location = |first: u32, last: u32| json!({ "sourceIndex": 0, "ranges": [{ "start": { "line": first }, "end": { "line": last } }] });
    let (mut warnings, mut error, mut text) = (Vec::new(), Value::Null, String::new());
    match yare_dockerfile::parse(source) {
        Ok(dockerfile) => {
            for warning in lint::lint(&dockerfile, &dockerfile.directives.check) {
                text.push_str(&warning.render(&dockerfile, name));
                text.push('\n');
                warnings.push(json!({
                    "ruleName": warning.rule.name(),
                    "description": warning.rule.description(),
                    "url": warning.rule.url(),
                    "detail": warning.message,
                    "location": location(warning.span.line, warning.span.end_line),
                }));
            }
        }
        Err(failure) => {
            text = failure.to_string();
            error = json!({ "message": text, "location": location(failure.line(), failure.span().end_line) });
        }
    }
    let data = base64::engine::general_purpose::STANDARD.encode(source);
    let mut answer = json!({
        "warnings": if warnings.is_empty() { Value::Null } else { Value::Array(warnings.clone()) },
        "sources": [{ "filename": name, "data": data, "language": "Dockerfile" }],
    });
    if !error.is_null() {
        answer["error"] = error;
    }
    let failed = !warnings.is_empty() || answer.get("error").is_some();
    let mut metadata = result(&answer, &text);
    metadata.insert("result.statuscode".to_owned(), if failed { b"1".to_vec() } else { b"0".to_vec() });
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metadata: &Metadata, name: &str) -> String {
        String::from_utf8(metadata[name].clone()).expect("UTF-8")
    }

    #[test]
    fn lint_answers_as_the_field_does() {
        let answer = linted(b"from busybox as x\nRUN true\n", "Dockerfile");
        let json: Value = serde_json::from_str(&text(&answer, "result.json")).expect("JSON");
        assert_eq!(json["warnings"][0]["ruleName"], "ConsistentInstructionCasing");
        assert_eq!(text(&answer, "result.statuscode"), "1");
        let clean = linted(b"FROM busybox\n", "Dockerfile");
        assert_eq!(text(&clean, "result.statuscode"), "0");
        let broken = linted(b"FRO busybox\n", "Dockerfile");
        let json: Value = serde_json::from_str(&text(&broken, "result.json")).expect("JSON");
        assert_eq!(json["error"]["location"]["ranges"][0]["start"]["line"], 1);
    }

    #[test]
    fn files_are_called_by_their_last_name() {
        assert_eq!(file_name("a/b/Dockerfile.x"), "Dockerfile.x");
        assert_eq!(file_name(""), "Dockerfile");
    }
}
