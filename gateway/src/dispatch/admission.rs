//! Whether an attempt may begin: its destination's and its tenant's rate ([`super::rate`]), its destination's circuit
//! ([`super::circuit`]), and whether there was a connection for it lately ([`super::rest`]), of one shard. What has to wait is parked in
//! the store behind its destination, and costs neither memory nor an attempt; a queue is served as slots come up, and with single
//! deliveries while its circuit is tried.
//!
//! All of it belongs to the shard's owner, in memory. The next owner finds circuits out anew; slots go on where they were. What is to
//! outlast an owner is told to [`Noticed`](crate::control::condition::Noticed): a destination that is gone, or has failed for very long.
//!
//! A destination without a limit that has not failed lately costs two atomic loads.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Shared;
use super::circuit::{Breaker, Change, Circuit, Phase, Standing};
use super::rate::{AHEAD, Full, PATIENCE, Slot, Slots};
use super::rest::Rests;
use super::wait::Wait;
use super::window::Windows;
use crate::clock::Timestamp;
use crate::control::condition::{CircuitNote, Noticed};
use crate::control::snapshot::{Connection, Destination, Snapshot};
use crate::event::{DestinationId, Failure, Shard};
use crate::store::QueueKey;
use crate::telemetry::metrics::CircuitChange;

/// Circuits of one shard; destinations beyond have none until others are forgotten.
const CIRCUITS: usize = 16_384;
/// A destination is said to fail after this part of the time after which it is disabled.
const WARNING: u32 = 5;
/// With fewer failures nothing is said of how long they last.
const FAILURES: u64 = 3;

/// What one shard knows. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Admission(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shard: Shard,
    slots: Mutex<Slots>,
    circuits: Mutex<HashMap<DestinationId, Circuit>>,
    /// How many there are: with none, as a rule, nobody needs the lock.
    count: AtomicUsize,
    rests: Mutex<Rests>,
    /// How many of these there are, for the same reason.
    resting: AtomicUsize,
    /// Queues of destinations that hold something, but for those that only wait for a place in a window.
    waiting: Mutex<HashSet<QueueKey>>,
}

/// An attempt that may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// When.
    pub(super) slot: Slot,
    /// Whether it tries an open circuit.
    pub(super) is_probe: bool,
}

/// What an attempt says about its destination.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer<'a> {
    /// It works.
    Taken,
    /// It fails.
    Failed(&'a Failure),
    /// It wants nothing any more.
    Gone(&'a Failure),
    /// Nothing.
    Nothing,
}

impl Admission {
    /// For an owner that begins now.
    pub(super) fn new(shard: Shard, now: Timestamp) -> Self {
        Self(Arc::new(Inner {
            shard,
            slots: Mutex::new(Slots::new(now)),
            circuits: Mutex::default(),
            count: AtomicUsize::new(0),
            rests: Mutex::default(),
            resting: AtomicUsize::new(0),
            waiting: Mutex::default(),
        }))
    }

    /// Whether a connection's attempts have to ask.
    pub(super) fn concerns(&self, connection: &Connection) -> bool {
        let Inner { count, resting, .. } = &*self.0;
        !connection.destination.paces.is_empty() || [count, resting].iter().any(|count| count.load(Ordering::Acquire) > 0)
    }

    /// Lets an attempt in that did not wait so far, or says for what it waits.
    pub(super) fn enter(&self, destination: &Destination, now: Timestamp) -> Result<Turn, Wait> {
        self.take(destination, now, PATIENCE)
    }

    /// Lets one in that waited in the destination's queue.
    pub(super) fn pass(&self, snapshot: &Snapshot, queue: QueueKey, now: Timestamp) -> Option<Turn> {
        self.found(snapshot, queue);
        // A batch asks for all that is in it, once it is complete.
        let destination = destination_of(snapshot, queue).filter(|destination| destination.batch.is_none())?;
        self.take(destination, now, AHEAD).ok()
    }

    fn take(&self, destination: &Destination, now: Timestamp, ahead: Duration) -> Result<Turn, Wait> {
        if matches!(self.standing(destination, now), Standing::Open(_)) {
            return Err(Wait::CircuitOpen);
        }
        if self.rests_until(destination, now).is_some_and(|until| now < until) {
            return Err(Wait::NoCapacity);
        }
        let slot = if destination.paces.is_empty() {
            Slot { at: now, until: Timestamp(u64::MAX) }
        } else {
            self.slots().take(&destination.paces, now, ahead).map_err(wait_for)?
        };
        let begun = self.with_circuit(destination, |circuit, breaker| circuit.begin(breaker, now));
        let is_probe = begun.unwrap_or(Some(false)).ok_or(Wait::CircuitOpen)?;
        Ok(Turn { slot, is_probe })
    }

    /// How many of the destination's queue may leave it now.
    pub(super) fn room(&self, destination: &Destination, now: Timestamp) -> usize {
        let probes = match self.standing(destination, now) {
            _ if !destination.enabled => return 0,
            _ if self.rests_until(destination, now).is_some_and(|until| now < until) => return 0,
            Standing::Open(_) => return 0,
            Standing::Probing(probes) => probes,
            Standing::Closed => usize::MAX,
        };
        if destination.paces.is_empty() {
            return probes;
        }
        let slots = self.slots().free(&destination.paces, now, AHEAD);
        probes.min(destination.batch.as_ref().map_or(slots, |batch| slots.saturating_mul(batch.max_events)))
    }

    /// For what the destination's queue waits, beside its window.
    pub(super) fn wait_of(&self, destination: &Destination, now: Timestamp) -> Wait {
        if !destination.enabled {
            return Wait::of_disabled(destination);
        }
        if self.standing(destination, now) != Standing::Closed {
            return Wait::CircuitOpen;
        }
        let (rests, next) = (self.rests_until(destination, now), self.slots().when(&destination.paces, now));
        match rests {
            Some(until) if now < until => Wait::NoCapacity,
            _ if next.next > now.after(PATIENCE) => wait_for(next),
            // It found none when it last looked.
            Some(_) => Wait::NoCapacity,
            None => Wait::DestinationWindow,
        }
    }

    /// Whether the destination's circuit or its being disabled keeps all of its queue.
    pub(super) fn is_shut(&self, destination: &Destination, now: Timestamp) -> bool {
        !destination.enabled || matches!(self.standing(destination, now), Standing::Open(_))
    }

    /// Notes that something waits in a queue for more than a place in a window.
    pub(super) fn park(&self, queue: QueueKey) {
        self.waiting().insert(queue);
    }

    /// The same for a queue of which only its destination tells what it waits for.
    pub(super) fn found(&self, snapshot: &Snapshot, queue: QueueKey) {
        let has_pace = || destination_of(snapshot, queue).is_some_and(|destination| !destination.paces.is_empty());
        if matches!(queue, QueueKey::Ordered(..)) || has_pace() {
            self.park(queue);
        }
    }

    /// In how long the next of what waits may go on, as far as this is asked. None if nothing does.
    pub(super) fn ready_in(&self, shared: &Shared, windows: &Windows) -> Option<Duration> {
        if self.waiting().is_empty() {
            return None;
        }
        let (snapshot, now) = (shared.snapshots.load(), shared.clock.now());
        let mut waiting = self.waiting();
        waiting.retain(|queue| windows.is_waiting(*queue));
        let ready = |queue: &QueueKey| {
            let destination = destination_of(&snapshot, *queue).filter(|destination| destination.enabled)?;
            let rests = self.rests_until(destination, now).filter(|until| now < *until);
            let at = match self.standing(destination, now) {
                Standing::Open(until) => until,
                Standing::Closed if destination.paces.is_empty() => rests?,
                _ => self.slots().when(&destination.paces, now).next.before(AHEAD),
            };
            Some(at.max(rests.unwrap_or(at)).since(now))
        };
        waiting.iter().filter_map(ready).min()
    }

    /// Takes the turn of an attempt back that did not begin.
    pub(super) fn unused(&self, destination: &Destination, is_probe: bool) {
        if is_probe {
            self.with_circuit(destination, |circuit, _| circuit.unused());
        }
    }

    /// Learns that there was no connection for an attempt that began at `since`: until when it rests, and that its turn was not used.
    pub(super) fn found_no_connection(&self, destination: &Destination, is_probe: bool, since: Timestamp, now: Timestamp) {
        self.unused(destination, is_probe);
        let mut rests = self.rests();
        rests.missed(destination.id, since, now);
        self.0.resting.store(rests.count(), Ordering::Release);
    }

    fn found_connection(&self, destination: &Destination) {
        if self.0.resting.load(Ordering::Acquire) > 0 {
            let mut rests = self.rests();
            rests.found(destination.id);
            self.0.resting.store(rests.count(), Ordering::Release);
        }
    }

    /// Until when a destination rests for want of a connection, or rested when it last looked for one in vain.
    fn rests_until(&self, destination: &Destination, now: Timestamp) -> Option<Timestamp> {
        if self.0.resting.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.rests().until(destination.id, now)
    }

    /// Learns from an attempt that ended. Says how the circuit stands if that changed, for whoever looks at it.
    pub(super) fn ended(
        &self,
        shared: &Shared,
        destination: &Destination,
        answer: Answer<'_>,
        is_probe: bool,
        now: Timestamp,
    ) -> Option<CircuitNote> {
        self.found_connection(destination);
        let (tenant, id) = (destination.tenant, destination.id);
        let change = match answer {
            Answer::Nothing => {
                self.unused(destination, is_probe);
                return None;
            }
            Answer::Taken => {
                if destination.failing_since.is_some() {
                    (shared.noticed)(tenant, id, Noticed::Recovered, now);
                }
                self.with_circuit(destination, |circuit, breaker| circuit.succeeded(breaker, is_probe, now))?
            }
            Answer::Failed(failure) => {
                self.make(destination, failure, now);
                let (change, failing) = self.with_circuit(destination, |circuit, breaker| {
                    (circuit.failed(breaker, is_probe, failure, now), circuit.failing())
                })?;
                self.tell_long(shared, destination, failing, failure, now);
                change
            }
            Answer::Gone(failure) => {
                (shared.noticed)(tenant, id, Noticed::Gone { detail: failure.detail.clone() }, now);
                self.make(destination, failure, now);
                // Until the news is around.
                self.with_circuit(destination, |circuit, breaker| match circuit.phase() {
                    Phase::Open => Change::None,
                    _ => circuit.open(breaker, now),
                })?
            }
        };
        self.tell(shared, destination, change, now)
    }

    fn tell(&self, shared: &Shared, destination: &Destination, change: Change, now: Timestamp) -> Option<CircuitNote> {
        if change == Change::None {
            if self.with_circuit(destination, |circuit, _| circuit.is_over(now))? {
                self.remove(destination.id);
            }
            return None;
        }
        let note = self.with_circuit(destination, |circuit, _| note_of(circuit))?;
        let is_new = note.since == now;
        let (tenant, id, name) = (destination.tenant, destination.id, &destination.name);
        let metric = match change {
            Change::Opened if is_new => {
                let until = note.until;
                tracing::warn!(%tenant, destination = %id, name, code = note.reason.code, ?until, "circuit opened: the destination fails");
                CircuitChange::Opened
            }
            Change::Opened => CircuitChange::Reopened,
            Change::Closed => {
                tracing::info!(%tenant, destination = %id, name, "circuit closed: the destination answers again");
                CircuitChange::Closed
            }
            Change::HalfOpened | Change::None => CircuitChange::HalfOpened,
        };
        shared.metrics.destination_circuit(self.0.shard, metric, self.open());
        Some(note)
    }

    /// Says that a destination has failed for long, before it is disabled and when it is to be.
    fn tell_long(
        &self,
        shared: &Shared,
        destination: &Destination,
        failing: Option<(Timestamp, u64)>,
        failure: &Failure,
        now: Timestamp,
    ) {
        let disable_after = destination.breaker.as_ref().and_then(|breaker| breaker.disable_after_ms);
        let (Some(disable_after), Some((since, count))) = (disable_after, failing) else { return };
        let since = destination.failing_since.map_or(since, |noted| noted.min(since)).max(destination.enabled_at);
        let (time, disable_after) = (now.since(since), Duration::from_millis(disable_after));
        if count < FAILURES || !destination.enabled {
            return;
        }
        if time >= disable_after {
            let detail = format!("it has failed since {since}, the last time with {}: {}", failure.code, failure.detail);
            (shared.noticed)(destination.tenant, destination.id, Noticed::FailedTooLong { detail }, now);
        } else if time >= disable_after / WARNING && destination.failing_since.is_none() {
            (shared.noticed)(destination.tenant, destination.id, Noticed::Failing { since }, now);
        }
    }

    fn standing(&self, destination: &Destination, now: Timestamp) -> Standing {
        self.with_circuit(destination, |circuit, breaker| circuit.standing(breaker, now)).unwrap_or(Standing::Closed)
    }

    /// The destination's circuit, if it has one. One from before it was last enabled is forgotten.
    fn with_circuit<T>(&self, destination: &Destination, ask: impl FnOnce(&mut Circuit, &Breaker) -> T) -> Option<T> {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut circuits = self.circuits();
        let circuit = circuits.get_mut(&destination.id)?;
        match &destination.breaker {
            Some(breaker) if circuit.since() >= destination.enabled_at => Some(ask(circuit, breaker)),
            _ => {
                circuits.remove(&destination.id);
                self.0.count.store(circuits.len(), Ordering::Release);
                None
            }
        }
    }

    /// Makes a circuit for a destination that has none.
    fn make(&self, destination: &Destination, reason: &Failure, now: Timestamp) {
        if destination.breaker.is_none() {
            return;
        }
        let mut circuits = self.circuits();
        if circuits.len() >= CIRCUITS && !circuits.contains_key(&destination.id) {
            circuits.retain(|_, circuit| !circuit.is_over(now));
            if circuits.len() >= CIRCUITS {
                return;
            }
        }
        circuits.entry(destination.id).or_insert_with(|| Circuit::new(reason.clone(), now));
        self.0.count.store(circuits.len(), Ordering::Release);
    }

    fn remove(&self, destination: DestinationId) {
        let mut circuits = self.circuits();
        circuits.remove(&destination);
        self.0.count.store(circuits.len(), Ordering::Release);
    }

    /// Circuits that are not closed.
    pub(super) fn not_closed(&self) -> Vec<(DestinationId, CircuitNote)> {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let circuits = self.circuits();
        let open = circuits.iter().filter(|(_, circuit)| circuit.phase() != Phase::Closed);
        open.map(|(destination, circuit)| (*destination, note_of(circuit))).collect()
    }

    fn open(&self) -> usize {
        self.circuits().values().filter(|circuit| circuit.phase() != Phase::Closed).count()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rests(&self) -> MutexGuard<'_, Rests> {
        self.0.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn circuits(&self) -> MutexGuard<'_, HashMap<DestinationId, Circuit>> {
        self.0.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashSet<QueueKey>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn destination_of(snapshot: &Snapshot, queue: QueueKey) -> Option<&Destination> {
    match queue {
        QueueKey::Destination(_, destination) | QueueKey::Ordered(_, destination) => {
            snapshot.destinations.get(&destination).map(|destination| &**destination)
        }
        _ => None,
    }
}

fn wait_for(full: Full) -> Wait {
    if full.by_tenant { Wait::DeliveryRate } else { Wait::RateLimit }
}

fn note_of(circuit: &Circuit) -> CircuitNote {
    let reason = circuit.reason().clone();
    CircuitNote { phase: circuit.phase(), since: circuit.since(), until: circuit.until(), reason }
}
