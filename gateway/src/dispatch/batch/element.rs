//! A delivery as a part of a batch's body, and the body. Pure.
//!
//! Without an envelope it is the delivery's body, which has to be JSON. In one it is
//!
//! ```json
//! {"id": "dlv_...", "event": "evt_...", "accepted_at": "2026-01-31T10:00:00.123Z", "headers": {"content-type": "application/json"}, "data": {}}
//! ```
//! with `data_base64` in place of `data` if the body is not JSON, and neither if there is none. Headers that repeat are joined by `, `; bytes of
//! theirs that are not UTF-8 are shown as `U+FFFD`. JSON stands there byte for byte, but for line breaks in NDJSON, which become spaces: outside of
//! texts, where alone JSON has them, they mean the same.

use std::collections::BTreeMap;

use base64::engine::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::HeaderName;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::settings::{BatchFormat, Batching};
use crate::clock::Timestamp;
use crate::egress::ends_here;
use crate::event::{DeliveryId, EventId, Failure, Party, Request};

/// A part of a batch's body.
#[derive(Debug)]
pub(super) struct Element {
    /// What stands before the data.
    head: String,
    data: Data,
    /// The id that the delivery has for itself: a CloudEvent's.
    name: Option<String>,
}

#[derive(Debug)]
enum Data {
    /// As it is.
    Json(Bytes),
    /// As a JSON text.
    Base64(Bytes),
    /// In an envelope nothing.
    None,
}

/// What an element is made of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) delivery: DeliveryId,
    pub(super) event: EventId,
    pub(super) accepted_at: Timestamp,
    pub(super) request: &'a Request,
    /// Headers that are not passed on.
    pub(super) withheld: &'a [HeaderName],
}

/// What an envelope begins with.
#[derive(Serialize)]
struct Envelope<'a> {
    id: DeliveryId,
    event: EventId,
    accepted_at: String,
    headers: BTreeMap<&'a str, String>,
}

/// What makes JSON a CloudEvent.
#[derive(Deserialize)]
struct CloudEvent {
    #[serde(rename = "specversion")]
    _specversion: String,
    id: String,
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "type")]
    _type: String,
}

impl Element {
    /// Or why the delivery can't be a part of such a batch, which no retry helps.
    pub(super) fn new(batching: &Batching, source: Source<'_>) -> Result<Self, Failure> {
        let body = &source.request.body;
        if batching.format == BatchFormat::Cloudevents {
            let event: CloudEvent = serde_json::from_slice(body).map_err(|error| {
                let problem = format!("the body is no CloudEvent in structured mode: {error}");
                unfit("batch_not_cloudevent", &problem, "the plugin `cloudevents` makes such")
            })?;
            return Ok(Self { head: String::new(), data: Data::Json(body.clone()), name: Some(event.id) });
        }
        let is_json = serde_json::from_slice::<&RawValue>(body).is_ok();
        if batching.envelope {
            let data = match is_json {
                true => Data::Json(body.clone()),
                false if body.is_empty() => Data::None,
                false => Data::Base64(body.clone()),
            };
            return Ok(Self { head: envelope(source, &data), data, name: None });
        }
        if !is_json {
            return Err(unfit("batch_not_json", "the body is not JSON", "with `\"envelope\": true` any body goes"));
        }
        Ok(Self { head: String::new(), data: Data::Json(body.clone()), name: None })
    }

    /// The id that it has for itself.
    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Its bytes.
    pub(super) fn size(&self) -> usize {
        let data = match &self.data {
            Data::Json(bytes) => bytes.len(),
            Data::Base64(bytes) => bytes.len().div_ceil(3) * 4 + 2,
            Data::None => 0,
        };
        self.head.len() + data + usize::from(!self.head.is_empty())
    }

    fn write(&self, is_line: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(self.head.as_bytes());
        match &self.data {
            Data::Json(bytes) if is_line => {
                out.extend(bytes.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }));
            }
            Data::Json(bytes) => out.extend_from_slice(bytes),
            Data::Base64(bytes) => {
                out.push(b'"');
                out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
                out.push(b'"');
            }
            Data::None => {}
        }
        if !self.head.is_empty() {
            out.push(b'}');
        }
    }
}

/// Bytes of a body with so many elements of so many bytes together.
pub(super) fn framed(elements: usize, bytes: usize) -> usize {
    bytes + elements + 1
}

/// The body of a batch.
pub(super) fn body<'a>(format: BatchFormat, elements: impl Iterator<Item = &'a Element> + Clone) -> Bytes {
    let (count, bytes) = elements.clone().fold((0, 0), |(count, bytes), one| (count + 1, bytes + one.size()));
    let mut out = Vec::with_capacity(framed(count, bytes));
    if format == BatchFormat::Ndjson {
        for element in elements {
            element.write(true, &mut out);
            out.push(b'\n');
        }
        return out.into();
    }
    for (index, element) in elements.enumerate() {
        out.push(if index == 0 { b'[' } else { b',' });
        element.write(false, &mut out);
    }
    out.push(b']');
    out.into()
}

fn envelope(source: Source<'_>, data: &Data) -> String {
    let Source { delivery, event, accepted_at, request, withheld } = source;
    let mut headers = BTreeMap::<&str, String>::new();
    let passed = request.headers.iter().filter(|line| !ends_here(&line.name) && !withheld.iter().any(|name| *name == *line.name));
    for line in passed {
        let value = String::from_utf8_lossy(&line.value);
        let known = headers.entry(&line.name).or_default();
        if !known.is_empty() {
            known.push_str(", ");
        }
        known.push_str(&value);
    }
    let envelope = Envelope { id: delivery, event, accepted_at: accepted_at.to_string(), headers };
    let mut head = serde_json::to_string(&envelope).expect("texts always serialise");
    // Its end comes behind the data.
    head.pop();
    head.push_str(match data {
        Data::Json(_) => ",\"data\":",
        Data::Base64(_) => ",\"data_base64\":",
        Data::None => "",
    });
    head
}

fn unfit(code: &str, problem: &str, fix: &str) -> Failure {
    let detail = format!("{problem}, and the destination's `batch` takes no other: {fix}");
    Failure { party: Party::Gateway, code: code.to_owned(), detail, retryable: false }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::event::Header;

    fn batching(format: BatchFormat, envelope: bool) -> Batching {
        Batching { format, envelope, max_events: 10, max_bytes: 1000, max_wait: Duration::ZERO }
    }

    fn element(batching: &Batching, body: &'static [u8], headers: &[(&str, &'static [u8])]) -> Result<Element, Failure> {
        let headers = headers.iter().map(|(name, value)| Header { name: (*name).into(), value: Bytes::from_static(value) });
        let request = Request { headers: headers.collect(), body: Bytes::from_static(body), ..Request::default() };
        let withheld = [HeaderName::from_static("x-hub-signature")];
        let accepted_at = Timestamp(1_800_000_000_000);
        Element::new(
            batching,
            Source { delivery: DeliveryId(1), event: EventId(2), accepted_at, request: &request, withheld: &withheld },
        )
    }

    fn joined(batching: &Batching, bodies: &[&'static [u8]]) -> Bytes {
        let elements: Vec<_> = bodies.iter().map(|body| element(batching, body, &[]).unwrap()).collect();
        let body = body(batching.format, elements.iter());
        let sizes = elements.iter().map(Element::size).sum();
        assert!(body.len() <= framed(elements.len(), sizes) && body.len() + 1 >= framed(elements.len(), sizes));
        body
    }

    #[test]
    fn bodies_stand_in_an_array_or_on_lines_as_they_are() {
        let bodies: [&[u8]; 3] = [b"{\"n\":1.10}", b" [\n 1,\r\n\"a\\n\"]", b"null"];
        assert_eq!(joined(&batching(BatchFormat::JsonArray, false), &bodies), &b"[{\"n\":1.10}, [\n 1,\r\n\"a\\n\"],null]"[..]);
        assert_eq!(joined(&batching(BatchFormat::Ndjson, false), &bodies), &b"{\"n\":1.10}\n [  1,  \"a\\n\"]\nnull\n"[..]);
    }

    #[test]
    fn an_envelope_tells_ids_and_headers_and_takes_any_body() {
        let batching = batching(BatchFormat::JsonArray, true);
        let headers: [(&str, &[u8]); 6] = [
            ("content-type", b"application/json"),
            ("x-kind", b"a"),
            ("x-kind", b"b\xff"),
            ("authorization", b"secret"),
            ("x-hub-signature", b"sha1=1"),
            ("webhook-id", b"theirs"),
        ];
        let elements = [
            element(&batching, b"{\"a\": 1}", &headers).unwrap(),
            element(&batching, b"\xff\0", &[]).unwrap(),
            element(&batching, b"", &[]).unwrap(),
        ];
        let read: Value = serde_json::from_slice(&body(batching.format, elements.iter())).unwrap();
        let head = |mut more: Value| {
            more["id"] = DeliveryId(1).to_string().into();
            more["event"] = EventId(2).to_string().into();
            more["accepted_at"] = Timestamp(1_800_000_000_000).to_string().into();
            more
        };
        let first = json!({"headers": {"content-type": "application/json", "x-kind": "a, b\u{fffd}"}, "data": {"a": 1}});
        assert_eq!(read, json!([head(first), head(json!({"headers": {}, "data_base64": "/wA="})), head(json!({"headers": {}}))]));
    }

    #[test]
    fn what_fits_no_such_batch_is_named() {
        let bare = batching(BatchFormat::Ndjson, false);
        for body in [&b"no json"[..], b"", b"\xff", b"{} {}"] {
            let failure = element(&bare, body, &[]).unwrap_err();
            assert_eq!((&*failure.code, failure.retryable), ("batch_not_json", false));
            assert!(failure.detail.contains("\"envelope\": true"), "{}", failure.detail);
        }
        let events = batching(BatchFormat::Cloudevents, false);
        let failure = element(&events, b"{\"specversion\": \"1.0\", \"id\": \"1\", \"source\": \"/s\"}", &[]).unwrap_err();
        assert_eq!(failure.code, "batch_not_cloudevent");
        assert!(failure.detail.contains("`type`"), "{}", failure.detail);
        let event =
            element(&events, b"{\"specversion\": \"1.0\", \"id\": \"1\", \"source\": \"/s\", \"type\": \"t\"}", &[]).unwrap();
        assert_eq!(event.name(), Some("1"));
    }

    /// The parser must not go as deep as a body does.
    #[test]
    fn a_deep_body_breaks_nothing() {
        let deep: &'static [u8] = Box::leak(("[".repeat(500_000) + &"]".repeat(500_000)).into_bytes().into_boxed_slice());
        element(&batching(BatchFormat::JsonArray, false), deep, &[]).unwrap();
    }
}
