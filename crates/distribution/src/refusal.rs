//! The registry's own account of why it refuses (distribution-spec, "Error Codes").

use crate::address::{printable, retry_after};
use crate::credentials::Shown;
use crate::error::{Asked, Error, Told};
use crate::wire::Response;
use serde::Deserialize;

/// How much of an answer is read, and shown, when it is a refusal.
const READ: usize = 64 * 1024;
const ENTRIES: usize = 4;
const SHOWN: usize = 400;

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    errors: Vec<Entry>,
    /// Token servers have their own form.
    #[serde(default)]
    details: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error_description: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The error of an answer with a status that is none of the expected.
pub(crate) async fn status_error(response: Response, asked: &Asked, shown: Shown<'_>) -> Error {
    let (url, status) = (printable(&response.url), response.status());
    let wait = response.header("retry-after").and_then(|text| retry_after(text, jiff::Timestamp::now()));
    // A refusal that cannot be read is still a refusal.
    let body = response.whole(asked, READ).await.map(|whole| whole.body).unwrap_or_default();
    Error::Status { asked: asked.clone(), url, status, told: told(&body, shown), retry_after: wait }
}

fn told(body: &[u8], shown: Shown<'_>) -> Vec<Told> {
    let clean = |text: &str| legible(&shown.redact(text));
    let Ok(document) = serde_json::from_slice::<Document>(body) else { return Vec::new() };
    let plain = [document.details, document.message, document.error_description];
    let plain = plain.into_iter().find(|text| !text.is_empty()).map(|text| (String::new(), text));
    let entries = document.errors.into_iter().map(|entry| (entry.code, entry.message)).chain(plain);
    entries
        .take(ENTRIES)
        .map(|(code, message)| Told { code: clean(&code), message: clean(&message) })
        .collect()
}

/// The text on one line, without anything that a terminal would obey, and not too long.
pub(crate) fn legible(text: &str) -> String {
    let escaped = text.trim().chars().flat_map(|character| {
        let is_plain = !character.is_control()
            && !matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let escape = (!is_plain).then(|| character.escape_default());
        is_plain.then_some(character).into_iter().chain(escape.into_iter().flatten())
    });
    let mut shown: String = escaped.take(SHOWN + 1).collect();
    if shown.chars().count() > SHOWN {
        shown = shown.chars().take(SHOWN).chain("…".chars()).collect();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;

    fn pairs(body: &str) -> Vec<(String, String)> {
        let credentials = Credentials::basic("u", "pass-word");
        told(body.as_bytes(), Shown::from(&credentials))
            .into_iter()
            .map(|told| (told.code, told.message))
            .collect()
    }

    #[test]
    fn messages_are_read_and_made_harmless() {
        let body = r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m pass-word\nx","detail":{}},{"code":"X"}]}"#;
        assert_eq!(
            pairs(body),
            [("DENIED".into(), "no\\u{1b}[31m ***\\nx".into()), ("X".into(), String::new())]
        );
        assert_eq!(
            pairs(r#"{"details":"incorrect username or password"}"#)[0].1,
            "incorrect username or password"
        );
        assert!(pairs("<html>").is_empty() && pairs("[]").is_empty() && pairs(r#"{"errors":7}"#).is_empty());
        let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(5000));
        assert_eq!(pairs(&long)[0].1.chars().count(), SHOWN + 1);
        let many = format!(r#"{{"errors":[{}{{}}]}}"#, "{},".repeat(100));
        assert_eq!(pairs(&many).len(), ENTRIES);
    }
}
