//! Starting an engine when a command finds none.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the command line looks when nothing says otherwise.
const SOCKET: &str = "/run/yare/yare.sock";

/// Starts an engine on the default socket, if this user may, and waits until it listens. Gives what to tell
/// the user.
pub(crate) fn start() -> Result<String, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("no engine runs, and starting one needs root; try: sudo yare daemon".to_owned());
    }
    let log_path = "/var/log/yare.log";
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_path)
        .map_err(|error| format!("cannot open {log_path} for the engine's log: {error}"))?;
    let binary = std::env::current_exe().map_err(|error| format!("cannot find this binary: {error}"))?;
    let mut command = Command::new(binary);
    command
        .args(["daemon", "-H", &format!("unix://{SOCKET}")])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C at the terminal ends the command, not the engine.
        .process_group(0);
    let mut engine = command.spawn().map_err(|error| format!("cannot start an engine: {error}"))?;
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if std::os::unix::net::UnixStream::connect(SOCKET).is_ok() {
            return Ok(format!(
                "no engine was running; started one (log: {log_path}; yare daemon --install makes it permanent)"
            ));
        }
        if let Ok(Some(status)) = engine.try_wait() {
            return Err(format!("the engine that was started ended at once ({status}); see {log_path}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(format!("the engine that was started does not answer; see {log_path}"))
}
