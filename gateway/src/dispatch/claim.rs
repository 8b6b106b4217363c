//! The loop of one shard: takes work out of the store, inside the budget, and starts it.
//!
//! It goes two rounds side by side: one over what is new in the normal lane ([`fresh`]), one over all that stands elsewhere ([`older`]), so that the
//! normal lane waits for no other read, however slow the store is. Of what becomes free in the budget the older work has the first choice.
//!
//! It only decides. It never waits for a plugin, a destination or a write of outcomes, so that one slow tenant can't stop the others.

mod fresh;
mod launch;
mod left;
mod older;
mod solo;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, future};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::fresh::Fresh;
use self::older::Older;
pub(super) use self::solo::{Solo, Solos};
use super::Shared;
use super::begun::Begun;
use super::budget::{Amount, Class, Grant, Use};
use super::diversion::Diversions;
use super::gate::{self, Pass};
use super::order;
use super::owner::Hold;
use super::record::{self, Done, Held, Written};
use super::wait::{Wait, is_paused as is_paused_connection};
use super::window::{Limit, Windows};
use super::work::{Item, Worker, source_of, tenant_of};
use crate::clock::Timestamp;
use crate::control::snapshot::{Diversion, Diverted, Percent, Snapshot};
use crate::event::{Lane, TenantId};
use crate::store::{Budget, Claimed, DeliveryState, Job, Origin, QueueKey, StoreError, Suspects, Ticket, Work};

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
/// At most this many of the low lane in one read.
const LOW_BATCH: usize = 64;
/// How long the low lane's entries gather before the next read, unless the last one left some.
const LOW_GATHER: Duration = Duration::from_millis(5);
/// Pause after a read of the store that failed.
const BACKOFF: Duration = Duration::from_millis(100);
/// With this hand-out work is given up: it has crashed the gateway again and again.
const CRASHES: u32 = 5;

/// One shard's loop, under one lease.
pub(super) struct ShardLoop {
    pub(super) shared: Arc<Shared>,
    pub(super) hold: Arc<Hold>,
    pub(super) windows: Windows,
    pub(super) worker: Arc<Worker>,
    /// From then on nothing is taken. What is being taken is begun: dropped on its way it would count as if the gateway had crashed with it.
    stop: CancellationToken,
    records: Option<mpsc::Receiver<Done>>,
    table: Arc<Table>,
    tasks: TaskTracker,
    /// Shared by claims until what they took stands in the table; alone is who looks for what is claimed and does not stand there.
    claiming: tokio::sync::RwLock<()>,
    /// Whether a claim ended in an error, and what it may have taken all the same is not taken up yet: that comes before all that is new.
    is_torn: AtomicBool,
    /// Told after each round over what is new.
    stirred: Notify,
    /// Whether the last of these rounds found nothing.
    is_quiet: AtomicBool,
    pub(super) diversions: Diversions,
    /// Held from the moment that work no longer waits before others until it stands in its lines, so that none of what comes later gets there
    /// before it.
    pub(super) lining: tokio::sync::Mutex<()>,
}

/// One of the two rounds.
trait Round {
    /// Takes what can be taken now. Returns how much was read.
    async fn pass(&mut self, of: &ShardLoop) -> Result<usize, StoreError>;

    /// Waits until there may be more.
    async fn wait(&self, of: &ShardLoop);
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
    pub(super) fn new(shared: Arc<Shared>, hold: Arc<Hold>, windows: Windows, stop: CancellationToken) -> Self {
        // Each item in flight sends one final record; the channel has room for all, so that work never waits for a place.
        let (sender, records) = mpsc::channel(shared.config.in_flight.max(BATCH));
        let table = Table { entries: Mutex::default(), next_due: AtomicU64::new(0), due_changed: Notify::new() };
        Self {
            worker: Arc::new(Worker::new(shared.clone(), hold.clone(), windows.clone(), sender)),
            shared,
            hold,
            windows,
            stop,
            records: Some(records),
            table: Arc::new(table),
            tasks: TaskTracker::new(),
            claiming: tokio::sync::RwLock::new(()),
            is_torn: AtomicBool::new(false),
            stirred: Notify::new(),
            is_quiet: AtomicBool::new(true),
            diversions: Diversions::default(),
            lining: tokio::sync::Mutex::new(()),
        }
    }

    /// Works until it is told to stop, then lets what is in flight finish inside the drain deadline. An error means that the lease is gone.
    pub(super) async fn run(mut self) -> Result<(), StoreError> {
        let Some(records) = self.records.take() else { return Ok(()) };
        let told = Told { table: self.table.clone(), begun: self.worker.begun.clone(), shared: self.shared.clone() };
        let writer = record::run(self.shared.clone(), self.hold.clone(), self.windows.clone(), records, told);
        let writer = tokio::spawn(writer);
        let (hold, stop, drain) = (self.hold.clone(), self.stop.clone(), self.shared.config.drain);
        let drained = async move {
            stop.cancelled().await;
            tokio::time::sleep(drain).await;
        };
        let drained = drained.shared();
        let result = tokio::select! {
            result = self.work() => result,
            () = drained.clone() => Ok(()),
            () = hold.lost() => Err(StoreError::Fenced(hold.lease.shard)),
        };
        self.tasks.close();
        if result.is_ok() {
            self.wind_up(drained).await;
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
    async fn wind_up(&self, drained: impl Future<Output = ()>) {
        // Nothing comes to join what gathers.
        self.worker.batches.hurry(true);
        tokio::select! {
            () = self.tasks.wait() => {}
            () = drained => self.worker.wind_up(),
        }
    }

    async fn work(&self) -> Result<(), StoreError> {
        let mut older = Older::default();
        while !self.stop.is_cancelled()
            && let Err(error) = older.take_over(self).await
        {
            self.bear(error).await?;
        }
        let fresh = Fresh::new(self.shared.store.signal(self.hold.lease.shard));
        // The first is asked first.
        future::try_join(self.keep_on(older), self.keep_on(fresh)).await.map(drop)
    }

    async fn keep_on(&self, mut round: impl Round) -> Result<(), StoreError> {
        while !self.stop.is_cancelled() {
            match round.pass(self).await {
                Ok(read) if read >= BUSY => tokio::time::sleep(GATHER).await,
                Ok(0) => tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = round.wait(self) => {}
                },
                Ok(_) => {}
                Err(error) => self.bear(error).await?,
            }
        }
        Ok(())
    }

    /// Waits a little after an error that may pass.
    async fn bear(&self, error: StoreError) -> Result<(), StoreError> {
        let shard = self.hold.lease.shard;
        if matches!(error, StoreError::Fenced(_)) {
            return Err(error);
        }
        tracing::warn!(shard = shard.0, %error, "store not read, trying again");
        tokio::time::sleep(BACKOFF).await;
        Ok(())
    }

    /// Starts a job whose time has come, unless it has to wait for something else now.
    async fn begin(&self, job: Job, held: Held) {
        let snapshot = self.shared.snapshots.load();
        let tenant = tenant_of(&job.work);
        let traffic = &snapshot.traffic;
        let held_source = source_of(&job.work).filter(|source| is_held(&snapshot, Diverted::Source(*source)));
        let place = if is_held(&snapshot, Diverted::Tenant(tenant)) {
            Err((QueueKey::Tenant(tenant), Wait::Held))
        } else if let Some(source) = held_source {
            Err((QueueKey::Source(tenant, source), Wait::Held))
        } else if job.attempts > 0 && traffic.retries != Percent::ALL {
            Err((QueueKey::Retries(tenant), Wait::RetriesPaused))
        } else {
            let limit = self.limit_of(&snapshot, QueueKey::Tenant(tenant));
            self.windows.enter(tenant, &[], limit, size(&job)).map_err(|queue| (queue, Wait::TenantWindow))
        };
        drop(snapshot);
        match place {
            Ok(permit) => self.launch(item_of(job, Held { _window: Some(permit), ..held }, Wait::Turn)).await,
            Err((queue, wait)) => self.park(item_of(job, held, wait), queue, wait).await,
        }
    }

    /// The next entries of a lane, each with what it uses of the budget.
    pub(super) async fn claim(
        &self,
        lane: Lane,
        class: Class,
        most: usize,
        throttled: &mut bool,
    ) -> Result<Vec<(Claimed, Grant)>, StoreError> {
        let Some(mut grant) = self.take(class, most, BATCH_BYTES, throttled) else { return Ok(Vec::new()) };
        let claimed = self.claim_of(lane, budget(&grant)).await?;
        let with_grant = |claimed: Claimed| {
            let grant = grant.split(claimed.event.request.size());
            (claimed, grant)
        };
        Ok(claimed.into_iter().map(with_grant).collect())
    }

    /// A part of the budget. Notes in `throttled` whether work has to be left because its class may have no more now, or this stops.
    pub(super) fn take(&self, class: Class, events: usize, bytes: usize, throttled: &mut bool) -> Option<Grant> {
        let of = Use { class, shard: self.hold.lease.shard };
        let grant = if self.stop.is_cancelled() { None } else { self.shared.in_flight.take(of, events, bytes) };
        *throttled |= grant.is_none();
        grant
    }

    pub(super) async fn start_all(&self, claimed: Vec<(Claimed, Grant)>) {
        let _lining = self.lining.lock().await;
        for (claimed, grant) in claimed {
            self.start(claimed, Held::of(grant, None)).await;
        }
    }

    /// Starts an entry, or parks it if its tenant is over its window or diverted.
    async fn start(&self, claimed: Claimed, held: Held) {
        let (tenant, source) = (claimed.event.tenant, claimed.event.source);
        let snapshot = self.shared.snapshots.load();
        let (own, of_source) = (QueueKey::Tenant(tenant), QueueKey::Source(tenant, source));
        let diversion = snapshot.traffic.diversion(tenant, source, self.hold.lease.shard);
        let place = if diversion == Some(Diversion::Held) {
            // What waits in the tenant's queue is older. It goes to the source's when its turn comes.
            let stays_behind = self.windows.is_waiting(own) || is_held(&snapshot, Diverted::Tenant(tenant));
            Err(if stays_behind { own } else { of_source })
        } else {
            let limit = self.limit_of(&snapshot, own);
            self.windows.enter(tenant, &[of_source], limit, claimed.event.request.size())
        };
        drop(snapshot);
        match place {
            Ok(permit) => self.launch(entry(claimed, Held { _window: Some(permit), ..held })).await,
            // Parked as a whole it would be planned anew, and what of it is delivered be delivered again.
            Err(_) if !claimed.progress.is_empty() => self.launch(entry(claimed, held)).await,
            Err(queue) => {
                let is_held = diversion == Some(Diversion::Held) || queue == of_source;
                let wait = if is_held { Wait::Held } else { Wait::TenantWindow };
                self.park(entry(claimed, held), queue, wait).await;
            }
        }
    }

    async fn park(&self, item: Item, queue: QueueKey, wait: Wait) {
        let state = DeliveryState::Parked { reason: wait.as_str().to_owned(), queue: Some(queue) };
        let since = item.since;
        let done = order::apart(&self.shared, item, state);
        done.record.deliveries.iter().for_each(|_| self.windows.park(queue, since));
        self.worker.send(done).await;
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
        limit(&self.worker, snapshot, self.shared.in_flight.idle(), queue)
    }
}

/// What a queue may have in flight in one shard. A tenant has no more than its plan says, and no more than its weight times what nobody
/// uses: so there is always room for who comes next, however many are noisy, and one alone may use what its plan allows. One with several
/// shards has its part of the plan in each of them, wherever they are owned, and of what nobody uses here in each that is owned here.
fn limit(worker: &Worker, snapshot: &Snapshot, idle: Amount, queue: QueueKey) -> Limit {
    let shared = &worker.shared;
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
        QueueKey::Destination(tenant, destination) | QueueKey::Ordered(tenant, destination) => {
            let known = snapshot.destinations.get(&destination).zip(snapshot.tenants.get(&tenant));
            let Some((destination, tenant)) = known else { return most(shared.config.default_window) };
            let now = shared.clock.now();
            let order = destination.order.as_ref().filter(|_| matches!(queue, QueueKey::Ordered(..)));
            let tries = order.map_or(usize::MAX, |order| order::tries(shared, snapshot, order, now));
            let plugins = order.filter(|order| order.runs_plugins);
            let chains = plugins.map_or(usize::MAX, |_| worker.gates.chains(snapshot, tenant.id, now));
            let is_shut = tries == 0 || chains == 0 || worker.admission.is_shut(destination, now);
            let events = if is_shut { 0 } else { destination.window(tenant) };
            let mut room = worker.admission.room(destination, now);
            if destination.batch.is_some() {
                // What has left the queue and waits for its batch has its turn yet to take.
                room = room.saturating_sub(worker.batches.waiting(destination.id));
            }
            Limit { turn: room.min(chains).min(tries).min(BATCH), ..most(events) }
        }
        QueueKey::Source(_, source) => most(if is_paused(Diverted::Source(source)) { 0 } else { usize::MAX }),
        QueueKey::Retries(_) => most(if snapshot.traffic.retries == Percent::NONE { 0 } else { usize::MAX }),
        QueueKey::Plugins(tenant) => most(worker.gates.chains(snapshot, tenant, shared.clock.now())),
        QueueKey::Connection(_, connection) => {
            let connection = snapshot.connections.get(&connection);
            most(connection.map_or(usize::MAX, |connection| gate::tries(shared, connection, shared.clock.now())))
        }
        QueueKey::Paused(_, connection) => most(if is_paused_connection(snapshot, connection) { 0 } else { usize::MAX }),
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
        QueueKey::Tenant(tenant)
        | QueueKey::Destination(tenant, _)
        | QueueKey::Plugins(tenant)
        | QueueKey::Connection(tenant, _)
        | QueueKey::Paused(tenant, _)
        | QueueKey::Ordered(tenant, _)
            if tenant_is_held(tenant) =>
        {
            Class::Held
        }
        QueueKey::Retries(_) => Class::Retries,
        _ => Class::CatchUp,
    }
}

/// For what a queue waits that is not held by an operator, beside its turn.
pub(super) fn wait_of(worker: &Worker, snapshot: &Snapshot, queue: QueueKey) -> Wait {
    match queue {
        QueueKey::Tenant(_) => Wait::TenantWindow,
        QueueKey::Destination(_, destination) => {
            let destination = snapshot.destinations.get(&destination);
            destination.map_or(Wait::DestinationWindow, |one| worker.admission.wait_of(one, worker.shared.clock.now()))
        }
        QueueKey::Ordered(_, destination) => {
            let Some(destination) = snapshot.destinations.get(&destination) else { return Wait::Order };
            let now = worker.shared.clock.now();
            match worker.admission.wait_of(destination, now) {
                Wait::DestinationWindow => order::wait_of(worker, snapshot, destination, now),
                wait => wait,
            }
        }
        QueueKey::Source(..) => Wait::Held,
        QueueKey::Retries(_) => Wait::RetriesPaused,
        QueueKey::Plugins(_) => Wait::PluginFuel,
        QueueKey::Connection(..) => Wait::PluginPoisoned,
        QueueKey::Paused(..) => Wait::ConnectionPaused,
    }
}

impl Table {
    fn entries(&self) -> MutexGuard<'_, HashSet<Ticket>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes entries as in this owner's hands.
    fn note(&self, claimed: &[Claimed]) {
        self.entries().extend(claimed.iter().map(|claimed| claimed.ticket));
    }

    fn schedule(&self, due: Timestamp) {
        if self.next_due.fetch_min(due.0, Ordering::AcqRel) > due.0 {
            self.due_changed.notify_one();
        }
    }
}

/// Keeps the loop's table, and what is noted as begun, true to what was written.
struct Told {
    table: Arc<Table>,
    begun: Arc<Begun>,
    shared: Arc<Shared>,
}

impl Written for Told {
    fn finished(&mut self, origins: &[Origin]) {
        let mut jobs = Vec::new();
        {
            let mut entries = self.table.entries();
            for origin in origins {
                match origin {
                    Origin::Entry(ticket) => drop(entries.remove(ticket)),
                    Origin::Job(id) => jobs.extend(self.begun.forget(*id)),
                }
            }
        }
        if !jobs.is_empty() {
            let (begun, shared) = (self.begun.clone(), self.shared.clone());
            tokio::spawn(async move { begun.finished(&shared, &jobs).await });
        }
    }

    fn scheduled(&mut self, due: Timestamp) {
        self.table.schedule(due);
    }
}

/// What may be read with this, but for suspects.
pub(super) fn budget(grant: &Grant) -> Budget {
    Budget { count: grant.events(), bytes: grant.bytes(), suspects: Suspects::Left }
}

/// The same, and one suspect.
pub(super) fn with_suspects(grant: &Grant) -> Budget {
    Budget { suspects: Suspects::Taken, ..budget(grant) }
}

pub(super) fn entry(claimed: Claimed, held: Held) -> Item {
    let Claimed { ticket, event, progress, claims } = claimed;
    let since = event.accepted_at;
    // What has begun waits for nothing any more.
    let wait = if ticket.lane == Lane::Low && progress.is_empty() { Wait::LowLane } else { Wait::Turn };
    let work = Work::Plan { event: Box::new(event), connection: None };
    let (origin, pass) = (Origin::Entry(ticket), Pass::None);
    Item { origin, attempts: 0, spent: 0, since, work, progress, held, wait, pass, line: None, claims }
}

pub(super) fn item_of(job: Job, held: Held, wait: Wait) -> Item {
    let Job { id, attempts, spent, since, work, line, claims } = job;
    let held = Held { line: line.map(|line| (QueueKey::Ordered(tenant_of(&work), line.destination), line.due)), ..held };
    let (origin, pass) = (Origin::Job(id), Pass::None);
    Item { origin, attempts, spent, since, work, progress: Vec::new(), held, wait, pass, line, claims }
}

pub(super) fn size(job: &Job) -> usize {
    match &job.work {
        Work::Attempt(delivery) => delivery.request.size(),
        Work::Plan { event, .. } => event.request.size(),
    }
}
