//! Plugins: uploads, versions, aliases; and components before they are anyone's.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;

use super::auth::{Caller, Scope};
use super::extract::{Component, Json, Paging, Path, Query, TenantOnly};
use super::resources::listing;
use super::views::{ComponentView, PluginView, ReplayView, TriedView, VersionView, to_json};
use super::{Api, Problem};
use crate::control::model::Plugins;
use crate::control::replay::ReplaySpec;
use crate::control::service::Access;
use crate::control::trial::TrySpec;
use crate::event::TenantId;

type Answer = Result<Response, Problem>;

pub(super) async fn list(State(api): State<Api>, scope: Scope, Query(paging): Query<Paging>) -> Answer {
    let page = api.0.control.list::<Plugins>(scope.homes.tenant, paging.cursor.as_deref(), paging.limit())?;
    Ok(axum::Json(listing(&page, |entry| to_json(&PluginView::of(entry)))).into_response())
}

pub(super) async fn show(State(api): State<Api>, scope: Scope, Path([plugin]): Path<1>, _: Query<TenantOnly>) -> Answer {
    let entry = api.0.control.get::<Plugins>(scope.homes.tenant, &plugin)?;
    let poisoned = api.0.control.poisoned(scope.homes.tenant, entry.id);
    Ok(axum::Json(PluginView::of(&entry).with(&poisoned)).into_response())
}

pub(super) async fn delete(State(api): State<Api>, scope: Scope, Path([plugin]): Path<1>, _: Query<TenantOnly>) -> Answer {
    api.0.control.delete::<Plugins>(scope.homes.tenant, &plugin).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

pub(super) async fn list_versions(State(api): State<Api>, scope: Scope, Path([plugin]): Path<1>, _: Query<TenantOnly>) -> Answer {
    let entry = api.0.control.get::<Plugins>(scope.homes.tenant, &plugin)?;
    let items: Vec<VersionView> = entry.parts.versions.iter().map(VersionView::of).collect();
    Ok(axum::Json(serde_json::json!({ "items": items, "next": null })).into_response())
}

pub(super) async fn upload(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin]): Path<1>,
    _: Query<TenantOnly>,
    Component(component): Component,
) -> Answer {
    let uploaded = api.0.control.upload(scope.homes.tenant, &plugin, component).await?;
    let status = if uploaded.known { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, axum::Json(VersionView::of(&uploaded.version))).into_response())
}

pub(super) async fn show_version(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin, version]): Path<2>,
    _: Query<TenantOnly>,
) -> Answer {
    let entry = api.0.control.get::<Plugins>(scope.homes.tenant, &plugin)?;
    let found = entry.parts.resolve(&version).ok_or_else(|| Problem::not_found("there is no such version or alias"))?;
    Ok(axum::Json(VersionView::of(found)).into_response())
}

pub(super) async fn delete_version(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin, version]): Path<2>,
    _: Query<TenantOnly>,
) -> Answer {
    api.0.control.delete_version(scope.homes.tenant, &plugin, &version).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Runs a version on one event, delivers nothing and stores nothing.
pub(super) async fn try_version(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin, version]): Path<2>,
    _: Query<TenantOnly>,
    body: Json<TrySpec>,
) -> Answer {
    let tried = api.0.control.try_version(&scope.homes, &plugin, &version, &body.value).await?;
    Ok(axum::Json(TriedView::of(&tried)).into_response())
}

/// Runs two versions over past events and tells what differs.
pub(super) async fn replay(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin]): Path<1>,
    _: Query<TenantOnly>,
    body: Json<ReplaySpec>,
) -> Answer {
    let replayed = api.0.control.replay(&scope.homes, &plugin, &body.value).await?;
    Ok(axum::Json(ReplayView::of(replayed)).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct UploadQuery {
    dry_run: bool,
}

/// Inspects a component and, unless it is a dry run, keeps it, so that an apply can name it.
pub(super) async fn keep(
    State(api): State<Api>,
    Caller(access): Caller,
    Query(query): Query<UploadQuery>,
    Component(component): Component,
) -> Answer {
    let tenant = match access {
        Access::Operator => TenantId(0),
        Access::Tenant(tenant) => tenant,
    };
    let view = if query.dry_run {
        ComponentView::inspected(&api.0.control.inspect_for(tenant, component).await?)
    } else {
        ComponentView::kept(&api.0.control.keep_for(tenant, component).await?)
    };
    Ok(axum::Json(view).into_response())
}
