//! What would change with another version.

use serde::Serialize;
use utoipa::ToSchema;

use super::shown;
use crate::control::replay::{Changed, Replayed, Totals};
use crate::plugin::compare::{Comparison, Difference};

/// What would change with another version, newest events first. Values of secrets are replaced by their names.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayView {
    /// The hash of the version that was compared with.
    against: String,
    /// The hash of the version that was judged.
    version: String,
    totals: TotalsView,
    /// Events that would change.
    changed: Vec<ChangedView>,
    /// Where to go on; null when all events were looked at.
    next: Option<String>,
}

/// What became of the events that were looked at.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TotalsView {
    /// Events of the connection's source.
    events: u64,
    /// Not for the connection, by its filter.
    filtered: u64,
    /// Whose request is not kept any more.
    gone: u64,
    /// Both versions give the same.
    same: u64,
    /// Both give the same JSON, written in another way.
    formatting: u64,
    /// They give something else.
    different: u64,
    /// The judged version fails where the other does not.
    failed: u64,
    /// The judged version does not fail where the other does.
    mended: u64,
}

/// An event that would change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChangedView {
    event: String,
    accepted_at: String,
    before: MadeView,
    after: MadeView,
    /// What differs: from `before` to `after`.
    differences: Vec<Difference>,
    /// Whether more differs than is listed.
    more: bool,
}

/// What a version gives.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MadeView {
    /// How many requests; null if it fails.
    outputs: Option<usize>,
    /// The failure's code; null if it does not fail.
    failure: Option<String>,
}

impl MadeView {
    fn of(made: Result<usize, String>) -> Self {
        match made {
            Ok(outputs) => Self { outputs: Some(outputs), failure: None },
            Err(code) => Self { outputs: None, failure: Some(code) },
        }
    }
}

impl ReplayView {
    pub(in crate::control::api) fn of(replayed: Replayed) -> Self {
        let Replayed { against, version, totals, changed, next } = replayed;
        let Totals { events, filtered, gone, same, formatting, different, failed, mended } = totals;
        Self {
            against: against.to_string(),
            version: version.to_string(),
            totals: TotalsView { events, filtered, gone, same, formatting, different, failed, mended },
            changed: changed.into_iter().map(ChangedView::of).collect(),
            next: next.map(|next| next.to_string()),
        }
    }
}

impl ChangedView {
    fn of(changed: Changed) -> Self {
        let Changed { event, accepted_at, before, after, comparison } = changed;
        let Comparison { differences, more, .. } = comparison;
        let (before, after) = (MadeView::of(before), MadeView::of(after));
        Self { event: event.to_string(), accepted_at: shown(accepted_at), before, after, differences, more }
    }
}
