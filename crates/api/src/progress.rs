//! Progress streams of pull, push, load, import and build: one JSON object a line.

use crate::null::{empty, wire};
use crate::units::human_size;

wire! {
    "camelCase";

    /// One message. Which members are there says what it is.
    JSONMessage {
        /// Text of a build or load, with its line ends.
        #[serde(skip_serializing_if = "empty")]
        stream: String,
        /// What is going on, about `id` if there is one.
        #[serde(skip_serializing_if = "empty")]
        status: String,
        /// How far it is; present and empty where Docker draws no bar.
        #[serde(skip_serializing_if = "Option::is_none")]
        progress_detail: Option<ProgressDetail>,
        /// `progressDetail` drawn.
        #[serde(skip_serializing_if = "empty")]
        progress: String,
        /// What it is about: a layer, or the tag.
        #[serde(skip_serializing_if = "empty")]
        id: String,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        error_detail: Option<ErrorDetail>,
        /// The text of `errorDetail` again.
        #[serde(skip_serializing_if = "empty")]
        error: String,
        /// Results for programs.
        #[serde(skip_serializing_if = "Option::is_none")]
        aux: Option<serde_json::Value>,
    }

    /// How far something is, in bytes.
    ProgressDetail {
        /// Done.
        #[serde(skip_serializing_if = "empty")]
        current: i64,
        /// To do in all, 0 when not known.
        #[serde(skip_serializing_if = "empty")]
        total: i64,
    }

    /// A failure.
    ErrorDetail {
        /// Exit code of a failed build step.
        #[serde(skip_serializing_if = "empty")]
        code: i64,
        /// The text.
        message: String,
    }
}

impl JSONMessage {
    /// Text of a build or load.
    pub fn stream(text: impl Into<String>) -> Self {
        Self { stream: text.into(), ..Self::default() }
    }

    /// A status, of something with an id or, with an empty one, of the whole.
    pub fn status(id: impl Into<String>, status: impl Into<String>) -> Self {
        Self { id: id.into(), status: status.into(), ..Self::default() }
    }

    /// How far something is. With `current` and `total` 0 there is no bar.
    pub fn progress(id: impl Into<String>, status: impl Into<String>, current: i64, total: i64) -> Self {
        let detail = ProgressDetail { current, total };
        Self { progress: detail.bar(), progress_detail: Some(detail), ..Self::status(id, status) }
    }

    /// A failure; it is the last message.
    pub fn error(text: impl Into<String>) -> Self {
        let message: String = text.into();
        Self {
            error: message.clone(),
            error_detail: Some(ErrorDetail { code: 0, message }),
            ..Self::default()
        }
    }

    /// Results for programs.
    pub fn aux(value: serde_json::Value) -> Self {
        Self { aux: Some(value), ..Self::default() }
    }

    /// The message as it goes over the wire, with its line end.
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("texts, numbers and JSON values are always JSON");
        line.extend_from_slice(b"\r\n");
        line
    }
}

impl ProgressDetail {
    /// The bar Docker draws, for a wide terminal; empty when there is nothing to draw.
    pub fn bar(&self) -> String {
        if self.current <= 0 && self.total <= 0 {
            return String::new();
        }
        let current = human_size(self.current as f64);
        if self.total <= 0 {
            return format!("{current:>8}");
        }
        let half_percent =
            ((self.current as f64 / self.total as f64 * 100.0) as i64 / 2).clamp(0, 50) as usize;
        let numbers = if self.current > self.total {
            format!("{current:>8}")
        } else {
            format!("{current:>8}/{}", human_size(self.total as f64))
        };
        format!("[{}>{}] {numbers}", "=".repeat(half_percent), " ".repeat(50 - half_percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(message: &JSONMessage) -> String {
        String::from_utf8(message.to_line()).unwrap().replace("\r\n", "")
    }

    #[test]
    fn lines_are_those_of_dockerd() {
        assert_eq!(
            line(&JSONMessage::status("1", "Pulling from t/bb")),
            r#"{"status":"Pulling from t/bb","id":"1"}"#
        );
        assert_eq!(
            line(&JSONMessage::progress("551137d872f9", "Pulling fs layer", 0, 0)),
            r#"{"status":"Pulling fs layer","progressDetail":{},"id":"551137d872f9"}"#
        );
        assert_eq!(
            line(&JSONMessage::progress("551137d872f9", "Downloading", 36445, 1083735)),
            concat!(
                r#"{"status":"Downloading","progressDetail":{"current":36445,"total":1083735},"#,
                r#""progress":"[=>                                                 ]  36.45kB/1.084MB","#,
                r#""id":"551137d872f9"}"#
            )
        );
        let full = ProgressDetail { current: 1083735, total: 1083735 }.bar();
        assert_eq!(full, "[==================================================>]  1.084MB/1.084MB");
        assert_eq!(
            line(&JSONMessage::error("unexpected EOF")),
            r#"{"errorDetail":{"message":"unexpected EOF"},"error":"unexpected EOF"}"#
        );
        assert_eq!(line(&JSONMessage::stream("Loaded image: b\n")), r#"{"stream":"Loaded image: b\n"}"#);
    }
}
