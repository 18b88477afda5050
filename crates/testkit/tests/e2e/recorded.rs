//! What buildx 0.29 asked dockerd 28.5, asked of this engine byte by byte: it answers what dockerd answered.
//!
//! The questions are the recorded ones. A result is known by another name here, so the client's last word
//! names ours; its graph is left out.

use std::collections::BTreeMap;
use std::thread::JoinHandle;

use serde_json::Value;
use yare_testkit::Engine;

use crate::case::cases;
use crate::client::Client;
use crate::llb::OWN;
use crate::peer::{Offers, Session};
use crate::wire::{Message, Refused, Wire, fields, text};

cases![
    Api: recorded_clients_are_answered.differs(OWN);
];

const RECORDED: &str = include_str!("data/recorded.json");

/// The files of the recorded builds, in the order in which a client tells them.
const FILES: &[(&str, &str)] = &[
    (".dockerignore", "*.log\n"),
    ("Dockerfile", "FROM busybox\nARG X=1\nENV A=b\nCOPY f /f\nRUN echo $X > /x\nCMD [\"cat\",\"/x\"]\n"),
    (
        "Dockerfile.s",
        "FROM busybox\nRUN --mount=type=secret,id=s1 cat /run/secrets/s1 | wc -c\nRUN --mount=type=cache,target=/c echo x > /c/y\nCOPY . /ctx\n",
    ),
    ("f", "hello\n"),
];
const FAILING: &[(&str, &str)] = &[("Dockerfile", "FROM busybox\nRUN false\n")];

type Answer = Result<Vec<Vec<u8>>, Refused>;

/// What came of a conversation.
#[derive(Default)]
struct Answered {
    answers: BTreeMap<String, Vec<Answer>>,
    /// Of the frontend's last result.
    metadata: Vec<String>,
}

fn recorded_clients_are_answered(c: &Client) {
    let engine = Engine::start();
    engine.load_busybox();
    let own = c.of(&engine);
    let recorded: Value = serde_json::from_str(RECORDED).unwrap();
    for conversation in recorded.as_array().unwrap() {
        let name = conversation["name"].as_str().unwrap();
        let answered = replay(&own, conversation);
        compare(name, &answered, &conversation["answered"]);
    }
    drop(own);
    engine.finish();
}

fn replay(c: &Client, conversation: &Value) -> Answered {
    let name = conversation["name"].as_str().unwrap();
    let wire = Wire::open(&c.host.socket);
    let (mut done, mut open, mut sessions) = (Answered::default(), Vec::new(), Vec::new());
    let (mut build, mut result) = (String::new(), String::new());
    for ask in conversation["asks"].as_array().unwrap() {
        let path = ask["method"].as_str().unwrap();
        let mut question = Message::of(hex::decode(ask["hex"].as_str().unwrap()).unwrap());
        if path.ends_with("Control/Solve") {
            build = text(question.as_slice(), 1);
            let files = if name == "fail" { FAILING } else { FILES };
            let secrets = BTreeMap::from([("s1".to_owned(), "hello\n".to_owned())]);
            let offers = Offers { files, secrets, ..Offers::default() };
            sessions.push(Session::open(&c.host.socket, &text(question.as_slice(), 5), offers));
        }
        if path.ends_with("Return") && !result.is_empty() {
            let told = fields(question.as_slice(), 1).remove(0);
            let ours = Message::of(told).message(3, &Message::new().text(1, &result));
            question = Message::new().message(1, &ours);
        }
        // These two last as long as the build.
        if path.ends_with("Control/Solve") || path.ends_with("Control/Status") {
            let (wire, asked) = (wire.clone(), path.to_owned());
            let waiting: JoinHandle<Answer> =
                std::thread::spawn(move || wire.exchange(&asked, "", &[question]));
            open.push((path.to_owned(), waiting));
            continue;
        }
        let answer = wire.exchange(path, &build, &[question]);
        if path.ends_with("LLBBridge/Solve") {
            let solved = fields(&answer.as_ref().unwrap()[0], 3).remove(0);
            done.metadata = fields(&solved, 10).iter().map(|row| text(row, 1)).collect();
            result = fields(&solved, 3).first().map(|found| text(found, 1)).unwrap_or_default();
        }
        done.answers.entry(path.to_owned()).or_default().push(answer);
    }
    for (path, waiting) in open {
        done.answers.entry(path).or_default().push(waiting.join().unwrap());
    }
    done
}

fn compare(name: &str, answered: &Answered, expected: &Value) {
    let of =
        |method: &str| answered.answers.get(&format!("/moby.buildkit.v1.{method}")).into_iter().flatten();
    for (path, answers) in &answered.answers {
        let method = path.trim_start_matches('/');
        let fine = answers.iter().filter(|answer| answer.is_ok()).count();
        match method {
            // Streams: how many messages they have is not the point.
            "moby.buildkit.v1.Control/Solve" => {
                let recorded = expected["calls"][method].as_u64().unwrap_or_default();
                assert_eq!(fine as u64, recorded, "{name}: {answers:?}");
            }
            _ => assert_eq!(fine, answers.len(), "{name} {method}: {answers:?}"),
        }
    }
    let solved = of("Control/Solve").filter_map(|answer| answer.as_ref().ok());
    let rows = solved.flatten().flat_map(|message| fields(message, 1));
    let mut rows: Vec<String> = rows.map(|row| text(&row, 1)).collect();
    rows.sort();
    assert_eq!(serde_json::json!(rows), expected["response"], "{name}");
    let told = || of("Control/Status").filter_map(|answer| answer.as_ref().ok()).flatten();
    let names: Vec<String> = told().flat_map(|news| fields(news, 1)).map(|vertex| text(&vertex, 3)).collect();
    for vertex in expected["vertices"].as_array().unwrap() {
        // What a mount begins with counts as a stage there, and so the only stage has a name.
        let vertex = &vertex.as_str().unwrap().replace("[stage-0 ", "[");
        // An image that is here is not asked about.
        let told = names.iter().any(|name| name == vertex) || vertex.starts_with("[internal] load metadata");
        assert!(told, "{name}: {vertex:?} is not in {names:?}");
    }
    assert_eq!(told().any(|news| !fields(news, 3).is_empty()), expected["logs"] == true, "{name}: output");
    if name == "check" {
        assert_eq!(serde_json::json!(answered.metadata), expected["metadata"]);
    }
    for workers in of("Control/ListWorkers") {
        assert_eq!(fields(&workers.as_ref().unwrap()[0], 1).len(), 1, "{name}: one worker");
    }
    if name == "hist" {
        let events = of("Control/ListenBuildHistory").filter_map(|answer| answer.as_ref().ok()).flatten();
        assert_eq!(events.count(), 3, "the builds before, but for what a client did for itself");
    }
}
