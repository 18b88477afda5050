//! Values that instructions and image configs have as text.

mod owner;
mod ports;
mod signal;
mod units;

pub use owner::{Chown, Mode, ModeError};
pub use ports::{PortError, parse_ports};
pub use signal::parse_signal;
pub use units::{bytes, duration, format_duration};
