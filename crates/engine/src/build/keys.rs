//! What only a build's client knows: secrets, and where its SSH agents listen.

use base64::Engine as _;
use std::path::PathBuf;
use yare_api::build::BuildRequest;
use yare_errdefs::{Error, Result};

/// Hands out secrets and agents, which come with a request or over a client's session.
pub trait Keys: Send + Sync {
    /// The secret of this id; `None` when the client has none.
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>>;

    /// The socket of the SSH agent of this id; `None` when the client has none.
    fn agent(&self, id: &str) -> Result<Option<PathBuf>>;
}

impl Keys for BuildRequest {
    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>> {
        let decode = |text: &String| {
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|_| Error::invalid(format!("the value of secret {id} is no base64")))
        };
        self.secrets.get(id).map(decode).transpose()
    }

    fn agent(&self, id: &str) -> Result<Option<PathBuf>> {
        Ok(self.ssh.get(id).map(PathBuf::from))
    }
}
