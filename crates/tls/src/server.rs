//! The settings of a server.

use crate::pem::{authorities, certificates, private_key};
use crate::watched::{Watched, read};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_errdefs::{Error, Result};

/// Which files a server's settings are made of.
#[derive(Debug, Clone)]
pub struct ServerFiles {
    /// The server's certificate, and those that lead to its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities, one of which must have signed the certificate that a client shows; without them, clients
    /// show none.
    pub client_authorities: Option<PathBuf>,
    /// Protocols to choose from (ALPN), the best one first; none leaves the choice to chance.
    pub protocols: Vec<Vec<u8>>,
}

impl ServerFiles {
    /// The settings, made again when a file changes.
    pub fn watch(self) -> Result<Watched<ServerConfig>> {
        let mut files = vec![self.certificate.clone(), self.key.clone()];
        files.extend(self.client_authorities.clone());
        Watched::new(files, move || self.settings())
    }

    fn settings(&self) -> Result<ServerConfig> {
        let failed = |error: rustls::Error| {
            Error::invalid(format!("cannot use the TLS certificate {}", self.certificate.display()))
                .caused_by(error)
        };
        let chain = certificates(&read(&self.certificate)?, &shown(&self.certificate))?;
        let key = private_key(&read(&self.key)?, &shown(&self.key))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?;
        let builder = match &self.client_authorities {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities(&read(path)?, &shown(path))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| Error::invalid("cannot check client certificates").caused_by(error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut settings = builder.with_single_cert(chain, key).map_err(failed)?;
        settings.alpn_protocols = self.protocols.clone();
        Ok(settings)
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
