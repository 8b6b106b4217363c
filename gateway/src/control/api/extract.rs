//! Bodies, queries and paths, with limits, and problems that name the field.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ring::digest::{Context, SHA256, digest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::auth::Caller;
use super::{Api, Problem};
use crate::config::units::ShownSize;
use crate::control::service::{self, Access, Idempotency};
use crate::event::VersionHash;

/// The longest idempotency key.
const MAX_KEY: usize = 255;

/// A JSON body, with what makes the request recognisable when it comes again.
pub(super) struct Json<T> {
    pub(super) value: T,
    key: Option<String>,
    hash: [u8; 32],
}

impl<T> Json<T> {
    /// The request's idempotency, in the caller's own realm and for this kind of request.
    pub(super) fn again(&self, access: Access, realm: &str) -> Option<Idempotency> {
        let owner = match access {
            Access::Operator => "operator".to_owned(),
            Access::Tenant(id) => id.to_string(),
        };
        let key = self.key.as_ref()?;
        Some(Idempotency { key: format!("{owner}/{realm}/{key}"), body: self.hash })
    }
}

impl<T: DeserializeOwned> FromRequest<Api> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        expect_type(&parts.headers, &["application/json", "application/merge-patch+json"])?;
        let key = idempotency_key(&parts.headers)?;
        let body = read(body, api.0.admin.max_body).await?;
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, &body).as_ref());
        Ok(Self { value: parse(&body)?, key, hash })
    }
}

/// A component. Each piece is hashed as it comes: all at once would hold up for tens of milliseconds whatever else the thread does.
pub(super) struct Component(pub(super) service::Component);

impl FromRequest<Api> for Component {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        expect_type(&parts.headers, &["application/wasm"])?;
        let Caller(access) = Caller::from_request_parts(&mut parts, api).await?;
        let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let _held = api.0.uploads.hold(access, declared)?;
        let limit = api.0.admin.max_component;
        let mut bytes = BytesMut::with_capacity(declared.unwrap_or(0).min(limit));
        let mut context = Context::new(&SHA256);
        let mut body = Limited::new(body, limit);
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame.map_err(|error| unread(&*error, limit))?.into_data() {
                context.update(&piece);
                bytes.extend_from_slice(&piece);
            }
        }
        let mut hash = VersionHash([0; 32]);
        hash.0.copy_from_slice(context.finish().as_ref());
        Ok(Self(service::Component { bytes: bytes.freeze(), hash }))
    }
}

/// A body of at most `MAX` bytes, whatever it is.
pub(super) struct Raw<const MAX: usize>(pub(super) Bytes);

impl<const MAX: usize> FromRequest<Api> for Raw<MAX> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &Api) -> Result<Self, Problem> {
        read(request.into_body(), MAX).await.map(Self)
    }
}

/// A body with JSON in each line, each with its number; empty lines don't count.
pub(super) struct Lines<T>(pub(super) Vec<(usize, T)>);

impl<T: DeserializeOwned> FromRequest<Api> for Lines<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        expect_type(&parts.headers, &["application/x-ndjson"])?;
        let body = read(body, api.0.admin.max_body).await?;
        let lines = body.split(|byte| *byte == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
        let line = |(line, number)| Ok((number, parse(line).map_err(|problem| problem.within(&format!("line {number}")))?));
        lines.map(line).collect::<Result<_, Problem>>().map(Self)
    }
}

fn expect_type(headers: &HeaderMap, accepted: &[&str]) -> Result<(), Problem> {
    let sent = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = sent.split(';').next().unwrap_or_default().trim();
    if accepted.iter().any(|accepted| essence.eq_ignore_ascii_case(accepted)) {
        return Ok(());
    }
    let detail = format!("send the body as `Content-Type: {}`", accepted[0]);
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= MAX_KEY);
    let wrong =
        || Problem::bad_request("bad_idempotency_key", "Idempotency-Key", format!("must be 1 to {MAX_KEY} printable characters"));
    text.map(|text| Some(text.to_owned())).ok_or_else(wrong)
}

/// Reads a body of at most `limit` bytes.
#[allow(clippy::disallowed_methods)]
async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    let collected = Limited::new(body, limit).collect().await;
    collected.map(|collected| collected.to_bytes()).map_err(|error| unread(&*error, limit))
}

fn unread(error: &(dyn std::error::Error + Send + Sync + 'static), limit: usize) -> Problem {
    if error.is::<LengthLimitError>() {
        let detail = format!("the body may have at most {}", ShownSize(limit as u64));
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail);
    }
    Problem::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body ended early")
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let inner = error.into_inner();
        let code = if inner.is_data() { "bad_field" } else { "bad_json" };
        Problem::bad_request(code, if field == "." { String::new() } else { field }, without_values(&inner.to_string()))
    })?;
    json.end().map_err(|error| Problem::bad_request("bad_json", "", error.to_string()))?;
    Ok(value)
}

/// A deserialisation error repeats the text that it met; that may be a secret.
pub(crate) fn without_values(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => format!("{}a text{}", &message[..start], &message[end + 1..]),
        _ => message.to_owned(),
    }
}

/// The query of a listing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Paging {
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
    /// Read by [`super::auth::Scope`].
    #[serde(rename = "tenant")]
    pub(super) tenant: Option<String>,
}

/// Rows of a page unless asked otherwise.
const DEFAULT_LIMIT: usize = 50;

impl Paging {
    pub(super) fn limit(&self) -> usize {
        self.limit.unwrap_or(DEFAULT_LIMIT)
    }
}

/// Nothing but the tenant.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TenantOnly {
    #[serde(rename = "tenant")]
    pub(super) _tenant: Option<String>,
}

/// A query, without fields that it doesn't know.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(error) => Err(Problem::bad_request("bad_query", "", error.body_text())),
        }
    }
}

/// The parts of the path that vary, in order.
pub(super) struct Path<const N: usize>(pub(super) [String; N]);

impl<const N: usize> FromRequestParts<Api> for Path<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let missing = || Problem::not_found("the path is not one of an existing thing");
        let params = RawPathParams::from_request_parts(parts, api).await.map_err(|_| missing())?;
        let values: Vec<String> = params.iter().map(|(_, value)| value.to_owned()).collect();
        values.try_into().map(Self).map_err(|_| missing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_do_not_repeat_what_was_sent() {
        let problem = parse::<Vec<u8>>(br#"["hunter2"]"#).expect_err("is no number");
        let text = format!("{problem:?}");
        assert!(!text.contains("hunter2") && text.contains("expected u8"), "{text}");
    }
}
