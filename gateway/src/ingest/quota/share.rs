//! Makes a plan hold for all gateways together. Each takes from its own bucket, which costs nothing, and ten times a second tells the store
//! what it took; the answer is when the bucket that all share will be full again. Its own is from then on no fuller than that.
//!
//! So the gateways together let through what the plan allows, and in addition what they let through before they heard of each other:
//! each at most what its own bucket held, in one interval (and less than 1/64 of a bucket, which is not worth to be told). What is
//! too much is made up for: until then the shared bucket is overdrawn, and none of them has a token. While the store is away each
//! goes by its own bucket, and what it took is forgotten: a debt of that length would be nobody's fault.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Quotas;
use crate::clock::{Clock, Timestamp};
use crate::event::TenantId;
use crate::store::{Allowance, Spent, Store};

/// How often the store is told.
const EVERY: Duration = Duration::from_millis(100);

/// Buckets of which something is to be told.
#[derive(Debug, Default)]
pub(super) struct Unshared {
    pub(super) due: Vec<(TenantId, Allowance)>,
    /// Since when.
    since: Option<Timestamp>,
}

/// Shares until told to stop.
pub async fn run(quotas: Arc<Quotas>, store: Arc<dyn Store>, clock: Clock, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let sharing = async {
        loop {
            ticks.tick().await;
            quotas.share(&*store, &clock).await;
        }
    };
    stop.run_until_cancelled(sharing).await;
}

impl Quotas {
    /// Tells the store once what was taken since it was last told, and hears what the others took.
    pub async fn share(&self, store: &dyn Store, clock: &Clock) {
        let asked = clock.now();
        let (due, over) = {
            let mut unshared = self.unshared.lock().unwrap_or_else(PoisonError::into_inner);
            let since = unshared.since.replace(asked);
            (std::mem::take(&mut unshared.due), since.map_or(EVERY, |since| asked.since(since)))
        };
        let mut quotas = Vec::with_capacity(due.len());
        let mut spent = Vec::with_capacity(due.len());
        for (tenant, allowance) in due {
            let Some(quota) = self.known(tenant) else { continue };
            spent.push(Spent { home: quota.home, allowance, time: quota.bucket(allowance).tell() });
            quotas.push(quota);
        }
        if spent.is_empty() {
            return;
        }
        match store.spend(over, &spent).await {
            Ok(answers) => {
                for ((quota, Spent { allowance, .. }), full_in) in quotas.iter().zip(&spent).zip(answers) {
                    quota.bucket(*allowance).heard(asked, full_in);
                }
            }
            Err(error) => tracing::debug!(%error, "plans are not shared with other gateways for the moment"),
        }
    }
}
