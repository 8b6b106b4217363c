//! Owns shards: takes a shard's lease, keeps it alive, runs the shard's loop under it, and gives it up at the end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::claim::ShardLoop;
use super::window::Windows;
use super::{Shared, recovery};
use crate::clock::{Timestamp, monotonic};
use crate::event::Shard;
use crate::store::{Lease, StoreError, Trimmed};
use crate::telemetry::metrics::QueueSample;

/// Between two rounds of house-keeping.
const HOUSE_KEEPING: Duration = Duration::from_secs(5);
/// Between two steps of a trim that has more to do, and of a purge, which may have to wait for what is in flight.
const TRIM_STEP: Duration = Duration::from_millis(20);
const PURGE_STEP: Duration = Duration::from_millis(100);
/// A purge begins this long after its tenant's deletion did: by then no node takes events of it any more.
const SETTLED: Duration = Duration::from_secs(3);

/// A lease while it is held by this node. Its end is told by the token.
#[derive(Debug)]
pub(super) struct Hold {
    pub(super) lease: Lease,
    lost: CancellationToken,
    valid_until: watch::Sender<Instant>,
}

impl Hold {
    pub(super) fn new(lease: Lease, asked_at: Instant) -> Self {
        let valid_until = watch::Sender::new(asked_at + trusted(lease.ttl));
        Self { lease, lost: CancellationToken::new(), valid_until }
    }

    /// Waits until this node may act as the owner, by its own clock: asked before each attempt. As a rule that is at once; after a
    /// store was away it is when a renewal gets through. Never returns once the lease is lost: what waits is dropped then.
    pub(super) async fn valid(&self) {
        let mut renewals = self.valid_until.subscribe();
        let valid = renewals.wait_for(|until| !self.lost.is_cancelled() && monotonic() < *until).await;
        debug_assert!(valid.is_ok(), "the sender is our own");
    }

    /// Whether this node may act as the owner now, by its own clock.
    pub(super) fn is_valid(&self) -> bool {
        !self.lost.is_cancelled() && monotonic() < *self.valid_until.borrow()
    }

    /// Ends the hold: all work under it stops and records nothing more.
    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// Waits for `pause`; true if the lease was lost meanwhile.
    pub(super) async fn lost_within(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.lost.cancelled()).await.is_ok()
    }

    /// Resolves when the lease is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    fn renewed(&self, asked_at: Instant) {
        self.valid_until.send_replace(asked_at + trusted(self.lease.ttl));
    }
}

/// Ends a hold with what it can't go on without, even if that breaks.
pub(super) struct LoseOnDrop(pub(super) Arc<Hold>);

impl Drop for LoseOnDrop {
    fn drop(&mut self) {
        self.0.lose();
    }
}

/// How much of a lease its owner relies on: less than all of it, for clocks that drift and writes that are on their way.
fn trusted(ttl: Duration) -> Duration {
    ttl * 9 / 10
}

/// [`own`] for as long as this node runs: what breaks in one shard's work ends its ownership, and it begins anew.
pub(super) async fn keep_owning(shared: Arc<Shared>, shard: Shard, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let owning = AssertUnwindSafe(own(shared.clone(), shard, stop.clone())).catch_unwind();
        if owning.await.is_err() {
            tracing::error!(shard = shard.0, "the shard's work broke; another owner takes it over");
            shared.share.ended(shard);
            shared.standings.ended(shard);
            shared.metrics.queue_gone(shard);
            // Its lease runs out meanwhile, for whoever takes it over.
            let _stopped = tokio::time::timeout(shared.config.lease_ttl, stop.cancelled()).await;
        }
    }
}

/// Owns one shard for as long as this node runs and has room for it: whenever the shard is free, takes it and works on it.
async fn own(shared: Arc<Shared>, shard: Shard, stop: CancellationToken) {
    let ttl = shared.config.lease_ttl;
    let mut pause = ttl / 3;
    while !stop.is_cancelled() {
        let asked_at = monotonic();
        let asked = if shared.share.has_room() {
            shared.store.acquire(shard, &shared.config.node, ttl).await
        } else {
            shared.store.take_over(shard, &shared.config.node, ttl).await
        };
        match asked {
            Ok(Some(lease)) => {
                tracing::info!(shard = shard.0, epoch = lease.epoch, "shard taken");
                let end = stop.child_token();
                shared.share.took(shard, end.clone());
                serve(&shared, Arc::new(Hold::new(lease, asked_at)), &end).await;
                shared.share.ended(shard);
                pause = ttl / 3;
            }
            Ok(None) => pause = ttl / 3,
            Err(error) => {
                tracing::warn!(shard = shard.0, %error, "shard not taken, trying again");
                pause = (pause * 2).min(ttl);
            }
        }
        if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

async fn serve(shared: &Arc<Shared>, hold: Arc<Hold>, stop: &CancellationToken) {
    let shard = hold.lease.shard;
    let renewing = CancellationToken::new();
    // However this ends, the lease must not live on.
    let _end = renewing.clone().drop_guard();
    let _lose = LoseOnDrop(hold.clone());
    let renewer = tokio::spawn(renew(shared.clone(), hold.clone(), renewing.clone()));
    let windows = Windows::default();
    let keeper = tokio::spawn(keep_house(shared.clone(), hold.clone(), windows.clone(), renewing.clone()));
    let recovery = tokio::spawn(recovery::run(shared.clone(), hold.clone(), renewing.clone()));
    let result = ShardLoop::new(shared.clone(), hold.clone(), windows, stop.clone()).run().await;
    renewing.cancel();
    for (task, what) in [(renewer, "lease renewal"), (keeper, "house-keeping"), (recovery, "work on retry jobs")] {
        if let Err(error) = task.await {
            tracing::error!(shard = shard.0, %error, "{what} ended abnormally");
        }
    }
    shared.metrics.queue_gone(shard);
    shared.standings.ended(shard);
    shared.plugins.set_fuel_waits(shard, Vec::new());
    hold.lose();
    match result {
        Ok(()) => {
            match tokio::time::timeout(hold.lease.ttl, shared.store.release(&hold.lease)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(shard = shard.0, %error, "lease not released, it will run out"),
                Err(_) => tracing::warn!(shard = shard.0, "lease not released in time, it has run out"),
            }
            tracing::info!(shard = shard.0, "shard given up");
        }
        Err(error) => tracing::warn!(shard = shard.0, %error, "shard lost"),
    }
}

/// Trims history, purges deleted tenants and measures the queues, now and then, until told to stop.
async fn keep_house(shared: Arc<Shared>, hold: Arc<Hold>, windows: Windows, done: CancellationToken) {
    while !done.is_cancelled() {
        let tended = tokio::select! {
            biased;
            () = done.cancelled() => return,
            tended = tend(&shared, &hold, &windows) => tended,
        };
        let pause = match tended {
            Ok(pause) => pause,
            Err(error) => {
                tracing::warn!(shard = hold.lease.shard.0, %error, "house-keeping failed, trying again");
                HOUSE_KEEPING
            }
        };
        if tokio::time::timeout(pause, done.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Answers how long to pause.
async fn tend(shared: &Shared, hold: &Hold, windows: &Windows) -> Result<Duration, StoreError> {
    let now = shared.clock.now();
    let depth = shared.store.depth(hold.lease.shard).await?;
    let age = |oldest: Option<Timestamp>| oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
    shared.metrics.queue(
        hold.lease.shard,
        QueueSample {
            lanes: depth.lanes.iter().map(|lane| (lane.lane, lane.entries, age(lane.oldest))).collect(),
            scheduled: depth.scheduled,
            parked: depth.parked,
            parked_age: age(windows.oldest()),
            dead_letters: depth.dead_letters,
        },
    );
    shared.metrics.plugin_idle(shared.plugins.idle_instances());
    let Trimmed { more, .. } = shared.store.trim(&hold.lease, shared.config.retention, now).await?;
    let purging = purge(shared, hold, windows).await?;
    Ok(match (more, purging) {
        (true, _) => TRIM_STEP,
        (false, true) => PURGE_STEP,
        (false, false) => HOUSE_KEEPING,
    })
}

/// A step of the purge of each tenant of this shard that is being deleted; whether there is one that is not done.
async fn purge(shared: &Shared, hold: &Hold, windows: &Windows) -> Result<bool, StoreError> {
    let now = shared.clock.now();
    let snapshot = shared.snapshots.load();
    let here = snapshot.tenants.values().filter(|tenant| tenant.shards.contains(hold.lease.shard));
    let deleted: Vec<_> = here.filter_map(|tenant| Some((tenant.id, tenant.deleting?))).collect();
    drop(snapshot);
    let mut more = false;
    for (tenant, since) in deleted {
        let is_done = now.since(since) >= SETTLED && shared.store.purge(&hold.lease, tenant).await?.done;
        if is_done {
            windows.emptied(tenant);
        }
        more |= !is_done;
    }
    Ok(more)
}

/// Renews until told to stop, or until the lease is gone.
async fn renew(shared: Arc<Shared>, hold: Arc<Hold>, done: CancellationToken) {
    let every = hold.lease.ttl / 4;
    while tokio::time::timeout(every, done.cancelled()).await.is_err() {
        let asked_at = monotonic();
        let renewed = tokio::select! {
            biased;
            () = done.cancelled() => return,
            renewed = shared.store.renew(&hold.lease) => renewed,
        };
        match renewed {
            Ok(()) => hold.renewed(asked_at),
            Err(StoreError::Fenced(_)) => {
                hold.lose();
                return;
            }
            // Work pauses by itself once the lease is no longer trusted, and goes on when a renewal gets through in time.
            Err(error) => tracing::warn!(shard = hold.lease.shard.0, %error, "lease not renewed, trying again"),
        }
    }
}
