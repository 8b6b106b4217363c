//! In-flight windows: how much of one tenant, or of one destination, a shard works on at once. What is over its window waits in
//! a sub-queue of the store, never in memory, and newcomers queue up behind it.
//!
//! The sub-queues are served by tenant: each in its turn, by its weight, whatever the number of its queues. Whatever way work came
//! (a lane, the schedule, a sub-queue), it counts against its tenant for as long as it is in flight, so that a tenant with slow
//! destinations has no more of the node's time than others.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::clock::Timestamp;
use crate::event::TenantId;
use crate::store::QueueKey;

/// How long an attempt waits for its destination's window before it is parked.
const PATIENCE: Duration = Duration::from_millis(25);

/// The windows of one shard. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Windows(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct State {
    tenants: HashMap<TenantId, Tenant>,
    queues: HashMap<QueueKey, Queue>,
    /// Tenants with parked work, in the order in which they are served. A tenant stands here at most once.
    ring: VecDeque<TenantId>,
    /// Tenants whose turn came to nothing, for lack of room.
    waiting: HashSet<TenantId>,
}

#[derive(Debug, Default)]
struct Tenant {
    in_flight: usize,
    bytes: usize,
    /// Its queues that hold work which can be read, in the order in which they are served.
    line: VecDeque<QueueKey>,
    /// Whether it stands in the ring, or among those that wait.
    listed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    /// Attempts, of a destination.
    in_flight: usize,
    /// Attempts that wait for one of these to end.
    next: VecDeque<oneshot::Sender<Permit>>,
    /// Jobs that were put into the queue, or are on their way there: newcomers go behind them.
    waiting: u64,
    /// Those of them that the store has.
    readable: u64,
    /// Since when the front of the queue waits, or earlier: what was last taken stood before it.
    front: Option<Timestamp>,
    listed: bool,
}

/// How much may be in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// How much of it is taken up in one turn.
    pub(super) turn: usize,
}

/// The turn of a tenant: which of its queues, and with how much.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) queue: QueueKey,
    pub(super) permits: Vec<Permit>,
    pub(super) bytes: usize,
}

/// A place in the windows. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Permit {
    windows: Windows,
    tenant: Option<TenantId>,
    bytes: usize,
    destination: Option<QueueKey>,
}

impl Windows {
    /// A place for work of a tenant that is not parked, or the queue that it goes to: one of these, the first that older work waits in,
    /// or the tenant's own if its window is full.
    pub(super) fn enter(&self, tenant: TenantId, behind: &[QueueKey], limit: Limit, bytes: usize) -> Result<Permit, QueueKey> {
        let mut state = self.state();
        let own = QueueKey::Tenant(tenant);
        let older = |queue: &&QueueKey| state.queues.get(queue).is_some_and(|queue| queue.waiting > 0);
        if let Some(queue) = behind.iter().chain([&own]).find(older) {
            return Err(*queue);
        }
        let slot = state.tenants.entry(tenant).or_default();
        let has_room = slot.in_flight < limit.events && (slot.in_flight == 0 || slot.bytes.saturating_add(bytes) <= limit.bytes);
        if !has_room {
            state.forget(tenant, None);
            return Err(own);
        }
        slot.in_flight += 1;
        slot.bytes += bytes;
        Ok(Permit { windows: self.clone(), tenant: Some(tenant), bytes, destination: None })
    }

    /// A place for an attempt, unless the destination's window stays full for [`PATIENCE`] or older work waits in its queue. Its tenant
    /// has one already, which bounds how many wait: a burst that the destination soon takes is not worth a way through the store.
    pub(super) async fn enter_destination(&self, queue: QueueKey, limit: usize) -> Option<Permit> {
        let turn = {
            let mut state = self.state();
            let slot = state.queues.entry(queue).or_default();
            if slot.waiting > 0 || limit == 0 {
                return None;
            }
            if slot.in_flight < limit {
                slot.in_flight += 1;
                return Some(Permit { windows: self.clone(), tenant: None, bytes: 0, destination: Some(queue) });
            }
            let (hand, turn) = oneshot::channel();
            slot.next.push_back(hand);
            turn
        };
        tokio::time::timeout(PATIENCE, turn).await.ok()?.ok()
    }

    /// Notes that a job is on its way into the queue: from now on newcomers go behind it.
    pub(super) fn park(&self, key: QueueKey, since: Timestamp) {
        let mut state = self.state();
        let slot = state.queues.entry(key).or_default();
        slot.waiting += 1;
        slot.front.get_or_insert(since);
    }

    /// Notes that `count` jobs, noted by [`Windows::park`], are in the store's queue now.
    pub(super) fn parked(&self, key: QueueKey, count: u64) {
        let mut state = self.state();
        state.queues.entry(key).or_default().readable += count;
        state.list(key);
        self.0.ready.notify_one();
    }

    /// Notes a queue that an earlier owner left.
    pub(super) fn found(&self, key: QueueKey, count: u64) {
        self.state().queues.entry(key).or_default().waiting += count;
        self.parked(key, count);
    }

    /// The next tenant that has parked work and room for it. It goes to the end of the line.
    pub(super) fn next(&self, limits: &dyn Fn(QueueKey) -> Limit) -> Option<Turn> {
        let mut state = self.state();
        while let Some(tenant) = state.ring.pop_front() {
            let Some(turn) = state.turn_of(tenant, limits) else {
                state.wait(tenant);
                continue;
            };
            let permit = |_| Permit {
                windows: self.clone(),
                tenant: Some(tenant),
                bytes: 0,
                destination: matches!(turn.queue, QueueKey::Destination(..)).then_some(turn.queue),
            };
            return Some(Turn { queue: turn.queue, permits: (0..turn.room).map(permit).collect(), bytes: turn.bytes });
        }
        None
    }

    /// Gives those another turn whose last came to nothing: there may be room by now.
    pub(super) fn look_again(&self) {
        let mut state = self.state();
        let waiting = std::mem::take(&mut state.waiting);
        state.ring.extend(waiting);
    }

    /// Notes that `count` jobs were taken out of the queue, the last of which waited since `last`. None means that it is empty after
    /// all.
    pub(super) fn unparked(&self, key: QueueKey, count: u64, last: Option<Timestamp>) {
        let mut state = self.state();
        if let Some(slot) = state.queues.get_mut(&key) {
            let gone = if count == 0 { slot.readable } else { count.min(slot.readable) };
            slot.readable -= gone;
            slot.waiting = slot.waiting.saturating_sub(gone);
            slot.front = if slot.waiting == 0 { None } else { last.or(slot.front) };
        }
        state.list(key);
        state.forget(key.tenant(), Some(key));
    }

    /// Notes that a turn came to nothing: the queue waits until [`Windows::look_again`].
    pub(super) fn put_back(&self, turn: Turn) {
        let (key, tenant) = (turn.queue, turn.queue.tenant());
        let mut state = self.state();
        for mut permit in turn.permits {
            // Whoever waits for room need not hear of it.
            state.leave(&permit);
            (permit.tenant, permit.destination) = (None, None);
        }
        state.waiting.remove(&tenant);
        if let Some(at) = state.ring.iter().rposition(|listed| *listed == tenant) {
            state.ring.remove(at);
        }
        state.join_line(key);
        if let Some(slot) = state.tenants.get_mut(&tenant) {
            slot.listed = true;
            state.waiting.insert(tenant);
        }
    }

    /// Notes that a job, noted by [`Windows::park`], did not go into the queue after all.
    pub(super) fn gone(&self, key: QueueKey) {
        let mut state = self.state();
        if let Some(slot) = state.queues.get_mut(&key) {
            slot.waiting = slot.waiting.saturating_sub(1);
        }
        state.forget(key.tenant(), Some(key));
    }

    /// Whether anything waits in the queue, or is on its way there.
    pub(super) fn is_waiting(&self, key: QueueKey) -> bool {
        self.state().queues.get(&key).is_some_and(|queue| queue.waiting > 0)
    }

    /// Since when the oldest of all that is parked waits, as far as is known: of a queue that an earlier owner left, from its first
    /// turn on.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.state().queues.values().filter_map(|slot| slot.front).min()
    }

    /// Queues that can be read and whose front may wait since `cutoff` or longer.
    pub(super) fn waiting_since(&self, cutoff: Timestamp) -> Vec<QueueKey> {
        let state = self.state();
        let old = |slot: &Queue| slot.readable > 0 && slot.front.is_none_or(|front| front <= cutoff);
        state.queues.iter().filter(|(_, slot)| old(slot)).map(|(key, _)| *key).collect()
    }

    /// Resolves once a queue may have become ready since the last call.
    pub(super) async fn ready(&self) {
        self.0.ready.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a turn has room for.
struct Room {
    queue: QueueKey,
    room: usize,
    bytes: usize,
}

impl State {
    fn turn_of(&mut self, tenant: TenantId, limits: &dyn Fn(QueueKey) -> Limit) -> Option<Room> {
        let slot = self.tenants.get_mut(&tenant)?;
        let limit = limits(QueueKey::Tenant(tenant));
        let of_tenant = limit.events.saturating_sub(slot.in_flight);
        let bytes = if slot.in_flight == 0 { limit.bytes.max(1) } else { limit.bytes.saturating_sub(slot.bytes) };
        if of_tenant == 0 || bytes == 0 {
            return None;
        }
        for _ in 0..slot.line.len() {
            let Some(key) = slot.line.pop_front() else { break };
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let readable = usize::try_from(queue.readable).unwrap_or(usize::MAX);
            let own = if matches!(key, QueueKey::Tenant(_)) { Limit { events: usize::MAX, ..limit } } else { limits(key) };
            let (of_queue, turn) = (own.events, limit.turn.min(own.turn));
            let room = of_tenant.min(readable).min(turn).min(of_queue.saturating_sub(queue.in_flight));
            if room == 0 {
                slot.line.push_back(key);
                continue;
            }
            queue.listed = false;
            slot.in_flight += room;
            if matches!(key, QueueKey::Destination(..)) {
                queue.in_flight += room;
            }
            slot.listed = !slot.line.is_empty();
            if slot.listed {
                self.ring.push_back(tenant);
            }
            return Some(Room { queue: key, room, bytes });
        }
        None
    }

    /// Notes that a tenant's turn came to nothing.
    fn wait(&mut self, tenant: TenantId) {
        match self.tenants.get_mut(&tenant) {
            Some(slot) if !slot.line.is_empty() => {
                self.waiting.insert(tenant);
            }
            Some(slot) => {
                slot.listed = false;
                self.forget(tenant, None);
            }
            None => {}
        }
    }

    /// Puts a queue with work into its tenant's line; whether it stands there.
    fn join_line(&mut self, key: QueueKey) -> bool {
        let Some(queue) = self.queues.get_mut(&key).filter(|queue| queue.readable > 0) else { return false };
        if !std::mem::replace(&mut queue.listed, true) {
            self.tenants.entry(key.tenant()).or_default().line.push_back(key);
        }
        true
    }

    fn list(&mut self, key: QueueKey) {
        if !self.join_line(key) {
            return;
        }
        let tenant = key.tenant();
        let slot = self.tenants.entry(tenant).or_default();
        if !std::mem::replace(&mut slot.listed, true) {
            self.ring.push_back(tenant);
        }
    }

    /// Forgets who has nothing in flight and nothing that waits.
    fn forget(&mut self, tenant: TenantId, queue: Option<QueueKey>) {
        if let Some(key) = queue
            && self.queues.get(&key).is_some_and(|queue| queue.in_flight == 0 && queue.waiting == 0 && !queue.listed)
        {
            self.queues.remove(&key);
        }
        if self.tenants.get(&tenant).is_some_and(|slot| slot.in_flight == 0 && slot.line.is_empty() && !slot.listed) {
            self.tenants.remove(&tenant);
        }
    }

    fn leave(&mut self, permit: &Permit) -> bool {
        if let Some(tenant) = permit.tenant
            && let Some(slot) = self.tenants.get_mut(&tenant)
        {
            slot.in_flight -= 1;
            slot.bytes -= permit.bytes;
        }
        if let Some(key) = permit.destination
            && let Some(queue) = self.queues.get_mut(&key)
            && !queue.hand_on(permit)
        {
            queue.in_flight -= 1;
        }
        let Some(tenant) = permit.tenant.or(permit.destination.map(QueueKey::tenant)) else { return false };
        let has_work = self.tenants.get(&tenant).is_some_and(|slot| !slot.line.is_empty());
        if has_work {
            if self.waiting.remove(&tenant) {
                self.ring.push_back(tenant);
            }
        } else {
            self.forget(tenant, permit.destination);
        }
        has_work
    }
}

impl Queue {
    /// Gives a destination's place to who waits for one; whether anybody does.
    fn hand_on(&mut self, permit: &Permit) -> bool {
        while let Some(hand) = self.next.pop_front() {
            let place = Permit { windows: permit.windows.clone(), tenant: None, bytes: 0, destination: permit.destination };
            // Who gave up waiting does not take it. Its place was never another one, so it must not be freed.
            match hand.send(place) {
                Ok(()) => return true,
                Err(mut place) => place.destination = None,
            }
        }
        false
    }
}

impl Permit {
    /// Counts the bytes of what was found for it.
    pub(super) fn weigh(&mut self, bytes: usize) {
        let Some(tenant) = self.tenant else { return };
        if let Some(slot) = self.windows.state().tenants.get_mut(&tenant) {
            slot.bytes += bytes;
            self.bytes += bytes;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.tenant.is_none() && self.destination.is_none() {
            return;
        }
        let has_work = self.windows.state().leave(self);
        if has_work {
            self.windows.0.ready.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::event::{DestinationId, SourceId};

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);
    const OWN: QueueKey = QueueKey::Tenant(A);

    fn limit(events: usize) -> Limit {
        Limit { events, bytes: 1000, turn: 1 }
    }

    fn all(events: usize) -> impl Fn(QueueKey) -> Limit {
        move |_| limit(events)
    }

    fn enter(windows: &Windows, tenant: TenantId, events: usize) -> Result<Permit, QueueKey> {
        windows.enter(tenant, &[], limit(events), 1)
    }

    #[test]
    fn newcomers_queue_up_behind_parked_work() {
        let windows = Windows::default();
        let first = enter(&windows, A, 1).expect("room");
        assert_eq!(enter(&windows, A, 1).err(), Some(OWN), "full");
        windows.park(OWN, Timestamp(7));
        windows.park(OWN, Timestamp(8));
        assert_eq!(windows.oldest(), Some(Timestamp(7)));
        drop(first);
        assert!(enter(&windows, A, 1).is_err(), "older work is on its way to the store");
        assert!(windows.next(&all(1)).is_none(), "and cannot be read yet");
        assert!(enter(&windows, B, 1).is_ok(), "others never feel it");
        windows.parked(OWN, 2);
        let Turn { queue, permits, .. } = windows.next(&all(1)).expect("ready");
        assert_eq!((queue, permits.len()), (OWN, 1));
        windows.unparked(OWN, 1, Some(Timestamp(7)));
        assert_eq!(windows.oldest(), Some(Timestamp(7)), "what is left is no older");
        assert!(windows.next(&all(1)).is_none(), "full");
        drop(permits);
        let Turn { permits, .. } = windows.next(&all(1)).expect("ready");
        windows.unparked(OWN, 1, Some(Timestamp(8)));
        assert_eq!(windows.oldest(), None);
        drop(permits);
        assert!(enter(&windows, A, 1).is_ok());
    }

    #[test]
    fn tenants_are_served_in_turn_whatever_the_number_of_their_queues() {
        let windows = Windows::default();
        for destination in 0..5 {
            windows.found(QueueKey::Destination(A, DestinationId(destination)), 2);
        }
        windows.found(QueueKey::Tenant(B), 3);
        let mut order = Vec::new();
        while let Some(turn) = windows.next(&all(8)) {
            order.push(turn.queue.tenant());
            windows.unparked(turn.queue, turn.permits.len() as u64, None);
        }
        assert_eq!(order[..7], [A, B, A, B, A, B, A]);
        assert_eq!(order.len(), 13);
    }

    #[test]
    fn a_turn_is_as_long_as_the_weight_says() {
        let windows = Windows::default();
        windows.found(QueueKey::Tenant(A), 9);
        windows.found(QueueKey::Tenant(B), 9);
        let weighted = |key: QueueKey| Limit { turn: if key.tenant() == A { 3 } else { 1 }, ..limit(100) };
        let mut taken = Vec::new();
        for _ in 0..4 {
            let turn = windows.next(&weighted).expect("work");
            taken.push((turn.queue.tenant(), turn.permits.len()));
            windows.unparked(turn.queue, turn.permits.len() as u64, None);
        }
        assert_eq!(taken, [(A, 3), (B, 1), (A, 3), (B, 1)]);
    }

    #[test]
    fn a_full_destination_waits_for_its_own_room_and_holds_up_no_other() {
        let windows = Windows::default();
        let (full, free) = (QueueKey::Destination(A, DestinationId(1)), QueueKey::Destination(A, DestinationId(2)));
        windows.found(full, 1);
        windows.found(free, 1);
        let limits = |key| limit(if key == full { 1 } else { 8 });
        let one = windows.next(&limits).expect("ready");
        assert_eq!(one.queue, full);
        windows.unparked(full, 1, None);
        windows.found(full, 5);
        let other = windows.next(&limits).expect("ready");
        assert_eq!(other.queue, free);
        windows.unparked(free, 1, None);
        assert!(windows.next(&limits).is_none(), "full");
        assert_eq!(windows.enter_destination(full, 8).now_or_never().map(|place| place.is_none()), Some(true), "older work waits");
        drop(one.permits);
        assert_eq!(windows.next(&limits).map(|turn| turn.queue), Some(full));
    }

    #[tokio::test]
    async fn a_place_goes_from_one_attempt_to_the_next() {
        let windows = Windows::default();
        let queue = QueueKey::Destination(A, DestinationId(1));
        let first = windows.enter_destination(queue, 1).await.expect("room");
        let mut second = Box::pin(windows.enter_destination(queue, 1));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(windows.enter_destination(queue, 1).await.is_none(), "it stays full");
        let mut third = Box::pin(windows.enter_destination(queue, 1));
        assert!(third.as_mut().now_or_never().is_none());
        // The second gave up meanwhile, as its time was over too.
        drop(second);
        drop(first);
        let third = third.await.expect("its turn");
        assert!(windows.enter_destination(queue, 1).await.is_none(), "there is one place only");
        drop(third);
        assert!(windows.state().queues.is_empty());
    }

    #[test]
    fn a_tenant_is_bounded_in_bytes_too_but_for_a_single_large_one() {
        let windows = Windows::default();
        let large = windows.enter(A, &[], limit(9), 5000).expect("alone");
        assert!(windows.enter(A, &[], limit(9), 1).is_err());
        windows.found(OWN, 1);
        assert!(windows.next(&all(9)).is_none());
        drop(large);
        let mut turn = windows.next(&all(9)).expect("ready");
        windows.unparked(turn.queue, 1, None);
        turn.permits[0].weigh(800);
        assert!(windows.enter(A, &[], limit(9), 300).is_err());
        assert!(windows.enter(A, &[], limit(9), 200).is_ok());
    }

    #[test]
    fn who_is_allowed_nothing_waits_until_somebody_looks_again() {
        let windows = Windows::default();
        let source = QueueKey::Source(A, SourceId(7));
        windows.found(source, 2);
        let held = |key| limit(if key == source { 0 } else { 9 });
        assert!(windows.next(&held).is_none());
        assert!(windows.next(&all(9)).is_none(), "nobody looked again");
        assert_eq!(windows.waiting_since(Timestamp(0)), [source], "how old it is is not known");
        windows.look_again();
        assert_eq!(windows.enter(A, &[source], limit(9), 1).err(), Some(source));
        assert!(enter(&windows, A, 9).is_ok(), "what came in elsewhere is not held");
        let turn = windows.next(&all(9)).expect("ready");
        windows.unparked(source, turn.permits.len() as u64, None);
        assert_eq!(windows.enter(A, &[source], limit(9), 1).err(), Some(source), "one is left");
    }

    #[test]
    fn a_queue_that_turns_out_empty_is_forgotten() {
        let windows = Windows::default();
        windows.found(OWN, 3);
        let turn = windows.next(&all(8)).expect("ready");
        windows.unparked(OWN, 0, None);
        drop(turn.permits);
        assert!(windows.next(&all(8)).is_none());
        assert!(enter(&windows, A, 1).is_ok());
        let state = windows.state();
        assert!(state.queues.is_empty(), "{:?}", state.queues);
    }
}
