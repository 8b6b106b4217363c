use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::auth::Known;
use super::extract::{Json, Query};
use super::{Api, Problem};
use crate::control::apply::{ApplySpec, Mode};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ApplyQuery {
    dry_run: bool,
    prune: bool,
}

pub(super) async fn apply(
    State(api): State<Api>,
    Known(access, by): Known,
    Query(query): Query<ApplyQuery>,
    body: Json<ApplySpec>,
) -> Result<Response, Problem> {
    let mode = Mode { dry_run: query.dry_run, prune: query.prune };
    let report = api.0.control.apply(access, &by, &body.value, mode).await?;
    Ok(axum::Json(report).into_response())
}
