//! TLS, with certificates that may be replaced while connections are served.

use crate::config::Tls;
use rustls::ServerConfig;
use yare_errdefs::Result;
use yare_tls::{ServerFiles, Watched};

/// The settings of TLS, read again when a file changes.
pub(crate) fn watch(tls: &Tls) -> Result<Watched<ServerConfig>> {
    let files = ServerFiles {
        certificate: tls.certificate.clone(),
        key: tls.key.clone(),
        client_authorities: tls.client_authorities.clone(),
        protocols: vec![super::http2::PROTOCOL.to_vec(), b"http/1.1".to_vec()],
    };
    files.watch()
}
