//! Who asks, and for which tenant.

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{StatusCode, header};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::{Api, Problem};
use crate::control::homes::Homes;
use crate::control::model::Who;
use crate::control::model::digest_of;
use crate::control::refresh::INTERVAL;
use crate::control::service::Access;

/// A request with a valid key.
pub(super) struct Caller(pub(super) Access);

/// The same, and whose key it is.
pub(super) struct Known(pub(super) Access, pub(super) Who);

/// A request with an operator's key, and whose that is.
pub(super) struct Operator(pub(super) Who);

/// A request for one tenant.
pub(super) struct Scope {
    pub(super) access: Access,
    pub(super) homes: Homes,
    pub(super) by: Who,
}

/// Whose data the request's key opens, and whose key it is.
fn authenticate(parts: &Parts, api: &Api) -> Result<(Access, Who), Problem> {
    let refuse = |detail: &str| Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = header.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let Some((_, key)) = key else {
        return Err(refuse("an API key is needed: send `Authorization: Bearer tgk_...`"));
    };
    let key = key.trim();
    if bool::from(digest_of(key).ct_eq(&api.0.operator)) {
        return Ok((Access::Operator, Who::Operator));
    }
    let entry = api.0.control.holder(key).ok_or_else(|| refuse("this API key is not known"))?;
    let access = entry.key().tenant.map_or(Access::Operator, Access::Tenant);
    Ok((access, Who::Key { id: entry.id, name: entry.name.clone() }))
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        authenticate(parts, api).map(|(access, _)| Self(access))
    }
}

impl FromRequestParts<Api> for Known {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        authenticate(parts, api).map(|(access, by)| Self(access, by))
    }
}

impl FromRequestParts<Api> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let (access, who) = authenticate(parts, api)?;
        access.operator()?;
        Ok(Self(who))
    }
}

#[derive(Deserialize)]
struct Named {
    tenant: Option<String>,
}

impl FromRequestParts<Api> for Scope {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let (access, by) = authenticate(parts, api)?;
        let query = axum::extract::Query::<Named>::try_from_uri(&parts.uri);
        let named = query.map_err(|error| Problem::bad_request("bad_query", "tenant", error.body_text()))?.0.tenant;
        // What another gateway has acknowledged is to be seen here: the shards that it has put events into, and all that was declared there. While
        // the store does not answer, what is known here serves.
        let known = tokio::time::timeout(INTERVAL, api.0.control.refresh()).await;
        if let Ok(Err(error)) = known {
            tracing::debug!(%error, "configuration not looked at before a request");
        }
        let homes = api.0.control.homes(access, named.as_deref())?;
        Ok(Self { access, homes, by })
    }
}
