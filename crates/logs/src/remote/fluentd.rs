//! Fluentd's forward protocol: `[tag, time, record, options]` in MessagePack for each entry.

use super::{About, Message};
use jiff::Timestamp;

pub(super) fn encode(precise: bool, about: &About, message: &Message<'_>) -> Vec<u8> {
    let name = format!("/{}", about.container_name);
    let mut record: Vec<(&str, &[u8])> = vec![
        ("container_id", about.container_id.as_bytes()),
        ("container_name", name.as_bytes()),
        ("source", message.stream.name().as_bytes()),
        ("log", message.text),
    ];
    let number;
    if let Some(part) = &message.part {
        number = part.number.to_string();
        record.extend([
            ("partial_message", &b"true"[..]),
            ("partial_id", part.id.as_bytes()),
            ("partial_ordinal", number.as_bytes()),
            ("partial_last", if part.is_last { b"true" } else { b"false" }),
        ]);
    }
    record.extend(about.attrs.iter().map(|(key, value)| (key.as_str(), value.as_bytes())));
    let mut out = vec![0x94];
    text(about.tag.as_bytes(), &mut out);
    time(message.time, precise, &mut out);
    map_head(record.len(), &mut out);
    for (key, value) in record {
        text(key.as_bytes(), &mut out);
        text(value, &mut out);
    }
    out.push(0x80);
    out
}

/// Seconds as a 32-bit number, or with nanoseconds as the protocol's own type.
fn time(time: Timestamp, precise: bool, out: &mut Vec<u8>) {
    let seconds = (time.as_second() as u32).to_be_bytes();
    if precise {
        out.extend_from_slice(&[0xd7, 0]);
        out.extend_from_slice(&seconds);
        out.extend_from_slice(&time.subsec_nanosecond().to_be_bytes());
    } else {
        out.push(0xd2);
        out.extend_from_slice(&seconds);
    }
}

fn map_head(length: usize, out: &mut Vec<u8>) {
    match u8::try_from(length) {
        Ok(length) if length < 16 => out.push(0x80 | length),
        _ => {
            out.push(0xdf);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
    }
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    match (u8::try_from(bytes.len()), u16::try_from(bytes.len())) {
        (Ok(length), _) if length < 32 => out.push(0xa0 | length),
        (Ok(length), _) => out.extend_from_slice(&[0xd9, length]),
        (_, Ok(length)) => {
            out.push(0xda);
            out.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            out.push(0xdb);
            out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::Part;
    use super::*;
    use crate::format::Stream;

    #[test]
    fn entries_are_dockerds() {
        let about = About {
            container_id: "cd06".to_owned(),
            container_name: "nn".to_owned(),
            tag: "t".to_owned(),
            ..About::default()
        };
        let at: Timestamp = "2026-11-29T11:24:50.25Z".parse().unwrap();
        let mut message = Message { stream: Stream::Stdout, time: at, text: b"hello", part: None, number: 1 };
        let plain: &[u8] = b"\x94\xa1t\xd2k\x0c\x0b\x82\x84\xaccontainer_id\xa4cd06\xaecontainer_name\xa3/nn\xa6source\xa6stdout\xa3log\xa5hello\x80";
        assert_eq!(encode(false, &about, &message), plain);
        message.part = Some(Part { id: "p".to_owned(), number: 1, is_last: false });
        let partial = encode(true, &about, &message);
        assert!(partial.starts_with(b"\x94\xa1t\xd7\0k\x0c\x0b\x82\x0e\xe6\xb2\x80\x88"), "{partial:x?}");
        assert!(
            partial.ends_with(b"\xafpartial_message\xa4true\xaapartial_id\xa1p\xafpartial_ordinal\xa11\xacpartial_last\xa5false\x80")
        );
    }

    #[test]
    fn lengths_have_their_heads() {
        for (length, head) in
            [(31, &[0xbf][..]), (32, &[0xd9, 32]), (256, &[0xda, 1, 0]), (70_000, &[0xdb, 0, 1, 0x11, 0x70])]
        {
            let mut out = Vec::new();
            text(&vec![b'x'; length], &mut out);
            assert!(out.starts_with(head) && out.len() == head.len() + length, "{length}");
        }
    }
}
