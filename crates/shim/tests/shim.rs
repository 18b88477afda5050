//! Real containers from busybox, started through a real launcher. Needs root.
//!
//! This program is its own launcher: started as `… launcher`, it forks shims; otherwise it runs the tests.
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]
#![expect(clippy::print_stdout, reason = "this is a test harness")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use yare_logs::{ReadOptions, Reader};
use yare_oci::runtime::{Linux, Mount, Namespace, Process, Root, Spec};
use yare_shim::{
    AttachSpec, Connection, ExecSpec, Exit, Launch, Launcher, LauncherConfig, LogDriver, LogSpec, Reply,
    Request, Rootfs,
};

const ALL: AttachSpec = AttachSpec { stdin: true, stdout: true, stderr: true };
const OUTPUT: AttachSpec = AttachSpec { stdin: false, stdout: true, stderr: true };

/// How long a shim may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// A launcher and directories of its own.
struct Bench {
    dir: tempfile::TempDir,
    launcher: Launcher,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Bench {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("yare-shim").tempdir().unwrap();
        make_busybox(&dir.path().join("lower"));
        let config = LauncherConfig {
            program: std::env::current_exe().unwrap(),
            args: vec!["launcher".into()],
            keep: vec![dir.path().to_owned()],
        };
        Self { launcher: Launcher::start_with(config).unwrap(), dir }
    }

    /// A container of `sh -c script`, with directories made.
    fn container(&self, script: &str) -> Launch {
        let id = format!("{:08x}{:08x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = self.dir.path().join(&id);
        for name in ["run", "upper", "work", "data"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        Launch {
            spec: spec(script),
            rootfs: Rootfs::Overlay {
                lower: vec![self.dir.path().join("lower")],
                upper: Some(root.join("upper")),
                work: Some(root.join("work")),
            },
            cgroup_path: format!("yare-shim-test/{id}"),
            log: LogSpec { path: root.join("data/x-json.log"), ..LogSpec::default() },
            run_dir: root.join("run"),
            own_roots: vec![self.dir.path().to_owned()],
            id,
            ..Launch::default()
        }
    }

    /// Starts it with one attached stream.
    fn run(&self, launch: &mut Launch, attach: AttachSpec) -> (Task, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        launch.attaches = vec![attach];
        (self.launch(launch, vec![theirs.into()]), ours)
    }

    fn launch(&self, launch: &Launch, descriptors: Vec<OwnedFd>) -> Task {
        self.try_launch(launch, descriptors).unwrap_or_else(|reply| panic!("not started: {reply:?}"))
    }

    fn try_launch(&self, launch: &Launch, descriptors: Vec<OwnedFd>) -> Result<Task, Reply> {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let stream = self.launcher.launch(launch.clone(), &borrowed).unwrap();
        drop(descriptors);
        match yare_shim::recv_reply(&stream, ANSWER).unwrap() {
            (Reply::Started { pid }, descriptors) => {
                assert_eq!(descriptors.len(), 1, "the pidfd");
                Ok(Task { connection: Connection::new(stream), pid, launch: launch.clone() })
            }
            (reply, _) => Err(reply),
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while processes_with(self.dir.path()) > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Shims whose files are still open beneath a directory.
fn processes_with(dir: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let fds = std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let mut targets = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        count += usize::from(targets.any(|target| target.starts_with(dir)));
    }
    count
}

/// A started container.
struct Task {
    connection: Connection,
    pid: i32,
    launch: Launch,
}

impl Task {
    fn reply(&mut self) -> Reply {
        self.connection.recv().unwrap().expect("the shim lives").0
    }

    fn exit(&mut self) -> Exit {
        match self.reply() {
            Reply::Exited(exit) => exit,
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, request: &Request) -> Reply {
        self.connection.send(request, &[]).unwrap();
        self.reply()
    }

    fn kill(&mut self) -> Exit {
        self.connection.send(&Request::Signal { exec_id: None, signal: 9 }, &[]).unwrap();
        loop {
            match self.reply() {
                Reply::Exited(exit) => return exit,
                Reply::Ok | Reply::ExecExited { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn log(&self) -> String {
        read_log(&self.launch)
    }

    /// Runs `sh -c script` in it with an attached stream.
    fn exec(&mut self, script: &str, change: impl FnOnce(&mut ExecSpec)) -> (i32, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut exec = ExecSpec {
            exec_id: format!("e{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            process: process(script),
            attach: Some(ALL),
            ..ExecSpec::default()
        };
        change(&mut exec);
        self.connection.send(&Request::Exec(Box::new(exec)), &[theirs.as_fd()]).unwrap();
        match self.reply() {
            Reply::Started { pid } => (pid, ours),
            other => panic!("{other:?}"),
        }
    }

    fn exec_exit(&mut self) -> i32 {
        match self.reply() {
            Reply::ExecExited { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }
}

fn read_log(launch: &Launch) -> String {
    let options = ReadOptions { stdout: true, stderr: true, ..ReadOptions::default() };
    let mut reader = Reader::open(&launch.log.path, options).unwrap();
    let mut text = String::new();
    while let Some(entries) = reader.next_chunk().unwrap() {
        entries.iter().for_each(|entry| text.push_str(std::str::from_utf8(&entry.line).unwrap()));
    }
    text
}

fn make_busybox(root: &Path) {
    for name in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let applets = "sh cat echo true false sleep stty head yes seq tty kill id dd printf ls wc readlink trap";
    for applet in applets.split(' ') {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
}

fn process(script: &str) -> Process {
    Process {
        args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        cwd: "/".to_owned(),
        ..Process::default()
    }
}

fn spec(script: &str) -> Spec {
    let mount = |destination: &str, kind: &str, options: &[&str]| Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: kind.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..Mount::default()
    };
    let namespace = |kind: &str| Namespace { kind: kind.to_owned(), path: String::new() };
    Spec {
        oci_version: "1.2.0".to_owned(),
        process: Some(process(script)),
        root: Some(Root { path: "rootfs".to_owned(), readonly: false }),
        mounts: vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
        ],
        linux: Some(Linux {
            namespaces: ["pid", "mount", "uts", "ipc", "network"].map(namespace).to_vec(),
            ..Linux::default()
        }),
        ..Spec::default()
    }
}

/// Payloads of multiplexed frames by stream, until the end.
fn frames(mut stream: impl Read) -> BTreeMap<u8, String> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut payloads: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[4..8].try_into().unwrap()) as usize;
        payloads.entry(rest[0]).or_default().extend_from_slice(&rest[8..8 + length]);
        rest = &rest[8 + length..];
    }
    payloads.into_iter().map(|(stream, bytes)| (stream, String::from_utf8(bytes).unwrap())).collect()
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads until `text` has come.
fn expect(stream: &mut UnixStream, text: &str) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(text) {
        let length =
            stream.read(&mut buffer).unwrap_or_else(|error| panic!("{error} before {text:?}: {seen:?}"));
        assert!(length > 0, "ended before {text:?}: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    seen
}

fn output_exit_and_log_agree(bench: &Bench) {
    let mut launch = bench.container("echo out; echo err >&2; printf unfinished; exit 7");
    let (mut task, stream) = bench.run(&mut launch, OUTPUT);
    assert!(task.pid > 1);
    let got = frames(stream);
    assert_eq!(got[&1], "out\nunfinished");
    assert_eq!(got[&2], "err\n");
    let exit = task.exit();
    assert_eq!((exit.code, exit.oom), (7, false));
    assert_eq!(exit.error, None);
    // Streams are two pipes: between them, what comes first is up to the scheduler.
    let log = task.log();
    let (around, err) = (log.replacen("err\n", "", 1), log.matches("err\n").count());
    assert_eq!((around.as_str(), err), ("out\nunfinished", 1), "{log:?}");
    assert_eq!(Exit::read(&launch.run_dir).unwrap(), Some(exit));
    assert!(task.connection.recv().unwrap().is_none(), "the shim ends");
    wait_until("the socket is gone", || !launch.run_dir.join("shim.sock").exists());
    wait_until("the cgroup is gone", || !cgroup_exists(&launch.cgroup_path));
}

/// The parent of all groups of these tests.
fn remove_cgroups() {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    for root in hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]) {
        let _ = std::fs::remove_dir(root.join("yare-shim-test"));
    }
}

fn cgroup_exists(path: &str) -> bool {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let mut roots: Vec<PathBuf> = hierarchies.map(|entry| entry.path()).collect();
    roots.push("/sys/fs/cgroup".into());
    roots.iter().any(|root| root.join(path).exists())
}

fn exit_codes_are_those_of_a_shell(bench: &Bench) {
    for (script, code) in [("true", 0), ("exit 255", 255), ("kill -9 $$; sleep 5", 0)] {
        let mut task = bench.launch(&bench.container(script), Vec::new());
        let exit = task.exit();
        // Process 1 of a namespace does not get its own SIGKILL: the sleep goes on to its end.
        assert_eq!(exit.code, code, "{script}");
    }
    let mut task = bench.launch(&bench.container("sleep 100"), Vec::new());
    assert_eq!(task.kill().code, 137);
}

fn a_program_that_is_not_there_is_told_apart(bench: &Bench) {
    let mut launch = bench.container("");
    launch.spec.process.as_mut().unwrap().args = vec!["nosuch".to_owned()];
    let Err(Reply::Failed(failure)) = bench.try_launch(&launch, Vec::new()) else { panic!("it started") };
    assert!(failure.message.contains("executable file not found in $PATH"), "{failure:?}");
    assert_eq!(failure.exit_code, Some(127));
    wait_until("the cgroup is gone", || !cgroup_exists(&launch.cgroup_path));
    assert_eq!(Exit::read(&launch.run_dir).unwrap(), None);
    launch.rootfs = Rootfs::Overlay { lower: vec!["/nonexistent/layer".into()], upper: None, work: None };
    let Err(Reply::Failed(failure)) = bench.try_launch(&launch, Vec::new()) else { panic!("it started") };
    assert!(failure.message.contains("/nonexistent/layer is missing"), "{failure:?}");
}

fn half_closed_stdin_ends_cat(bench: &Bench) {
    let mut launch = bench.container("cat; echo end");
    (launch.open_stdin, launch.stdin_once) = (true, true);
    let (mut task, mut stream) = bench.run(&mut launch, ALL);
    let text = "line\n".repeat(100_000);
    let writer = {
        let (mut stream, text) = (stream.try_clone().unwrap(), text.clone());
        std::thread::spawn(move || {
            stream.write_all(text.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        })
    };
    let got = frames(&mut stream);
    writer.join().unwrap();
    assert!(got[&1] == format!("{text}end\n"), "{} bytes", got[&1].len());
    assert_eq!(task.exit().code, 0);
    assert!(task.log() == got[&1]);
}

fn stdin_stays_open_for_the_next_client(bench: &Bench) {
    let mut launch = bench.container("while read line; do echo got $line; done");
    launch.open_stdin = true;
    let (mut task, mut first) = bench.run(&mut launch, ALL);
    first.write_all(b"one\n").unwrap();
    expect(&mut first, "got one");
    drop(first);
    let (mut second, theirs) = UnixStream::pair().unwrap();
    task.connection.send(&Request::Attach(ALL), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    assert_eq!(task.reply(), Reply::Ok);
    second.write_all(b"two\n").unwrap();
    expect(&mut second, "got two");
    assert_eq!(task.kill().code, 137);
    assert_eq!(task.log(), "got one\ngot two\n");
}

fn without_stdin_there_is_none(bench: &Bench) {
    let mut launch = bench.container("cat; readlink /proc/self/fd/0; echo done");
    let (mut task, stream) = bench.run(&mut launch, ALL);
    assert!(frames(stream)[&1].ends_with("done\n"));
    assert_eq!(task.exit().code, 0);
}

fn a_terminal_is_one_and_can_be_resized(bench: &Bench) {
    let mut launch =
        bench.container("trap 'stty size' WINCH; stty size; tty; while true; do read x && echo =$x=; done");
    (launch.open_stdin, launch.stdin_once, launch.terminal) = (true, true, true);
    let process = launch.spec.process.as_mut().unwrap();
    process.terminal = true;
    process.console_size = Some(yare_oci::runtime::ConsoleSize { height: 33, width: 77 });
    let (mut task, mut stream) = bench.run(&mut launch, ALL);
    let seen = expect(&mut stream, "/dev/pts/0");
    assert!(seen.contains("33 77"), "{seen:?}");
    stream.write_all(b"hello\n").unwrap();
    expect(&mut stream, "=hello=");
    assert_eq!(task.ask(&Request::Resize { exec_id: None, rows: 12, cols: 34 }), Reply::Ok);
    stream.write_all(b"again\n").unwrap();
    expect(&mut stream, "12 34");
    // Ctrl-C reaches the foreground process.
    stream.write_all(b"exec sleep 100\n").unwrap();
    assert_eq!(task.kill().code, 137);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(task.log().contains("=hello="));
}

fn execs_run_beside_the_container(bench: &Bench) {
    let mut task = bench.launch(&bench.container("sleep 100"), Vec::new());
    let (_, stream) = task.exec("echo out; echo err >&2; exit 3", |_| {});
    let got = frames(stream);
    assert_eq!((got[&1].as_str(), got[&2].as_str()), ("out\n", "err\n"));
    assert_eq!(task.exec_exit(), 3);

    let (_, mut stream) = task.exec("cat; echo end", |exec| exec.open_stdin = true);
    stream.write_all(b"through\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(frames(stream)[&1], "through\nend\n");
    assert_eq!(task.exec_exit(), 0);

    let (_, mut stream) = task.exec("tty; stty size; read x; stty size", |exec| {
        (exec.terminal, exec.open_stdin, exec.exec_id) = (true, true, "tty".to_owned());
        exec.process.terminal = true;
    });
    expect(&mut stream, "/dev/pts/");
    assert_eq!(task.ask(&Request::Resize { exec_id: Some("tty".into()), rows: 20, cols: 40 }), Reply::Ok);
    stream.write_all(b"\n").unwrap();
    expect(&mut stream, "20 40");
    assert_eq!(task.exec_exit(), 0);

    let (_, stream) = task.exec("sleep 100", |exec| exec.exec_id = "long".to_owned());
    let Reply::State { execs, exit, .. } = task.ask(&Request::State) else { panic!("no state") };
    assert_eq!((execs, exit), (vec!["long".to_owned()], None));
    assert_eq!(task.ask(&Request::Signal { exec_id: Some("long".into()), signal: 15 }), Reply::Ok);
    assert_eq!(task.exec_exit(), 143);
    drop(stream);

    let missing =
        ExecSpec { process: Process { args: vec!["nosuch".into()], ..process("") }, ..ExecSpec::default() };
    let Reply::Failed(failure) = task.ask(&Request::Exec(Box::new(missing))) else { panic!("it ran") };
    assert_eq!(failure.exit_code, Some(127), "{failure:?}");
    assert_eq!(task.kill().code, 137);
    assert_eq!(task.log(), "", "the output of execs is not the container's");
}

fn an_exec_ends_with_its_container(bench: &Bench) {
    let mut task = bench.launch(&bench.container("sleep 100"), Vec::new());
    let (_, stream) = task.exec("sleep 200", |_| {});
    assert_eq!(task.kill().code, 137);
    frames(stream);
}

/// What the container says after the engine has gone is in the log, and so is what it said before.
fn no_line_is_lost_when_the_engine_dies(bench: &Bench) {
    const LINES: usize = 200_000;
    let mut launch = bench.container(&format!("seq {LINES}; exit 5"));
    let (task, stream) = bench.run(&mut launch, OUTPUT);
    std::thread::sleep(Duration::from_millis(30));
    drop(stream);
    drop(task);
    wait_until("the exit is kept", || Exit::read(&launch.run_dir).unwrap().is_some());
    assert_eq!(Exit::read(&launch.run_dir).unwrap().unwrap().code, 5);
    let text = read_log(&launch);
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers == (1..=LINES).collect::<Vec<_>>(), "{} lines", numbers.len());
}

fn a_new_engine_finds_a_running_shim(bench: &Bench) {
    let launch = bench.container("read x; sleep 100");
    let task = bench.launch(&launch, Vec::new());
    let pid = task.pid;
    drop(task);
    let mut connection = yare_shim::connect(&launch.run_dir, ANSWER).unwrap();
    connection.send(&Request::Subscribe, &[]).unwrap();
    let (Reply::State { pid: told, exit: None, .. }, _) = connection.recv().unwrap().unwrap() else {
        panic!("no state")
    };
    assert_eq!(told, pid);
    assert!(Path::new("/proc").join(shim_pid(&launch).to_string()).exists());
    assert_eq!(yare_shim::noted_pid(&launch.run_dir), Some(pid));
    connection.send(&Request::Signal { exec_id: None, signal: 9 }, &[]).unwrap();
    assert_eq!(connection.recv().unwrap().unwrap().0, Reply::Ok);
    let (Reply::Exited(exit), _) = connection.recv().unwrap().unwrap() else { panic!("no exit") };
    assert_eq!(exit.code, 137);
    wait_until("nobody listens", || yare_shim::connect(&launch.run_dir, ANSWER).is_err());
}

fn a_stuck_client_cannot_hold_the_exit_up(bench: &Bench) {
    let mut launch = bench.container("yes | head -c 8000000");
    let (mut task, stream) = bench.run(&mut launch, OUTPUT);
    task.connection.send(&Request::State, &[]).unwrap();
    assert!(matches!(task.reply(), Reply::State { exit: None, .. }));
    // It does not read: the process has to wait for it.
    std::thread::sleep(Duration::from_millis(300));
    let (mut second, theirs) = UnixStream::pair().unwrap();
    task.connection.send(&Request::Attach(OUTPUT), &[theirs.as_fd()]).unwrap();
    drop(theirs);
    assert_eq!(task.reply(), Reply::Ok);
    let start = Instant::now();
    assert_eq!(task.kill().code, 137);
    assert!(start.elapsed() < Duration::from_secs(8), "told at once, {:?}", start.elapsed());
    let mut seen = Vec::new();
    second.read_to_end(&mut seen).unwrap();
    assert!(start.elapsed() < Duration::from_secs(8), "others get the end at once");
    // The shim keeps the rest for it as long as it stays: it may be a pager.
    std::thread::sleep(Duration::from_secs(11));
    assert!(!stream_is_ended(&task.connection), "it still waits");
    drop(stream);
    assert!(task.connection.recv().unwrap().is_none());
}

/// Whether a connection has come to its end.
fn stream_is_ended(connection: &yare_shim::Connection) -> bool {
    let mut ended = [rustix::event::PollFd::new(connection, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut ended, Some(&now)).unwrap() > 0
}

fn a_slow_client_slows_the_container_and_loses_nothing(bench: &Bench) {
    let mut launch = bench.container("seq 400000");
    launch.log.driver = LogDriver::None;
    let (mut task, mut stream) = bench.run(&mut launch, OUTPUT);
    std::thread::sleep(Duration::from_millis(200));
    let got = frames(&mut stream);
    let numbers: Vec<usize> = got[&1].lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers == (1..=400_000).collect::<Vec<_>>(), "{} lines", numbers.len());
    assert_eq!(task.exit().code, 0);
    assert!(!launch.log.path.exists(), "no log was asked for");
}

fn rotated_logs_are_compressed_and_whole(bench: &Bench) {
    let mut launch = bench.container("seq 100000; sleep 1; seq 100001 100100");
    launch.log.max_size = Some(1_000_000);
    launch.log.max_file = 50;
    launch.log.compress = true;
    let mut task = bench.launch(&launch, Vec::new());
    assert_eq!(task.exit().code, 0);
    assert!(task.connection.recv().unwrap().is_none());
    let numbers: Vec<usize> = task.log().lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers == (1..=100_100).collect::<Vec<_>>(), "{} lines", numbers.len());
    let names: Vec<_> = std::fs::read_dir(launch.log.path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.iter().any(|name| name.ends_with(".gz")), "{names:?}");
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{names:?}");
}

fn a_background_process_does_not_hold_the_exit_up(bench: &Bench) {
    // In the host's pid namespace nothing but us ends what the container leaves behind.
    let mut launch = bench.container("sleep 50 & echo started");
    launch.spec.linux.as_mut().unwrap().namespaces.retain(|namespace| namespace.kind != "pid");
    let (mut task, stream) = bench.run(&mut launch, OUTPUT);
    let start = Instant::now();
    assert_eq!(task.exit().code, 0);
    assert_eq!(frames(stream)[&1], "started\n");
    assert!(start.elapsed() < Duration::from_secs(30));
    assert!(task.connection.recv().unwrap().is_none());
    assert!(!cgroup_exists(&launch.cgroup_path));
}

fn many_start_at_once(bench: &Bench) {
    std::thread::scope(|scope| {
        for number in 0..50 {
            scope.spawn(move || {
                let mut launch = bench.container(&format!("echo {number}; exit {number}"));
                let (mut task, stream) = bench.run(&mut launch, OUTPUT);
                assert_eq!(frames(stream)[&1], format!("{number}\n"));
                assert_eq!(task.exit().code, number);
                assert_eq!(task.log(), format!("{number}\n"));
            });
        }
    });
}

fn the_same_container_starts_again_at_once(bench: &Bench) {
    let launch = bench.container("echo again");
    for round in 1..=10 {
        let mut task = bench.launch(&launch, Vec::new());
        assert_eq!(task.exit().code, 0);
        assert_eq!(task.log(), "again\n".repeat(round));
        // As the snapshotter does before a restart.
        let mark = launch.run_dir.parent().unwrap().join("work/work/incompat/volatile");
        std::fs::remove_dir_all(mark).unwrap();
    }
}

fn a_killed_launcher_is_replaced(bench: &Bench) {
    let mut running = bench.launch(&bench.container("sleep 100"), Vec::new());
    let old = bench.launcher.pid();
    yare_sys::process::kill(old as i32, 9).unwrap();
    // Killed is not yet gone: its sockets close as it ends.
    wait_until("it is dead", || {
        let stat = std::fs::read_to_string(format!("/proc/{old}/stat")).unwrap_or_default();
        stat.rsplit(')')
            .next()
            .is_none_or(|rest| rest.trim_start().starts_with(['Z', 'X']) || rest.is_empty())
    });
    let mut task = bench.launch(&bench.container("exit 4"), Vec::new());
    assert_eq!(task.exit().code, 4);
    assert_ne!(bench.launcher.pid(), old);
    assert_eq!(running.kill().code, 137, "what ran before is untouched");
}

fn shim_pid(launch: &Launch) -> i32 {
    let pids = std::fs::read_to_string(launch.run_dir.join("shim.pid")).unwrap();
    pids.lines().next().unwrap().parse().unwrap()
}

fn shims_are_small_and_deaf_to_signals(bench: &Bench) {
    let launch = bench.container("echo x; sleep 100");
    let mut task = bench.launch(&launch, Vec::new());
    wait_until("it is idle", || read_log(&launch) == "x\n");
    let shim = shim_pid(&launch);
    for signal in [1, 2, 13, 15] {
        yare_sys::process::kill(shim, signal).unwrap();
    }
    assert!(matches!(task.ask(&Request::State), Reply::State { exit: None, .. }));
    let title = std::fs::read_to_string(format!("/proc/{shim}/cmdline")).unwrap();
    assert!(title.starts_with(&format!("yare-shim {}", launch.id)), "{title:?}");
    // Pages of the program file count as dirty while it has just been written; only writable memory is ours.
    let smaps = std::fs::read_to_string(format!("/proc/{shim}/smaps")).unwrap();
    let (mut writable, mut sum) = (false, 0);
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next().unwrap(), words.next()) {
            ("Private_Dirty:", Some(kilobytes)) if writable => sum += kilobytes.parse::<u64>().unwrap(),
            (range, Some(permissions)) if range.contains('-') => writable = permissions.starts_with("rw"),
            _ => {}
        }
    }
    // 200 kB are promised; a build without optimisation uses deeper stacks.
    assert!(sum < if cfg!(debug_assertions) { 400 } else { 200 }, "{smaps}");
    assert_eq!(task.kill().code, 137);
}

fn a_killed_shim_is_noticed_and_takes_nobody_along(bench: &Bench) {
    let launch = bench.container("sleep 100");
    let mut task = bench.launch(&launch, Vec::new());
    let mut other = bench.launch(&bench.container("sleep 100"), Vec::new());
    let shim = shim_pid(&launch);
    yare_sys::process::kill(shim, 9).unwrap();
    assert!(task.connection.recv().unwrap().is_none(), "no exit is made up");
    assert!(yare_shim::connect(&launch.run_dir, ANSWER).is_err());
    yare_sys::process::kill(task.pid, 0).expect("the container runs on");
    yare_sys::process::kill(task.pid, 9).unwrap();
    wait_until("the container is gone", || yare_sys::process::kill(task.pid, 0).is_err());
    assert_eq!(other.kill().code, 137);
    // The next start is not in the way of what is left: socket, cgroup, lock.
    let mark = launch.run_dir.parent().unwrap().join("work/work/incompat/volatile");
    std::fs::remove_dir_all(mark).unwrap();
    assert_eq!(bench.launch(&launch, Vec::new()).kill().code, 137);
}

fn a_bind_from_anywhere_is_seen(bench: &Bench) {
    // A mount that the launcher has trimmed away: made after it started, and shared with nobody.
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("mounted");
    std::fs::create_dir(&target).unwrap();
    rustix::mount::mount("tmpfs", &target, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    std::fs::write(target.join("file"), "from the host").unwrap();
    let mut launch = bench.container("cat /mnt/mounted/file");
    launch.spec.mounts.push(Mount {
        destination: "/mnt".to_owned(),
        kind: "bind".to_owned(),
        source: outside.path().to_str().unwrap().to_owned(),
        options: vec!["rbind".to_owned(), "rprivate".to_owned()],
        ..Mount::default()
    });
    let (mut task, stream) = bench.run(&mut launch, OUTPUT);
    let got = frames(stream);
    let exit = task.exit();
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!((exit.code, got.get(&1).map(String::as_str)), (0, Some("from the host")), "{got:?}");
}

fn an_engine_that_leaves_at_once_leaves_nothing_behind(bench: &Bench) {
    for _ in 0..20 {
        let launch = bench.container("sleep 0.05");
        let stream = bench.launcher.launch(launch.clone(), &[]).unwrap();
        drop(stream);
        wait_until("it ran to its end", || Exit::read(&launch.run_dir).unwrap().is_some());
    }
}

type Test = (&'static str, fn(&Bench));

macro_rules! tests {
    ($($name:ident),* $(,)?) => { vec![$((stringify!($name), $name as fn(&Bench))),*] };
}

fn tests() -> Vec<Test> {
    tests![
        output_exit_and_log_agree,
        exit_codes_are_those_of_a_shell,
        a_program_that_is_not_there_is_told_apart,
        half_closed_stdin_ends_cat,
        stdin_stays_open_for_the_next_client,
        without_stdin_there_is_none,
        a_terminal_is_one_and_can_be_resized,
        execs_run_beside_the_container,
        an_exec_ends_with_its_container,
        no_line_is_lost_when_the_engine_dies,
        a_new_engine_finds_a_running_shim,
        a_stuck_client_cannot_hold_the_exit_up,
        a_slow_client_slows_the_container_and_loses_nothing,
        rotated_logs_are_compressed_and_whole,
        a_background_process_does_not_hold_the_exit_up,
        many_start_at_once,
        the_same_container_starts_again_at_once,
        a_killed_launcher_is_replaced,
        shims_are_small_and_deaf_to_signals,
        a_killed_shim_is_noticed_and_takes_nobody_along,
        a_bind_from_anywhere_is_seen,
        an_engine_that_leaves_at_once_leaves_nothing_behind,
    ]
}

fn main() {
    let argv: Vec<_> = std::env::args_os().collect();
    if argv.get(1).is_some_and(|word| word == "launcher") {
        yare_shim::launcher::main(argv).unwrap();
        return;
    }
    if argv.iter().any(|argument| argument == "--list") {
        tests().into_iter().for_each(|(name, _)| println!("{name}: test"));
        return;
    }
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("YARE_REQUIRE_ROOT").is_none(), "root is required");
        println!("SKIP shim: needs root");
        return;
    }
    let filters: Vec<String> = argv[1..]
        .iter()
        .filter_map(|word| word.to_str())
        .filter(|word| !word.starts_with('-'))
        .map(str::to_owned)
        .collect();
    let mut failed = Vec::new();
    for (name, test) in tests() {
        if !filters.is_empty() && !filters.iter().any(|filter| name.contains(filter.as_str())) {
            continue;
        }
        let start = Instant::now();
        let result = std::panic::catch_unwind(|| test(&Bench::new()));
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.2} s)", start.elapsed().as_secs_f64());
        if result.is_err() {
            failed.push(name);
        }
    }
    remove_cgroups();
    assert!(failed.is_empty(), "failed: {failed:?}");
}
