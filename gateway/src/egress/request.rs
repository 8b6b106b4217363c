//! From an event's or a plugin's request to one that may be sent to a target. Pure.
//!
//! # What is not passed on
//! Whatever frames the message or belongs to one connection, whatever the gateway sets itself, and whatever proves who somebody is: see
//! [`DROPPED`]. All else, repeated headers and any bytes in their values included, goes out as it is.
//!
//! # Paths
//! A request's path is appended to the target's only where the target says so, and can never leave it: dot segments are refused
//! in every spelling that a server behind might undo (percent-encoded, several times, with backslashes, before a `;`).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::percent_decode;

use super::auth::{Aws, Credentials};
use super::broker::Labels;
use super::client::OutRequest;
use super::target::{Speaks, Target};
use crate::event::{Failure, Header, Party, Request};

/// Headers of one outgoing request, before the gateway's own.
pub const MAX_HEADERS: usize = 256;
/// Bytes of path and query together.
const MAX_PATH: usize = 16 * 1024;
/// How often a path may be percent-encoded over itself.
const MAX_ENCODINGS: usize = 4;

/// A request that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not a method, or `CONNECT` or `TRACE`.
    #[error("the method cannot be sent")]
    Method,
    /// The path would leave the destination's.
    #[error("the path could lead out of the destination's own")]
    PathEscapes,
    /// A character that cannot stand in a path or query, or too many of them.
    #[error("the path or query cannot be sent")]
    Path,
    /// A name or value that cannot stand in a header.
    #[error("header number {index} cannot be sent")]
    Header {
        /// Its place, from 0.
        index: usize,
    },
    /// More headers than are sent.
    #[error("there are more than {MAX_HEADERS} headers")]
    TooManyHeaders,
}

impl RequestError {
    /// The failure of an attempt that was never made; trying again cannot help.
    pub fn failure(&self) -> Failure {
        let code = match self {
            Self::Method => "method_refused",
            Self::PathEscapes => "path_refused",
            Self::Path => "path_malformed",
            Self::Header { .. } => "header_malformed",
            Self::TooManyHeaders => "too_many_headers",
        };
        Failure { party: Party::Gateway, code: code.to_owned(), detail: self.to_string(), retryable: false }
    }
}

impl OutRequest {
    /// Makes the request that goes to `target`. Signature, the destination's credentials and `traceparent` are the caller's to add.
    pub fn new(target: &Arc<Target>, request: &Request, deadline: Duration) -> Result<Self, RequestError> {
        Ok(Self {
            method: method(&request.method)?,
            path_and_query: path_and_query(target, request)?,
            headers: headers(&request.headers)?,
            body: request.body.clone(),
            target: Arc::clone(target),
            deadline,
            gzip: false,
            credentials: None,
            wants_headers: false,
            reads: None,
            labels: None,
        })
    }

    /// Says what it is about; makes the request for an object, if the target is a bucket.
    pub fn labelled(mut self, labels: Labels) -> Result<Self, RequestError> {
        self.labels = Some(labels);
        let target = Arc::clone(&self.target);
        if let Speaks::Objects(objects) = &target.speaks {
            objects.address(&mut self, labels)?;
        }
        Ok(self)
    }

    /// Gives it credentials that are made when it is sent. What these vouch for is the destination's owner's to say, so headers of the event
    /// that they would sign are left out; of a bucket they are metadata by now.
    pub fn with_credentials(mut self, credentials: Option<&Arc<Credentials>>) -> Self {
        if let (Some(Credentials::Aws(_)), Speaks::Http) = (credentials.map(Arc::as_ref), &self.target.speaks) {
            let signed: Vec<HeaderName> = self.headers.keys().filter(|name| Aws::orders(name)).cloned().collect();
            for name in signed {
                self.headers.remove(name);
            }
        }
        self.credentials = credentials.cloned();
        self
    }
}

fn method(text: &str) -> Result<Method, RequestError> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) | Err(_) => Err(RequestError::Method),
        Ok(method) => Ok(method),
    }
}

fn path_and_query(target: &Target, request: &Request) -> Result<PathAndQuery, RequestError> {
    let mut whole = match request.path.as_str() {
        path if target.append_path && !path.is_empty() => {
            check_path(path)?;
            format!("{}/{}", target.path.trim_end_matches('/'), path.trim_start_matches('/'))
        }
        _ => target.path.clone(),
    };
    let appended = request.query.as_deref().filter(|query| target.append_query && !query.is_empty());
    let mut separator = '?';
    for query in [target.query.as_deref(), appended].into_iter().flatten() {
        whole.push(separator);
        whole.push_str(query);
        separator = '&';
    }
    // The parser would take it for the beginning of a fragment and drop the rest.
    if whole.len() > MAX_PATH || whole.contains('#') {
        return Err(RequestError::Path);
    }
    PathAndQuery::try_from(whole).map_err(|_| RequestError::Path)
}

fn check_path(path: &str) -> Result<(), RequestError> {
    if path.contains(['?', '#']) {
        return Err(RequestError::Path);
    }
    let mut read: Cow<'_, [u8]> = Cow::Borrowed(path.as_bytes());
    for _ in 0..MAX_ENCODINGS {
        let escapes = read.split(|byte| matches!(byte, b'/' | b'\\')).any(is_dot_segment);
        // 0xc0 and 0xc1 begin nothing but overlong forms of plain characters, which some servers undo.
        if escapes || read.iter().any(|byte| *byte < 0x20 || matches!(byte, 0x7f | 0xc0 | 0xc1)) {
            return Err(RequestError::PathEscapes);
        }
        let decoded: Vec<u8> = percent_decode(&read).collect();
        if decoded == *read {
            return Ok(());
        }
        read = Cow::Owned(decoded);
    }
    Err(RequestError::PathEscapes)
}

fn is_dot_segment(segment: &[u8]) -> bool {
    let name = segment.split(|byte| matches!(byte, b';' | b'?' | b'#')).next().unwrap_or_default();
    matches!(name.trim_ascii(), b"." | b"..")
}

/// Headers that end at the gateway.
pub(super) const DROPPED: [&str; 23] = [
    "accept-encoding", // what is kept of a response is to be readable
    "authorization",
    "baggage",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "proxy-status",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];

/// Only the gateway signs what it sends.
const SIGNATURE_PREFIX: &str = "webhook-";

fn headers(lines: &[Header]) -> Result<HeaderMap, RequestError> {
    if lines.len() > MAX_HEADERS {
        return Err(RequestError::TooManyHeaders);
    }
    // Room for what is added later: host, signature, trace, length.
    let mut map = HeaderMap::with_capacity(lines.len() + 8);
    for (index, Header { name, value }) in lines.iter().enumerate() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| RequestError::Header { index })?;
        if ends_here(name.as_str()) {
            continue;
        }
        let value = HeaderValue::from_maybe_shared(Bytes::clone(value)).map_err(|_| RequestError::Header { index })?;
        map.append(name, value);
    }
    for line in lines.iter().filter(|line| line.name.eq_ignore_ascii_case(CONNECTION.as_str())) {
        remove_named(&mut map, &line.value);
    }
    map.insert(USER_AGENT, HeaderValue::from_static(concat!("Tidegate/", env!("CARGO_PKG_VERSION"))));
    Ok(map)
}

/// Whether a header (lower case) ends at the gateway.
pub fn ends_here(name: &str) -> bool {
    DROPPED.binary_search(&name).is_ok() || name.starts_with(SIGNATURE_PREFIX)
}

/// Removes the headers that a `Connection` header names: they are about that connection alone.
fn remove_named(map: &mut HeaderMap, value: &[u8]) {
    for name in value.split(|byte| *byte == b',') {
        if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
            map.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests;
