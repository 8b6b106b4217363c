//! What makes an event a duplicate: the value of a header, or of a place in its JSON body.

use ring::digest;
use serde_json::Value;

use crate::control::snapshot::{DedupBy, DedupRule};
use crate::event::{Request, SourceId};
use crate::store::Dedup;

/// The dedup key of a request; none if it has no such value.
pub(super) fn key(rule: &DedupRule, source: SourceId, request: &Request) -> Option<Dedup> {
    let key = match &rule.by {
        DedupBy::Header(name) => hash(source, b'h', request.header(name.as_str())?),
        DedupBy::Pointer(pointer) => {
            let body: Value = serde_json::from_slice(&request.body).ok()?;
            match body.pointer(pointer)? {
                Value::Null => return None,
                Value::String(text) => hash(source, b's', text.as_bytes()),
                other => hash(source, b'j', other.to_string().as_bytes()),
            }
        }
    };
    Some(Dedup { key, window: rule.window })
}

/// `kind` keeps a header's value, a text and a number apart.
fn hash(source: SourceId, kind: u8, value: &[u8]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"tidegate dedup 1");
    context.update(&source.0.to_be_bytes());
    context.update(&[kind]);
    context.update(value);
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    key
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Header;

    fn request(id: Option<&str>, body: &str) -> Request {
        let headers = id.map(|id| Header { name: "x-id".into(), value: id.to_owned().into() }).into_iter().collect();
        Request { headers, body: body.to_owned().into(), ..Request::default() }
    }

    fn by(by: DedupBy) -> DedupRule {
        DedupRule { by, window: Duration::from_secs(60) }
    }

    #[test]
    fn compares_values_within_one_source() {
        let rule = by(DedupBy::Header("x-id".parse().unwrap()));
        let key = |source, id| super::key(&rule, SourceId(source), &request(id, "")).map(|dedup| dedup.key);
        assert_eq!(key(1, Some("a")), key(1, Some("a")));
        assert_ne!(key(1, Some("a")), key(1, Some("b")));
        assert_ne!(key(1, Some("a")), key(2, Some("a")));
        assert_eq!(key(1, None), None);
    }

    #[test]
    fn a_value_that_is_missing_null_or_unreadable_is_no_value() {
        let rule = by(DedupBy::Pointer("/event/id".into()));
        let key = |body| super::key(&rule, SourceId(1), &request(None, body)).map(|dedup| dedup.key);
        for body in ["", "not json", "{}", r#"{"event":{"id":null}}"#, r#"{"event":[1]}"#] {
            assert_eq!(key(body), None, "{body}");
        }
        assert_eq!(key(r#"{"event":{"id":"7"},"n":1}"#), key(r#"{"n":2,"event":{"id":"7"}}"#));
        assert_ne!(key(r#"{"event":{"id":"7"}}"#), key(r#"{"event":{"id":7}}"#));
    }
}
