//! JSON read in place: where its values stand in the text, so that what is not changed stays byte for byte, repeated keys and long
//! numbers included.

use std::borrow::Cow;

use memchr::memchr2;
use serde::de::IgnoredAny;
use tidegate_plugin::Failure;

use crate::Pointer;

/// How deep arrays and objects may nest.
pub const MAX_DEPTH: usize = 128;

/// A text that is known to be one JSON value.
#[derive(Clone, Copy, Debug)]
pub struct Json<'a>(&'a str);

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    /// `true`, `false` or `null`.
    Word,
}

/// Where the value at a pointer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

impl<'a> Json<'a> {
    /// Fails with `not-json`, which no retry can help.
    pub fn read(body: &'a [u8]) -> Result<Self, Failure> {
        let text = std::str::from_utf8(body).map_err(|_| not_json("it is not UTF-8"))?;
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| not_json(&error.to_string()))?;
        Ok(Self(text))
    }

    pub fn text(self) -> &'a str {
        self.0
    }

    /// Before its value.
    pub fn cursor(self) -> Cursor<'a> {
        Cursor { text: self.0, at: 0 }
    }

    /// Before the value that stands there.
    pub fn cursor_at(self, span: Span) -> Cursor<'a> {
        Cursor { text: self.0, at: span.start }
    }

    /// Where the value stands that a pointer leads to. Of repeated keys the last counts, as with most readers of JSON.
    pub fn find(self, pointer: &Pointer) -> Result<Option<Span>, Failure> {
        let mut cursor = self.cursor();
        for part in pointer.parts() {
            let mut found = None;
            match cursor.kind() {
                Kind::Object => {
                    let mut inside = cursor.enter();
                    while let Some(key) = inside.key(&mut cursor)? {
                        let value = cursor;
                        cursor.skip()?;
                        if key == part {
                            found = Some(value);
                        }
                    }
                }
                Kind::Array => {
                    // `01` and `+1` are no indexes.
                    let wanted = part.parse::<usize>().ok().filter(|index| index.to_string() == part);
                    let (mut inside, mut index) = (cursor.enter(), 0);
                    while wanted.is_some() && inside.item(&mut cursor) {
                        if Some(index) == wanted {
                            found = Some(cursor);
                            break;
                        }
                        cursor.skip()?;
                        index += 1;
                    }
                }
                _ => {}
            }
            match found {
                Some(value) => cursor = value,
                None => return Ok(None),
            }
        }
        cursor.skip().map(Some)
    }

    /// The part of the text.
    pub fn at(self, span: Span) -> &'a str {
        &self.0[span.start..span.end]
    }
}

/// A place in a text.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

/// Inside of an object or array.
#[derive(Debug)]
pub struct Inside {
    begun: bool,
}

impl<'a> Cursor<'a> {
    /// Of the value that comes next.
    pub fn kind(&mut self) -> Kind {
        match self.peek() {
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'"' => Kind::String,
            b't' | b'f' | b'n' => Kind::Word,
            _ => Kind::Number,
        }
    }

    /// The byte that comes next, spaces left out.
    fn peek(&mut self) -> u8 {
        let bytes = self.text.as_bytes();
        while let Some(byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                return *byte;
            }
            self.at += 1;
        }
        0
    }

    /// Where it is: at the start of the next value once [`Self::kind`] was asked.
    pub fn place(&self) -> usize {
        self.at
    }

    /// Goes behind the bracket that is next.
    pub fn enter(&mut self) -> Inside {
        self.peek();
        self.at += 1;
        Inside { begun: false }
    }

    /// Goes behind the colon or comma that is next, and the spaces after it.
    pub fn mark(&mut self) {
        self.peek();
        self.at += 1;
        self.peek();
    }

    /// Whether a comma is next.
    pub fn is_at_comma(&mut self) -> bool {
        self.peek() == b','
    }

    /// Goes behind the next value.
    pub fn skip(&mut self) -> Result<Span, Failure> {
        self.skip_inside(0)
    }

    /// Goes behind the next value, which so many arrays and objects are around.
    pub fn skip_inside(&mut self, around: usize) -> Result<Span, Failure> {
        let kind = self.kind();
        let start = self.at;
        match kind {
            Kind::String => {
                self.string();
            }
            Kind::Number | Kind::Word => self.at = self.end_of_word(),
            Kind::Object | Kind::Array => {
                let mut depth = around;
                loop {
                    match self.text.as_bytes().get(self.at) {
                        Some(b'"') => {
                            self.string();
                            continue;
                        }
                        Some(b'{' | b'[') => depth += 1,
                        Some(b'}' | b']') => depth -= 1,
                        _ => {}
                    }
                    if depth > MAX_DEPTH {
                        return Err(too_deep());
                    }
                    self.at += 1;
                    if depth == around {
                        break;
                    }
                }
            }
        }
        Ok(Span { start, end: self.at })
    }

    /// Goes behind the string that is next.
    pub fn string(&mut self) -> Text<'a> {
        self.peek();
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let (mut at, mut is_escaped) = (start, false);
        while let Some(offset) = bytes.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
            at += offset;
            if bytes[at] == b'"' {
                break;
            }
            is_escaped = true;
            at += 2;
        }
        self.at = at + 1;
        Text { raw: &self.text[start..at], is_escaped }
    }

    /// Goes behind the number or word that is next.
    pub fn word(&mut self) -> &'a str {
        self.peek();
        let start = self.at;
        self.at = self.end_of_word();
        &self.text[start..self.at]
    }

    fn end_of_word(&self) -> usize {
        let rest = &self.text.as_bytes()[self.at..];
        self.at
            + rest.iter().position(|byte| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\t' | b'\r')).unwrap_or(rest.len())
    }
}

impl Inside {
    /// Goes before the next item of an array, or behind its end.
    pub fn item(&mut self, cursor: &mut Cursor) -> bool {
        let next = cursor.peek();
        if next == b']' || next == b'}' {
            cursor.at += 1;
            return false;
        }
        if self.begun {
            cursor.at += 1;
            cursor.peek();
        }
        self.begun = true;
        true
    }

    /// Goes behind the next key of an object, before its value, or behind the object's end.
    pub fn key<'a>(&mut self, cursor: &mut Cursor<'a>) -> Result<Option<Cow<'a, str>>, Failure> {
        if !self.item(cursor) {
            return Ok(None);
        }
        let key = cursor.string().unescape()?;
        cursor.mark();
        Ok(Some(key))
    }
}

/// What stands between a string's quotes.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    raw: &'a str,
    is_escaped: bool,
}

impl<'a> Text<'a> {
    /// Its text; fails where an escape stands for no character.
    pub fn unescape(self) -> Result<Cow<'a, str>, Failure> {
        if !self.is_escaped {
            return Ok(Cow::Borrowed(self.raw));
        }
        serde_json::from_str(&format!("\"{}\"", self.raw)).map(Cow::Owned).map_err(|error| not_json(&error.to_string()))
    }
}

/// A failure for a body that is no JSON.
pub fn not_json(why: &str) -> Failure {
    Failure::never("not-json", format!("the body: {why}"))
}

/// A failure for a body that nests too deep.
pub fn too_deep() -> Failure {
    not_json(&format!("it nests deeper than {MAX_DEPTH}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_finds_the_very_text() {
        let text =
            r#" {"a" : [1, {"b/c": "x,\"]}"}, -2.50e+1 ] , "\u0061": null, "d": {"" : [ ]}, "a~": 12345678901234567890123 } "#;
        let json = Json::read(text.as_bytes()).unwrap();
        let cases = [
            ("", Some(text.trim())),
            ("/a", Some("null")),
            ("/d/", Some("[ ]")),
            ("/d//0", None),
            ("/a~0", Some("12345678901234567890123")),
            ("/nothing", None),
            ("/a~0/0", None),
        ];
        for (pointer, expected) in cases {
            let found = json.find(&Pointer::try_from(pointer.to_owned()).unwrap()).unwrap();
            assert_eq!(found.map(|span| json.at(span)), expected, "{pointer}");
        }
        let list = Json::read(br#"[1, {"b/c": "x,\"]}"}, -2.50e+1 ]"#).unwrap();
        for (pointer, expected) in [
            ("/0", Some("1")),
            ("/1/b~1c", Some(r#""x,\"]}""#)),
            ("/2", Some("-2.50e+1")),
            ("/3", None),
            ("/02", None),
            ("/-", None),
        ] {
            let found = list.find(&Pointer::try_from(pointer.to_owned()).unwrap()).unwrap();
            assert_eq!(found.map(|span| list.at(span)), expected, "{pointer}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for body in [&b""[..], b"{", b"{\"a\":}", b"[1,]", b"\"\xff\"", b"1 2", b"nul", b"{\"a\" 1}"] {
            assert_eq!(Json::read(body).unwrap_err().code, "not-json", "{body:?}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        let failure = Json::read(deep.as_bytes()).unwrap().find(&Pointer::try_from(String::new()).unwrap()).unwrap_err();
        assert_eq!(failure.message, "the body: it nests deeper than 128");
    }
}
