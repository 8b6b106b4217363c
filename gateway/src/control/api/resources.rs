//! Sources, destinations, connections: the same five requests each.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::auth::Scope;
use super::extract::{Json, Paging, Path, Query, TenantOnly};
use super::{Api, Problem};
use crate::control::draft::Owned;
use crate::control::model::{Connections, Destinations, Kind, Sources};
use crate::control::seal::redact_json;
use crate::control::service::Listed;
use crate::control::state::Entry;
use crate::egress::SigningKey;

type Answer = Result<Response, Problem>;

/// What the API adds to a spec when it shows it.
pub(super) trait Shown: Owned {
    fn extra(_: &Entry<Self>) -> Option<(&'static str, Value)> {
        None
    }
}

impl Shown for Sources {
    fn extra(entry: &Entry<Self>) -> Option<(&'static str, Value)> {
        Some(("path", format!("/in/{}", entry.id).into()))
    }
}

impl Shown for Destinations {
    /// What receivers verify Ed25519 signatures with.
    fn extra(entry: &Entry<Self>) -> Option<(&'static str, Value)> {
        let signer = entry.parts.destination.signer.as_ref()?;
        let public: Vec<String> = signer.keys().filter_map(SigningKey::public).collect();
        (!public.is_empty()).then(|| ("public_keys", public.into()))
    }
}

impl Shown for Connections {}

pub(super) async fn list<K: Shown>(State(api): State<Api>, scope: Scope, Query(paging): Query<Paging>) -> Answer {
    let page = api.0.control.list::<K>(scope.homes.tenant, paging.cursor.as_deref(), paging.limit())?;
    Ok(axum::Json(listing(&page, view)).into_response())
}

pub(super) async fn create<K: Shown>(
    State(api): State<Api>,
    scope: Scope,
    Query(TenantOnly { .. }): Query<TenantOnly>,
    body: Json<K::Spec>,
) -> Answer {
    let again = body.again(scope.access, &format!("{}/{}", scope.homes.tenant, K::NAME));
    let entry = api.0.control.create::<K>(scope.homes.tenant, body.value, again.as_ref()).await?;
    Ok((StatusCode::CREATED, axum::Json(view(&entry))).into_response())
}

pub(super) async fn show<K: Shown>(
    State(api): State<Api>,
    scope: Scope,
    Path([reference]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
) -> Answer {
    let entry = api.0.control.get::<K>(scope.homes.tenant, &reference)?;
    Ok(axum::Json(view(&entry)).into_response())
}

pub(super) async fn patch<K: Shown>(
    State(api): State<Api>,
    scope: Scope,
    Path([reference]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
    body: Json<Value>,
) -> Answer {
    if !body.value.is_object() {
        return Err(Problem::bad_request("bad_field", "", "a merge patch is a JSON object with the fields that change"));
    }
    let entry = api.0.control.patch::<K>(scope.homes.tenant, &reference, &body.value).await?;
    Ok(axum::Json(view(&entry)).into_response())
}

pub(super) async fn delete<K: Shown>(
    State(api): State<Api>,
    scope: Scope,
    Path([reference]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
) -> Answer {
    api.0.control.delete::<K>(scope.homes.tenant, &reference).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A page as it is answered.
pub(super) fn listing<K: Kind>(page: &Listed<K>, view: impl Fn(&Entry<K>) -> Value) -> Value {
    let items: Vec<Value> = page.items.iter().map(|entry| view(entry)).collect();
    json!({ "items": items, "next": page.next })
}

/// A resource as it is shown: its spec without its secrets, its id and its times.
fn view<K: Shown>(entry: &Entry<K>) -> Value {
    let mut shown = entry.sealed.clone();
    redact_json(K::SECRETS, &mut shown);
    if let Value::Object(map) = &mut shown {
        map.insert("id".into(), entry.id.to_string().into());
        map.insert("created_at".into(), entry.created_at.to_string().into());
        map.insert("updated_at".into(), entry.updated_at.to_string().into());
        map.extend(K::extra(entry).map(|(name, value)| (name.to_owned(), value)));
    }
    shown
}
