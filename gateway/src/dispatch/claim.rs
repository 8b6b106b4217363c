//! The loop of one shard: takes what is due, what was parked and what is new, in that order, inside the budget, and starts it.
//!
//! It only decides. It never waits for a plugin, a destination or a write of outcomes, so that one slow tenant can't stop the others.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::budget::{Amount, Class, Grant, Use};
use super::diversion::Diversions;
use super::owner::Hold;
use super::record::{self, Done, Held, Written};
use super::wait::{self, Wait};
use super::window::{Limit, Windows};
use super::work::{Item, Worker, crashed, source_of, tenant_of};
use crate::clock::{Timestamp, monotonic};
use crate::control::snapshot::{Diversion, Diverted, Percent, Snapshot};
use crate::event::{Lane, TenantId};
use crate::store::{Budget, Claimed, DeliveryState, Job, Origin, QueueKey, StoreError, Ticket, Work};

/// At most this many in one read of the store.
pub(super) const BATCH: usize = 256;
/// At most this many bytes in one read of the store.
pub(super) const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// At most this many jobs of a tenant of weight 1 in its turn.
const TURN: usize = 32;
/// How long a busy loop lets entries gather: a read for each single event costs the store several times as much.
const GATHER: Duration = Duration::from_micros(100);
/// Reads of at least this many entries make the loop a busy one.
const BUSY: usize = 8;
/// How long an idle loop waits for a signal that may have been lost.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// The shortest wait.
const TICK: Duration = Duration::from_millis(1);
/// How long it waits for what its class is allowed.
const THROTTLED: Duration = Duration::from_millis(10);
/// The low lane, and queues that had no room, are looked at this often at least.
const LOOK: Duration = Duration::from_millis(50);
/// The schedule is looked at this often when nothing is known to come due: somebody else may have put work there.
const SCHEDULE_LOOK: Duration = Duration::from_secs(1);
/// At most this many of the low lane in one read: the normal lane waits meanwhile.
const LOW_BATCH: usize = 64;
/// How long the low lane's entries gather before the next read, unless the last one left some.
const LOW_GATHER: Duration = Duration::from_millis(5);
/// Pause after a read of the store that failed.
const BACKOFF: Duration = Duration::from_millis(100);
/// From this claim on an event runs alone.
const SUSPECT: u32 = 3;
/// With this claim an event is given up: it has crashed the gateway again and again.
const CRASHES: u32 = 5;

/// One shard's loop, under one lease.
pub(super) struct ShardLoop {
    pub(super) shared: Arc<Shared>,
    pub(super) hold: Arc<Hold>,
    pub(super) windows: Windows,
    pub(super) worker: Arc<Worker>,
    records: Option<mpsc::Receiver<Done>>,
    table: Arc<Table>,
    tasks: TaskTracker,
    looked_at: Option<Instant>,
    low_read_at: Option<Instant>,
    /// How much the last read of the low lane found.
    low_found: usize,
    /// Whether there was a round since then.
    low_missed: bool,
    scheduled_at: Option<Instant>,
    reclaimed_at: Timestamp,
    /// Whether work was left because its class may have no more now.
    pub(super) throttled: bool,
    pub(super) diversions: Diversions,
}

/// What this owner has in flight, and what it knows of the schedule; shared with the writer of outcomes.
#[derive(Debug)]
struct Table {
    entries: Mutex<HashSet<Ticket>>,
    next_due: AtomicU64,
    due_changed: Notify,
}

const NEVER: u64 = u64::MAX;

impl ShardLoop {
    pub(super) fn new(shared: Arc<Shared>, hold: Arc<Hold>, windows: Windows) -> Self {
        // Each item in flight sends one final record; the channel has room for all, so that work never waits for a place.
        let (sender, records) = mpsc::channel(shared.config.in_flight.max(BATCH));
        let table = Table { entries: Mutex::default(), next_due: AtomicU64::new(0), due_changed: Notify::new() };
        Self {
            worker: Arc::new(Worker::new(shared.clone(), hold.clone(), windows.clone(), sender)),
            shared,
            hold,
            windows,
            records: Some(records),
            table: Arc::new(table),
            tasks: TaskTracker::new(),
            looked_at: None,
            low_read_at: None,
            low_found: 0,
            low_missed: false,
            scheduled_at: None,
            reclaimed_at: Timestamp::default(),
            throttled: false,
            diversions: Diversions::default(),
        }
    }

    /// Works until `stop`, then lets what is in flight finish inside the drain deadline. An error means that the lease is gone.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let Some(records) = self.records.take() else { return Ok(()) };
        let table = TableWriter(self.table.clone());
        let writer = record::run(self.shared.clone(), self.hold.clone(), self.windows.clone(), records, table);
        let writer = tokio::spawn(writer);
        let hold = self.hold.clone();
        let result = tokio::select! {
            result = self.work() => result,
            () = stop.cancelled() => Ok(()),
            () = hold.lost() => Err(StoreError::Fenced(hold.lease.shard)),
        };
        self.tasks.close();
        if result.is_ok() {
            self.wind_up().await;
        } else {
            hold.lose();
        }
        let (tasks, worker) = (self.tasks, self.worker);
        let end = async move {
            tasks.wait().await;
            drop(worker);
            writer.await
        };
        tokio::pin!(end);
        let ended = match tokio::time::timeout(hold.lease.ttl, &mut end).await {
            Ok(ended) => ended,
            // A store that is away takes no outcomes. They are given up with the lease: the next owner finds the work where it was.
            Err(_) => {
                hold.lose();
                end.await
            }
        };
        if let Err(error) = ended {
            tracing::error!(shard = hold.lease.shard.0, %error, "writer of outcomes ended abnormally");
        }
        result
    }

    /// Lets work finish; what is still unfinished at the deadline writes its progress and stays queued.
    async fn wind_up(&self) {
        if tokio::time::timeout(self.shared.config.drain, self.tasks.wait()).await.is_err() {
            self.worker.wind_up();
        }
    }

    async fn work(&mut self) -> Result<(), StoreError> {
        let signal = self.shared.store.signal(self.hold.lease.shard);
        let mut taken_over = false;
        loop {
            let step = async {
                if !taken_over {
                    self.take_over().await?;
                    taken_over = true;
                }
                self.pass().await
            };
            match step.await {
                Ok(read) if read >= BUSY => tokio::time::sleep(GATHER).await,
                Ok(0) => self.wait(&signal).await,
                Ok(_) => {}
                Err(StoreError::Fenced(shard)) => return Err(StoreError::Fenced(shard)),
                Err(error) => {
                    tracing::warn!(shard = self.hold.lease.shard.0, %error, "store not read, trying again");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }

    async fn wait(&self, signal: &Notify) {
        let now = self.shared.clock.now();
        let due = Timestamp(self.table.next_due.load(Ordering::Acquire)).since(now);
        let longest = if self.throttled { THROTTLED } else { self.low_in().unwrap_or(SLOW_POLL).max(TICK) };
        tokio::select! {
            () = signal.notified() => {}
            () = self.table.due_changed.notified() => {}
            () = self.windows.ready() => {}
            () = self.shared.in_flight.freed(), if self.shared.in_flight.is_exhausted() => {}
            () = tokio::time::sleep(due.clamp(TICK, longest)) => {}
        }
    }

    /// What an owner before this one left: its parked queues and its unfinished entries.
    async fn take_over(&mut self) -> Result<(), StoreError> {
        for (queue, length) in self.shared.store.queues(&self.hold.lease).await? {
            self.windows.found(queue, length);
        }
        while self.reclaim().await? > 0 {}
        Ok(())
    }

    /// One round over everything that can have work. Returns how much was read.
    async fn pass(&mut self) -> Result<usize, StoreError> {
        let now = self.shared.clock.now();
        let look = is_over(self.looked_at, LOOK);
        if look {
            self.windows.look_again();
        }
        self.throttled = false;
        if now.since(self.reclaimed_at) >= self.hold.lease.ttl {
            self.reclaim().await?;
        }
        let mut read = self.due(now).await?;
        read += self.parked().await?;
        let normal = self.claim(Lane::Normal, Class::Normal, BATCH).await?;
        // What was held before is older than what has just been read, so it begins first.
        read += self.returning(now).await? + normal.len();
        let is_quiet = normal.is_empty();
        self.start_all(normal).await;
        if look || (is_quiet && self.low_found == LOW_BATCH) || self.low_in() == Some(Duration::ZERO) {
            read += self.low().await?;
        } else {
            self.low_missed = true;
        }
        if look {
            self.looked_at = Some(monotonic());
        }
        read += self.held(now).await?;
        Ok(read)
    }

    async fn reclaim(&mut self) -> Result<usize, StoreError> {
        let Some(mut grant) = self.take(Class::Reclaimed, BATCH, BATCH_BYTES) else {
            // Nothing is free, or the shard is paused.
            let _either = tokio::time::timeout(THROTTLED, self.shared.in_flight.freed()).await;
            return Ok(1);
        };
        let held = self.table.entries().clone();
        let claimed = self.shared.store.reclaim(&self.hold.lease, &held, budget(&grant)).await?;
        self.reclaimed_at = self.shared.clock.now();
        let count = claimed.len();
        for claimed in claimed {
            let grant = grant.split(claimed.event.request.size());
            match claimed.claims {
                CRASHES.. => self.give_up(claimed, grant).await,
                SUSPECT.. => self.run_alone(claimed, grant).await,
                _ => self.start(claimed, grant).await,
            }
        }
        Ok(count)
    }

    async fn low(&mut self) -> Result<usize, StoreError> {
        let low = self.claim(Lane::Low, Class::Low, LOW_BATCH).await?;
        (self.low_found, self.low_read_at, self.low_missed) = (low.len(), Some(monotonic()), false);
        self.start_all(low).await;
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

    async fn due(&mut self, now: Timestamp) -> Result<usize, StoreError> {
        if !is_over(self.scheduled_at, SCHEDULE_LOOK) && now.0 < self.table.next_due.load(Ordering::Acquire) {
            return Ok(0);
        }
        let Some(mut grant) = self.take(Class::Normal, BATCH, BATCH_BYTES) else { return Ok(0) };
        self.scheduled_at = Some(monotonic());
        self.table.next_due.store(NEVER, Ordering::Release);
        let jobs = self.shared.store.due(&self.hold.lease, now, budget(&grant)).await?;
        let next = self.shared.store.next_due(&self.hold.lease).await?;
        self.table.schedule(next.unwrap_or(Timestamp(NEVER)));
        let count = jobs.len();
        for job in jobs {
            let grant = grant.split(size(&job));
            self.begin(job, grant).await;
        }
        Ok(count)
    }

    /// Starts a job whose time has come, unless it has to wait for something else now.
    async fn begin(&self, job: Job, grant: Grant) {
        let snapshot = self.shared.snapshots.load();
        let tenant = tenant_of(&job.work);
        let traffic = &snapshot.traffic;
        let place = if traffic.diverted.get(&Diverted::Tenant(tenant)) == Some(&Diversion::Held) {
            Err((QueueKey::Tenant(tenant), Wait::Held))
        } else if job.attempts > 0 && traffic.retries != Percent::ALL {
            Err((QueueKey::Retries(tenant), Wait::RetriesPaused))
        } else {
            let limit = self.limit_of(&snapshot, QueueKey::Tenant(tenant));
            self.windows.enter(tenant, &[], limit, size(&job)).map_err(|queue| (queue, Wait::TenantWindow))
        };
        drop(snapshot);
        match place {
            Ok(permit) => self.spawn(item_of(job, Held::of(grant, Some(permit)), Wait::Turn)),
            Err((queue, wait)) => {
                let item = item_of(job, Held::of(grant, None), wait);
                self.park(item, queue, wait).await;
            }
        }
    }

    /// Serves the sub-queues by tenant, in turn: one with thousands of jobs gets the same turn as one with a few.
    async fn parked(&mut self) -> Result<usize, StoreError> {
        let mut count = 0;
        while count < BATCH {
            let snapshot = self.shared.snapshots.current();
            let idle = self.shared.in_flight.idle();
            let limits = |queue| limit(&self.shared, &snapshot, idle, queue);
            let Some(mut turn) = self.windows.next(&limits) else { break };
            let (queue, bytes) = (turn.queue, turn.bytes.min(BATCH_BYTES));
            let Some(mut grant) = self.take(class_of(&snapshot, queue), turn.permits.len(), bytes) else {
                self.windows.put_back(turn);
                if self.shared.in_flight.is_exhausted() {
                    break;
                }
                continue;
            };
            let jobs = match self.shared.store.unpark(&self.hold.lease, queue, budget(&grant)).await {
                Ok(jobs) => jobs,
                Err(error) => {
                    self.windows.put_back(turn);
                    return Err(error);
                }
            };
            self.windows.unparked(queue, jobs.len() as u64, jobs.last().map(|job| job.since));
            count += jobs.len();
            for job in jobs {
                let (mut permit, bytes) = (turn.permits.pop(), size(&job));
                if let Some(permit) = &mut permit {
                    permit.weigh(bytes);
                }
                let diverted = source_of(&job.work).filter(|source| is_held(&snapshot, Diverted::Source(*source)));
                let item = item_of(job, Held::of(grant.split(bytes), permit), wait_of(queue));
                match diverted.filter(|_| matches!(queue, QueueKey::Tenant(_))) {
                    Some(source) => {
                        let queue = QueueKey::Source(tenant_of(&item.work), source);
                        self.park(item, queue, Wait::Held).await;
                    }
                    None => self.spawn(item),
                }
            }
        }
        Ok(count)
    }

    /// The next entries of a lane, each with what it uses of the budget.
    pub(super) async fn claim(&mut self, lane: Lane, class: Class, most: usize) -> Result<Vec<(Claimed, Grant)>, StoreError> {
        let Some(mut grant) = self.take(class, most, BATCH_BYTES) else { return Ok(Vec::new()) };
        let claimed = self.shared.store.claim(&self.hold.lease, lane, budget(&grant)).await?;
        let with_grant = |claimed: Claimed| {
            let grant = grant.split(claimed.event.request.size());
            (claimed, grant)
        };
        Ok(claimed.into_iter().map(with_grant).collect())
    }

    pub(super) fn take(&mut self, class: Class, events: usize, bytes: usize) -> Option<Grant> {
        let grant = self.shared.in_flight.take(Use { class, shard: self.hold.lease.shard }, events, bytes);
        self.throttled |= grant.is_none();
        grant
    }

    pub(super) async fn start_all(&self, claimed: Vec<(Claimed, Grant)>) {
        for (claimed, grant) in claimed {
            self.start(claimed, grant).await;
        }
    }

    /// Starts an entry, or parks it if its tenant is over its window or diverted.
    async fn start(&self, claimed: Claimed, grant: Grant) {
        let claimed = self.noted(claimed);
        let (tenant, source) = (claimed.event.tenant, claimed.event.source);
        let snapshot = self.shared.snapshots.load();
        let (own, of_source) = (QueueKey::Tenant(tenant), QueueKey::Source(tenant, source));
        let diversion = snapshot.traffic.diversion(tenant, source, self.hold.lease.shard);
        let place = if diversion == Some(Diversion::Held) {
            Err(if is_held(&snapshot, Diverted::Tenant(tenant)) { own } else { of_source })
        } else {
            let limit = self.limit_of(&snapshot, own);
            self.windows.enter(tenant, &[of_source], limit, claimed.event.request.size())
        };
        drop(snapshot);
        match place {
            Ok(permit) => self.spawn(entry(claimed, Held::of(grant, Some(permit)))),
            Err(queue) => {
                let is_held = diversion == Some(Diversion::Held) || queue == of_source;
                let wait = if is_held { Wait::Held } else { Wait::TenantWindow };
                self.park(entry(claimed, Held::of(grant, None)), queue, wait).await;
            }
        }
    }

    /// Notes an entry as in this owner's hands.
    pub(super) fn noted(&self, claimed: Claimed) -> Claimed {
        self.table.entries().insert(claimed.ticket);
        claimed
    }

    async fn park(&self, item: Item, queue: QueueKey, wait: Wait) {
        self.windows.park(queue, item.since);
        let state = DeliveryState::Parked { reason: wait.as_str().to_owned(), queue: Some(queue) };
        self.worker.send(wait::moved(item, state, self.shared.clock.now())).await;
    }

    async fn give_up(&self, claimed: Claimed, grant: Grant) {
        let (event, claims) = (claimed.event.id, claimed.claims);
        tracing::error!(%event, claims, "event given up: each gateway that worked on it went away");
        let item = entry(self.noted(claimed), Held::of(grant, None));
        let state = DeliveryState::DeadLettered { reason: crashed(claims) };
        self.worker.send(wait::moved(item, state, self.shared.clock.now())).await;
    }

    /// Runs a suspect with nothing else beside it, so that a crash tells which event it was.
    async fn run_alone(&self, claimed: Claimed, grant: Grant) {
        tracing::warn!(event = %claimed.event.id, claims = claimed.claims, "event runs alone: gateways that worked on it went away");
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
        self.start(claimed, grant).await;
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    pub(super) fn spawn(&self, item: Item) {
        let (worker, hold) = (self.worker.clone(), self.hold.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = hold.lost() => {}
                () = worker.run(item) => {}
            }
        });
    }

    pub(super) fn limit_of(&self, snapshot: &Snapshot, queue: QueueKey) -> Limit {
        limit(&self.shared, snapshot, self.shared.in_flight.idle(), queue)
    }
}

/// What a queue may have in flight in one shard. A tenant has no more than its plan says, and no more than its weight times what nobody
/// uses: so there is always room for who comes next, however many are noisy, and one alone may use what its plan allows. One with several
/// shards has its part of the plan in each of them, wherever they are owned, and of what nobody uses here in each that is owned here.
fn limit(shared: &Shared, snapshot: &Snapshot, idle: Amount, queue: QueueKey) -> Limit {
    let most = |events| Limit { events, bytes: usize::MAX, turn: BATCH };
    let is_paused = |who| is_held(snapshot, who) && snapshot.traffic.held == Percent::NONE;
    match queue {
        QueueKey::Tenant(tenant) => {
            let plan = snapshot.tenants.get(&tenant).map(|tenant| {
                let here = tenant.shards.iter().filter(|shard| shared.share.owns(*shard)).count().max(1);
                (tenant.plan.weight as usize, tenant.shards.part(tenant.plan.in_flight), here)
            });
            let (weight, window, here) = plan.unwrap_or((1, shared.config.default_window, 1));
            let of_idle = |idle: usize| weight.saturating_mul(idle) / here;
            let events = if is_paused(Diverted::Tenant(tenant)) { 0 } else { window.min(of_idle(idle.events)).max(1) };
            Limit { events, bytes: of_idle(idle.bytes).max(1), turn: TURN.saturating_mul(weight).min(BATCH) }
        }
        QueueKey::Destination(tenant, destination) => {
            let known = snapshot.destinations.get(&destination).zip(snapshot.tenants.get(&tenant));
            most(known.map_or(shared.config.default_window, |(destination, tenant)| tenant.shards.part(destination.in_flight)))
        }
        QueueKey::Source(_, source) => most(if is_paused(Diverted::Source(source)) { 0 } else { usize::MAX }),
        QueueKey::Retries(_) => most(if snapshot.traffic.retries == Percent::NONE { 0 } else { usize::MAX }),
    }
}

/// Whether it was longer ago than this.
fn is_over(since: Option<Instant>, time: Duration) -> bool {
    since.is_none_or(|since| since.elapsed() >= time)
}

fn is_held(snapshot: &Snapshot, who: Diverted) -> bool {
    snapshot.traffic.diverted.get(&who) == Some(&Diversion::Held)
}

fn class_of(snapshot: &Snapshot, queue: QueueKey) -> Class {
    let tenant_is_held = |tenant: TenantId| is_held(snapshot, Diverted::Tenant(tenant));
    match queue {
        QueueKey::Source(tenant, source) if tenant_is_held(tenant) || is_held(snapshot, Diverted::Source(source)) => Class::Held,
        QueueKey::Tenant(tenant) | QueueKey::Destination(tenant, _) if tenant_is_held(tenant) => Class::Held,
        QueueKey::Retries(_) => Class::Retries,
        _ => Class::CatchUp,
    }
}

fn wait_of(queue: QueueKey) -> Wait {
    match queue {
        QueueKey::Tenant(_) => Wait::TenantWindow,
        QueueKey::Destination(..) => Wait::DestinationWindow,
        QueueKey::Source(..) => Wait::Held,
        QueueKey::Retries(_) => Wait::RetriesPaused,
    }
}

impl Table {
    fn entries(&self) -> MutexGuard<'_, HashSet<Ticket>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(&self, due: Timestamp) {
        if self.next_due.fetch_min(due.0, Ordering::AcqRel) > due.0 {
            self.due_changed.notify_one();
        }
    }
}

/// Keeps the loop's table true to what was written.
struct TableWriter(Arc<Table>);

impl Written for TableWriter {
    fn finished(&mut self, origins: &[Origin]) {
        let mut entries = self.0.entries();
        for origin in origins {
            if let Origin::Entry(ticket) = origin {
                entries.remove(ticket);
            }
        }
    }

    fn scheduled(&mut self, due: Timestamp) {
        self.0.schedule(due);
    }
}

fn budget(grant: &Grant) -> Budget {
    Budget { count: grant.events(), bytes: grant.bytes() }
}

pub(super) fn entry(claimed: Claimed, held: Held) -> Item {
    let Claimed { ticket, event, progress, claims: _ } = claimed;
    let since = event.accepted_at;
    // What has begun waits for nothing any more.
    let wait = if ticket.lane == Lane::Low && progress.is_empty() { Wait::LowLane } else { Wait::Turn };
    let work = Work::Plan { event: Box::new(event), connection: None };
    Item { origin: Origin::Entry(ticket), attempts: 0, spent: 0, since, work, progress, held, wait }
}

pub(super) fn item_of(job: Job, held: Held, wait: Wait) -> Item {
    let Job { id, attempts, spent, since, work } = job;
    Item { origin: Origin::Job(id), attempts, spent, since, work, progress: Vec::new(), held, wait }
}

pub(super) fn size(job: &Job) -> usize {
    match &job.work {
        Work::Attempt(delivery) => delivery.request.size(),
        Work::Plan { event, .. } => event.request.size(),
    }
}
