//! What may be in flight at once on this node: events and bytes, taken before the work and given back when its record is written.
//!
//! Of the whole, each class of work, and each shard, may be allowed a part only: so many at once, and so many a second. What is
//! over its part stays in the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::clock::monotonic;
use crate::event::Shard;

/// How much a class that is allowed so many a second may start at once after a rest.
const BURST: Duration = Duration::from_millis(100);

/// What work counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// The normal lane.
    Normal,
    /// The low lane.
    Low,
    /// The work of who is diverted.
    Held,
    /// Deliveries that failed before.
    Retries,
    /// What had to be parked, and what comes back from a diversion.
    CatchUp,
    /// What an owner before this one had in hand. Never held back.
    Reclaimed,
}

const CLASSES: usize = 6;

/// Whose part of the budget is taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use {
    pub(super) class: Class,
    pub(super) shard: Shard,
}

/// What a class or a shard is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Allowance {
    /// In flight at once.
    pub(super) at_once: usize,
    /// Started in a second.
    pub(super) per_second: f64,
}

impl Allowance {
    pub(super) const EVERYTHING: Self = Self { at_once: usize::MAX, per_second: f64::INFINITY };
}

/// Events and bytes that may still be taken. Shared by every shard of the node; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct InFlight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    whole: Amount,
    state: Mutex<State>,
    freed: Notify,
}

/// Events and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

#[derive(Debug)]
struct State {
    free: Amount,
    /// What is being worked on; the rest of what is taken is being read.
    working: Amount,
    classes: [Part; CLASSES],
    shards: BTreeMap<Shard, Part>,
    finished: u64,
}

/// What a class or a shard uses of what it is allowed.
#[derive(Clone, Copy, Debug)]
struct Part {
    allowed: Allowance,
    used: usize,
    tokens: f64,
    since: Instant,
    started: u64,
}

/// A share of the budget. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Grant {
    budget: InFlight,
    of: Use,
    amount: Amount,
    /// Whether the work has begun that it is for.
    working: bool,
}

impl InFlight {
    /// A budget with everything free and nothing held back.
    pub(super) fn new(events: usize, bytes: usize) -> Self {
        let whole = Amount { events, bytes };
        let state = State {
            free: whole,
            working: Amount::default(),
            classes: [Part::new(Allowance::EVERYTHING); CLASSES],
            shards: BTreeMap::new(),
            finished: 0,
        };
        Self(Arc::new(Inner { whole, state: Mutex::new(state), freed: Notify::new() }))
    }

    /// Takes up to this much; `None` if not a single event or byte is free, or allowed.
    pub(super) fn take(&self, of: Use, events: usize, bytes: usize) -> Option<Grant> {
        let now = monotonic();
        let mut state = self.state();
        let mut most = events.min(state.free.events).min(state.classes[of.class as usize].room(now));
        if let Some(shard) = state.shards.get_mut(&of.shard) {
            most = most.min(shard.room(now));
        }
        let amount = Amount { events: most, bytes: bytes.min(state.free.bytes) };
        if amount.events == 0 || amount.bytes == 0 {
            return None;
        }
        state.free.events -= amount.events;
        state.free.bytes -= amount.bytes;
        state.parts(of, |part| part.take(amount.events));
        Some(Grant { budget: self.clone(), of, amount, working: false })
    }

    /// Takes up to this much of what a class may start now, for work that begins elsewhere and is not in flight yet. Answers how much.
    pub(super) fn spend(&self, of: Use, events: usize) -> usize {
        let now = monotonic();
        let mut state = self.state();
        let mut most = events.min(state.free.events).min(state.classes[of.class as usize].room(now));
        if let Some(shard) = state.shards.get_mut(&of.shard) {
            most = most.min(shard.room(now));
        }
        state.parts(of, |part| {
            part.take(most);
            part.used -= most;
        });
        most
    }

    /// What nobody works on.
    pub(super) fn idle(&self) -> Amount {
        let Amount { events, bytes } = self.state().working;
        Amount { events: self.0.whole.events.saturating_sub(events), bytes: self.0.whole.bytes.saturating_sub(bytes) }
    }

    /// Whether nothing can be taken now, by nobody.
    pub(super) fn is_exhausted(&self) -> bool {
        let free = self.state().free;
        free.events == 0 || free.bytes == 0
    }

    /// Resolves once something was given back since the last call.
    pub(super) async fn freed(&self) {
        self.0.freed.notified().await;
    }

    /// The budget's events, all of them.
    pub(super) fn whole(&self) -> usize {
        self.0.whole.events
    }

    /// Sets what a class is allowed; answers how many of it were started since it was last asked.
    pub(super) fn allow(&self, class: Class, allowed: Allowance) -> u64 {
        self.state().classes[class as usize].allow(allowed, monotonic())
    }

    /// Sets what these shards are allowed; the others have everything.
    pub(super) fn allow_shards(&self, allowed: &BTreeMap<Shard, Allowance>) {
        let now = monotonic();
        let mut state = self.state();
        state.shards.retain(|shard, _| allowed.contains_key(shard));
        for (shard, allowed) in allowed {
            state.shards.entry(*shard).or_insert_with(|| Part::new(*allowed)).allow(*allowed, now);
        }
    }

    /// How much work ended since it was last asked.
    pub(super) fn finished(&self) -> u64 {
        std::mem::take(&mut self.state().finished)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn parts(&mut self, of: Use, change: impl Fn(&mut Part)) {
        change(&mut self.classes[of.class as usize]);
        if let Some(shard) = self.shards.get_mut(&of.shard) {
            change(shard);
        }
    }
}

impl Part {
    fn new(allowed: Allowance) -> Self {
        Self { allowed, used: 0, tokens: burst(allowed.per_second), since: monotonic(), started: 0 }
    }

    fn room(&mut self, now: Instant) -> usize {
        let at_once = self.allowed.at_once.saturating_sub(self.used);
        if self.allowed.per_second.is_infinite() {
            return at_once;
        }
        self.refill(now);
        // Negative where more was given back than it may save up.
        at_once.min(self.tokens as usize)
    }

    fn refill(&mut self, now: Instant) {
        let come = now.saturating_duration_since(self.since).as_secs_f64() * self.allowed.per_second;
        self.since = now;
        self.tokens = (self.tokens + come).min(burst(self.allowed.per_second));
    }

    fn take(&mut self, events: usize) {
        self.used += events;
        self.started += events as u64;
        self.tokens -= events as f64;
    }

    /// What was taken and not begun.
    fn put_back(&mut self, events: usize) {
        self.used = self.used.saturating_sub(events);
        self.started = self.started.saturating_sub(events as u64);
        self.tokens += events as f64;
    }

    fn allow(&mut self, allowed: Allowance, now: Instant) -> u64 {
        if self.allowed.per_second.is_finite() {
            self.refill(now);
        } else {
            (self.tokens, self.since) = (burst(allowed.per_second), now);
        }
        self.allowed = allowed;
        std::mem::take(&mut self.started)
    }
}

fn burst(per_second: f64) -> f64 {
    if per_second > 0.0 { (per_second * BURST.as_secs_f64()).max(1.0) } else { 0.0 }
}

impl Grant {
    /// How many events it covers.
    pub(super) fn events(&self) -> usize {
        self.amount.events
    }

    /// How many bytes it covers.
    pub(super) fn bytes(&self) -> usize {
        self.amount.bytes
    }

    /// Moves one event of `bytes` out of this grant, to be worked on. A single event larger than what is left takes all of it.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let amount = Amount { events: self.amount.events.min(1), bytes: bytes.min(self.amount.bytes) };
        self.amount.events -= amount.events;
        self.amount.bytes -= amount.bytes;
        let mut state = self.budget.state();
        state.working.events += amount.events;
        state.working.bytes += amount.bytes;
        drop(state);
        Self { budget: self.budget.clone(), of: self.of, amount, working: true }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let Amount { events, bytes } = self.amount;
        if events == 0 && bytes == 0 {
            return;
        }
        let mut state = self.budget.state();
        state.free.events += events;
        state.free.bytes += bytes;
        if self.working {
            state.working.events -= events;
            state.working.bytes -= bytes;
            state.finished += events as u64;
            state.parts(self.of, |part| part.used = part.used.saturating_sub(events));
        } else {
            state.parts(self.of, |part| part.put_back(events));
        }
        drop(state);
        self.budget.0.freed.notify_waiters();
        self.budget.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NORMAL: Use = Use { class: Class::Normal, shard: Shard(0) };
    const LOW: Use = Use { class: Class::Low, shard: Shard(0) };

    fn taken(budget: &InFlight, of: Use, events: usize, bytes: usize) -> Option<(usize, usize)> {
        budget.take(of, events, bytes).map(|grant| (grant.events(), grant.bytes()))
    }

    #[test]
    fn grants_come_back_and_never_exceed_the_budget() {
        let budget = InFlight::new(3, 100);
        let mut grant = budget.take(NORMAL, 10, 60).expect("free");
        assert_eq!((grant.events(), grant.bytes()), (3, 60));
        assert!(budget.take(NORMAL, 1, 1).is_none(), "no event is left");
        assert_eq!(budget.idle(), Amount { events: 3, bytes: 100 });
        let one = grant.split(1000);
        assert_eq!((one.events(), one.bytes()), (1, 60));
        assert_eq!(budget.idle(), Amount { events: 2, bytes: 40 });
        drop(grant);
        assert_eq!(taken(&budget, NORMAL, 10, 1000), Some((2, 40)));
        drop(one);
        assert_eq!(taken(&budget, NORMAL, 10, 1000), Some((3, 100)));
        assert_eq!(budget.finished(), 1);
    }

    #[test]
    fn what_is_spent_counts_as_started_and_is_not_in_flight() {
        let budget = InFlight::new(100, 1000);
        budget.allow(Class::CatchUp, Allowance { at_once: 10, per_second: 0.01 });
        let of = Use { class: Class::CatchUp, shard: Shard(0) };
        assert_eq!(budget.spend(of, 10), 1, "a second's worth is less than one");
        assert_eq!(budget.spend(of, 10), 0);
        assert_eq!(budget.idle(), Amount { events: 100, bytes: 1000 });
        assert_eq!(taken(&budget, NORMAL, 200, 10), Some((100, 10)));
        assert_eq!(budget.allow(Class::CatchUp, Allowance::EVERYTHING), 1);
        assert_eq!(budget.spend(of, 10), 10);
    }

    #[test]
    fn a_class_has_no_more_than_it_is_allowed_and_the_others_do_not_feel_it() {
        let budget = InFlight::new(100, 1000);
        budget.allow(Class::Low, Allowance { at_once: 5, ..Allowance::EVERYTHING });
        let low = budget.take(LOW, 50, 10).expect("five are free");
        assert_eq!(low.events(), 5);
        assert!(budget.take(LOW, 1, 1).is_none());
        assert_eq!(taken(&budget, NORMAL, 200, 10), Some((95, 10)));
        drop(low);
        budget.allow(Class::Low, Allowance { at_once: 0, ..Allowance::EVERYTHING });
        assert!(budget.take(LOW, 1, 1).is_none(), "paused");
        budget.allow_shards(&[(Shard(0), Allowance { at_once: 2, ..Allowance::EVERYTHING })].into());
        assert_eq!(taken(&budget, NORMAL, 200, 10), Some((2, 10)));
        assert_eq!(taken(&budget, Use { shard: Shard(1), ..NORMAL }, 200, 10), Some((100, 10)));
    }

    #[test]
    fn a_rate_is_spent_by_what_begins_and_not_by_what_was_only_looked_for() {
        let budget = InFlight::new(1000, 1000);
        budget.allow(Class::Low, Allowance { at_once: usize::MAX, per_second: 0.01 });
        let mut grant = budget.take(LOW, 50, 10).expect("one to begin with");
        assert_eq!(grant.events(), 1);
        assert!(budget.take(LOW, 1, 1).is_none());
        drop(grant);
        grant = budget.take(LOW, 50, 10).expect("nothing was there");
        drop(grant.split(1));
        drop(grant);
        assert!(budget.take(LOW, 1, 1).is_none(), "the next one comes in 100 s");
        assert_eq!(budget.allow(Class::Low, Allowance::EVERYTHING), 1);
        assert_eq!(taken(&budget, LOW, 200, 10), Some((200, 10)));
    }
}
