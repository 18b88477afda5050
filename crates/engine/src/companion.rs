//! Processes that outlive an engine and serve its containers, as their engine and the next one know them.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Weak;
use std::time::Duration;
use yare_sys::process::birth;

/// How long after the death of a process another one is started: it may die at once again.
const PAUSE: Duration = Duration::from_millis(200);

fn file(exec_root: &Path, name: &str) -> PathBuf {
    exec_root.join(format!("{name}.pid"))
}

/// Notes a process for the next engine: its number, and its birth, for numbers come again.
pub(crate) fn note(exec_root: &Path, name: &str, pid: u32) {
    let text = format!("{pid} {}\n", birth(pid).unwrap_or_default());
    if let Err(error) = std::fs::write(file(exec_root, name), text) {
        tracing::warn!(%error, name, "cannot note a process");
    }
}

/// The process that the last engine has left, if it lives.
pub(crate) fn predecessor(exec_root: &Path, name: &str) -> Option<u32> {
    let text = std::fs::read_to_string(file(exec_root, name)).ok()?;
    let (pid, born) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (birth(pid)? == born).then_some(pid)
}

/// Waits, in a thread of its own, for the end of a process of `owner`, which `forget` makes it forget: unless it had
/// given the process up before, `again` is called a while later.
pub(crate) fn watch<T: Send + Sync + 'static>(
    name: &'static str,
    mut child: Child,
    owner: Weak<T>,
    forget: impl FnOnce(&T) -> bool + Send + 'static,
    again: fn(&T),
) {
    let watching = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let ended = child.wait();
        let Some(owner) = owner.upgrade() else { return };
        if forget(&owner) {
            tracing::error!(?ended, "the {name} died");
            std::thread::sleep(PAUSE);
            again(&owner);
        }
    });
    if let Err(error) = watching {
        tracing::warn!(%error, "the {name} is not watched");
    }
}

/// Ends a process.
pub(crate) fn end(pid: u32) {
    // Gone already is as good.
    let _ = i32::try_from(pid).map(|pid| yare_sys::process::kill(pid, 9));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predecessor_is_known_by_its_birth() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(predecessor(folder.path(), "x"), None);
        note(folder.path(), "x", std::process::id());
        assert_eq!(predecessor(folder.path(), "x"), Some(std::process::id()));
        assert_eq!(predecessor(folder.path(), "y"), None);
        std::fs::write(file(folder.path(), "x"), format!("{} 1\n", std::process::id())).unwrap();
        assert_eq!(predecessor(folder.path(), "x"), None);
    }
}
