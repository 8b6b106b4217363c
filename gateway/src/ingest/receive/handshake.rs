//! Answers senders that ask whether they may send: the validation request of "HTTP 1.1 Web Hooks for Event Delivery" 1.0.2, section 4.
//! Whoever asks before it sends to a source with a `handshake` gets the permission in the answer; nothing is called back.

use bytes::Bytes;
use http::header::{ALLOW, HeaderName, HeaderValue};
use http::request::Parts as Head;
use http::{Method, Response, StatusCode};
use http_body_util::Full;

use super::answer::{Answer, Refusal};
use crate::control::snapshot::Source;
use crate::telemetry::metrics::Ingested;

const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");
const ALLOWED_ORIGIN: HeaderName = HeaderName::from_static("webhook-allowed-origin");
const ALLOWED_RATE: HeaderName = HeaderName::from_static("webhook-allowed-rate");

/// The answer to a validation request; none if the request is no such thing, or the source does not answer them.
pub(super) fn answer(source: &Source, head: &Head) -> Option<Result<Answer, Refusal>> {
    let permits = source.permits.as_ref().filter(|_| head.method == Method::OPTIONS)?;
    let origin = head.headers.get(REQUEST_ORIGIN)?;
    let allowed = origin.to_str().is_ok_and(|origin| permits.allow(&origin.to_ascii_lowercase()));
    if !allowed {
        let refusal = Refusal::new(StatusCode::FORBIDDEN, "origin_not_allowed", "Origin not allowed", Ingested::Refused);
        let detail = "The source's `handshake.origins` does not name this origin: nothing may be sent by it.";
        return Some(Err(refusal.detail(detail).field("webhook-request-origin")));
    }
    let methods = source.methods.as_deref().unwrap_or(&[Method::POST]);
    let methods = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    let mut answer = Response::new(Full::new(Bytes::new()));
    let headers = answer.headers_mut();
    headers.insert(ALLOWED_ORIGIN, origin.clone());
    headers.insert(ALLOWED_RATE, permits.rate.map_or(HeaderValue::from_static("*"), HeaderValue::from));
    headers.extend(HeaderValue::from_str(&methods).ok().map(|methods| (ALLOW, methods)));
    Some(Ok(answer))
}
