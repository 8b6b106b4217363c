//! The admin API: HTTP in front of [`Control`].
//!
//! - **Who**: `Authorization: Bearer tgk_...`. A tenant's key sees its tenant and nothing else; what is another's answers 404 as if
//!   it weren't there. An operator's key names the tenant that a request is for by `?tenant=` with its id or name.
//! - **What**: JSON in and out. Listings are `{"items": [...], "next": cursor or null}`, asked for with `limit` (at most 200) and
//!   `cursor`. `PATCH` is a JSON merge patch (RFC 7396).
//! - **Again**: `POST` takes an `Idempotency-Key`, remembered for a day with a hash of the body.
//! - **Errors**: problem details (RFC 9457), always; each wrong field with what would be right.
//! - **Limits**: bodies, time for each request, connections: `[admin]` in the configuration.
//!
//! [`routes`] is the one list that the router and the OpenAPI document are made of, so that no route is without its description.

#![allow(clippy::result_large_err, reason = "a problem is made once, for a request that failed")]

mod aliases;
mod apply;
mod auth;
mod bookmarks;
mod destinations;
mod events;
mod extract;
mod health;
mod openapi;
mod plugins;
mod problem;
mod recovery;
mod resources;
mod rotation;
mod routes;
mod serve;
mod signals;
mod tables;
mod tenants;
mod traffic;
mod uploads;
pub mod views;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

pub(crate) use extract::without_values;
pub use problem::Problem;
pub use serve::serve;

use super::model::digest_of;
use super::service::Control;
use crate::config::Admin;
use crate::secret::Secret;

/// Writes the text of `/metrics`: its content type and body.
pub type MetricsText = dyn Fn() -> (&'static str, String) + Send + Sync;

/// Names what is not ready, with the reason; empty when all is.
pub type Readiness = dyn Fn() -> Vec<String> + Send + Sync;

/// What the API needs.
#[derive(Clone)]
pub struct Options {
    /// The configuration.
    pub control: Arc<Control>,
    /// The key that `tidegate init` made.
    pub operator: Secret,
    /// Limits.
    pub admin: Admin,
    /// The text of `/metrics`.
    pub metrics: Arc<MetricsText>,
    /// What else has to be ready, beside the store and the configuration.
    pub readiness: Arc<Readiness>,
}

#[derive(Clone)]
struct Api(Arc<Shared>);

struct Shared {
    control: Arc<Control>,
    operator: [u8; 32],
    admin: Admin,
    metrics: Arc<MetricsText>,
    readiness: Arc<Readiness>,
    uploads: Arc<uploads::Uploads>,
    openapi: String,
}

/// The admin router.
pub fn router(options: Options) -> Router {
    let Options { control, operator, admin, metrics, readiness } = options;
    let routes = routes::routes();
    let openapi = openapi::document(&routes).to_string();
    let times = Times { request: admin.timeout, upload: admin.upload_timeout };
    let uploads = uploads::Uploads::new(admin.max_component);
    let shared = Shared { control, operator: digest_of(operator.expose()), admin, metrics, readiness, uploads, openapi };
    let mut router = Router::new();
    for route in routes {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(|| async { Problem::not_found("there is no such path: see /openapi.json for what there is") })
        .method_not_allowed_fallback(|| async {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not take this method: see /openapi.json",
            )
        })
        .layer(middleware::from_fn_with_state(times, limit_time))
        .with_state(Api(Arc::new(shared)))
}

/// The OpenAPI document that the router serves.
pub fn openapi() -> serde_json::Value {
    openapi::document(&routes::routes())
}

#[derive(Clone, Copy)]
struct Times {
    request: Duration,
    upload: Duration,
}

async fn limit_time(axum::extract::State(times): axum::extract::State<Times>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // What may have to be compiled first, and bulk loads.
    let is_long = ["/versions", "/try", "/replay", "/table"].iter().any(|end| path.ends_with(end))
        || path == "/v1/components"
        || path == "/v1/apply";
    let limit = if is_long { times.upload } else { times.request };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!("not done within {}; it may still have been carried out", humantime::format_duration(limit));
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).retry_after(1).into_response()
        }
    }
}
