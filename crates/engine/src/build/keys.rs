//! What only a build's client knows: secrets, where its SSH agents listen, credentials of registries.

use base64::Engine as _;
use std::collections::BTreeMap;
use std::path::PathBuf;
use yare_api::AuthConfig;
use yare_api::build::BuildRequest;
use yare_build::ContentStore;
use yare_errdefs::{Error, Result};

use crate::images::registries::domain;

/// Hands out what comes with a request, or over a client's session.
pub trait Keys: Send + Sync {
    /// The secret of this id; `None` when the client has none.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;

    /// The socket of the SSH agent of this id; `None` when the client has none.
    fn agent(&self, id: &str) -> Result<Option<PathBuf>>;

    /// What the client knows of a registry, by its domain; nothing is an empty value.
    fn credentials(&self, registry: &str) -> Result<AuthConfig>;

    /// A folder of the client's that keeps a build cache, by what the client calls it.
    fn folder(&self, id: &str) -> Result<Box<dyn ContentStore + '_>>;
}

/// What came with a request.
pub(super) struct Sent<'a> {
    pub(super) request: &'a BuildRequest,
    /// Credentials by registry, as the client's file names them.
    pub(super) auths: &'a BTreeMap<String, AuthConfig>,
}

impl Keys for Sent<'_> {
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let decode = |text: &String| {
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|_| Error::invalid(format!("the value of secret {id} is no base64")))
        };
        self.request.secrets.get(id).map(decode).transpose()
    }

    fn agent(&self, id: &str) -> Result<Option<PathBuf>> {
        Ok(self.request.ssh.get(id).map(PathBuf::from))
    }

    /// Clients' files have names of several forms: Docker Hub's own, and `https://host/v1/` of old versions.
    fn credentials(&self, registry: &str) -> Result<AuthConfig> {
        let old_form = || self.auths.iter().find(|(name, _)| domain(name) == registry).map(|(_, auth)| auth);
        Ok(self.auths.get(registry).or_else(old_form).cloned().unwrap_or_default())
    }

    fn folder(&self, id: &str) -> Result<Box<dyn ContentStore + '_>> {
        Err(Error::invalid(format!("this client has no session, and so no folder {id:?} for a build cache"))
            .with_hint("use type=local"))
    }
}
