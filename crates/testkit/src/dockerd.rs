//! A stock dockerd with everything of it in one folder.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::Invocation;
use crate::wait_for;

/// How long it may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running dockerd. It ends when it is dropped, and takes its mounts with it.
#[derive(Debug)]
pub struct Dockerd {
    child: Child,
    folder: PathBuf,
    has_own_namespaces: bool,
}

impl Dockerd {
    /// Starts this binary with more flags, inside the namespaces that a command makes, or in those of the test.
    ///
    /// # Panics
    /// When it does not listen; the panic shows its log.
    #[must_use]
    pub fn start(binary: &Path, folder: &Path, flags: &[&str], inside: &[&str]) -> Self {
        fs::create_dir_all(folder).expect("a folder can be made");
        let config = folder.join("daemon.json");
        fs::write(&config, "{}\n").expect("a configuration can be written");
        let words: Vec<&OsStr> = inside.iter().map(OsStr::new).chain([binary.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        // The containerd and runc beside it are its own.
        let bin = binary.parent().unwrap_or(Path::new("/")).display().to_string();
        command.env("PATH", format!("{bin}:{}", std::env::var("PATH").unwrap_or_default()));
        command.args(["--host", &format!("unix://{}", folder.join(SOCKET).display())]).args(flags);
        for (flag, path) in [
            ("--data-root", folder.join(DATA)),
            ("--exec-root", folder.join("run")),
            ("--pidfile", folder.join("pid")),
            ("--config-file", config),
        ] {
            command.arg(flag).arg(path);
        }
        let log = File::create(folder.join(LOG)).expect("a log can be made");
        let errors = log.try_clone().expect("a descriptor can be duplicated");
        let spawned = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let child = spawned.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
        let mut dockerd = Self { child, folder: folder.to_owned(), has_own_namespaces: !inside.is_empty() };
        let listens = || UnixStream::connect(folder.join(SOCKET)).is_ok();
        let settled = wait_for(PATIENCE, || listens() || dockerd.has_ended());
        let log = || fs::read_to_string(folder.join(LOG)).unwrap_or_default();
        assert!(settled && !dockerd.has_ended(), "dockerd does not start; its log:\n{}", log());
        dockerd
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// The data root.
    pub fn data_root(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    /// The path of its log.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join(LOG)
    }

    /// Its process id, or that of the command that made its namespaces.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and it asks its containerd.
    fn stop(&mut self) {
        Invocation::new("kill", &[&self.pid().to_string()]).run();
        wait_for(Duration::from_secs(20), || self.has_ended());
    }
}

const SOCKET: &str = "docker.sock";
const DATA: &str = "data";
const LOG: &str = "engine.log";

impl Drop for Dockerd {
    fn drop(&mut self) {
        // All that runs in its namespaces ends with them.
        if !self.has_own_namespaces {
            self.stop();
        }
        // Ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mounts = format!(
            "awk '$2 ~ \"^{}/\" {{print $2}}' /proc/mounts | tac | xargs -r umount -l",
            self.folder.display()
        );
        Invocation::new("sh", &["-c", &mounts]).run();
    }
}
