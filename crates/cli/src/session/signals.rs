//! Signals that we get, for the container or for us.

use tokio::net::unix::pipe::Receiver;
use yare_sys::signal;

/// Names of the signals that are passed on; real-time ones go by number.
const NAMES: &[(i32, &str)] = &[
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (10, "USR1"),
    (12, "USR2"),
    (14, "ALRM"),
    (15, "TERM"),
    (18, "CONT"),
    (20, "TSTP"),
    (24, "XCPU"),
    (26, "VTALRM"),
    (27, "PROF"),
    (29, "IO"),
    (30, "PWR"),
];
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// What has arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Forwarded {
    /// A signal for the program, by its number and by the name that the API takes.
    Signal(i32, String),
    /// The third request to end: the user has lost patience.
    Enough,
}

/// Catches signals: by one descriptor, since a handler for each of the forty-five that are passed on would be
/// a tenth of what a short run costs here.
pub(crate) struct Signals {
    /// No pipe, but read in the same way. `None` when the kernel refuses.
    caught: Option<Receiver>,
    endings: u32,
}

impl Signals {
    /// Catches all that are passed on to a container.
    pub(crate) fn all() -> Self {
        let numbers = NAMES.iter().map(|(number, _)| *number).chain(REAL_TIME);
        Self::catch(numbers)
    }

    /// Catches those that would end us, so that the terminal is put back first.
    pub(crate) fn endings() -> Self {
        Self::catch([1, SIGINT, 3, SIGTERM].into_iter())
    }

    fn catch(numbers: impl Iterator<Item = i32>) -> Self {
        let caught = signal::catch(numbers).and_then(Receiver::from_owned_fd_unchecked).ok();
        Self { caught, endings: 0 }
    }

    /// The number of the next signal.
    pub(crate) async fn number(&mut self) -> i32 {
        let mut info = [0; signal::INFO];
        while let Some(caught) = self.caught.as_ref()
            && caught.readable().await.is_ok()
        {
            let read = caught.try_read(&mut info).unwrap_or_default();
            if let Some(number) = signal::number(&info[..read]) {
                return number;
            }
        }
        std::future::pending().await
    }

    /// The next signal to pass on.
    pub(crate) async fn next(&mut self) -> Forwarded {
        let number = self.number().await;
        if number == SIGINT || number == SIGTERM {
            self.endings += 1;
            if self.endings == 3 {
                return Forwarded::Enough;
            }
        }
        let name = NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| (*name).to_owned());
        Forwarded::Signal(number, name.unwrap_or_else(|| number.to_string()))
    }
}
