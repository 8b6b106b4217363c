//! Dead letters: found by what they have in common, and tried again, one by one or by a job. Jobs that replay events.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::auth::Scope;
use super::events::{answer, request};
use super::extract::{Json, Paging, Path, Query, TenantOnly};
use super::views::{DeadLetterView, ReplayJobView, RetriedView, RetryJobView, to_json};
use super::{Api, Problem};
use crate::control::recovery::{Job, JobKind, JobSpec, LetterFilterSpec, ReplayJobSpec};
use crate::control::service::Error;
use crate::event::{DeliveryId, Party};

type Answer = Result<Response, Problem>;

/// Dead letters in one request.
const MAX_RETRIES: usize = 1000;

/// A listing with a filter.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct LettersQuery {
    limit: Option<usize>,
    cursor: Option<String>,
    tenant: Option<String>,
    source: Option<String>,
    destination: Option<String>,
    connection: Option<String>,
    since: Option<String>,
    until: Option<String>,
    code: Option<String>,
    party: Option<Party>,
    status: Option<u16>,
}

impl LettersQuery {
    fn split(self) -> (Paging, LetterFilterSpec) {
        let Self { limit, cursor, tenant, source, destination, connection, since, until, code, party, status } = self;
        let filter = LetterFilterSpec { source, destination, connection, since, until, code, party, status };
        (Paging { limit, cursor, tenant }, filter)
    }
}

pub(super) async fn list(State(api): State<Api>, scope: Scope, Query(query): Query<LettersQuery>) -> Answer {
    let (paging, filter) = query.split();
    let letters = api.0.control.dead_letters(&scope.homes, &filter, request(&paging)?).await?;
    Ok(answer(&letters, |letter| to_json(&DeadLetterView::of(letter))))
}

/// What to try again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryDeadLettersSpec {
    /// Deliveries' ids, at most 1000.
    #[schema(value_type = Vec<String>)]
    ids: Vec<DeliveryId>,
}

pub(super) async fn retry(State(api): State<Api>, scope: Scope, _: Query<TenantOnly>, body: Json<RetryDeadLettersSpec>) -> Answer {
    if body.value.ids.is_empty() || body.value.ids.len() > MAX_RETRIES {
        return Err(Error::field("ids", format!("must be 1 to {MAX_RETRIES}")).into());
    }
    let retried = api.0.control.retry(&scope.homes, &body.value.ids).await?;
    Ok(axum::Json(RetriedView { retried }).into_response())
}

pub(super) async fn begin(State(api): State<Api>, scope: Scope, _: Query<TenantOnly>, body: Json<JobSpec>) -> Answer {
    let job = api.0.control.begin_retry_job(&scope.homes, &body.value, &scope.by).await?;
    Ok((http::StatusCode::ACCEPTED, axum::Json(view(&job))).into_response())
}

pub(super) async fn jobs(State(api): State<Api>, scope: Scope, _: Query<TenantOnly>) -> Answer {
    all_of(&api, &scope, JobKind::Retry).await
}

pub(super) async fn job(State(api): State<Api>, scope: Scope, Path([job]): Path<1>, _: Query<TenantOnly>) -> Answer {
    Ok(axum::Json(view(&api.0.control.job(&scope.homes, JobKind::Retry, &job).await?)).into_response())
}

pub(super) async fn cancel(State(api): State<Api>, scope: Scope, Path([job]): Path<1>, _: Query<TenantOnly>) -> Answer {
    Ok(axum::Json(view(&api.0.control.cancel_job(&scope.homes, JobKind::Retry, &job).await?)).into_response())
}

pub(super) async fn begin_replay(State(api): State<Api>, scope: Scope, _: Query<TenantOnly>, body: Json<ReplayJobSpec>) -> Answer {
    let job = api.0.control.begin_replay_job(&scope.homes, &body.value, &scope.by).await?;
    Ok((http::StatusCode::ACCEPTED, axum::Json(view(&job))).into_response())
}

pub(super) async fn replays(State(api): State<Api>, scope: Scope, _: Query<TenantOnly>) -> Answer {
    all_of(&api, &scope, JobKind::Replay).await
}

pub(super) async fn replay(State(api): State<Api>, scope: Scope, Path([job]): Path<1>, _: Query<TenantOnly>) -> Answer {
    Ok(axum::Json(view(&api.0.control.job(&scope.homes, JobKind::Replay, &job).await?)).into_response())
}

pub(super) async fn cancel_replay(State(api): State<Api>, scope: Scope, Path([job]): Path<1>, _: Query<TenantOnly>) -> Answer {
    Ok(axum::Json(view(&api.0.control.cancel_job(&scope.homes, JobKind::Replay, &job).await?)).into_response())
}

async fn all_of(api: &Api, scope: &Scope, kind: JobKind) -> Answer {
    let jobs = api.0.control.jobs(&scope.homes, kind).await?;
    let items: Vec<Value> = jobs.iter().map(view).collect();
    Ok(axum::Json(json!({ "items": items, "next": null })).into_response())
}

fn view(job: &Job) -> Value {
    match job.order.kind() {
        JobKind::Retry => to_json(&RetryJobView::of(job)),
        JobKind::Replay => to_json(&ReplayJobView::of(job)),
    }
}
