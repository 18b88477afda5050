//! The Dockerfile language, as of dockerfile 1.26: bytes to values, and nothing else.
//!
//! [`parse`] makes a [`Dockerfile`] of stages with typed instructions. Words in which variables stand are kept
//! as written; a builder expands them ([`mod@expand`]) with what is defined where they stand. [`text`] reads
//! the values that instructions have as text (ports, signals, durations, modes), [`ignore`] the ignore file. Pure: no files, no clock, no
//! environment. Everything here takes input that others wrote: it is bounded, and wrong input is an error with
//! its place, never a panic.

pub mod args;
pub mod expand;
pub mod ignore;
pub mod instruction;
pub mod lint;
pub mod outline;
pub mod text;

mod error;
mod flags;
mod span;
mod stage;
mod suggest;
mod syntax;

pub use error::ParseError;
pub use instruction::{Instruction, Step};
pub use span::Span;
pub use stage::{Dockerfile, GlobalArg, Stage, parse, parse_trigger};
pub use syntax::{CheckOptions, Directives, LARGEST, Selection, detect_syntax};
