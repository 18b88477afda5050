//! Proxies, as `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` name them. The values are handed in.

use crate::credentials::Secret;
use crate::settings::host_of;
use crate::{Error, Result};
use base64::Engine as _;
use http::Uri;
use std::net::IpAddr;

/// Which proxy serves which address.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    direct: Vec<Direct>,
}

/// A proxy that is spoken with over plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// `host:port`.
    pub(crate) authority: String,
    /// The `Proxy-Authorization` header.
    pub(crate) authorization: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Direct {
    All,
    Network(IpAddr, u8),
    /// A domain and what is below it, or with a leading dot only what is below it.
    Domain {
        name: String,
        port: Option<String>,
    },
}

impl Proxies {
    /// From the three values; empty ones are none.
    ///
    /// # Errors
    /// When a proxy is no `http://` address.
    pub fn new(http: &str, https: &str, direct: &str) -> Result<Self> {
        Ok(Self {
            http: Proxy::parse(http)?,
            https: Proxy::parse(https)?,
            direct: direct
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(Direct::parse)
                .collect(),
        })
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
}

impl Proxy {
    fn parse(text: &str) -> Result<Option<Self>> {
        if text.is_empty() {
            return Ok(None);
        }
        // The text may hold a password: no error shows it.
        let wrong = |why: &str| Error::Settings { what: format!("the proxy address {why}") };
        let rest = match text.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return Err(wrong("must start with http://")),
            None => text,
        };
        let rest = rest.split('/').next().unwrap_or_default();
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let parsed: http::uri::Authority = authority.parse().map_err(|_| wrong("has no host"))?;
        let port = parsed.port_u16().unwrap_or(80);
        let authorization = user.map(|user| {
            let plain = percent_encoding::percent_decode_str(user).collect::<Vec<u8>>();
            let pair = if plain.contains(&b':') { plain } else { [plain.as_slice(), b":"].concat() };
            Secret::new(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        });
        Ok(Some(Self { authority: format!("{}:{port}", parsed.host()), authorization }))
    }
}

impl Direct {
    fn parse(text: &str) -> Self {
        if text == "*" {
            return Self::All;
        }
        if let Some((address, bits)) = text.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse::<IpAddr>(), bits.parse())
        {
            return Self::Network(address, bits);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::Network(address, if address.is_ipv4() { 32 } else { 128 });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (name, Some(port.to_owned()))
            }
            _ => (text, None),
        };
        let name = name.strip_prefix('*').unwrap_or(name).to_ascii_lowercase();
        Self::Domain { name, port }
    }

    fn covers(&self, host: &str, port: &str, address: Option<IpAddr>) -> bool {
        match self {
            Self::All => true,
            Self::Network(network, bits) => {
                address.is_some_and(|address| crate::settings::is_inside(address, *network, *bits))
            }
            Self::Domain { name, port: only } => {
                let host = host.trim_end_matches('.');
                let below = |name: &str| host.strip_suffix(name).is_some_and(|front| front.ends_with('.'));
                only.as_ref().is_none_or(|only| only == port)
                    && match name.strip_prefix('.') {
                        Some(bare) => below(bare),
                        None => host == name || below(name),
                    }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_picked_by_scheme_and_rules() {
        let rules = "corp.example,.deep.example,10.0.0.0/8,one.example:8443, *.star.example";
        let proxies = Proxies::new("http://p:3128", "http://u:p%40ss@q/", rules).unwrap();
        let pick = |uri: &str| proxies.pick(&uri.parse().unwrap()).map(|proxy| proxy.authority.as_str());
        assert_eq!(pick("http://x.example/"), Some("p:3128"));
        assert_eq!(pick("https://x.example/"), Some("q:80"));
        assert_eq!(pick("https://deep.example/"), Some("q:80"));
        assert_eq!(pick("https://one.example/"), Some("q:80"));
        assert_eq!(pick("https://acorp.example/"), Some("q:80"));
        for direct in [
            "https://corp.example/",
            "https://a.corp.example:5000/",
            "http://a.deep.example/",
            "http://10.1.2.3/",
            "https://one.example:8443/",
            "https://a.star.example/",
            "http://127.0.0.1:5000/",
            "http://localhost/",
            "https://[::1]/",
        ] {
            assert_eq!(pick(direct), None, "{direct}");
        }
        let header = proxies.https.unwrap().authorization.unwrap();
        assert_eq!(header.expose(), "Basic dTpwQHNz");
        assert!(Proxies::new("", "", "*").unwrap().pick(&"http://x/".parse().unwrap()).is_none());
        let error = Proxies::new("socks5://u:secret@x", "", "").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
