//! What is shown of the settings for the gateway's traffic.

use serde::Serialize;
use utoipa::ToSchema;

use super::shown;
use crate::control::model::{Change, Knob, Level, Setting, Who};
use crate::control::snapshot::{Diversion, Diverted};
use crate::control::state::State;

/// What is set for the gateway's traffic.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrafficView {
    /// The configuration's revision.
    revision: u64,
    /// The three lanes, retries, and each shard that was ever set.
    settings: Vec<SettingView>,
    /// Who is diverted.
    diversions: Vec<DiversionView>,
}

impl TrafficView {
    pub(in crate::control::api) fn of(state: &State) -> Self {
        let steering = state.steering();
        let always = crate::event::Lane::ALL.map(Knob::Lane).into_iter().chain([Knob::Retries]);
        let shards = steering.settings().keys().copied().filter(|knob| matches!(knob, Knob::Shard(_)));
        let diverted = steering.settings().iter().filter_map(|(knob, setting)| match knob {
            Knob::Diversion(who) => Some(DiversionView::of(state, *who, Some(setting))),
            Knob::Lane(_) | Knob::Retries | Knob::Shard(_) => None,
        });
        Self {
            revision: state.revision.0,
            settings: always.chain(shards).map(|knob| SettingView::of(state, knob)).collect(),
            diversions: diverted.collect(),
        }
    }
}

/// Who set something.
#[derive(Debug, Serialize, ToSchema)]
pub struct WhoView {
    /// `key`, `operator` (the key that `tidegate init` made) or `gateway`.
    kind: &'static str,
    /// The API key's id.
    id: Option<String>,
    /// What the key is called.
    name: String,
}

impl WhoView {
    fn of(who: &Who) -> Self {
        let (kind, id) = match who {
            Who::Operator => ("operator", None),
            Who::Key { id, .. } => ("key", Some(id.to_string())),
            Who::Gateway => ("gateway", None),
        };
        Self { kind, id, name: who.name().to_owned() }
    }
}

/// What work of a kind may use.
#[derive(Debug, Serialize, ToSchema)]
pub struct SettingView {
    /// `lanes.normal`, `lanes.low`, `lanes.held`, `retries`, or `shards.` and a number.
    what: String,
    /// In percent of the capacity (`dispatch.in_flight`): 100 if nothing is held back, 0 if it is paused.
    #[schema(minimum = 0, maximum = 100)]
    percent: u8,
    /// Who set it; null if nobody ever did, as the next two.
    by: Option<WhoView>,
    at: Option<String>,
    reason: Option<String>,
}

impl SettingView {
    pub(in crate::control::api) fn of(state: &State, knob: Knob) -> Self {
        let steering = state.steering();
        let traffic = steering.traffic();
        let percent = match knob {
            Knob::Lane(lane) => traffic.lane(lane),
            Knob::Shard(shard) => traffic.shard(shard),
            Knob::Retries | Knob::Diversion(_) => traffic.retries,
        };
        let (by, at, reason) = set(steering.settings().get(&knob));
        Self { what: knob.to_string(), percent: percent.get(), by, at, reason }
    }
}

/// Who is diverted, and how far that is.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiversionView {
    /// `tenant` or `source`.
    kind: &'static str,
    id: String,
    /// The tenant's name, or for a source both: `acme/github`.
    name: String,
    /// `held`: new events go to the held lane, and nothing of it is delivered. `returning`: it is delivered again, and newcomers
    /// stand behind what was held. `returned`: it is not diverted.
    state: &'static str,
    /// Who set it; null if nobody ever did, as the next two.
    by: Option<WhoView>,
    at: Option<String>,
    reason: Option<String>,
}

impl DiversionView {
    pub(in crate::control::api) fn of(state: &State, who: Diverted, setting: Option<&Setting>) -> Self {
        let kind = match who {
            Diverted::Tenant(_) => "tenant",
            Diverted::Source(_) => "source",
        };
        let level = match setting.map(|setting| setting.level) {
            Some(Level::Diversion(Diversion::Held)) => "held",
            Some(Level::Diversion(Diversion::Returning)) => "returning",
            Some(Level::Percent(_)) | None => "returned",
        };
        let name = state.name_of(who).unwrap_or_default();
        let (by, at, reason) = set(setting);
        Self { kind, id: Knob::Diversion(who).to_string(), name, state: level, by, at, reason }
    }
}

/// Who set something, when and why.
fn set(setting: Option<&Setting>) -> (Option<WhoView>, Option<String>, Option<String>) {
    let Some(setting) = setting else { return (None, None, None) };
    (Some(WhoView::of(&setting.by)), Some(shown(setting.at)), setting.reason.clone())
}

/// A change of what is set.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrafficChangeView {
    /// Counts the changes.
    number: u64,
    at: String,
    by: WhoView,
    /// `lanes.low`, `retries`, `shards.2`, or the id of who was diverted or given back.
    what: String,
    /// What who was diverted was called then.
    name: Option<String>,
    /// `20%`, `held`, `returning` or `none`.
    from: String,
    /// As `from`.
    to: String,
    reason: Option<String>,
}

impl TrafficChangeView {
    pub(in crate::control::api) fn of(change: &Change) -> Self {
        let level = |level: Option<Level>| level.map_or_else(|| "none".to_owned(), |level| level.to_string());
        Self {
            number: change.number,
            at: shown(change.at),
            by: WhoView::of(&change.by),
            what: change.knob.to_string(),
            name: change.name.clone(),
            from: level(change.from),
            to: level(change.to),
            reason: change.reason.clone(),
        }
    }
}
