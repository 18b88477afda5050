//! The process that keeps the shared engine, and takes it away even when the tests are killed: it lives in
//! a process group of its own and ends when the pipe to the tests does.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use yare_testkit::{Dockerd, Engine, Invocation, busybox_rootfs_tar};

use crate::host::{Host, Kind};

const ASKED: &str = "YARE_E2E_KEEPER";

/// Whether the cases run against a dockerd.
pub(crate) fn is_reference() -> bool {
    std::env::var_os("YARE_REFERENCE").is_some_and(|value| value == "1")
}

pub(crate) fn is_asked_for() -> bool {
    std::env::var_os(ASKED).is_some()
}

/// The tests' end of the pipe.
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Keeper {
    /// Starts the keeper and its engine.
    pub(crate) fn start() -> (Self, Host) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(ASKED, "1").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the engine of the tests does not start");
        let host = Host::of_json(&serde_json::from_str(&line).unwrap());
        crate::client::prepare(&host);
        (Self { child, input, output }, host)
    }

    /// Ends the engine; gives what it left behind.
    pub(crate) fn finish(mut self) -> Result<(), String> {
        // It may be dead, and then says nothing.
        let _ = self.input.take().unwrap().write_all(b"finish\n");
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        let status = self.child.wait().unwrap();
        if status.success() { Ok(()) } else { Err(text) }
    }
}

/// The keeper's side.
pub(crate) fn main() {
    let ended = if is_reference() { keep_reference() } else { keep_yare() };
    if let Err(text) = ended {
        println!("{text}");
        std::process::exit(1);
    }
}

fn keep_yare() -> Result<(), String> {
    let engine = Engine::start();
    engine.load_busybox();
    announce(&Host::of_engine(&engine));
    if !told_to_finish() {
        return Ok(());
    }
    std::panic::set_hook(Box::new(|_| ()));
    let finished = catch_unwind(AssertUnwindSafe(|| engine.finish()));
    finished.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map_or("panicked", String::as_str);
        text.split("the log:").next().unwrap_or_default().to_owned()
    })
}

fn announce(host: &Host) {
    println!("{}", host.to_json());
    std::io::stdout().flush().unwrap();
}

/// Waits for the tests; whether they ended by themselves.
fn told_to_finish() -> bool {
    let mut told = String::new();
    std::io::stdin().read_to_string(&mut told).unwrap();
    told == "finish\n"
}

fn keep_reference() -> Result<(), String> {
    let folder = tempfile::Builder::new().prefix("yare-reference-").tempdir().unwrap();
    let binary =
        std::env::var_os("YARE_REFERENCE_DOCKERD").map_or_else(|| "/usr/sbin/dockerd".into(), PathBuf::from);
    let said = Invocation::new(&binary, &["--version"]).ok();
    let major = said.split(' ').nth(2).and_then(|version| version.split('.').next()?.parse().ok());
    let gateway = "10.209.0.1".to_owned();
    let dockerd = start_dockerd(&binary, folder.path(), &gateway, &reference_cgroup(), &[]);
    let host = Host {
        kind: Kind::Dockerd(major.unwrap_or_else(|| panic!("no version in {said:?}"))),
        folder: folder.path().to_owned(),
        socket: dockerd.socket(),
        data_root: dockerd.data_root(),
        log: dockerd.log_path(),
        gateway,
        cgroup_parent: reference_cgroup(),
        pid: dockerd.pid(),
    };
    let import = ["import", "--change", "CMD [\"sh\"]", "-", "busybox:latest"];
    let client = Invocation::new("docker", &import).env("DOCKER_HOST", host.address());
    client.input(busybox_rootfs_tar()).ok();
    announce(&host);
    told_to_finish();
    Invocation::new("sh", &["-c", "docker rm -fv $(docker ps -aq)"]).env("DOCKER_HOST", host.address()).run();
    Ok(())
}

/// A dockerd with a folder of its own. It wants a network namespace of its own too: that of the tests
/// ([`into_own_namespaces`]), or one that the command `inside` makes ([`OWN_NAMESPACES`]).
pub(crate) fn start_dockerd(
    binary: &Path,
    folder: &Path,
    gateway: &str,
    cgroup_parent: &str,
    inside: &[&str],
) -> Dockerd {
    let flags = ["--bip", &format!("{gateway}/24"), "--cgroup-parent", cgroup_parent];
    Dockerd::start(binary, folder, &flags, inside)
}

/// Set to the number of the outer process, inside the namespaces of [`into_own_namespaces`].
const INSIDE: &str = "YARE_E2E_INSIDE";

/// The parent of the cgroups of a reference's containers.
fn reference_cgroup() -> String {
    let number = std::env::var(INSIDE).unwrap_or_else(|_| std::process::id().to_string());
    format!("/yare-reference-{number}")
}

const UNSHARE: [&str; 7] = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// Runs a command in namespaces that end with it.
pub(crate) const OWN_NAMESPACES: &[&str] = &[
    UNSHARE[0],
    UNSHARE[1],
    UNSHARE[2],
    UNSHARE[3],
    UNSHARE[4],
    UNSHARE[5],
    UNSHARE[6],
    "sh",
    "-c",
    "ip link set lo up; exec \"$@\"",
    "sh",
];

/// Removes the groups that a dockerd left.
pub(crate) fn remove_cgroups(parent: &str) {
    let groups = format!("find /sys/fs/cgroup -depth -type d -path '*{parent}*' -exec rmdir {{}} +");
    Invocation::new("sh", &["-c", &groups]).run();
}

/// A dockerd changes the packet filter of its whole network namespace, so it gets its own, and a process
/// namespace with which all that it started ends.
pub(crate) fn into_own_namespaces() {
    if std::env::var_os(INSIDE).is_some() {
        Invocation::new("ip", &["link", "set", "lo", "up"]).ok();
        return;
    }
    let mut command = Command::new(UNSHARE[0]);
    command.args(&UNSHARE[1..]).arg(std::env::current_exe().unwrap()).args(std::env::args_os().skip(1));
    command.env(INSIDE, std::process::id().to_string());
    let status = command.status().unwrap();
    remove_cgroups(&reference_cgroup());
    std::process::exit(status.code().unwrap_or(1));
}
