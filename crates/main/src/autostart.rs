//! Starting an engine when a command finds none.

use crate::rootless::Standing;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long an engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is started, and where it is found.
#[derive(Debug)]
struct Wanted {
    socket: PathBuf,
    log: PathBuf,
    /// In words for the user: what has been started.
    what: &'static str,
}

/// Starts an engine on the default socket, root's or the user's own, and waits until it listens. Gives what to tell
/// the user.
pub(crate) fn start() -> Result<String, String> {
    let Wanted { socket, log: log_path, what } = wanted().map_err(|error| {
        let hint = yare_errdefs::Classified::hint(&error).map(|hint| format!("\n  {hint}"));
        format!("no engine runs, and one cannot be started: {error}{}", hint.unwrap_or_default())
    })?;
    let log = open_log(&log_path)
        .map_err(|error| format!("cannot open {} for the engine's log: {error}", log_path.display()))?;
    let before = log.metadata().map_or(0, |found| found.len());
    let binary = std::env::current_exe().map_err(|error| format!("cannot find this binary: {error}"))?;
    let mut command = Command::new(binary);
    command
        .args(["daemon", "-H", &format!("unix://{}", socket.display())])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C at the terminal ends the command, not the engine.
        .process_group(0);
    let mut engine = command.spawn().map_err(|error| format!("cannot start an engine: {error}"))?;
    let shown = log_path.display();
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if std::os::unix::net::UnixStream::connect(&socket).is_ok() {
            return Ok(format!(
                "no engine was running; started {what} (log: {shown}; yare daemon --install makes it permanent)"
            ));
        }
        if let Ok(Some(status)) = engine.try_wait() {
            let said = said_since(&log_path, before);
            return Err(format!("the engine that was started ended at once ({status}); see {shown}{said}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(format!("the engine that was started does not answer; see {shown}"))
}

fn wanted() -> yare_errdefs::Result<Wanted> {
    let places = Standing::of_this_process(false)?.places()?;
    Ok(match places {
        None => Wanted { socket: "/run/yare/yare.sock".into(), log: "/var/log/yare.log".into(), what: "one" },
        Some(places) => Wanted {
            socket: places.exec_root.join("yare.sock"),
            log: places.exec_root.join("yare.log"),
            what: "one of your own, without root",
        },
    })
}

fn open_log(path: &Path) -> std::io::Result<std::fs::File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o710).create(folder)?;
    }
    let options = (rustix::fs::OFlags::NOFOLLOW).bits().cast_signed();
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(options).open(path)
}

/// What a log has had since it was so many bytes long.
fn said_since(path: &Path, before: u64) -> String {
    let said = std::fs::read(path).unwrap_or_default();
    let said = usize::try_from(before).ok().and_then(|before| said.get(before..)).unwrap_or_default();
    let said = String::from_utf8_lossy(said);
    if said.trim().is_empty() { String::new() } else { format!(":\n{}", said.trim_end()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_said_last_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/yare.log");
        drop(open_log(&path).unwrap());
        std::fs::write(&path, "before\nyare daemon: no ids\n").unwrap();
        assert_eq!(said_since(&path, 7), ":\nyare daemon: no ids");
        assert_eq!(said_since(&path, 99), "");
        assert_eq!(said_since(Path::new("/nonexistent"), 0), "");
    }
}
