//! Where an engine listens, as `DOCKER_HOST` and `-H` write it.

use std::fmt;
use std::path::PathBuf;

use crate::{Error, Ssh};

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket, `unix:///path`.
    Unix(PathBuf),
    /// TCP, `tcp://host:port`, plain or with TLS.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// Port, 2375 when none is written.
        port: u16,
    },
    /// A socket behind `ssh`, `ssh://user@host:port/path`.
    Ssh(Ssh),
}

impl Address {
    /// Reads `unix://…`, `tcp://…`, `http://…`, `ssh://…` or a bare `host:port`, as Docker's client does.
    ///
    /// # Errors
    /// `Unimplemented` for npipe and https; `InvalidArgument` for what is no address.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let Some((scheme, rest)) = text.split_once("://") else {
            if text.is_empty() {
                return Err(Error::address(text, "it is empty"));
            }
            return Self::parse_tcp(text, text);
        };
        match scheme {
            "unix" => {
                let path = if rest.is_empty() { "/var/run/docker.sock" } else { rest };
                Ok(Self::Unix(PathBuf::from(path)))
            }
            "tcp" | "http" => Self::parse_tcp(text, rest),
            "ssh" => Ssh::parse(rest).map(Self::Ssh),
            "npipe" | "https" | "fd" => Err(Error::Unsupported {
                what: format!("connecting with {scheme}:// is not built into this client"),
                hint: (scheme == "https").then(|| "use tcp:// with --tlsverify".to_owned()),
            }),
            _ => Err(Error::address(text, "the scheme must be unix://, tcp:// or ssh://")),
        }
    }

    fn parse_tcp(whole: &str, rest: &str) -> Result<Self, Error> {
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((host, after)) => (host, after.strip_prefix(':')),
            None => match authority.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            None | Some("") => 2375,
            Some(port) => {
                port.parse().map_err(|_| Error::address(whole, "the port must be a number up to 65535"))?
            }
        };
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        Ok(Self::Tcp { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ssh(ssh) => ssh.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_docker_reads_them() {
        let unix = |path: &str| Address::Unix(PathBuf::from(path));
        let tcp = |host: &str, port| Address::Tcp { host: host.to_owned(), port };
        for (text, expected) in [
            ("unix:///run/x.sock", unix("/run/x.sock")),
            ("unix://", unix("/var/run/docker.sock")),
            ("tcp://localhost:2376", tcp("localhost", 2376)),
            ("tcp://[::1]:1", tcp("::1", 1)),
            ("tcp://", tcp("127.0.0.1", 2375)),
            ("10.0.0.1:99", tcp("10.0.0.1", 99)),
            ("tcp://h:99/path", tcp("h", 99)),
        ] {
            assert_eq!(Address::parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "ssh://", "tcp://x:y", "bogus://x", "https://x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        assert_eq!(tcp("::1", 1).to_string(), "tcp://[::1]:1");
    }
}
