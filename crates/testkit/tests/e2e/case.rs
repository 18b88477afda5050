//! The table of cases.

use crate::client::Client;

/// Who talks to the engine in a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    /// It runs twice: with `docker` and with `yare`.
    Both,
    /// The stock command line alone.
    Docker,
    /// The case speaks HTTP itself.
    Api,
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    /// The theme, as a module path.
    pub(crate) theme: &'static str,
    pub(crate) name: &'static str,
    pub(crate) clients: Clients,
    pub(crate) body: fn(&Client),
    /// It looks at or changes everything the engine has, or measures time: nothing runs beside it.
    pub(crate) is_alone: bool,
    /// Only with `--ignored`: the long form of something.
    pub(crate) is_long: bool,
    /// It runs with our registry as well as with Debian's; the case asks the client for one.
    pub(crate) has_either_registry: bool,
    /// Why dockerd does otherwise, on purpose.
    pub(crate) differs: Option<&'static str>,
    /// Why a dockerd before 28 does otherwise.
    pub(crate) differs_from_old: Option<&'static str>,
}

impl Case {
    pub(crate) const fn new(
        theme: &'static str,
        name: &'static str,
        clients: Clients,
        body: fn(&Client),
    ) -> Self {
        Self {
            theme,
            name,
            clients,
            body,
            is_alone: false,
            is_long: false,
            has_either_registry: false,
            differs: None,
            differs_from_old: None,
        }
    }

    pub(crate) const fn alone(mut self) -> Self {
        self.is_alone = true;
        self
    }

    pub(crate) const fn long(mut self) -> Self {
        self.is_long = true;
        self
    }

    pub(crate) const fn with_either_registry(mut self) -> Self {
        self.has_either_registry = true;
        self
    }

    pub(crate) const fn differs(mut self, reason: &'static str) -> Self {
        self.differs = Some(reason);
        self
    }

    pub(crate) const fn differs_from_old(mut self, reason: &'static str) -> Self {
        self.differs_from_old = Some(reason);
        self
    }
}

/// Makes the table of a module: `cases![Both: a_fact, other_fact.alone(); Api: raw_fact]`.
macro_rules! cases {
    ($($clients:ident: $($name:ident $(.$how:ident($($argument:expr)?))*),+ $(,)?);+ $(;)?) => {
        pub(crate) const CASES: &[$crate::case::Case] = &[$($(
            $crate::case::Case::new(
                module_path!(),
                stringify!($name),
                $crate::case::Clients::$clients,
                $name,
            )$(.$how($($argument)?))*,
        )+)+];
    };
}
pub(crate) use cases;
