//! Versions that are stopped again and again. Each stage of a connection has a circuit for each version that it runs: after so many
//! stops in a row it opens, and the version is poisoned there. From then on it is tried with one event at a time, first after
//! [`FIRST_TRY`], then half as often with each try that is stopped, down to once in [`LAST_TRY`]. Whatever ends by itself, with an answer
//! or with a failure that the plugin returned, closes the circuit.
//!
//! Circuits are this node's own and in memory: another owner of a shard, or a restarted one, finds out anew. At most [`CIRCUITS`] are
//! kept; a version without a recent stop has none. Another version has a circuit of its own, so it starts afresh.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::{ConnectionId, Failure, TenantId, VersionHash};

/// How long after it opened a circuit is tried.
pub const FIRST_TRY: Duration = Duration::from_secs(5);
/// The longest time between two tries.
pub const LAST_TRY: Duration = Duration::from_secs(600);
/// Circuits of one node; the one that changed the longest ago makes room.
pub const CIRCUITS: usize = 16_384;

/// A version in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Whose.
    pub tenant: TenantId,
    /// On which connection.
    pub connection: ConnectionId,
    /// At which position of its chain.
    pub stage: usize,
    /// What runs there.
    pub version: VersionHash,
}

/// Whether a version may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Sound,
    /// It is poisoned, and may be tried with one event.
    Due,
    /// It is poisoned, and is tried then at the earliest.
    Poisoned(Timestamp),
}

/// A version that is poisoned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Poisoned {
    /// Where.
    pub place: Place,
    /// Since when.
    pub since: Timestamp,
    /// Stops in a row.
    pub stops: u64,
    /// The last of them.
    pub reason: Failure,
    /// When it is tried, at the earliest.
    pub next_try: Timestamp,
}

/// What a stop did to its circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It is closed, still.
    Counted,
    /// It opened.
    Opened,
    /// It was open before.
    Open,
}

/// The circuits of a node.
#[derive(Debug, Default)]
pub struct Circuits {
    circuits: Mutex<HashMap<Place, Circuit>>,
    /// How many there are: with none, as a rule, nobody needs the lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Circuit {
    stops: u64,
    changed: Timestamp,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    since: Timestamp,
    reason: Failure,
    pause: Duration,
    next_try: Timestamp,
}

impl Circuits {
    /// How a version stands.
    pub fn standing(&self, place: &Place, now: Timestamp) -> Standing {
        if self.is_empty() {
            return Standing::Sound;
        }
        match self.lock().get(place).and_then(|circuit| circuit.open.as_ref()) {
            None => Standing::Sound,
            Some(open) if now >= open.next_try => Standing::Due,
            Some(open) => Standing::Poisoned(open.next_try),
        }
    }

    /// Begins a try: nobody else begins one before the time of the next, even if this one is never heard of again.
    pub fn try_out(&self, place: &Place, now: Timestamp) {
        if let Some(open) = self.lock().get_mut(place).and_then(|circuit| circuit.open.as_mut()) {
            open.next_try = now.after(open.pause);
        }
    }

    /// Notes that a run was stopped; `after` so many in a row the circuit opens. A try that is stopped makes the pause before the next one
    /// longer.
    pub fn stopped(&self, place: Place, after: u32, is_try: bool, reason: &Failure, now: Timestamp) -> Stopped {
        let mut circuits = self.lock();
        if circuits.len() >= CIRCUITS && !circuits.contains_key(&place) {
            let oldest = circuits.iter().min_by_key(|(_, circuit)| circuit.changed).map(|(place, _)| *place);
            oldest.map(|oldest| circuits.remove(&oldest));
        }
        let circuit = circuits.entry(place).or_insert(Circuit { stops: 0, changed: now, open: None });
        circuit.stops += 1;
        circuit.changed = now;
        let stopped = match &mut circuit.open {
            Some(open) => {
                open.reason = reason.clone();
                if is_try {
                    open.pause = (open.pause * 2).min(LAST_TRY);
                    open.next_try = now.after(open.pause);
                }
                Stopped::Open
            }
            None if circuit.stops >= u64::from(after) => {
                let (pause, reason) = (FIRST_TRY, reason.clone());
                circuit.open = Some(Open { since: now, reason, pause, next_try: now.after(pause) });
                Stopped::Opened
            }
            None => Stopped::Counted,
        };
        self.count.store(circuits.len(), Ordering::Release);
        stopped
    }

    /// Notes that a run ended by itself; whether that closed an open circuit.
    pub fn answered(&self, place: &Place) -> bool {
        if self.is_empty() {
            return false;
        }
        let mut circuits = self.lock();
        let gone = circuits.remove(place);
        self.count.store(circuits.len(), Ordering::Release);
        gone.is_some_and(|circuit| circuit.open.is_some())
    }

    /// What is poisoned of a tenant, in the order of connections and stages.
    pub fn poisoned(&self, tenant: TenantId) -> Vec<Poisoned> {
        let mut found = self.poisoned_where(|place| place.tenant == tenant);
        found.sort_unstable_by_key(|poisoned| poisoned.place);
        found
    }

    /// What is poisoned of all tenants, in no order.
    pub fn all(&self) -> Vec<Poisoned> {
        self.poisoned_where(|_| true)
    }

    fn poisoned_where(&self, is_meant: impl Fn(&Place) -> bool) -> Vec<Poisoned> {
        if self.is_empty() {
            return Vec::new();
        }
        let circuits = self.lock();
        let meant = circuits.iter().filter(|(place, _)| is_meant(place));
        meant
            .filter_map(|(place, circuit)| {
                let open = circuit.open.as_ref()?;
                let reason = open.reason.clone();
                Some(Poisoned { place: *place, since: open.since, stops: circuit.stops, reason, next_try: open.next_try })
            })
            .collect()
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        if self.is_empty() { 0 } else { self.lock().values().filter(|circuit| circuit.open.is_some()).count() }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Circuit>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Party;

    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn place(version: &str) -> Place {
        Place { tenant: TenantId(1), connection: ConnectionId(2), stage: 0, version: VersionHash::of(version.as_bytes()) }
    }

    fn stop() -> Failure {
        Failure { party: Party::Plugin, code: "abort".into(), detail: "it aborted".into(), retryable: false }
    }

    #[test]
    fn opens_after_stops_in_a_row_and_closes_with_an_answer() {
        let (circuits, place) = (Circuits::default(), place("a"));
        let stopped = |is_try, now| circuits.stopped(place, 3, is_try, &stop(), now);
        assert_eq!([stopped(false, START), stopped(false, START)], [Stopped::Counted; 2]);
        assert!(!circuits.answered(&place), "it was closed");
        assert_eq!([stopped(false, START), stopped(false, START)], [Stopped::Counted; 2], "a row begins anew");
        assert_eq!(circuits.standing(&place, START), Standing::Sound);
        assert_eq!(stopped(false, START), Stopped::Opened);
        let due = START.after(FIRST_TRY);
        assert_eq!(circuits.standing(&place, START), Standing::Poisoned(due));
        assert_eq!(circuits.standing(&self::place("b"), START), Standing::Sound, "another version");
        assert_eq!(circuits.poisoned(TenantId(1)).len(), 1);
        assert!(circuits.poisoned(TenantId(2)).is_empty());
        assert_eq!(circuits.standing(&place, due), Standing::Due);
        assert!(circuits.answered(&place));
        assert_eq!((circuits.standing(&place, due), circuits.open()), (Standing::Sound, 0));
    }

    #[test]
    fn is_tried_with_one_event_and_less_often_each_time() {
        let (circuits, place) = (Circuits::default(), place("a"));
        circuits.stopped(place, 1, false, &stop(), START);
        let (mut now, mut pauses) = (START.after(FIRST_TRY), Vec::new());
        for _ in 0..9 {
            assert_eq!(circuits.standing(&place, now), Standing::Due);
            circuits.try_out(&place, now);
            assert_ne!(circuits.standing(&place, now), Standing::Due, "one is under way");
            assert_eq!(circuits.stopped(place, 1, false, &stop(), now), Stopped::Open, "one that began before");
            circuits.stopped(place, 1, true, &stop(), now);
            let Standing::Poisoned(next) = circuits.standing(&place, now) else { panic!("open") };
            pauses.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    }

    #[test]
    fn there_are_only_so_many() {
        let circuits = Circuits::default();
        for connection in 0..CIRCUITS as u128 + 5 {
            let place = Place { connection: ConnectionId(connection), ..place("a") };
            circuits.stopped(place, 1, false, &stop(), Timestamp(START.0 + connection as u64));
        }
        assert_eq!(circuits.open(), CIRCUITS);
        assert_eq!(circuits.standing(&Place { connection: ConnectionId(0), ..place("a") }, START), Standing::Sound);
    }
}
