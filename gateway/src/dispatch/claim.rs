//! The loop of one shard: takes what is due, what was parked and what is new, in that order, inside the budget, and starts it.
//!
//! It only decides. It never waits for a plugin, a destination or a write of outcomes, so that one slow tenant can't stop the others.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::budget::Grant;
use super::owner::Hold;
use super::record::{self, Done, Held, Written};
use super::wait::{self, Wait};
use super::window::Windows;
use super::work::{Item, Worker, crashed};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, Event, Lane};
use crate::store::{Budget, Claimed, DeliveryRecord, DeliveryState, Job, Origin, QueueKey, Record, StoreError, Ticket, Work};

/// At most this many in one read of the store.
const BATCH: usize = 256;
/// At most this many bytes in one read of the store.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// At most this many jobs of one sub-queue in its turn.
const TURN: usize = 32;
/// How long a busy loop lets entries gather: a read for each single event costs the store several times as much.
const GATHER: Duration = Duration::from_millis(1);
/// Reads of at least this many entries make the loop a busy one.
const BUSY: usize = 8;
/// How long an idle loop waits for a signal that may have been lost.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// The low lane, and the schedule without a known due time, are looked at this often at least.
const LOOK: Duration = Duration::from_millis(50);
/// The held lane is looked at this often.
const HELD_LOOK: Duration = Duration::from_secs(1);
/// Pause after a read of the store that failed.
const BACKOFF: Duration = Duration::from_millis(100);
/// From this claim on an event runs alone.
const SUSPECT: u32 = 3;
/// With this claim an event is given up: it has crashed the gateway again and again.
const CRASHES: u32 = 5;

/// One shard's loop, under one lease.
pub(super) struct ShardLoop {
    shared: Arc<Shared>,
    hold: Arc<Hold>,
    windows: Windows,
    worker: Arc<Worker>,
    records: Option<mpsc::Receiver<Done>>,
    table: Arc<Table>,
    tasks: TaskTracker,
    looked_at: Timestamp,
    reclaimed_at: Timestamp,
    /// The front of the held lane. It is in hand, so that its age is known, and goes nowhere before it is too old.
    diverted: VecDeque<Claimed>,
    diverted_at: Timestamp,
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
            looked_at: Timestamp::default(),
            reclaimed_at: Timestamp::default(),
            diverted: VecDeque::new(),
            diverted_at: Timestamp::default(),
        }
    }

    /// Works until `stop`, then lets what is in flight finish inside the drain deadline. An error means that the lease is gone.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), StoreError> {
        let Some(records) = self.records.take() else { return Ok(()) };
        let table = self.table.clone();
        let writer = tokio::spawn(record::run(
            self.shared.store.clone(),
            self.hold.clone(),
            self.windows.clone(),
            records,
            TableWriter(table),
        ));
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
        tokio::select! {
            () = signal.notified() => {}
            () = self.table.due_changed.notified() => {}
            () = self.windows.ready() => {}
            () = self.shared.in_flight.freed(), if self.shared.in_flight.is_exhausted() => {}
            () = tokio::time::sleep(due.clamp(Duration::from_millis(1), SLOW_POLL)) => {}
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
        let look = now.since(self.looked_at) >= LOOK;
        if now.since(self.reclaimed_at) >= self.hold.lease.ttl {
            self.reclaim().await?;
        }
        let mut read = self.due(now, look).await?;
        read += self.parked().await?;
        let normal = self.lane(Lane::Normal).await?;
        read += normal;
        if look || normal == 0 {
            read += self.lane(Lane::Low).await?;
            self.looked_at = now;
        }
        read += self.held_lane(now).await?;
        Ok(read)
    }

    async fn reclaim(&mut self) -> Result<usize, StoreError> {
        let Some(mut grant) = self.shared.in_flight.take(BATCH, BATCH_BYTES) else {
            self.shared.in_flight.freed().await;
            return Ok(1);
        };
        let held = self.table.entries().clone();
        let claimed = self.shared.store.reclaim(&self.hold.lease, &held, budget(&grant)).await?;
        self.reclaimed_at = self.shared.clock.now();
        let count = claimed.len();
        for claimed in claimed {
            if claimed.ticket.lane == Lane::Held {
                self.hold_back(claimed);
                continue;
            }
            let grant = grant.split(claimed.event.request.size());
            match claimed.claims {
                CRASHES.. => self.give_up(claimed, grant).await,
                SUSPECT.. => self.run_alone(claimed, grant).await,
                _ => self.start(claimed, grant).await,
            }
        }
        Ok(count)
    }

    async fn due(&mut self, now: Timestamp, look: bool) -> Result<usize, StoreError> {
        if !look && now.0 < self.table.next_due.load(Ordering::Acquire) {
            return Ok(0);
        }
        let Some(mut grant) = self.shared.in_flight.take(BATCH, BATCH_BYTES) else { return Ok(0) };
        self.table.next_due.store(NEVER, Ordering::Release);
        let jobs = self.shared.store.due(&self.hold.lease, now, budget(&grant)).await?;
        let next = self.shared.store.next_due(&self.hold.lease).await?;
        self.table.schedule(next.unwrap_or(Timestamp(NEVER)));
        let count = jobs.len();
        for job in jobs {
            let held = Held { _grant: grant.split(size(&job)), _window: None };
            self.spawn(item_of(job, held, Wait::Turn));
        }
        Ok(count)
    }

    /// Serves the sub-queues in turn: a tenant with thousands of jobs gets the same turn as one with a few.
    async fn parked(&mut self) -> Result<usize, StoreError> {
        let mut count = 0;
        while count < BATCH {
            let Some((queue, mut permits)) = self.windows.next(TURN, self.shared.config.default_window) else { break };
            let Some(mut grant) = self.shared.in_flight.take(permits.len(), BATCH_BYTES) else {
                self.windows.put_back(queue);
                break;
            };
            let jobs = self.shared.store.unpark(&self.hold.lease, queue, budget(&grant)).await?;
            let wait = match queue {
                QueueKey::Tenant(_) => Wait::TenantWindow,
                QueueKey::Destination(..) => Wait::DestinationWindow,
                QueueKey::Source(..) => Wait::Held,
                QueueKey::Retries(_) => Wait::Turn,
            };
            self.windows.unparked(queue, jobs.len() as u64, jobs.last().map(|job| job.since));
            count += jobs.len();
            for job in jobs {
                let held = Held { _grant: grant.split(size(&job)), _window: permits.pop() };
                self.spawn(item_of(job, held, wait));
            }
        }
        Ok(count)
    }

    async fn lane(&mut self, lane: Lane) -> Result<usize, StoreError> {
        let Some(mut grant) = self.shared.in_flight.take(BATCH, BATCH_BYTES) else { return Ok(0) };
        let claimed = self.shared.store.claim(&self.hold.lease, lane, budget(&grant)).await?;
        let count = claimed.len();
        for claimed in claimed {
            let grant = grant.split(claimed.event.request.size());
            self.start(claimed, grant).await;
        }
        Ok(count)
    }

    /// What an operator diverted is not delivered, and given up in the end.
    async fn held_lane(&mut self, now: Timestamp) -> Result<usize, StoreError> {
        if self.diverted.is_empty() && now.since(self.diverted_at) >= HELD_LOOK {
            self.diverted_at = now;
            let one = Budget { count: 1, bytes: BATCH_BYTES };
            let claimed = self.shared.store.claim(&self.hold.lease, Lane::Held, one).await?;
            claimed.into_iter().for_each(|claimed| self.hold_back(claimed));
        }
        let Some(front) = self.diverted.front() else { return Ok(0) };
        let over = Wait::Held.over(&self.shared, front.event.accepted_at, now);
        let Some(reason) = over.or_else(|| wait::deleted(&self.shared, front.event.tenant)) else { return Ok(0) };
        let Some(grant) = self.shared.in_flight.take(1, BATCH_BYTES) else { return Ok(0) };
        let Some(front) = self.diverted.pop_front() else { return Ok(0) };
        self.diverted_at = Timestamp::default();
        let item = entry(front, Held { _grant: grant, _window: None });
        self.worker.send(wait::given_up(&self.shared, item, reason)).await;
        Ok(1)
    }

    fn hold_back(&mut self, claimed: Claimed) {
        self.table.entries().insert(claimed.ticket);
        self.diverted.push_back(claimed);
    }

    /// Starts an entry, or parks it if its tenant is over its window.
    async fn start(&self, claimed: Claimed, grant: Grant) {
        let queue = QueueKey::Tenant(claimed.event.tenant);
        let window =
            self.shared.snapshots.load().tenants.get(&claimed.event.tenant).map_or(usize::MAX, |tenant| tenant.plan.in_flight);
        self.table.entries().insert(claimed.ticket);
        match self.windows.enter(queue, window) {
            Some(permit) => self.spawn(entry(claimed, Held { _grant: grant, _window: Some(permit) })),
            None => self.park(claimed, queue, grant).await,
        }
    }

    async fn park(&self, claimed: Claimed, queue: QueueKey, grant: Grant) {
        self.windows.park(queue, claimed.event.accepted_at);
        let state = DeliveryState::Parked { reason: Wait::TenantWindow.as_str().to_owned(), queue: Some(queue) };
        self.settle(claimed, state, grant).await;
    }

    async fn give_up(&self, claimed: Claimed, grant: Grant) {
        let (event, claims) = (claimed.event.id, claimed.claims);
        tracing::error!(%event, claims, "event given up: each gateway that worked on it went away");
        self.table.entries().insert(claimed.ticket);
        self.settle(claimed, DeliveryState::DeadLettered { reason: crashed(claims) }, grant).await;
    }

    /// Moves a whole event elsewhere, unplanned.
    async fn settle(&self, claimed: Claimed, state: DeliveryState, grant: Grant) {
        let Claimed { ticket, event, .. } = claimed;
        let record = whole_event(ticket, event, state, self.shared.clock.now());
        self.worker.send(Done { record, held: Some(Held { _grant: grant, _window: None }) }).await;
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

    fn spawn(&self, item: Item) {
        let (worker, hold) = (self.worker.clone(), self.hold.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = hold.lost() => {}
                () = worker.run(item) => {}
            }
        });
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

fn entry(claimed: Claimed, held: Held) -> Item {
    let Claimed { ticket, event, progress, claims: _ } = claimed;
    let since = event.accepted_at;
    // What has begun waits for nothing any more.
    let wait = if ticket.lane == Lane::Low && progress.is_empty() { Wait::LowLane } else { Wait::Turn };
    let work = Work::Plan { event: Box::new(event), connection: None };
    Item { origin: Origin::Entry(ticket), attempts: 0, spent: 0, since, work, progress, held, wait }
}

fn item_of(job: Job, held: Held, wait: Wait) -> Item {
    let Job { id, attempts, spent, since, work } = job;
    Item { origin: Origin::Job(id), attempts, spent, since, work, progress: Vec::new(), held, wait }
}

fn whole_event(ticket: Ticket, event: Event, state: DeliveryState, now: Timestamp) -> Record {
    let (id, tenant) = (event.id, event.tenant);
    let job = Job {
        id: DeliveryId::of_event(id),
        attempts: 0,
        spent: 0,
        since: event.accepted_at,
        work: Work::Plan { event: Box::new(event), connection: None },
    };
    let delivery = DeliveryRecord {
        id: job.id,
        connection: None,
        destination: None,
        output: 0,
        at: now,
        state,
        attempts: Vec::new(),
        runs: Vec::new(),
        job: Some(Box::new(job)),
    };
    Record { origin: Origin::Entry(ticket), event: id, tenant, finished: true, deliveries: vec![delivery] }
}

fn size(job: &Job) -> usize {
    match &job.work {
        Work::Attempt(delivery) => delivery.request.size(),
        Work::Plan { event, .. } => event.request.size(),
    }
}
