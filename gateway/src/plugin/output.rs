//! From what a transform returns to requests that can be sent.

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method};

use super::bindings::types::{HeaderChange, HeaderResult, Output, QueryChange};
use super::error::Stop;
use super::limits::Limits;
use crate::event::{Header, Request};

/// Headers that no plugin may set: framing and connection, credentials, tracing. Beside these, `proxy-*` and `webhook-*`.
const RESERVED: [&str; 16] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "set-cookie",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Whether a header (lower case) belongs to the gateway.
pub(super) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("proxy-") || name.starts_with("webhook-")
}

/// Whether a plugin that signs may set a header (lower case): a credential is what it is for.
pub(super) fn is_signers(name: &str) -> bool {
    name == "authorization" || !is_reserved(name)
}

/// The requests that a transform's outputs make of the event's request.
pub(super) fn requests(outputs: Vec<Output>, request: &Request, limits: &Limits) -> Result<Vec<Request>, Stop> {
    if outputs.len() > limits.outputs {
        return Err(Stop::Outputs(outputs.len(), limits.outputs));
    }
    let mut requests = Vec::with_capacity(outputs.len());
    let mut bytes = 0;
    for (index, output) in outputs.into_iter().enumerate() {
        let request = apply(index, output, request)?;
        bytes += request.size();
        if bytes > limits.output_bytes {
            return Err(Stop::OutputBytes(limits.output_bytes));
        }
        requests.push(request);
    }
    Ok(requests)
}

fn apply(index: usize, output: Output, request: &Request) -> Result<Request, Stop> {
    let Output { method, path, query, headers, body, attributes } = output;
    let bad = |detail: &str| Stop::BadOutput { index, detail: detail.to_owned() };
    if !attributes.is_empty() {
        return Err(bad("has attributes, of which this version knows none"));
    }
    if let Some(method) = &method
        && (Method::from_bytes(method.as_bytes()).is_err() || method == "CONNECT")
    {
        return Err(bad("the method is not one that can be sent"));
    }
    if let Some(path) = &path {
        check_path(path).map_err(bad)?;
    }
    let query = match query {
        QueryChange::Keep => request.query.clone(),
        QueryChange::Remove => None,
        QueryChange::Set(query) if is_target(&format!("/?{query}")) => Some(query),
        QueryChange::Set(_) => return Err(bad("the query has characters that must be percent-encoded")),
    };
    Ok(Request {
        method: method.unwrap_or_else(|| request.method.clone()),
        path: path.unwrap_or_else(|| request.path.clone()),
        query,
        headers: change_headers(index, headers, &request.headers)?,
        body: body.map_or_else(|| request.body.clone(), Bytes::from),
    })
}

/// A path is appended to the destination's and must stay below it.
fn check_path(path: &str) -> Result<(), &'static str> {
    if !path.is_empty() && !path.starts_with('/') {
        return Err("the path does not begin with `/`");
    }
    if path.contains(['?', '\\']) || !(path.is_empty() || is_target(path)) {
        return Err("the path has characters that must be percent-encoded");
    }
    let plain = path.to_ascii_lowercase().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/");
    if plain.split('/').any(|segment| segment == "." || segment == "..") {
        return Err("the path has dot segments");
    }
    Ok(())
}

/// Whether the client that sends it takes all of it: its parser knows best.
fn is_target(target: &str) -> bool {
    target.bytes().all(|byte| byte.is_ascii_graphic()) && PathAndQuery::try_from(target).is_ok_and(|taken| taken.as_str() == target)
}

fn change_headers(index: usize, changes: Vec<HeaderChange>, original: &[Header]) -> Result<Vec<Header>, Stop> {
    let mut headers = original.to_vec();
    for change in changes {
        match change {
            HeaderChange::Clear => headers.clear(),
            HeaderChange::Remove(name) => headers.retain(|header| !header.name.eq_ignore_ascii_case(&name)),
            HeaderChange::Append(header) => headers.push(checked(index, header)?),
            HeaderChange::Set(header) => set(&mut headers, checked(index, header)?),
        }
    }
    Ok(headers)
}

fn set(headers: &mut Vec<Header>, header: Header) {
    let Some(place) = headers.iter().position(|other| other.name == header.name) else { return headers.push(header) };
    let mut position = 0;
    headers.retain(|other| {
        position += 1;
        position <= place || other.name != header.name
    });
    headers.insert(place, header);
}

fn checked(index: usize, header: HeaderResult) -> Result<Header, Stop> {
    let HeaderResult { name, value } = header;
    let bad = |detail: &str| Stop::BadOutput { index, detail: detail.to_owned() };
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("a header's name is not a token"))?;
    if is_reserved(name.as_str()) {
        return Err(Stop::ReservedHeader { index, name: name.as_str().to_owned() });
    }
    HeaderValue::from_bytes(&value).map_err(|_| bad("a header's value has characters that HTTP does not allow"))?;
    Ok(Header { name: name.as_str().to_owned(), value: value.into() })
}

#[cfg(test)]
mod tests;
