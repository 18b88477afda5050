//! The built-in pid 1: reaps, forwards signals, ends with the program's code.

use std::io;
use std::time::Duration;
use yare_sys::process::{self as sys, Exit};

/// What `ps` shows.
pub(crate) const TITLE: &str = "/sbin/yare-init";

/// SIGCHLD.
const CHILD: i32 = 17;
/// Signals that are about this process itself or its terminal: ILL, TRAP, ABRT, BUS, FPE, SEGV, TTIN, TTOU,
/// SYS.
const OWN: [i32; 9] = [4, 5, 6, 7, 8, 11, 21, 22, 31];

/// How long the program must run before this process makes itself small: a short one shall not wait for that.
const SETTLED: Duration = Duration::from_millis(300);

/// Serves until the program has ended; the exit code. All signals must be blocked since before the fork.
pub(crate) fn serve(program: i32) -> i32 {
    let mut patience = Some(SETTLED);
    loop {
        match next(program, patience) {
            Ok(Some(exit)) => return exit.code(),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                patience = None;
                yare_sys::memory::shed();
            }
            // Nothing is left to wait for.
            Err(_) => return 255,
        }
    }
}

/// Takes one signal; the exit of the program if that was it.
fn next(program: i32, patience: Option<Duration>) -> io::Result<Option<Exit>> {
    let signal = match sys::wait_signal(patience) {
        Ok(signal) => signal,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
        Err(error) => return Err(error),
    };
    if signal == CHILD {
        return reap(program);
    }
    if !OWN.contains(&signal) {
        // A program that is gone is reaped by the next SIGCHLD.
        let _ = sys::kill(program, signal);
    }
    Ok(None)
}

/// Reaps everything that has ended; one signal may stand for many.
fn reap(program: i32) -> io::Result<Option<Exit>> {
    let mut result = None;
    while let Some((pid, exit)) = sys::reap_any()? {
        if pid == program {
            result = Some(exit);
        }
    }
    Ok(result)
}
