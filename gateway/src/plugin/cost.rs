//! What a tenant's calls of a version take of the processor, as far as they have shown.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::event::TenantId;

/// Calls that take longer than this on average are long.
pub(super) const LONG_US: u64 = 5_000;
/// After a call that was long, those of its kind are taken to be long for as many calls as it took milliseconds, up to this many.
const LONG_FOR: u64 = 256;

/// With more tenants than this those are forgotten whose calls are short.
const SWEEP: usize = 1024;

/// What calls of a version take, tenant by tenant: the same version may have other work for each.
#[derive(Debug, Default)]
pub(super) struct Costs(Mutex<HashMap<TenantId, Arc<Cost>>>);

impl Costs {
    pub(super) fn of(&self, tenant: TenantId) -> Arc<Cost> {
        let mut costs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if costs.len() >= SWEEP && costs.len().is_power_of_two() && !costs.contains_key(&tenant) {
            costs.retain(|_, cost| Arc::strong_count(cost) > 1 || cost.is_long());
        }
        Arc::clone(costs.entry(tenant).or_default())
    }
}

/// A moving average. What concurrent calls learn may be lost, which an average bears.
#[derive(Debug, Default)]
pub(super) struct Cost {
    average_us: AtomicU64,
    /// How many calls that run now have taken long already.
    long_now: AtomicU32,
    /// Calls that are taken to be long, whatever the average.
    long_for: AtomicU64,
    /// Whether the last call was short.
    was_short: AtomicBool,
}

impl Cost {
    /// What a call is expected to take.
    pub(super) fn us(&self) -> u64 {
        self.average_us.load(Ordering::Relaxed)
    }

    /// Whether a call is expected to be long.
    pub(super) fn is_long(&self) -> bool {
        self.us() > LONG_US || self.long_now.load(Ordering::Relaxed) > 0 || self.long_for.load(Ordering::Relaxed) > 0
    }

    /// Whether calls are known to be short: there was one, and it was.
    pub(super) fn is_short(&self) -> bool {
        self.was_short.load(Ordering::Relaxed) && !self.is_long()
    }

    /// Learns from a call that has ended. One that was only slow for once, on a busy machine, makes none after it long.
    pub(super) fn took(&self, us: u64) {
        let average = self.us();
        self.average_us.store(average - average / 8 + us / 8, Ordering::Relaxed);
        let left = self.long_for.load(Ordering::Relaxed);
        let left = if us > LONG_US { left.max((us / 1000).min(LONG_FOR)) } else { left.saturating_sub(1) };
        self.long_for.store(left, Ordering::Relaxed);
        self.was_short.store(us <= LONG_US, Ordering::Relaxed);
    }

    /// Until it is dropped, calls of this kind are long: one runs that is long already.
    pub(super) fn is_taking_long(self: &Arc<Self>) -> TakingLong {
        self.long_now.fetch_add(1, Ordering::Relaxed);
        TakingLong(Arc::clone(self))
    }
}

/// A call that runs, and is long already.
#[derive(Debug)]
#[must_use]
pub(super) struct TakingLong(Arc<Cost>);

impl Drop for TakingLong {
    fn drop(&mut self) {
        self.0.long_now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_long_from_the_call_that_is_until_many_were_short() {
        let cost = Arc::new(Cost::default());
        assert!(!cost.is_long());
        let running = cost.is_taking_long();
        assert!(cost.is_long(), "the next call begins before this one has ended");
        cost.took(30_000);
        drop(running);
        (1..30).for_each(|_| cost.took(10));
        assert!(cost.is_long());
        cost.took(10);
        assert!(!cost.is_long());
    }

    #[test]
    fn a_version_is_known_to_be_short_by_a_call_that_was() {
        let cost = Cost::default();
        assert!(!cost.is_short() && !cost.is_long(), "nobody knows");
        cost.took(10);
        assert!(cost.is_short());
        cost.took(LONG_US + 1);
        assert!(!cost.is_short());
        (0..LONG_FOR).for_each(|_| cost.took(10));
        assert!(cost.is_short());
    }

    #[test]
    fn a_call_that_was_slow_for_once_makes_no_other_long() {
        let cost = Arc::new(Cost::default());
        (0..20).for_each(|_| cost.took(50));
        let running = cost.is_taking_long();
        cost.took(LONG_US);
        drop(running);
        assert!(!cost.is_long());
    }

    #[test]
    fn calls_are_long_for_no_more_than_many_whatever_one_took() {
        let cost = Cost::default();
        cost.took(100 * LONG_US * LONG_FOR);
        (0..LONG_FOR).for_each(|_| cost.took(10));
        assert!(!cost.is_long());
    }

    #[test]
    fn no_tenant_is_long_for_anothers_calls_and_short_ones_are_forgotten() {
        let costs = Costs::default();
        let _running = costs.of(TenantId(1)).is_taking_long();
        for tenant in 2..5000 {
            assert!(!costs.of(TenantId(tenant)).is_long());
        }
        assert!(costs.of(TenantId(1)).is_long());
        assert!(costs.0.lock().unwrap().len() <= 2 * SWEEP);
    }

    #[test]
    fn calls_that_are_long_on_average_are_long() {
        let cost = Cost::default();
        (0..20).for_each(|_| cost.took(2 * LONG_US));
        (0..15).for_each(|_| cost.took(LONG_US));
        assert_eq!(cost.long_for.load(Ordering::Relaxed), 0);
        assert!(cost.is_long());
    }
}
