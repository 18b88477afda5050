//! Handshakes in memory, and files that are replaced.

use crate::{Identity, ServerFiles, Trust, authorities, certificates, client, private_key};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use yare_testkit::{Authority, Signed};

fn believed(authority: &Authority) -> Trust {
    Trust::Authorities(authorities(authority.pem().as_bytes(), "ca.pem").unwrap())
}

/// Writes what a server needs, which has its clients show a certificate if `clients` is set.
fn serve(folder: &Path, authority: &Authority, signed: &Signed, clients: bool) -> ServerFiles {
    let [ca, certificate, key] = authority.write(folder, signed);
    ServerFiles { certificate, key, client_authorities: clients.then_some(ca), protocols: Vec::new() }
}

fn identity(Signed { certificate, key }: &Signed) -> Identity {
    Identity {
        certificates: certificates(certificate.as_bytes(), "cert.pem").unwrap(),
        key: private_key(key.as_bytes(), "key.pem").unwrap(),
    }
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
    let ask = |signed: &Signed, trust, name: &str| {
        let server = serve(folder.path(), &ours, signed, false).watch().unwrap().get();
        handshake(server, client(trust, None).unwrap(), name).map_err(|error| format!("{error:?}"))
    };
    let (good, expired) = (ours.sign("engine.example"), ours.sign_expired("engine.example"));
    assert_eq!(ask(&good, believed(&ours), "engine.example"), Ok(()));
    for (signed, authority, name, why) in [
        (&good, &theirs, "engine.example", "UnknownIssuer"),
        (&good, &ours, "other.example", "NotValidForName"),
        (&expired, &ours, "engine.example", "Expired"),
    ] {
        let refused = ask(signed, believed(authority), name).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(ask(&expired, Trust::Anybody, "10.0.0.1"), Ok(()));
}

#[test]
fn clients_are_believed_by_their_certificate() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path(), &ours, &ours.sign("engine"), true).watch().unwrap();
    let ask = |signed: Option<&Signed>| {
        let settings = client(believed(&ours), signed.map(identity)).unwrap();
        handshake(server.get(), settings, "engine").map_err(|error| format!("{error:?}"))
    };
    assert_eq!(ask(Some(&ours.sign("me"))), Ok(()));
    for (signed, why) in [
        (None, "NoCertificatesPresented"),
        (Some(&ours.sign_expired("me")), "Expired"),
        (Some(&theirs.sign("me")), "UnknownIssuer"),
    ] {
        let refused = ask(signed).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn files_are_read_again_and_bad_ones_are_not_taken() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let folder = tempfile::tempdir().unwrap();
    let files = serve(folder.path(), &old, &old.sign("engine"), false);
    let (certificate, server) = (files.certificate.clone(), files.watch().unwrap());
    let believes = |authority: &Authority| {
        handshake(server.get(), client(believed(authority), None).unwrap(), "engine").is_ok()
    };
    // A file is looked at once a second.
    let later = || std::thread::sleep(Duration::from_millis(1100));
    assert!(believes(&old) && !believes(&new));
    std::fs::write(certificate, "half a certif").unwrap();
    later();
    assert!(believes(&old));
    new.write(folder.path(), &new.sign("engine"));
    later();
    assert!(believes(&new) && !believes(&old));
}

#[test]
fn what_is_wrong_with_a_file_is_told() {
    let authority = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    let good = serve(folder.path(), &authority, &authority.sign("engine"), false);
    let key = |text: &str| {
        let key = folder.path().join("other.pem");
        std::fs::write(&key, text).unwrap();
        ServerFiles { key, ..good.clone() }
    };
    let refused = |files: ServerFiles| yare_errdefs::chain(&files.watch().unwrap_err());
    let text = refused(key(&authority.sign("other").key));
    assert!(text.contains("cannot use the TLS certificate") && text.contains("cert.pem"), "{text}");
    let text = refused(ServerFiles { certificate: good.key.clone(), ..good.clone() });
    assert!(text.ends_with("key.pem holds no certificate"), "{text}");
    let text = refused(ServerFiles { key: folder.path().join("none.pem"), ..good.clone() });
    assert!(text.contains("cannot read") && text.contains("none.pem"), "{text}");
    for mark in ["-----BEGIN ENCRYPTED PRIVATE KEY-----\n", "-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: x\n"]
    {
        let text = refused(key(mark));
        assert!(text.contains("other.pem is encrypted"), "{text}");
    }
}
