//! The settings of a client.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::sync::Arc;
use yare_errdefs::{Error, Result};

/// Whom a client believes.
#[derive(Debug)]
pub enum Trust {
    /// A server whose certificate one of these signed, for the name it is called by.
    Authorities(RootCertStore),
    /// Any server.
    Anybody,
}

/// What a client shows of itself.
#[derive(Debug)]
pub struct Identity {
    /// Its certificate, and those that lead to its authority.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The private key of the first one.
    pub key: PrivateKeyDer<'static>,
}

/// Settings for a client that believes `trust` and shows `identity`.
pub fn client(trust: Trust, identity: Option<Identity>) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::internal("cannot set TLS up").caused_by(error))?;
    let builder = match trust {
        Trust::Authorities(roots) => builder.with_root_certificates(roots),
        Trust::Anybody => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        }
    };
    let Some(Identity { certificates, key }) = identity else { return Ok(builder.with_no_client_auth()) };
    builder
        .with_client_auth_cert(certificates, key)
        .map_err(|error| Error::invalid("cannot use the client certificate").caused_by(error))
}

/// The authorities of this machine.
pub fn system_authorities() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::precondition("this machine has no certificates of authorities")
            .with_hint("install ca-certificates, or name a file with the authority"));
    }
    Ok(roots)
}

/// Any certificate will do, but the handshake must be sound.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
