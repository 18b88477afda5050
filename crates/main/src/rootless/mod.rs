//! An engine of a user without root.
//!
//! It is the ordinary engine, in a user namespace of which the user is root, with mounts and a network of its own.
//! A small process keeps these namespaces ([`holder`]), so that they, and what runs in them, outlive the engine; the
//! next one joins them. pasta leads out of the network ([`uplink`]). What is published is published on the host, by
//! a thread of the engine that stays in the user's own network namespace ([`yare_sys::outside`]).
//!
//! The steps: the user's process claims the roots → finds or makes the holder and the way out → joins all
//! namespaces but the network's → executes itself with `--rootless` → leaves a thread outside → joins the network.

pub(crate) mod holder;
mod ids;
mod places;
mod resolv;
mod uplink;

pub(crate) use holder::Holder;
pub(crate) use places::Places;
pub(crate) use uplink::MTU;

use ids::Lent;
use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use yare_engine::{Config, Roots};
use yare_errdefs::{Error, Result};
use yare_sys::outside::Outside;
use yare_sys::privilege::Privilege;

/// The flag of an engine that is in its namespaces.
pub(crate) const FLAG: &str = "rootless";

/// Where an engine begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// As root, whoever's root that is.
    Root,
    /// As a user, whose namespaces it is to enter.
    Outside,
    /// In these namespaces.
    Inside,
}

impl Standing {
    /// That of this process; `flagged` says whether it was told that it is inside.
    ///
    /// # Errors
    /// It was told so and is not.
    pub(crate) fn of_this_process(flagged: bool) -> Result<Self> {
        Self::of(Privilege::current(), flagged)
    }

    fn of(privilege: Privilege, flagged: bool) -> Result<Self> {
        match (privilege, flagged) {
            (Privilege::User, _) => Ok(Self::Outside),
            (Privilege::Namespace, true) => Ok(Self::Inside),
            (Privilege::Host, true) => Err(Error::invalid("--rootless is for users other than root")
                .with_hint("start the engine as the user who is to have it")),
            (Privilege::Host | Privilege::Namespace, false) => Ok(Self::Root),
        }
    }

    /// The user's folders; none where the system's are used.
    ///
    /// # Errors
    /// There are none, or others may write to them.
    pub(crate) fn places(self) -> Result<Option<Places>> {
        match self {
            Self::Root => Ok(None),
            Self::Outside | Self::Inside => {
                Places::of_user(&|name| std::env::var_os(name)).and_then(Places::checked).map(Some)
            }
        }
    }
}

/// Enters the namespaces of the engine of this configuration and runs it there with these arguments. Comes back only
/// with an error.
///
/// # Errors
/// Another engine has its roots, or the namespaces cannot be made.
pub(crate) fn enter(config: &Config, args: &[String]) -> Result<Infallible> {
    // Held until the next program is there: nobody ends the namespaces meanwhile, and nobody makes other ones.
    let _roots = Roots::claim(config)?;
    let exec_root = &config.exec_root;
    let holder = match Holder::find(exec_root) {
        Some(holder) => holder,
        None => make(exec_root)?,
    };
    if let Some(why) = uplink::connect(exec_root, holder.pid())? {
        crate::complain("yare daemon: warning", &Error::unavailable(why));
    }
    let failed = |what: &str| format!("cannot {what} of the engine");
    let folder = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    holder.enter().map_err(|error| Error::internal(failed("enter the namespaces")).caused_by(error))?;
    // The kernel has put this process at the root of the new one.
    let _ = std::env::set_current_dir(folder);
    let name = std::env::args_os().next().unwrap_or_else(|| OsString::from("yare"));
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).arg("daemon").arg(format!("--{FLAG}")).args(args);
    Err(Error::internal(failed("run the program")).caused_by(command.exec()))
}

/// Makes the namespaces. A way out of older ones is of no use.
fn make(exec_root: &Path) -> Result<Holder> {
    uplink::end(exec_root);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (uids, gids) = (read("/etc/subuid"), read("/etc/subgid"));
    let maps = ids::maps(
        &places::user(),
        Lent { path: "/etc/subuid", text: &uids },
        Lent { path: "/etc/subgid", text: &gids },
    )?;
    Holder::make(exec_root, &maps)
}

/// What an engine has around it that is no root's.
#[derive(Debug)]
pub(crate) struct Surroundings {
    holder: Holder,
    exec_root: PathBuf,
}

impl Surroundings {
    /// Those of this exec root, in which this process is already, but for the network.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn found(exec_root: &Path) -> Result<Self> {
        let holder = Holder::find(exec_root).filter(Holder::is_around_us).ok_or_else(|| {
            Error::precondition(format!("this process is not in the namespaces of {}", exec_root.display()))
                .with_hint("run yare daemon without --rootless, which is for the engine itself")
        })?;
        Ok(Self { holder, exec_root: exec_root.to_owned() })
    }

    /// Leaves a thread in the user's network namespace and takes this one, and those that it begins from now on, to
    /// the engine's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn enter_network(&self) -> Result<Arc<Outside>> {
        let failed = |error| Error::internal("cannot enter the network of the engine").caused_by(error);
        let outside = Outside::stay().map_err(failed)?;
        self.holder.enter_network().map_err(failed)?;
        Ok(Arc::new(outside))
    }

    /// What the user should know.
    pub(crate) fn warning(&self) -> Option<String> {
        (!uplink::is_there(&self.exec_root)).then(|| {
            "containers have no way out: pasta does not run; the engine's start has told why".to_owned()
        })
    }

    /// Ends what keeps the namespaces: nothing runs in them any more.
    pub(crate) fn end(&self) {
        uplink::end(&self.exec_root);
        self.holder.end(&self.exec_root);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_enters_and_root_stays() {
        for (privilege, flagged, standing) in [
            (Privilege::User, false, Standing::Outside),
            (Privilege::User, true, Standing::Outside),
            (Privilege::Namespace, true, Standing::Inside),
            (Privilege::Namespace, false, Standing::Root),
            (Privilege::Host, false, Standing::Root),
        ] {
            assert_eq!(Standing::of(privilege, flagged).unwrap(), standing, "{privilege:?} {flagged}");
        }
        let error = Standing::of(Privilege::Host, true).unwrap_err();
        assert_eq!(error.to_string(), "--rootless is for users other than root");
    }
}
