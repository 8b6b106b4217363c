//! Who an operator diverted: its work is held, and in the end comes back in order.
//!
//! While somebody is diverted, acceptors put its events into the held lane, and what was on its way already is parked: behind the
//! tenant's queue, or the source's. The held lane is not read meanwhile, but for its front, so that its age is known. When the
//! diversion is `returning`, acceptors still write there; the lane is read in order, at the pace of what catches up, and goes behind
//! what was parked. Once the lane is empty the diversion is over, and for a moment it is read on, ahead of what is new of who came back, for
//! the last events that acceptors put there. Each shard of a tenant comes to that end by itself: from then on acceptors write its newcomers to
//! the normal lane, while other shards may still have something to return.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;

use super::budget::Class;
use super::claim::{BATCH, BATCH_BYTES, ShardLoop, entry, item_of, wait_of, with_suspects};
use super::order;
use super::record::{Done, Held};
use super::wait::{self, Wait};
use super::work::tenant_of;
use crate::clock::Timestamp;
use crate::control::snapshot::{Diversion, Diverted, Percent, Snapshot, Traffic};
use crate::event::{Event, Lane, Shard};
use crate::store::{Budget, Claimed, PutBack, QueueKey, Record, SUSPECT, StoreError, Unparked};

/// What is held is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// How long the held lane is read on after a diversion is over: longer than any acceptor takes to hear of it.
const SETTLED: Duration = Duration::from_secs(5);

/// What one shard knows of who is diverted.
#[derive(Debug, Default)]
pub(super) struct Diversions {
    front: Mutex<Front>,
    /// Milliseconds since the Unix epoch.
    read_until: AtomicU64,
}

impl Diversions {
    fn read_until(&self) -> Timestamp {
        Timestamp(self.read_until.load(Ordering::Relaxed))
    }

    fn read_on(&self, now: Timestamp) {
        self.read_until.store(now.after(SETTLED).0, Ordering::Relaxed);
    }
}

/// Who comes back, as far as the round over what is new has heard.
#[derive(Debug, Default)]
pub(super) struct Returns {
    /// What an operator had set the last time.
    traffic: Arc<Traffic>,
    /// Whose diversion is over, and until when there may be something of them in the held lane.
    ended: Vec<(Diverted, Timestamp)>,
}

impl Returns {
    /// Whether the diversion of somebody is over since the last time.
    fn hear(&mut self, traffic: &Arc<Traffic>, shard: Shard, now: Timestamp) -> bool {
        self.ended.retain(|(_, until)| now < *until);
        let seen = std::mem::replace(&mut self.traffic, traffic.clone());
        if Arc::ptr_eq(traffic, &seen) {
            return false;
        }
        let ended = |who: &&Diverted| seen.diversion_of(**who, shard).is_some() && traffic.diversion_of(**who, shard).is_none();
        let before = self.ended.len();
        self.ended.extend(seen.diverted.keys().filter(ended).map(|who| (*who, now.after(SETTLED))));
        self.ended.len() > before
    }

    /// Whether there may be something in the held lane that is older than this new event, and goes before it.
    pub(super) fn are_older(&self, event: &Event) -> bool {
        self.ended.iter().any(|(who, _)| match who {
            Diverted::Tenant(tenant) => *tenant == event.tenant,
            Diverted::Source(source) => *source == event.source,
        })
    }
}

/// How far the held lane was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) count: usize,
    /// Whether nothing of it is left that has to come back.
    pub(super) is_at_end: bool,
}

/// The front of the held lane, in hand for the sake of its age.
#[derive(Debug, Default)]
struct Front {
    lane: VecDeque<Claimed>,
    looked_at: Timestamp,
}

impl ShardLoop {
    /// Reads the held lane while somebody returns from there.
    pub(super) async fn returning(&self, returns: &mut Returns, throttled: &mut bool) -> Result<Read, StoreError> {
        let now = self.shared.clock.now();
        let snapshot = self.shared.snapshots.current();
        let (traffic, shard) = (&snapshot.traffic, self.hold.lease.shard);
        if returns.hear(traffic, shard, now) {
            self.diversions.read_on(now);
        }
        let is_returning = |who: &&Diverted| traffic.diversion_of(**who, shard) == Some(Diversion::Returning);
        let returning = traffic.diverted.keys().any(|who| is_returning(&who));
        let is_read = returning || traffic.held != Percent::NONE || now < self.diversions.read_until();
        if !is_read {
            return Ok(Read { count: 0, is_at_end: true });
        }
        let class = match returning {
            _ if now < self.diversions.read_until() => Class::Normal,
            true => Class::CatchUp,
            false => Class::Held,
        };
        let mut count = 0;
        let mut held = self.diversions.front.lock().await;
        if !self.mend(throttled).await? {
            return Ok(Read { count: 1, is_at_end: false });
        }
        while let Some(front) = held.lane.front() {
            let bytes = front.event.request.size();
            let Some(mut grant) = self.take(class, 1, bytes, throttled) else { return Ok(Read { count, is_at_end: false }) };
            let Some(front) = held.lane.pop_front() else { break };
            self.start_all(vec![(front, grant.split(bytes))]).await;
            count += 1;
        }
        let mut is_short = false;
        let claimed = self.claim(Lane::Held, class, BATCH, &mut is_short).await?;
        let is_at_end = claimed.is_empty() && !is_short;
        *throttled |= is_short;
        count += claimed.len();
        self.start_all(claimed).await;
        if is_at_end {
            for who in traffic.diverted.keys().filter(is_returning) {
                if is_here(&snapshot, *who, shard) {
                    (self.shared.returned)(*who, shard);
                }
            }
        }
        Ok(Read { count, is_at_end })
    }

    /// What is held is not delivered, and given up in the end. Returns how much was.
    pub(super) async fn held(&self, now: Timestamp, throttled: &mut bool) -> Result<usize, StoreError> {
        let mut front = self.diversions.front.lock().await;
        if now.since(front.looked_at) < LOOK {
            return Ok(0);
        }
        let mut is_short = false;
        let mut given_up = self.front_of_lane(&mut front, now, &mut is_short).await?;
        given_up += self.fronts_of_queues(now, &mut is_short).await?;
        // Behind what was given up there may be more that is as old, and for some there was no room.
        front.looked_at = if given_up > 0 || is_short { Timestamp::default() } else { now };
        *throttled |= is_short;
        Ok(given_up)
    }

    async fn front_of_lane(&self, held: &mut Front, now: Timestamp, is_short: &mut bool) -> Result<usize, StoreError> {
        if held.lane.is_empty() {
            let one = Budget::new(1, BATCH_BYTES);
            held.lane.extend(self.claim_of(Lane::Held, one).await?);
        }
        let Some(front) = held.lane.front() else { return Ok(0) };
        let over = Wait::Held.over(&self.shared, front.event.accepted_at, now);
        let reason = over.or_else(|| wait::deleted(&self.shared, front.event.tenant));
        let Some(reason) = reason else {
            let snapshot = self.shared.snapshots.load();
            if snapshot.traffic.diversion(front.event.tenant, front.event.source, self.hold.lease.shard).is_none() {
                // Its diversion ended before this owner came.
                self.diversions.read_on(now);
            }
            return Ok(0);
        };
        let Some(mut grant) = self.take(Class::Reclaimed, 1, front.event.request.size(), is_short) else { return Ok(0) };
        let Some(front) = held.lane.pop_front() else { return Ok(0) };
        let item = entry(front, Held::of(grant.split(BATCH_BYTES), None));
        self.worker.send(wait::given_up(&self.shared, item, reason)).await;
        Ok(1)
    }

    /// Queues that are not served for as long as an operator says so: looks whether their fronts are too old. Returns how many were given up.
    async fn fronts_of_queues(&self, now: Timestamp, is_short: &mut bool) -> Result<usize, StoreError> {
        let snapshot = self.shared.snapshots.current();
        let mut given_up = 0;
        let cutoff = now.before(self.shared.config.max_wait);
        for queue in self.windows.waiting_since(cutoff) {
            if given_up >= BATCH || self.is_served(&snapshot, queue) {
                continue;
            }
            given_up += match queue {
                QueueKey::Ordered(..) => self.first_of_line(&snapshot, queue, is_short).await?,
                _ => self.front_of_queue(&snapshot, queue, now, is_short).await?,
            };
        }
        Ok(given_up)
    }

    /// The front of a queue goes back to its place, or is given up. Returns whether it was.
    async fn front_of_queue(
        &self,
        snapshot: &Snapshot,
        queue: QueueKey,
        now: Timestamp,
        is_short: &mut bool,
    ) -> Result<usize, StoreError> {
        // Counted as it is looked at, if only until it is back.
        let Some(solo) = self.shared.solos.try_turn(self.hold.lease.shard) else { return Ok(0) };
        let Some(mut grant) = self.take(Class::Reclaimed, 1, BATCH_BYTES, is_short) else { return Ok(0) };
        let Unparked { jobs, unreadable } = self.shared.store.unpark(&self.hold.lease, queue, with_suspects(&grant)).await?;
        let Some(job) = jobs.into_iter().next() else {
            self.windows.unparked(queue, unreadable, None);
            return Ok(0);
        };
        let over = self.kept_by(snapshot, queue).over(&self.shared, job.since, now);
        let reason = over.or_else(|| wait::deleted(&self.shared, job.tenant()));
        let (id, since, own) = (job.id, job.since, grant.split(job.size()));
        drop(grant);
        let solo = Some(solo).filter(|_| job.claims >= SUSPECT);
        let mut item = item_of(job, Held { solo, ..Held::of(own, None) }, Wait::Turn);
        let Some(reason) = reason else {
            self.windows.park(queue, since);
            self.windows.unparked(queue, 1, Some(since));
            let (origin, event, tenant) = (item.origin, item.event(), tenant_of(&item.work));
            let record = Record { origin, event, tenant, finished: false, deliveries: Vec::new() };
            let held = Held { back_to: Some(queue), ..item.held };
            self.worker.send(Done { back: Some(PutBack::parked(id)), ..Done::new(record, Some(held)) }).await;
            return Ok(0);
        };
        self.windows.unparked(queue, 1, Some(since));
        item.progress = self.worker.begun.progress(&self.shared, item.origin, &item.work).await;
        self.worker.send(wait::given_up(&self.shared, item, reason)).await;
        Ok(1)
    }

    /// The first of a line goes back to its place, or is given up. Returns whether it was.
    async fn first_of_line(&self, snapshot: &Snapshot, queue: QueueKey, is_short: &mut bool) -> Result<usize, StoreError> {
        let Some(_solo) = self.shared.solos.try_turn(self.hold.lease.shard) else { return Ok(0) };
        let Some(mut grant) = self.take(Class::Reclaimed, 1, BATCH_BYTES, is_short) else { return Ok(0) };
        let (jobs, lining) = self.unpark(queue, with_suspects(&grant)).await?;
        drop(lining);
        let mut given_up = 0;
        for job in jobs {
            let Some(line) = job.line else { continue };
            let item = item_of(job, Held::of(grant.split(BATCH_BYTES), None), Wait::Turn);
            let done = match wait::deleted(&self.shared, tenant_of(&item.work)) {
                Some(reason) => wait::given_up(&self.shared, item, reason),
                None => order::stays(&self.shared, item, line, self.kept_by(snapshot, queue)),
            };
            given_up += usize::from(done.record.deliveries.iter().all(|row| row.state.is_terminal()));
            self.worker.send(done).await;
        }
        Ok(given_up)
    }

    /// What keeps a queue that is not served.
    fn kept_by(&self, snapshot: &Snapshot, queue: QueueKey) -> Wait {
        let wait = wait_of(&self.worker, snapshot, queue);
        match (queue, wait) {
            (QueueKey::Retries(_) | QueueKey::Plugins(_) | QueueKey::Connection(..) | QueueKey::Paused(..), _)
            | (
                QueueKey::Destination(..) | QueueKey::Ordered(..),
                Wait::CircuitOpen
                | Wait::DestinationDisabled
                | Wait::Handshake
                | Wait::ConnectionPaused
                | Wait::PluginPoisoned
                | Wait::PluginFuel,
            ) => wait,
            _ => Wait::Held,
        }
    }

    fn is_served(&self, snapshot: &Snapshot, queue: QueueKey) -> bool {
        let own = QueueKey::Tenant(queue.tenant());
        [own, queue].into_iter().all(|queue| self.limit_of(snapshot, queue).events > 0)
    }
}

/// Whether the work of who is diverted is in this shard.
fn is_here(snapshot: &Snapshot, who: Diverted, shard: Shard) -> bool {
    let tenant = match who {
        Diverted::Tenant(tenant) => snapshot.tenants.get(&tenant),
        Diverted::Source(source) => snapshot.sources.get(&source).map(|source| &source.tenant),
    };
    tenant.is_some_and(|tenant| tenant.shards.contains(shard))
}
