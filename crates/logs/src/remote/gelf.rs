//! Graylog's format: one JSON object an entry, packed into datagrams or ended by a null byte.

use super::{About, Message};
use crate::format::Stream;
use crate::target::{Address, GelfCompression};
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Map, Value};
use std::io::Write;

/// Bytes of a datagram that pass everywhere.
const DATAGRAM: usize = 1420;
/// Magic bytes, message id, number and count of a chunk.
const CHUNK_HEAD: usize = 12;
/// Chunks of a message at most.
const CHUNKS: usize = 128;

pub(super) fn encode(
    address: &Address,
    compression: GelfCompression,
    host: &str,
    about: &About,
    message: &Message<'_>,
) -> Vec<Vec<u8>> {
    let mut json = object(host, about, message).to_string().into_bytes();
    if !matches!(address, Address::Udp(_)) {
        json.push(0);
        return vec![json];
    }
    let packed = pack(&json, compression);
    if packed.len() <= DATAGRAM { vec![packed] } else { chunks(&packed, message.number) }
}

fn object(host: &str, about: &About, message: &Message<'_>) -> Value {
    let level = match message.stream {
        Stream::Stdout => 6,
        Stream::Stderr => 3,
    };
    let mut object = Map::new();
    object.insert("version".to_owned(), "1.1".into());
    object.insert("host".to_owned(), host.into());
    object.insert("short_message".to_owned(), String::from_utf8_lossy(message.text).into());
    object.insert("timestamp".to_owned(), (message.time.as_millisecond() as f64 / 1000.0).into());
    object.insert("level".to_owned(), level.into());
    for (name, value) in [
        ("_command", &about.command),
        ("_container_id", &about.container_id),
        ("_container_name", &about.container_name),
        ("_created", &about.created),
        ("_image_id", &about.image_id),
        ("_image_name", &about.image_name),
        ("_tag", &about.tag),
    ] {
        object.insert(name.to_owned(), value.as_str().into());
    }
    for (name, value) in &about.attrs {
        object.insert(format!("_{name}"), value.as_str().into());
    }
    Value::Object(object)
}

fn pack(json: &[u8], compression: GelfCompression) -> Vec<u8> {
    // Writing to memory does not fail.
    match compression {
        GelfCompression::None => json.to_vec(),
        GelfCompression::Gzip(level) => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
            let _ = encoder.write_all(json);
            encoder.finish().unwrap_or_default()
        }
        GelfCompression::Zlib(level) => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(level));
            let _ = encoder.write_all(json);
            encoder.finish().unwrap_or_default()
        }
    }
}

/// A message in several datagrams. An entry is at most 16 kB, so that 128 are enough but for absurd labels.
fn chunks(packed: &[u8], number: u64) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = packed.chunks(DATAGRAM - CHUNK_HEAD).take(CHUNKS).collect();
    let id = (u64::from(std::process::id()) << 40) ^ number;
    let chunk = |(index, piece): (usize, &&[u8])| {
        let mut datagram = vec![0x1e, 0x0f];
        datagram.extend_from_slice(&id.to_be_bytes());
        datagram.extend_from_slice(&[index as u8, pieces.len() as u8]);
        datagram.extend_from_slice(piece);
        datagram
    };
    pieces.iter().enumerate().map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn message(text: &[u8]) -> Message<'_> {
        let time = "2026-11-29T11:24:48.801Z".parse().unwrap();
        Message { stream: Stream::Stderr, time, text, part: None, number: 7 }
    }

    #[test]
    fn an_entry_is_dockerds_object() {
        let about = About {
            container_name: "nn".to_owned(),
            attrs: [("lab".to_owned(), "1".to_owned())].into(),
            ..About::default()
        };
        let packets =
            encode(&Address::Udp(String::new()), GelfCompression::Gzip(1), "vm", &about, &message(b"err"));
        let mut json = String::new();
        flate2::read::GzDecoder::new(&packets[0][..]).read_to_string(&mut json).unwrap();
        let object: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["timestamp"], 1_795_951_488.801);
        assert_eq!(
            [
                &object["version"],
                &object["host"],
                &object["short_message"],
                &object["_container_name"],
                &object["_lab"]
            ],
            ["1.1", "vm", "err", "nn", "1"]
        );
        assert_eq!(object["level"], 3);
        let tcp = encode(&Address::Tcp(String::new()), GelfCompression::None, "vm", &about, &message(b"x"));
        assert_eq!((tcp.len(), tcp[0].last()), (1, Some(&0)));
    }

    #[test]
    fn long_entries_are_sent_in_chunks() {
        let text: Vec<u8> = (0..16_000u32).map(|number| b'a' + (number * 7919 % 26) as u8).collect();
        let about = About::default();
        let packets =
            encode(&Address::Udp(String::new()), GelfCompression::None, "vm", &about, &message(&text));
        assert_eq!(packets.len(), 12);
        assert!(packets.iter().all(|packet| packet.len() <= DATAGRAM && packet[..2] == [0x1e, 0x0f]));
        assert!(packets.iter().enumerate().all(|(index, packet)| packet[10..12] == [index as u8, 12]));
        let whole: Vec<u8> = packets.iter().flat_map(|packet| packet[12..].to_vec()).collect();
        let object: Value = serde_json::from_slice(&whole).unwrap();
        assert_eq!(object["short_message"].as_str().unwrap().as_bytes(), text);
    }
}
