//! In-flight windows: how much of one tenant, or of one destination, a shard works on at once. What is over its window waits in
//! a sub-queue of the store, never in memory, and newcomers queue up behind it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::store::QueueKey;

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
    slots: HashMap<QueueKey, Slot>,
    /// Queues with work and room, in the order in which they are served. A queue stands here at most once.
    ready: VecDeque<QueueKey>,
}

#[derive(Debug, Default)]
struct Slot {
    in_flight: usize,
    limit: usize,
    /// Jobs that were put into the queue, or are on their way there: newcomers go behind them.
    waiting: u64,
    /// Those of them that the store has.
    readable: u64,
    /// Since when the front of the queue waits, or earlier: what was last taken stood before it.
    front: Option<Timestamp>,
    listed: bool,
}

/// A place in a window. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Permit {
    windows: Windows,
    key: QueueKey,
}

impl Windows {
    /// A place for newly arrived work, unless the window is full or older work waits in its queue.
    pub(super) fn enter(&self, key: QueueKey, limit: usize) -> Option<Permit> {
        let mut state = self.state();
        let slot = state.slots.entry(key).or_default();
        slot.limit = limit;
        if slot.waiting > 0 || slot.in_flight >= limit {
            return None;
        }
        slot.in_flight += 1;
        Some(Permit { windows: self.clone(), key })
    }

    /// Notes that a job is on its way into the queue: from now on newcomers go behind it.
    pub(super) fn park(&self, key: QueueKey, since: Timestamp) {
        let mut state = self.state();
        let slot = state.slots.entry(key).or_default();
        slot.waiting += 1;
        slot.front.get_or_insert(since);
    }

    /// Notes that `count` jobs, noted by [`Windows::park`], are in the store's queue now.
    pub(super) fn parked(&self, key: QueueKey, count: u64) {
        let mut state = self.state();
        state.slots.entry(key).or_default().readable += count;
        state.list(key);
        self.0.ready.notify_one();
    }

    /// Notes a queue that an earlier owner left.
    pub(super) fn found(&self, key: QueueKey, count: u64) {
        self.state().slots.entry(key).or_default().waiting += count;
        self.parked(key, count);
    }

    /// The next queue that has work and room, with places for up to `most` jobs. The queue goes to the end of the line.
    pub(super) fn next(&self, most: usize, default_limit: usize) -> Option<(QueueKey, Vec<Permit>)> {
        let mut state = self.state();
        while let Some(key) = state.ready.pop_front() {
            let Some(slot) = state.slots.get_mut(&key) else { continue };
            slot.listed = false;
            let limit = if slot.limit == 0 { default_limit } else { slot.limit };
            let room = limit.saturating_sub(slot.in_flight).min(usize::try_from(slot.readable).unwrap_or(usize::MAX)).min(most);
            if room == 0 {
                continue;
            }
            slot.in_flight += room;
            let permits = (0..room).map(|_| Permit { windows: self.clone(), key }).collect();
            return Some((key, permits));
        }
        None
    }

    /// Notes that `count` jobs were taken out of the queue, the last of which waited since `last`. None means that it is empty after
    /// all.
    pub(super) fn unparked(&self, key: QueueKey, count: u64, last: Option<Timestamp>) {
        let mut state = self.state();
        if let Some(slot) = state.slots.get_mut(&key) {
            let gone = if count == 0 { slot.readable } else { count.min(slot.readable) };
            slot.readable -= gone;
            slot.waiting = slot.waiting.saturating_sub(gone);
            slot.front = if slot.waiting == 0 { None } else { last.or(slot.front) };
        }
        state.list(key);
    }

    /// Since when the oldest of all that is parked waits, as far as is known: of a queue that an earlier owner left, from its first
    /// turn on.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.state().slots.values().filter_map(|slot| slot.front).min()
    }

    /// Puts a queue back in line whose turn came to nothing.
    pub(super) fn put_back(&self, key: QueueKey) {
        self.state().list(key);
    }

    /// Resolves once a queue may have become ready since the last call.
    pub(super) async fn ready(&self) {
        self.0.ready.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, key: QueueKey) {
        let mut state = self.state();
        let Some(slot) = state.slots.get_mut(&key) else { return };
        slot.in_flight -= 1;
        if slot.readable > 0 {
            state.list(key);
            self.0.ready.notify_one();
        } else if slot.in_flight == 0 && slot.waiting == 0 {
            state.slots.remove(&key);
        }
    }
}

impl State {
    fn list(&mut self, key: QueueKey) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if slot.readable > 0 && !slot.listed {
            slot.listed = true;
            self.ready.push_back(key);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.windows.leave(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::TenantId;

    const A: QueueKey = QueueKey::Tenant(TenantId(1));
    const B: QueueKey = QueueKey::Tenant(TenantId(2));

    #[test]
    fn a_full_window_parks_and_newcomers_go_behind_what_is_parked() {
        let windows = Windows::default();
        let first = windows.enter(A, 1).expect("room");
        assert!(windows.enter(A, 1).is_none(), "full");
        windows.park(A, Timestamp(7));
        windows.park(A, Timestamp(8));
        assert_eq!(windows.oldest(), Some(Timestamp(7)));
        drop(first);
        assert!(windows.enter(A, 1).is_none(), "older work is on its way to the store");
        assert!(windows.next(10, 1).is_none(), "and cannot be read yet");
        assert!(windows.enter(B, 1).is_some(), "others never feel it");
        windows.parked(A, 2);
        let (key, permits) = windows.next(10, 1).expect("ready");
        assert_eq!((key, permits.len()), (A, 1));
        windows.unparked(A, 1, Some(Timestamp(7)));
        assert_eq!(windows.oldest(), Some(Timestamp(7)), "what is left is no older");
        drop(permits);
        let (_, permits) = windows.next(10, 1).expect("ready");
        windows.unparked(A, 1, Some(Timestamp(8)));
        assert_eq!(windows.oldest(), None);
        drop(permits);
        assert!(windows.enter(A, 1).is_some());
    }

    #[test]
    fn queues_take_turns() {
        let windows = Windows::default();
        for key in [A, B] {
            windows.found(key, 5);
        }
        let mut order = Vec::new();
        while let Some((key, permits)) = windows.next(1, 8) {
            order.push(key);
            windows.unparked(key, permits.len() as u64, None);
        }
        assert_eq!(order, [A, B, A, B, A, B, A, B, A, B]);
    }
}
