//! Buckets of S3 and what speaks like it: a delivery is one object, put by one request (`PUT Object`), and delivered with its 200.
//!
//! The object is the body with its `content-type`. Its metadata (`x-amz-meta-`) holds the delivery's id as `webhook-id`, the event's as
//! `tidegate-event`, and the request's headers, as many as fit into the 2 KiB that S3 takes; `tidegate-left-out` counts the others.

use http::header::{CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::broker::{Labels, OWN};
use super::client::OutRequest;
use super::request::RequestError;

/// Bytes of an object's key, of any key that a template can give.
const MAX_KEY: usize = 1024;
/// Bytes of names and values of an object's metadata.
const MAX_METADATA: usize = 2048;
/// What is kept of them for the gateway's own.
const OWN_METADATA: usize = 256;
const META: &str = "x-amz-meta-";
/// What S3's signature leaves as it is in a key.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Where in a store objects go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objects {
    /// The bucket, unless the URL's host names it.
    bucket: Option<String>,
    key: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Id,
    Event,
    Date,
}

impl Objects {
    /// From a template of keys, with `{id}` for the delivery's id, `{event}` for the event's and `{date}` for the day of its acceptance,
    /// `2026/01/31`. Says what is wrong with it.
    pub fn new(bucket: Option<String>, template: &str) -> Result<Self, String> {
        let mut key = Vec::new();
        let mut rest = template;
        while let Some((text, behind)) = rest.split_once('{') {
            let (name, after) = behind.split_once('}').ok_or("has a `{` without its `}`")?;
            key.extend((!text.is_empty()).then(|| Part::Text(text.to_owned())));
            key.push(match name {
                "id" => Part::Id,
                "event" => Part::Event,
                "date" => Part::Date,
                _ => return Err(format!("has `{{{name}}}`; there are {{id}}, {{event}} and {{date}}")),
            });
            rest = after;
        }
        key.extend((!rest.is_empty()).then(|| Part::Text(rest.to_owned())));
        if !key.contains(&Part::Id) {
            return Err("needs `{id}`: without it one object would replace the other".to_owned());
        }
        let bytes: usize = key.iter().map(|part| if let Part::Text(text) = part { text.len() } else { 64 }).sum();
        let strange = template.starts_with('/') || template.contains("//") || template.chars().any(char::is_control);
        let escapes = template.split('/').any(|segment| matches!(segment, "." | ".."));
        if bytes > MAX_KEY || strange || escapes {
            return Err(format!(
                "must give keys of at most {MAX_KEY} bytes without control characters, `//`, `.` and `..`, and must not begin with `/`"
            ));
        }
        Ok(Self { bucket, key })
    }

    /// Makes the request for the object of what it would have been.
    pub(super) fn address(&self, request: &mut OutRequest, labels: Labels) -> Result<(), RequestError> {
        let mut path = request.target.path.trim_end_matches('/').to_owned();
        for part in self.bucket.iter().map(String::as_str).chain([&*self.key_of(labels)]) {
            path.push('/');
            path.extend(utf8_percent_encode(part, UNRESERVED));
        }
        request.path_and_query = PathAndQuery::try_from(path).map_err(|_| RequestError::Path)?;
        request.method = Method::PUT;
        request.headers = metadata(std::mem::take(&mut request.headers), labels);
        Ok(())
    }

    fn key_of(&self, labels: Labels) -> String {
        let mut key = String::new();
        for part in &self.key {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Id => key.push_str(&labels.delivery.to_string()),
                Part::Event => key.push_str(&labels.event.to_string()),
                Part::Date => key.push_str(&labels.accepted_at.to_string()[..10].replace('-', "/")),
            }
        }
        key
    }
}

fn metadata(headers: HeaderMap, labels: Labels) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(headers.len() + 8);
    let mut left_out = 0_usize;
    let mut bytes = OWN_METADATA;
    for (name, value) in headers.iter().filter(|(name, _)| !name.as_str().starts_with(OWN)) {
        if [CONTENT_TYPE, CONTENT_ENCODING, USER_AGENT].contains(name) {
            kept.append(name, value.clone());
            continue;
        }
        let meta = HeaderName::try_from(format!("{META}{name}"));
        let size = name.as_str().len() + value.len() + 1;
        match (meta, value.to_str()) {
            (Ok(meta), Ok(_)) if bytes + size <= MAX_METADATA && !kept.contains_key(&meta) => {
                bytes += size;
                kept.append(meta, value.clone());
            }
            _ => left_out += 1,
        }
    }
    let mut own = |name: &'static str, value: String| {
        kept.insert(HeaderName::from_static(name), HeaderValue::try_from(value).expect("ids and numbers are ASCII"));
    };
    own("x-amz-meta-webhook-id", labels.delivery.to_string());
    own("x-amz-meta-tidegate-event", labels.event.to_string());
    if left_out > 0 {
        own("x-amz-meta-tidegate-left-out", left_out.to_string());
    }
    kept
}
