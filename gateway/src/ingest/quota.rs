//! What each tenant may use of its plan at this gateway.
//!
//! - **Throughput**: an event over the plan's rate and burst goes to the low lane; that is never an error. One over the plan's ceiling is
//!   refused. Both are token buckets; the ceiling's holds one second's worth, or the burst if that is more, so that a burst which the
//!   plan allows is never refused.
//! - **Queued bytes**: a tenant that has too much queued, in all its shards together, is refused. Every write tells how much its shard
//!   has ([`Accepted::New`]); a tenant that is being refused writes nothing, so that the store is asked about it ([`Quotas::is_full`]),
//!   once a second. What is over the limit is what was in flight when it was reached, at all gateways.
//!
//! [`share`] makes the buckets hold across gateways.
//!
//! [`Accepted::New`]: crate::store::Accepted::New

mod bucket;
pub mod share;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use self::bucket::{Bucket, Telling, Throughput};
use self::share::Unshared;
use crate::clock::Timestamp;
use crate::control::snapshot::{Plan, Tenant};
use crate::event::{self, Lane, TenantId};
use crate::store::{Allowance, Home, Store};

/// Locks are shared by tenants whose ids hash alike; taken for writing only when a tenant is first seen.
const SHARDS: usize = 64;
/// How often the store is asked about a tenant that is being refused.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shards of a tenant that are asked at once.
const AT_ONCE: usize = 16;

/// Every tenant's quota.
#[derive(Debug)]
pub struct Quotas {
    shards: Vec<Shard>,
    hasher: RandomState,
    unshared: Mutex<Unshared>,
}

type Shard = RwLock<HashMap<TenantId, Arc<Quota>>>;

/// What is known of one tenant.
#[derive(Debug)]
pub struct Quota {
    /// Where its buckets are.
    home: Home,
    normal: Bucket,
    ceiling: Bucket,
    queued: Queued,
    /// When the store was last asked, in milliseconds since the epoch.
    looked_at: AtomicU64,
}

/// Bytes that a tenant has queued, as the store last said of each of its shards.
#[derive(Debug, Default)]
struct Queued {
    sum: AtomicU64,
    shards: Mutex<Vec<(event::Shard, u64)>>,
}

impl Queued {
    fn set(&self, shard: event::Shard, bytes: u64) {
        let mut shards = self.shards.lock().unwrap_or_else(PoisonError::into_inner);
        match shards.iter_mut().find(|(known, _)| *known == shard) {
            Some((_, known)) => *known = bytes,
            None => shards.push((shard, bytes)),
        }
        // Under the lock, so that it is the sum.
        self.sum.store(shards.iter().map(|(_, bytes)| bytes).sum(), Ordering::Relaxed);
    }

    fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

impl Default for Quotas {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| Shard::default()).collect();
        Self { shards, hasher: RandomState::new(), unshared: Mutex::default() }
    }
}

impl Quotas {
    /// The tenant's. To be kept no longer than a request.
    pub fn of(&self, home: Home) -> Arc<Quota> {
        if let Some(quota) = self.known(home.tenant) {
            return quota;
        }
        let mut shard = self.shard(home.tenant).write().unwrap_or_else(PoisonError::into_inner);
        shard.entry(home.tenant).or_insert_with(|| Arc::new(Quota::new(home))).clone()
    }

    /// Forgets tenants that are gone.
    pub fn retain(&self, keep: impl Fn(TenantId) -> bool) {
        for shard in &self.shards {
            shard.write().unwrap_or_else(PoisonError::into_inner).retain(|tenant, _| keep(*tenant));
        }
    }

    /// Counts one event towards the plan's ceiling; over it, says after which time there is room again.
    pub fn pass(&self, quota: &Quota, plan: &Plan, now: Timestamp) -> Result<(), Duration> {
        let second = plan.ceiling.ceil() as u32;
        let throughput = Throughput { rate: plan.ceiling, burst: plan.burst.max(second) };
        let telling = quota.ceiling.take(throughput, now)?;
        self.note(quota, Allowance::Ceiling, telling);
        Ok(())
    }

    /// The lane of one event: normal inside the plan's throughput, low over it.
    pub fn lane(&self, quota: &Quota, plan: &Plan, now: Timestamp) -> Lane {
        match quota.normal.take(Throughput { rate: plan.rate, burst: plan.burst }, now) {
            Ok(telling) => {
                self.note(quota, Allowance::Normal, telling);
                Lane::Normal
            }
            Err(_) => Lane::Low,
        }
    }

    /// The store said that the tenant has so many bytes queued in this shard.
    pub fn queued(&self, home: Home, bytes: u64) {
        if let Some(quota) = self.known(home.tenant) {
            quota.queued.set(home.shard, bytes);
        }
    }

    /// Whether the tenant has as many bytes queued as its plan allows, or more. Costs a look at each of its shards once a second for a
    /// tenant of which that is believed, at the expense of one request. A store that can't answer makes nobody full.
    pub async fn is_full(&self, quota: &Quota, tenant: &Tenant, store: &dyn Store, now: Timestamp) -> bool {
        let limit = tenant.plan.queued_bytes;
        if quota.queued.sum() < limit {
            return false;
        }
        if !quota.is_to_be_looked_at(now) {
            return true;
        }
        let look = async |shard| {
            let queued = store.queued_bytes(Home { tenant: tenant.id, shard }).await.unwrap_or_else(|error| {
                tracing::warn!(tenant = %tenant.id, %error, "not known how much is queued; it is taken for nothing");
                0
            });
            quota.queued.set(shard, queued);
        };
        stream::iter(tenant.shards.iter()).for_each_concurrent(AT_ONCE, look).await;
        quota.queued.sum() >= limit
    }

    fn note(&self, quota: &Quota, allowance: Allowance, telling: Telling) {
        if telling == Telling::Due {
            self.unshared.lock().unwrap_or_else(PoisonError::into_inner).due.push((quota.home.tenant, allowance));
        }
    }

    fn known(&self, tenant: TenantId) -> Option<Arc<Quota>> {
        self.shard(tenant).read().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned()
    }

    fn shard(&self, tenant: TenantId) -> &Shard {
        &self.shards[self.hasher.hash_one(tenant) as usize % SHARDS]
    }
}

impl Quota {
    fn new(home: Home) -> Self {
        Self {
            home,
            normal: Bucket::default(),
            ceiling: Bucket::default(),
            queued: Queued::default(),
            looked_at: AtomicU64::new(0),
        }
    }

    fn bucket(&self, allowance: Allowance) -> &Bucket {
        match allowance {
            Allowance::Normal => &self.normal,
            Allowance::Ceiling => &self.ceiling,
        }
    }

    /// True for one caller in each [`LOOK_EVERY`].
    fn is_to_be_looked_at(&self, now: Timestamp) -> bool {
        let last = self.looked_at.load(Ordering::Relaxed);
        // A clock that stepped back must not put it off.
        let is_due = now.0 < last || now.since(Timestamp(last)) >= LOOK_EVERY;
        is_due && self.looked_at.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
