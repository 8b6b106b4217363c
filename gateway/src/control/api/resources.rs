//! Sources, destinations, connections: the same five requests each.

use std::future::ready;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::auth::Scope;
use super::extract::{Json, Paging, Path, Query, TenantOnly};
use super::views::{DestinationStatusView, to_json};
use super::{Api, Problem};
use crate::control::draft::Owned;
use crate::control::model::{Connections, Destinations, Kind, Sources};
use crate::control::seal::redact_json;
use crate::control::service::{Control, Error, Listed};
use crate::control::state::Entry;
use crate::egress::SigningKey;

type Answer = Result<Response, Problem>;

/// What the API adds to a spec when it shows it.
pub(super) trait Shown: Owned {
    fn extra(_: &Entry<Self>) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// The same where one is shown, with what has to be asked for.
    fn asked(_: &Control, entry: &Entry<Self>) -> impl Future<Output = Result<Vec<(&'static str, Value)>, Error>> + Send {
        ready(Ok(Self::extra(entry)))
    }
}

impl Shown for Sources {
    fn extra(entry: &Entry<Self>) -> Vec<(&'static str, Value)> {
        vec![("path", format!("/in/{}", entry.id).into())]
    }
}

impl Shown for Destinations {
    /// What receivers verify Ed25519 signatures with, and what the gateway thinks of it.
    fn extra(entry: &Entry<Self>) -> Vec<(&'static str, Value)> {
        shown(entry, DestinationStatusView::of(&entry.condition))
    }

    async fn asked(control: &Control, entry: &Entry<Self>) -> Result<Vec<(&'static str, Value)>, Error> {
        let circuit = control.circuit(entry.id).await?;
        Ok(shown(entry, DestinationStatusView::of(&entry.condition).with(circuit.as_ref())))
    }
}

fn shown(entry: &Entry<Destinations>, status: DestinationStatusView) -> Vec<(&'static str, Value)> {
    let mut shown = vec![("status", to_json(&status))];
    if let Some(signer) = &entry.parts.destination.signer {
        let public: Vec<String> = signer.keys().filter_map(SigningKey::public).collect();
        shown.extend((!public.is_empty()).then(|| ("public_keys", public.into())));
    }
    shown
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
    let extra = K::asked(&api.0.control, &entry).await?;
    Ok(axum::Json(view_with(&entry, extra)).into_response())
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
pub(super) fn view<K: Shown>(entry: &Entry<K>) -> Value {
    view_with(entry, K::extra(entry))
}

fn view_with<K: Shown>(entry: &Entry<K>, extra: Vec<(&'static str, Value)>) -> Value {
    let mut shown = entry.sealed.clone();
    redact_json(K::SECRETS, &mut shown);
    if let Value::Object(map) = &mut shown {
        map.insert("id".into(), entry.id.to_string().into());
        map.insert("created_at".into(), entry.created_at.to_string().into());
        map.insert("updated_at".into(), entry.updated_at.to_string().into());
        map.extend(extra.into_iter().map(|(name, value)| (name.to_owned(), value)));
    }
    shown
}
