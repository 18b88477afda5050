//! Other registries, as the configuration names them: caches have them as upstreams, replication as targets
//! and sources.

use crate::problem::{Result, file_error};
use std::path::{Path, PathBuf};
use yare_distribution::{Client, Credentials, Insecure, Patience, Proxies, Settings};
use yare_oci::Reference;

/// How this machine reaches others: what the environment says, handed in.
#[derive(Debug, Clone, Default)]
pub struct Outbound {
    /// HTTP proxies.
    pub proxies: Proxies,
    /// Bundles of authorities that are looked for before the system's.
    pub authorities: Vec<PathBuf>,
}

/// A registry elsewhere, and what its repositories begin with: `docker.io`, `quay.io/team`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote<'a> {
    pub(crate) of: &'a str,
    pub(crate) username: Option<&'a str>,
    pub(crate) password_file: Option<&'a Path>,
    pub(crate) insecure: bool,
    pub(crate) certs_dirs: &'a [PathBuf],
}

/// The part of a repository's name below `prefix`, when it is there; all of it below an empty one.
pub(crate) fn below<'a>(prefix: &str, name: &'a str) -> Option<&'a str> {
    match prefix {
        "" => Some(name),
        prefix => name.strip_prefix(prefix)?.strip_prefix('/'),
    }
}

impl<'a> Remote<'a> {
    /// Says what cannot work; `prefix` is what its repositories begin with here.
    pub(crate) fn check(&self, prefix: &str) -> Result<(), String> {
        if !prefix.is_empty() && !yare_oci::reference::is_path(prefix) {
            return Err("the prefix is no name of the form a/b-c/d".to_owned());
        }
        if self.repository("x/y").is_none() {
            return Err("the registry is not of the form host:port/path".to_owned());
        }
        if self.username.is_some() != self.password_file.is_some() {
            return Err("`username` and `password_file` go together".to_owned());
        }
        Ok(())
    }

    /// Its host and port.
    pub(crate) fn domain(&self) -> &'a str {
        self.of.split('/').next().unwrap_or_default()
    }

    /// One of its repositories.
    pub(crate) fn repository(&self, rest: &str) -> Option<Reference> {
        let domain = self.domain();
        // Without a dot, a port or `localhost` it would be a repository of Docker Hub.
        let is_host = domain.contains(['.', ':']) || domain == "localhost";
        let reference = Reference::parse(&format!("{}/{rest}", self.of)).ok();
        reference.filter(|reference| is_host && reference.tag().is_none())
    }

    /// The credentials there; the password is read anew.
    pub(crate) fn credentials(&self) -> Result<Credentials> {
        let (Some(username), Some(path)) = (self.username, self.password_file) else {
            return Ok(Credentials::Anonymous);
        };
        let password =
            std::fs::read_to_string(path).map_err(|error| file_error("read the password in", path, error))?;
        Ok(Credentials::basic(username, password.trim_end_matches(['\r', '\n'])))
    }

    /// A client that reaches it.
    pub(crate) fn client(&self, outbound: &Outbound, patience: Patience) -> yare_errdefs::Result<Client> {
        let mut settings = Settings {
            certs_d: self.certs_dirs.to_vec(),
            proxies: outbound.proxies.clone(),
            patience,
            ..Settings::default()
        };
        settings.roots.splice(0..0, outbound.authorities.iter().cloned());
        if self.insecure {
            let host = Insecure::parse(self.domain());
            settings.insecure.push(host.map_err(|error| yare_errdefs::Error::invalid(error.to_string()))?);
        }
        Ok(Client::new(settings))
    }
}
