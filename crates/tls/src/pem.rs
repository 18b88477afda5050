//! What PEM texts hold. `name` is the file that a text came from, for errors.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use yare_errdefs::{Error, Result};

/// The certificates in a text, of which there is at least one.
pub fn certificates(pem: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error::invalid(format!("{name} holds no certificate"))),
        Err(error) => Err(Error::invalid(format!("{name} is no PEM file: {error}"))),
    }
}

/// The first private key in a text.
pub fn private_key(pem: &[u8], name: &str) -> Result<PrivateKeyDer<'static>> {
    let encrypted = [&b"ENCRYPTED PRIVATE KEY-----"[..], b"\nDEK-Info:"];
    if encrypted.iter().any(|mark| pem.windows(mark.len()).any(|part| part == *mark)) {
        return Err(Error::invalid(format!("the private key in {name} is encrypted"))
            .with_hint(format!("write it without a passphrase: openssl pkey -in {name} -out key.pem")));
    }
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| Error::invalid(format!("{name} holds no private key: {error}")))
}

/// The authorities in a text.
pub fn authorities(pem: &[u8], name: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, name)? {
        roots
            .add(certificate)
            .map_err(|error| Error::invalid(format!("{name} holds no authority")).caused_by(error))?;
    }
    Ok(roots)
}
