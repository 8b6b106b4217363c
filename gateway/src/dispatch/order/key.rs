//! By what an event's line is known.

use std::fmt;

use ring::digest;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::control::snapshot::OrderBy;
use crate::dispatch::filter::View;
use crate::event::Request;

/// Bodies over this are not parsed by a shard's loop: they are skimmed for the one value, which costs a fraction of the time and no memory.
pub(super) const PARSED: usize = 16 * 1024;

/// Which line a request stands in: its value where the order says, as a hash. None if it has none there.
pub(super) fn key(by: &OrderBy, view: &View<'_>, request: &Request) -> Option<u128> {
    match by {
        OrderBy::Destination => Some(0),
        OrderBy::Header(name) => Some(hash(b'h', request.header(name.as_str())?)),
        OrderBy::Pointer(pointer) if request.body.len() > PARSED => of_value(&skim(&request.body, pointer)?),
        OrderBy::Pointer(pointer) => of_value(view.body()?.pointer(pointer)?),
    }
}

fn of_value(value: &Value) -> Option<u128> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(hash(b's', text.as_bytes())),
        other => Some(hash(b'j', other.to_string().as_bytes())),
    }
}

/// `kind` keeps a header's value, a text and a number apart.
fn hash(kind: u8, value: &[u8]) -> u128 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"tidegate order 1");
    context.update(&[kind]);
    context.update(value);
    let mut first = [0; 16];
    first.copy_from_slice(&context.finish().as_ref()[..16]);
    u128::from_be_bytes(first)
}

/// The value at a place (RFC 6901) in a JSON text, of which nothing else is kept.
fn skim(text: &[u8], pointer: &str) -> Option<Value> {
    let tokens: Vec<String> = match pointer.strip_prefix('/') {
        Some(rest) => rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect(),
        None if pointer.is_empty() => Vec::new(),
        None => return None,
    };
    let mut reader = serde_json::Deserializer::from_slice(text);
    let found = At(&tokens).deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    found
}

/// What stands at this place below.
struct At<'a>(&'a [String]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        match self.0.split_first() {
            None => Value::deserialize(from).map(Some),
            Some((token, rest)) => from.deserialize_any(Below { token, rest }),
        }
    }
}

/// Goes one step down.
struct Below<'a> {
    token: &'a str,
    rest: &'a [String],
}

impl<'de> Visitor<'de> for Below<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        // Of members of one name the last counts, as where the whole is parsed.
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(Is(self.token))? {
            if is_it {
                found = map.next_value_seed(At(self.rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let is_index = self.token == "0" || !self.token.starts_with(['0', '+']);
        let mut left = self.token.parse::<usize>().ok().filter(|_| is_index);
        let mut found = None;
        loop {
            if left == Some(0) {
                let Some(value) = items.next_element_seed(At(self.rest))? else { break };
                found = value;
            } else if items.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
            left = left.and_then(|left| left.checked_sub(1));
        }
        Ok(found)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Whether a member has this name.
struct Is<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<bool, D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Header;

    fn of(by: &OrderBy, header: Option<&str>, body: &str) -> Option<u128> {
        let headers = header.map(|id| Header { name: "x-order".into(), value: id.to_owned().into() }).into_iter().collect();
        let request = Request { headers, body: body.to_owned().into(), ..Request::default() };
        key(by, &View::new(&request), &request)
    }

    #[test]
    fn one_line_for_all_or_one_for_each_value() {
        assert_eq!(of(&OrderBy::Destination, None, "no json"), of(&OrderBy::Destination, Some("a"), ""));
        let by = OrderBy::Header("x-order".parse().unwrap());
        assert_eq!(of(&by, Some("a"), "1"), of(&by, Some("a"), "2"));
        assert_ne!(of(&by, Some("a"), ""), of(&by, Some("b"), ""));
        assert!(of(&by, Some(""), "").is_some(), "an empty value is one");
        let by = OrderBy::Pointer("/order/id".into());
        assert_eq!(of(&by, None, r#"{"order":{"id":"7"},"n":1}"#), of(&by, None, r#"{"n":2,"order":{"id":"7"}}"#));
        assert_ne!(of(&by, None, r#"{"order":{"id":"7"}}"#), of(&by, None, r#"{"order":{"id":7}}"#));
    }

    #[test]
    fn an_event_without_a_key_keeps_no_order() {
        assert_eq!(of(&OrderBy::Header("x-order".parse().unwrap()), None, ""), None);
        for body in ["", "not json", "{}", r#"{"order":{"id":null}}"#, r#"{"order":[1]}"#] {
            assert_eq!(of(&OrderBy::Pointer("/order/id".into()), None, body), None, "{body}");
        }
    }

    #[test]
    fn a_large_body_stands_in_the_line_of_a_small_one() {
        let texts = [
            r#"{"a":{"b":7},"c":[1,{"d":"x"},[true]],"a/b":1.50,"":{"":"empty"},"m~n":"tilde"}"#,
            r#"{"c":"text","a":{"b":1},"a":{"b":"last"}}"#,
            r#"[{"b":1},null,"x",-2,1e3]"#,
            r#"{"a":{"b":"no end""#,
            r#"{"a":{"b":1}} more"#,
            r#""text""#,
            "17",
        ];
        let pointers = [
            "", "/a", "/a/b", "/a/b/c", "/c/0", "/c/1/d", "/c/2", "/c/00", "/c/+1", "/c/9", "/c/-", "/a~1b", "/m~0n", "/", "//",
            "/0/b", "/1", "/3", "/4", "a",
        ];
        for text in texts {
            let padded = format!("{}{text}", " ".repeat(PARSED));
            for pointer in pointers {
                let by = OrderBy::Pointer(pointer.into());
                assert_eq!(of(&by, None, &padded), of(&by, None, text), "{pointer} in {text}");
            }
        }
        assert!(of(&OrderBy::Pointer("/c/1/d".into()), None, texts[0]).is_some());
    }
}
