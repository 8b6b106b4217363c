//! Whether the gateway lives and can serve; its metrics; its own description.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};

use super::Api;
use super::views::HealthView;

pub(super) async fn healthz() -> Response {
    axum::Json(HealthView { status: "ok", revision: None, reasons: Vec::new() }).into_response()
}

pub(super) async fn readyz(State(api): State<Api>) -> Response {
    let mut reasons = (api.0.readiness)();
    let revision = match api.0.control.ready() {
        Ok(revision) => Some(revision.0),
        Err(error) => {
            reasons.insert(0, error.to_string());
            None
        }
    };
    let (code, status) = if reasons.is_empty() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    (code, axum::Json(HealthView { status, revision, reasons })).into_response()
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let (content_type, text) = (api.0.metrics)();
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

pub(super) async fn openapi(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.0.openapi.clone()).into_response()
}
