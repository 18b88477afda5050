//! One engine of one test: its own roots, socket, bridge, subnet and cgroups.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binary::yare_binary;
use crate::cleanup::Territory;
use crate::command::Invocation;
use crate::rootfs::busybox_rootfs_tar;
use crate::slot::Slot;
use crate::wait_for;

/// How long an engine may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running engine. Dropping it removes its containers, ends it, and takes away what it made.
#[derive(Debug)]
pub struct Engine {
    folder: TempDir,
    slot: Slot,
    /// A command that makes namespaces for it.
    inside: Vec<String>,
    extra: Vec<String>,
    child: Option<Child>,
}

impl Engine {
    /// Starts one and waits until it listens.
    ///
    /// # Panics
    /// When it does not; the panic shows its log.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more flags of `yare daemon`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_with(flags: &[&str]) -> Self {
        Self::begin(&[], flags)
    }

    /// Starts one inside the namespaces that a command makes before it becomes the engine.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start_inside(command: &[&str]) -> Self {
        Self::begin(command, &[])
    }

    fn begin(inside: &[&str], flags: &[&str]) -> Self {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let parent = std::env::var_os("YARE_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = tempfile::Builder::new().prefix("yare-test-").tempdir_in(parent);
        let mut engine = Self {
            folder: folder.expect("a folder for the test can be made"),
            slot: Slot::claim(),
            inside: owned(inside),
            extra: owned(flags),
            child: None,
        };
        // What a killed run with the same number may have left.
        engine.territory().clear();
        engine.launch();
        engine
    }

    fn launch(&mut self) {
        assert!(self.child.is_none(), "the engine runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log can be made");
        let errors = log.try_clone().expect("a descriptor can be duplicated");
        // With signals blocked, as whoever starts it may have left them: neither the engine nor a container
        // may be deaf because of that.
        let mut words = self.inside.iter().map(String::as_str).chain(["env", "--block-signal"]);
        let mut command = Command::new(words.next().unwrap_or("env"));
        command.args(words).arg(yare_binary());
        command.arg("daemon").args(self.flags()).args(&self.extra);
        for name in ["DOCKER_HOST", "YARE_HOST", "DOCKER_CONTEXT", "LISTEN_FDS", "LISTEN_PID"] {
            command.env_remove(name);
        }
        let spawned = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.child = Some(spawned.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}")));
        let listening = wait_for(PATIENCE, || UnixStream::connect(self.socket()).is_ok() || self.has_ended());
        assert!(listening && !self.has_ended(), "the engine does not listen; its log:\n{}", self.log());
    }

    fn flags(&self) -> Vec<String> {
        let path = |name: &str| self.path().join(name).display().to_string();
        let pairs = [
            ("--data-root", path("data")),
            ("--exec-root", path("exec")),
            ("--pidfile", path("pid")),
            ("--config-file", path("daemon.json")),
            ("--host", self.host()),
            ("--bridge", self.slot.bridge()),
            ("--bip", self.slot.bip()),
            ("--default-address-pool", self.slot.pool()),
            ("--cgroup-parent", self.slot.cgroup()),
            ("--log-level", "debug".to_owned()),
        ];
        let config = self.path().join("daemon.json");
        if !config.exists() {
            fs::write(config, "{}\n").expect("a configuration can be written");
        }
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    fn has_ended(&mut self) -> bool {
        let status = self.child.as_mut().map(Child::try_wait);
        !matches!(status, Some(Ok(None)))
    }

    /// The folder of everything this engine has on disk.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The data root.
    pub fn data_root(&self) -> PathBuf {
        self.path().join("data")
    }

    /// The root of what runs.
    pub fn exec_root(&self) -> PathBuf {
        self.path().join("exec")
    }

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.path().join("yare.sock")
    }

    /// Its address, as `DOCKER_HOST` takes it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The name of its bridge.
    pub fn bridge(&self) -> String {
        self.slot.bridge()
    }

    /// The address of its bridge, with the prefix length.
    pub fn bip(&self) -> String {
        self.slot.bip()
    }

    /// The parent of its containers' cgroups, beneath each hierarchy.
    pub fn cgroup_parent(&self) -> String {
        self.slot.cgroup()
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the engine runs").id()
    }

    fn log_path(&self) -> PathBuf {
        self.path().join("engine.log")
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// `docker` with these arguments, talking to this engine.
    pub fn docker(&self, args: &[&str]) -> Invocation {
        self.client("docker", args)
    }

    /// `yare` with these arguments, talking to this engine.
    pub fn yare(&self, args: &[&str]) -> Invocation {
        self.client(yare_binary(), args)
    }

    fn client(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Invocation {
        let plain = ["DOCKER_CONTEXT", "DOCKER_API_VERSION", "DOCKER_TLS_VERIFY", "YARE_HOST", "NO_COLOR"];
        let invocation = Invocation::new(program, args)
            .env("DOCKER_HOST", self.host())
            .env("DOCKER_CONFIG", self.path().join("docker-config"))
            .env("XDG_DATA_HOME", self.path().join("user-data"))
            .env("XDG_STATE_HOME", self.path().join("user-state"))
            .env("DOCKER_CLI_HINTS", "false");
        plain.into_iter().fold(invocation, Invocation::without_env)
    }

    /// Brings in the image `busybox:latest`, made on the spot.
    ///
    /// # Panics
    /// When it cannot.
    pub fn load_busybox(&self) {
        let args = ["import", "--change", "CMD [\"sh\"]", "-", "busybox:latest"];
        self.docker(&args).input(busybox_rootfs_tar()).ok();
    }

    /// Asks the engine to end, as `systemctl stop` does, and waits. Containers run on.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let ended = wait_for(PATIENCE, || self.has_ended());
        assert!(ended, "the engine does not end; its log:\n{}", self.log());
        self.child = None;
    }

    /// Kills the engine with no warning, as a crash does. Containers run on.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        wait_for(PATIENCE, || self.has_ended());
        self.child = None;
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        // It may have ended by itself.
        let _ = kill_process(pid.expect("a process id is positive"), signal);
    }

    /// Starts it again on the same roots, after [`Engine::stop`] or [`Engine::kill9`], or ends it first.
    ///
    /// # Panics
    /// When it does not end or start.
    pub fn restart(&mut self) {
        if self.child.is_some() {
            self.stop();
        }
        self.launch();
    }

    /// Removes all containers, ends the engine and checks that nothing of either is left: no mount, no
    /// process, no interface, no cgroup of a container.
    ///
    /// # Panics
    /// When something is left.
    pub fn finish(mut self) {
        self.remove_containers();
        if self.child.is_some() {
            self.stop();
        }
        let territory = self.territory();
        wait_for(PATIENCE, || territory.leaks().is_empty());
        let leaks = territory.leaks();
        assert!(leaks.is_empty(), "left behind: {leaks:#?}\nthe log:\n{}", self.log());
    }

    fn remove_containers(&mut self) {
        if self.has_ended() {
            return;
        }
        let listed = self.docker(&["ps", "--all", "--quiet", "--no-trunc"]).run().stdout;
        let ids: Vec<&str> = listed.split_whitespace().collect();
        if !ids.is_empty() {
            self.docker(&[["rm", "--force", "--volumes"].as_slice(), &ids].concat()).run();
        }
    }

    fn territory(&self) -> Territory {
        Territory { folder: self.path().to_owned(), bridge: self.slot.bridge(), cgroup: self.slot.cgroup() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of the engine ----\n{}---- end of the log ----", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.territory().clear();
    }
}
