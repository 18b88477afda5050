//! Handshakes in memory, and files that are replaced.

use crate::{Identity, ServerFiles, Trust, authorities, certificates, client, private_key};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Certificate and key as PEM.
    fn issue(&self, name: &str, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        if expired {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    fn believed(&self) -> Trust {
        Trust::Authorities(authorities(self.0.pem().as_bytes(), "ca.pem").unwrap())
    }

    /// Writes what a server needs, which has its clients show a certificate if `clients` is set.
    fn serve(&self, folder: &Path, (name, expired): (&str, bool), clients: bool) -> ServerFiles {
        let (certificate, key) = self.issue(name, expired);
        ServerFiles {
            certificate: write(folder, "cert.pem", &certificate),
            key: write(folder, "key.pem", &key),
            client_authorities: clients.then(|| write(folder, "ca.pem", &self.0.pem())),
            protocols: Vec::new(),
        }
    }

    fn identity(&self, expired: bool) -> Identity {
        let (certificate, key) = self.issue("client", expired);
        Identity {
            certificates: certificates(certificate.as_bytes(), "cert.pem").unwrap(),
            key: private_key(key.as_bytes(), "key.pem").unwrap(),
        }
    }
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// Carries bytes both ways until both sides are content or one is not.
fn handshake(server: Arc<ServerConfig>, client: ClientConfig, name: &str) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut sent = bytes.as_slice();
        while !sent.is_empty() {
            server.read_tls(&mut sent).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut sent = bytes.as_slice();
        while !sent.is_empty() {
            client.read_tls(&mut sent).unwrap();
            client.process_new_packets()?;
        }
        if !client.is_handshaking() && !server.is_handshaking() && !client.wants_write() {
            return Ok(());
        }
    }
    panic!("the handshake does not end");
}

#[test]
fn servers_are_believed_by_authority_name_and_date() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let serve = |of: (&str, bool)| ours.serve(folder.path(), of, false).watch().unwrap().get();
    let ask = |server, trust, name: &str| {
        handshake(server, client(trust, None).unwrap(), name).map_err(|error| format!("{error:?}"))
    };
    assert_eq!(ask(serve(("engine.example", false)), ours.believed(), "engine.example"), Ok(()));
    let refused = ask(serve(("engine.example", false)), theirs.believed(), "engine.example").unwrap_err();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    let refused = ask(serve(("engine.example", false)), ours.believed(), "other.example").unwrap_err();
    assert!(refused.contains("NotValidForName"), "{refused}");
    let refused = ask(serve(("engine.example", true)), ours.believed(), "engine.example").unwrap_err();
    assert!(refused.contains("Expired"), "{refused}");
    assert_eq!(ask(serve(("engine.example", true)), Trust::Anybody, "10.0.0.1"), Ok(()));
}

#[test]
fn clients_are_believed_by_their_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let server = ours.serve(folder.path(), ("engine", false), true).watch().unwrap();
    let ask = |identity| {
        let settings = client(ours.believed(), identity).unwrap();
        handshake(server.get(), settings, "engine").map_err(|error| format!("{error:?}"))
    };
    assert_eq!(ask(Some(ours.identity(false))), Ok(()));
    for (identity, why) in [
        (None, "NoCertificatesPresented"),
        (Some(ours.identity(true)), "Expired"),
        (Some(theirs.identity(false)), "UnknownIssuer"),
    ] {
        let refused = ask(identity).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn files_are_read_again_and_bad_ones_are_not_taken() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let server = old.serve(folder.path(), ("engine", false), false).watch().unwrap();
    let believes = |authority: &Authority| {
        handshake(server.get(), client(authority.believed(), None).unwrap(), "engine").is_ok()
    };
    // A file is looked at once a second.
    let later = || std::thread::sleep(Duration::from_millis(1100));
    assert!(believes(&old) && !believes(&new));
    write(folder.path(), "cert.pem", "half a certif");
    later();
    assert!(believes(&old));
    new.serve(folder.path(), ("engine", false), false);
    later();
    assert!(believes(&new) && !believes(&old));
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    let authority = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let good = authority.serve(folder.path(), ("engine", false), false);
    let (_, other_key) = authority.issue("other", false);
    let refused = |files: ServerFiles| yare_errdefs::chain(&files.watch().unwrap_err());
    let text = refused(ServerFiles { key: write(folder.path(), "other.pem", &other_key), ..good.clone() });
    assert!(text.contains("cannot use the TLS certificate") && text.contains("cert.pem"), "{text}");
    let text = refused(ServerFiles { certificate: good.key.clone(), ..good.clone() });
    assert!(text.ends_with("key.pem holds no certificate"), "{text}");
    let text = refused(ServerFiles { key: folder.path().join("none.pem"), ..good.clone() });
    assert!(text.contains("cannot read") && text.contains("none.pem"), "{text}");
    for mark in ["-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: x\n"]
    {
        let text = refused(ServerFiles { key: write(folder.path(), "locked.pem", mark), ..good.clone() });
        assert!(text.contains("locked.pem is encrypted"), "{text}");
    }
}
