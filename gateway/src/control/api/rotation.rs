//! New signing secrets for destinations.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Scope;
use super::extract::{Json, Path, Query, TenantOnly};
use super::{Api, Problem};
use crate::config::units;
use crate::control::service::Rotation;

/// A rotation of a destination's signing secret.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RotateSpec {
    /// How long the secrets that it has now go on signing, at most 90 days. Default 24 h.
    #[serde(with = "units::duration")]
    #[schema(value_type = String, example = "24h")]
    overlap: Duration,
    /// What the new one is. Default `hmac`.
    kind: SecretKind,
}

/// Kinds of signing secrets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum SecretKind {
    /// `whsec_`: v1.
    #[default]
    Hmac,
    /// `whsk_`: v1a.
    Ed25519,
}

impl Default for RotateSpec {
    fn default() -> Self {
        Self { overlap: Duration::from_secs(24 * 60 * 60), kind: SecretKind::default() }
    }
}

/// A signing secret that was just made: the only time that its text is shown.
#[derive(Serialize, ToSchema)]
pub(super) struct RotatedView {
    /// The secret's text: keep it now.
    secret: String,
    /// What receivers verify with, if that is not the secret itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<String>,
}

pub(super) async fn rotate(
    State(api): State<Api>,
    scope: Scope,
    Path([reference]): Path<1>,
    Query(TenantOnly { .. }): Query<TenantOnly>,
    body: Json<RotateSpec>,
) -> Result<Response, Problem> {
    let again = body.again(scope.access, &format!("{}/{reference}/signing", scope.homes.tenant));
    let rotation = Rotation { overlap: body.value.overlap, is_ed25519: body.value.kind == SecretKind::Ed25519 };
    let rotated = api.0.control.rotate(scope.homes.tenant, &reference, rotation, again.as_ref()).await?;
    let view = RotatedView { secret: rotated.secret.expose().to_owned(), public_key: rotated.public_key };
    Ok((StatusCode::CREATED, axum::Json(view)).into_response())
}
