//! A container's streams joined to ours: attach, run, exec.

mod keys;
mod signals;
mod stdio;
mod stream;
mod terminal;

pub(crate) use keys::Keys;
pub(crate) use signals::{Forwarded, Signals};
pub(crate) use stdio::{Direct, Input, Output, Stdio};
pub(crate) use stream::{Connect, Ended, connect, copy_frames};
pub(crate) use terminal::{RawTerminal, Resizes, size};
