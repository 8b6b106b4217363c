//! An event as filters see it: each part is parsed once, when the first filter asks for it.

use std::borrow::Cow;
use std::sync::OnceLock;

use percent_encoding::percent_decode;
use serde_json::Value as Json;

use super::Part;
use crate::event::Request;

/// One event's request, ready for any number of filters.
#[derive(Debug)]
pub struct View<'a> {
    request: &'a Request,
    body: OnceLock<Option<Json>>,
    headers: OnceLock<Vec<Field<'a>>>,
    query: OnceLock<Vec<Field<'a>>>,
}

/// A header line or a query parameter.
pub(super) type Field<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A value that a condition stands on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Missing,
    Json(&'a Json),
    Text(&'a str),
    /// All headers, or all query parameters.
    Fields(&'a [Field<'a>]),
    /// The values of one name that comes several times.
    Repeated(&'a [Field<'a>], &'a str),
}

impl<'a> View<'a> {
    /// A view of this request.
    pub fn new(request: &'a Request) -> Self {
        Self { request, body: OnceLock::new(), headers: OnceLock::new(), query: OnceLock::new() }
    }

    /// The body as JSON; `None` when it is empty or not JSON.
    pub fn body(&self) -> Option<&Json> {
        self.body.get_or_init(|| serde_json::from_slice(&self.request.body).ok()).as_ref()
    }

    pub(super) fn part(&self, part: Part) -> Value<'_> {
        match part {
            Part::Method => Value::Text(&self.request.method),
            Part::Path => Value::Text(&self.request.path),
            Part::Headers => Value::Fields(self.headers.get_or_init(|| headers(self.request))),
            Part::Query => Value::Fields(self.query.get_or_init(|| query(self.request))),
            Part::Body => self.body().map_or(Value::Missing, Value::Json),
        }
    }
}

impl<'a> Value<'a> {
    pub(super) fn is_missing(self) -> bool {
        matches!(self, Self::Missing)
    }

    pub(super) fn is_array(self) -> bool {
        matches!(self, Self::Json(Json::Array(_)) | Self::Repeated(..))
    }

    /// What stands under a key; missing when this is not an object.
    pub(super) fn get(self, name: &'a str) -> Self {
        match self {
            Self::Json(json) => json.as_object().and_then(|map| map.get(name)).map_or(Self::Missing, Self::Json),
            Self::Fields(fields) => {
                let mut named = fields.iter().filter(|(key, _)| key == name);
                match (named.next(), named.next()) {
                    (None, _) => Self::Missing,
                    (Some((_, value)), None) => Self::Text(value),
                    (Some(_), Some(_)) => Self::Repeated(fields, name),
                }
            }
            Self::Missing | Self::Text(_) | Self::Repeated(..) => Self::Missing,
        }
    }

    /// Whether any element of this array is so; `None` when it is no array.
    pub(super) fn any_element(self, mut is_so: impl FnMut(Self) -> bool) -> Option<bool> {
        match self {
            Self::Json(Json::Array(items)) => Some(items.iter().any(|item| is_so(Self::Json(item)))),
            Self::Repeated(fields, name) => {
                Some(fields.iter().filter(|(key, _)| key == name).any(|(_, value)| is_so(Self::Text(value))))
            }
            _ => None,
        }
    }
}

fn headers(request: &Request) -> Vec<Field<'_>> {
    request.headers.iter().map(|header| (Cow::Borrowed(header.name.as_str()), String::from_utf8_lossy(&header.value))).collect()
}

fn query(request: &Request) -> Vec<Field<'_>> {
    let text = request.query.as_deref().unwrap_or_default();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (form_decoded(name), form_decoded(value)))
        .collect()
}

fn form_decoded(text: &str) -> Cow<'_, str> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode(spaced.as_bytes()).decode_utf8_lossy().into_owned());
    }
    percent_decode(text.as_bytes()).decode_utf8_lossy()
}
