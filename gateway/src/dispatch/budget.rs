//! What may be in flight at once on this node: events and bytes, taken before the work and given back when its record is written.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Events and bytes that may still be taken. Shared by every shard of the node; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct InFlight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Mutex<Free>,
    freed: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Free {
    events: usize,
    bytes: usize,
}

/// A share of the budget. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Grant {
    budget: InFlight,
    events: usize,
    bytes: usize,
}

impl InFlight {
    /// A budget with everything free.
    pub(super) fn new(events: usize, bytes: usize) -> Self {
        Self(Arc::new(Inner { free: Mutex::new(Free { events, bytes }), freed: Notify::new() }))
    }

    /// Takes up to this much; `None` if not a single event or byte is free.
    pub(super) fn take(&self, events: usize, bytes: usize) -> Option<Grant> {
        let mut free = self.free();
        let (events, bytes) = (events.min(free.events), bytes.min(free.bytes));
        if events == 0 || bytes == 0 {
            return None;
        }
        free.events -= events;
        free.bytes -= bytes;
        Some(Grant { budget: self.clone(), events, bytes })
    }

    /// Whether nothing can be taken now.
    pub(super) fn is_exhausted(&self) -> bool {
        let free = self.free();
        free.events == 0 || free.bytes == 0
    }

    /// Resolves once something was given back since the last call.
    pub(super) async fn freed(&self) {
        self.0.freed.notified().await;
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
        self.0.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grant {
    /// How many events it covers.
    pub(super) fn events(&self) -> usize {
        self.events
    }

    /// How many bytes it covers.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves one event of `bytes` out of this grant. A single event larger than what is left takes all of it.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let (events, bytes) = (self.events.min(1), bytes.min(self.bytes));
        self.events -= events;
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), events, bytes }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if self.events == 0 && self.bytes == 0 {
            return;
        }
        let mut free = self.budget.free();
        free.events += self.events;
        free.bytes += self.bytes;
        drop(free);
        self.budget.0.freed.notify_waiters();
        self.budget.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_come_back_and_never_exceed_the_budget() {
        let budget = InFlight::new(3, 100);
        let mut grant = budget.take(10, 60).expect("free");
        assert_eq!((grant.events(), grant.bytes()), (3, 60));
        assert!(budget.take(1, 1).is_none(), "no event is left");
        let one = grant.split(1000);
        assert_eq!((one.events(), one.bytes()), (1, 60));
        drop(grant);
        assert_eq!(budget.take(10, 1000).map(|grant| (grant.events(), grant.bytes())), Some((2, 40)));
        drop(one);
        assert_eq!(budget.take(10, 1000).map(|grant| (grant.events(), grant.bytes())), Some((3, 100)));
    }
}
