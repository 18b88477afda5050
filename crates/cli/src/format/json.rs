//! JSON as Docker prints it: the order of members stays what the engine sent.

use std::fmt::Write as _;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// A document whose objects keep the order of their members.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<Value> for Json {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(value) => Self::Number(value),
            Value::String(value) => Self::Text(value),
            Value::Array(values) => Self::List(values.into_iter().map(Into::into).collect()),
            Value::Object(members) => {
                Self::Object(members.into_iter().map(|(name, value)| (name, value.into())).collect())
            }
        }
    }
}

impl Json {
    /// Any value, in the order of its struct's members.
    ///
    /// # Panics
    /// When the value cannot be JSON: a fault in the program.
    pub(crate) fn of(value: &impl serde::Serialize) -> Self {
        let text = serde_json::to_string(value).expect("API types serialise to JSON");
        serde_json::from_str(&text).expect("what serde_json wrote, it reads")
    }

    /// A member of an object.
    pub(crate) fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(known, _)| known == name).map(|(_, value)| value),
            _ => None,
        }
    }

    /// The member at a path of names with dots between them.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').filter(|name| !name.is_empty()).try_fold(self, |value, name| value.get(name))
    }

    /// On one line.
    pub(crate) fn compact(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, None, 0);
        out
    }

    /// On one line, with what HTML would take for markup escaped, as Go's encoder does by default.
    pub(crate) fn compact_escaped(&self) -> String {
        escaped(&self.compact())
    }

    /// Over several lines, each level indented by `indent`.
    pub(crate) fn pretty(&self, indent: &str) -> String {
        let mut out = String::new();
        self.write(&mut out, Some(indent), 0);
        out
    }

    /// The same with what HTML would take for markup escaped.
    pub(crate) fn pretty_escaped(&self, indent: &str) -> String {
        escaped(&self.pretty(indent))
    }

    fn write(&self, out: &mut String, indent: Option<&str>, depth: usize) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Number(value) => drop(write!(out, "{value}")),
            Self::Text(value) => write_text(out, value),
            Self::List(values) => {
                list(out, ('[', ']'), indent, depth, values, |out, value| {
                    value.write(out, indent, depth + 1)
                });
            }
            Self::Object(members) => {
                list(out, ('{', '}'), indent, depth, members, |out, (name, value)| {
                    write_text(out, name);
                    out.push_str(if indent.is_some() { ": " } else { ":" });
                    value.write(out, indent, depth + 1);
                });
            }
        }
    }
}

/// These letters stand in texts alone.
fn escaped(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn write_text(out: &mut String, text: &str) {
    match serde_json::to_string(text) {
        // Go writes these two escaped, because JavaScript once took them for line ends.
        Ok(quoted) if quoted.contains(['\u{2028}', '\u{2029}']) => {
            out.push_str(&quoted.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029"));
        }
        Ok(quoted) => out.push_str(&quoted),
        Err(_) => out.push_str("\"\""),
    }
}

fn list<T>(
    out: &mut String,
    (open, close): (char, char),
    indent: Option<&str>,
    depth: usize,
    items: &[T],
    mut one: impl FnMut(&mut String, &T),
) {
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent, depth));
        }
    };
    out.push(open);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        line(out, depth + 1);
        one(out, item);
    }
    if !items.is_empty() {
        line(out, depth);
    }
    out.push(close);
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Builder)
    }
}

struct Builder;

impl<'de> Visitor<'de> for Builder {
    type Value = Json;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}

/// A JSON text without its white space; the error is as Go words the commonest one.
pub(crate) fn compact(text: &str) -> Result<String, String> {
    match serde_json::from_str::<Json>(text) {
        Ok(document) => Ok(document.compact()),
        Err(_) => match text.trim_start().chars().next() {
            None => Err("unexpected end of JSON input".to_owned()),
            Some(first) if !"{[\"-0123456789tfn".contains(first) => {
                Err(format!("invalid character '{first}' looking for beginning of value"))
            }
            Some(_) => serde_json::from_str::<Json>(text)
                .map(drop)
                .map_err(|error| error.to_string())
                .map(|()| String::new()),
        },
    }
}

/// A value over several lines.
pub(crate) fn pretty(value: &Value, indent: &str) -> String {
    Json::from(value.clone()).pretty(indent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_form_are_kept() {
        let document: Json =
            serde_json::from_str(r#"{"b":1,"a":{"x":[],"y":{}},"c":[1.5,"é<>",null]}"#).unwrap();
        assert_eq!(document.compact(), r#"{"b":1,"a":{"x":[],"y":{}},"c":[1.5,"é<>",null]}"#);
        let pretty = "{\n    \"b\": 1,\n    \"a\": {\n        \"x\": [],\n        \"y\": {}\n    },\n    \"c\": [\n        1.5,\n        \"é<>\",\n        null\n    ]\n}";
        assert_eq!(document.pretty("    "), pretty);
        assert_eq!(document.at("a.x"), Some(&Json::List(Vec::new())));
    }

    #[test]
    fn broken_text_is_refused_as_go_does() {
        assert_eq!(compact("hello").unwrap_err(), "invalid character 'h' looking for beginning of value");
        assert_eq!(compact(" { \"a\" : 1 }\n").unwrap(), r#"{"a":1}"#);
    }
}
