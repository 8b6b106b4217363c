//! Fuel a second for each tenant's plugins, in one shard as this node sees it: a bucket that may be overdrawn.
//!
//! What a run uses is known when it has ended, so a chain of plugins begins while there is any fuel at all, sets aside what chains of the
//! tenant used lately, and pays for each run as it ends. Who overdraws waits for longer. A tenant's bucket fills at its shard's part of
//! `plan.plugin_fuel` and holds what comes in during [`SAVED`]. It begins full, with whoever owns the shard.
//!
//! Runs that belong to no chain (those that a sender or an attempt waits for, shadows, tries) pay in the same manner; on a node that does not
//! own the shard, out of a bucket of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Timestamp;
use crate::event::{Shard, TenantId};

/// How long a tenant saves up what it does not use.
pub(crate) const SAVED: Duration = Duration::from_secs(5);
/// What a chain is expected to use before any of the tenant has ended.
const FIRST_CHAIN: u64 = 1_000_000;
/// With more buckets than this those that are full again are forgotten.
const SWEEP: usize = 1024;

/// The buckets of one shard. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fuel(Arc<Mutex<HashMap<TenantId, Bucket>>>);

/// The buckets of all shards that this node has run plugins for.
#[derive(Debug, Default)]
pub(super) struct Fuels(Mutex<BTreeMap<Shard, Fuel>>);

impl Fuels {
    /// The shard's, as its owner has it if that is this node.
    pub(super) fn of(&self, shard: Shard) -> Fuel {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(shard).or_default().clone()
    }

    /// Full ones, for a new owner.
    pub(super) fn afresh(&self, shard: Shard) -> Fuel {
        let fuel = Fuel::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, fuel.clone());
        fuel
    }
}

#[derive(Debug)]
struct Bucket {
    /// Negative when overdrawn.
    level: i128,
    /// When that was.
    at: Timestamp,
    per_second: u64,
    /// What is set aside for chains under way.
    reserved: u128,
    /// Moving average of what a chain uses.
    chain: u64,
}

/// Fuel that is set aside for a chain until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    fuel: Fuel,
    tenant: TenantId,
    amount: u64,
}

impl Fuel {
    /// How many chains may begin now.
    pub(crate) fn chains(&self, tenant: TenantId, per_second: u64, now: Timestamp) -> usize {
        self.with(tenant, per_second, now, |bucket| {
            let left = bucket.left();
            if left <= 0 { 0 } else { usize::try_from(left / i128::from(bucket.chain.max(1))).unwrap_or(usize::MAX).max(1) }
        })
    }

    /// Begins a chain, if there is fuel.
    pub(crate) fn begin(&self, tenant: TenantId, per_second: u64, now: Timestamp) -> Option<Reserved> {
        self.with(tenant, per_second, now, |bucket| (bucket.left() > 0).then(|| bucket.reserve()))
            .map(|amount| self.reserved(tenant, amount))
    }

    /// Begins a chain whether there is fuel or not.
    pub(crate) fn begin_anyway(&self, tenant: TenantId, per_second: u64, now: Timestamp) -> Reserved {
        let amount = self.with(tenant, per_second, now, Bucket::reserve);
        self.reserved(tenant, amount)
    }

    /// Pays for a run.
    pub(crate) fn pay(&self, tenant: TenantId, per_second: u64, fuel: u64, now: Timestamp) {
        self.with(tenant, per_second, now, |bucket| bucket.level -= i128::from(fuel));
    }

    /// Learns what a whole chain used.
    pub(crate) fn learn(&self, tenant: TenantId, fuel: u64) {
        if let Some(bucket) = self.lock().get_mut(&tenant) {
            bucket.chain = bucket.chain - bucket.chain / 8 + fuel / 8;
        }
    }

    /// In how long a chain may begin.
    pub(crate) fn ready_in(&self, tenant: TenantId, per_second: u64, now: Timestamp) -> Duration {
        self.with(tenant, per_second, now, |bucket| match u128::try_from(1 - bucket.left()) {
            Ok(missing) if missing > 0 => {
                let ms = missing.saturating_mul(1000).div_ceil(u128::from(per_second.max(1)));
                Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX))
            }
            _ => Duration::ZERO,
        })
    }

    fn reserved(&self, tenant: TenantId, amount: u64) -> Reserved {
        Reserved { fuel: self.clone(), tenant, amount }
    }

    fn with<T>(&self, tenant: TenantId, per_second: u64, now: Timestamp, ask: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut buckets = self.lock();
        if buckets.len() >= SWEEP && buckets.len().is_power_of_two() && !buckets.contains_key(&tenant) {
            buckets.retain(|_, bucket| {
                bucket.fill(bucket.per_second, now);
                bucket.reserved > 0 || bucket.level < bucket.depth()
            });
        }
        let bucket = buckets.entry(tenant).or_insert_with(|| Bucket::full(per_second, now));
        bucket.fill(per_second, now);
        ask(bucket)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, Bucket>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn full(per_second: u64, now: Timestamp) -> Self {
        let mut bucket = Self { level: 0, at: now, per_second, reserved: 0, chain: FIRST_CHAIN };
        bucket.level = bucket.depth();
        bucket
    }

    fn depth(&self) -> i128 {
        i128::from(self.per_second) * i128::from(SAVED.as_secs())
    }

    fn left(&self) -> i128 {
        self.level - i128::try_from(self.reserved).unwrap_or(i128::MAX)
    }

    fn reserve(&mut self) -> u64 {
        self.reserved += u128::from(self.chain);
        self.chain
    }

    fn fill(&mut self, per_second: u64, now: Timestamp) {
        self.per_second = per_second;
        let came = i128::from(per_second) * i128::try_from(now.since(self.at).as_millis()).unwrap_or(0) / 1000;
        // Less than one unit is not lost: the time is left to add up.
        if came > 0 || now < self.at {
            self.at = now;
        }
        self.level = (self.level + came).min(self.depth());
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if let Some(bucket) = self.fuel.lock().get_mut(&self.tenant) {
            bucket.reserved = bucket.reserved.saturating_sub(u128::from(self.amount));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000);
    const T: TenantId = TenantId(1);

    fn later(seconds: u64) -> Timestamp {
        START.after(Duration::from_secs(seconds))
    }

    #[test]
    fn who_overdraws_waits_until_it_has_come_in() {
        let fuel = Fuel::default();
        drop(fuel.begin(T, 100, START).expect("it begins full"));
        fuel.pay(T, 100, 1200, START);
        assert!(fuel.begin(T, 100, START).is_none());
        assert_eq!((fuel.chains(T, 100, START), fuel.ready_in(T, 100, START)), (0, Duration::from_millis(7010)));
        assert!(fuel.begin(T, 100, later(7)).is_none());
        assert!(fuel.begin(T, 100, later(8)).is_some());
        assert!(fuel.begin(TenantId(2), 100, START).is_some(), "nobody else feels it");
    }

    #[test]
    fn so_many_begin_at_once_as_are_expected_to_find_fuel() {
        let fuel = Fuel::default();
        for _ in 0..100 {
            drop(fuel.begin(T, 1000, later(0)));
            fuel.learn(T, 800);
        }
        assert_eq!(fuel.chains(T, 1000, START), 6, "5000 saved, and 800 or so for each");
        let under_way: Vec<_> = std::iter::from_fn(|| fuel.begin(T, 1000, START)).collect();
        assert_eq!(under_way.len(), 7, "the last one finds a little");
        assert_eq!(fuel.chains(T, 1000, START), 0);
        drop(under_way);
        assert_eq!(fuel.chains(T, 1000, START), 6, "what was set aside and not used is there again");
        let _anyway = (0..9).map(|_| fuel.begin_anyway(T, 1000, START)).collect::<Vec<_>>();
        assert_eq!(fuel.chains(T, 1000, START), 0);
    }

    #[test]
    fn saves_up_for_a_while_and_follows_the_plan() {
        let fuel = Fuel::default();
        fuel.pay(T, 100, 500, START);
        fuel.pay(T, 100, 0, later(60));
        assert_eq!(fuel.ready_in(T, 100, later(60)), Duration::ZERO);
        fuel.pay(T, 100, 500, later(60));
        assert!(fuel.begin(T, 100, later(60)).is_none(), "never more than the depth");
        fuel.pay(T, 1000, 0, later(60));
        assert_eq!(fuel.ready_in(T, 1000, later(60)), Duration::from_millis(1));
        fuel.pay(T, 1000, 0, START);
        assert!(fuel.begin(T, 1000, START.after(Duration::from_millis(10))).is_some(), "a clock that was set back stops nobody");
    }

    #[test]
    fn full_buckets_are_forgotten() {
        let fuel = Fuel::default();
        for tenant in 0..5000 {
            fuel.pay(TenantId(tenant), 100, 1, START.after(Duration::from_secs(tenant as u64)));
        }
        assert!(fuel.lock().len() <= SWEEP * 2, "{}", fuel.lock().len());
    }
}
