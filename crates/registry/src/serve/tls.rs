//! TLS, with certificates that may be replaced while connections are served.

use crate::config::Tls;
use crate::watched::{Watched, read};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::Path;
use std::sync::Arc;
use yare_errdefs::{Error, Result};

/// The settings of TLS, read again when a file changes.
pub(crate) fn watch(tls: &Tls) -> Result<Watched<ServerConfig>> {
    let mut files = vec![tls.certificate.clone(), tls.key.clone()];
    files.extend(tls.client_authorities.clone());
    let tls = tls.clone();
    Watched::new(files, move || settings(&tls))
}

fn settings(tls: &Tls) -> Result<ServerConfig> {
    let failed = |error: rustls::Error| Error::invalid("cannot use the TLS certificate").caused_by(error);
    let chain = certificates(&tls.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key)?)
        .map_err(|error| Error::invalid(format!("{} holds no private key: {error}", tls.key.display())))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let builder = match &tls.client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| Error::invalid("cannot check client certificates").caused_by(error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut settings = builder.with_single_cert(chain, key).map_err(failed)?;
    settings.alpn_protocols = vec![super::http2::PROTOCOL.to_vec(), b"http/1.1".to_vec()];
    Ok(settings)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error::invalid(format!("{} holds no certificate", path.display()))),
        Err(error) => Err(Error::invalid(format!("{} is no PEM file: {error}", path.display()))),
    }
}

/// The authorities in a file.
pub(crate) fn roots(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            Error::invalid(format!("{} holds no authority", path.display())).caused_by(error)
        })?;
    }
    Ok(roots)
}
