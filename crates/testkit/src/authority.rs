//! Certificates for one test, signed by an authority of its own.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority. Two with one name would be taken for each other by clients.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, as PEM.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When the system gives no random numbers.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names are good names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority can be made"))
    }

    /// Its own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Signs a certificate for a name or an address.
    ///
    /// # Panics
    /// When `name` is neither.
    #[must_use]
    pub fn sign(&self, name: &str) -> Signed {
        self.signed(&[name], |_| ())
    }

    /// Signs one that has been of no use for long.
    ///
    /// # Panics
    /// When `name` is neither a name nor an address.
    #[must_use]
    pub fn sign_expired(&self, name: &str) -> Signed {
        self.signed(&[name], |params| {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        })
    }

    fn signed(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let all: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(all).expect("names and addresses");
        params.distinguished_name.push(DnType::CommonName, names[0]);
        change(&mut params);
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate can be signed");
        Signed { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Writes `ca.pem`, and `cert.pem` and `key.pem` of what it signed: the names that Docker's clients look for.
    ///
    /// # Panics
    /// When the folder cannot be written to.
    pub fn write(&self, folder: &Path, signed: &Signed) -> [PathBuf; 3] {
        fs::create_dir_all(folder).expect("a folder can be made");
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).expect("a file can be written");
            path
        };
        [write("ca.pem", &self.pem()), write("cert.pem", &signed.certificate), write("key.pem", &signed.key)]
    }
}

/// Makes an authority (`certs/ca.crt`, alone in its folder as clients want it) and a server's certificate of it for
/// loopback (`server.crt`, `server.key`).
///
/// # Panics
/// When they cannot be made.
pub(crate) fn certify(folder: &Path) {
    let authority = Authority::new("authority of a test");
    let server = authority.signed(&["127.0.0.1", "localhost"], |_| ());
    fs::create_dir_all(folder.join("certs")).expect("a folder can be made");
    for (name, pem) in
        [("certs/ca.crt", authority.pem()), ("server.crt", server.certificate), ("server.key", server.key)]
    {
        fs::write(folder.join(name), pem).expect("a file can be written");
    }
}
