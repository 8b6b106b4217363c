//! In-flight windows: how much of one tenant, or of one destination, a shard works on at once. What is over its window waits in
//! a sub-queue of the store, never in memory, and newcomers queue up behind it.
//!
//! The sub-queues are served by tenant: each in its turn, by its weight, whatever the number of its queues. Whatever way work came
//! (a lane, the schedule, a sub-queue), it counts against its tenant for as long as it is in flight, so that a tenant with slow
//! destinations has no more of the node's time than others.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
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
    /// When the next line of an ordered queue is due, one for each queue in which none is now.
    alarms: BTreeSet<(Timestamp, QueueKey)>,
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
    /// Those of them that the store has. Of an ordered queue, how many may be first of their lines: all, or none until somebody stirs.
    readable: u64,
    alarm: Option<Timestamp>,
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
    /// A place for work of a tenant that is not parked, or the queue that it goes to: the tenant's own if older work waits there or its
    /// window is full, or one of these, the first that older work waits in.
    pub(super) fn enter(&self, tenant: TenantId, behind: &[QueueKey], limit: Limit, bytes: usize) -> Result<Permit, QueueKey> {
        let mut state = self.state();
        let own = QueueKey::Tenant(tenant);
        let older = |queue: &&QueueKey| state.queues.get(queue).is_some_and(|queue| queue.waiting > 0);
        if let Some(queue) = [&own].into_iter().chain(behind).find(older) {
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
            let permit = |_| Permit { windows: self.clone(), tenant: Some(tenant), bytes: 0, destination: window_of(turn.queue) };
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

    /// Notes that work which goes into lines of an ordered queue, noted by [`Windows::park`], is in the store now; it is due at `due` or later.
    pub(super) fn lined(&self, key: QueueKey, due: Timestamp, now: Timestamp) {
        if due <= now {
            return self.stir(key);
        }
        self.state().set_alarm(key, due);
        self.0.ready.notify_one();
    }

    /// Notes that a line of an ordered queue may have another first job.
    pub(super) fn stir(&self, key: QueueKey) {
        let mut state = self.state();
        state.stir(key);
        self.0.ready.notify_one();
    }

    /// Notes that nothing of a tenant waits any more: it was purged.
    pub(super) fn emptied(&self, tenant: TenantId) {
        let mut state = self.state();
        let keys: Vec<_> = state.queues.keys().filter(|key| key.tenant() == tenant).copied().collect();
        if let Some(slot) = state.tenants.get_mut(&tenant) {
            slot.line.clear();
        }
        for key in keys {
            state.drop_alarm(key);
            if let Some(slot) = state.queues.get_mut(&key) {
                (slot.waiting, slot.readable, slot.front, slot.listed) = (0, 0, None, false);
            }
            state.forget(tenant, Some(key));
        }
    }

    /// Notes that `count` jobs were taken out of an ordered queue, the last of which waited since `last`, and that the next is due at `next`.
    pub(super) fn took(&self, key: QueueKey, count: u64, last: Option<Timestamp>, next: Option<Timestamp>, now: Timestamp) {
        let mut state = self.state();
        if let Some(slot) = state.queues.get_mut(&key) {
            slot.waiting = slot.waiting.saturating_sub(count);
            slot.front = if slot.waiting == 0 { None } else { last.or(slot.front) };
        }
        match next {
            Some(next) if next <= now => state.stir(key),
            Some(next) => state.set_alarm(key, next),
            None => {}
        }
        state.forget(key.tenant(), Some(key));
    }

    /// Stirs the ordered queues of which a line is due by now. Answers when the next is.
    pub(super) fn ring(&self, now: Timestamp) -> Option<Timestamp> {
        let mut state = self.state();
        while let Some((due, key)) = state.alarms.first().copied() {
            if due > now {
                return Some(due);
            }
            state.alarms.pop_first();
            state.stir(key);
        }
        None
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
        if let (QueueKey::Ordered(..), Some(slot)) = (key, state.queues.get_mut(&key)) {
            slot.readable = slot.waiting;
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

    /// Whether anything waits in the queue, or is on its way there.
    pub(super) fn is_waiting(&self, key: QueueKey) -> bool {
        self.waiting(key) > 0
    }

    /// How much waits in the queue, or is on its way there.
    pub(super) fn waiting(&self, key: QueueKey) -> u64 {
        self.state().queues.get(&key).map_or(0, |queue| queue.waiting)
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
            let window = window_of(key);
            let in_flight = window.and_then(|window| self.queues.get(&window)).map_or(0, |window| window.in_flight);
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let readable = usize::try_from(queue.readable).unwrap_or(usize::MAX);
            let own = if matches!(key, QueueKey::Tenant(_)) { Limit { events: usize::MAX, ..limit } } else { limits(key) };
            let (of_queue, turn) = (own.events, limit.turn.min(own.turn));
            let room = of_tenant.min(readable).min(turn).min(of_queue.saturating_sub(in_flight));
            if room == 0 {
                slot.line.push_back(key);
                continue;
            }
            queue.listed = false;
            if matches!(key, QueueKey::Ordered(..)) {
                queue.readable = 0;
            }
            slot.in_flight += room;
            if let Some(window) = window {
                self.queues.entry(window).or_default().in_flight += room;
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

    /// All of an ordered queue may be first of their lines.
    fn stir(&mut self, key: QueueKey) {
        if let Some(slot) = self.queues.get_mut(&key) {
            slot.readable = slot.waiting;
        }
        self.drop_alarm(key);
        self.list(key);
    }

    fn set_alarm(&mut self, key: QueueKey, due: Timestamp) {
        let Some(slot) = self.queues.get_mut(&key) else { return };
        if slot.alarm.is_none_or(|set| due < set) {
            self.drop_alarm(key);
            self.alarms.insert((due, key));
            self.queues.entry(key).or_default().alarm = Some(due);
        }
    }

    fn drop_alarm(&mut self, key: QueueKey) {
        if let Some(due) = self.queues.get_mut(&key).and_then(|slot| slot.alarm.take()) {
            self.alarms.remove(&(due, key));
        }
    }

    /// Forgets who has nothing in flight and nothing that waits.
    fn forget(&mut self, tenant: TenantId, queue: Option<QueueKey>) {
        if let Some(key) = queue
            && self.queues.get(&key).is_some_and(|queue| queue.in_flight == 0 && queue.waiting == 0 && !queue.listed)
        {
            self.drop_alarm(key);
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
        if has_work && self.waiting.remove(&tenant) {
            self.ring.push_back(tenant);
        }
        if !has_work || permit.destination.is_some() {
            self.forget(tenant, permit.destination);
        }
        has_work
    }
}

/// The queue that counts what a queue's jobs have in flight, if their destination's window is theirs.
fn window_of(key: QueueKey) -> Option<QueueKey> {
    match key {
        QueueKey::Destination(..) => Some(key),
        QueueKey::Ordered(tenant, destination) => Some(QueueKey::Destination(tenant, destination)),
        _ => None,
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
