//! YAML, and with it JSON, into serde's types.
//!
//! As the field's readers do it, what a member is decides how a plain scalar is read: `true` is a text where
//! a text is wanted, and the name of a device may be written `0`.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{self, DeserializeOwned, IntoDeserializer, Visitor};
use std::collections::{HashMap, HashSet};
use std::fmt;

/// The most nodes of a document: aliases can multiply what a small file says.
const NODES: usize = 100_000;

/// How deep lists and maps may be in one another.
const DEPTH: usize = 64;

/// Reads the only document of a text.
///
/// # Errors
/// It is no YAML, or not what `T` wants.
pub(crate) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let mut loader = Loader { parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0 };
    T::deserialize(loader.document()?)
}

/// What is wrong with a document.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// A part of a document.
#[derive(Debug, Clone)]
enum Node {
    /// `plain` ones, without quotes, may be something else than text.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    fn size(&self) -> usize {
        match self {
            Self::Scalar { .. } => 1,
            Self::List(nodes) => 1 + nodes.iter().map(Self::size).sum::<usize>(),
            Self::Map(pairs) => 1 + pairs.iter().map(|(key, value)| key.size() + value.size()).sum::<usize>(),
        }
    }

    fn is_null(&self) -> bool {
        matches!(self, Self::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

struct Loader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl<'a> Loader<'a> {
    fn next(&mut self) -> Result<Event<'a>, Error> {
        match self.parser.next() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(Error(error.to_string())),
            None => Ok(Event::StreamEnd),
        }
    }

    fn document(&mut self) -> Result<Node, Error> {
        let mut found = None;
        loop {
            match self.next()? {
                Event::StreamEnd => break,
                Event::DocumentStart(_) if found.is_some() => {
                    return Err(Error("there is more than one document".to_owned()));
                }
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                event => found = Some(self.node(event, 0)?),
            }
        }
        found.ok_or_else(|| Error("there is nothing in it".to_owned()))
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, Error> {
        if depth > DEPTH {
            return Err(Error(format!("it is deeper than {DEPTH} levels")));
        }
        self.count(1)?;
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                (Node::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }, anchor)
            }
            Event::SequenceStart(anchor, _) => (self.list(depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.map(depth)?, anchor),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| Error("an alias stands in its own anchor".to_owned()))?;
                self.count(node.size())?;
                return Ok(node);
            }
            other => return Err(Error(format!("a value was expected, and not {other:?}"))),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn count(&mut self, more: usize) -> Result<(), Error> {
        self.nodes += more;
        if self.nodes > NODES { Err(Error(format!("it has more than {NODES} values"))) } else { Ok(()) }
    }

    fn list(&mut self, depth: usize) -> Result<Node, Error> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Node::List(nodes)),
                event => nodes.push(self.node(event, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Node, Error> {
        let mut pairs = Vec::new();
        let mut keys = HashSet::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(Node::Map(pairs)),
                event => self.node(event, depth + 1)?,
            };
            let Node::Scalar { text, .. } = &key else {
                return Err(Error("a key is no text".to_owned()));
            };
            if !keys.insert(text.clone()) {
                return Err(Error(format!("the key {text:?} is there twice")));
            }
            let event = self.next()?;
            pairs.push((key, self.node(event, depth + 1)?));
        }
    }
}

impl IntoDeserializer<'_, Error> for Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> de::Deserializer<'de> for Node {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() {
            return visitor.visit_unit();
        }
        match self {
            Self::List(nodes) => visitor.visit_seq(SeqDeserializer::new(nodes.into_iter())),
            Self::Map(pairs) => visitor.visit_map(MapDeserializer::new(pairs.into_iter())),
            Self::Scalar { text, plain: true } => match text.as_str() {
                "true" | "True" | "TRUE" => visitor.visit_bool(true),
                "false" | "False" | "FALSE" => visitor.visit_bool(false),
                _ => match integer(&text) {
                    Some(number) => visitor.visit_i64(number),
                    None => visitor.visit_string(text),
                },
            },
            Self::Scalar { text, .. } => visitor.visit_string(text),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            // Nothing is the empty text.
            node if node.is_null() => visitor.visit_string(String::new()),
            Self::Scalar { text, .. } => visitor.visit_string(text),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_string(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        // Nothing is the empty list.
        let node = if self.is_null() { Self::List(Vec::new()) } else { self };
        node.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let node = if self.is_null() { Self::Map(Vec::new()) } else { self };
        node.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct
        newtype_struct tuple tuple_struct enum ignored_any
    }
}

/// A whole number: decimal, `0x…`, `0o…`, and as Go reads it, octal with a zero in front.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', b'o', ..] => (&digits[2..], 8),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // Only digits: a second sign is none.
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;

    fn value(text: &str) -> Value {
        read(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn scalars_are_what_they_look_like() {
        let text = "{a: true, b: 'true', c: 0660, d: 0x1f, e: -3, f: ~, g: 1.2.3, h: /dev/x, i: 0o17, j: 08}";
        assert_eq!(
            value(text),
            json!({ "a": true, "b": "true", "c": 432, "d": 31, "e": -3, "f": null, "g": "1.2.3", "h": "/dev/x", "i": 15, "j": "08" })
        );
    }

    #[test]
    fn a_text_takes_every_scalar() {
        let texts: BTreeMap<String, String> = read("a: true\nb: 0\nc: 1.5\nd:\n").unwrap();
        assert_eq!(texts.values().collect::<Vec<_>>(), ["true", "0", "1.5", ""]);
    }

    #[test]
    fn json_is_yaml() {
        let text = "{\n\t\"a\": [1, \"x\\ty\\u00e9\"],\n\t\"b\": {}\n}\n";
        assert_eq!(value(text), json!({ "a": [1, "x\ty\u{e9}"], "b": {} }));
    }

    #[test]
    fn aliases_are_bounded() {
        assert_eq!(value("a: &x [1]\nb: *x\n"), json!({ "a": [1], "b": [1] }));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let above = level - 1;
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![format!("*a{above}"); 10].join(", "));
        }
        assert!(read::<Value>(&bomb).unwrap_err().to_string().contains("more than"));
        assert!(read::<Value>("a: &x [*x]\n").is_err());
        assert!(read::<Value>(&"[".repeat(10_000)).is_err());
    }

    #[test]
    fn what_is_no_document_is_told() {
        for bad in ["", "# x\n", "a: 1\na: 2\n", "a: 1\n---\nb: 2\n", "{a: ", "? [x]\n: y\n"] {
            assert!(read::<Value>(bad).is_err(), "{bad:?}");
        }
    }
}
