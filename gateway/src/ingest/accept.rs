//! Group commit: whatever arrives while one durable write is in flight goes into the next one.
//!
//! A writer takes what waits, up to [`Limits::batch_count`] and [`Limits::batch_bytes`], and hands it to [`Store::accept`] as one
//! batch; when that is done it takes what came meanwhile. There is no timer: the batch adapts to the store's own latency, and a
//! lone event waits for nobody. An event is in the queue before [`Acceptor::accept`] first waits, so a caller that goes away
//! changes nothing about the write.
//!
//! The queue is bounded by count and by bytes. Its permits are owned by the queued event and live until its write has ended.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::quota::{Quota, Quotas};
use crate::clock::{self, Timestamp};
use crate::control::snapshot::Tenant;
use crate::event::EventId;
use crate::store::{Acceptance, Accepted, Home, Store, StoreError};
use crate::telemetry::metrics::{Gauged, Metrics, Write};

/// What the committer may hold and write at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Events in one write.
    pub batch_count: usize,
    /// Bytes of events in one write; a single larger event is written alone.
    pub batch_bytes: usize,
    /// Events that may wait.
    pub queue_count: usize,
    /// Bytes of events that may wait or be in a write. An event larger than this is never taken.
    pub queue_bytes: usize,
    /// Writes in flight at once. More than one shrinks the batches; it pays only where the store's round trip is long.
    pub writers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { batch_count: 512, batch_bytes: 8 << 20, queue_count: 16_384, queue_bytes: 256 << 20, writers: 1 }
    }
}

/// Why an event was not confirmed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcceptError {
    /// Too much waits for the store already. The event was not taken.
    #[error("too many events wait for the store")]
    QueueFull,
    /// The gateway is stopping. The event was not taken.
    #[error("the gateway is stopping")]
    Stopping,
    /// The store did not confirm the write. It may have taken the event all the same.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Hands events to the store in batches. Cheap to clone; clones share the queue and the writers.
#[derive(Clone)]
pub struct Acceptor {
    store: Arc<dyn Store>,
    queue: mpsc::Sender<Pending>,
    bytes: Arc<Semaphore>,
    metrics: Metrics,
    stop: CancellationToken,
    writers: TaskTracker,
    quotas: Arc<Quotas>,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("queue", &self.queue).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Pending {
    acceptance: Acceptance,
    size: usize,
    answer: oneshot::Sender<Result<Accepted, StoreError>>,
    room: Room,
}

/// What a queued event holds until its write has ended.
type Room = (OwnedSemaphorePermit, Gauged);

impl Acceptor {
    /// Starts the writers on the current runtime. What the store says of the tenants goes to `quotas`.
    pub fn new(store: Arc<dyn Store>, limits: Limits, quotas: Arc<Quotas>, metrics: Metrics) -> Self {
        let (queue, waiting) = mpsc::channel(limits.queue_count.max(1));
        let waiting = Arc::new(Mutex::new(Inbox { waiting, left_over: None }));
        let stop = CancellationToken::new();
        let writers = TaskTracker::new();
        for _ in 0..limits.writers.max(1) {
            let writer = Writer {
                store: store.clone(),
                inbox: waiting.clone(),
                limits,
                quotas: quotas.clone(),
                metrics: metrics.clone(),
                stop: stop.clone(),
            };
            writers.spawn(writer.run());
        }
        writers.close();
        let bytes = Arc::new(Semaphore::new(limits.queue_bytes.min(Semaphore::MAX_PERMITS)));
        Self { store, queue, bytes, metrics, stop, writers, quotas }
    }

    /// Returns once the event is durable, or a duplicate of one that is. The event is queued before the first wait; how long to
    /// wait is the caller's to decide.
    pub async fn accept(&self, acceptance: Acceptance) -> Result<(EventId, Accepted), AcceptError> {
        let id = acceptance.event.event().id;
        // A store that is away is known to be: nobody waits behind the write that found it out.
        self.store.admits(acceptance.lane)?;
        let outcome = self.enqueue(acceptance)?;
        // The writer goes away with the event in its hands only when the runtime is being torn down.
        let outcome = outcome.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the writer ended".into())));
        Ok((id, outcome?))
    }

    fn enqueue(&self, acceptance: Acceptance) -> Result<oneshot::Receiver<Result<Accepted, StoreError>>, AcceptError> {
        let size = acceptance.event.event().request.size();
        let slot = self.queue.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => AcceptError::QueueFull,
            mpsc::error::TrySendError::Closed(()) => AcceptError::Stopping,
        })?;
        let permits = u32::try_from(size).map_err(|_| AcceptError::QueueFull)?;
        let bytes = self.bytes.clone().try_acquire_many_owned(permits).map_err(|_| AcceptError::QueueFull)?;
        let (answer, outcome) = oneshot::channel();
        slot.send(Pending { acceptance, size, answer, room: (bytes, self.metrics.in_flight(size)) });
        Ok(outcome)
    }

    /// Whether the tenant has so much queued that nothing more of it is taken; see [`Quotas::is_full`].
    pub async fn is_full(&self, quota: &Quota, tenant: &Tenant, now: Timestamp) -> bool {
        self.quotas.is_full(quota, tenant, &*self.store, now).await
    }

    /// What the tenants may use, as far as it is known here.
    pub fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Takes nothing more, writes what is queued, and returns when that has ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.writers.wait().await;
    }
}

/// Where writers take their batches from, one writer at a time.
#[derive(Debug)]
struct Inbox {
    waiting: mpsc::Receiver<Pending>,
    /// Taken from the queue but over the last batch's bytes: the first of the next one.
    left_over: Option<Pending>,
}

struct Writer {
    store: Arc<dyn Store>,
    inbox: Arc<Mutex<Inbox>>,
    limits: Limits,
    quotas: Arc<Quotas>,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Writer {
    async fn run(self) {
        let mut batch = Batch::default();
        loop {
            let mut inbox = self.inbox.lock().await;
            if !inbox.fill(&mut batch, &self.limits, &self.stop).await {
                return;
            }
            drop(inbox);
            self.write(&mut batch).await;
        }
    }

    async fn write(&self, batch: &mut Batch) {
        let items = batch.acceptances.len();
        let started = clock::monotonic();
        let write = self.store.accept(std::mem::take(&mut batch.acceptances));
        // A panic must cost this batch alone: without a writer nothing would be accepted any more.
        let outcome = AssertUnwindSafe(write)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(StoreError::Unavailable("the store panicked".into())));
        let outcome = outcome.and_then(|answers| {
            let complete = answers.len() == items;
            complete.then_some(answers).ok_or_else(|| StoreError::Damaged("the store answered for another number of events".into()))
        });
        self.metrics.written(Write::Accept, items, started.elapsed(), outcome.as_ref().map(|_| ()).map_err(|_| ()));
        match outcome {
            Ok(answers) => {
                for (Waiter { home, answer, .. }, accepted) in batch.waiters.drain(..).zip(answers) {
                    if let Accepted::New { queued } = accepted {
                        self.quotas.queued(home, queued);
                    }
                    let _ = answer.send(Ok(accepted));
                }
            }
            Err(error) => {
                tracing::warn!(%error, events = items, "store did not confirm a batch of events");
                for Waiter { answer, .. } in batch.waiters.drain(..) {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }
}

/// One write: events, and who waits for them, in the same order.
#[derive(Default)]
struct Batch {
    acceptances: Vec<Acceptance>,
    waiters: Vec<Waiter>,
    bytes: usize,
}

struct Waiter {
    home: Home,
    answer: oneshot::Sender<Result<Accepted, StoreError>>,
    _room: Room,
}

impl Batch {
    fn push(&mut self, pending: Pending) {
        self.bytes += pending.size;
        let home = Home { tenant: pending.acceptance.event.event().tenant, shard: pending.acceptance.shard };
        self.acceptances.push(pending.acceptance);
        self.waiters.push(Waiter { home, answer: pending.answer, _room: pending.room });
    }
}

impl Inbox {
    /// Waits for the first event, then takes what is there. False once stopped and empty.
    async fn fill(&mut self, batch: &mut Batch, limits: &Limits, stop: &CancellationToken) -> bool {
        batch.bytes = 0;
        let first = match self.left_over.take() {
            Some(pending) => pending,
            None => match self.first(stop).await {
                Some(pending) => pending,
                None => return false,
            },
        };
        batch.acceptances.reserve(self.waiting.len().min(limits.batch_count));
        batch.push(first);
        while batch.acceptances.len() < limits.batch_count {
            let Ok(pending) = self.waiting.try_recv() else { break };
            if batch.bytes + pending.size > limits.batch_bytes {
                self.left_over = Some(pending);
                break;
            }
            batch.push(pending);
        }
        true
    }

    async fn first(&mut self, stop: &CancellationToken) -> Option<Pending> {
        tokio::select! {
            biased;
            pending = self.waiting.recv() => pending,
            () = stop.cancelled() => {
                // What was queued before this is still handed out.
                self.waiting.close();
                self.waiting.recv().await
            }
        }
    }
}
