//! Tenants and keys.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::extract::{Json, Paging, Path, Query};
use super::resources::listing;
use super::views::{KeyView, MintedView, TenantView, to_json};
use super::{Api, Problem};
use crate::control::model::TenantSpec;
use crate::control::service::{Access, TenantPatch};

type Answer = Result<Response, Problem>;

pub(super) async fn list(State(api): State<Api>, Caller(access): Caller, Query(paging): Query<Paging>) -> Answer {
    let page = api.0.control.tenants(access, paging.cursor.as_deref(), paging.limit())?;
    Ok(axum::Json(listing(&page, |entry| to_json(&TenantView::of(entry)))).into_response())
}

pub(super) async fn create(State(api): State<Api>, Caller(access): Caller, body: Json<TenantSpec>) -> Answer {
    let again = body.again(access, "tenant");
    let entry = api.0.control.create_tenant(access, &body.value, again.as_ref()).await?;
    Ok((StatusCode::CREATED, axum::Json(TenantView::of(&entry))).into_response())
}

pub(super) async fn show(State(api): State<Api>, Caller(access): Caller, Path([reference]): Path<1>) -> Answer {
    let entry = api.0.control.tenant(access, &reference)?;
    let purged = api.0.control.deletion(&entry).await?;
    let tables = api.0.control.table_use(&entry.homes()).await?;
    Ok(axum::Json(TenantView::of(&entry).with(purged).using(tables)).into_response())
}

pub(super) async fn patch(
    State(api): State<Api>,
    Caller(access): Caller,
    Path([reference]): Path<1>,
    body: Json<TenantPatch>,
) -> Answer {
    let entry = api.0.control.patch_tenant(access, &reference, &body.value).await?;
    let tables = api.0.control.table_use(&entry.homes()).await?;
    Ok(axum::Json(TenantView::of(&entry).using(tables)).into_response())
}

pub(super) async fn delete(State(api): State<Api>, Caller(access): Caller, Path([reference]): Path<1>) -> Answer {
    let entry = api.0.control.delete_tenant(access, &reference).await?;
    let purged = api.0.control.deletion(&entry).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(TenantView::of(&entry).with(purged))).into_response())
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeySpec {
    /// What it is called.
    #[schema(example = "ci")]
    name: String,
    /// The tenant's id or name; a tenant's key makes keys of its own tenant. Without one an operator makes an operator's key.
    #[serde(default)]
    tenant: Option<String>,
}

pub(super) async fn list_keys(State(api): State<Api>, Caller(access): Caller, Query(paging): Query<Paging>) -> Answer {
    let tenant = paging.tenant.as_deref().map(|tenant| api.0.control.tenant(access, tenant)).transpose()?.map(|tenant| tenant.id);
    let page = api.0.control.keys(access, tenant, paging.cursor.as_deref(), paging.limit())?;
    Ok(axum::Json(listing(&page, |entry| to_json(&KeyView::of(entry)))).into_response())
}

pub(super) async fn create_key(State(api): State<Api>, Caller(access): Caller, body: Json<KeySpec>) -> Answer {
    let named = body.value.tenant.as_deref().map(|tenant| api.0.control.tenant(access, tenant)).transpose()?;
    let tenant = match access {
        Access::Tenant(own) => Some(own),
        Access::Operator => named.map(|tenant| tenant.id),
    };
    let again = body.again(access, "key");
    let (entry, text) = api.0.control.create_key(access, &body.value.name, tenant, again.as_ref()).await?;
    let view = MintedView { key: text.expose().to_owned(), info: KeyView::of(&entry) };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}

pub(super) async fn show_key(State(api): State<Api>, Caller(access): Caller, Path([reference]): Path<1>) -> Answer {
    let entry = api.0.control.key(access, &reference)?;
    Ok(axum::Json(KeyView::of(&entry)).into_response())
}

pub(super) async fn delete_key(State(api): State<Api>, Caller(access): Caller, Path([reference]): Path<1>) -> Answer {
    api.0.control.delete_key(access, &reference).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
