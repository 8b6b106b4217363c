//! Problem details (RFC 9457): what every error of the API looks like.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::control::inspect::InspectError;
use crate::control::model::FieldError;
use crate::control::service::Error;
use crate::store::{StoreError, TableFault};

/// An error as the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// `urn:tidegate:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// A stable name to branch on.
    code: String,
    /// What happened, for people.
    detail: String,
    /// Each field that is wrong, and what would be right.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    #[serde(skip)]
    #[schema(ignore)]
    retry_after: Option<u32>,
}

impl Problem {
    /// A problem with this status, code and sentence.
    pub fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        let code = code.into();
        Self {
            kind: format!("urn:tidegate:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// 404.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 400 over one field.
    pub(super) fn bad_request(code: &str, field: impl Into<String>, message: impl Into<String>) -> Self {
        let error = FieldError { field: field.into(), message: message.into() };
        let detail = if error.field.is_empty() { error.message.clone() } else { format!("{}: {}", error.field, error.message) };
        Self { errors: vec![error], ..Self::new(StatusCode::BAD_REQUEST, code, detail) }
    }

    /// Says more of what happened.
    pub(super) fn and(mut self, more: String) -> Self {
        self.detail = format!("{}; {more}", self.detail);
        self
    }

    /// Says in which part of what was sent it is.
    pub(super) fn within(mut self, part: &str) -> Self {
        for error in &mut self.errors {
            error.field = if error.field.is_empty() { part.to_owned() } else { format!("{part}: {}", error.field) };
        }
        self.detail = format!("{part}: {}", self.detail);
        self
    }

    /// Says when to try again.
    pub(super) fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        let new = |status, code: &str| Self::new(status, code, detail.clone());
        match error {
            Error::Invalid(errors) => Self { errors, ..new(StatusCode::UNPROCESSABLE_ENTITY, "invalid") },
            Error::NotFound { .. } => new(StatusCode::NOT_FOUND, "not_found"),
            Error::Forbidden(_) => new(StatusCode::FORBIDDEN, "forbidden"),
            Error::Taken { .. } => {
                let error =
                    FieldError { field: "name".into(), message: "is another one's: choose a name that is not in use".into() };
                Self { errors: vec![error], ..new(StatusCode::CONFLICT, "name_taken") }
            }
            Error::InUse { .. } => new(StatusCode::CONFLICT, "in_use"),
            Error::State(_) => new(StatusCode::CONFLICT, "conflict"),
            Error::OverPlan { code, .. } => new(StatusCode::UNPROCESSABLE_ENTITY, code),
            Error::BeingDeleted => new(StatusCode::CONFLICT, "being_deleted"),
            Error::OtherRequest => {
                let message = "use a new key for a new request".into();
                let error = FieldError { field: "Idempotency-Key".into(), message };
                Self { errors: vec![error], ..new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_mismatch") }
            }
            Error::Component(InspectError::Unusable { code, .. }) => new(StatusCode::UNPROCESSABLE_ENTITY, &code),
            Error::Component(InspectError::Busy(_)) => new(StatusCode::TOO_MANY_REQUESTS, "compile_queue_full").retry_after(5),
            Error::Component(InspectError::Unavailable(_)) => {
                new(StatusCode::SERVICE_UNAVAILABLE, "inspection_unavailable").retry_after(1)
            }
            Error::Table(TableFault::Quota) => new(StatusCode::CONFLICT, "tables_full"),
            Error::Table(fault) => {
                let field = if fault == TableFault::TimeToLive { "ttl" } else { "value" };
                let errors = vec![FieldError { field: field.into(), message: fault.to_string() }];
                Self { errors, ..new(StatusCode::UNPROCESSABLE_ENTITY, "invalid") }
            }
            Error::Busy => new(StatusCode::SERVICE_UNAVAILABLE, "busy").retry_after(1),
            Error::Store(error) => store_problem(&error, detail),
            Error::Seal(_) | Error::Unusable(_) => {
                tracing::error!(error = %detail, "configuration can't be used");
                new(StatusCode::INTERNAL_SERVER_ERROR, "configuration_unusable")
            }
        }
    }
}

fn store_problem(error: &StoreError, detail: String) -> Problem {
    tracing::warn!(error = %detail, "the store did not do what a request needed");
    match error {
        StoreError::Full(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_full", detail).retry_after(30),
        StoreError::Unavailable(_) | StoreError::Fenced(_) | StoreError::Suspect(_) | StoreError::Conflict(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", detail).retry_after(1)
        }
        StoreError::Refused(_) | StoreError::Damaged(_) => Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "store_refused", detail),
    }
}
