//! The commands.

use super::arguments::{Arguments, Flag};
use super::state::{Directory, Record, now, process_stat, read_json, read_spec, write_whole};
use super::{say, terminal};
use crate::{Created, ExecTarget, Filter, Root, Start, StartError, Stdio, hooks};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, OwnedFd};
use serde_json::json;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use yare_cgroup::{Group, Host};
use yare_errdefs::{Error, Result};
use yare_oci::runtime::{Hooks, Process, Spec};
use yare_sys::process::{Exit, pidfd_open, pidfd_send_signal, wait};

const CREATE: &[Flag] = &[
    Flag::value("bundle", Some('b')),
    Flag::value("pid-file", None),
    Flag::value("console-socket", None),
    Flag::value("preserve-fds", None),
    Flag::switch("no-pivot", None),
    Flag::switch("no-new-keyring", None),
    Flag::switch("detach", Some('d')),
];

const EXEC: &[Flag] = &[
    Flag::value("process", Some('p')),
    Flag::value("env", Some('e')),
    Flag::value("user", Some('u')),
    Flag::value("cwd", None),
    Flag::value("pid-file", None),
    Flag::value("console-socket", None),
    Flag::value("preserve-fds", None),
    Flag::switch("tty", Some('t')),
    Flag::switch("detach", Some('d')),
    Flag::switch("no-new-privs", None),
];

fn wrap(error: StartError) -> Error {
    Error::wrap(format!("cannot start the container ({})", error.step().words()), error)
}

fn io_error(what: &str) -> impl FnOnce(std::io::Error) -> Error {
    let what = what.to_string();
    move |error| Error::internal(what).caused_by(error)
}

/// A new container of a bundle, not yet started.
struct New {
    spec: Spec,
    record: Record,
    directory: Directory,
    group: Group,
    created: Created,
}

impl New {
    fn make(root: &Path, arguments: &Arguments) -> Result<Self> {
        let id = arguments.id()?.to_string();
        let bundle = PathBuf::from(arguments.value("bundle").unwrap_or("."));
        let bundle = std::fs::canonicalize(&bundle).map_err(io_error("cannot find the bundle"))?;
        if arguments.value("preserve-fds").is_some_and(|count| count != "0") {
            return Err(Error::unimplemented("--preserve-fds is not built into this Yare yet"));
        }
        let spec = read_spec(&bundle)?;
        let directory = Directory::create(root, &id)?;
        let made = Self::start_process(&id, &bundle, &spec, &directory, arguments);
        let (group, created) = match made {
            Ok(made) => made,
            Err(error) => {
                let _ = directory.remove();
                return Err(error);
            }
        };
        let record = Record {
            id,
            bundle,
            pid: created.pid,
            start_time: process_stat(created.pid).map_or(0, |(_, start)| start),
            cgroup: group.path().to_string(),
            created: now(),
        };
        directory.save(&record)?;
        Ok(Self { spec, record, directory, group, created })
    }

    fn start_process(
        id: &str,
        bundle: &Path,
        spec: &Spec,
        directory: &Directory,
        arguments: &Arguments,
    ) -> Result<(Group, Created)> {
        let process = spec.process.as_ref().ok_or_else(|| Error::invalid("config.json has no process"))?;
        let host = Host::detect().map_err(|error| Error::wrap("cannot find the control groups", error))?;
        let linux = spec.linux.as_ref();
        let path = linux.map_or("", |linux| linux.cgroups_path.as_str());
        let path = if path.is_empty() { format!("/yare/{id}") } else { path.to_string() };
        let resources = linux.and_then(|linux| linux.resources.as_ref());
        let (group, warnings) = Group::create(&host, &path, resources)
            .map_err(|error| Error::wrap("cannot make the control group", error))?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let root = spec.root.as_ref().map_or("rootfs", |root| root.path.as_str());
        let start = Start {
            origins: &[],
            id,
            spec,
            root: Root::Path(bundle.join(root)),
            stdio: stdio_of(process)?,
            netns: None,
            init: false,
            user: None,
            groups: &[],
            filter: None,
            group: &group,
            bundle: Some(bundle),
            gate: Some(directory.make_gate()?),
        };
        let created = crate::create(start).map_err(wrap).and_then(|created| {
            if let (Some(console), Some(socket)) = (&created.console, arguments.value("console-socket")) {
                terminal::send_console(Path::new(socket), console)?;
            }
            if let Some(path) = arguments.value("pid-file") {
                write_whole(Path::new(path), created.pid.to_string().as_bytes())?;
            }
            Ok(created)
        });
        match created {
            Ok(created) => Ok((group, created)),
            Err(error) => {
                let _ = group.kill();
                let _ = group.remove();
                Err(error)
            }
        }
    }
}

fn stdio_of(process: &Process) -> Result<Stdio> {
    if process.terminal {
        return Ok(Stdio::Terminal {
            size: process.console_size.as_ref().map(|size| (size.height, size.width)),
        });
    }
    let copy = |fd: rustix::fd::BorrowedFd<'_>| -> Result<OwnedFd> {
        fd.try_clone_to_owned().map_err(io_error("cannot use the standard streams"))
    };
    Ok(Stdio::Descriptors {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
    })
}

/// `create`
pub(super) fn create(root: &Path, args: &[String]) -> Result<i32> {
    let arguments = Arguments::parse(args, CREATE, usize::MAX)?;
    let bundle = Path::new(arguments.value("bundle").unwrap_or("."));
    let terminal = read_spec(bundle)?.process.is_some_and(|process| process.terminal);
    if terminal != arguments.has("console-socket") {
        let text = "a terminal in config.json and --console-socket are only possible together";
        return Err(Error::invalid(text));
    }
    New::make(root, &arguments)?;
    Ok(0)
}

/// `start`
pub(super) fn start(root: &Path, args: &[String]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[], usize::MAX)?;
    let (directory, record) = Directory::open(root, arguments.id()?)?;
    if record.status(&directory) != "created" {
        let text = format!("container {} is {}, not created", record.id, record.status(&directory));
        return Err(Error::conflict(text));
    }
    release(&directory, &record)?;
    Ok(0)
}

/// Opens the gate of a created container and waits until its program runs.
fn release(directory: &Directory, record: &Record) -> Result<()> {
    let (start, status) = directory.open_gate()?;
    rustix::io::write(&start, b"s").map_err(|error| io_error("cannot start the container")(error.into()))?;
    let mut report = Vec::new();
    loop {
        let mut polled = [PollFd::new(&status, PollFlags::IN)];
        let _ = poll(&mut polled, None);
        let mut buffer = [0; 4096];
        match rustix::io::read(&status, &mut buffer) {
            Ok(0) => break,
            Ok(count) => report.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io_error("cannot learn of the start")(error.into())),
        }
    }
    directory.remove_gate();
    if let Ok(error) = serde_json::from_slice::<StartError>(&report) {
        return Err(wrap(error));
    }
    let hooks = hooks_of(record);
    for warning in hooks::run_all(&hooks.poststart, &record.state("running")) {
        tracing::warn!("{warning}");
    }
    Ok(())
}

fn hooks_of(record: &Record) -> Hooks {
    read_spec(&record.bundle).ok().and_then(|spec| spec.hooks).unwrap_or_default()
}

/// `run`
pub(super) fn run(root: &Path, args: &[String]) -> Result<i32> {
    let arguments = Arguments::parse(args, CREATE, usize::MAX)?;
    let detach = arguments.has("detach");
    let New { spec, record, directory, group, created } = New::make(root, &arguments)?;
    let terminal = spec.process.as_ref().is_some_and(|process| process.terminal);
    if detach && terminal && !arguments.has("console-socket") {
        created.abort();
        remove(&directory, &record, &group)?;
        return Err(Error::invalid("a detached container with a terminal needs --console-socket"));
    }
    if let Err(error) = release(&directory, &record) {
        let _ = wait(&created.pidfd, true);
        remove(&directory, &record, &group)?;
        return Err(error);
    }
    if detach {
        return Ok(0);
    }
    let exit = attend(created.console.as_ref(), &created.pidfd)?;
    remove(&directory, &record, &group)?;
    Ok(exit.code())
}

fn attend(console: Option<&OwnedFd>, pidfd: &OwnedFd) -> Result<Exit> {
    match console {
        Some(console) => terminal::relay(console, pidfd),
        None => {
            let exit = wait(pidfd, true).map_err(io_error("cannot wait for the process"))?;
            Ok(exit.unwrap_or(Exit::Code(0)))
        }
    }
}

fn remove(directory: &Directory, record: &Record, group: &Group) -> Result<()> {
    group.kill().map_err(|error| Error::wrap("cannot kill the container", error))?;
    group.remove().map_err(|error| Error::wrap("cannot remove the control group", error))?;
    directory.remove()?;
    for warning in hooks::run_all(&hooks_of(record).poststop, &record.state("stopped")) {
        tracing::warn!("{warning}");
    }
    Ok(())
}

/// `exec`
pub(super) fn exec(root: &Path, args: &[String]) -> Result<i32> {
    let arguments = Arguments::parse(args, EXEC, 1)?;
    let (directory, record) = Directory::open(root, arguments.id()?)?;
    if record.status(&directory) != "running" {
        return Err(Error::conflict(format!("container {} is not running", record.id)));
    }
    let spec = read_spec(&record.bundle)?;
    let process = exec_process(&arguments, &spec)?;
    let pidfd = pidfd_open(record.pid).map_err(io_error("cannot find the container's process"))?;
    let group = record.group()?;
    let seccomp = spec.linux.as_ref().and_then(|linux| linux.seccomp.as_ref());
    let filter = Filter::compile(seccomp).map_err(wrap)?;
    let target = ExecTarget { pidfd: pidfd.as_fd(), group: &group, filter: filter.as_ref() };
    let user = arguments.value("user");
    let running = crate::exec(&target, &process, stdio_of(&process)?, user, &[]).map_err(wrap)?;
    if let Some(path) = arguments.value("pid-file") {
        write_whole(Path::new(path), running.pid.to_string().as_bytes())?;
    }
    if let (Some(console), Some(socket)) = (&running.console, arguments.value("console-socket")) {
        terminal::send_console(Path::new(socket), console)?;
        if !arguments.has("detach") {
            return Ok(attend(None, &running.pidfd)?.code());
        }
    }
    if arguments.has("detach") {
        return Ok(0);
    }
    Ok(attend(running.console.as_ref(), &running.pidfd)?.code())
}

fn exec_process(arguments: &Arguments, spec: &Spec) -> Result<Process> {
    let mut process = match arguments.value("process") {
        Some(path) => read_json(Path::new(path))?,
        None => {
            let mut process = spec.process.clone().unwrap_or_default();
            process.args = arguments.words()[1..].to_vec();
            process.terminal = false;
            process
        }
    };
    process.env.extend(arguments.values("env").map(str::to_string));
    if let Some(cwd) = arguments.value("cwd") {
        process.cwd = cwd.to_string();
    }
    process.terminal |= arguments.has("tty");
    process.no_new_privileges |= arguments.has("no-new-privs");
    Ok(process)
}

/// `kill`
pub(super) fn kill(root: &Path, args: &[String]) -> Result<i32> {
    let flags = [Flag::switch("all", Some('a'))];
    let arguments = Arguments::parse(args, &flags, usize::MAX)?;
    let (_, record) = Directory::open(root, arguments.id()?)?;
    let signal = arguments.words().get(1).map_or("TERM", String::as_str);
    let signal = parse_signal(signal)?;
    if arguments.has("all") {
        let pids = record.group()?.pids().map_err(|error| Error::wrap("cannot list processes", error))?;
        for pid in pids {
            let _ = yare_sys::process::kill(pid, signal);
        }
        return Ok(0);
    }
    let gone = || Error::conflict(format!("container {} is not running", record.id));
    let pidfd = pidfd_open(record.pid).map_err(|_| gone())?;
    if !record.is_alive() {
        return Err(gone());
    }
    pidfd_send_signal(&pidfd, signal).map_err(io_error("cannot send the signal"))?;
    Ok(0)
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `SIGTERM`, `term` or `15`.
fn parse_signal(text: &str) -> Result<i32> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = SIGNALS.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok());
    by_name
        .or_else(|| text.parse().ok().filter(|number| (1..=64).contains(number)))
        .ok_or_else(|| Error::invalid(format!("unknown signal {text:?}")))
}

/// `delete`
pub(super) fn delete(root: &Path, args: &[String]) -> Result<i32> {
    let flags = [Flag::switch("force", Some('f'))];
    let arguments = Arguments::parse(args, &flags, usize::MAX)?;
    let force = arguments.has("force");
    let (directory, record) = match Directory::open(root, arguments.id()?) {
        Err(error) if force && yare_errdefs::Classified::class(&error) == yare_errdefs::Class::NotFound => {
            return Ok(0);
        }
        other => other?,
    };
    let status = record.status(&directory);
    if !force && !matches!(status, "stopped" | "created") {
        let text = format!("cannot delete container {} that is not stopped: {status}", record.id);
        return Err(Error::conflict(text).with_hint("stop it first, or use --force"));
    }
    match record.group() {
        Ok(group) => remove(&directory, &record, &group)?,
        // The group is gone with a reboot.
        Err(_) => directory.remove()?,
    }
    Ok(0)
}

/// `pause` and `resume`
pub(super) fn freeze(root: &Path, args: &[String], frozen: bool) -> Result<i32> {
    let arguments = Arguments::parse(args, &[], usize::MAX)?;
    let (_, record) = Directory::open(root, arguments.id()?)?;
    let group = record.group()?;
    let done = if frozen { group.freeze() } else { group.thaw() };
    done.map_err(|error| Error::wrap("cannot change the container", error))?;
    Ok(0)
}

/// `ps`
pub(super) fn ps(root: &Path, args: &[String]) -> Result<i32> {
    let flags = [Flag::value("format", Some('f'))];
    let arguments = Arguments::parse(args, &flags, 1)?;
    let (_, record) = Directory::open(root, arguments.id()?)?;
    let pids = record.group()?.pids().map_err(|error| Error::wrap("cannot list processes", error))?;
    if arguments.value("format") == Some("json") {
        return say(&format!("{}\n", json!(pids)));
    }
    let lines: Vec<String> = pids.iter().map(i32::to_string).collect();
    say(&format!("PID\n{}\n", lines.join("\n")))
}

/// `state`
pub(super) fn state(root: &Path, args: &[String]) -> Result<i32> {
    let arguments = Arguments::parse(args, &[], usize::MAX)?;
    let (directory, record) = Directory::open(root, arguments.id()?)?;
    let state = record.state(record.status(&directory));
    let mut value = serde_json::to_value(&state).expect("a state is plain data");
    // What runc adds and its callers read.
    value["created"] = json!(record.created);
    value["pid"] = json!(state.pid.unwrap_or(0));
    value["rootfs"] = json!(record.bundle.join("rootfs"));
    say(&format!("{}\n", serde_json::to_string_pretty(&value).expect("a state is plain data")))
}

/// `list`
pub(super) fn list(root: &Path, args: &[String]) -> Result<i32> {
    let flags = [Flag::value("format", Some('f')), Flag::switch("quiet", Some('q'))];
    let arguments = Arguments::parse(args, &flags, usize::MAX)?;
    let mut ids: Vec<String> = match std::fs::read_dir(root) {
        Ok(entries) => {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
        Err(_) => Vec::new(),
    };
    ids.sort();
    let known = ids.iter().filter_map(|id| Directory::open(root, id).ok());
    if arguments.value("format") == Some("json") {
        let states: Vec<_> =
            known.map(|(directory, record)| record.state(record.status(&directory))).collect();
        return say(&format!("{}\n", json!(states)));
    }
    let mut text = String::new();
    if !arguments.has("quiet") {
        text.push_str("ID          PID         STATUS      BUNDLE      CREATED\n");
    }
    for (directory, record) in known {
        let line = if arguments.has("quiet") {
            writeln!(text, "{}", record.id)
        } else {
            let status = record.status(&directory);
            let pid = if status == "stopped" { 0 } else { record.pid };
            let bundle = record.bundle.display();
            writeln!(text, "{:<11} {pid:<11} {status:<11} {bundle}   {}", record.id, record.created)
        };
        line.expect("writing to a string cannot fail");
    }
    say(&text)
}

/// `features` (runtime-spec, features.md)
pub(super) fn features() -> Result<i32> {
    let value = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": [
            "async", "atime", "bind", "defaults", "dev", "diratime", "exec", "noatime", "nodev", "nodiratime",
            "noexec", "norelatime", "nosuid", "nosymfollow", "private", "ratime", "rbind", "rdev", "rdiratime",
            "relatime", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnosuid", "rnosymfollow", "ro",
            "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "runbindable",
            "rw", "shared", "slave", "strictatime", "suid", "symfollow", "unbindable"
        ],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "uts"],
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false},
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
                ],
                "archs": ["SCMP_ARCH_AARCH64", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"],
                "knownFlags": [
                    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC"
                ]
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": false}
        }
    });
    say(&format!("{}\n", serde_json::to_string_pretty(&value).expect("features are plain data")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(parse_signal("SIGTERM").unwrap(), 15);
        assert_eq!(parse_signal("kill").unwrap(), 9);
        assert_eq!(parse_signal("37").unwrap(), 37);
        assert!(parse_signal("65").is_err() && parse_signal("NOPE").is_err());
    }
}
