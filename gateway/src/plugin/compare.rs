//! What two versions of a plugin make of the same request, compared. Pure.
//!
//! Outputs are compared in order: method, path, query, the values of each header, the body. Bodies that are JSON are compared by value,
//! and each place that differs is named by its pointer (RFC 6901). How requests are written down is not a difference that matters: the
//! order of different headers, and how JSON is spaced and ordered (which is told apart, as [`Comparison::formatting`]).
//!
//! | limit | what is beyond |
//! |---|---|
//! | [`MAX_DIFFERENCES`] of one comparison | is not listed; [`Comparison::more`] says so |
//! | [`MAX_JSON`] bytes of a body | it is compared as bytes |
//! | [`MAX_SHOWN`] bytes of a value | its length and hash are shown |

use std::collections::{BTreeMap, BTreeSet};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType};

use crate::event::Request;

/// Differences of one comparison that are listed.
pub const MAX_DIFFERENCES: usize = 50;
/// The longest body that is compared as JSON.
pub const MAX_JSON: usize = 1 << 20;
/// The longest value that is shown.
pub const MAX_SHOWN: usize = 256;

/// How two answers compare.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What differs.
    pub differences: Vec<Difference>,
    /// Whether JSON bodies are the same by value and written in another way.
    pub formatting: bool,
    /// Whether more differs than is listed.
    pub more: bool,
}

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Difference {
    /// Which output.
    pub output: u32,
    /// Which part of it.
    pub part: Part,
    /// The header's name, or the place in the JSON body (RFC 6901).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// `add`: only the second has it. `remove`: only the first has it. `replace`: they differ.
    pub op: Op,
    /// What the first has: the value, or its length and hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = any_json)]
    pub from: Option<Value>,
    /// What the second has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = any_json)]
    pub to: Option<Value>,
}

/// The schema of a field that is any JSON.
pub(crate) fn any_json() -> RefOr<Schema> {
    Schema::Object(ObjectBuilder::new().schema_type(SchemaType::AnyValue).build()).into()
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The request as a whole.
    Output,
    /// Its method.
    Method,
    /// Its path.
    Path,
    /// Its query.
    Query,
    /// The values of a header.
    Header,
    /// Its body, as bytes.
    Body,
    /// A place in its JSON body.
    Json,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Only the second has it.
    Add,
    /// Only the first has it.
    Remove,
    /// They differ.
    Replace,
}

impl Comparison {
    /// Compares what a first and a second version gave.
    pub fn of(first: &[&Request], second: &[&Request]) -> Self {
        let mut found = Self::default();
        for output in 0..first.len().max(second.len()) {
            let number = u32::try_from(output).unwrap_or(u32::MAX);
            match (first.get(output), second.get(output)) {
                (Some(a), Some(b)) => found.requests(number, a, b),
                (a, b) => found.note(
                    number,
                    Part::Output,
                    None,
                    a.map(|request| body(&request.body)),
                    b.map(|request| body(&request.body)),
                ),
            }
        }
        found
    }

    /// Whether nothing differs but how it is written.
    pub fn is_same(&self) -> bool {
        self.differences.is_empty()
    }

    /// Without what was in the requests, but for lengths and hashes of bodies.
    pub fn without_values(mut self) -> Self {
        for difference in self.differences.iter_mut().filter(|difference| !matches!(difference.part, Part::Body | Part::Output)) {
            (difference.from, difference.to) = (None, None);
        }
        self
    }

    fn requests(&mut self, output: u32, a: &Request, b: &Request) {
        let text = |text: &str| shown(Value::from(text));
        if a.method != b.method {
            self.note(output, Part::Method, None, Some(text(&a.method)), Some(text(&b.method)));
        }
        if a.path != b.path {
            self.note(output, Part::Path, None, Some(text(&a.path)), Some(text(&b.path)));
        }
        if a.query != b.query {
            self.note(output, Part::Query, None, a.query.as_deref().map(text), b.query.as_deref().map(text));
        }
        let (ours, theirs) = (headers(a), headers(b));
        let names: BTreeSet<&&str> = ours.keys().chain(theirs.keys()).collect();
        for name in names {
            let (ours, theirs) = (ours.get(*name), theirs.get(*name));
            if ours != theirs {
                let values =
                    |values: &Vec<&[u8]>| shown(values.iter().map(|value| Value::from(String::from_utf8_lossy(value))).collect());
                self.note(output, Part::Header, Some((*name).to_owned()), ours.map(values), theirs.map(values));
            }
        }
        if a.body != b.body {
            match (parse(&a.body), parse(&b.body)) {
                (Some(ours), Some(theirs)) if ours == theirs => self.formatting = true,
                (Some(ours), Some(theirs)) => self.json(output, &mut String::new(), &ours, &theirs),
                _ => self.note(output, Part::Body, None, Some(body(&a.body)), Some(body(&b.body))),
            }
        }
    }

    fn json(&mut self, output: u32, at: &mut String, a: &Value, b: &Value) {
        if a == b || self.more {
            return;
        }
        let length = at.len();
        let mut go = |found: &mut Self, name: &str, a: Option<&Value>, b: Option<&Value>| {
            at.push('/');
            at.push_str(&name.replace('~', "~0").replace('/', "~1"));
            match (a, b) {
                (Some(a), Some(b)) => found.json(output, at, a, b),
                (a, b) => found.note(output, Part::Json, Some(at.clone()), a.cloned().map(shown), b.cloned().map(shown)),
            }
            at.truncate(length);
        };
        match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
                names.into_iter().for_each(|name| go(self, name, a.get(name), b.get(name)));
            }
            (Value::Array(a), Value::Array(b)) => {
                (0..a.len().max(b.len())).for_each(|index| go(self, &index.to_string(), a.get(index), b.get(index)));
            }
            (a, b) => self.note(output, Part::Json, Some(at.clone()), Some(shown(a.clone())), Some(shown(b.clone()))),
        }
    }

    fn note(&mut self, output: u32, part: Part, at: Option<String>, from: Option<Value>, to: Option<Value>) {
        if self.differences.len() >= MAX_DIFFERENCES {
            self.more = true;
            return;
        }
        let op = match (&from, &to) {
            (None, _) => Op::Add,
            (_, None) => Op::Remove,
            _ => Op::Replace,
        };
        let at = at.map(|at| if at.len() > MAX_SHOWN { at.chars().take(MAX_SHOWN).chain(['…']).collect() } else { at });
        self.differences.push(Difference { output, part, at, op, from, to });
    }
}

fn headers(request: &Request) -> BTreeMap<&str, Vec<&[u8]>> {
    let mut headers = BTreeMap::<&str, Vec<&[u8]>>::new();
    for header in &request.headers {
        headers.entry(&header.name).or_default().push(&header.value);
    }
    headers
}

fn parse(body: &[u8]) -> Option<Value> {
    if body.len() > MAX_JSON { None } else { serde_json::from_slice(body).ok() }
}

/// A body that is not shown.
fn body(bytes: &[u8]) -> Value {
    json!({"bytes": bytes.len(), "sha256": hex::encode(digest(&SHA256, bytes))})
}

/// A value, or its length and hash if it is long.
fn shown(value: Value) -> Value {
    let text = value.to_string();
    if text.len() > MAX_SHOWN { body(text.as_bytes()) } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Header;

    fn request(headers: &[(&str, &str)], body: &str) -> Request {
        let header = |(name, value): &(&str, &str)| Header { name: (*name).into(), value: value.to_string().into() };
        Request {
            method: "POST".into(),
            headers: headers.iter().map(header).collect(),
            body: body.to_owned().into(),
            ..Request::default()
        }
    }

    fn compare(a: &Request, b: &Request) -> Vec<Value> {
        let found = Comparison::of(&[a], &[b]).differences;
        found.iter().map(|difference| serde_json::to_value(difference).expect("plain data")).collect()
    }

    #[test]
    fn how_a_request_is_written_is_no_difference() {
        let a = request(&[("x", "1"), ("y", "2"), ("x", "3")], r#"{"a": [1, 2], "b": null}"#);
        let b = request(&[("y", "2"), ("x", "1"), ("x", "3")], r#"{"b":null,"a":[1,2]}"#);
        let found = Comparison::of(&[&a], &[&b]);
        assert_eq!((found.is_same(), found.formatting), (true, true));
        assert_eq!(Comparison::of(&[&a], &[&a]), Comparison::default());
    }

    #[test]
    fn each_part_that_differs_is_named() {
        let a = request(&[("x", "1"), ("x", "2")], r#"{"a/b": {"c~": [1, 2]}, "gone": true}"#);
        let b = Request {
            method: "PUT".into(),
            path: "/new".into(),
            query: Some("q".into()),
            ..request(&[("x", "2"), ("x", "1"), ("z", "9")], r#"{"a/b": {"c~": [1, 3, 4]}, "new": {}}"#)
        };
        let expected = [
            json!({"output": 0, "part": "method", "op": "replace", "from": "POST", "to": "PUT"}),
            json!({"output": 0, "part": "path", "op": "replace", "from": "", "to": "/new"}),
            json!({"output": 0, "part": "query", "op": "add", "to": "q"}),
            json!({"output": 0, "part": "header", "at": "x", "op": "replace", "from": ["1", "2"], "to": ["2", "1"]}),
            json!({"output": 0, "part": "header", "at": "z", "op": "add", "to": ["9"]}),
            json!({"output": 0, "part": "json", "at": "/a~1b/c~0/1", "op": "replace", "from": 2, "to": 3}),
            json!({"output": 0, "part": "json", "at": "/a~1b/c~0/2", "op": "add", "to": 4}),
            json!({"output": 0, "part": "json", "at": "/gone", "op": "remove", "from": true}),
            json!({"output": 0, "part": "json", "at": "/new", "op": "add", "to": {}}),
        ];
        assert_eq!(compare(&a, &b), expected);
        let hidden = Comparison::of(&[&a], &[&b]).without_values();
        assert!(hidden.differences.iter().all(|difference| difference.from.is_none() && difference.to.is_none()));
    }

    #[test]
    fn bodies_that_are_not_json_are_lengths_and_hashes() {
        let (a, b) = (request(&[], "one"), request(&[], "{\"two\": 2}"));
        let found = compare(&a, &b);
        assert_eq!(found[0]["from"], json!({"bytes": 3, "sha256": hex::encode(digest(&SHA256, b"one"))}));
        let added = Comparison::of(&[], &[&a]).differences;
        assert_eq!((added[0].part, added[0].op), (Part::Output, Op::Add));
    }

    #[test]
    fn what_is_listed_and_shown_is_bounded() {
        let numbers = |from: usize| json!((from..from + 200).collect::<Vec<_>>()).to_string();
        let found = Comparison::of(&[&request(&[], &numbers(0))], &[&request(&[], &numbers(1))]);
        assert_eq!((found.differences.len(), found.more), (MAX_DIFFERENCES, true));
        let long = json!({"a": "x".repeat(MAX_SHOWN)}).to_string();
        let found = compare(&request(&[], "{}"), &request(&[], &long));
        assert_eq!(found[0]["to"]["bytes"], MAX_SHOWN + 2);
    }
}
