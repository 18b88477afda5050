//! The texts that Go's `encoding/json` has for broken JSON.
//!
//! Docker's clients and their tests know errors such as `invalid character 'b' looking for beginning of
//! object key string`. The parser used for requests has other words, so a body that it refuses is walked
//! once more by this scanner, which builds nothing and only finds the first fault.

/// Why the text is not one JSON value, in Go's words; `None` when it is.
pub(crate) fn syntax_error(text: &[u8]) -> Option<String> {
    Scanner { text, at: 0 }.value_stream().err().map(|fault| match fault {
        Fault::Character(byte, context) => format!("invalid character {} {context}", quote(byte)),
        Fault::End => "unexpected EOF".to_owned(),
        Fault::Depth => "exceeded max depth".to_owned(),
    })
}

/// How deep Go lets arrays and objects be nested.
const MAX_DEPTH: usize = 10_000;

enum Fault {
    Character(u8, &'static str),
    End,
    Depth,
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// What is open around the current position.
#[derive(Clone, Copy, PartialEq)]
enum Nest {
    Array,
    Object,
}

impl Scanner<'_> {
    fn value_stream(&mut self) -> Result<(), Fault> {
        let mut nests = Vec::new();
        loop {
            if self.begin_value(&mut nests)? {
                continue;
            }
            if self.end_value(&mut nests)? {
                return Ok(());
            }
        }
    }

    /// Scans a scalar, or opens an array or object; true when another value must follow inside of it.
    fn begin_value(&mut self, nests: &mut Vec<Nest>) -> Result<bool, Fault> {
        let context = "looking for beginning of value";
        match self.next_token()? {
            b'{' => self.open(nests, Nest::Object, b'}'),
            b'[' => self.open(nests, Nest::Array, b']'),
            b'"' => self.string().map(|()| false),
            b't' => self.literal("true").map(|()| false),
            b'f' => self.literal("false").map(|()| false),
            b'n' => self.literal("null").map(|()| false),
            b'-' => {
                let digit = self.next()?;
                self.number(digit, "in numeric literal").map(|()| false)
            }
            digit @ b'0'..=b'9' => self.number(digit, context).map(|()| false),
            other => Err(Fault::Character(other, context)),
        }
    }

    /// Handles what follows `{` or `[`; false when it is closed at once.
    fn open(&mut self, nests: &mut Vec<Nest>, nest: Nest, close: u8) -> Result<bool, Fault> {
        if nests.len() >= MAX_DEPTH {
            return Err(Fault::Depth);
        }
        if self.peek_token()? == close {
            self.at += 1;
            return Ok(false);
        }
        nests.push(nest);
        if nest == Nest::Object {
            self.key()?;
        }
        Ok(true)
    }

    /// Handles what follows a value; true when the outermost one is complete.
    fn end_value(&mut self, nests: &mut Vec<Nest>) -> Result<bool, Fault> {
        while let Some(nest) = nests.last().copied() {
            match (self.next_token()?, nest) {
                (b',', Nest::Array) => return Ok(false),
                (b',', Nest::Object) => return self.key().map(|()| false),
                (b']', Nest::Array) | (b'}', Nest::Object) => drop(nests.pop()),
                (other, Nest::Array) => return Err(Fault::Character(other, "after array element")),
                (other, Nest::Object) => {
                    return Err(Fault::Character(other, "after object key:value pair"));
                }
            }
        }
        Ok(true)
    }

    fn key(&mut self) -> Result<(), Fault> {
        match self.next_token()? {
            b'"' => self.string()?,
            other => return Err(Fault::Character(other, "looking for beginning of object key string")),
        }
        match self.next_token()? {
            b':' => Ok(()),
            other => Err(Fault::Character(other, "after object key")),
        }
    }

    fn string(&mut self) -> Result<(), Fault> {
        loop {
            match self.next()? {
                b'"' => return Ok(()),
                b'\\' => self.escape()?,
                control @ 0..=0x1f => return Err(Fault::Character(control, "in string literal")),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), Fault> {
        match self.next()? {
            b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => Ok(()),
            b'u' => (0..4).try_for_each(|_| match self.next()? {
                digit if digit.is_ascii_hexdigit() => Ok(()),
                other => Err(Fault::Character(other, "in \\u hexadecimal character escape")),
            }),
            other => Err(Fault::Character(other, "in string escape code")),
        }
    }

    fn literal(&mut self, word: &'static str) -> Result<(), Fault> {
        let contexts = match word {
            "true" => [
                "in literal true (expecting 'r')",
                "in literal true (expecting 'u')",
                "in literal true (expecting 'e')",
                "",
            ],
            "null" => [
                "in literal null (expecting 'u')",
                "in literal null (expecting 'l')",
                "in literal null (expecting 'l')",
                "",
            ],
            _ => [
                "in literal false (expecting 'a')",
                "in literal false (expecting 'l')",
                "in literal false (expecting 's')",
                "in literal false (expecting 'e')",
            ],
        };
        word.bytes().skip(1).zip(contexts).try_for_each(|(wanted, context)| match self.next()? {
            found if found == wanted => Ok(()),
            other => Err(Fault::Character(other, context)),
        })
    }

    fn number(&mut self, first: u8, context: &'static str) -> Result<(), Fault> {
        match first {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            other => return Err(Fault::Character(other, context)),
        }
        if self.eat(b".") {
            self.digit_then_digits("after decimal point in numeric literal")?;
        }
        if self.eat(b"eE") {
            self.eat(b"+-");
            self.digit_then_digits("in exponent of numeric literal")?;
        }
        Ok(())
    }

    fn digit_then_digits(&mut self, context: &'static str) -> Result<(), Fault> {
        match self.next()? {
            digit if digit.is_ascii_digit() => self.digits(),
            other => return Err(Fault::Character(other, context)),
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.text.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn eat(&mut self, any: &[u8]) -> bool {
        let found = self.text.get(self.at).is_some_and(|byte| any.contains(byte));
        self.at += usize::from(found);
        found
    }

    fn peek_token(&mut self) -> Result<u8, Fault> {
        while self.text.get(self.at).is_some_and(|byte| b" \t\r\n".contains(byte)) {
            self.at += 1;
        }
        self.text.get(self.at).copied().ok_or(Fault::End)
    }

    fn next_token(&mut self) -> Result<u8, Fault> {
        self.peek_token()?;
        self.next()
    }

    fn next(&mut self) -> Result<u8, Fault> {
        let byte = self.text.get(self.at).copied().ok_or(Fault::End)?;
        self.at += 1;
        Ok(byte)
    }
}

/// A byte in single quotes, as Go prints it.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        0..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_go() {
        let cases = [
            ("{bad", "invalid character 'b' looking for beginning of object key string"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"", "invalid character '\"' after object key:value pair"),
            ("{\"a\":}", "invalid character '}' looking for beginning of value"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("[1}", "invalid character '}' after array element"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            ("[fals!]", "invalid character '!' in literal false (expecting 'e')"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("\"\\u12g4\"", "invalid character 'g' in \\u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("[1.x]", "invalid character 'x' after decimal point in numeric literal"),
            ("[1ex]", "invalid character 'x' in exponent of numeric literal"),
            ("{\"a\":01}", "invalid character '1' after object key:value pair"),
            ("{\"a\":", "unexpected EOF"),
            ("{", "unexpected EOF"),
            ("\"a", "unexpected EOF"),
            ("'", "invalid character '\\'' looking for beginning of value"),
        ];
        for (text, wanted) in cases {
            assert_eq!(syntax_error(text.as_bytes()).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn good_values_have_no_fault() {
        for text in ["{}", "[]", "[[],{}]", " {\"a\": [1, -2.5e+3, true, null, \"\\u00e9\"]} ", "0", "\"é\""]
        {
            assert_eq!(syntax_error(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(20_000);
        assert_eq!(syntax_error(deep.as_bytes()).as_deref(), Some("exceeded max depth"));
    }
}
