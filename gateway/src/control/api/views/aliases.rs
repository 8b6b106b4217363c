//! Aliases, and what they run beside their own versions.

use serde::Serialize;
use utoipa::ToSchema;

use super::shown;
use crate::control::model::{PastRecord, Plugins, PortionRecord, SplitRecord, Who};
use crate::control::shadow::{Observed, Tally};
use crate::control::state::Entry;
use crate::event::KeyId;
use crate::plugin::compare::Difference;

/// Where an alias points, and what runs beside.
#[derive(Debug, Serialize, ToSchema)]
pub struct AliasView {
    alias: String,
    /// The version's hash.
    version: String,
    /// Takes its share of the events; null if there is none.
    canary: Option<PortionView>,
    /// Runs along and is only compared; null if there is none.
    shadow: Option<PortionView>,
    /// Where it pointed before, newest first.
    past: Vec<PastView>,
}

/// What an alias runs beside its own version.
#[derive(Debug, Serialize, ToSchema)]
pub struct SplitView {
    /// Takes its share of the events; null if there is none.
    canary: Option<PortionView>,
    /// Runs along and is only compared; null if there is none.
    shadow: Option<PortionView>,
}

/// A version with its share of the events.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PortionView {
    /// The version's hash.
    version: String,
    /// Of all events.
    percent: f64,
    since: String,
}

/// Where an alias pointed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PastView {
    /// The version's hash.
    version: String,
    /// When it was moved away from there.
    until: String,
    /// By whom: `operator`, or the key's name.
    by: String,
    /// The key's id, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key: Option<KeyId>,
}

/// What an alias' shadow gave, on all gateways together; of each since it started, or for a day after its last.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShadowView {
    /// The version's hash.
    version: String,
    /// Of all events.
    percent: f64,
    since: String,
    /// Runs that were compared.
    runs: u64,
    /// Gave the same.
    same: u64,
    /// Gave the same JSON, written in another way.
    formatting: u64,
    /// Gave something else.
    different: u64,
    /// Failed where the alias' own version did not.
    failed: u64,
    /// Were not run for want of room.
    dropped: u64,
    /// The last 100 that were not the same, newest first.
    last: Vec<ObservedView>,
}

/// An event of which a shadow made something else.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ObservedView {
    event: String,
    at: String,
    /// The code with which the alias' own version failed; null if it did not.
    live_failure: Option<String>,
    /// The code with which the shadow failed; null if it did not.
    shadow_failure: Option<String>,
    /// The first few things that differ, without values.
    differences: Vec<Difference>,
    /// Whether more differs.
    more: bool,
}

impl ShadowView {
    pub(in crate::control::api) fn of(shadow: &PortionRecord, tally: Tally) -> Self {
        let PortionView { version, percent, since } = PortionView::of(shadow);
        let Tally { runs, same, formatting, different, failed, dropped, last } = tally;
        let last = last.into_iter().rev().map(ObservedView::of).collect();
        Self { version, percent, since, runs, same, formatting, different, failed, dropped, last }
    }
}

impl ObservedView {
    fn of(observed: Observed) -> Self {
        let Observed { event, at, live, shadow, differences, more } = observed;
        Self { event: event.to_string(), at: shown(at), live_failure: live, shadow_failure: shadow, differences, more }
    }
}

impl AliasView {
    pub(in crate::control::api) fn of(entry: &Entry<Plugins>, alias: &str) -> Option<Self> {
        let record = &entry.parts;
        let SplitView { canary, shadow } = SplitView::of(&record.splits.get(alias).copied().unwrap_or_default());
        let past = record.past.get(alias).into_iter().flatten().rev().map(PastView::of).collect();
        Some(Self { alias: alias.to_owned(), version: record.aliases.get(alias)?.to_string(), canary, shadow, past })
    }
}

impl SplitView {
    pub(super) fn of(split: &SplitRecord) -> Self {
        Self { canary: split.canary.as_ref().map(PortionView::of), shadow: split.shadow.as_ref().map(PortionView::of) }
    }
}

impl PortionView {
    fn of(portion: &PortionRecord) -> Self {
        Self { version: portion.version.to_string(), percent: portion.share.percent(), since: shown(portion.since) }
    }
}

impl PastView {
    fn of(past: &PastRecord) -> Self {
        let key = match &past.by {
            Who::Key { id, .. } => Some(*id),
            Who::Operator | Who::Gateway => None,
        };
        Self { version: past.version.to_string(), until: shown(past.until), by: past.by.name().to_owned(), key }
    }
}
