//! How the gateway's queues stand, for operators and for what scales the gateway.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::auth::Operator;
use super::extract::Query;
use super::views::{ScalingView, SignalsView};
use super::{Api, Problem};
use crate::control::service::Error;

type Answer = Result<Response, Problem>;

/// Within how many seconds a backlog is to be drained, unless asked otherwise.
const TARGET: u64 = 60;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Nothing {}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct TargetQuery {
    target: Option<u64>,
}

pub(super) async fn show(State(api): State<Api>, Operator(_): Operator, _: Query<Nothing>) -> Answer {
    let measured = api.0.control.signals().await?;
    Ok(axum::Json(SignalsView::of(&measured, &api.0.control.ailing(), &api.0.control.snapshots().load())).into_response())
}

pub(super) async fn scaling(State(api): State<Api>, Operator(_): Operator, Query(query): Query<TargetQuery>) -> Answer {
    let target = query.target.unwrap_or(TARGET);
    if !(1..=86_400).contains(&target) {
        return Err(Error::field("target", "must be from 1 to 86400: the seconds within which a backlog is to be drained").into());
    }
    let (scaling, replicas) = api.0.control.scaling(Duration::from_secs(target)).await?;
    Ok(axum::Json(ScalingView::of(&scaling, replicas)).into_response())
}
