//! A case's way to the engine: a client, a prefix for names, a folder.

use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use yare_testkit::{Engine, Invocation, Outcome, Registry, Server, busybox_rootfs_tar, yare_binary};

use crate::host::Host;
use crate::http::{self, Response};

/// How long a script may take, and what it waits for: a machine may have much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program that the scripts call `docker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Docker,
    Yare,
}

impl Program {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Yare => "yare",
        }
    }
}

/// A client of the engine. What it made under its prefix goes away with it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) host: Host,
    pub(crate) program: Program,
    /// What serves the registries of the case.
    server: Server,
    /// Begins the names of everything that the case makes; `$n` in scripts.
    pub(crate) n: String,
    /// Scripts run in it.
    pub(crate) folder: PathBuf,
}

impl Client {
    pub(crate) fn new(host: &Host, program: Program, n: String) -> Self {
        let folder = host.folder.join("cases").join(&n);
        fs::create_dir_all(&folder).unwrap();
        Self { host: host.clone(), program, server: Server::Debian, n, folder }
    }

    /// One whose registries are served by this program.
    pub(crate) fn with_server(mut self, server: Server) -> Self {
        self.server = server;
        self
    }

    /// A client of an engine that the case started for itself.
    pub(crate) fn of(&self, engine: &Engine) -> Self {
        let host = Host::of_engine(engine);
        prepare(&host);
        Self::new(&host, self.program, self.n.clone()).with_server(self.server)
    }

    /// A registry for everybody, with this name for its folder.
    pub(crate) fn registry(&self, name: &str) -> Registry {
        self.server.start(&self.folder.join(name))
    }

    /// A registry for `user` with the password `secret`.
    pub(crate) fn registry_with_password(&self, name: &str) -> Registry {
        self.server.with_password(&self.folder.join(name))
    }

    pub(crate) fn is_yare_engine(&self) -> bool {
        self.host.is_yare()
    }

    /// A script for `bash`, in which `docker` is the client, as users would type it.
    pub(crate) fn script(&self, script: &str) -> Invocation {
        let script = format!("cd '{}'\n{script}", self.folder.display());
        let foreign = ["DOCKER_CONTEXT", "DOCKER_API_VERSION", "DOCKER_TLS_VERIFY", "YARE_HOST", "NO_COLOR"];
        let bare =
            foreign.into_iter().fold(Invocation::new("bash", &["-c", &script]), Invocation::without_env);
        let bare = bare.patience(PATIENCE);
        self.environment().into_iter().fold(bare, |invocation, (name, value)| invocation.env(name, value))
    }

    /// The variables of a script.
    pub(crate) fn environment(&self) -> [(&'static str, String); 10] {
        let clients = self.host.folder.join("clients");
        let path = std::env::var("PATH").unwrap();
        [
            ("DOCKER_HOST", self.host.address()),
            ("DOCKER_CONFIG", self.host.folder.join("docker-config").display().to_string()),
            ("DOCKER_CLI_HINTS", "false".to_owned()),
            ("PATH", format!("{}:{path}", clients.join(self.program.name()).display())),
            ("HOME", self.folder.display().to_string()),
            ("TMUX_TMPDIR", self.host.folder.display().to_string()),
            // Docker's client leaves clones of git contexts behind.
            ("TMPDIR", self.host.folder.display().to_string()),
            ("n", self.n.clone()),
            ("helper", std::env::current_exe().unwrap().display().to_string()),
            ("busybox", self.host.folder.join("busybox.tar").display().to_string()),
        ]
    }

    /// Runs a script.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Outcome {
        self.script(script).run()
    }

    /// Runs a script that must succeed; gives its output.
    #[track_caller]
    pub(crate) fn ok(&self, script: &str) -> String {
        let outcome = self.run(script);
        assert_eq!(outcome.code, 0, "$ {script}\n{}", shown(&outcome));
        outcome.stdout
    }

    /// As [`Client::ok`], without the line's end.
    #[track_caller]
    pub(crate) fn line(&self, script: &str) -> String {
        let output = self.ok(script);
        let line = output.strip_suffix('\n').unwrap_or(&output);
        assert!(!line.contains('\n'), "$ {script}\nmore than one line: {output:?}");
        line.to_owned()
    }

    /// Runs a script that must succeed with exactly this output.
    #[track_caller]
    pub(crate) fn says(&self, script: &str, expected: &str) {
        let outcome = self.run(script);
        assert_eq!(outcome.code, 0, "$ {script}\n{}", shown(&outcome));
        assert_eq!(outcome.stdout, expected, "$ {script}\n{}", shown(&outcome));
    }

    /// Runs a script that must end with this code; gives what it said on standard error.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, script: &str) -> String {
        let outcome = self.run(script);
        assert_eq!(outcome.code, code, "$ {script}\n{}", shown(&outcome));
        outcome.stderr
    }

    /// Runs a command that must fail with this code, this text on its first line.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, script: &str, text: &str) {
        let outcome = self.run(script);
        assert_eq!(outcome.code, code, "$ {script}\n{}", shown(&outcome));
        assert_eq!(
            outcome.stderr.lines().next().unwrap_or_default(),
            text,
            "$ {script}\n{}",
            shown(&outcome)
        );
    }

    /// Starts a script that the case talks to or waits for itself.
    pub(crate) fn spawn(&self, script: &str) -> Running {
        let mut command: Command = self.script(script).into_command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::watch(command.spawn().unwrap())
    }

    /// Waits until a script's output is this.
    #[track_caller]
    pub(crate) fn comes_to(&self, script: &str, expected: &str) {
        let (begun, mut last) = (Instant::now(), String::new());
        while begun.elapsed() < PATIENCE / 2 {
            last = self.run(script).stdout;
            if last.trim_end() == expected {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("$ {script}\nnever said {expected:?}, at last {last:?}");
    }

    /// Makes `/go` in a container that waits for it. A container that ends at once takes the maker with it.
    pub(crate) fn lets_go(&self, name: &str) {
        self.run(&format!("docker exec {name} touch /go"));
    }

    /// A request of the newest version.
    pub(crate) fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        http::request(&self.host.socket, method, path, body)
    }

    /// One field of an inspected container.
    #[track_caller]
    pub(crate) fn inspect(&self, name: &str, format: &str) -> String {
        self.line(&format!("docker inspect -f '{format}' {name}"))
    }

    fn clean(&self) {
        let get = |path: &str| self.api("GET", path, None).json();
        let starts = |value: &Value, end: &str| {
            value
                .as_str()
                .is_some_and(|name| name.trim_start_matches('/').starts_with(&format!("{}{end}", self.n)))
        };
        for container in get("/containers/json?all=1").as_array().into_iter().flatten() {
            let names = container["Names"].as_array().into_iter().flatten();
            if names.into_iter().any(|name| starts(name, "")) {
                let id = container["Id"].as_str().unwrap_or_default();
                self.api("DELETE", &format!("/containers/{id}?force=1&v=1"), None);
            }
        }
        for network in get("/networks").as_array().into_iter().flatten() {
            if starts(&network["Name"], "") {
                let id = network["Id"].as_str().unwrap_or_default();
                self.api("DELETE", &format!("/networks/{id}"), None);
            }
        }
        for image in get("/images/json").as_array().into_iter().flatten() {
            for tag in image["RepoTags"].as_array().into_iter().flatten().filter(|tag| starts(tag, "/")) {
                let tag = tag.as_str().unwrap_or_default();
                self.api("DELETE", &format!("/images/{tag}?force=1"), None);
            }
        }
        for volume in get("/volumes")["Volumes"].as_array().into_iter().flatten() {
            if starts(&volume["Name"], "") {
                let name = volume["Name"].as_str().unwrap_or_default();
                self.api("DELETE", &format!("/volumes/{name}?force=1"), None);
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let cleaned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.clean()));
        if cleaned.is_err() && !std::thread::panicking() {
            eprintln!("{}: cannot clean up", self.n);
        }
    }
}

/// A client that runs beside its case. It is killed when it takes too long, or when the case is through.
#[derive(Debug)]
pub(crate) struct Running {
    child: Option<Child>,
    has_ended: Arc<AtomicBool>,
}

impl Running {
    fn watch(child: Child) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let (pid, seen) = (Pid::from_child(&child), Arc::clone(&has_ended));
        std::thread::spawn(move || {
            let begun = Instant::now();
            while begun.elapsed() < PATIENCE && !seen.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(100));
            }
            if !seen.load(Ordering::Acquire) {
                // It may have ended just now.
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        Self { child: Some(child), has_ended }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.child.as_mut().unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Reads this from its standard output, and no more.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        self.child().stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    /// Waits for its end; gives what it said and was not read yet.
    pub(crate) fn end(mut self) -> Output {
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.has_ended.store(true, Ordering::Release);
        if let Some(mut child) = self.child.take() {
            // Ended already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An outcome for people.
pub(crate) fn shown(outcome: &Outcome) -> String {
    let clip = |text: &str| text.chars().take(4000).collect::<String>();
    format!(
        "exit code {} after {:?}\n--- stdout\n{}--- stderr\n{}---",
        outcome.code,
        outcome.took,
        clip(&outcome.stdout),
        clip(&outcome.stderr)
    )
}

/// Lays out what scripts need beside an engine.
pub(crate) fn prepare(host: &Host) {
    fs::write(host.folder.join("busybox.tar"), busybox_rootfs_tar()).unwrap();
    let clients = host.folder.join("clients");
    for (program, target) in [(Program::Docker, stock_docker()), (Program::Yare, yare_binary().to_owned())] {
        let folder = clients.join(program.name());
        fs::create_dir_all(&folder).unwrap();
        let link = folder.join("docker");
        if !link.exists() {
            symlink(target, link).unwrap();
        }
    }
}

/// The stock command line.
fn stock_docker() -> PathBuf {
    let path = std::env::var("PATH").unwrap();
    let found = path.split(':').map(|folder| Path::new(folder).join("docker")).find(|file| file.is_file());
    found.expect("the docker command line is installed")
}

/// A filter as the API takes it in a query.
pub(crate) fn filters(value: &Value) -> String {
    let text = json!(value).to_string();
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// Rows as Docker's tables show them: cells at least ten wide, three blanks between them.
pub(crate) fn table(rows: &[&[&str]]) -> String {
    let columns = rows[0].len();
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count() + 3).max().unwrap_or(0).max(10);
    let line = |row: &&[&str]| {
        let padded = row[..columns - 1].iter().enumerate();
        let padded: String =
            padded.map(|(column, cell)| format!("{cell:width$}", width = width(column))).collect();
        format!("{padded}{}\n", row[columns - 1])
    };
    rows.iter().map(line).collect()
}
