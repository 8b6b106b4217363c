//! Events and deliveries.

use std::fmt::Display;
use std::str::FromStr;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::auth::Scope;
use super::extract::{Paging, Path, Query, TenantOnly};
use super::views::{DeliveryView, EventView, RetriedView, to_json};
use super::{Api, Problem};
use crate::control::service::{Error, parse_cursor};
use crate::control::waiting::Explainer;
use crate::store::{Page, PageRequest};

type Answer = Result<Response, Problem>;

pub(super) fn request<P: FromStr>(paging: &Paging) -> Result<PageRequest<P>, Error> {
    Ok(PageRequest { before: paging.cursor.as_deref().map(parse_cursor).transpose()?, limit: paging.limit() })
}

pub(super) fn answer<T, P: Display>(page: &Page<T, P>, view: impl Fn(&T) -> Value) -> Response {
    let items: Vec<Value> = page.items.iter().map(view).collect();
    axum::Json(json!({ "items": items, "next": page.next.as_ref().map(P::to_string) })).into_response()
}

pub(super) async fn list(State(api): State<Api>, scope: Scope, Query(paging): Query<Paging>) -> Answer {
    let events = api.0.control.events(&scope.homes, request(&paging)?).await?;
    let circuits = api.0.control.circuits(events.items.iter().map(|(_, event)| event)).await?;
    let state = api.0.control.state();
    Ok(answer(&events, |(home, event)| to_json(&EventView::summary(event, Explainer::new(&state, *home, event, &circuits)))))
}

pub(super) async fn show(State(api): State<Api>, scope: Scope, Path([event]): Path<1>, _: Query<TenantOnly>) -> Answer {
    let (home, history) = api.0.control.event(&scope.homes, &event).await?;
    let circuits = api.0.control.circuits([&history.summary]).await?;
    let state = api.0.control.state();
    Ok(axum::Json(EventView::full(&history, Explainer::new(&state, home, &history.summary, &circuits))).into_response())
}

pub(super) async fn retry(State(api): State<Api>, scope: Scope, Path([event]): Path<1>, _: Query<TenantOnly>) -> Answer {
    let retried = api.0.control.retry_event(&scope.homes, &event).await?;
    Ok(axum::Json(RetriedView { retried }).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DeliveriesQuery {
    event: Option<String>,
    #[serde(rename = "tenant")]
    _tenant: Option<String>,
}

/// An event's deliveries.
pub(super) async fn deliveries(State(api): State<Api>, scope: Scope, Query(query): Query<DeliveriesQuery>) -> Answer {
    let event = query.event.ok_or_else(|| Error::field("event", "is needed: the id of the event whose deliveries are listed"))?;
    let (home, history) = api.0.control.event(&scope.homes, &event).await?;
    let circuits = api.0.control.circuits([&history.summary]).await?;
    let state = api.0.control.state();
    let explainer = Explainer::new(&state, home, &history.summary, &circuits);
    let items: Vec<DeliveryView> = history.summary.deliveries.iter().map(|row| DeliveryView::of(row, explainer)).collect();
    Ok(axum::Json(json!({ "items": items, "next": null })).into_response())
}

pub(super) async fn delivery(
    State(api): State<Api>,
    scope: Scope,
    Path([event, delivery]): Path<2>,
    _: Query<TenantOnly>,
) -> Answer {
    let (home, history) = api.0.control.event(&scope.homes, &event).await?;
    let found = history.summary.deliveries.iter().find(|row| row.id.to_string() == delivery);
    let found = found.ok_or_else(|| Problem::not_found("the event has no such delivery"))?;
    let circuits = api.0.control.circuits([&history.summary]).await?;
    let state = api.0.control.state();
    let explainer = Explainer::new(&state, home, &history.summary, &circuits);
    Ok(axum::Json(DeliveryView::of(found, explainer)).into_response())
}
