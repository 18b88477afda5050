//! A certificate authority of a test's own.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// Makes an authority (`ca.crt`) and a server's certificate of it for loopback (`server.crt`, `server.key`).
///
/// # Panics
/// When they cannot be made.
pub(crate) fn certify(folder: &Path) {
    let write = |name: &str, pem: String| {
        fs::write(folder.join(name), pem).expect("a file can be written");
    };
    let key = || KeyPair::generate().expect("a key can be made");
    fs::create_dir_all(folder).expect("a folder can be made");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority of a test");
    let issuer = CertifiedIssuer::self_signed(params, key()).expect("an authority can be made");
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let params = CertificateParams::new(names).expect("these are names");
    let server_key = key();
    let server = params.signed_by(&server_key, &issuer).expect("a certificate can be made");
    write("ca.crt", issuer.pem());
    write("server.crt", server.pem());
    write("server.key", server_key.serialize_pem());
}
