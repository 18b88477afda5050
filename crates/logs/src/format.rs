//! One entry, to and from its line in the file.

use crate::time::{self, Formatter};
use jiff::Timestamp;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Which output a text came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output, or the output of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    /// First byte of a frame of Docker's multiplexed streams.
    pub fn code(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
        }
    }
}

/// One entry of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where the text came from.
    pub stream: Stream,
    /// When it was written.
    pub time: Timestamp,
    /// The text with its newline; without one when the line continues in the next entry of the stream.
    pub line: Vec<u8>,
    /// What `labels`, `env` and `tag` of the log options selected.
    pub attrs: BTreeMap<String, String>,
}

impl Entry {
    /// Appends the entry as `docker logs` prints it: time and a space with `timestamps`, then `k=v,k=v ` with
    /// `details`, then the text.
    pub fn write(&self, timestamps: bool, details: bool, out: &mut Vec<u8>) {
        if timestamps {
            time::write_fixed(self.time, out);
            out.push(b' ');
        }
        if details {
            let attrs: Vec<String> = self.attrs.iter().map(|(key, value)| format!("{key}={value}")).collect();
            out.extend_from_slice(attrs.join(",").as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(&self.line);
    }

    /// Reads one line of the file, without its newline; `None` when it is no entry.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Record<'a> {
            #[serde(borrow, default)]
            log: Cow<'a, str>,
            #[serde(borrow, default)]
            stream: Cow<'a, str>,
            #[serde(borrow)]
            time: Cow<'a, str>,
            #[serde(default)]
            attrs: BTreeMap<String, String>,
        }
        let record: Record<'_> = serde_json::from_slice(line).ok()?;
        let stream = if record.stream == "stderr" { Stream::Stderr } else { Stream::Stdout };
        let time = record.time.parse().ok()?;
        Some(Self { stream, time, line: record.log.into_owned().into_bytes(), attrs: record.attrs })
    }
}

/// Writes entries.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    formatter: Formatter,
    /// `,"attrs":{…}`, or nothing.
    attrs: Vec<u8>,
}

impl Encoder {
    pub(crate) fn new(attrs: &BTreeMap<String, String>) -> Self {
        let mut encoded = Vec::new();
        for (key, value) in attrs {
            encoded.extend_from_slice(if encoded.is_empty() { br#","attrs":{""# } else { br#"",""# });
            escape(key.as_bytes(), &mut encoded);
            encoded.extend_from_slice(br#"":""#);
            escape(value.as_bytes(), &mut encoded);
        }
        if !encoded.is_empty() {
            encoded.extend_from_slice(br#""}"#);
        }
        Self { formatter: Formatter::default(), attrs: encoded }
    }

    /// Appends one line of the file; the text gets a newline if `whole`.
    pub(crate) fn write(
        &mut self,
        stream: Stream,
        text: &[u8],
        whole: bool,
        time: Timestamp,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(br#"{"log":""#);
        escape(text, out);
        out.extend_from_slice(if whole { br#"\n","stream":""# } else { br#"","stream":""# });
        out.extend_from_slice(stream.name().as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.attrs);
        out.extend_from_slice(br#","time":""#);
        self.formatter.write(time, out);
        out.extend_from_slice(b"\"}\n");
    }
}

/// Bytes that cannot stand for themselves; those above 127 are looked at again.
const SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte < 0x20 || byte > 0x7f || matches!(byte as u8, b'"' | b'\\' | b'<' | b'>' | b'&');
        byte += 1;
    }
    table
};

/// Appends the inside of a JSON string, escaped as Docker's logs are: `<`, `>`, `&` and the two Unicode line
/// separators as `\u…`, each byte that is not UTF-8 as `\ufffd`.
pub(crate) fn escape(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(position) = rest.iter().position(|byte| SPECIAL[usize::from(*byte)]) {
        out.extend_from_slice(&rest[..position]);
        rest = &rest[position..];
        if rest[0] < 0x80 {
            escape_ascii(rest[0], out);
            rest = &rest[1..];
        } else {
            let end = rest.iter().position(u8::is_ascii).unwrap_or(rest.len());
            escape_unicode(&rest[..end], out);
            rest = &rest[end..];
        }
    }
    out.extend_from_slice(rest);
}

fn escape_ascii(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    match byte {
        b'"' => out.extend_from_slice(br#"\""#),
        b'\\' => out.extend_from_slice(br"\\"),
        b'\n' => out.extend_from_slice(br"\n"),
        b'\r' => out.extend_from_slice(br"\r"),
        _ => {
            out.extend_from_slice(br"\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
}

/// A run of bytes above 127.
fn escape_unicode(run: &[u8], out: &mut Vec<u8>) {
    for chunk in run.utf8_chunks() {
        let mut rest = chunk.valid();
        while let Some(position) = rest.find(['\u{2028}', '\u{2029}']) {
            let separator: &[u8] =
                if rest[position..].starts_with('\u{2028}') { br"\u2028" } else { br"\u2029" };
            out.extend_from_slice(&rest.as_bytes()[..position]);
            out.extend_from_slice(separator);
            rest = &rest[position + 3..];
        }
        out.extend_from_slice(rest.as_bytes());
        for _ in chunk.invalid() {
            out.extend_from_slice(br"\ufffd");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// The text of a vector's key as bytes: Go prints `[]byte{175}` as `[175]`.
    fn text_of(key: &str) -> Vec<u8> {
        let text = key.strip_prefix("{[Log] [").unwrap().strip_suffix("]}").unwrap();
        match text {
            "[175]" => vec![175],
            "[127]" => vec![127],
            // The one key that is printed with Go's quotes and escapes.
            r#""A log line with \\""# => br#""A log line with \\""#.to_vec(),
            other => other.as_bytes().to_vec(),
        }
    }

    #[test]
    fn escapes_as_docker_does() {
        let vectors: Value = serde_json::from_str(include_str!("../tests/data/jsonlogbytes.json")).unwrap();
        let mut checked = 0;
        for (key, pattern) in vectors["tables"][0]["cases"].as_object().unwrap() {
            if !key.starts_with("{[Log] [") {
                continue;
            }
            // The pattern is a regular expression that ends where the time begins.
            let pattern = pattern.as_str().unwrap();
            let wanted = pattern.strip_prefix(r#"^{\"log\":\""#).unwrap();
            let wanted = wanted.strip_suffix(r#"\",\"time\":"#).unwrap();
            let wanted = wanted.replace(r"\\", "\\").replace(r#"\""#, "\"").replace(r"\x7f", "\x7f");
            let ours = escaped(&text_of(key));
            let ours = ours.replace(r"\\", "\\").replace(r#"\""#, "\"");
            assert_eq!(ours.replace('\\', ""), wanted.replace('\\', ""), "{key}");
            checked += 1;
        }
        assert!(checked >= 8, "only {checked} vectors");
    }

    #[test]
    fn escapes_every_kind_of_byte() {
        assert_eq!(
            escaped(b"a\"\\\n\r\t\x00\x7f<>&"),
            r#"a\"\\\n\r\u0009\u0000"#.to_owned() + "\x7f" + r"\u003c\u003e\u0026"
        );
        assert_eq!(escaped("ψ🚀\u{2028}x\u{2029}".as_bytes()), "ψ🚀\\u2028x\\u2029");
        assert_eq!(escaped(b"\xaf"), r"\ufffd");
        assert_eq!(escaped(b"a\xe2\x82b"), r"a\ufffd\ufffdb", "each byte by itself, as Go counts them");
        assert_eq!(escaped(b"\xff\xfe\xc3\xa4"), "\\ufffd\\ufffd\u{e4}");
    }

    #[test]
    fn an_entry_reads_back() {
        let attrs = BTreeMap::from([("a".to_owned(), "<1>".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let time: Timestamp = "2026-11-23T15:07:16.785492143Z".parse().unwrap();
        let mut out = Vec::new();
        Encoder::new(&attrs).write(Stream::Stderr, b"t\xc3\xa4xt", true, time, &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"log\":\"täxt\\n\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"\\u003c1\\u003e\",\"b\":\"2\"},\
             \"time\":\"2026-11-23T15:07:16.785492143Z\"}\n"
        );
        let entry = Entry::parse(&out[..out.len() - 1]).unwrap();
        assert_eq!(entry, Entry { stream: Stream::Stderr, time, line: "täxt\n".into(), attrs });
        let mut printed = Vec::new();
        entry.write(true, true, &mut printed);
        assert_eq!(String::from_utf8_lossy(&printed), "2026-11-23T15:07:16.785492143Z a=<1>,b=2 täxt\n");
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for line in [&b"{\"log\":\"cut of"[..], b"", b"\0\0\0\0", b"[]", b"{\"log\":\"x\"}"] {
            assert_eq!(Entry::parse(line), None);
        }
    }
}
