//! Whole commands against an engine that the test plays: streams, half close, exit codes.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use yare_api::stream::{Stream, frame};

use super::server::{Reply, Seen, Server};
use super::{context, leaked, parse, pipe, with_streams};
use crate::session::Stdio;

const UPGRADED: &str = "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
const STREAMING: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// A file that gets a command's output.
struct Captured(PathBuf);

impl Captured {
    fn new() -> (Self, std::os::fd::BorrowedFd<'static>) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("yare-cli-{}-{number}.out", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        (Self(path), leaked(file))
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.0));
    }
}

/// What a command did.
#[derive(Debug, PartialEq)]
pub(super) struct Ran {
    pub code: i32,
    pub output: String,
    pub errors: String,
}

/// Runs a command line with this input; `None` keeps the input open and silent to the end.
pub(super) fn run(server: &Server, line: &str, input: Option<&[u8]>) -> Ran {
    let (input_reader, mut input_writer) = pipe();
    let kept = match input {
        Some(bytes) => {
            input_writer.write_all(bytes).unwrap();
            drop(input_writer);
            None
        }
        None => Some(input_writer),
    };
    let ((output, output_fd), (errors, errors_fd)) = (Captured::new(), Captured::new());
    let mut cx = with_streams(Stdio { input: leaked(input_reader), output: output_fd, errors: errors_fd });
    cx.address = yare_client::Address::Unix(server.path.clone());
    let (command, given) = parse(&mut cx, line).unwrap_or_else(|text| panic!("{text}"));
    let outcome = crate::start(&cx, command, &given);
    let code = crate::finish(&cx, outcome);
    drop(kept);
    Ran { code, output: output.text(), errors: errors.text() }
}

fn frames(parts: &[(Stream, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (stream, text) in parts {
        frame(*stream, text.as_bytes(), &mut bytes);
    }
    bytes
}

fn json(status: u16, text: &str) -> Reply {
    Reply::Json(status, text.to_owned())
}

/// The calls of a run; the attached stream is the test's.
fn engine(
    exit: i64,
    head: Vec<u8>,
    attached: impl FnOnce(UnixStream, Vec<u8>) + Send + 'static,
) -> impl Fn(&Seen) -> Reply + Send + Sync {
    let attached = Mutex::new(Some(attached));
    move |seen| {
        let path = seen.path.trim_start_matches("/v1.51");
        if path.starts_with("/containers/create") {
            return json(201, r#"{"Id":"abc","Warnings":["careful"]}"#);
        }
        if path.contains("/attach?") || path.starts_with("/exec/e/start") {
            let attached = attached.lock().unwrap().take().unwrap();
            // What follows the head in the same packet must not be lost.
            let head = head.clone();
            return Reply::Raw(
                UPGRADED.to_owned(),
                Box::new(move |mut stream, early| {
                    stream.write_all(&head).unwrap();
                    attached(stream, early);
                }),
            );
        }
        if path.contains("/wait") {
            // The head at once, the body later: the client must not wait for the body before it starts.
            return Reply::Raw(
                STREAMING.to_owned(),
                Box::new(move |mut stream, _| {
                    std::thread::sleep(Duration::from_millis(50));
                    let body = format!("{{\"StatusCode\":{exit}}}");
                    write!(stream, "{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).unwrap();
                }),
            );
        }
        if path.starts_with("/exec/e/json") {
            return json(200, &format!("{{\"ExitCode\":{exit}}}"));
        }
        if path.ends_with("/exec") {
            return json(201, r#"{"Id":"e"}"#);
        }
        json(204, "")
    }
}

#[test]
fn run_keeps_early_bytes_and_gives_the_exit_code() {
    let early = frames(&[(Stream::Stdout, "early\n"), (Stream::Stderr, "warn\n")]);
    let server = Server::start(engine(42, early, |mut stream, _| {
        let bytes = frames(&[(Stream::Stdout, "late\n")]);
        // Split in the middle of a header.
        stream.write_all(&bytes[..3]).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(&bytes[3..]).unwrap();
    }));
    let ran = run(&server, "run --rm busybox true", None);
    assert_eq!(
        ran,
        Ran { code: 42, output: "early\nlate\n".into(), errors: "WARNING: careful\nwarn\n".into() }
    );
    let seen = server.seen.lock().unwrap();
    let paths: Vec<&str> = seen.iter().map(|seen| seen.path.trim_start_matches("/v1.51")).collect();
    assert_eq!(paths[0], "/containers/create");
    assert!(paths[1..3].contains(&"/containers/abc/attach?stderr=1&stdout=1&stream=1"));
    assert!(paths[1..3].contains(&"/containers/abc/wait?condition=removed"));
    assert_eq!(paths[3..], ["/containers/abc/start"]);
}

#[test]
fn the_end_of_input_is_a_half_close() {
    let server = Server::start(engine(0, Vec::new(), |mut stream, mut input| {
        stream.read_to_end(&mut input).unwrap();
        let reply = String::from_utf8(input).unwrap().to_uppercase();
        stream.write_all(&frames(&[(Stream::Stdout, &reply)])).unwrap();
    }));
    let ran = run(&server, "run -i busybox cat", Some(b"hello\n"));
    assert_eq!(ran, Ran { code: 0, output: "HELLO\n".into(), errors: "WARNING: careful\n".into() });
}

#[test]
fn open_input_does_not_hold_a_finished_container() {
    let server = Server::start(engine(3, frames(&[(Stream::Stdout, "done\n")]), |stream, _| {
        stream.shutdown(Shutdown::Write).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }));
    let begun = Instant::now();
    let ran = run(&server, "run -i busybox true", None);
    assert_eq!((ran.code, ran.output.as_str()), (3, "done\n"));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn much_output_is_written_in_full() {
    let text = "0123456789abcdef".repeat(64 * 1024);
    let sent = text.clone();
    let server = Server::start(engine(0, Vec::new(), move |mut stream, _| {
        for part in sent.as_bytes().chunks(10_000) {
            stream.write_all(&frames(&[(Stream::Stdout, std::str::from_utf8(part).unwrap())])).unwrap();
        }
    }));
    let ran = run(&server, "run busybox true", Some(b""));
    assert_eq!(ran.output.len(), text.len());
    assert!(ran.output == text);
}

#[test]
fn exec_gives_the_programs_exit_code() {
    let server = Server::start(engine(7, frames(&[(Stream::Stdout, "a"), (Stream::Stderr, "b")]), |_, _| {}));
    assert_eq!(run(&server, "exec x true", None), Ran { code: 7, output: "a".into(), errors: "b".into() });
}

#[test]
fn a_program_that_cannot_be_started_has_dockers_exit_codes() {
    for (text, code) in [
        (r#"exec: \"nosuch\": executable file not found in $PATH"#, 127),
        (r#"exec: \"/x\": stat /x: no such file or directory"#, 127),
        (r#"exec: \"/x\": permission denied"#, 126),
        (r#"exec: \"/x\": is a directory"#, 126),
        ("something else", 125),
    ] {
        let server = Server::start(move |seen| match seen.path.as_str() {
            path if path.ends_with("/start") => {
                json(400, &format!(r#"{{"message":"{text}","hint":"try something"}}"#))
            }
            path if path.contains("/create") => json(201, r#"{"Id":"abc","Warnings":[]}"#),
            path if path.contains("/attach") => Reply::Raw(
                UPGRADED.to_owned(),
                Box::new(|stream, _| {
                    std::thread::sleep(Duration::from_millis(200));
                    drop(stream);
                }),
            ),
            _ => json(200, r#"{"StatusCode":127}"#),
        });
        let ran = run(&server, "run --rm busybox nosuch", None);
        let plain = text.replace("\\\"", "\"");
        assert_eq!(ran.code, code, "{text}");
        assert_eq!(
            ran.errors,
            format!(
                "docker: Error response from daemon: {plain}\n\nRun 'docker run --help' for more information\n  hint: try something\n"
            )
        );
    }
}

#[test]
fn a_missing_image_is_pulled_and_a_refused_pull_is_told() {
    let server = Server::start(|seen| match seen.path.as_str() {
        path if path.contains("/containers/create") => {
            json(404, r#"{"message":"No such image: nosuch:latest"}"#)
        }
        _ => json(501, r#"{"message":"pulling is not built into this Yare yet"}"#),
    });
    let ran = run(&server, "run nosuch", None);
    assert_eq!(ran.code, 125);
    assert_eq!(
        ran.errors,
        "Unable to find image 'nosuch:latest' locally\ndocker: Error response from daemon: pulling is not built into this Yare yet\n\nRun 'docker run --help' for more information\n"
    );
    let ran = run(&server, "run --pull never nosuch", None);
    assert!(ran.errors.starts_with("docker: Error response from daemon: No such image: nosuch:latest"));
}

#[test]
fn logs_are_taken_apart_or_passed_on() {
    for (tty, body, output, errors) in [
        (false, frames(&[(Stream::Stdout, "one\n"), (Stream::Stderr, "two\n")]), "one\n", "two\n"),
        (true, b"raw\r\n".to_vec(), "raw\r\n", ""),
    ] {
        let server = Server::start(move |seen| {
            if seen.path.contains("/logs?") {
                let body = body.clone();
                return Reply::Raw(
                    STREAMING.to_owned(),
                    Box::new(move |mut stream, _| {
                        write!(stream, "{:x}\r\n", body.len()).unwrap();
                        stream.write_all(&body).unwrap();
                        stream.write_all(b"\r\n0\r\n\r\n").unwrap();
                    }),
                );
            }
            json(200, &format!(r#"{{"Id":"abc","Config":{{"Tty":{tty}}}}}"#))
        });
        let ran = run(&server, "logs -f x", None);
        assert_eq!(ran, Ran { code: 0, output: output.into(), errors: errors.into() });
    }
}

#[test]
fn a_slow_reader_gets_everything_through_a_pipe() {
    let text = "line\n".repeat(100_000);
    let sent = text.clone();
    let server = Server::start(engine(0, Vec::new(), move |mut stream, _| {
        for part in sent.as_bytes().chunks(30_000) {
            stream.write_all(&frames(&[(Stream::Stdout, std::str::from_utf8(part).unwrap())])).unwrap();
        }
    }));
    let (mut reader, writer) = pipe();
    let expected = text.len();
    let reading = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        let mut bytes = vec![0; expected];
        reader.read_exact(&mut bytes).unwrap();
        bytes
    });
    let mut cx = context();
    cx.stdio.output = leaked(writer);
    cx.address = yare_client::Address::Unix(server.path.clone());
    let (command, given) = parse(&mut cx, "run busybox true").unwrap();
    assert_eq!(crate::start(&cx, command, &given), Ok(0));
    assert!(reading.join().unwrap() == text.as_bytes());
}

#[test]
fn nothing_listening_has_dockers_text() {
    let server = Server::start(|_| json(200, "{}"));
    let path = server.path.clone();
    drop(server);
    std::fs::remove_file(&path).unwrap_or_default();
    let mut cx = context();
    cx.address = yare_client::Address::Unix(path.clone());
    let (command, given) = parse(&mut cx, "ps").unwrap();
    let failure = crate::start(&cx, command, &given).unwrap_err();
    let expected = format!(
        "Cannot connect to the Docker daemon at unix://{}. Is the docker daemon running?",
        path.display()
    );
    assert_eq!((failure.code, failure.text), (1, expected));
}

#[test]
fn an_older_engine_is_asked_again_in_its_version() {
    let server = Server::start(|seen| {
        if seen.path == "/_ping" {
            return Reply::Raw(
                "HTTP/1.1 200 OK\r\nApi-Version: 1.43\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    .to_owned(),
                Box::new(|_, _| {}),
            );
        }
        if seen.path.starts_with("/v1.51") {
            return json(
                400,
                r#"{"message":"client version 1.51 is too new. Maximum supported API version is 1.43"}"#,
            );
        }
        json(200, "[]")
    });
    let ran = run(&server, "ps -q", None);
    assert_eq!(ran.code, 0, "{}", ran.errors);
    let paths: Vec<String> = server.seen.lock().unwrap().iter().map(|seen| seen.path.clone()).collect();
    assert_eq!(paths, ["/v1.51/containers/json", "/_ping", "/v1.43/containers/json"]);
}
