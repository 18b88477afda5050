//! The harness of end-to-end tests: the built binary, an engine of its own for each test, and clients.
//!
//! ```no_run
//! use yare_testkit::{Engine, require_root};
//!
//! if !require_root("hello_from_a_container") {
//!     return;
//! }
//! let engine = Engine::start();
//! engine.load_busybox();
//! let hello = engine.docker(&["run", "--rm", "busybox", "echo", "hi"]).ok();
//! assert_eq!(hello, "hi\n");
//! engine.finish();
//! ```
//!
//! Everything an engine owns carries a name made from a number that no other test of this machine has while
//! it runs, so tests run side by side, and side by side with other engines.

#![expect(clippy::print_stderr, reason = "what a test says about itself goes to its output")]

mod authority;
mod binary;
mod cleanup;
mod command;
mod dockerd;
mod engine;
mod ports;
mod registry;
mod rootfs;
mod slot;

pub use authority::{Authority, Signed};
pub use binary::yare_binary;
pub use command::{Invocation, Outcome};
pub use dockerd::Dockerd;
pub use engine::Engine;
pub use ports::{free_port, free_ports};
pub use registry::{Access, Registry, Server, Setup};
pub use rootfs::{busybox_rootfs_tar, debian_rootfs_tar};

use std::time::{Duration, Instant};

/// Whether this test may run as it needs to. Without root it says so loudly, and fails when
/// `YARE_REQUIRE_ROOT=1` forbids skipping.
///
/// # Panics
/// When the test would be skipped although skipping is forbidden.
#[must_use]
pub fn require_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    is_root || passed_over(test, "root")
}

/// Whether the programs that this test is about are installed; as [`require_root`] where they are not.
///
/// # Panics
/// When the test would be skipped although skipping is forbidden.
#[must_use]
pub fn require_programs(test: &str, programs: &[&str]) -> bool {
    let is_there =
        |program: &&&str| Invocation::new("sh", &["-c", "command -v \"$0\"", program]).run().code == 0;
    programs
        .iter()
        .find(|program| !is_there(program))
        .is_none_or(|missing| passed_over(test, &format!("{missing} (scripts/setup test)")))
}

/// A Python with these modules: `YARE_TEST_CLIENTS_PYTHON`, or that of the system; as [`require_root`] where it
/// lacks them.
///
/// # Panics
/// When the test would be skipped although skipping is forbidden.
#[must_use]
pub fn require_python(test: &str, modules: &[&str]) -> Option<String> {
    let python = std::env::var("YARE_TEST_CLIENTS_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let import = format!("import {}", modules.join(", "));
    let has_them = Invocation::new("sh", &["-c", "exec \"$0\" -c \"$1\"", &python, &import]).run().code == 0;
    let what = || format!("Python with {} (YARE_TEST_CLIENTS_PYTHON names one)", modules.join(" and "));
    (has_them || passed_over(test, &what())).then_some(python)
}

/// Says that a test is skipped: `false`.
fn passed_over(test: &str, what: &str) -> bool {
    let forbidden = std::env::var_os("YARE_REQUIRE_ROOT").is_some_and(|value| value == "1");
    assert!(!forbidden, "{test} needs {what}, and YARE_REQUIRE_ROOT=1 forbids skipping it");
    eprintln!("SKIP {test}: needs {what}");
    false
}

/// Waits until `ready` holds; asks every 10 ms.
///
/// # Panics
/// When it does not hold within `patience`; `what` says what was waited for.
pub fn eventually(what: &str, patience: Duration, mut ready: impl FnMut() -> bool) {
    assert!(wait_for(patience, &mut ready), "{what}: still not so after {patience:?}");
}

/// Waits until `ready` holds, or gives up with `false`.
pub(crate) fn wait_for(patience: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if ready() {
            return true;
        }
        if begun.elapsed() >= patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_does_not_pass_for_a_test_that_ran() {
        assert!(require_programs("this", &["sh", "cat"]));
        // Where skipping is forbidden it panics.
        let missing = std::panic::catch_unwind(|| require_programs("this", &["sh", "no-such-program"]));
        assert!(!matches!(missing, Ok(true)));
        let missing = std::panic::catch_unwind(|| require_python("this", &["no_such_module"]));
        assert!(!matches!(missing, Ok(Some(_))));
    }
}
