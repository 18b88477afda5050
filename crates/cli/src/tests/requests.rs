//! Flags to requests, against what docker CLI 28.2.2 sends.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};

use super::server::{Reply, Seen, Server};
use super::{context, parse};
use crate::commands::run::prepare;

const DATA: &str = include_str!("../../tests/data/docker-cli-requests.json");

fn vectors() -> Value {
    serde_json::from_str(DATA).unwrap()
}

/// The files that some of the recorded command lines name.
struct Files(std::path::PathBuf);

impl Files {
    fn new() -> Self {
        // Tests run beside each other in one process, and each takes its files away.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("yare-cli-requests-{}-{number}", std::process::id()));
        std::fs::create_dir_all(root.join("ctx")).unwrap();
        for (name, text) in [
            ("envf", "# comment\nA=1\nHOME\nC=a b\n\nNOTSET_XYZ\n"),
            ("labf", "a=1\n"),
            ("sec.json", "{ \"defaultAction\": \"SCMP_ACT_ALLOW\" }\n"),
            ("ctx/f", "hello\n"),
        ] {
            std::fs::write(root.join(name), text).unwrap();
        }
        Self(root)
    }

    /// The line with the recorded paths replaced by ours.
    fn line(&self, line: &str) -> String {
        let root = self.0.display().to_string();
        ["envf", "labf", "sec.json", "ctx/f"].iter().fold(line.to_owned(), |line, name| {
            line.replace(&format!("/src/{name}"), &format!("{root}/{name}"))
        })
    }

    fn unline(&self, text: &str) -> String {
        text.replace(&self.0.display().to_string(), "/src")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// What differs from the base, as the recorder wrote it: a member that is gone has a `-` before its name.
fn difference(base: &Value, body: &Value) -> Value {
    let (Value::Object(base), Value::Object(body)) = (base, body) else { return body.clone() };
    let mut changed = Map::new();
    for (name, value) in body {
        match base.get(name) {
            Some(before) if before == value => {}
            Some(before) if before.is_object() && value.is_object() => {
                changed.insert(name.clone(), difference(before, value));
            }
            _ => {
                changed.insert(name.clone(), value.clone());
            }
        }
    }
    for (name, value) in base {
        if !body.contains_key(name) {
            changed.insert(format!("-{name}"), value.clone());
        }
    }
    Value::Object(changed)
}

fn create(files: &Files, line: &str) -> Result<(Value, String), String> {
    let mut cx = context();
    cx.cwd = "/src/ctx".to_owned();
    let (_, given) = parse(&mut cx, &files.line(line))?;
    let (request, options) = prepare(&cx, &given).map_err(|failure| failure.text)?;
    let mut path = "/v1.50/containers/create".to_owned();
    let mut separator = '?';
    for (name, value) in [("name", options.name.as_str()), ("platform", options.platform.as_str())] {
        if !value.is_empty() {
            path.push_str(&format!("{separator}{name}={}", value.replace('/', "%2F")));
            separator = '&';
        }
    }
    Ok((serde_json::to_value(request).unwrap(), path))
}

/// Where the recorder put the image: last, unless the flags hold a ` --` of their own.
fn line_of(flags: &str) -> String {
    match flags.rsplit_once(" --") {
        Some((flags, rest)) if rest.is_empty() || rest.starts_with(' ') => {
            let rest = if rest.is_empty() { " busybox true" } else { rest };
            format!("create {flags}{rest}")
        }
        _ => format!("create {flags} busybox true"),
    }
}

#[test]
fn every_recorded_create_body_is_the_same() {
    let files = Files::new();
    let vectors = vectors();
    let base = create(&files, "create busybox true").unwrap().0;
    assert_eq!(difference(&vectors["baseline"], &base), json!({}), "the baseline differs");
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in vectors["create"].as_array().unwrap() {
        let flags = case["flags"].as_str().unwrap();
        // Content trust is no part of this client.
        if flags.contains("disable-content-trust") {
            continue;
        }
        count += 1;
        let outcome = create(&files, &line_of(flags));
        match (case.get("body"), &outcome) {
            (Some(expected), Ok((body, path))) => {
                let changed = difference(&base, body);
                if changed != *expected {
                    wrong.push(format!("{flags}\n  expected {expected}\n  got      {changed}"));
                }
                if let Some(expected) = case["path"].as_str()
                    && expected != path
                {
                    wrong.push(format!("{flags}\n  expected {expected}\n  got      {path}"));
                }
            }
            (None, Err(text)) => {
                let text = files.unline(text);
                if case["stderr"].as_str().unwrap() != text {
                    wrong.push(format!("{flags}\n  expected {}\n  got      {text:?}", case["stderr"]));
                }
            }
            (Some(_), Err(text)) => wrong.push(format!("{flags}\n  refused: {text}")),
            (None, Ok((body, _))) => wrong.push(format!(
                "{flags}\n  accepted: {}\n  expected {}",
                difference(&base, body),
                case["stderr"]
            )),
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 200, "only {count} cases were run");
}

/// Recorded commands that this client answers otherwise, each with the reason.
const OTHERWISE: &[(&str, &str)] = &[
    ("node", "no swarm"),
    ("service", "no swarm"),
    ("stack", "no swarm"),
    ("swarm", "no swarm"),
    ("secret", "no swarm"),
    ("plugin", "no plugins"),
    ("checkpoint", "no checkpoints"),
    ("images --tree", "no tree"),
    ("context", "asks the engine nothing; its output is tested elsewhere"),
    ("save -o", "writes a file; tested with the streams"),
    ("load", "reads a file; tested with the streams"),
    ("import", "reads a file; tested with the streams"),
    ("container attach", "looks at the container before it waits"),
];

/// What the recording engine answered.
fn answer(seen: &Seen) -> Reply {
    let path = seen.path.trim_start_matches("/v1.51");
    let id = "a".repeat(64);
    let json = |text: &str| Reply::Json(200, text.to_owned());
    match (seen.method.as_str(), path) {
        (_, path) if path.ends_with("/exec") => {
            Reply::Json(201, format!("{{\"Id\":\"{}\"}}", "c".repeat(64)))
        }
        (_, path) if path.contains("/containers/") && path.ends_with("/json") => {
            json(&format!("{{\"Id\":\"{id}\",\"Config\":{{}},\"State\":{{\"Running\":true}}}}"))
        }
        (_, path) if path.contains("/json?") || path.ends_with("/json") || path.starts_with("/networks?") => {
            json("[]")
        }
        ("DELETE", path) if path.starts_with("/images/") => json("[]"),
        (_, path) if path.contains("/history") || path.contains("/search") || path.contains("/changes") => {
            json("[]")
        }
        (_, path) if path.ends_with("/start") => Reply::Json(204, String::new()),
        _ => json("{}"),
    }
}

#[test]
fn every_recorded_request_is_the_same() {
    let vectors = vectors();
    let files = Files::new();
    let server = Server::start(answer);
    let mut wrong = Vec::new();
    let mut count = 0;
    for case in vectors["other"].as_array().unwrap() {
        let line = case["args"].as_str().unwrap();
        if OTHERWISE.iter().any(|(start, _)| line.starts_with(start)) {
            continue;
        }
        count += 1;
        server.seen.lock().unwrap().clear();
        let mut cx = context();
        cx.address = yare_client::Address::Unix(server.path.clone());
        cx.config_directory = files.0.clone();
        match parse(&mut cx, &files.line(line)) {
            Ok((command, given)) => drop(crate::start(&cx, command, &given)),
            Err(text) => wrong.push(format!("{line}\n  {text}")),
        }
        let seen = server.seen.lock().unwrap().clone();
        let got: Vec<Value> = seen.iter().map(shown).collect();
        let recorded = case["requests"].as_array().unwrap().iter();
        let expected: Vec<Value> = recorded.filter_map(|request| expected(line, request)).collect();
        if got != expected {
            wrong.push(format!("{line}\n  expected {}\n  got      {}", json!(expected), json!(got)));
        }
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(count > 60, "only {count} cases were run");
}

/// A request as it is compared: the version and times that depend on the clock are taken out.
fn shown(seen: &Seen) -> Value {
    let body = serde_json::from_slice::<Value>(&seen.body).unwrap_or(Value::Null);
    json!({ "m": seen.method, "p": path(&seen.path), "b": body })
}

fn path(path: &str) -> String {
    let path = path.trim_start_matches("/v1.51").trim_start_matches("/v1.50");
    match path.split_once("&until=17") {
        Some((before, _)) => format!("{before}&until=…"),
        None => path.to_owned(),
    }
}

/// A recorded request; none for those that this client saves.
fn expected(line: &str, request: &Value) -> Option<Value> {
    let (method, recorded) = (request["m"].as_str().unwrap(), request["p"].as_str().unwrap());
    // `exec` learns from the create call that there is no such container, `network rm` from the removal.
    if method == "GET" && (line.starts_with("exec") || line.starts_with("network rm")) {
        return None;
    }
    let mut body = match request.get("b") {
        Some(body @ Value::Object(_)) => body.clone(),
        _ => Value::Null,
    };
    if recorded.ends_with("/exec")
        && let Value::Object(members) = &mut body
    {
        // Members that say nothing: whether to detach is for the start call, and no keys are the default ones.
        members.remove("Detach");
        members.retain(|name, value| name != "DetachKeys" || value != "");
    }
    Some(json!({ "m": method, "p": path(recorded), "b": body }))
}
