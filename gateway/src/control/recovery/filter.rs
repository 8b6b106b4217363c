//! Which dead letters are meant.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Timestamp;
use crate::control::model::{Faults, Kind};
use crate::control::state::{Table, TenantState};
use crate::event::{ConnectionId, DeliveryId, DestinationId, Party, SourceId};
use crate::store::{Burial, DeadLetter, Work};

/// The longest code.
const MAX_CODE: usize = 64;

/// Which dead letters are meant: those for which all that is given holds; without anything, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LetterFilterSpec {
    /// Of the source with this id or name. What came over a connection that is deleted belongs to no source any more.
    pub source: Option<String>,
    /// To the destination with this id or name.
    pub destination: Option<String>,
    /// Of the connection with this id or name.
    pub connection: Option<String>,
    /// Given up at this time or later (RFC 3339).
    #[schema(example = "2026-01-31T10:00:00Z")]
    pub since: Option<String>,
    /// Given up before this time (RFC 3339).
    pub until: Option<String>,
    /// With this code, of the reason or of the last attempt.
    #[schema(example = "connect_timeout")]
    pub code: Option<String>,
    /// By whose fault, as the reason says: `gateway`, `plugin`, `network` or `destination`.
    #[schema(value_type = Option<String>, example = "network")]
    pub party: Option<Party>,
    /// With this status of the last response.
    #[schema(minimum = 100, maximum = 599)]
    pub status: Option<u16>,
}

/// The same with everything looked up, as jobs keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LetterFilter {
    /// Of this source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceId>,
    /// To this destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationId>,
    /// Of this connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionId>,
    /// Given up then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Given up before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// With this code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// By whose fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub party: Option<Party>,
    /// With this status of the last response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

impl LetterFilterSpec {
    /// Looks up what it names. An id need not be of anything that is there still; a name must. Faults are of fields `within` something.
    pub(in crate::control) fn resolve(&self, tenant: &TenantState, within: &str, faults: &mut Faults) -> LetterFilter {
        let Self { source, destination, connection, since, until, code, party, status } = self;
        let field = |name: &str| format!("{within}{name}");
        let filter = LetterFilter {
            source: find(field("source"), source.as_deref(), &tenant.sources, faults),
            destination: find(field("destination"), destination.as_deref(), &tenant.destinations, faults),
            connection: find(field("connection"), connection.as_deref(), &tenant.connections, faults),
            since: time(field("since"), since.as_deref(), faults),
            until: time(field("until"), until.as_deref(), faults),
            code: code.clone(),
            party: *party,
            status: *status,
        };
        if code.as_ref().is_some_and(|code| code.is_empty() || code.len() > MAX_CODE) {
            faults.add(field("code"), format!("must be 1 to {MAX_CODE} characters"));
        }
        if let Some(status) = status {
            faults.range(&field("status"), *status, 100, 599);
        }
        if let (Some(since), Some(until)) = (filter.since, filter.until)
            && since >= until
        {
            faults.add(field("until"), "must be after `since`");
        }
        filter
    }
}

pub(super) fn find<K: Kind>(field: String, reference: Option<&str>, table: &Table<K>, faults: &mut Faults) -> Option<K::Id> {
    let reference = reference?;
    let found = reference.parse().ok().or_else(|| table.named(reference).map(|entry| entry.id));
    if found.is_none() {
        faults.add(field, format!("is neither the id nor the name of a {}", K::NAME));
    }
    found
}

pub(super) fn time(field: String, text: Option<&str>, faults: &mut Faults) -> Option<Timestamp> {
    let parsed = humantime::parse_rfc3339_weak(text?);
    if parsed.is_err() {
        faults.add(field, "must be a time like `2026-01-31T10:00:00Z` (RFC 3339, UTC)");
    }
    parsed.ok().map(|time: SystemTime| time.into())
}

impl LetterFilter {
    /// Where the listing of what it may match begins: before this place, or at the newest.
    pub fn before(&self) -> Option<Burial> {
        self.until.map(|at| Burial { at, id: DeliveryId(0) })
    }

    /// Behind which place a listing begins of what it may match, oldest first.
    pub fn after(&self) -> Option<Burial> {
        let before = Timestamp(self.since?.0.checked_sub(1)?);
        Some(Burial { at: before, id: DeliveryId(u128::MAX) })
    }

    /// Whether a listing, newest first, has come past all that it may match.
    pub fn is_past(&self, at: Timestamp) -> bool {
        self.since.is_some_and(|since| at < since)
    }

    /// Whether it means this one. `ends` tells a connection's source and destination, while it is there.
    pub fn matches(&self, letter: &DeadLetter, ends: impl Fn(ConnectionId) -> Option<(SourceId, DestinationId)>) -> bool {
        let (source, connection, destination) = match &letter.job.work {
            Work::Attempt(delivery) => (None, Some(delivery.connection), Some(delivery.destination)),
            Work::Plan { event, connection } => (Some(event.source), *connection, None),
        };
        let wired = || connection.and_then(&ends);
        let last = letter.last.as_ref();
        let code_is = |code: &String| {
            *code == letter.reason.code || last.and_then(|last| last.failure.as_ref()).is_some_and(|failure| failure.code == *code)
        };
        self.connection.is_none_or(|wanted| connection == Some(wanted))
            && self.source.is_none_or(|wanted| source.or_else(|| Some(wired()?.0)) == Some(wanted))
            && self.destination.is_none_or(|wanted| destination.or_else(|| Some(wired()?.1)) == Some(wanted))
            && self.since.is_none_or(|since| letter.at >= since)
            && self.until.is_none_or(|until| letter.at < until)
            && self.code.as_ref().is_none_or(code_is)
            && self.party.is_none_or(|party| letter.reason.party == party)
            && self.status.is_none_or(|status| last.and_then(|last| last.status) == Some(status))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{Attempt, Delivery, Event, EventId, Failure, Request, Revision, TenantId};
    use crate::store::Job;

    fn failure(party: Party, code: &str) -> Failure {
        Failure { party, code: code.into(), detail: String::new(), retryable: false }
    }

    fn letter(work: Work, last: Option<Attempt>) -> DeadLetter {
        let job = Job { id: DeliveryId(1), attempts: 2, spent: 2, since: Timestamp(0), work, line: None, claims: 0 };
        DeadLetter { job, at: Timestamp(1000), reason: failure(Party::Destination, "attempts_exhausted"), last }
    }

    fn attempted() -> DeadLetter {
        let delivery = Delivery {
            id: DeliveryId(1),
            event: EventId(2),
            tenant: TenantId(3),
            connection: ConnectionId(4),
            destination: DestinationId(5),
            output: 0,
            accepted_at: Timestamp(0),
            request: Request::default(),
            trace: None,
        };
        let last = Attempt {
            number: 2,
            started_at: Timestamp(900),
            took_us: 1,
            status: Some(503),
            response: Bytes::new(),
            response_cut: false,
            failure: Some(failure(Party::Destination, "status")),
            batch: None,
        };
        letter(Work::Attempt(Box::new(delivery)), Some(last))
    }

    fn unplanned() -> DeadLetter {
        let event = Event {
            id: EventId(2),
            tenant: TenantId(3),
            source: SourceId(6),
            revision: Revision(0),
            accepted_at: Timestamp(0),
            request: Request::default(),
            pins: Vec::new(),
            trace: None,
        };
        letter(Work::Plan { event: Box::new(event), connection: Some(ConnectionId(4)) }, None)
    }

    #[test]
    fn all_that_is_given_must_hold() {
        let ends = |connection| (connection == ConnectionId(4)).then_some((SourceId(6), DestinationId(5)));
        let empty = LetterFilter::default();
        let both = [
            empty.clone(),
            LetterFilter { source: Some(SourceId(6)), destination: Some(DestinationId(5)), ..empty.clone() },
            LetterFilter { connection: Some(ConnectionId(4)), party: Some(Party::Destination), ..empty.clone() },
            LetterFilter { since: Some(Timestamp(1000)), until: Some(Timestamp(1001)), ..empty.clone() },
            LetterFilter { code: Some("attempts_exhausted".into()), ..empty.clone() },
        ];
        for filter in &both {
            assert!(filter.matches(&attempted(), ends) && filter.matches(&unplanned(), ends), "{filter:?}");
        }
        let attempted_only =
            [LetterFilter { status: Some(503), ..empty.clone() }, LetterFilter { code: Some("status".into()), ..empty.clone() }];
        for filter in &attempted_only {
            assert!(filter.matches(&attempted(), ends) && !filter.matches(&unplanned(), ends), "{filter:?}");
        }
        let neither = [
            LetterFilter { source: Some(SourceId(7)), ..empty.clone() },
            LetterFilter { destination: Some(DestinationId(7)), ..empty.clone() },
            LetterFilter { connection: Some(ConnectionId(7)), ..empty.clone() },
            LetterFilter { since: Some(Timestamp(1001)), ..empty.clone() },
            LetterFilter { until: Some(Timestamp(1000)), ..empty.clone() },
            LetterFilter { code: Some("gone".into()), ..empty.clone() },
            LetterFilter { party: Some(Party::Plugin), ..empty.clone() },
            LetterFilter { status: Some(500), ..empty.clone() },
        ];
        for filter in &neither {
            assert!(!filter.matches(&attempted(), ends) && !filter.matches(&unplanned(), ends), "{filter:?}");
        }
    }

    #[test]
    fn without_its_connection_a_delivery_is_of_no_source_but_still_to_its_destination() {
        let empty = LetterFilter::default();
        let of_source = LetterFilter { source: Some(SourceId(6)), ..empty.clone() };
        let to_destination = LetterFilter { destination: Some(DestinationId(5)), ..empty };
        assert!(!of_source.matches(&attempted(), |_| None) && of_source.matches(&unplanned(), |_| None));
        assert!(to_destination.matches(&attempted(), |_| None) && !to_destination.matches(&unplanned(), |_| None));
    }
}
