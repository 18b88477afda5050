//! Texts in the forms that Go reads and writes, which are those of Docker's command line, API and messages:
//! durations, moments, quoted words.

mod duration;
mod moment;
mod quote;

pub use duration::{format_duration, parse_duration};
pub use moment::{parse_moment, parse_unix};
pub use quote::quote;
