//! What is so of a tenant, out of what is seen. Pure.

use std::collections::BTreeMap;

use super::Rules;
use super::alarm::{Condition, is_over};
use super::notice::{Measure, NoticeReason, NoticeUnit};
use super::receivers::Receivers;
use super::seen::Seen;
use crate::clock::Timestamp;
use crate::control::condition::Condition as Noted;
use crate::control::snapshot::{Snapshot, Tenant};
use crate::event::{ConnectionId, DestinationId, TenantId};

/// A condition that is so, with what is told of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct So {
    pub(super) since: Timestamp,
    pub(super) reason: Option<NoticeReason>,
    pub(super) measure: Option<Measure>,
}

impl Condition {
    /// Before and behind all others, in their order.
    pub(super) const FIRST: Self = Self::Disabled(DestinationId(0));
    pub(super) const LAST: Self = Self::Backlog;

    fn destination(self) -> Option<DestinationId> {
        match self {
            Self::Disabled(id) | Self::Failing(id) | Self::Circuit(id) => Some(id),
            Self::DeadLetters | Self::Poisoned { .. } | Self::Backlog => None,
        }
    }
}

/// Everything that is so. `stands` says what was told to have begun: there a threshold is half as high.
pub(super) fn what_is_so(
    seen: &Seen,
    noted: &[(DestinationId, Noted)],
    tenant: &Tenant,
    rules: &Rules,
    stands: impl Fn(Condition) -> bool,
    now: Timestamp,
) -> BTreeMap<Condition, So> {
    let mut so = BTreeMap::new();
    let mut add = |condition, since, reason, measure| {
        let new = So { since, reason, measure };
        // The same thing, seen in several shards: since the first of them.
        so.entry(condition).and_modify(|old: &mut So| old.since = old.since.min(since)).or_insert(new);
    };
    for (destination, noted) in noted {
        if let Some(disabled) = &noted.disabled {
            let reason = NoticeReason { code: disabled.code.clone(), detail: disabled.detail.clone() };
            add(Condition::Disabled(*destination), disabled.at, Some(reason), None);
        }
        if let Some(since) = noted.failing_since {
            add(Condition::Failing(*destination), since, None, None);
        }
    }
    for circuit in &seen.circuits {
        add(Condition::Circuit(circuit.destination), circuit.since, Some(circuit.reason.clone()), None);
    }
    for poison in &seen.poisoned {
        let condition = Condition::Poisoned { connection: poison.connection, stage: poison.stage };
        let measure = Measure { value: poison.stops, threshold: poison.stops, unit: NoticeUnit::Stops, window_s: None };
        add(condition, poison.since, Some(poison.reason.clone()), Some(measure));
    }
    if is_over(seen.dead_letters, rules.dead_letters, stands(Condition::DeadLetters)) {
        let (value, threshold) = (seen.dead_letters, rules.dead_letters);
        let window_s = Some(rules.dead_letters_window.as_secs());
        let measure = Measure { value, threshold, unit: NoticeUnit::DeadLetters, window_s };
        add(Condition::DeadLetters, seen.dead_since.unwrap_or(now), None, Some(measure));
    }
    let threshold = rules.backlog(tenant);
    if is_over(seen.queued, threshold, stands(Condition::Backlog)) {
        let measure = Measure { value: seen.queued, threshold, unit: NoticeUnit::Bytes, window_s: None };
        add(Condition::Backlog, now, None, Some(measure));
    }
    so
}

/// Whether what a condition is about is there, and told of.
pub(super) fn is_there(condition: Condition, tenant: TenantId, snapshot: &Snapshot, receivers: &Receivers) -> bool {
    if let Some(id) = condition.destination() {
        return snapshot.destinations.get(&id).is_some_and(|one| one.tenant == tenant) && !receivers.is_way(id);
    }
    let Condition::Poisoned { connection, stage } = condition else { return true };
    let stays = |id: ConnectionId| snapshot.connections.get(&id).is_some_and(|one| one.chain.len() > stage);
    stays(connection) && !receivers.is_way_over(connection)
}
