//! Addresses that a registry gives: `Location`, `Link`, `Retry-After`.

use http::Uri;
use std::time::Duration;

/// `Location` as an absolute address, seen from the address that was asked (RFC 3986, 5.2, without dot
/// segments). `None` when it is no HTTP address, or carries a user name.
pub(crate) fn join(base: &Uri, location: &str) -> Option<Uri> {
    if location.len() > 16 * 1024 {
        return None;
    }
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let path = base.path();
    let is_absolute = ["http://", "https://"]
        .iter()
        .any(|scheme| location.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let text = if is_absolute {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') {
        format!("{scheme}://{authority}{path}{location}")
    } else {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let is_plain = !authority.as_str().contains('@') && !authority.host().is_empty();
    (is_plain && matches!(uri.scheme_str(), Some("http" | "https"))).then_some(uri)
}

/// Whether both have the same scheme, host and port: what one is told the other may know.
pub(crate) fn same_origin(one: &Uri, other: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        (uri.scheme_str().map(str::to_owned), host, uri.port_u16().unwrap_or(default))
    };
    origin(one) == origin(other)
}

/// The address without user name and password, and without its query, which may hold a signature.
pub(crate) fn printable(uri: &Uri) -> String {
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{}://{authority}{}", uri.scheme_str().unwrap_or("https"), uri.path())
}

/// The address with one more query member, percent-encoded.
pub(crate) fn with_query(uri: &Uri, name: &str, value: &str) -> Option<Uri> {
    let joint = if uri.query().is_some() { '&' } else { '?' };
    format!("{uri}{joint}{name}={}", encode(value)).parse().ok()
}

/// Everything but what RFC 3986 calls unreserved, percent-encoded.
pub(crate) fn encode(value: &str) -> String {
    const SET: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    percent_encoding::utf8_percent_encode(value, SET).to_string()
}

/// The target of `Link: <…>; rel="next"`.
pub(crate) fn next_link(header: &str) -> Option<&str> {
    header.split(',').take(16).find_map(|link| {
        let (target, params) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = params.split(';').any(|param| {
            let (name, value) = param.split_once('=').unwrap_or((param, ""));
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        is_next.then_some(target)
    })
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3), seen from `now`.
pub(crate) fn retry_after(header: &str, now: jiff::Timestamp) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(header).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn locations_of_every_form() {
        let base = uri("https://r.example:5000/v2/a/blobs/uploads/?x=1");
        let cases = [
            ("https://s3.example/b?sig=1", "https://s3.example/b?sig=1"),
            ("/v2/a/blobs/uploads/1?_state=x", "https://r.example:5000/v2/a/blobs/uploads/1?_state=x"),
            ("1?y", "https://r.example:5000/v2/a/blobs/uploads/1?y"),
            ("?y=2", "https://r.example:5000/v2/a/blobs/uploads/?y=2"),
            ("//cdn.example/x#f", "https://cdn.example/x"),
            ("HTTP://x/y", "http://x/y"),
        ];
        for (location, joined) in cases {
            assert_eq!(join(&base, location), Some(uri(joined)), "{location}");
        }
        for bad in ["https://user:pw@x/", "https://", "http:///x", "/a b", "https://a\u{e9}/"] {
            assert_eq!(join(&base, bad), None, "{bad}");
        }
        // Another scheme reads as a path, as it has no authority that could be followed.
        assert!(join(&base, "file:///etc/passwd").is_none_or(|uri| uri.host() == Some("r.example")));
    }

    #[test]
    fn origins_and_printing() {
        assert!(same_origin(&uri("https://A.example/x"), &uri("https://a.example:443/y")));
        assert!(!same_origin(&uri("https://a.example/"), &uri("http://a.example/")));
        assert!(!same_origin(&uri("https://a.example/"), &uri("https://a.example:444/")));
        assert_eq!(printable(&uri("https://user:pw@a/b?sig=secret")), "https://a/b");
        let queried = with_query(&uri("http://a/b?c=d"), "digest", "sha256:0").unwrap();
        assert_eq!(queried.to_string(), "http://a/b?c=d&digest=sha256%3A0");
    }

    #[test]
    fn links_and_pauses() {
        assert_eq!(
            next_link("</v2/x/tags/list?n=2&last=b>; rel=\"next\""),
            Some("/v2/x/tags/list?n=2&last=b")
        );
        assert_eq!(next_link("<a>; rel=prev, <b>; REL=Next"), Some("b"));
        assert_eq!(next_link("<a; rel=next"), None);
        let now: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Thu, 01 Jan 2026 00:01:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Wed, 31 Dec 2025 00:01:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
