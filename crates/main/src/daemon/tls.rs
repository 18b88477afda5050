//! What TCP listeners ask of their clients: dockerd's flags of TLS, and its refusal to be open by accident.

use super::flags::Settings;
use super::one;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use yare_errdefs::{Error, Result};
use yare_server::Listener;
use yare_tls::ServerFiles;

/// The settings, of the command line and the file together.
#[derive(Debug)]
pub(super) struct Tls {
    /// None when clients speak plain HTTP.
    files: Option<ServerFiles>,
    /// Whether clients that prove nothing are wanted, in so many words.
    is_open: bool,
}

/// Reads the settings; `environment` is asked for Docker's variables.
pub(super) fn settings(settings: &Settings, environment: impl Fn(&str) -> Option<String>) -> Result<Tls> {
    let given = |name: &str| one(settings, name).map(|value| matches!(value, "true" | "1"));
    let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
    let verify = given("tlsverify").or_else(|| variable("DOCKER_TLS_VERIFY").map(|_| true));
    // As with dockerd, who says anything about verifying wants TLS, and TLS verifies unless told not to.
    let is_on = verify.is_some() || given("tls") == Some(true);
    let is_open = verify == Some(false)
        || verify.is_none() && given("tls") == Some(false)
        || one(settings, "tcp-without-tls").is_some_and(|value| matches!(value, "true" | "1"));
    let folder = variable("DOCKER_CERT_PATH").map_or_else(
        || Path::new(&variable("HOME").unwrap_or_else(|| "/root".to_owned())).join(".docker"),
        PathBuf::from,
    );
    let file = |flag: &str, name: &str| one(settings, flag).map_or_else(|| folder.join(name), PathBuf::from);
    let files = is_on.then(|| ServerFiles {
        certificate: file("tlscert", "cert.pem"),
        key: file("tlskey", "key.pem"),
        client_authorities: (verify != Some(false)).then(|| file("tlscacert", "ca.pem")),
        // As dockerd, which lets clients ask for anything and speaks HTTP/1.1.
        protocols: Vec::new(),
    });
    Ok(Tls { files, is_open })
}

impl Tls {
    /// Whether clients have to prove who they are.
    fn verifies(&self) -> bool {
        self.files.as_ref().is_some_and(|files| files.client_authorities.is_some())
    }

    /// What `info` says, in dockerd's words, of those of the listeners that ask their clients for nothing.
    pub(super) fn warnings(&self, hosts: &[String]) -> Vec<String> {
        let open = hosts.iter().filter_map(|host| host.strip_prefix("tcp://")).filter(|_| !self.verifies());
        let fault = |address: &str| match self.files {
            None => format!("API is accessible on http://{address} without encryption."),
            Some(_) => format!("API is accessible on https://{address} without TLS client verification."),
        };
        open.map(|address| {
            format!("{} Access to the API is equivalent to root access on the host.", fault(address))
        })
        .collect()
    }

    /// The port of an address that has none.
    fn port(&self) -> u16 {
        if self.files.is_some() { 2376 } else { 2375 }
    }

    /// Listens at `tcp://ADDRESS`, which may lack the host, the port or both.
    pub(super) fn listen(&self, address: &str) -> Result<Listener> {
        self.check(&format!("tcp://{address}"))?;
        let (host, port) = self.parse(address)?;
        let socket = TcpListener::bind((host.as_str(), port))
            .map_err(|error| Error::internal(format!("cannot listen on tcp://{address}")).caused_by(error))?;
        self.listener(socket)
    }

    /// A socket that somebody else has bound.
    pub(super) fn inherited(&self, socket: TcpListener) -> Result<Listener> {
        let address = socket.local_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
        self.check(&format!("the socket of systemd at {address}"))?;
        self.listener(socket)
    }

    fn listener(&self, socket: TcpListener) -> Result<Listener> {
        let Some(files) = self.files.clone() else { return Ok(Listener::Tcp(socket)) };
        let settings = files.watch();
        let settings =
            settings.map_err(|error| Error::invalid("invalid TLS configuration").caused_by(error))?;
        Ok(Listener::Tls(socket, settings))
    }

    /// Refuses, or at least warns of, a listener that asks its clients for nothing.
    fn check(&self, what: &str) -> Result<()> {
        if self.verifies() {
            return Ok(());
        }
        if !self.is_open {
            return Err(Error::invalid(format!("refusing to listen on {what} without TLS")).with_hint(
                "anybody who reaches it owns this host; use --tlsverify with --tlscacert, --tlscert and --tlskey, or \
                 a unix socket over ssh (-H ssh://HOST), or add --tcp-without-tls",
            ));
        }
        tracing::warn!(
            "{what}: binding to IP address without --tlsverify is insecure and gives root access on this machine \
             to everyone who has access to your network"
        );
        Ok(())
    }

    fn parse(&self, address: &str) -> Result<(String, u16)> {
        let wrong = || {
            Error::invalid(format!("invalid bind address format: tcp://{address}"))
                .with_hint("use tcp://ADDRESS:PORT, such as tcp://0.0.0.0:2376")
        };
        let (host, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':').or(rest.is_empty().then_some(""))),
            None => address.split_once(':').map_or((address, Some("")), |(host, port)| (host, Some(port))),
        };
        let port = match port.ok_or_else(wrong)? {
            "" => self.port(),
            port => port.parse().map_err(|_| wrong())?,
        };
        if host.contains(['/', ' ']) {
            return Err(wrong());
        }
        Ok((if host.is_empty() { "localhost" } else { host }.to_owned(), port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::flags;

    fn tls(args: &[&str], environment: &[(&str, &str)]) -> Tls {
        let args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let found = |name: &str| environment.iter().find(|(known, _)| *known == name);
        let variable = |name: &str| found(name).map(|(_, value)| (*value).to_owned());
        settings(&flags::parse(&args).unwrap(), variable).unwrap()
    }

    #[test]
    fn flags_mean_what_they_mean_to_dockerd() {
        // Whether TLS is spoken, clients are verified, and being open is wanted.
        for (args, environment, expected) in [
            (vec![], vec![], (false, false, false)),
            (vec!["--tls"], vec![], (true, true, false)),
            (vec!["--tlsverify"], vec![], (true, true, false)),
            (vec!["--tls=false"], vec![], (false, false, true)),
            (vec!["--tlsverify=false"], vec![], (true, false, true)),
            (vec!["--tls", "--tlsverify=false"], vec![], (true, false, true)),
            (vec!["--tcp-without-tls"], vec![], (false, false, true)),
            (vec![], vec![("DOCKER_TLS_VERIFY", "1")], (true, true, false)),
            (vec!["--tlsverify=false"], vec![("DOCKER_TLS_VERIFY", "1")], (true, false, true)),
        ] {
            let tls = tls(&args, &environment);
            let verifies = tls.files.as_ref().is_some_and(|files| files.client_authorities.is_some());
            assert_eq!((tls.files.is_some(), verifies, tls.is_open), expected, "{args:?} {environment:?}");
        }
    }

    #[test]
    fn files_are_looked_for_where_docker_has_them() {
        let files = |args: &[&str], environment: &[(&str, &str)]| {
            let files = tls(args, environment).files.unwrap();
            [files.client_authorities.unwrap(), files.certificate, files.key]
                .map(|path| path.display().to_string())
        };
        let home = [("HOME", "/home/me")];
        assert_eq!(
            files(&["--tlsverify"], &home),
            ["/home/me/.docker/ca.pem", "/home/me/.docker/cert.pem", "/home/me/.docker/key.pem"]
        );
        assert_eq!(files(&["--tls"], &[])[0], "/root/.docker/ca.pem");
        let given = files(&["--tls", "--tlskey", "/k"], &[("DOCKER_CERT_PATH", "/certs"), home[0]]);
        assert_eq!(given, ["/certs/ca.pem", "/certs/cert.pem", "/k"]);
    }

    #[test]
    fn addresses_may_lack_what_has_a_default() {
        let (plain, secure) = (tls(&[], &[]), tls(&["--tls"], &[]));
        for (address, host, port) in [
            ("", "localhost", 2375),
            (":5555", "localhost", 5555),
            ("0.0.0.0", "0.0.0.0", 2375),
            ("host:", "host", 2375),
            ("[::1]", "::1", 2375),
            ("[::1]:99", "::1", 99),
        ] {
            assert_eq!(plain.parse(address).unwrap(), (host.to_owned(), port), "{address}");
        }
        assert_eq!(secure.parse("0.0.0.0").unwrap().1, 2376);
        for wrong in [":port", "0.0.0.0:5555/p", "[::1]x", "::1:9", "127.0.0.1/", "0.0.0.0:1234567890"] {
            assert!(plain.parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn open_listeners_are_told_of() {
        let hosts = ["unix:///run/x.sock".to_owned(), "tcp://0.0.0.0:1".to_owned()];
        let told = |args: &[&str]| tls(args, &[]).warnings(&hosts);
        let open = "API is accessible on http://0.0.0.0:1 without encryption. ";
        assert!(matches!(told(&["--tcp-without-tls"]).as_slice(), [one] if one.starts_with(open)));
        let unverified = "API is accessible on https://0.0.0.0:1 without TLS client verification. ";
        assert!(matches!(told(&["--tlsverify=false"]).as_slice(), [one] if one.starts_with(unverified)));
        assert_eq!(told(&["--tlsverify"]), Vec::<String>::new());
    }

    #[test]
    fn being_open_by_accident_is_refused() {
        let refused = tls(&[], &[]).listen("127.0.0.1:0").unwrap_err().to_string();
        assert_eq!(refused, "refusing to listen on tcp://127.0.0.1:0 without TLS");
        let bound = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(tls(&[], &[]).inherited(bound).is_err());
        assert!(matches!(tls(&["--tcp-without-tls"], &[]).listen("127.0.0.1:0"), Ok(Listener::Tcp(_))));
        let missing = tls(&["--tlsverify", "--tlscert", "/nowhere/cert.pem"], &[]).listen("127.0.0.1:0");
        let missing = yare_errdefs::chain(&missing.unwrap_err());
        assert!(missing.starts_with("invalid TLS configuration: cannot read /nowhere/cert.pem"), "{missing}");
    }
}
