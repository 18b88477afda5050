//! Git repositories as contexts and as sources of `ADD`.
//!
//! [`GitRef::parse`] reads what a Dockerfile or a command line says; [`Git::checkout`] makes a folder of it
//! with the host's `git` program. That program gets an environment of its own: no configuration but ours, no
//! prompts, no hooks, no filters, four protocols, objects checked as they arrive. A name that a user or a
//! repository chose never stands where an option could: names are looked up in what the remote lists, and
//! fetched by commit.
//!
//! # The cache (format 1)
//!
//! ```text
//! <cache>/<sha256 of the URL>/      a bare repository, shallow where the remote allows it
//! <cache>/<sha256 of the URL>.lock  held while that repository is written or read
//! <cache>/known_hosts               keys of SSH hosts, learnt at the first contact
//! ```
//!
//! `refs/yare/<commit>` keeps each commit that was asked for. Removing any of it costs a download.

mod checkout;
mod keys;
mod mirror;
mod run;
mod submodule;
mod url;

#[cfg(test)]
mod tests;

pub use checkout::{Checkout, set_times};
pub use keys::GitKeys;
pub(in crate::source) use url::redact as redact_url;
pub use url::{GitRef, GitUrl, MTime, Scheme};

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use yare_errdefs::{Error, Result};

/// How to fetch: the same for a whole build.
#[derive(Debug, Clone)]
pub struct Git {
    /// Folder of the mirrors; made when missing.
    pub cache: PathBuf,
    /// The program, looked for in the usual folders of programs when it is no path.
    pub program: PathBuf,
    /// Longest time that one run of the program may take.
    pub timeout: Duration,
    /// Most bytes of one transfer, and of the files of one repository.
    pub limit: u64,
    /// Socket of an SSH agent.
    pub ssh_agent: Option<PathBuf>,
    /// Lines of `known_hosts` that are believed; without, keys are learnt at the first contact and believed
    /// from then on.
    pub known_hosts: Option<String>,
    /// What the header `Authorization` says to the host of the asked repository, over HTTPS alone.
    pub authorization: Option<String>,
    /// Proxy variables for the program, such as `https_proxy`.
    pub proxy: Vec<(String, String)>,
}

impl Git {
    /// Without credentials, half an hour a run, 16 GiB a repository.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            program: "git".into(),
            timeout: Duration::from_secs(1800),
            limit: 16 << 30,
            ssh_agent: None,
            known_hosts: None,
            authorization: None,
            proxy: Vec::new(),
        }
    }

    /// Removes the mirrors that were last used before `limit`; those in use stay. Returns the bytes of what
    /// was removed.
    pub fn prune(&self, limit: SystemTime) -> Result<u64> {
        let mut freed = 0;
        for lock in crate::source::unused(&self.cache, "lock", limit)? {
            // Whoever holds the lock is using it right now.
            let Ok(_held) = yare_sys::fs::lock_file(&lock) else { continue };
            let mirror = lock.with_extension("");
            if mirror.is_dir() {
                let size = yare_layer::tree_size(yare_sys::fs::open_dir(&mirror)?.as_fd());
                freed += size.map_err(|error| Error::wrap("cannot measure a mirror", error))?;
                yare_sys::fs::remove_tree(&mirror)?;
            }
        }
        Ok(freed)
    }
}
