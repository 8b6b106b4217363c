//! Writes what happened, in batches: while one write is on its way, the next batch gathers.
//!
//! A record that cannot be written is kept and tried again for as long as the lease holds: the work it tells of has happened.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Shared;
use super::budget::Grant;
use super::output::Made;
use super::owner::{Hold, LoseOnDrop};
use super::window::{Permit, Windows};
use crate::clock::monotonic;
use crate::store::{DeliveryState, Origin, QueueKey, Record, StoreError};
use crate::telemetry::metrics::Write;

/// At most this many records in one write.
const BATCH: usize = 256;
/// How long a small batch waits for more after a busy one.
const GATHER: Duration = Duration::from_millis(1);
/// First and longest pause after a write that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A record, with what its work holds until it is written.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) record: Record,
    pub(super) held: Option<Held>,
}

/// What is given back once the outcome is safe.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) _grant: Grant,
    pub(super) _window: Option<Permit>,
    pub(super) _made: Option<Made>,
}

impl Held {
    /// For work that has made nothing.
    pub(super) fn of(grant: Grant, window: Option<Permit>) -> Self {
        Self { _grant: grant, _window: window, _made: None }
    }
}

/// Told what was written.
pub(super) trait Written: Send + 'static {
    /// These origins are finished.
    fn finished(&mut self, origins: &[Origin]);
    /// Work comes due at this time.
    fn scheduled(&mut self, due: crate::clock::Timestamp);
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
        let (records, held): (Vec<Record>, Vec<Option<Held>>) = batch.drain(..).map(|done| (done.record, done.held)).unzip();
        let notes = Notes::of(&records);
        if write(&shared, &hold, records).await.is_err() {
            return;
        }
        notes.tell(&windows, &mut written);
        drop(held);
    }
}

/// What the loop needs to hear after the write, gathered before the records move into it.
struct Notes {
    finished: Vec<Origin>,
    due: Option<crate::clock::Timestamp>,
    parked: HashMap<QueueKey, u64>,
}

impl Notes {
    fn of(records: &[Record]) -> Self {
        let mut notes = Self { finished: Vec::with_capacity(records.len()), due: None, parked: HashMap::new() };
        for record in records {
            if record.finished {
                notes.finished.push(record.origin);
            }
            for delivery in &record.deliveries {
                match &delivery.state {
                    DeliveryState::Scheduled { due } => notes.due = Some(notes.due.map_or(*due, |other| other.min(*due))),
                    DeliveryState::Parked { queue: Some(queue), .. } => *notes.parked.entry(*queue).or_default() += 1,
                    _ => {}
                }
            }
        }
        notes
    }

    fn tell(self, windows: &Windows, written: &mut impl Written) {
        written.finished(&self.finished);
        if let Some(due) = self.due {
            written.scheduled(due);
        }
        for (queue, count) in self.parked {
            windows.parked(queue, count);
        }
    }
}

/// Writes the batch, again and again while the lease holds.
async fn write(shared: &Shared, hold: &Hold, records: Vec<Record>) -> Result<(), StoreError> {
    let mut pause = BACKOFF.0;
    loop {
        let began = monotonic();
        let writing = shared.pressure.write();
        let recorded = tokio::select! {
            biased;
            () = hold.lost() => Err(StoreError::Fenced(hold.lease.shard)),
            recorded = shared.store.record(&hold.lease, &records) => recorded,
        };
        let took = began.elapsed();
        // What another owner has taken over was not for us to write.
        if !matches!(recorded, Err(StoreError::Fenced(_))) {
            shared.metrics.written(Write::Record, records.len(), took, recorded.as_ref().copied().map_err(|_| ()));
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
                tracing::warn!(shard = hold.lease.shard.0, records = records.len(), %error, "outcomes not written, trying again");
                if hold.lost_within(pause).await {
                    return Err(error);
                }
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}
