//! Who may use a TCP listener: web pages may not.
//!
//! A page in a browser can send requests to an address of this machine, directly or through a host name of
//! its own that suddenly resolves to it (DNS rebinding). So a request over TCP is refused when it carries
//! `Origin`, which every cross-site request of a browser does, or a `Host` that is a name nobody allowed; an
//! address in numbers cannot be rebound. Over TLS the name is not looked at: a browser has compared it with the
//! certificate. A unix socket is out of a page's reach, and clients send it any `Host`, even an empty one.

use http::HeaderMap;
use http::header::{HOST, ORIGIN};
use yare_errdefs::{Error, Result};

/// Checks the headers of a request that came over TCP; `allowed` are host names without a port.
pub(crate) fn check(headers: &HeaderMap, is_tls: bool, allowed: &[String]) -> Result<()> {
    if headers.contains_key(ORIGIN) {
        return Err(Error::denied("requests of web pages are refused: the request has an Origin header"));
    }
    if is_tls {
        return Ok(());
    }
    let mut hosts = headers.get_all(HOST).iter();
    // One that is no text is nobody's.
    let host = hosts.next().map(|host| host.to_str().unwrap_or("?"));
    // No browser leaves it empty; clients that build do.
    let empty = host == Some("");
    let host = host.unwrap_or_default();
    if hosts.next().is_some() || !empty && !is_allowed(name_of(host), allowed) {
        return Err(Error::denied(format!("requests for the host {host:?} are refused"))
            .with_hint("Start the engine with --allowed-host and this name (allowed-hosts in daemon.json), or use an IP address."));
    }
    Ok(())
}

fn is_allowed(name: &str, allowed: &[String]) -> bool {
    let known = ["localhost"].into_iter().chain(allowed.iter().map(String::as_str));
    let numbers = name.trim_start_matches('[').trim_end_matches(']');
    numbers.parse::<std::net::IpAddr>().is_ok()
        || known.into_iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// A `Host` without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn verdict(host: Option<&'static str>, origin: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        let pairs = [(HOST, host), (ORIGIN, origin)];
        for (name, value) in pairs.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            headers.insert(name, HeaderValue::from_static(value));
        }
        check(&headers, false, &["build.example".to_owned()]).is_ok()
    }

    #[test]
    fn names_that_nobody_allowed_are_refused() {
        for good in
            ["localhost", "", "localhost:2375", "127.0.0.1:2375", "[::1]:2375", "10.0.0.7", "Build.Example:1"]
        {
            assert!(verdict(Some(good), None), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:2375",
            ":2375x",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
        ] {
            assert!(!verdict(Some(bad), None), "{bad}");
        }
        assert!(!verdict(None, None));
    }

    #[test]
    fn web_pages_are_refused() {
        assert!(!verdict(Some("localhost"), Some("https://evil.example")));
        assert!(!verdict(Some("localhost"), Some("null")));
    }

    #[test]
    fn over_tls_the_certificate_has_the_name() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("engine.example:2376"));
        assert!(check(&headers, true, &[]).is_ok());
        headers.insert(ORIGIN, HeaderValue::from_static("https://engine.example:2376"));
        assert!(check(&headers, true, &[]).is_err());
    }
}
