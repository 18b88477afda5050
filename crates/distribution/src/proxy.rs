//! Proxies, as `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name them. The values are handed in.

use crate::credentials::Secret;
use crate::settings::host_of;
use crate::{Error, Result};
use base64::Engine as _;
use http::{HeaderValue, Uri};
use std::fmt;
use std::net::IpAddr;

/// What SOCKS has room for in a user name and in a password, in bytes.
const LONGEST: usize = 255;

/// Which proxy serves which address.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
}

/// A proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    pub(crate) kind: Kind,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) login: Option<Login>,
}

/// How a proxy is spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP in the clear.
    Http,
    /// HTTP within TLS.
    Https,
    /// SOCKS 5. It looks names up itself, under both of its schemes, as for Go's programs.
    Socks,
}

/// What a proxy wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) password: Secret,
}

/// Addresses that need no proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    Network(IpAddr, u8),
    Address(IpAddr, Option<String>),
    /// What is below a domain, and perhaps the domain.
    Domain {
        name: String,
        itself: bool,
        port: Option<String>,
    },
}

impl Proxies {
    /// From the three values; empty ones are none.
    ///
    /// # Errors
    /// When a proxy is no address of a kind that is known.
    pub fn new(http: &str, https: &str, direct: &str) -> Result<Self> {
        Ok(Self {
            http: Proxy::parse(http)?,
            https: Proxy::parse(https)?,
            direct: direct.split(',').filter_map(Direct::parse).collect(),
        })
    }

    /// The same with a proxy for what has none of its own.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_default(mut self, all: &str) -> Result<Self> {
        let all = Proxy::parse(all)?;
        self.http = self.http.or_else(|| all.clone());
        self.https = self.https.or(all);
        Ok(self)
    }

    /// The proxy for an address. This machine is always reached directly.
    pub(crate) fn pick(&self, uri: &Uri) -> Option<&Proxy> {
        let is_https = uri.scheme_str() == Some("https");
        let proxy = if is_https { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = host_of(uri.authority()?.as_str()).to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }).to_string();
        let address = host.parse::<IpAddr>().ok();
        let is_local = host == "localhost" || address.is_some_and(|address| address.is_loopback());
        let is_direct = is_local || self.direct.iter().any(|direct| direct.covers(&host, &port, address));
        (!is_direct).then_some(proxy)
    }

    /// What a request has to show to the proxy that it is sent to whole: one without TLS over HTTP.
    pub(crate) fn header(&self, uri: &Uri) -> Option<HeaderValue> {
        let proxy = self.pick(uri).filter(|proxy| proxy.kind != Kind::Socks)?;
        proxy.login.as_ref().filter(|_| uri.scheme_str() == Some("http"))?.header()
    }

    /// Whether one of them is spoken with over TLS.
    pub(crate) fn any_has_tls(&self) -> bool {
        self.http.iter().chain(&self.https).any(|proxy| proxy.kind == Kind::Https)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Https => "https",
            Kind::Socks => "socks5h",
        };
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{scheme}://{open}{}{close}:{}", self.host, self.port)
    }
}

impl Proxy {
    fn parse(text: &str) -> Result<Option<Self>> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        // The text may hold a password: no error shows it.
        let wrong = |why: &str| Error::Settings { what: format!("the proxy address {why}") };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let (kind, port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (Kind::Http, 80),
            "https" => (Kind::Https, 443),
            "socks5" | "socks5h" => (Kind::Socks, 1080),
            _ => return Err(wrong("must start with http://, https://, socks5:// or socks5h://")),
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let parsed: http::uri::Authority = authority.parse().map_err(|_| wrong("has no host"))?;
        let host = host_of(parsed.as_str()).to_owned();
        if host.is_empty() {
            return Err(wrong("has no host"));
        }
        let login = user.map(Login::parse).transpose().map_err(wrong)?;
        Ok(Some(Self { kind, host, port: parsed.port_u16().unwrap_or(port), login }))
    }
}

impl Login {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let decode = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| "has a user name or password that is no text")
        };
        let (user, password) = (decode(user)?, decode(password)?);
        if user.len() > LONGEST || password.len() > LONGEST {
            return Err("has a user name or password of more than 255 bytes");
        }
        Ok(Self { user, password: Secret::new(password) })
    }

    /// The `Proxy-Authorization` header.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let pair = format!("{}:{}", self.user, self.password.expose());
        let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

impl Direct {
    /// One rule, as Go's programs read it; `None` for what is none.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = text.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse())
        {
            return Some(Self::Network(address, bits));
        }
        let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if is_port(port) && (!host.contains(':') || host.ends_with(']')) => {
                (host, Some(port.to_owned()))
            }
            _ => (text.as_str(), None),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Some(Self::Address(address, port));
        }
        let name = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
        let (name, itself) = name.strip_prefix('.').map_or((name, true), |below| (below, false));
        (!name.is_empty()).then(|| Self::Domain { name: name.to_owned(), itself, port })
    }

    fn covers(&self, host: &str, port: &str, address: Option<IpAddr>) -> bool {
        let is_port = |only: &Option<String>| only.as_ref().is_none_or(|only| only == port);
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| crate::settings::is_inside(address, *network, *bits))
            }
            Self::Address(listed, only) => address == Some(*listed) && is_port(only),
            Self::Domain { name, itself, port: only } => {
                let host = host.trim_end_matches('.');
                let is_below = host.strip_suffix(name.as_str()).is_some_and(|front| front.ends_with('.'));
                (is_below || (*itself && host == name)) && is_port(only)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_picked_by_scheme_and_rules() {
        let rules = "corp.example,.deep.example,10.0.0.0/8,one.example:8443, *.star.example,192.0.2.7, \
                     192.0.2.8:5000,[fd00::1]:5000,fd00::2,fe00::/8,*odd.example,:80,,Upper.Example";
        let proxies = Proxies::new("http://p:3128", "http://u:p%40ss@q/", rules).unwrap();
        let pick = |uri: &str| proxies.pick(&uri.parse().unwrap()).map(|proxy| proxy.to_string());
        let (plain, tls) = (Some("http://p:3128".to_owned()), Some("http://q:80".to_owned()));
        assert_eq!(pick("http://x.example/"), plain);
        for proxied in [
            "https://x.example/",
            "https://deep.example/",
            "https://star.example/",
            "https://one.example/",
            "https://acorp.example/",
            "https://192.0.2.8/",
            "https://192.0.2.70/",
            "https://[fd00::1]/",
            "https://1odd.example/",
            "https://11.0.0.1/",
        ] {
            assert_eq!(pick(proxied), tls, "{proxied}");
        }
        for direct in [
            "https://corp.example/",
            "https://a.corp.example:5000/",
            "http://a.deep.example/",
            "http://10.1.2.3/",
            "https://one.example:8443/",
            "https://a.one.example:8443/",
            "https://a.star.example/",
            "https://192.0.2.7:1234/",
            "https://192.0.2.8:5000/",
            "https://[fd00::1]:5000/",
            "https://[fd00::2]/",
            "https://[fe00::99]/",
            "https://upper.example./",
            "http://127.0.0.1:5000/",
            "http://localhost/",
            "https://[::1]/",
        ] {
            assert_eq!(pick(direct), None, "{direct}");
        }
        assert!(Proxies::new("p", "p", "*").unwrap().pick(&"http://x/".parse().unwrap()).is_none());
    }

    #[test]
    fn addresses_of_every_kind_are_read() {
        for (text, read) in [
            ("p", "http://p:80"),
            ("http://p:3128/", "http://p:3128"),
            ("HTTPS://p", "https://p:443"),
            ("https://u:p@[::1]:8443", "https://[::1]:8443"),
            ("socks5://p", "socks5h://p:1080"),
            ("socks5h://u@p:9", "socks5h://p:9"),
        ] {
            assert_eq!(Proxy::parse(text).unwrap().unwrap().to_string(), read, "{text}");
        }
        for wrong in ["socks4://u:secret@x", "https://u:secret@", "ftp://secret", "http://%ff:secret@x"] {
            let error = Proxy::parse(wrong).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        let login = Proxy::parse("socks5h://a%3Ab:p%40ss@x").unwrap().unwrap().login.unwrap();
        assert_eq!((login.user.as_str(), login.password.expose()), ("a:b", "p@ss"));
    }

    #[test]
    fn one_for_all_gives_way_to_others_and_headers_go_with_whole_requests_only() {
        let proxies = Proxies::new("http://u:p%40ss@h", "", "").unwrap().with_default("socks5h://s").unwrap();
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(proxies.pick(&uri("http://x/")).unwrap().kind, Kind::Http);
        assert_eq!(proxies.pick(&uri("https://x/")).unwrap().kind, Kind::Socks);
        assert_eq!(proxies.header(&uri("http://x/")).unwrap(), "Basic dTpwQHNz");
        let tunnelled = Proxies::new("socks5://u:p@s", "https://u:p@h", "").unwrap();
        assert!(
            tunnelled.header(&uri("http://x/")).is_none() && tunnelled.header(&uri("https://x/")).is_none()
        );
        assert!(tunnelled.any_has_tls() && !proxies.any_has_tls());
    }
}
