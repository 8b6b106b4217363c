//! Replaying past events over a connection: which events are meant.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::filter::{find, time};
use crate::clock::Timestamp;
use crate::control::model::Faults;
use crate::control::state::TenantState;
use crate::event::{ConnectionId, EventId, Revision, SourceId};
use crate::store::{DeliveryState, EventSummary};

/// Events that a filter may name one by one.
pub const MAX_IDS: usize = 200;

/// What to replay.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayJobSpec {
    /// The connection, by id or name: its filter and plugins are run as it is by then, and its destination gets new deliveries.
    pub connection: String,
    /// Which events; all of the connection's source when left out.
    #[serde(default)]
    pub filter: EventFilterSpec,
    /// Events a second, at most the tenant's `plan.rate`. Default 100.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100_000)]
    pub rate: Option<u32>,
    /// Only counts them.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which events are meant: those for which all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EventFilterSpec {
    /// Of the source with this id or name; of the connection's own when left out.
    pub source: Option<String>,
    /// Accepted at this time or later (RFC 3339).
    #[schema(example = "2026-01-31T10:00:00Z")]
    pub since: Option<String>,
    /// Accepted before this time (RFC 3339).
    pub until: Option<String>,
    /// With a delivery in this state.
    pub state: Option<EndState>,
    /// With one of these ids, at most 200.
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<EventId>,
}

/// How a delivery may have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EndState {
    /// It was delivered.
    Delivered,
    /// A filter or a plugin dropped it.
    Filtered,
    /// The event matched no connection.
    Unmatched,
    /// It was given up.
    DeadLettered,
}

/// What a job replays, with everything looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Over this connection.
    pub connection: ConnectionId,
    /// The configuration's revision when it was asked for: owners plan with that one or a later one.
    pub revision: Revision,
    /// These events.
    pub events: EventFilter,
}

/// An [`EventFilterSpec`] with everything looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// Of this source.
    pub source: SourceId,
    /// Accepted then or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Accepted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// With a delivery in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<EndState>,
    /// These alone, if there are any; in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<EventId>,
}

impl ReplayJobSpec {
    /// Looks up what it names; what is wrong with it is among the faults, and then there is no replay or none to be used.
    pub(in crate::control) fn resolve(&self, revision: Revision, tenant: &TenantState, faults: &mut Faults) -> Option<Replay> {
        let Some(connection) = tenant.connections.find(&self.connection) else {
            faults.add("connection", "is neither the id nor the name of a connection");
            return None;
        };
        let destination = tenant.destinations.find(&connection.parts.destination);
        if destination.is_some_and(|destination| destination.parts.destination.order.is_some()) {
            faults.add("connection", "leads to a destination that keeps an `order`, and a replay goes over events newest first");
        }
        let EventFilterSpec { source, since, until, state, ids } = &self.filter;
        let source = match source {
            Some(_) => find("filter.source".into(), source.as_deref(), &tenant.sources, faults),
            None => tenant.sources.find(&connection.parts.source).map(|source| source.id),
        };
        if source.is_some_and(|source| tenant.sources.get(source).is_none()) {
            faults.add(
                "filter.source",
                "is deleted, so the headers of its senders' signatures, which go over no other source's connection, are not known",
            );
        }
        let since = time("filter.since".into(), since.as_deref(), faults);
        let until = time("filter.until".into(), until.as_deref(), faults);
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            faults.add("filter.until", "must be after `since`");
        }
        if ids.len() > MAX_IDS {
            faults.add("filter.ids", format!("must be at most {MAX_IDS}"));
        }
        let mut ids = ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let events = EventFilter { source: source?, since, until, state: *state, ids };
        Some(Replay { connection: connection.id, revision, events })
    }
}

impl EventFilter {
    /// Where the listing of what it may mean begins: before this event, or at the newest.
    pub fn before(&self) -> Option<EventId> {
        let by_time = self.until.map(|until| EventId::new(until, 0));
        let by_id = self.ids.last().map(|last| EventId(last.0.saturating_add(1)));
        by_time.into_iter().chain(by_id).min()
    }

    /// Whether a listing, newest first, has come past all that it may mean.
    pub fn is_past(&self, event: EventId) -> bool {
        self.since.is_some_and(|since| event < EventId::new(since, 0)) || self.ids.first().is_some_and(|first| event < *first)
    }

    /// Whether it means this one.
    pub fn matches(&self, event: &EventSummary) -> bool {
        let ended = |wanted: EndState| event.deliveries.iter().any(|row| EndState::of(&row.state) == Some(wanted));
        event.source == self.source
            && self.since.is_none_or(|since| event.accepted_at >= since)
            && self.until.is_none_or(|until| event.accepted_at < until)
            && self.state.is_none_or(ended)
            && (self.ids.is_empty() || self.ids.binary_search(&event.id).is_ok())
    }
}

impl EndState {
    fn of(state: &DeliveryState) -> Option<Self> {
        match state {
            DeliveryState::Delivered => Some(Self::Delivered),
            DeliveryState::Filtered { .. } => Some(Self::Filtered),
            DeliveryState::Unmatched => Some(Self::Unmatched),
            DeliveryState::DeadLettered { .. } => Some(Self::DeadLettered),
            DeliveryState::Scheduled { .. } | DeliveryState::Parked { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{DeliveryId, Lane};
    use crate::store::DeliveryRecord;

    fn summary(at: u64, random: u128) -> EventSummary {
        let row = DeliveryRecord {
            id: DeliveryId(1),
            connection: None,
            destination: None,
            output: 0,
            at: Timestamp(at),
            state: DeliveryState::Delivered,
            attempts: Vec::new(),
            runs: Vec::new(),
            job: None,
        };
        EventSummary {
            id: EventId::new(Timestamp(at), random),
            source: SourceId(6),
            accepted_at: Timestamp(at),
            lane: Lane::Normal,
            deliveries: vec![row],
            finished: true,
        }
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let all = EventFilter { source: SourceId(6), since: None, until: None, state: None, ids: Vec::new() };
        let event = summary(1000, 5);
        for filter in [
            all.clone(),
            EventFilter { since: Some(Timestamp(1000)), until: Some(Timestamp(1001)), ..all.clone() },
            EventFilter { state: Some(EndState::Delivered), ids: vec![event.id], ..all.clone() },
        ] {
            assert!(filter.matches(&event), "{filter:?}");
        }
        for filter in [
            EventFilter { source: SourceId(7), ..all.clone() },
            EventFilter { since: Some(Timestamp(1001)), ..all.clone() },
            EventFilter { until: Some(Timestamp(1000)), ..all.clone() },
            EventFilter { state: Some(EndState::DeadLettered), ..all.clone() },
            EventFilter { ids: vec![EventId(1)], ..all.clone() },
        ] {
            assert!(!filter.matches(&event), "{filter:?}");
        }
    }

    #[test]
    fn a_listing_is_read_only_where_something_may_be_meant() {
        let all = EventFilter { source: SourceId(6), since: None, until: None, state: None, ids: Vec::new() };
        assert_eq!((all.before(), all.is_past(EventId(0))), (None, false));
        let (old, new) = (summary(1000, 5).id, summary(2000, 5).id);
        let spanned = EventFilter { since: Some(Timestamp(1500)), until: Some(Timestamp(1800)), ..all.clone() };
        assert!(spanned.before().is_some_and(|before| before > old && before < new));
        assert!(spanned.is_past(old) && !spanned.is_past(new));
        let named = EventFilter { ids: vec![old, new], ..all };
        assert!(named.before().is_some_and(|before| before > new));
        assert!(named.is_past(EventId(old.0 - 1)) && !named.is_past(old));
    }
}
