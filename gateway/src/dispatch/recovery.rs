//! Works on jobs that try dead letters again, or replay events ([`crate::control::recovery::job`] says how they are kept, and how they survive a crash).
//!
//! A job is worked on by the owner of its tenant's home shard, whichever of the tenant's shards its dead letters are in: so by one node at
//! a time, as sure as a shard has one owner. An owner that stalls may put a batch back that its successor has put back already, which
//! moves nothing, and may note an older progress, which the successor's next note replaces.
//!
//! It must not become the next incident: it goes at its own rate, no faster than what is parked may go while the node has too much to do,
//! and stops while retries are paused or half of what its tenant may have queued is queued. Of dead letters it holds a page at a time, whose
//! length follows their size.
//!
//! What keeps an order goes into its lines as it comes due. So of a batch with any of that each is due a millisecond after the one before, in
//! the order in which their events were accepted.

mod replay;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::budget::{Class, Use};
use super::order;
use super::owner::Hold;
use crate::clock::monotonic;
use crate::control::recovery::job::{self, Holdup, Open, Order};
use crate::control::recovery::{JobState, Progress};
use crate::control::snapshot::{Percent, Tenant};
use crate::event::{JobId, TenantId};
use crate::store::{Burial, Home, RETRIED_APART, StoreError};

/// Between two looks for jobs, and between two looks whether what holds one up is gone.
const LOOK: Duration = Duration::from_secs(1);
/// How long it waits for what its class may start.
const THROTTLED: Duration = Duration::from_millis(20);
/// Jobs that are worked on at once in one shard; others wait for one to end.
const AT_ONCE: usize = 32;
/// The most dead letters of one read and of one batch, and how many are read before their size is known.
const READ: usize = 64;
const FIRST_READ: usize = 8;
/// About so many bytes are read at once.
const READ_BYTES: usize = 4 << 20;
/// A job that is named and not there after this long will not come any more.
const SETTLED: Duration = Duration::from_secs(60);

/// The jobs that are not over, as this node saw them last.
pub(super) type Seen = watch::Sender<Arc<[Open]>>;

/// Looks for jobs until `stop`.
pub(super) async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        match job::open(&*shared.store).await {
            Ok(open) => {
                shared.recovery.send_if_modified(|seen| {
                    let is_new = **seen != *open;
                    if is_new {
                        *seen = open.into();
                    }
                    is_new
                });
            }
            Err(error) => tracing::debug!(%error, "retry jobs not looked for, trying again"),
        }
        if tokio::time::timeout(LOOK, stop.cancelled()).await.is_ok() {
            return;
        }
    }
}

/// Works on the jobs of the tenants whose home is this shard, until `done`.
pub(super) async fn run(shared: Arc<Shared>, hold: Arc<Hold>, done: CancellationToken) {
    let mut running = HashSet::new();
    let mut tasks = JoinSet::new();
    loop {
        let open = shared.recovery.borrow().clone();
        for job in open.iter().filter(|job| is_here(&shared, &hold, job)) {
            if running.len() < AT_ONCE && running.insert(job.job) {
                tasks.spawn(tend(shared.clone(), hold.clone(), *job));
            }
        }
        tokio::select! {
            () = done.cancelled() => return,
            () = hold.lost() => return,
            Some(ended) = tasks.join_next() => match ended {
                Ok(job) => drop(running.remove(&job)),
                Err(error) => {
                    // Which one it was is not told: all are begun anew from their notes.
                    tracing::error!(shard = hold.lease.shard.0, %error, "work on a retry job broke");
                    tasks.abort_all();
                    while tasks.join_next().await.is_some() {}
                    running.clear();
                }
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Whether the job is for this shard's owner. One whose tenant is gone is for the first shard's, to be taken away.
fn is_here(shared: &Shared, hold: &Hold, open: &Open) -> bool {
    let snapshot = shared.snapshots.load();
    let shard = hold.lease.shard;
    snapshot.tenants.get(&open.tenant).map_or(shard.0 == 0, |tenant| tenant.shards.home() == shard)
}

/// Works on a job until it is over or something goes wrong; then it is begun again from its last note.
async fn tend(shared: Arc<Shared>, hold: Arc<Hold>, open: Open) -> JobId {
    let work = async {
        let Some(mut work) = Work::take_up(&shared, &hold, open).await? else { return Ok(()) };
        let (state, failure) = match work.go().await {
            Ok(state) => (state, None),
            Err(error @ (StoreError::Refused(_) | StoreError::Damaged(_))) => (JobState::Failed, Some(error.to_string())),
            Err(error) => return Err(error),
        };
        work.end(state, failure).await
    };
    if let Err(error) = work.await {
        tracing::warn!(job = %open.job, %error, "retry job interrupted, it goes on later");
        tokio::time::sleep(LOOK).await;
    }
    open.job
}

/// A job that is worked on.
struct Work<'a> {
    shared: &'a Shared,
    hold: &'a Hold,
    tenant: TenantId,
    order: Order,
    progress: Progress,
    /// Dead letters of the next read.
    read: usize,
    /// The next batch is not put back before.
    not_before: Instant,
    noted_at: Instant,
}

impl<'a> Work<'a> {
    /// None if there is nothing to do.
    async fn take_up(shared: &'a Shared, hold: &'a Hold, open: Open) -> Result<Option<Self>, StoreError> {
        let (store, now) = (&*shared.store, shared.clock.now());
        hold.valid().await;
        let Open { tenant, job: id, created_at } = open;
        let snapshot = shared.snapshots.load();
        let is_there = snapshot.tenants.get(&tenant).is_some_and(|tenant| tenant.deleting.is_none());
        drop(snapshot);
        let job = job::job(store, tenant, id).await?;
        let Some(job) = job.filter(|_| is_there) else {
            if now.since(created_at) >= SETTLED {
                job::forget(store, tenant, id).await?;
            }
            return Ok(None);
        };
        if job.progress.is_over() {
            job::close(store, id).await?;
            return Ok(None);
        }
        job::keep(store, tenant, &job.order).await?;
        tracing::info!(%tenant, job = %id, examined = job.progress.examined, "retry job taken up");
        let now = monotonic();
        let (order, progress) = (job.order, job.progress);
        Ok(Some(Self { shared, hold, tenant, order, progress, read: FIRST_READ, not_before: now, noted_at: now }))
    }

    /// Goes on to the end, and tells which.
    async fn go(&mut self) -> Result<JobState, StoreError> {
        if self.progress.in_batch() > 0 {
            self.check_ends().await?;
            self.put_back(true).await?;
        }
        loop {
            if !self.order.dry_run {
                tokio::time::sleep_until(self.not_before.into()).await;
            }
            self.hold.valid().await;
            let job = job::job(&*self.shared.store, self.tenant, self.order.id).await?;
            if job.is_none_or(|job| job.cancelled) {
                return Ok(JobState::Cancelled);
            }
            let snapshot = self.shared.snapshots.load();
            let tenant = snapshot.tenants.get(&self.tenant).filter(|tenant| tenant.deleting.is_none()).cloned();
            drop(snapshot);
            let Some(tenant) = tenant else { return Ok(JobState::Cancelled) };
            self.check_ends().await?;
            let Some(shard) = tenant.shards.iter().nth(self.progress.shard) else { return Ok(JobState::Done) };
            let home = Home { tenant: self.tenant, shard };
            let most = match self.most(&tenant, home).await? {
                Ok(most) => most,
                Err(holdup) => {
                    self.progress.held_up_by = Some(holdup);
                    self.note().await?;
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
            };
            self.progress.held_up_by = None;
            match self.order.replay.clone() {
                Some(replay) => self.choose_events(home, most, &replay).await?,
                None => self.choose(home, most).await?,
            }
            if self.progress.in_batch() > 0 {
                self.note().await?;
                self.put_back(false).await?;
                // Where the next note is far away this one is made, for who watches.
                if self.not_before.saturating_duration_since(monotonic()) >= LOOK / 4 {
                    self.note().await?;
                }
            } else if self.noted_at.elapsed() >= LOOK {
                self.note().await?;
            }
        }
    }

    /// How many may be put back now, or what holds the job up.
    async fn most(&mut self, tenant: &Tenant, home: Home) -> Result<Result<usize, Holdup>, StoreError> {
        if self.order.dry_run {
            return Ok(Ok(usize::MAX));
        }
        if self.shared.snapshots.load().traffic.retries == Percent::NONE {
            return Ok(Err(Holdup::RetriesPaused));
        }
        let share = tenant.plan.queued_bytes / 2 / tenant.shards.iter().len().max(1) as u64;
        if self.shared.store.queued_bytes(home).await? >= share.max(1) {
            return Ok(Err(Holdup::QueuedBytes));
        }
        let wanted = (self.order.rate as usize).clamp(1, READ);
        let of = Use { class: Class::CatchUp, shard: self.hold.lease.shard };
        let asked_at = monotonic();
        loop {
            match self.shared.in_flight.spend(of, wanted) {
                0 if asked_at.elapsed() >= LOOK => return Ok(Err(Holdup::Overload)),
                0 => tokio::time::sleep(THROTTLED).await,
                most => return Ok(Ok(most)),
            }
        }
    }

    /// Reads on, and makes the next batch of what is meant.
    async fn choose(&mut self, home: Home, most: usize) -> Result<(), StoreError> {
        let page = self.shared.store.oldest_dead_letters(home, self.place(), self.read).await?;
        let snapshot = self.shared.snapshots.load();
        let ends = |connection| snapshot.connections.get(&connection).map(|wired| (wired.source, wired.destination.id));
        let (mut bytes, mut seen) = (0, 0);
        let mut batch = Vec::new();
        let mut next = page.next;
        for letter in page.items {
            if self.is_past_end(letter.place()) {
                next = None;
                break;
            }
            if batch.len() >= most {
                next = self.place();
                break;
            }
            (bytes, seen) = (bytes + letter.job.size(), seen + 1);
            let Burial { at, id } = letter.place();
            self.progress.after = Some((at, id));
            if self.order.filter.matches(&letter, ends) {
                self.progress.matched += 1;
                if !self.order.dry_run {
                    self.progress.in_order |= order::keeps_order(&snapshot, &letter.job.work);
                    batch.push((letter.age(), letter.job.id));
                }
            }
        }
        batch.sort_unstable();
        self.progress.batch.extend(batch.into_iter().map(|(_, id)| id));
        self.progress.examined += seen as u64;
        self.read = (READ_BYTES * seen).checked_div(bytes).unwrap_or(READ).clamp(1, READ);
        match next {
            Some(Burial { at, id }) => self.progress.after = Some((at, id)),
            // What is in the batch is in this shard.
            None if self.progress.batch.is_empty() => {
                self.progress.shard += 1;
                self.progress.after = None;
            }
            None => {}
        }
        Ok(())
    }

    /// Behind which place it goes on: at first with the oldest.
    fn place(&self) -> Option<Burial> {
        let after = self.progress.after.map(|(at, id)| Burial { at, id });
        after.or_else(|| self.order.filter.after())
    }

    /// Whether it ends before this place: it goes up to the newest that its shard had when the job was asked for, whatever the clocks say.
    fn is_past_end(&self, place: Burial) -> bool {
        let newest = self.order.newest.get(self.progress.shard).copied().flatten();
        let is_newer = newest.is_none_or(|(at, id)| place > Burial { at, id });
        is_newer || self.order.filter.before().is_some_and(|before| place >= before)
    }

    /// Puts the noted batch back; `again` if that may have been done before.
    async fn put_back(&mut self, again: bool) -> Result<(), StoreError> {
        let snapshot = self.shared.snapshots.load();
        let shard = snapshot.tenants.get(&self.tenant).and_then(|tenant| tenant.shards.iter().nth(self.progress.shard));
        drop(snapshot);
        let Some(shard) = shard else { return Ok(()) };
        let home = Home { tenant: self.tenant, shard };
        let all = self.progress.in_batch() as u64;
        let apart = if self.progress.in_order { RETRIED_APART } else { Duration::ZERO };
        let moved = match self.order.replay.clone() {
            Some(replay) => self.replay(home, &replay).await?,
            None => {
                let now = self.shared.clock.now();
                let dues = (0..).map(|place| now.after(apart * place));
                let each: Vec<_> = self.progress.batch.iter().copied().zip(dues).collect();
                self.shared.store.retry_each(home, &each).await?
            }
        };
        let moved = if again { all } else { moved };
        self.progress.retried += moved;
        self.progress.gone += all - moved;
        let pause = Duration::from_secs_f64(all as f64 / f64::from(self.order.rate.max(1)));
        // The next batch is due after all of this one.
        let pause = pause.max(apart * all as u32);
        self.progress.batch.clear();
        self.progress.events.clear();
        self.progress.in_order = false;
        self.not_before = self.not_before.max(monotonic()) + pause;
        Ok(())
    }

    async fn note(&mut self) -> Result<(), StoreError> {
        self.hold.valid().await;
        self.progress.at = self.shared.clock.now();
        self.noted_at = monotonic();
        job::note(&*self.shared.store, self.tenant, self.order.id, &self.progress).await
    }

    async fn end(mut self, state: JobState, failure: Option<String>) -> Result<(), StoreError> {
        self.progress.state = state;
        self.progress.failure = failure;
        self.progress.held_up_by = None;
        self.note().await?;
        let Progress { examined, retried, gone, .. } = self.progress;
        tracing::info!(tenant = %self.tenant, job = %self.order.id, ?state, examined, retried, gone, "retry job over");
        job::close(&*self.shared.store, self.order.id).await
    }
}
