//! What senders are told.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Method, Response, StatusCode};
use http_body_util::Full;

use crate::event::EventId;
use crate::plugin;
use crate::telemetry::metrics::Ingested;

pub(super) type Answer = Response<Full<Bytes>>;

/// The event is durable.
pub(super) fn accepted(id: EventId) -> Answer {
    json(format!(r#"{{"id":"{id}"}}"#))
}

/// An earlier event with the same dedup value is durable; this is its id.
pub(super) fn duplicate(first: EventId) -> Answer {
    json(format!(r#"{{"id":"{first}","duplicate":true}}"#))
}

/// What a plugin answers to a request that is no event.
pub(super) fn given(response: plugin::Response) -> Answer {
    let plugin::Response { status, headers, body } = response;
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for header in headers {
        // The sandbox has let nothing else through.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(header.name), HeaderValue::from_maybe_shared(header.value)) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}

fn json(body: String) -> Answer {
    const JSON: HeaderValue = HeaderValue::from_static("application/json");
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

/// Whole seconds, at least one: refused senders shall not come back all at once.
pub(super) fn jitter(at_most: Duration) -> Duration {
    Duration::from_secs(rand::random_range(1..=at_most.as_secs().max(1)))
}

/// Why a request was not taken: problem details (RFC 9457) in the making.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Stable and machine-readable.
    pub(super) code: &'static str,
    pub(super) title: &'static str,
    /// What is wrong and how to put it right. No secrets, nothing of the request.
    pub(super) detail: String,
    /// The part of the request that is wrong.
    pub(super) field: Option<&'static str>,
    pub(super) outcome: Ingested,
    pub(super) extra: Extra,
}

/// A header that goes with a refusal.
#[derive(Clone, Debug)]
pub(super) enum Extra {
    None,
    Allow(Vec<Method>),
    RetryAfter(Duration),
    /// The body can't be read to its end.
    Close,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, title: &'static str, outcome: Ingested) -> Self {
        Self { status, code, title, detail: String::new(), field: None, outcome, extra: Extra::None }
    }

    pub(super) fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    pub(super) fn field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    pub(super) fn extra(self, extra: Extra) -> Self {
        Self { extra, ..self }
    }

    /// One answer for a source that does not exist, for text that is no source's id, and for any other path.
    pub(super) fn unknown_source() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_source", "No such source", Ingested::UnknownSource)
            .detail("Send to /in/{source} with the id of an existing source.")
            .field("path")
    }

    /// 429, for one tenant alone. It says when to try again.
    pub(super) fn over_plan(code: &'static str, detail: String) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code, "Over the tenant's plan", Ingested::OverPlan).detail(detail)
    }

    /// 503, to be tried again: with a jittered `Retry-After`.
    pub(super) fn unavailable(code: &'static str, detail: &'static str, outcome: Ingested, at_most: Duration) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, "Try again later", outcome)
            .detail(detail)
            .extra(Extra::RetryAfter(jitter(at_most)))
    }

    pub(super) fn answer(&self) -> Answer {
        const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
        let mut problem = serde_json::json!({
            "type": format!("urn:tidegate:problem:{}", self.code),
            "title": self.title,
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(field) = self.field {
            problem["field"] = field.into();
        }
        let mut answer = Response::new(Full::new(Bytes::from(problem.to_string())));
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(CONTENT_TYPE, PROBLEM);
        match &self.extra {
            Extra::None => {}
            Extra::Close => {
                answer.headers_mut().insert(http::header::CONNECTION, HeaderValue::from_static("close"));
            }
            Extra::RetryAfter(after) => {
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
            }
            Extra::Allow(methods) => {
                let names = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
                if let Ok(names) = HeaderValue::from_str(&names) {
                    answer.headers_mut().insert(ALLOW, names);
                }
            }
        }
        answer
    }
}
