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
mod registry;
mod rootfs;
mod slot;

pub use authority::{Authority, Signed};
pub use binary::yare_binary;
pub use command::{Invocation, Outcome};
pub use dockerd::Dockerd;
pub use engine::Engine;
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
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let forbidden = std::env::var_os("YARE_REQUIRE_ROOT").is_some_and(|value| value == "1");
    assert!(!forbidden, "{test} needs root, and YARE_REQUIRE_ROOT=1 forbids skipping it");
    eprintln!("SKIP {test}: needs root");
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
