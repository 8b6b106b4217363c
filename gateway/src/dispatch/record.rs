//! Writes what happened, in batches: while one write is on its way, the next batch gathers.
//!
//! A record that cannot be written is kept and tried again for as long as the lease holds: the work it tells of has happened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::budget::Grant;
use super::claim::Solo;
use super::output::Made;
use super::owner::{Hold, LoseOnDrop};
use super::standings::Dead;
use super::window::{Permit, Windows};
use crate::clock::{Timestamp, monotonic};
use crate::store::{DeliveryState, Origin, PutBack, QueueKey, Record, StoreError};
use crate::telemetry::metrics::Write;

/// At most this many records in one write, and at most so many bytes of requests that go on, unless a single record has more.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// How long a small batch waits for more after a busy one.
const GATHER: Duration = Duration::from_millis(1);
/// First and longest pause after a write that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A record, with what its work holds until it is written.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) record: Record,
    pub(super) held: Option<Held>,
    /// Set if all that the record would tell is known: then the job goes back to its place in its line, and nothing is recorded.
    pub(super) back: Option<PutBack>,
}

impl Done {
    pub(super) fn new(record: Record, held: Option<Held>) -> Self {
        Self { record, held, back: None }
    }
}

/// What is given back once the outcome is safe.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) _grant: Grant,
    pub(super) _window: Option<Permit>,
    pub(super) _made: Option<Made>,
    /// The ordered queue of the line that its work is the first of, and when it was due there.
    pub(super) line: Option<(QueueKey, Timestamp)>,
    /// The queue where its work goes back to its place.
    pub(super) back_to: Option<QueueKey>,
    /// A suspect's turn.
    pub(super) solo: Option<Solo>,
}

impl Held {
    /// For work that has made nothing.
    pub(super) fn of(grant: Grant, window: Option<Permit>) -> Self {
        Self { _grant: grant, _window: window, _made: None, line: None, back_to: None, solo: None }
    }

    /// Cancelled once the turn of a suspect is over, if it has one.
    pub(super) fn over(&self) -> Option<CancellationToken> {
        self.solo.as_ref().map(Solo::over)
    }
}

/// Told what was written.
pub(super) trait Written: Send + 'static {
    /// These origins are finished.
    fn finished(&mut self, origins: &[Origin]);
    /// Work comes due at this time.
    fn scheduled(&mut self, due: Timestamp);
}

/// Takes records until every sender is gone, then returns; returns early when the lease is lost.
pub(super) async fn run(
    shared: Arc<Shared>,
    hold: Arc<Hold>,
    windows: Windows,
    mut records: mpsc::Receiver<Done>,
    mut written: impl Written,
) {
    // Without it nothing is recorded, and so nothing may be attempted.
    let _end = LoseOnDrop(hold.clone());
    let mut batch = Vec::with_capacity(BATCH);
    let mut busy = false;
    loop {
        if batch.is_empty() && records.recv_many(&mut batch, BATCH).await == 0 {
            return;
        }
        if busy && batch.len() < BATCH / 4 {
            tokio::time::sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(done) = records.try_recv()
            {
                batch.push(done);
            }
        }
        busy = batch.len() >= 4;
        // What is too much for one write is the next one.
        let later = batch.split_off(that_fit(&batch));
        let notes = Notes::of(&batch);
        let (mut records, mut backs, mut held) = (Vec::with_capacity(batch.len()), Vec::new(), Vec::with_capacity(batch.len()));
        for done in batch.drain(..) {
            match done.back {
                Some(back) => backs.push(back),
                None => records.push(done.record),
            }
            held.extend(done.held);
        }
        let writes = [Batch::Records(records), Batch::Backs(backs)];
        for batch in writes.iter().filter(|batch| batch.len() > 0) {
            if write(&shared, &hold, batch, &mut held).await.is_err() {
                return;
            }
        }
        if !notes.dead.is_empty() {
            shared.standings.written(hold.lease.shard, &shared.snapshots.load(), &notes.dead);
        }
        notes.tell(&windows, &mut written, shared.clock.now());
        for (queue, _) in held.iter().filter_map(|held| held.line) {
            // The next of the line may go on.
            windows.stir(queue);
        }
        held.iter().filter_map(|held| held.back_to).for_each(|queue| windows.parked(queue, 1));
        drop(held);
        batch.extend(later);
    }
}

/// How many of these are written at once.
fn that_fit(batch: &[Done]) -> usize {
    let mut bytes = 0;
    let fits = |done: &Done| {
        let jobs = done.record.deliveries.iter().filter_map(|row| row.job.as_ref());
        bytes += jobs.map(|job| job.size()).sum::<usize>();
        bytes <= BATCH_BYTES
    };
    batch.iter().map(fits).position(|fits| !fits).unwrap_or(batch.len()).max(1)
}

/// What the loop needs to hear after the write, gathered before the records move into it.
struct Notes {
    finished: Vec<Origin>,
    due: Option<Timestamp>,
    parked: HashMap<QueueKey, u64>,
    dead: Vec<Dead>,
    /// When what went into lines is due.
    lined: HashMap<QueueKey, Timestamp>,
}

impl Notes {
    fn of(batch: &[Done]) -> Self {
        let mut notes = Self {
            finished: Vec::with_capacity(batch.len()),
            due: None,
            parked: HashMap::new(),
            dead: Vec::new(),
            lined: HashMap::new(),
        };
        for record in batch.iter().map(|done| &done.record) {
            if record.finished {
                notes.finished.push(record.origin);
            }
            for delivery in &record.deliveries {
                if let Some((queue, _, due)) = delivery.lined() {
                    let first = notes.lined.entry(queue).or_insert(due);
                    *first = (*first).min(due);
                    continue;
                }
                match &delivery.state {
                    DeliveryState::Scheduled { due } => notes.due = Some(notes.due.map_or(*due, |other| other.min(*due))),
                    DeliveryState::Parked { queue: Some(queue), .. } => *notes.parked.entry(*queue).or_default() += 1,
                    _ => notes.dead.extend(Dead::of(record.tenant, delivery)),
                }
            }
        }
        notes
    }

    fn tell(self, windows: &Windows, written: &mut impl Written, now: Timestamp) {
        written.finished(&self.finished);
        if let Some(due) = self.due {
            written.scheduled(due);
        }
        for (queue, count) in self.parked {
            windows.parked(queue, count);
        }
        for (queue, due) in self.lined {
            windows.lined(queue, due, now);
        }
    }
}

/// What goes to the store in one write.
enum Batch {
    Records(Vec<Record>),
    Backs(Vec<PutBack>),
}

impl Batch {
    fn len(&self) -> usize {
        match self {
            Self::Records(records) => records.len(),
            Self::Backs(backs) => backs.len(),
        }
    }

    async fn write(&self, shared: &Shared, hold: &Hold) -> Result<(), StoreError> {
        match self {
            Self::Records(records) => shared.store.record(&hold.lease, records).await,
            Self::Backs(backs) => shared.store.put_back(&hold.lease, backs).await,
        }
    }
}

/// Writes the batch, again and again while the lease holds.
async fn write(shared: &Shared, hold: &Hold, batch: &Batch, held: &mut [Held]) -> Result<(), StoreError> {
    let mut pause = BACKOFF.0;
    loop {
        let began = monotonic();
        let writing = shared.pressure.write();
        let recorded = tokio::select! {
            biased;
            () = hold.lost() => Err(StoreError::Fenced(hold.lease.shard)),
            recorded = batch.write(shared, hold) => recorded,
        };
        let took = began.elapsed();
        // What another owner has taken over was not for us to write.
        if !matches!(recorded, Err(StoreError::Fenced(_))) && matches!(batch, Batch::Records(_)) {
            shared.metrics.written(Write::Record, batch.len(), took, recorded.as_ref().copied().map_err(|_| ()));
        }
        match recorded {
            Ok(()) => {
                writing.written(took);
                return Ok(());
            }
            // A refused batch would be refused again: the next owner starts over, and counts its claims.
            Err(error @ (StoreError::Fenced(_) | StoreError::Refused(_))) => {
                tracing::error!(shard = hold.lease.shard.0, %error, "outcomes not written");
                return Err(error);
            }
            Err(error) => {
                drop(writing);
                // Other shards' suspects are not to wait for this one's part of the store.
                held.iter_mut().for_each(|held| held.solo = None);
                tracing::warn!(shard = hold.lease.shard.0, records = batch.len(), %error, "outcomes not written, trying again");
                if hold.lost_within(pause).await {
                    return Err(error);
                }
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}
