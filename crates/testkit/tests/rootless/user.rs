//! A user of this machine, made for a test, with an engine.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use yare_testkit::{Invocation, busybox_rootfs_tar, eventually, yare_binary};

/// Tools that change the file of users lock it, and wait for seconds where it is locked.
static ACCOUNTS: Mutex<()> = Mutex::new(());

/// How long an engine may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who has no ids but the own one, and who has as many as an engine needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    One,
    Enough,
}

/// A user with a home, a folder for what runs, and the program. Dropping it ends what it runs and removes it.
#[derive(Debug)]
pub(crate) struct User {
    name: String,
    pub(crate) uid: u32,
    folder: TempDir,
    /// Keeps the mount namespace that the user is in: there everybody may open `/dev/net/tun`, as on any host with udev.
    surroundings: Child,
    engine: Option<Child>,
}

impl User {
    /// Makes one.
    pub(crate) fn new(ids: Ids) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("yaretest{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::Builder::new().prefix("yare-rootless-").tempdir().unwrap();
        let home = folder.path().join("home");
        let home_text = home.display().to_string();
        let mut account = vec!["--create-home", "--home-dir", &home_text, "--shell", "/bin/sh"];
        // Otherwise the host's settings decide whether a user is lent ids.
        let lends = ["--key", "SUB_UID_COUNT=65536", "--key", "SUB_GID_COUNT=65536"];
        let lends_none = ["--key", "SUB_UID_COUNT=0", "--key", "SUB_GID_COUNT=0"];
        account.extend(if ids == Ids::Enough { lends } else { lends_none });
        account.push(&name);
        let lock = ACCOUNTS.lock().unwrap();
        Invocation::new("useradd", &account).ok();
        drop(lock);
        let uid = Invocation::new("id", &["-u", &name]).ok().trim().parse().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let runtime = folder.path().join("run");
        fs::create_dir(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o700)).unwrap();
        chown(&runtime, Some(uid), None).unwrap();
        let program = folder.path().join("yare");
        fs::copy(yare_binary(), &program).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let surroundings = surroundings(folder.path());
        Self { name, uid, folder, surroundings, engine: None }
    }

    /// The folder of what runs, the engine's own in it.
    pub(crate) fn exec_root(&self) -> PathBuf {
        self.folder.path().join("run/yare")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A command as the user.
    pub(crate) fn invocation(&self, program: &str, args: &[&str]) -> Invocation {
        let mut words = self.words();
        words.push(program.to_owned());
        words.extend(args.iter().map(|&arg| arg.to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Invocation::new("nsenter", &words)
    }

    fn words(&self) -> Vec<String> {
        let folder = self.folder.path().display();
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let words = [
            format!("--target={}", self.surroundings.id()),
            "--mount".to_owned(),
            "setpriv".to_owned(),
            format!("--reuid={}", self.name),
            format!("--regid={}", self.name),
            "--init-groups".to_owned(),
            "env".to_owned(),
            "-i".to_owned(),
            format!("PATH={folder}:{path}"),
            format!("HOME={folder}/home"),
            format!("XDG_RUNTIME_DIR={folder}/run"),
        ];
        words.to_vec()
    }

    /// `yare` as the user types it: it finds the engine by itself.
    pub(crate) fn yare(&self, args: &[&str]) -> Invocation {
        self.invocation("yare", args)
    }

    /// The stock command line, told where the engine is.
    pub(crate) fn docker(&self, args: &[&str]) -> Invocation {
        let host = format!("unix://{}/yare.sock", self.exec_root().display());
        let args: Vec<&str> = ["-H", &host].into_iter().chain(args.iter().copied()).collect();
        self.invocation("docker", &args)
    }

    /// Starts an engine and waits until it listens.
    pub(crate) fn start(&mut self) {
        let log = fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new("nsenter");
        command.args(self.words()).args(["yare", "daemon", "--log-level", "debug"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.engine = Some(command.spawn().unwrap());
        let socket = self.exec_root().join("yare.sock");
        let engine = self.engine.as_mut().unwrap();
        let mut ended = false;
        eventually("the engine listens", PATIENCE, || {
            ended = !matches!(engine.try_wait(), Ok(None));
            ended || UnixStream::connect(&socket).is_ok()
        });
        assert!(!ended, "the engine ended; its log:\n{}", self.log());
    }

    /// Starts one with an image of busybox.
    pub(crate) fn started() -> Self {
        let mut user = Self::new(Ids::Enough);
        user.start();
        user.yare(&["import", "-", "busybox"]).input(busybox_rootfs_tar()).ok();
        user
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What its engines have said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Kills the engine, without a chance to tidy up.
    pub(crate) fn kill_engine(&mut self) {
        let mut engine = self.engine.take().unwrap();
        engine.kill().unwrap();
        engine.wait().unwrap();
    }

    /// Asks the engine to end, and waits for it.
    pub(crate) fn end_engine(&mut self) {
        let Some(mut engine) = self.engine.take() else { return };
        let pid = Pid::from_child(&engine);
        kill_process(pid, Signal::TERM).unwrap();
        eventually("the engine ends", PATIENCE, || !matches!(engine.try_wait(), Ok(None)));
    }

    /// The user's processes, and those of the ids that are lent: number and command.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
        let lent = lent(&self.name);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field =
                |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            let Some(uid) = field("Uid:").split_whitespace().next().and_then(|uid| uid.parse::<u32>().ok())
            else {
                continue;
            };
            let is_lent = lent.is_some_and(|(first, count)| (first..first + count).contains(&uid));
            if (uid == self.uid || is_lent) && !field("State:").trim().starts_with('Z') {
                found.push((pid, field("Name:").trim().to_owned()));
            }
        }
        found
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the engine's log:\n{}", self.log());
        }
        self.end_engine_by_force();
        let _ = self.surroundings.kill();
        let _ = self.surroundings.wait();
        let _lock = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        // It takes the lines of lent ids along.
        let removed = Command::new("userdel").arg("--force").arg(&self.name).output();
        if let Err(error) = removed {
            println!("cannot remove the user {}: {error}", self.name);
        }
    }
}

impl User {
    fn end_engine_by_force(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            let _ = engine.kill();
            let _ = engine.wait();
        }
        // They are this user's, who was made for this test.
        for (pid, _) in self.processes() {
            if let Some(pid) = Pid::from_raw(pid) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// The first range of ids that a user is lent.
fn lent(name: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let mut numbers = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.split(':');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A process in a mount namespace of its own, where everybody may use tunnels.
fn surroundings(folder: &Path) -> Child {
    let script = "mkdir \"$0/dev\" && mount -t tmpfs tmpfs \"$0/dev\" && mknod -m 666 \"$0/dev/tun\" c 10 200 \
                  && { [ ! -e /dev/net/tun ] || mount --bind \"$0/dev/tun\" /dev/net/tun; } && echo ready && exec sleep infinity";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(folder);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"ready");
    child
}
