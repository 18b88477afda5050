//! Roots, specifications and a way to run them, for tests in one thread.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use yare_cgroup::{Group, Host};
use yare_oci::runtime::{
    Capabilities, DeviceRule, Linux, Mount, Namespace, Process, Resources, Seccomp, Spec,
};
use yare_runtime::{Created, Filter, Origin, Root, Running, Start, StartError, Stdio};
use yare_sys::process::wait;

pub(crate) const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 30] = [
    "sh", "cat", "ls", "sleep", "id", "grep", "echo", "true", "false", "kill", "ps", "stty", "tty", "tail",
    "head", "unshare", "mount", "touch", "mkdir", "readlink", "hostname", "pwd", "stat", "chroot", "wc",
    "seq", "env", "test", "dd", "ulimit",
];

/// A root filesystem in a directory of its own.
pub(crate) struct RootFs {
    pub(crate) directory: tempfile::TempDir,
}

impl RootFs {
    pub(crate) fn new() -> Self {
        let root = Self { directory: tempfile::tempdir().unwrap() };
        for folder in ["bin", "proc", "sys", "dev", "etc", "tmp", "root"] {
            std::fs::create_dir(root.path(folder)).unwrap();
        }
        std::fs::copy(BUSYBOX, root.path("bin/busybox")).unwrap();
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.path("bin").join(applet)).unwrap();
        }
        std::fs::write(
            root.path("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.path("etc/group"), "root:x:0:\nwheel:x:10:app\napp:x:1000:\n").unwrap();
        root
    }

    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join(inside)
    }

    pub(crate) fn write(&self, inside: &str, content: impl AsRef<[u8]>, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(inside);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Replaces a directory by a link.
    pub(crate) fn link(&self, inside: &str, target: &Path) {
        std::fs::remove_dir(self.path(inside)).unwrap();
        std::os::unix::fs::symlink(target, self.path(inside)).unwrap();
    }
}

fn mount(destination: &str, kind: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: kind.into(),
        options: options.iter().map(|option| option.to_string()).collect(),
        ..Mount::default()
    }
}

/// A bind mount.
pub(crate) fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    Mount { source: source.to_string_lossy().into(), ..mount(destination, "bind", options) }
}

const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

pub(crate) fn dockers_seccomp() -> Seccomp {
    serde_json::from_str(include_str!("../data/default-seccomp-resolved.json")).unwrap()
}

/// What Docker makes of `docker run busybox ARGS`.
pub(crate) fn spec(args: &[&str]) -> Spec {
    let names: Vec<String> = CAPABILITIES.map(String::from).to_vec();
    let capabilities = Capabilities {
        bounding: names.clone(),
        effective: names.clone(),
        permitted: names.clone(),
        // As an old bundle has it: must not come through.
        inheritable: names.clone(),
        ambient: names,
    };
    let rule = |allow, minor| DeviceRule {
        allow,
        kind: if allow { "c".into() } else { String::new() },
        major: allow.then_some(1),
        minor,
        access: "rwm".into(),
    };
    let linux = Linux {
        namespaces: ["mount", "network", "uts", "pid", "ipc"]
            .map(|kind| Namespace { kind: kind.into(), path: String::new() })
            .to_vec(),
        resources: Some(Resources {
            devices: vec![rule(false, None), rule(true, Some(3)), rule(true, Some(5))],
            ..Resources::default()
        }),
        seccomp: Some(dockers_seccomp()),
        masked_paths: [
            "/proc/acpi",
            "/proc/interrupts",
            "/proc/kcore",
            "/proc/keys",
            "/proc/scsi",
            "/sys/firmware",
        ]
        .map(String::from)
        .to_vec(),
        readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
            .map(String::from)
            .to_vec(),
        ..Linux::default()
    };
    Spec {
        oci_version: "1.2.0".into(),
        process: Some(Process {
            args: args.iter().map(|arg| arg.to_string()).collect(),
            env: vec!["PATH=/usr/bin:/bin".into()],
            cwd: "/".into(),
            capabilities: Some(capabilities),
            oom_score_adj: Some(0),
            ..Process::default()
        }),
        hostname: "testhost".into(),
        mounts: vec![
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
        ],
        linux: Some(linux),
        ..Spec::default()
    }
}

/// A group of a name of its own, removed with everything in it.
pub(crate) struct TestGroup(pub(crate) Group);

impl TestGroup {
    pub(crate) fn new(spec: &Spec) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let host = Host::detect().unwrap();
        host.prepare();
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("yare-runtime-test-{}-{next}", std::process::id());
        let resources = spec.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let (group, _) = Group::create(&host, &path, resources).unwrap();
        Self(group)
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.0.remove().unwrap();
    }
}

/// How a test container is started.
#[derive(Default)]
pub(crate) struct Options<'a> {
    pub(crate) init: bool,
    pub(crate) user: Option<&'a str>,
    pub(crate) groups: &'a [String],
    pub(crate) terminal: bool,
    pub(crate) origins: &'a [Origin],
}

pub(crate) struct Streams {
    pub(crate) output: OwnedFd,
    pub(crate) stdio: Stdio,
}

/// No input, and standard output and error in one pipe.
pub(crate) fn streams() -> Streams {
    let (output, end) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let stderr = end.try_clone().unwrap();
    Streams { output, stdio: Stdio::Descriptors { stdin: null, stdout: end, stderr } }
}

pub(crate) fn create(
    root: &RootFs,
    spec: &Spec,
    group: &TestGroup,
    options: &Options<'_>,
    stdio: Stdio,
) -> Result<Created, StartError> {
    let stdio = if options.terminal { Stdio::Terminal { size: Some((30, 100)) } } else { stdio };
    yare_runtime::create(Start {
        origins: options.origins,
        id: "test",
        spec,
        root: Root::Path(root.directory.path().to_path_buf()),
        stdio,
        netns: None,
        init: options.init,
        user: options.user,
        groups: options.groups,
        filter: None,
        group: &group.0,
        bundle: None,
        gate: None,
    })
}

/// A running container with its output.
pub(crate) struct Container {
    pub(crate) running: Running,
    output: OwnedFd,
    pub(crate) group: TestGroup,
}

pub(crate) fn start(root: &RootFs, spec: &Spec, options: &Options<'_>) -> Result<Container, StartError> {
    let group = TestGroup::new(spec);
    let Streams { output, stdio } = streams();
    let mut running = create(root, spec, &group, options, stdio)?.start()?;
    let output = running.console.take().unwrap_or(output);
    Ok(Container { running, output, group })
}

impl Container {
    /// Reads until the end, then the exit code.
    pub(crate) fn finish(self) -> (i32, String) {
        let text = read_all(&self.output);
        let exit = wait(&self.running.pidfd, true).unwrap().unwrap();
        (exit.code(), text)
    }

    /// Reads until the text appears.
    pub(crate) fn await_output(&self, wanted: &str) {
        let mut text = String::new();
        let mut buffer = [0; 256];
        while !text.contains(wanted) {
            let count = rustix::io::read(&self.output, &mut buffer).unwrap();
            assert!(count > 0, "output ended with {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }

    /// Runs a further process; code and output.
    pub(crate) fn exec(&self, process: &Process, user: Option<&str>) -> Result<(i32, String), StartError> {
        let Streams { output, stdio } = streams();
        let filter = Filter::compile(Some(&dockers_seccomp())).unwrap();
        let target = yare_runtime::ExecTarget {
            pidfd: self.running.pidfd.as_fd(),
            group: &self.group.0,
            filter: filter.as_ref(),
        };
        let stdio = if process.terminal { Stdio::Terminal { size: Some((10, 20)) } } else { stdio };
        let mut running = yare_runtime::exec(&target, process, stdio, user, &[])?;
        let output = running.console.take().unwrap_or(output);
        let text = read_all(&output);
        Ok((wait(&running.pidfd, true).unwrap().unwrap().code(), text))
    }
}

/// A terminal's master ends with an error once the last slave is closed.
fn read_all(output: &OwnedFd) -> String {
    let mut bytes = Vec::new();
    let _ = std::fs::File::from(output.try_clone().unwrap()).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).replace('\r', "")
}

/// Runs to the end.
pub(crate) fn run_with(
    root: &RootFs,
    spec: &Spec,
    options: &Options<'_>,
) -> Result<(i32, String), StartError> {
    start(root, spec, options).map(Container::finish)
}

pub(crate) fn run(root: &RootFs, args: &[&str]) -> (i32, String) {
    run_with(root, &spec(args), &Options::default()).unwrap()
}

pub(crate) fn shell(script: &str) -> (i32, String) {
    run(&RootFs::new(), &["sh", "-c", script])
}
