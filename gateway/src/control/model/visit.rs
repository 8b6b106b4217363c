use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::connection::latest;
use super::{Faults, LimitsSpec, StageSpec};
use crate::control::snapshot::{OnFailure, OnPoisoned};
use crate::plugin::{Limits, Secrets};
use crate::secret::Secret;

/// A plugin that a source or a destination names. It runs while a sender or an attempt waits for it, in the version that the reference
/// names at that moment; of an alias that is split that is the alias' own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VisitSpec {
    /// The plugin's name or id; shown as its id.
    #[schema(example = "own-scheme")]
    pub plugin: String,
    /// An alias, or a version's hash. Default `latest`.
    #[serde(default = "latest")]
    pub version: String,
    /// Handed to the plugin as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub config: Option<Value>,
    /// What the plugin may ask for by name.
    #[serde(default)]
    #[schema(schema_with = crate::control::schema::secret_map)]
    pub secrets: BTreeMap<String, Secret>,
    /// Names of secrets that the plugin may only sign and check with: their values stay on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sign_only: Vec<String>,
    /// What a run may use. The gateway's `plugins.gate_fuel` and `plugins.gate_time` are the defaults, and stand above it.
    #[serde(default)]
    pub limits: LimitsSpec,
}

/// What is made of it, but for its plugin.
#[derive(Debug)]
pub(in crate::control) struct VisitParts {
    pub(in crate::control) plugin: String,
    pub(in crate::control) version: String,
    pub(in crate::control) config: Arc<str>,
    pub(in crate::control) secrets: Arc<Secrets>,
    pub(in crate::control) limits: Limits,
}

impl VisitSpec {
    /// Checks it, as what stands in `field`, and makes it ready for use.
    pub(super) fn prepare(&self, field: &str, ceilings: &Limits, faults: &mut Faults) -> VisitParts {
        let Self { plugin, version, config, secrets, sign_only, limits } = self.clone();
        let (on_failure, on_poisoned) = (OnFailure::default(), OnPoisoned::default());
        let stage = StageSpec {
            plugin,
            version,
            config,
            secrets,
            sign_only,
            limits,
            on_failure,
            poison_after: None,
            on_poisoned,
            reuse: None,
        };
        let parts = stage.prepare(field, ceilings, faults);
        // What is not asked for is as much as there may be.
        let limits = Limits {
            fuel: self.limits.fuel.map_or(ceilings.fuel, |_| parts.limits.fuel),
            wall: self.limits.time.map_or(ceilings.wall, |_| parts.limits.wall),
            ..parts.limits
        };
        VisitParts { plugin: parts.plugin, version: parts.version, config: parts.config, secrets: parts.secrets, limits }
    }
}
