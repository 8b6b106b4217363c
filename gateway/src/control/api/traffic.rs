//! The gateway's traffic: what each kind of work may use, and who is diverted. For operators only.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::auth::Operator;
use super::extract::{Json, Paging, Path, Query};
use super::views::{DiversionView, SettingView, TrafficChangeView, TrafficView, to_json};
use super::{Api, Problem};
use crate::control::model::{Knob, Who};
use crate::control::service::{Error, MAX_LIMIT};
use crate::event::{Lane, Shard};

type Answer = Result<Response, Problem>;

/// What work of a kind may use.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ShareSpec {
    /// In percent of the capacity (`dispatch.in_flight`). 0 pauses it.
    #[schema(minimum = 0, maximum = 100)]
    percent: i64,
    /// Why, for the audit.
    #[serde(default)]
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Why somebody is diverted.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DiversionSpec {
    /// Why, for the audit.
    #[serde(default)]
    #[schema(max_length = 500)]
    reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ReasonQuery {
    reason: Option<String>,
}

pub(super) async fn show(State(api): State<Api>, Operator(_): Operator) -> Answer {
    Ok(axum::Json(TrafficView::of(&api.0.control.state())).into_response())
}

pub(super) async fn set_lane(
    State(api): State<Api>,
    Operator(by): Operator,
    Path([lane]): Path<1>,
    body: Json<ShareSpec>,
) -> Answer {
    let known = Lane::ALL.into_iter().find(|known| known.as_str() == lane);
    let lane = known.ok_or_else(|| Error::field("lane", "must be `normal`, `low` or `held`"))?;
    set(&api, Knob::Lane(lane), &by, &body.value).await
}

pub(super) async fn set_retries(State(api): State<Api>, Operator(by): Operator, body: Json<ShareSpec>) -> Answer {
    set(&api, Knob::Retries, &by, &body.value).await
}

pub(super) async fn set_shard(
    State(api): State<Api>,
    Operator(by): Operator,
    Path([shard]): Path<1>,
    body: Json<ShareSpec>,
) -> Answer {
    let shard = shard.parse().map_err(|_| Error::field("shard", "must be a shard's number, from 0"))?;
    set(&api, Knob::Shard(Shard(shard)), &by, &body.value).await
}

async fn set(api: &Api, knob: Knob, by: &Who, spec: &ShareSpec) -> Answer {
    api.0.control.set_share(knob, spec.percent, by, spec.reason.as_deref()).await?;
    Ok(axum::Json(SettingView::of(&api.0.control.state(), knob)).into_response())
}

pub(super) async fn divert(
    State(api): State<Api>,
    Operator(by): Operator,
    Path([reference]): Path<1>,
    body: Json<DiversionSpec>,
) -> Answer {
    let (who, setting) = api.0.control.divert(&reference, &by, body.value.reason.as_deref()).await?;
    Ok(axum::Json(DiversionView::of(&api.0.control.state(), who, Some(&setting))).into_response())
}

pub(super) async fn give_back(
    State(api): State<Api>,
    Operator(by): Operator,
    Path([reference]): Path<1>,
    Query(query): Query<ReasonQuery>,
) -> Answer {
    let (who, setting) = api.0.control.give_back(&reference, &by, query.reason.as_deref()).await?;
    Ok(axum::Json(DiversionView::of(&api.0.control.state(), who, setting.as_ref())).into_response())
}

pub(super) async fn audit(State(api): State<Api>, Operator(_): Operator, Query(paging): Query<Paging>) -> Answer {
    let wrong = |_| Error::field("cursor", "is not one that this listing gave: leave it out for the first page");
    let before: Option<u64> = paging.cursor.as_deref().map(str::parse).transpose().map_err(wrong)?;
    let limit = paging.limit().clamp(1, MAX_LIMIT);
    let steering = api.0.control.steering();
    let mut rows = steering.changes().filter(|change| before.is_none_or(|before| change.number < before)).peekable();
    let page: Vec<_> = rows.by_ref().take(limit).collect();
    let next = page.last().filter(|_| rows.peek().is_some()).map(|last| last.number.to_string());
    let items: Vec<Value> = page.iter().map(|change| to_json(&TrafficChangeView::of(change))).collect();
    Ok(axum::Json(json!({ "items": items, "next": next })).into_response())
}
