//! A frontend of another language than the Dockerfile's, for containers: this binary, in an image.
//!
//! Its language has a line an instruction: `from IMAGE`, `run SCRIPT`, `arg NAME` (its value goes into `/NAME`),
//! `copy NAME` (a file of the context), `inner FILE` (the rest is that Dockerfile's business), `say SCRIPT` (runs
//! it over what there is and fails with what it said), `everywhere` (what there is, for two platforms), and what
//! only a bad frontend does: `fail TEXT`, `die`, `leave`, `hang`, `babble`, `stranger ID`, `network`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::exit;

use crate::llb::{Graph, Output, copied};
use crate::wire::{Message, Wire, fields, number, text};

const BRIDGE: &str = "/moby.buildkit.v1.frontend.LLBBridge";

/// Speaks over the standard streams until the build has its result.
pub(crate) fn main() {
    let frontend = Frontend { wire: Wire::over(standard_streams()), options: options() };
    frontend.call("Ping", &Message::new()).unwrap();
    let returned = match frontend.understand() {
        Ok(result) => Message::new().message(1, &result),
        Err(error) => Message::new().message(2, &error),
    };
    frontend.call("Return", &returned).unwrap();
}

/// Standard input and output as one stream.
fn standard_streams() -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (mut up, mut down) = (theirs.try_clone().unwrap(), theirs);
    std::thread::spawn(move || std::io::copy(&mut std::io::stdin().lock(), &mut up));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = down.read(&mut buffer) {
            // Not held while nothing comes: others may babble.
            let mut output = std::io::stdout().lock();
            output.write_all(&buffer[..length]).unwrap();
            output.flush().unwrap();
        }
    });
    ours
}

fn options() -> BTreeMap<String, String> {
    let given = std::env::vars().filter(|(name, _)| name.starts_with("BUILDKIT_FRONTEND_OPT_"));
    let pairs = given.filter_map(|(_, value)| {
        value.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

struct Frontend {
    wire: Wire,
    options: BTreeMap<String, String>,
}

/// What has been understood so far.
struct State {
    graph: Graph,
    root: Output,
    name: String,
    file: Vec<u8>,
    lines: Vec<(String, usize)>,
}

impl Frontend {
    fn call(&self, method: &str, question: &Message) -> Result<Vec<u8>, crate::wire::Refused> {
        self.wire.call(&format!("{BRIDGE}/{method}"), "", question)
    }

    fn option(&self, name: &str) -> &str {
        self.options.get(name).map(String::as_str).unwrap_or_default()
    }

    /// Lets a graph be solved; the id of the result.
    fn solve(&self, definition: &Message) -> Result<String, Message> {
        let solved = self.call("Solve", &Message::new().message(1, definition)).map_err(handed_on)?;
        Ok(id_of(&solved))
    }

    /// The result, or an error: `Result` or `google.rpc.Status`.
    fn understand(&self) -> Result<Message, Message> {
        let name = match self.option("filename") {
            "" => "Dockerfile",
            name => name,
        };
        let mut graph = Graph::default();
        let files = graph.local("dockerfile");
        let files = self.solve(&graph.definition(&files))?;
        let read = Message::new().text(1, &files).text(2, name);
        let file = fields(&self.call("ReadFile", &read).map_err(handed_on)?, 1).concat();
        if self.options.contains_key("requestid") {
            let said = format!("{{\"asked\":\"{}\"}}", self.option("requestid"));
            let said = Message::new().text(1, "result.json").text(2, &said);
            let shown = Message::new().text(1, "result.txt").text(2, "an outline of its own\n");
            return Ok(Message::new().message(10, &said).message(10, &shown));
        }
        let mut graph = Graph::default();
        let root = graph.source("docker-image://docker.io/library/busybox:latest");
        let mut state = State { graph, root, name: name.to_owned(), file: file.clone(), lines: Vec::new() };
        let file = String::from_utf8(file).unwrap();
        for (line, instruction) in file.lines().enumerate() {
            let (word, rest) = instruction.split_once(' ').unwrap_or((instruction, ""));
            if let Some(result) = self.instruction(&mut state, (line + 1, word, rest))? {
                return Ok(result);
            }
        }
        let result = self.solve(&state.definition())?;
        let config = r#"{"architecture":"amd64","os":"linux","config":{"Labels":{"made":"elsewhere"},"Cmd":["cat","/made"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = Message::new().text(1, "containerimage.config").text(2, config);
        Ok(Message::new().message(3, &Message::new().text(1, &result)).message(10, &config))
    }

    /// Does what a line says; a result when nothing more is to be done.
    fn instruction(
        &self,
        state: &mut State,
        (line, word, rest): (usize, &str, &str),
    ) -> Result<Option<Message>, Message> {
        match word {
            "" | "#" => {}
            "from" => state.root = state.graph.source(&format!("docker-image://{rest}")),
            "run" => state.step(line, rest),
            "arg" => {
                let value = self.option(&format!("build-arg:{rest}"));
                state.step(line, &format!("echo '{value}' > /{rest}"));
            }
            "copy" => {
                let context = state.graph.local("context");
                state.root = copied(&mut state.graph, &state.root, &context, rest);
            }
            "inner" => {
                let question = Message::new().text(2, "dockerfile.v0").pair(3, "filename", rest);
                let solved = self.call("Solve", &question).map_err(handed_on)?;
                return Ok(Some(Message::new().message(3, &Message::new().text(1, &id_of(&solved)))));
            }
            "say" => return Err(state.failure(line, &self.said(state, rest)?)),
            "everywhere" => return self.everywhere(state).map(Some),
            "fail" => return Err(state.failure(line, rest)),
            "network" => {
                let names = std::fs::read_to_string("/proc/net/dev").unwrap();
                let names =
                    names.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
                return Err(state.failure(line, &names.collect::<Vec<_>>().join(" ")));
            }
            "stranger" => {
                return Ok(Some(Message::new().message(3, &Message::new().text(1, rest))));
            }
            other => misbehave(other),
        }
        Ok(None)
    }
}

impl Frontend {
    /// What there is as an image for two platforms.
    fn everywhere(&self, state: &State) -> Result<Message, Message> {
        let mut refs = Message::new();
        let mut result = Message::new();
        let mut rows = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let platform = format!("linux/{architecture}");
            let id = self.solve(&state.definition())?;
            refs =
                refs.message(1, &Message::new().text(1, &platform).message(2, &Message::new().text(1, &id)));
            rows.push(format!(
                r#"{{"ID":"{platform}","Platform":{{"architecture":"{architecture}","os":"linux"}}}}"#
            ));
            let config = format!(
                r#"{{"architecture":"{architecture}","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
            );
            let name = format!("containerimage.config/{platform}");
            result = result.message(10, &Message::new().text(1, &name).text(2, &config));
        }
        let table = format!(r#"{{"Platforms":[{}]}}"#, rows.join(","));
        let table = Message::new().text(1, "refs.platforms").text(2, &table);
        Ok(result.message(4, &refs).message(10, &table))
    }

    /// The exit code and the output of a script over what there is.
    fn said(&self, state: &State, script: &str) -> Result<String, Message> {
        let root = Message::new().text(3, "/").text(23, &self.solve(&state.definition())?);
        let container = Message::new().text(1, "say").message(2, &root);
        self.call("NewContainer", &container).map_err(handed_on)?;
        let meta = Message::new().text(1, "sh").text(1, "-c").text(1, script).text(3, "/");
        let init = Message::new().text(1, "say").message(2, &meta).int(3, 1);
        let begin = Message::new().text(1, "process").message(2, &init);
        let path = format!("{BRIDGE}/ExecProcess");
        let answers = self.wire.exchange(&path, "", &[begin]).map_err(handed_on)?;
        let said: String =
            answers.iter().flat_map(|answer| fields(answer, 3)).map(|file| text(&file, 3)).collect();
        let exit = answers.iter().find_map(|answer| fields(answer, 6).pop()).unwrap();
        self.call("ReleaseContainer", &Message::new().text(1, "say")).map_err(handed_on)?;
        Ok(format!("{}: {said}", number(&exit, 1)))
    }
}

fn misbehave(how: &str) {
    match how {
        "die" => {
            eprintln!("out of ideas");
            exit(3);
        }
        "leave" => exit(0),
        "hang" => std::thread::sleep(std::time::Duration::from_secs(3600)),
        "babble" => loop {
            println!("words, words, words");
        },
        other => panic!("an unknown instruction {other:?}"),
    }
}

impl State {
    fn step(&mut self, line: usize, script: &str) {
        self.root = self.graph.run(&self.root, &[], script, &[]);
        self.lines.push((self.root.digest().to_owned(), line));
    }

    fn range(line: usize) -> Message {
        let position = Message::new().int(1, i64::try_from(line).unwrap());
        Message::new().message(1, &position).message(2, &position)
    }

    fn info(&self) -> Message {
        Message::new().text(1, &self.name).bytes(2, &self.file).text(4, "lines")
    }

    /// The graph with the line of each step.
    fn definition(&self) -> Message {
        let mut origins = Message::new();
        for (digest, line) in &self.lines {
            let location = Message::new().int(1, 0).message(2, &Self::range(*line));
            let locations = Message::new().message(1, &location);
            origins = origins.message(1, &Message::new().text(1, digest).message(2, &locations));
        }
        self.graph.definition(&self.root).message(3, &origins.message(2, &self.info()))
    }

    /// An error about a line.
    fn failure(&self, line: usize, text: &str) -> Message {
        let data: String = base64(&self.file);
        let place = format!("{{\"line\":{line}}}");
        let detail = format!(
            r#"{{"info":{{"filename":"{}","data":"{data}","language":"lines"}},"ranges":[{{"start":{place},"end":{place}}}]}}"#,
            self.name
        );
        let detail = Message::new().text(1, "github.com/moby/buildkit/errdefs.Source+json").text(2, &detail);
        Message::new().int(1, 2).text(2, text).message(3, &detail)
    }
}

/// An error of the engine's as its own.
fn handed_on(refused: crate::wire::Refused) -> Message {
    Message::new().int(1, i64::from(refused.code)).text(2, &refused.message)
}

fn id_of(solved: &[u8]) -> String {
    text(&fields(&fields(solved, 3)[0], 3)[0], 1)
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number =
            chunk.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        let digits = [18, 12, 6, 0].map(|shift| char::from(DIGITS[number >> shift & 63]));
        text.extend(&digits[..=chunk.len()]);
        text.extend(std::iter::repeat_n('=', 3 - chunk.len()));
    }
    text
}
