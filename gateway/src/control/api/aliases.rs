//! A plugin's aliases: where they point, what takes a share of their events, what runs along.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::auth::Scope;
use super::extract::{Json, Path, Query, TenantOnly};
use super::views::{AliasView, PluginView, ShadowView};
use super::{Api, Problem};
use crate::control::model::Plugins;
use crate::control::service::{AliasChange, PortionChange};
use crate::control::state::Entry;

type Answer = Result<Response, Problem>;

/// What an alias is to be. What is left out ends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AliasSpec {
    /// A version's hash, or another alias.
    version: String,
    /// Takes its share of the events.
    #[serde(default)]
    canary: Option<PortionSpec>,
    /// Runs along with its share of the events, and is only compared.
    #[serde(default)]
    shadow: Option<PortionSpec>,
}

/// What is to change of an alias. What is left out stays; null ends it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AliasPatch {
    /// A version's hash, or another alias.
    #[serde(default)]
    version: Option<String>,
    /// Takes its share of the events.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<PortionSpec>)]
    canary: Option<Option<PortionSpec>>,
    /// Runs along with its share of the events, and is only compared.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<PortionSpec>)]
    shadow: Option<Option<PortionSpec>>,
}

/// A version with its share of the events.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PortionSpec {
    /// A version's hash, or another alias. Must do the same as the alias' own: filter, or transform.
    version: String,
    /// Of all events, in steps of 0.01.
    #[schema(minimum = 0.01, maximum = 100)]
    percent: f64,
}

fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<PortionSpec>>, D::Error> {
    Option::deserialize(from).map(Some)
}

fn portion(spec: Option<PortionSpec>) -> Option<PortionChange> {
    spec.map(|PortionSpec { version, percent }| PortionChange { version, percent })
}

fn view(entry: &Entry<Plugins>, alias: &str) -> Answer {
    let view = AliasView::of(entry, alias).ok_or_else(|| Problem::not_found("the plugin has no such alias"))?;
    Ok(axum::Json(view).into_response())
}

pub(super) async fn show(State(api): State<Api>, scope: Scope, Path([plugin, alias]): Path<2>, _: Query<TenantOnly>) -> Answer {
    view(&*api.0.control.get::<Plugins>(scope.homes.tenant, &plugin)?, &alias)
}

pub(super) async fn set(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin, alias]): Path<2>,
    _: Query<TenantOnly>,
    body: Json<AliasSpec>,
) -> Answer {
    let AliasSpec { version, canary, shadow } = body.value;
    let to = AliasChange { version: Some(version), canary: Some(portion(canary)), shadow: Some(portion(shadow)) };
    let entry = api.0.control.set_alias(scope.homes.tenant, &plugin, &alias, &to, &scope.by).await?;
    Ok(axum::Json(PluginView::of(&entry)).into_response())
}

pub(super) async fn patch(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin, alias]): Path<2>,
    _: Query<TenantOnly>,
    body: Json<AliasPatch>,
) -> Answer {
    let AliasPatch { version, canary, shadow } = body.value;
    let to = AliasChange { version, canary: canary.map(portion), shadow: shadow.map(portion) };
    view(&*api.0.control.set_alias(scope.homes.tenant, &plugin, &alias, &to, &scope.by).await?, &alias)
}

pub(super) async fn promote(State(api): State<Api>, scope: Scope, Path([plugin, alias]): Path<2>, _: Query<TenantOnly>) -> Answer {
    view(&*api.0.control.promote(scope.homes.tenant, &plugin, &alias, &scope.by).await?, &alias)
}

pub(super) async fn roll_back(
    State(api): State<Api>,
    scope: Scope,
    Path([plugin, alias]): Path<2>,
    _: Query<TenantOnly>,
) -> Answer {
    view(&*api.0.control.roll_back(scope.homes.tenant, &plugin, &alias).await?, &alias)
}

/// What the alias' shadow gave.
pub(super) async fn shadow(State(api): State<Api>, scope: Scope, Path([plugin, alias]): Path<2>, _: Query<TenantOnly>) -> Answer {
    let (shadow, tally) = api.0.control.shadow(&scope.homes, &plugin, &alias).await?;
    Ok(axum::Json(ShadowView::of(&shadow, tally)).into_response())
}

pub(super) async fn delete(State(api): State<Api>, scope: Scope, Path([plugin, alias]): Path<2>, _: Query<TenantOnly>) -> Answer {
    api.0.control.delete_alias(scope.homes.tenant, &plugin, &alias).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
