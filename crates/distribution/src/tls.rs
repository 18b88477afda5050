//! TLS: whom to trust, and how to prove who we are.

use crate::settings::Trust;
use crate::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yare_tls::{Identity, certificates, private_key, read};

/// A configuration for these rules.
pub(crate) fn configure(trust: &Trust, system: &RootCertStore) -> Result<Arc<ClientConfig>> {
    let settings = settings(trust, system);
    settings.map(Arc::new).map_err(|error| Error::Settings { what: yare_errdefs::chain(&error) })
}

fn settings(trust: &Trust, system: &RootCertStore) -> yare_errdefs::Result<ClientConfig> {
    let believed = if trust.any {
        yare_tls::Trust::Anybody
    } else {
        let mut roots = system.clone();
        for path in &trust.authorities {
            roots.roots.extend(yare_tls::authorities(&read(path)?, &shown(path))?.roots);
        }
        yare_tls::Trust::Authorities(roots)
    };
    let identity = trust.identity.as_ref().map(|(certificate, key)| identity(certificate, key));
    yare_tls::client(believed, identity.transpose()?)
}

fn identity(certificate: &Path, key: &Path) -> yare_errdefs::Result<Identity> {
    Ok(Identity {
        certificates: certificates(&read(certificate)?, &shown(certificate))?,
        key: private_key(&read(key)?, &shown(key))?,
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The certificate authorities of the machine: those of the first bundle that is there. None at all is no
/// error: a registry may bring its own.
pub(crate) fn system_roots(bundles: &[PathBuf]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for bundle in bundles {
        let Ok(certificates) = CertificateDer::pem_file_iter(bundle) else { continue };
        let (good, bad) = roots.add_parsable_certificates(certificates.filter_map(Result::ok));
        tracing::debug!(bundle = %bundle.display(), good, bad, "certificate authorities of the system");
        break;
    }
    roots
}
