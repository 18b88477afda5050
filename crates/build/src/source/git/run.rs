//! One run of the `git` program, in an environment that holds nothing of the host's.

use super::Git;
use super::url::{GitUrl, Scheme};
use crate::Cancel;
use base64::Engine;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::Instant;
use yare_errdefs::{Class, Error, Result};

/// Most bytes of standard output that are kept; a listing of a million references fits.
const MOST_OUTPUT: u64 = 128 << 20;
/// Most bytes of standard error that are kept, for the error's text.
const MOST_ERRORS: u64 = 64 << 10;
/// Where programs are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What git may speak, submodules included: no files of the host, no helper programs.
const PROTOCOLS: &str = "http:https:ssh:git";

/// Settings that stand above those of a repository.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.symlinks", "true"),
    ("core.fileMode", "true"),
    ("core.autocrlf", "false"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("credential.helper", ""),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    // Always as a pack, whose growth can be watched.
    ("fetch.unpackLimit", "1"),
    ("transfer.bundleURI", "false"),
    ("http.followRedirects", "initial"),
    // A transfer that stalls ends by itself, long before the timeout of the whole.
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("transfer.fsckObjects", "true"),
    ("fetch.fsckObjects", "true"),
    // Old histories of good name have these, and they endanger nobody.
    ("fetch.fsck.zeroPaddedFilemode", "ignore"),
    ("fetch.fsck.badTimezone", "ignore"),
    ("fetch.fsck.missingSpaceBeforeDate", "ignore"),
];

/// What one run is about.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) git: &'a Git,
    pub(super) cancel: &'a Cancel,
    /// A folder of ours that the program sees as its home.
    pub(super) home: &'a Path,
    /// The remote that it talks to.
    pub(super) remote: Option<&'a GitUrl>,
    /// Whether the remote is the one that the proof is for.
    pub(super) trusted: bool,
    /// Read one of our own mirrors; nothing else.
    pub(super) local: bool,
    /// A folder whose unfinished packs must not outgrow the limit.
    pub(super) watched: Option<&'a Path>,
}

/// How a run ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) output: Vec<u8>,
    pub(super) errors: String,
}

impl Run<'_> {
    /// Runs git; an error unless it ends well. `what` completes "cannot …".
    pub(super) fn must(&self, what: &str, arguments: &[&str], env: &[(&str, &Path)]) -> Result<Vec<u8>> {
        let ended = self.run(arguments, env)?;
        if ended.status.success() { Ok(ended.output) } else { Err(refused(what, &ended)) }
    }

    /// Runs git to its end, whatever that is.
    pub(super) fn run(&self, arguments: &[&str], env: &[(&str, &Path)]) -> Result<Ended> {
        self.cancel.check()?;
        let mut command = self.command();
        command.args(arguments);
        for (name, value) in env {
            command.env(name, value);
        }
        let mut child = command.spawn().map_err(|error| self.missing(error))?;
        let output = collect(child.stdout.take(), MOST_OUTPUT);
        let errors = collect(child.stderr.take(), MOST_ERRORS);
        let status = self.wait(&mut child);
        // The group is gone by now, and with it whoever held the other ends of the pipes.
        let (output, errors) = (join(output)?, join(errors)?);
        if output.len() as u64 >= MOST_OUTPUT {
            return Err(Error::invalid(format!(
                "the repository has more files or references than are listed in {MOST_OUTPUT} bytes"
            )));
        }
        let errors = String::from_utf8_lossy(&errors).into_owned();
        Ok(Ended { status: status?, output, errors })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.git.program);
        command.env_clear().current_dir(self.home).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let fixed = [
            ("PATH", PATH),
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "/bin/false"),
            ("SSH_ASKPASS", "/bin/false"),
            ("GIT_ALLOW_PROTOCOL", if self.local { "file" } else { PROTOCOLS }),
            ("GIT_PROTOCOL_FROM_USER", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            ("GIT_TEMPLATE_DIR", ""),
        ];
        command.envs(fixed).env("HOME", self.home).env("XDG_CONFIG_HOME", self.home);
        command.envs(self.git.proxy.iter().map(|(name, value)| (name, value)));
        if self.remote.is_some_and(|remote| remote.scheme == Scheme::Ssh) {
            command.env("GIT_SSH_COMMAND", self.ssh()).env("GIT_SSH_VARIANT", "ssh");
            command.envs(self.git.ssh_agent.iter().map(|socket| ("SSH_AUTH_SOCK", socket)));
        }
        // Settings go by the environment: arguments can be read by every user of the machine.
        let mut settings: Vec<(String, String)> =
            SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        settings.extend(self.authorization());
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (place, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{place}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{place}"), value);
        }
        command
    }

    /// The header that proves who asks, bound to the remote's host.
    fn authorization(&self) -> Option<(String, String)> {
        let remote = self.remote?;
        let scheme = match remote.scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
            Scheme::Ssh | Scheme::Git => return None,
        };
        let given =
            self.git.authorization.as_ref().filter(|_| self.trusted && remote.scheme == Scheme::Https);
        let own = remote.credentials().map(|secret| basic(&secret));
        let proof = own.or_else(|| given.cloned())?;
        let key = format!("http.{scheme}://{}/.extraHeader", remote.host);
        Some((key, format!("Authorization: {proof}")))
    }

    /// The engine's own keys are not for whoever may name a repository: keys come from the given agent alone.
    /// The path goes through a shell: quoted.
    fn ssh(&self) -> String {
        let known = self.git.cache.join("known_hosts");
        let (file, check) = match &self.git.known_hosts {
            Some(_) => (self.home.join("known_hosts"), "yes"),
            None => (known, "accept-new"),
        };
        let file = file.to_string_lossy().replace('\'', "'\\''");
        let agent = if self.git.ssh_agent.is_some() { "SSH_AUTH_SOCK" } else { "none" };
        format!(
            "ssh -F none -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=15 \
             -o StrictHostKeyChecking={check} -o 'UserKnownHostsFile=\"{file}\"' -o GlobalKnownHostsFile=none \
             -o IdentityFile=none -o IdentityAgent={agent} -o PreferredAuthentications=publickey \
             -o ForwardAgent=no -o ClearAllForwardings=yes -o PermitLocalCommand=no"
        )
    }

    fn missing(&self, error: std::io::Error) -> Error {
        let program = self.git.program.display();
        if error.kind() == std::io::ErrorKind::NotFound {
            return Error::precondition(format!("the program {program} is not on the engine's host"))
                .with_hint("git contexts need git: install it there, or clone the repository and build from the folder");
        }
        Error::internal(format!("cannot run {program}")).caused_by(error)
    }

    /// Waits for the end; kills the whole group at the timeout, when the build ends, and after the leader.
    fn wait(&self, child: &mut Child) -> Result<ExitStatus> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Error::internal("the program git has no process id"))?;
        let until = Instant::now() + self.git.timeout;
        let outcome = self.wait_until(pid, until);
        // The leader is not reaped yet, so the number still means this group and no other.
        let _ = kill_process_group(pid, Signal::KILL);
        let status = child.wait().map_err(|error| Error::internal("cannot wait for git").caused_by(error))?;
        outcome.map(|()| status)
    }

    fn wait_until(&self, pid: Pid, until: Instant) -> Result<()> {
        let failed = |error: rustix::io::Errno| Error::internal("cannot watch git").caused_by(error);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed)?;
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        loop {
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&pause)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(failed(error)),
            }
            self.cancel.check()?;
            self.check_growth()?;
            if Instant::now() >= until {
                let seconds = self.git.timeout.as_secs();
                return Err(Error::unavailable(format!("git did not end within {seconds} seconds")));
            }
        }
    }
}

impl Run<'_> {
    /// A server may send without end.
    fn check_growth(&self) -> Result<()> {
        let Some(entries) = self.watched.and_then(|folder| std::fs::read_dir(folder).ok()) else {
            return Ok(());
        };
        let unfinished =
            |entry: &std::fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b"tmp_");
        let sizes = entries.filter_map(std::io::Result::ok).filter(unfinished);
        let size: u64 = sizes.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum();
        if size > self.git.limit { Err(too_large(self.git.limit)) } else { Ok(()) }
    }
}

/// A user and a password, `user:password`, as the header `Authorization` has them.
pub(super) fn basic(secret: &[u8]) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(secret))
}

/// The repository, or what it unpacks to, has more bytes than are allowed.
pub(super) fn too_large(limit: u64) -> Error {
    Error::invalid(format!("the repository has more than the {limit} bytes that a source may have"))
}

type Collected = Option<JoinHandle<std::io::Result<Vec<u8>>>>;

/// Reads a pipe up to the limit. Who writes more is ended by the closed pipe, and so fails.
fn collect(pipe: Option<impl Read + Send + 'static>, most: u64) -> Collected {
    pipe.map(|mut pipe| {
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            pipe.by_ref().take(most).read_to_end(&mut kept)?;
            Ok(kept)
        })
    })
}

fn join(collected: Collected) -> Result<Vec<u8>> {
    let Some(thread) = collected else { return Ok(Vec::new()) };
    let read = thread.join().map_err(|_| Error::internal("reading from git panicked"))?;
    read.map_err(|error| Error::internal("cannot read from git").caused_by(error))
}

/// What git said, as an error: its last lines, without passwords.
pub(super) fn refused(what: &str, ended: &Ended) -> Error {
    let lines: Vec<String> = ended.errors.lines().filter(|line| !line.trim().is_empty()).map(clean).collect();
    let last = lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join("; ");
    let text = format!("cannot {what}: git ended with {}: {last}", ended.status);
    let has = |parts: &[&str]| parts.iter().any(|part| ended.errors.contains(part));
    if has(&[
        "could not read Username",
        "Authentication failed",
        "Permission denied",
        "terminal prompts disabled",
    ]) {
        return Error::new(Class::Unauthenticated, text).with_hint(
            "the repository is private or does not exist: give a token as the secret GIT_AUTH_TOKEN (it goes over HTTPS alone), or an SSH agent with --ssh default",
        );
    }
    if has(&["Host key verification failed"]) {
        return Error::denied(text).with_hint("the key of the SSH host is not the one that is known");
    }
    if has(&[
        "Could not resolve host",
        "Connection refused",
        "Connection timed out",
        "unable to connect",
        "timed out",
    ]) {
        return Error::unavailable(text);
    }
    if has(&["not found", "does not exist", "not exported"]) {
        return Error::not_found(text);
    }
    Error::invalid(text)
}

fn clean(line: &str) -> String {
    let line: String = line.chars().filter(|c| !c.is_control()).take(400).collect();
    line.split(' ').map(super::url::redact).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_takes_its_options_as_they_are_meant() {
        let folder = tempfile::tempdir().unwrap();
        let git = Git::new(folder.path().join("it's a cache"));
        let cancel = Cancel::default();
        let home = folder.path();
        let run = Run {
            git: &git,
            cancel: &cancel,
            home,
            remote: None,
            trusted: false,
            local: false,
            watched: None,
        };
        let shown =
            Command::new("sh").args(["-c", &format!("{} -G git@example.invalid", run.ssh())]).output();
        let shown = shown.unwrap();
        if shown.status.code() == Some(127) {
            eprintln!("SKIP ssh_takes_its_options_as_they_are_meant: no ssh");
            return;
        }
        let text = String::from_utf8(shown.stdout).unwrap();
        let known = format!("userknownhostsfile {}/known_hosts", git.cache.display());
        for line in [known.as_str(), "batchmode yes", "identityagent none", "forwardagent no"] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
        assert!(!text.contains(".ssh/id_"), "keys of the host: {text}");
    }
}
