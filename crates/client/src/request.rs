//! A request before it has a connection: method, path without version, query, headers, body.

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use crate::Body;

/// Characters that stay as they are in a query value, as Go's `url.QueryEscape` has them.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');
/// Characters that stay as they are in one segment of a path. A slash stays: image names have them.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b':')
    .remove(b'@')
    .remove(b'/')
    .remove(b'+')
    .remove(b'=')
    .remove(b'$')
    .remove(b'&');

/// One call of the API.
#[derive(Debug)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

impl Request {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), headers: Vec::new(), body: Body::empty() }
    }

    /// A GET of this path; the path has no version prefix.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// A HEAD of this path.
    pub fn head(path: impl Into<String>) -> Self {
        Self::new(Method::HEAD, path)
    }

    /// A POST to this path.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new(Method::POST, path)
    }

    /// A PUT to this path.
    pub fn put(path: impl Into<String>) -> Self {
        Self::new(Method::PUT, path)
    }

    /// A DELETE of this path.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path)
    }

    /// Adds `name=value` to the query.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// Adds `name=value` when there is a value.
    #[must_use]
    pub fn query_opt(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds `name=1` when `set`.
    #[must_use]
    pub fn flag(self, name: &'static str, set: bool) -> Self {
        if set { self.query(name, "1") } else { self }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Sends `value` as JSON.
    ///
    /// # Panics
    /// When `value` cannot be JSON (a map with keys that are no strings): a fault in the program.
    #[must_use]
    pub fn json(mut self, value: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(value).expect("request types serialise to JSON");
        self.body = Body::bytes(bytes);
        self.header("content-type", "application/json")
    }

    /// Sends this body.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: Body) -> Self {
        self.body = body;
        self.header("content-type", content_type)
    }

    /// Escapes one name for use in a path.
    pub fn segment(name: &str) -> String {
        utf8_percent_encode(name, SEGMENT).to_string()
    }

    /// Path and query as they are sent, with the version before them.
    ///
    /// The query is sorted by name, as Go's `url.Values` encodes it; equal names keep their order.
    pub fn target(&self, version: &str) -> String {
        let mut text =
            if version.is_empty() { self.path.clone() } else { format!("/v{version}{}", self.path) };
        let mut query: Vec<_> = self.query.iter().collect();
        query.sort_by_key(|(name, _)| *name);
        for (index, (name, value)) in query.into_iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(name);
            text.push('=');
            text.push_str(&utf8_percent_encode(value, QUERY).to_string().replace(' ', "+"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_sorted_and_escaped_like_go() {
        let request =
            Request::post("/commit").query("repo", "docker.io/library/repo").query("changes", "CMD x");
        assert_eq!(request.target("1.51"), "/v1.51/commit?changes=CMD+x&repo=docker.io%2Flibrary%2Frepo");
        assert_eq!(Request::segment("a/b:c d?e"), "a/b:c%20d%3Fe");
    }
}
