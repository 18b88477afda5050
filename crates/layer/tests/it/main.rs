//! Layers as the field writes them, as attackers write them, and back again.
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::allow_attributes, reason = "tests")]

mod archive;
mod compressed;
mod gnu;
mod hostile;
mod mutated;
mod rebuilt;
mod recipe;
mod trees;
mod written;
