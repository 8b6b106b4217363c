use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::retry::RetrySpec;
use super::{Faults, FieldError, Kind, LATEST, check_name, yes};
use crate::clock::Timestamp;
use crate::config::units;
use crate::control::parts;
use crate::control::snapshot::{OnFailure, OnPoisoned};
use crate::dispatch::filter::Filter;
use crate::dispatch::schedule::RetryPolicy;
use crate::event::ConnectionId;
use crate::plugin::reuse::MAX_INVOCATIONS;
use crate::plugin::{Limits, Secrets};
use crate::secret::Secret;

/// Plugins in one chain.
const MAX_STAGES: usize = 8;
/// Bytes of a plugin's configuration as JSON.
const MAX_CONFIG: usize = 64 << 10;
/// Secrets of one stage.
const MAX_SECRETS: usize = 32;
/// Stops in a row before a version is poisoned, of a stage that says nothing of it, and the most.
const POISON_AFTER: u32 = 10;
const MAX_POISON_AFTER: u32 = 1_000_000;

/// Connections.
#[derive(Debug)]
pub enum Connections {}

impl Kind for Connections {
    type Id = ConnectionId;
    type Spec = ConnectionSpec;
    type Parts = ConnectionParts;
    const NAME: &'static str = "connection";
    const KEY: &'static str = "con";
    const SECRETS: &'static [&'static str] = &["plugins/*/secrets/*"];

    fn new_id(now: Timestamp, random: u128) -> ConnectionId {
        ConnectionId::new(now, random)
    }

    fn name(spec: &ConnectionSpec) -> &str {
        &spec.name
    }
}

/// A connection: which of a source's events go to a destination, and through which plugins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionSpec {
    /// Unique in the tenant.
    #[schema(example = "github-to-chat")]
    pub name: String,
    /// A disabled connection takes no new events. Default true.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Of a paused connection what comes in waits, as long as `dispatch.max_wait` at most, without an attempt. Default false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// The source's id or name; shown as its id.
    #[schema(example = "github")]
    pub source: String,
    /// The destination's id or name; shown as its id.
    #[schema(example = "chat")]
    pub destination: String,
    /// Conditions on `body`, `headers`, `query`, `path` and `method`; every event when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, example = json!({"body": {"ref": {"$eq": "refs/heads/main"}}}))]
    pub filter: Option<Value>,
    /// Plugins, in order.
    #[serde(default)]
    pub plugins: Vec<StageSpec>,
    /// When failed deliveries are tried again, instead of the destination's own policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
}

/// A plugin in a connection's chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StageSpec {
    /// The plugin's name or id; shown as its id.
    #[schema(example = "github-push-to-chat")]
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
    /// Names of secrets that the plugin may only sign with: their values stay on the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sign_only: Vec<String>,
    /// What a run may use.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// What happens when a run fails. Default `dead_letter`.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// A version that is stopped so many times in a row on this stage (by a trap or a limit, not by a failure that it returns) is
    /// poisoned: it is tried with single events only, after 5 seconds first and then half as often each time, down to once in 10 minutes,
    /// until it answers. Default 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1_000_000)]
    pub poison_after: Option<u32>,
    /// What happens to events while the version is poisoned. Default `hold`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_poisoned: OnPoisoned,
    /// Lets a run go on in an instance that an earlier run of this stage left, with what that kept in its memory. Without it each run has
    /// a fresh one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<ReuseSpec>,
}

/// How instances are used again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReuseSpec {
    /// Runs of one instance, at the most.
    #[schema(minimum = 2, maximum = 10_000, example = 100)]
    pub invocations: u32,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

pub(super) fn latest() -> String {
    LATEST.into()
}

/// What a run of a plugin may use; what is left out has the gateway's default. The gateway's own ceilings stand above it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSpec {
    /// Fuel, about one for each instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Memory, summed over all that it has.
    #[serde(with = "units::size_option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "16MiB")]
    pub memory: Option<u64>,
    /// Wall-clock time.
    #[serde(with = "units::duration_option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "1s")]
    pub time: Option<Duration>,
    /// Bytes of output.
    #[serde(with = "units::size_option", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "4MiB")]
    pub output: Option<u64>,
}

/// What is made of a connection, but for what it refers to.
#[derive(Debug)]
pub struct ConnectionParts {
    pub(in crate::control) enabled: bool,
    pub(in crate::control) paused: bool,
    pub(in crate::control) source: String,
    pub(in crate::control) destination: String,
    pub(in crate::control) filter: Option<Filter>,
    pub(in crate::control) retry: Option<RetryPolicy>,
    pub(in crate::control) stages: Vec<StageParts>,
}

/// What is made of a stage, but for its plugin.
#[derive(Debug)]
pub(in crate::control) struct StageParts {
    pub(in crate::control) plugin: String,
    pub(in crate::control) version: String,
    pub(in crate::control) config: Arc<str>,
    pub(in crate::control) secrets: Arc<Secrets>,
    pub(in crate::control) limits: Limits,
    pub(in crate::control) on_failure: OnFailure,
    pub(in crate::control) poison_after: u32,
    pub(in crate::control) on_poisoned: OnPoisoned,
    pub(in crate::control) invocations: Option<u32>,
}

impl ConnectionSpec {
    /// Checks it and makes it ready for use; what it refers to is looked up later.
    pub(in crate::control) fn prepare(&self, ceilings: &Limits) -> Result<ConnectionParts, Vec<FieldError>> {
        let mut faults = Faults::default();
        check_name("name", &self.name, &mut faults);
        let filter = self.filter.as_ref().and_then(|filter| {
            let parsed = Filter::parse(filter);
            parsed.map_err(|error| faults.add(under("filter", &error.path), error.problem.to_string())).ok()
        });
        let retry = self.retry.as_ref().map(|retry| retry.prepare("retry", &mut faults));
        if self.plugins.len() > MAX_STAGES {
            faults.add("plugins", format!("there may be {MAX_STAGES} in a chain"));
        }
        let stages = self.plugins.iter().take(MAX_STAGES).enumerate();
        let stages = stages.map(|(index, stage)| stage.prepare(&format!("plugins[{index}]"), ceilings, &mut faults)).collect();
        faults.or(ConnectionParts {
            enabled: self.enabled,
            paused: self.paused,
            source: self.source.clone(),
            destination: self.destination.clone(),
            filter,
            retry,
            stages,
        })
    }
}

impl StageSpec {
    /// Checks it, as what stands in `field`, and makes it ready for use.
    pub(in crate::control) fn prepare(&self, field: &str, ceilings: &Limits, faults: &mut Faults) -> StageParts {
        let config = self.config.as_ref().map_or_else(|| "{}".to_owned(), Value::to_string);
        if config.len() > MAX_CONFIG {
            faults.add(format!("{field}.config"), format!("must be at most {MAX_CONFIG} bytes as JSON"));
        }
        if self.secrets.len() > MAX_SECRETS {
            faults.add(format!("{field}.secrets"), format!("there may be {MAX_SECRETS}"));
        }
        for name in self.secrets.keys() {
            check_name(&format!("{field}.secrets.{name}"), name, faults);
        }
        for (number, name) in self.sign_only.iter().enumerate().filter(|(_, name)| !self.secrets.contains_key(*name)) {
            faults
                .add(format!("{field}.sign_only[{number}]"), format!("there is no secret `{}` in this stage", name.escape_debug()));
        }
        let poison_after = self.poison_after.unwrap_or(POISON_AFTER);
        faults.range(&format!("{field}.poison_after"), poison_after, 1, MAX_POISON_AFTER);
        let invocations = self.reuse.as_ref().map(|reuse| reuse.invocations);
        if let Some(invocations) = invocations {
            faults.range(&format!("{field}.reuse.invocations"), invocations, 2, MAX_INVOCATIONS);
        }
        StageParts {
            plugin: self.plugin.clone(),
            version: self.version.clone(),
            config: config.into(),
            secrets: Arc::new(parts::secrets(&self.secrets, &self.sign_only)),
            limits: parts::limits(&self.limits, ceilings, &format!("{field}.limits"), faults),
            on_failure: self.on_failure,
            poison_after,
            on_poisoned: self.on_poisoned,
            invocations,
        }
    }
}

fn under(field: &str, path: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{field}.{path}") }
}
