//! What destinations and connections have beside the requests of all resources.

use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::auth::Scope;
use super::extract::{Json, Path, Query, TenantOnly};
use super::resources::view;
use super::views::ScheduleView;
use super::{Api, Problem};
use crate::control::model::{Destinations, RetrySpec};
use crate::control::retries::draft_schedule;

type Answer = Result<Response, Problem>;

/// Enables a destination, whoever disabled it.
pub(super) async fn enable(
    State(api): State<Api>,
    scope: Scope,
    Path([destination]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
) -> Answer {
    let entry = api.0.control.enable(scope.homes.tenant, &destination).await?;
    Ok(axum::Json(view(&entry)).into_response())
}

/// The schedule of a destination's retry policy.
pub(super) async fn schedule(
    State(api): State<Api>,
    scope: Scope,
    Path([destination]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
) -> Answer {
    let schedule = api.0.control.destination_schedule(scope.homes.tenant, &destination)?;
    Ok(axum::Json(ScheduleView::of(&schedule)).into_response())
}

/// The schedule that another policy would give.
pub(super) async fn draft(
    State(api): State<Api>,
    scope: Scope,
    Path([destination]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
    body: Json<RetrySpec>,
) -> Answer {
    api.0.control.get::<Destinations>(scope.homes.tenant, &destination)?;
    Ok(axum::Json(ScheduleView::of(&draft_schedule(&body.value)?)).into_response())
}

/// The schedule of the policy that holds for a connection.
pub(super) async fn connection_schedule(
    State(api): State<Api>,
    scope: Scope,
    Path([connection]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
) -> Answer {
    let schedule = api.0.control.connection_schedule(scope.homes.tenant, &connection)?;
    Ok(axum::Json(ScheduleView::of(&schedule)).into_response())
}
