//! What stands elsewhere than in the normal lane: what an earlier owner left, what is due, what was parked, and the low lane.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{
    BACKOFF, BATCH, BATCH_BYTES, CRASHES, LOOK, LOW_BATCH, LOW_GATHER, NEVER, Round, SCHEDULE_LOOK, SLOW_POLL, ShardLoop,
    THROTTLED, TICK, budget, class_of, is_held, is_over, item_of, limit, size, wait_of, with_suspects,
};
use crate::clock::{Timestamp, monotonic};
use crate::control::snapshot::{Diverted, Percent};
use crate::dispatch::budget::Class;
use crate::dispatch::gate::Pass;
use crate::dispatch::order;
use crate::dispatch::record::Held;
use crate::dispatch::wait::Wait;
use crate::dispatch::work::{Item, source_of, tenant_of};
use crate::event::Lane;
use crate::store::{QueueKey, SUSPECT, StoreError};

/// The state of the round over what is older.
#[derive(Default)]
pub(super) struct Older {
    /// Whether the queues that an earlier owner left are known.
    has_found: bool,
    looked_at: Option<Instant>,
    low_read_at: Option<Instant>,
    /// How much the last read of the low lane found.
    low_found: usize,
    /// Whether there was a round since then.
    low_missed: bool,
    scheduled_at: Option<Instant>,
    reclaimed_at: Timestamp,
    /// Whether work was left because its class may have no more now.
    throttled: bool,
    /// When the next of what waits for plugins, or for a destination's rate or circuit, may go on, as far as the last look told.
    gates_at: Option<Instant>,
    /// When the next line is due in which nothing is now.
    lines_at: Option<Timestamp>,
}

impl Round for Older {
    async fn pass(&mut self, of: &ShardLoop) -> Result<usize, StoreError> {
        let now = of.shared.clock.now();
        let look = is_over(self.looked_at, LOOK);
        if look {
            of.windows.look_again();
        }
        self.throttled = false;
        self.lines_at = of.windows.ring(now);
        if now.since(self.reclaimed_at) >= of.hold.lease.ttl {
            self.reclaim(of).await?;
        }
        let mut read = self.due(of, now).await?;
        read += self.parked(of).await?;
        let is_quiet = of.is_quiet.load(Ordering::Relaxed);
        if look || (is_quiet && self.low_found == LOW_BATCH) || self.low_in() == Some(Duration::ZERO) {
            read += self.low(of).await?;
        } else {
            self.low_missed = true;
        }
        if look {
            let now = monotonic();
            self.looked_at = Some(now);
            let plugins = of.worker.gates.ready_in(&of.shared, &of.windows);
            let destinations = of.worker.admission.ready_in(&of.shared, &of.windows);
            self.gates_at = plugins.into_iter().chain(destinations).min().and_then(|ready| now.checked_add(ready));
        }
        read += of.held(now, &mut self.throttled).await?;
        Ok(read)
    }

    async fn wait(&self, of: &ShardLoop) {
        let now = of.shared.clock.now();
        let due = Timestamp(of.table.next_due.load(Ordering::Acquire)).since(now);
        let longest = if self.throttled { THROTTLED } else { self.low_in().unwrap_or(SLOW_POLL).max(TICK) };
        // Queues are not looked at again before that.
        let looked = self.looked_at.map_or(LOOK, |at| LOOK.saturating_sub(at.elapsed()));
        let gates = self.gates_at.map_or(longest, |at| at.saturating_duration_since(monotonic()).max(looked));
        let lines = self.lines_at.map_or(longest, |at| at.since(now));
        let longest = longest.min(gates).min(lines).max(TICK);
        let budget = &of.shared.in_flight;
        tokio::select! {
            () = of.stirred.notified() => {}
            () = of.table.due_changed.notified() => {}
            () = of.windows.ready() => {}
            () = budget.freed(), if budget.is_exhausted() => {}
            () = tokio::time::sleep(due.clamp(TICK, longest)) => {}
        }
    }
}

impl Older {
    /// What an owner before this one left: its parked queues and its unfinished entries.
    pub(super) async fn take_over(&mut self, of: &ShardLoop) -> Result<(), StoreError> {
        if !self.has_found {
            of.worker.begun.find(&of.shared).await?;
            for (queue, length) in of.shared.store.queues(&of.hold.lease).await? {
                of.windows.found(queue, length);
                of.worker.gates.found(&of.shared, queue);
                of.worker.admission.found(&of.shared.snapshots.load(), queue);
            }
            self.has_found = true;
        }
        while !of.stop.is_cancelled() && self.reclaim(of).await? > 0 {}
        Ok(())
    }

    async fn reclaim(&mut self, of: &ShardLoop) -> Result<usize, StoreError> {
        let count = of.reclaim(&mut self.throttled).await?;
        self.reclaimed_at = of.shared.clock.now();
        Ok(count)
    }

    async fn low(&mut self, of: &ShardLoop) -> Result<usize, StoreError> {
        if !of.mend(&mut self.throttled).await? {
            return Ok(1);
        }
        let low = of.claim(Lane::Low, Class::Low, LOW_BATCH, &mut self.throttled).await?;
        (self.low_found, self.low_read_at, self.low_missed) = (low.len(), Some(monotonic()), false);
        of.start_all(low).await;
        Ok(self.low_found)
    }

    /// In which time the low lane is to be read again; none if that can wait until something else happens.
    fn low_in(&self) -> Option<Duration> {
        let since = self.low_read_at?.elapsed();
        match self.low_found {
            0 if !self.low_missed => None,
            0 => Some(LOOK.saturating_sub(since)),
            _ => Some(LOW_GATHER.saturating_sub(since)),
        }
    }

    async fn due(&mut self, of: &ShardLoop, now: Timestamp) -> Result<usize, StoreError> {
        if !is_over(self.scheduled_at, SCHEDULE_LOOK) && now.0 < of.table.next_due.load(Ordering::Acquire) {
            return Ok(0);
        }
        let Some(mut grant) = of.take(Class::Normal, BATCH, BATCH_BYTES, &mut self.throttled) else { return Ok(0) };
        self.scheduled_at = Some(monotonic());
        of.table.next_due.store(NEVER, Ordering::Release);
        let (store, lease) = (&of.shared.store, &of.hold.lease);
        let mut solo = None;
        let jobs = match store.due(lease, now, budget(&grant)).await {
            Err(StoreError::Suspect(_)) => {
                solo = of.shared.solos.try_turn(lease.shard);
                if solo.is_none() {
                    // Another has it. What is not due is served meanwhile.
                    of.table.schedule(now.after(THROTTLED));
                    return Ok(0);
                }
                store.due(lease, now, with_suspects(&grant)).await?
            }
            jobs => jobs?,
        };
        let next = store.next_due(lease).await.unwrap_or_else(|error| {
            // The jobs are taken, whatever comes next.
            tracing::warn!(shard = lease.shard.0, %error, "schedule not read, looking again");
            Some(now.after(BACKOFF))
        });
        of.table.schedule(next.unwrap_or(Timestamp(NEVER)));
        let count = jobs.len();
        for job in jobs {
            let own = Held::of(grant.split(size(&job)), None);
            let held = Held { solo: solo.take_if(|_| job.claims >= SUSPECT), ..own };
            match job.claims {
                CRASHES.. => of.give_up(item_of(job, held, Wait::Turn)).await,
                SUSPECT.. => {
                    let _lining = of.lining.lock().await;
                    of.alone((job.event(), job.claims), held.over(), of.begin(job, held)).await;
                }
                _ => of.begin(job, held).await,
            }
        }
        Ok(count)
    }

    /// Serves the sub-queues by tenant, in turn: one with thousands of jobs gets the same turn as one with a few.
    async fn parked(&mut self, of: &ShardLoop) -> Result<usize, StoreError> {
        let mut count = 0;
        while count < BATCH {
            let snapshot = of.shared.snapshots.current();
            let idle = of.shared.in_flight.idle();
            let limits = |queue| limit(&of.worker, &snapshot, idle, queue);
            let Some(mut turn) = of.windows.next(&limits) else { break };
            let (queue, bytes) = (turn.queue, turn.bytes.min(BATCH_BYTES));
            let class = match class_of(&snapshot, queue) {
                // What keeps an order comes this way even if nothing waits.
                Class::CatchUp if matches!(queue, QueueKey::Ordered(..)) && of.windows.waiting(queue) <= BATCH as u64 => {
                    Class::Normal
                }
                class => class,
            };
            let Some(mut grant) = of.take(class, turn.permits.len(), bytes, &mut self.throttled) else {
                of.windows.put_back(turn);
                if of.shared.in_flight.is_exhausted() {
                    break;
                }
                continue;
            };
            let mut solo = None;
            let mut taken = of.unpark(queue, budget(&grant)).await;
            if let Err(StoreError::Suspect(_)) = taken {
                solo = of.shared.solos.try_turn(of.hold.lease.shard);
                if solo.is_none() {
                    // Another has it. Other queues are served meanwhile.
                    of.windows.put_back(turn);
                    continue;
                }
                taken = of.unpark(queue, with_suspects(&grant)).await;
            }
            let (jobs, _lining) = match taken {
                Ok(taken) => taken,
                Err(error) => {
                    of.windows.put_back(turn);
                    return Err(error);
                }
            };
            count += jobs.len();
            if jobs.iter().any(|job| job.claims >= SUSPECT) {
                // Its turn, if it needs one, is to be taken when it can be used.
                of.settle_all().await;
            }
            let (now, wait) = (of.shared.clock.now(), wait_of(&of.worker, &snapshot, queue));
            for job in jobs {
                let (mut permit, bytes) = (turn.permits.pop(), size(&job));
                if let Some(permit) = &mut permit {
                    permit.weigh(bytes);
                }
                let retries_wait = job.line.is_some() && job.attempts > 0 && snapshot.traffic.retries == Percent::NONE;
                let diverted = source_of(&job.work).filter(|source| {
                    // What was held of a source is older than what waits in its tenant's queue.
                    let is_behind = |tenant| of.windows.is_waiting(QueueKey::Source(tenant, *source));
                    is_held(&snapshot, Diverted::Source(*source)) || matches!(queue, QueueKey::Tenant(tenant) if is_behind(tenant))
                });
                let pass = match queue {
                    // What is given up needs no turn.
                    QueueKey::Destination(..) | QueueKey::Ordered(..)
                        if wait.over_for(&of.shared, job.spent, job.since, now).is_some() =>
                    {
                        Pass::None
                    }
                    QueueKey::Ordered(..) if retries_wait => Pass::None,
                    QueueKey::Destination(..) | QueueKey::Ordered(..) => {
                        of.worker.admission.pass(&snapshot, queue, now).map_or(Pass::None, Pass::Turn)
                    }
                    _ => of.worker.gates.pass(&of.shared, &snapshot, queue, now),
                };
                let own = Held::of(grant.split(bytes), permit);
                let held = Held { solo: solo.take_if(|_| job.claims >= SUSPECT), ..own };
                let item = Item { pass, ..item_of(job, held, wait) };
                match diverted.filter(|_| {
                    matches!(queue, QueueKey::Tenant(_) | QueueKey::Plugins(_) | QueueKey::Connection(..) | QueueKey::Paused(..))
                }) {
                    Some(source) => {
                        let queue = QueueKey::Source(tenant_of(&item.work), source);
                        of.park(item, queue, Wait::Held).await;
                    }
                    None => match item.line.filter(|_| retries_wait) {
                        Some(line) => of.worker.send(order::stays(&of.shared, item, line, Wait::RetriesPaused)).await,
                        None if item.claims >= CRASHES => of.give_up(item).await,
                        None if item.claims >= SUSPECT => {
                            of.alone((item.event(), item.claims), item.held.over(), of.launch(item)).await;
                        }
                        None => of.launch(item).await,
                    },
                }
            }
        }
        Ok(count)
    }
}
