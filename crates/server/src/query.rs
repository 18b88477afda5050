//! Query strings, read as Go's `net/url` and Docker's handlers read them.

use percent_encoding::percent_decode;
use yare_errdefs::{Error, Result};

/// The decoded pairs of a query string, in the order in which they came.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Takes a query string apart; `None` is an empty one.
    pub(crate) fn parse(query: Option<&str>) -> Result<Self> {
        let parts = query.unwrap_or_default().split('&').filter(|part| !part.is_empty());
        parts.map(pair).collect::<Result<_>>().map(Self)
    }

    /// The first value of a key.
    pub(crate) fn first(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// The first value of a key when it is not empty.
    pub(crate) fn text(&self, key: &str) -> Option<String> {
        self.first(key).filter(|value| !value.is_empty()).map(str::to_owned)
    }

    /// The first value of a key, empty when it is missing.
    pub(crate) fn or_empty(&self, key: &str) -> String {
        self.first(key).unwrap_or_default().to_owned()
    }

    /// All values of a key.
    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    /// A truth value as Docker reads it: missing, empty, `0`, `no`, `false` and `none` are false.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.first(key).is_some_and(truth)
    }

    /// A whole number; missing and empty are `None`.
    pub(crate) fn number<N: std::str::FromStr>(&self, key: &str) -> Result<Option<N>> {
        let Some(text) = self.text(key) else { return Ok(None) };
        let number = text.strip_prefix('+').unwrap_or(&text).parse();
        number
            .map(Some)
            .map_err(|_| Error::invalid(format!("strconv.Atoi: parsing {}: invalid syntax", quoted(&text))))
    }
}

fn truth(value: &str) -> bool {
    let value = value.trim().to_ascii_lowercase();
    !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
}

fn pair(part: &str) -> Result<(String, String)> {
    if part.contains(';') {
        return Err(Error::invalid("invalid semicolon separator in query"));
    }
    let (key, value) = part.split_once('=').unwrap_or((part, ""));
    Ok((unescape(key)?, unescape(value)?))
}

fn unescape(text: &str) -> Result<String> {
    if let Some(escape) = broken_escape(text) {
        return Err(Error::invalid(format!("invalid URL escape {}", quoted(escape))));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode(spaced.as_bytes()).decode_utf8_lossy();
    Ok(decoded.into_owned())
}

/// The first `%` that two hexadecimal digits do not follow, with what stands there instead.
pub(crate) fn broken_escape(text: &str) -> Option<&str> {
    text.match_indices('%').find_map(|(at, _)| {
        let digits = text.as_bytes().get(at + 1..at + 3);
        let good = digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let end = text[at..].char_indices().nth(3).map_or(text.len(), |(end, _)| at + end);
        (!good).then(|| &text[at..end])
    })
}

/// The text in double quotes, with what Go escapes escaped.
pub(crate) fn quoted(text: &str) -> String {
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(Some(text)).expect("a query")
    }

    #[test]
    fn truth_is_what_docker_takes_for_true() {
        for no in ["a=", "a=0", "a=no", "a=false", "a=none", "a=False", "a", "b=1", "a=%20no%20"] {
            assert!(!query(no).flag("a"), "{no}");
        }
        for yes in ["a=1", "a=true", "a=True", "a=yes", "a=anything", "a=-1"] {
            assert!(query(yes).flag("a"), "{yes}");
        }
    }

    #[test]
    fn values_are_unescaped_and_kept_in_order() {
        let query = query("changes=CMD+x&changes=ENV+a%3Db&repo=docker.io%2Flibrary%2Frepo&e");
        assert_eq!(query.all("changes"), ["CMD x", "ENV a=b"]);
        assert_eq!(query.first("repo"), Some("docker.io/library/repo"));
        assert_eq!(query.first("e"), Some(""));
        assert_eq!(query.text("e"), None);
        assert_eq!(query.first("f"), None);
    }

    #[test]
    fn broken_queries_are_refused_as_go_does() {
        let text = |query: &str| Query::parse(Some(query)).expect_err("broken").to_string();
        assert_eq!(text("a=%zz"), "invalid URL escape \"%zz\"");
        assert_eq!(text("a=1%2"), "invalid URL escape \"%2\"");
        assert_eq!(text("a=%"), "invalid URL escape \"%\"");
        assert_eq!(text("a=%é!x"), "invalid URL escape \"%é!\"");
        assert_eq!(text("a=1;b=2"), "invalid semicolon separator in query");
    }

    #[test]
    fn numbers_are_parsed_or_refused() {
        assert_eq!(query("t=-1").number::<i64>("t").expect("a number"), Some(-1));
        assert_eq!(query("t=%2B5").number::<i64>("t").expect("a number"), Some(5));
        assert_eq!(query("").number::<i64>("t").expect("nothing"), None);
        let error = query("t=x").number::<i64>("t").expect_err("no number");
        assert_eq!(error.to_string(), "strconv.Atoi: parsing \"x\": invalid syntax");
    }
}
