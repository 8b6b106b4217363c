//! Which lane an event goes to: a token bucket for each tenant.
//!
//! Being over the plan's throughput is never an error: the event is accepted, into the low lane. A bucket is one atomic: the
//! time at which it would be full again (the "theoretical arrival time" of GCRA), so that admitting is one compare-and-swap.
//! Buckets are per gateway process.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::clock::Timestamp;
use crate::event::{Lane, TenantId};

/// Locks are shared by tenants whose ids hash alike; taken for writing only when a tenant is first seen.
const SHARDS: usize = 64;
const NANOS_PER_MILLI: u64 = 1_000_000;
const NANOS_PER_SECOND: f64 = 1e9;
/// 146 years: what a rate may come to, so that sums of times don't overflow.
const LONGEST: u64 = u64::MAX / 4;

/// A tenant's throughput.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throughput {
    /// Events per second.
    pub rate: f64,
    /// Events that may come at once.
    pub burst: u32,
}

/// Every tenant's bucket.
#[derive(Debug)]
pub struct Lanes {
    shards: Vec<Shard>,
    hasher: RandomState,
}

type Shard = RwLock<HashMap<TenantId, Arc<AtomicU64>>>;

impl Default for Lanes {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), hasher: RandomState::new() }
    }
}

impl Lanes {
    /// Takes one token of the tenant's bucket: normal if there was one, low if not.
    pub fn admit(&self, tenant: TenantId, throughput: Throughput, now: Timestamp) -> Lane {
        let shard = self.shard(tenant);
        if let Some(bucket) = shard.read().unwrap_or_else(PoisonError::into_inner).get(&tenant) {
            return take(bucket, throughput, now);
        }
        let bucket = shard.write().unwrap_or_else(PoisonError::into_inner).entry(tenant).or_default().clone();
        take(&bucket, throughput, now)
    }

    /// Forgets tenants that are gone.
    pub fn retain(&self, keep: impl Fn(TenantId) -> bool) {
        for shard in &self.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).retain(|tenant, _| keep(*tenant));
        }
    }

    fn shard(&self, tenant: TenantId) -> &Shard {
        &self.shards[self.hasher.hash_one(tenant) as usize % SHARDS]
    }
}

/// `full_at` is when the bucket will be full again, in nanoseconds since the epoch.
fn take(full_at: &AtomicU64, throughput: Throughput, now: Timestamp) -> Lane {
    if throughput.rate.is_nan() || throughput.rate <= 0.0 {
        return Lane::Low;
    }
    let now = now.0.saturating_mul(NANOS_PER_MILLI);
    let one = ((NANOS_PER_SECOND / throughput.rate) as u64).min(LONGEST);
    let depth = ((NANOS_PER_SECOND / throughput.rate * f64::from(throughput.burst.max(1))) as u64).min(LONGEST);
    let taken = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
        let next = full_at.max(now).saturating_add(one);
        (next - now <= depth).then_some(next)
    });
    if taken.is_ok() { Lane::Normal } else { Lane::Low }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TENANT: TenantId = TenantId(1);
    const START: Timestamp = Timestamp(1_700_000_000_000);

    fn admitted(lanes: &Lanes, throughput: Throughput, now: Timestamp, count: usize) -> usize {
        (0..count).filter(|_| lanes.admit(TENANT, throughput, now) == Lane::Normal).count()
    }

    #[test]
    fn takes_a_burst_then_the_rate() {
        let (lanes, throughput) = (Lanes::default(), Throughput { rate: 100.0, burst: 20 });
        assert_eq!(admitted(&lanes, throughput, START, 50), 20);
        assert_eq!(admitted(&lanes, throughput, START.after(Duration::from_millis(100)), 50), 10);
        assert_eq!(admitted(&lanes, throughput, START.after(Duration::from_secs(60)), 50), 20, "never more than the burst");
    }

    #[test]
    fn one_tenant_never_spends_anothers_tokens() {
        let (lanes, throughput) = (Lanes::default(), Throughput { rate: 1.0, burst: 1 });
        assert_eq!(admitted(&lanes, throughput, START, 9), 1);
        assert_eq!(lanes.admit(TenantId(2), throughput, START), Lane::Normal);
    }

    #[test]
    fn odd_plans_do_not_break_it() {
        let lanes = Lanes::default();
        for rate in [0.0, -1.0, f64::NAN] {
            assert_eq!(lanes.admit(TENANT, Throughput { rate, burst: 5 }, START), Lane::Low);
        }
        let huge = Throughput { rate: f64::INFINITY, burst: u32::MAX };
        assert_eq!(admitted(&lanes, huge, START, 1000), 1000);
        let slow = Throughput { rate: 1e-300, burst: 1 };
        assert_eq!(admitted(&Lanes::default(), slow, START, 3), 1);
    }

    #[test]
    fn a_clock_that_steps_back_admits_no_burst_anew() {
        let (lanes, throughput) = (Lanes::default(), Throughput { rate: 10.0, burst: 10 });
        assert_eq!(admitted(&lanes, throughput, START, 10), 10);
        assert_eq!(admitted(&lanes, throughput, START.before(Duration::from_secs(1)), 10), 0);
    }

    #[test]
    fn a_tenant_that_is_gone_is_forgotten() {
        let (lanes, throughput) = (Lanes::default(), Throughput { rate: 1.0, burst: 1 });
        assert_eq!(admitted(&lanes, throughput, START, 1), 1);
        lanes.retain(|tenant| tenant != TENANT);
        assert_eq!(admitted(&lanes, throughput, START, 1), 1);
    }
}
