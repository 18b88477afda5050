//! Entries of systemd's journal, in its native protocol: one datagram of fields for each.

use super::{About, Message};
use crate::format::Stream;
use crate::time;

/// Where the journal listens.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

pub(super) fn encode(about: &About, epoch: &str, message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.text.len() + 600);
    let priority = match message.stream {
        Stream::Stdout => "6",
        Stream::Stderr => "3",
    };
    field("PRIORITY", priority.as_bytes(), &mut out);
    field("MESSAGE", message.text, &mut out);
    for (name, value) in [
        ("CONTAINER_ID", about.short_id()),
        ("CONTAINER_ID_FULL", &about.container_id),
        ("CONTAINER_NAME", &about.container_name),
        ("CONTAINER_TAG", &about.tag),
        ("IMAGE_NAME", &about.image_name),
        ("SYSLOG_IDENTIFIER", &about.tag),
        ("SYSLOG_TIMESTAMP", &time::to_string(message.time)),
        ("CONTAINER_LOG_EPOCH", epoch),
        ("CONTAINER_LOG_ORDINAL", &message.number.to_string()),
    ] {
        field(name, value.as_bytes(), &mut out);
    }
    if let Some(part) = &message.part {
        field("CONTAINER_PARTIAL_ID", part.id.as_bytes(), &mut out);
        field("CONTAINER_PARTIAL_ORDINAL", part.number.to_string().as_bytes(), &mut out);
        field("CONTAINER_PARTIAL_LAST", part.is_last.to_string().as_bytes(), &mut out);
        if !part.is_last {
            field("CONTAINER_PARTIAL_MESSAGE", b"true", &mut out);
        }
    }
    for (name, value) in &about.attrs {
        if let Some(name) = field_name(name) {
            field(&name, value.as_bytes(), &mut out);
        }
    }
    out
}

/// A value with a newline in it is preceded by its length.
fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// The name of a label or variable as the journal takes it: capitals, digits and underscores, none of those in
/// front. `None` when nothing is left.
fn field_name(name: &str) -> Option<String> {
    let upper = name.to_uppercase();
    let mapped: String =
        upper.chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '_' }).collect();
    let trimmed = mapped.trim_start_matches('_');
    (!trimmed.is_empty()).then(|| trimmed.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn fields_are_those_of_dockerd() {
        let attrs = BTreeMap::from([("com.example/a".to_owned(), "1\n2".to_owned())]);
        let about = About {
            container_id: "5cc6a2da3237555e".to_owned(),
            tag: "tt".to_owned(),
            attrs,
            ..About::default()
        };
        let time = "2026-11-29T11:24:51.39506973Z".parse().unwrap();
        let message = Message { stream: Stream::Stderr, time, text: b"err", part: None, number: 2 };
        let packet = encode(&about, "EPOCH", &message);
        let text = String::from_utf8_lossy(&packet);
        assert!(
            text.starts_with(
                "PRIORITY=3\nMESSAGE=err\nCONTAINER_ID=5cc6a2da3237\nCONTAINER_ID_FULL=5cc6a2da3237555e\n"
            ),
            "{text}"
        );
        assert!(text.contains("\nSYSLOG_IDENTIFIER=tt\nSYSLOG_TIMESTAMP=2026-11-29T11:24:51.39506973Z\nCONTAINER_LOG_EPOCH=EPOCH\nCONTAINER_LOG_ORDINAL=2\n"), "{text}");
        assert!(packet.ends_with(b"\nCOM_EXAMPLE_A\n\x03\0\0\0\0\0\0\x001\n2\n"), "{text}");
    }

    #[test]
    fn names_are_made_fit() {
        assert_eq!(field_name("__a.b-c").as_deref(), Some("A_B_C"));
        assert_eq!(field_name("_._"), None);
    }
}
