//! The way out of a user's network namespace: pasta, which carries packets between it and sockets of the user.

use super::resolv;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use yare_errdefs::{Error, Result};

/// The largest packet that pasta takes. It takes each by itself, so that containers should send few and large ones: of
/// many small ones it loses some, and its older versions do not tell the sender.
pub(crate) const MTU: u32 = 65520;

/// Where pasta notes its number.
const NOTE: &str = "pasta.pid";

const SIGTERM: i32 = 15;

fn note(exec_root: &Path) -> PathBuf {
    exec_root.join(NOTE)
}

/// Has pasta serve the network namespace of process `holder`, unless it does. What is given is why there is no way
/// out: the host has none either, for one.
///
/// # Errors
/// pasta is not installed.
pub(super) fn connect(exec_root: &Path, holder: u32) -> Result<Option<String>> {
    if process(exec_root).is_some() {
        return Ok(None);
    }
    let mut command = Command::new("pasta");
    command.args(arguments(&note(exec_root), holder, std::fs::read_to_string(resolv::FILE).ok().as_deref()));
    // It answers when it has gone into the background: when all is set up.
    let output = command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::precondition("pasta is not installed")
            .with_hint("an engine without root reaches the network through it: sudo apt-get install passt"),
        _ => Error::internal("cannot run pasta").caused_by(error),
    })?;
    let words = String::from_utf8_lossy(&output.stderr);
    // What it says to a system log that is not there comes first.
    let why = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it does not say why");
    Ok((!output.status.success()).then(|| format!("pasta cannot connect containers to the network: {why}")))
}

/// No port of the host leads in, and none of its loopback interface out: what is published, the engine publishes.
fn arguments(note: &Path, holder: u32, resolvers: Option<&str>) -> Vec<String> {
    let fixed =
        ["--quiet", "--config-net", "--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none"];
    let mut all: Vec<String> = fixed.map(str::to_owned).to_vec();
    if resolvers.is_none_or(resolv::is_local) {
        all.extend(["--dns-forward".to_owned(), resolv::FORWARDER.to_owned()]);
    }
    all.extend(["--pid".to_owned(), note.display().to_string(), holder.to_string()]);
    all
}

/// Whether there is a way out.
pub(super) fn is_there(exec_root: &Path) -> bool {
    process(exec_root).is_some()
}

/// Ends it.
pub(super) fn end(exec_root: &Path) {
    if let Some(pid) = process(exec_root) {
        // Gone is as good.
        let _ = yare_sys::process::kill(pid, SIGTERM);
    }
    let _ = std::fs::remove_file(note(exec_root));
}

/// The number of the pasta that serves this exec root: its command line names the file.
fn process(exec_root: &Path) -> Option<i32> {
    let note = note(exec_root);
    let pid: i32 = std::fs::read_to_string(&note).ok()?.trim().parse().ok()?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let named = note.display().to_string();
    line.split(|byte| *byte == 0).any(|word| word == named.as_bytes()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_host_is_led_in() {
        let line = |resolvers| arguments(Path::new("/r/pasta.pid"), 42, resolvers).join(" ");
        let plain = line(Some("nameserver 192.0.2.53\n"));
        assert_eq!(
            plain,
            "--quiet --config-net --no-map-gw -t none -u none -T none -U none --pid /r/pasta.pid 42"
        );
        for resolvers in [None, Some("nameserver 127.0.0.53")] {
            assert!(line(resolvers).contains("--dns-forward 169.254.1.1 --pid"), "{resolvers:?}");
        }
    }

    #[test]
    fn a_number_that_is_another_ones_now_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_there(folder.path()));
        std::fs::write(note(folder.path()), format!("{}\n", std::process::id())).unwrap();
        assert!(!is_there(folder.path()), "this process was not told of the file");
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read line"]).arg(note(folder.path()));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // The kernel has its command line a moment after it was made.
        let mut said = [0; 5];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        std::fs::write(note(folder.path()), format!("{}\n", child.id())).unwrap();
        assert!(is_there(folder.path()));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
