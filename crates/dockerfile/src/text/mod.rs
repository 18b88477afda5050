//! Values that instructions and image configs have as text.

pub mod history;
mod owner;
mod ports;
mod signal;
mod units;

pub use owner::{Chown, Mode, ModeError};
pub(crate) use ports::is_plain_port;
pub use ports::{PortError, parse_ports};
pub use signal::parse_signal;
pub use units::bytes;
