//! Which registries are reached how: mirrors, certificates, insecure ones, proxies, patience.
//!
//! Everything comes in as values; the environment and the command line are read elsewhere. Per registry
//! there may be a folder in one of the `certs.d` directories, in one of two forms:
//!
//! ```text
//! <certs.d>/<host[:port]>/hosts.toml      containerd's form (module `hosts_toml`)
//! <certs.d>/<host[:port]>/*.crt           Docker's form: certificate authorities,
//! <certs.d>/<host[:port]>/*.cert, *.key   and pairs of a client certificate and its key
//! ```
//!
//! The name of the folder may be `host_port_` where a colon is not wanted; `_default` serves a registry that
//! has none. The folders are read anew for each operation, so that a change needs no restart.

use crate::hosts_toml;
use crate::proxy::Proxies;
use crate::reach::Reach;
use crate::rewrite::Rewrites;
use crate::{Error, Result};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use yare_oci::reference::DEFAULT_DOMAIN;
use yare_sys::outside::Outside;

/// Where `docker.io` really is.
const HUB: &str = "registry-1.docker.io";

/// Where the families of Linux keep the certificate authorities.
const BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How registries are reached.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the client calls itself.
    pub user_agent: String,
    /// `host`, `host:port` or CIDR of registries that may be reached without or with unproven TLS. Loopback
    /// addresses always may.
    pub insecure: Vec<Insecure>,
    /// Mirrors of Docker Hub, asked before it, as addresses.
    pub hub_mirrors: Vec<String>,
    /// Directories with a folder per registry; the first that has one counts.
    pub certs_d: Vec<PathBuf>,
    /// Bundles of certificate authorities; the first that is there is the system's.
    pub roots: Vec<PathBuf>,
    /// The signature policy (module `signatures`), read anew for each pull; without one everything is taken.
    pub signatures: Option<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// How patient the client is.
    pub patience: Patience,
    /// The network namespace from which registries are reached, where it is not this process's own.
    pub outside: Option<Arc<Outside>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            user_agent: concat!("yare/", env!("CARGO_PKG_VERSION")).to_owned(),
            insecure: Vec::new(),
            hub_mirrors: Vec::new(),
            certs_d: Vec::new(),
            roots: BUNDLES.iter().map(PathBuf::from).collect(),
            signatures: None,
            proxies: Proxies::default(),
            patience: Patience::default(),
            outside: None,
        }
    }
}

/// How long and how often the client tries.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Tries of one request, the first included; a download that makes progress starts counting anew.
    pub attempts: u32,
    /// The pause after the first failure; it doubles with each further one.
    pub pause: Duration,
    /// The longest pause, also when the registry asks for a longer one.
    pub longest_pause: Duration,
    /// Time to open a connection, TLS included.
    pub connect: Duration,
    /// Time without any progress after which a peer counts as dead.
    pub idle: Duration,
    /// Time that a registry may take to answer when it has all of a blob and puts it in its place.
    pub commit: Duration,
    /// Time that a document, such as a manifest or a token, may take in all.
    pub document: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            connect: Duration::from_secs(15),
            idle: Duration::from_secs(45),
            commit: Duration::from_secs(600),
            document: Duration::from_secs(120),
        }
    }
}

/// A registry, or a network of registries, that may be reached without proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Insecure {
    /// `host` or `host:port`, as in references.
    Host(String),
    /// All addresses of a network: address and prefix length.
    Network(IpAddr, u8),
}

impl Insecure {
    /// Parses a line of `insecure-registries`.
    ///
    /// # Errors
    /// When it has a scheme or is no host and no network.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |why: &str| Error::Settings { what: format!("insecure registry {text:?} {why}") };
        let text = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        let text = text.trim_end_matches('/');
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong("is no network"))?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits =
                bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(|| wrong("is no network"))?;
            return Ok(Self::Network(address, bits));
        }
        let authority: http::uri::Authority = text.parse().map_err(|_| wrong("is no host"))?;
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(wrong("is no host"));
        }
        Ok(Self::Host(text.to_ascii_lowercase()))
    }

    fn covers(&self, authority: &str, address: Option<IpAddr>) -> bool {
        match self {
            Self::Host(host) => host.eq_ignore_ascii_case(authority),
            Self::Network(network, bits) => {
                address.is_some_and(|address| is_inside(address, *network, *bits))
            }
        }
    }
}

pub(crate) fn is_inside(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        (IpAddr::V6(address), IpAddr::V6(network)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            address.to_bits() & mask == network.to_bits() & mask
        }
        _ => false,
    }
}

/// Whom to trust on a connection, and with what to prove who we are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Trust {
    /// Certificate authorities besides the system's, as PEM files.
    pub authorities: Vec<PathBuf>,
    /// Client certificate and key, as PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether any certificate will do.
    pub any: bool,
}

/// Which scheme an endpoint speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TLS only.
    Https,
    /// TLS, and without it if there is none.
    HttpsOrHttp,
    /// No TLS.
    Http,
}

/// One place where a repository can be had.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `host[:port]`.
    pub authority: String,
    /// Which scheme it speaks.
    pub scheme: Scheme,
    /// What stands before the repository in paths: `/v2`, or what `override_path` says.
    pub base: String,
    /// Whom to trust.
    pub trust: Trust,
    /// Headers for every request.
    pub headers: Vec<(String, String)>,
    /// What it calls the repositories of the registry.
    pub(crate) rewrites: Rewrites,
    /// Time to open a connection, where it is not the usual one.
    pub connect: Option<Duration>,
    /// Whether tags may be asked of it.
    pub resolves: bool,
    /// Whether content may be asked of it.
    pub pulls: bool,
    /// Whether content may be sent to it.
    pub pushes: bool,
    /// Whether this is the registry itself: only it gets the caller's credentials.
    pub is_origin: bool,
}

impl Settings {
    /// Where the repositories of a registry can be had, mirrors first, the registry itself last.
    ///
    /// # Errors
    /// When its folder cannot be read or says something wrong.
    pub fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>> {
        let folder = self.folder(domain);
        let hosts = folder.as_deref().map(hosts_toml::read).transpose()?.flatten();
        let mut origin = self.plain(if domain == DEFAULT_DOMAIN { HUB } else { domain });
        origin.is_origin = true;
        if let Some(folder) = &folder {
            self.docker_folder(folder, &mut origin.trust)?;
        }
        let mut endpoints = Vec::new();
        match hosts {
            Some(hosts) => {
                for host in &hosts.mirrors {
                    endpoints.push(host.endpoint(|authority| self.plain(authority)));
                }
                hosts.server.settle(&mut origin);
                endpoints.push(origin);
            }
            None => {
                let mirrors = if domain == DEFAULT_DOMAIN { self.hub_mirrors.as_slice() } else { &[] };
                for mirror in mirrors {
                    endpoints.push(self.mirror(mirror)?);
                }
                endpoints.push(origin);
            }
        }
        Ok(endpoints)
    }

    /// A mirror of Docker Hub, given as an address.
    fn mirror(&self, address: &str) -> Result<Endpoint> {
        let wrong = |why: &str| Error::Settings { what: format!("invalid mirror {address:?}: {why}") };
        let (scheme, authority, path) = hosts_toml::split_address(address).map_err(|why| wrong(&why))?;
        let mut endpoint = self.plain(&authority);
        if let Some(folder) = self.folder(&authority) {
            self.docker_folder(&folder, &mut endpoint.trust)?;
        }
        if scheme == Scheme::Http {
            endpoint.scheme = Scheme::Http;
        }
        endpoint.base = format!("{}/v2", path.trim_end_matches('/'));
        Ok(Endpoint { pushes: false, ..endpoint })
    }

    /// An endpoint as it is without any configuration of its own.
    fn plain(&self, authority: &str) -> Endpoint {
        let insecure = self.is_insecure(authority);
        Endpoint {
            authority: authority.to_owned(),
            scheme: if insecure { Scheme::HttpsOrHttp } else { Scheme::Https },
            base: "/v2".to_owned(),
            trust: Trust { any: insecure, ..Trust::default() },
            headers: Vec::new(),
            rewrites: Rewrites::default(),
            connect: None,
            resolves: true,
            pulls: true,
            pushes: true,
            is_origin: false,
        }
    }

    /// Whether a registry may be reached without proof: listed, or on this machine.
    pub fn is_insecure(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let address = host.parse::<IpAddr>().ok();
        let is_local = host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|address| Reach::of(address) == Reach::Loopback);
        is_local || self.insecure.iter().any(|listed| listed.covers(authority, address))
    }

    /// Whether the user has said something about this host, so that it is trusted wherever it is.
    pub(crate) fn is_configured(&self, authority: &str) -> bool {
        let address = host_of(authority).parse::<IpAddr>().ok();
        self.insecure.iter().any(|listed| listed.covers(authority, address))
            || self.named_folder(authority).is_some()
    }

    /// Whom to trust at a host that a registry led to.
    pub(crate) fn trust(&self, authority: &str) -> Result<Trust> {
        let mut trust = self.plain(authority).trust;
        if let Some(folder) = self.named_folder(authority) {
            self.docker_folder(&folder, &mut trust)?;
        }
        Ok(trust)
    }

    fn folder(&self, authority: &str) -> Option<PathBuf> {
        self.named_folder(authority).or_else(|| self.first_folder("_default"))
    }

    fn named_folder(&self, authority: &str) -> Option<PathBuf> {
        // It comes from a reference or an address, whose grammar has no slash; a dot alone is no host.
        if authority.contains('/') || authority.starts_with('.') {
            return None;
        }
        let without_colon = authority.split_once(':').map(|(host, port)| format!("{host}_{port}_"));
        self.first_folder(authority).or_else(|| self.first_folder(&without_colon?))
    }

    fn first_folder(&self, name: &str) -> Option<PathBuf> {
        self.certs_d.iter().map(|dir| dir.join(name)).find(|folder| folder.is_dir())
    }

    /// Docker's form of a folder.
    fn docker_folder(&self, folder: &Path, trust: &mut Trust) -> Result<()> {
        let failed = |error: std::io::Error| Error::Settings {
            what: format!("cannot read the folder {}: {error}", folder.display()),
        };
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        files.sort();
        for file in &files {
            let with = |extension: &str| file.with_extension(extension);
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => trust.authorities.push(file.clone()),
                Some("cert") if !files.contains(&with("key")) => {
                    return Err(Error::Settings {
                        what: format!(
                            "missing key {} for client certificate {}",
                            with("key").display(),
                            file.display()
                        ),
                    });
                }
                Some("cert") => trust.identity = Some((file.clone(), with("key"))),
                Some("key") if !files.contains(&with("cert")) => {
                    return Err(Error::Settings {
                        what: format!(
                            "missing client certificate {} for key {}; a certificate authority has the extension .crt",
                            with("cert").display(),
                            file.display()
                        ),
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The host of `host[:port]`, without the brackets of an IPv6 address.
pub(crate) fn host_of(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insecure(lines: &[&str]) -> Settings {
        let insecure = lines.iter().map(|line| Insecure::parse(line).unwrap()).collect();
        Settings { insecure, ..Settings::default() }
    }

    #[test]
    fn loopback_and_listed_registries_are_insecure() {
        let settings = insecure(&["reg.example:5000", "10.0.0.0/8", "fd00::/8"]);
        for yes in [
            "localhost",
            "localhost:5000",
            "127.3.4.5:80",
            "[::1]:5000",
            "reg.example:5000",
            "10.9.8.7",
            "[fd12::1]",
        ] {
            assert!(settings.is_insecure(yes), "{yes}");
        }
        for no in
            ["reg.example", "reg.example:5001", "11.0.0.1", "128.0.0.1", "[fe00::1]", "localhost.example"]
        {
            assert!(!settings.is_insecure(no), "{no}");
        }
        for bad in ["10.0.0.0/33", "a/b", "", "user@host"] {
            assert!(Insecure::parse(bad).is_err(), "{bad}");
        }
        assert!(insecure(&["0.0.0.0/0"]).is_insecure("8.8.8.8"));
    }

    #[test]
    fn hub_has_its_mirrors_and_others_do_not() {
        let hub_mirrors = vec!["http://127.0.0.1:5001".to_owned(), "https://m.example/sub/".to_owned()];
        let settings = Settings { hub_mirrors, ..Settings::default() };
        let endpoints = settings.endpoints("docker.io").unwrap();
        let names: Vec<_> =
            endpoints.iter().map(|e| (e.authority.as_str(), e.base.as_str(), e.pushes)).collect();
        assert_eq!(
            names,
            [
                ("127.0.0.1:5001", "/v2", false),
                ("m.example", "/sub/v2", false),
                ("registry-1.docker.io", "/v2", true)
            ]
        );
        assert!(endpoints[2].is_origin && !endpoints[0].is_origin);
        assert_eq!(settings.endpoints("ghcr.io").unwrap().len(), 1);
    }

    #[test]
    fn dockers_folder_gives_authorities_and_identity() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("reg.example:5000");
        std::fs::create_dir(&folder).unwrap();
        for name in ["ca.crt", "client.cert", "client.key", "readme"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let settings = Settings { certs_d: vec![dir.path().to_owned()], ..Settings::default() };
        let endpoints = settings.endpoints("reg.example:5000").unwrap();
        assert_eq!(endpoints[0].trust.authorities, [folder.join("ca.crt")]);
        assert_eq!(
            endpoints[0].trust.identity,
            Some((folder.join("client.cert"), folder.join("client.key")))
        );
        assert!(settings.is_configured("reg.example:5000") && !settings.is_configured("other"));
        std::fs::remove_file(folder.join("client.key")).unwrap();
        let error = settings.endpoints("reg.example:5000").unwrap_err().to_string();
        assert!(error.contains("missing key"), "{error}");
    }
}
