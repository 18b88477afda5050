//! TLS with an engine: what it takes, and what is wrong when it fails, in the words of Docker's client.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use yare_errdefs::Classified;
use yare_tls::{Identity, Trust};

use crate::{Address, Error};

/// What is needed to speak TLS with an engine.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The authority that signs for engines; without one, the machine's authorities do.
    pub authority: Option<Pem>,
    /// What we show of ourselves, when there are both.
    pub certificate: Option<Pem>,
    /// Its private key.
    pub key: Option<Pem>,
    /// Whether any engine is believed.
    pub trusts_anybody: bool,
}

/// What was made of a [`Tls`].
#[derive(Debug, Clone)]
pub struct TlsSettings(pub(crate) Arc<ClientConfig>);

/// A PEM file that was read.
#[derive(Clone)]
pub struct Pem {
    /// Its name, for errors.
    pub name: String,
    /// What is in it.
    pub text: Vec<u8>,
}

impl fmt::Debug for Pem {
    /// Without the text, which may be a key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pem").field(&self.name).finish()
    }
}

impl Tls {
    /// What a client is given; the files are known to be what they should be then.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn settings(&self) -> Result<TlsSettings, Error> {
        self.made().map(|settings| TlsSettings(Arc::new(settings))).map_err(|error| Error::Tls {
            message: format!("failed to retrieve context tls info: {}", yare_errdefs::chain(&error)),
            hint: error.hint(),
        })
    }

    fn made(&self) -> yare_errdefs::Result<ClientConfig> {
        let trust = match &self.authority {
            _ if self.trusts_anybody => Trust::Anybody,
            Some(pem) => Trust::Authorities(yare_tls::authorities(&pem.text, &pem.name)?),
            None => Trust::Authorities(yare_tls::system_authorities()?),
        };
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some(Identity {
                certificates: yare_tls::certificates(&certificate.text, &certificate.name)?,
                key: yare_tls::private_key(&key.text, &key.name)?,
            }),
            _ => None,
        };
        yare_tls::client(trust, identity)
    }
}

/// Makes sure of whom we talk to.
pub(crate) async fn connect(
    settings: &TlsSettings,
    host: &str,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    TlsConnector::from(Arc::clone(&settings.0)).connect(name, stream).await
}

/// What an error says about TLS, when it came from there.
pub(crate) fn explain(address: &Address, error: &(dyn StdError + 'static)) -> Option<Error> {
    let cause = cause(error)?;
    let (what, hint) = words(cause);
    Some(Error::Tls { message: format!("error during connect: {address}: {what}"), hint })
}

/// The error of TLS in a chain of them.
fn cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut error = error;
    loop {
        // What an error of the connection is made of is inside it, not behind it.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = inner.map_or_else(|| error.downcast_ref(), |inner| inner.downcast_ref()) {
            return Some(found);
        }
        error = error.source()?;
    }
}

fn words(cause: &rustls::Error) -> (String, Option<String>) {
    match cause {
        rustls::Error::InvalidCertificate(why) => {
            let (why, hint) = certificate(why);
            (format!("tls: failed to verify certificate: x509: {why}"), hint)
        }
        rustls::Error::AlertReceived(alert) => {
            (format!("remote error: tls: {}", told(*alert)), advice(*alert))
        }
        rustls::Error::InvalidMessage(_) => (
            "tls: first record does not look like a TLS handshake".to_owned(),
            Some(
                "what listens there does not speak TLS: leave out --tls, --tlsverify and DOCKER_TLS_VERIFY"
                    .to_owned(),
            ),
        ),
        other => (format!("tls: {other}"), None),
    }
}

fn certificate(why: &CertificateError) -> (String, Option<String>) {
    match why {
        CertificateError::UnknownIssuer => (
            "certificate signed by unknown authority".to_owned(),
            Some("give the authority that signed the engine's certificate: --tlscacert, or ca.pem in DOCKER_CERT_PATH".to_owned()),
        ),
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => {
            ("certificate has expired or is not yet valid".to_owned(), None)
        }
        CertificateError::NotValidForNameContext { expected, presented } if presented.is_empty() => {
            (format!("certificate is not valid for any names, but wanted to match {}", expected.to_str()), None)
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            (format!("certificate is valid for {}, not {}", names.join(", "), expected.to_str()), None)
        }
        other => (other.to_string(), None),
    }
}

/// A name without the kind that rustls writes around it: `DnsName("x")`, `IpAddress(::1)`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, inner)| inner.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn told(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "certificate required".to_owned(),
        AlertDescription::UnknownCA => "unknown certificate authority".to_owned(),
        AlertDescription::BadCertificate => "bad certificate".to_owned(),
        AlertDescription::CertificateExpired => "expired certificate".to_owned(),
        AlertDescription::HandshakeFailure => "handshake failure".to_owned(),
        other => format!("{other:?}"),
    }
}

/// For alerts that speak of our certificate.
fn advice(alert: AlertDescription) -> Option<String> {
    use AlertDescription::{
        BadCertificate, CertificateExpired, CertificateRequired, DecryptError, UnknownCA,
    };
    [BadCertificate, CertificateExpired, CertificateRequired, DecryptError, UnknownCA].contains(&alert).then(|| {
        "the engine serves clients with a certificate that its authority signed: --tlscert and --tlskey, or cert.pem \
         and key.pem in DOCKER_CERT_PATH"
            .to_owned()
    })
}
