//! What is stored under the keys. Each record starts with the format version (`event::encode`).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, Failure, Lane, Shard, SourceId, TenantId, decode};
use crate::store::row::{Row, merge};
use crate::store::{DeliveryRecord, EventSummary, Job, Line, QueueKey, StoreError, Work};

/// An event in the listing: written with its accept.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) source: SourceId,
    pub(super) accepted_at: Timestamp,
    pub(super) shard: Shard,
    pub(super) lane: Lane,
    pub(super) seq: u64,
    /// Bytes of the event's record.
    pub(super) bytes: u32,
}

/// One record's outcomes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Outcome<'a> {
    pub(super) end: End,
    pub(super) rows: Vec<Row<'a>>,
}

/// What an outcome ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// Nothing: progress, or a retry by hand.
    Nothing,
    /// The event's lane entry.
    Entry,
    /// A job.
    Job(DeliveryId),
}

/// Work outside the lanes, without its request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) place: Place,
    pub(super) tenant: TenantId,
    pub(super) event: EventId,
    pub(super) attempts: u32,
    pub(super) spent: u32,
    pub(super) since: Timestamp,
    /// What it counts in a budget.
    pub(super) bytes: u32,
}

impl Waiting {
    /// Whether it counts as queued: dead letters do not.
    pub(super) fn is_queued(&self) -> bool {
        !matches!(self.place, Place::Dead { .. })
    }

    /// The whole job, with its request.
    pub(super) fn job(&self, id: DeliveryId, work: Work, claims: u32) -> Job {
        let line = match &self.place {
            Place::Lined(Spot { queue: QueueKey::Ordered(_, destination), line, place, due }) => {
                Some(Line { destination: *destination, key: *line, place: Some(*place), due: *due })
            }
            _ => None,
        };
        Job { id, attempts: self.attempts, spent: self.spent, since: self.since, work, line, claims }
    }
}

/// Where work waits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Place {
    Scheduled(Timestamp),
    Parked(QueueKey, u64),
    Dead { at: Timestamp, reason: Failure },
    Lined(Spot),
}

/// A place in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spot {
    pub(super) queue: QueueKey,
    pub(super) line: u128,
    pub(super) place: u64,
    pub(super) due: Timestamp,
}

/// The first job of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Front {
    pub(super) due: Timestamp,
    pub(super) place: u64,
    pub(super) id: DeliveryId,
}

/// What is known of a shard without looking: written with every unit that changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub(super) epoch: u64,
    pub(super) scheduled: u64,
    pub(super) parked: u64,
    pub(super) dead: u64,
    /// Bytes of terminal events and their outcomes.
    pub(super) history_bytes: u64,
    /// No log key of a lane is below its front: retention has passed there.
    pub(super) fronts: [u64; 3],
}

/// How far a lane has been claimed.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    /// The first entry that nobody has claimed.
    pub(super) cursor: u64,
    /// The first entry that may be unfinished.
    pub(super) floor: u64,
}

/// What a tenant's bookmarks count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BookmarkUse {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

/// The first event with a dedup key.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct First {
    pub(super) event: EventId,
    pub(super) until: Timestamp,
}

/// A remembered value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Remembered {
    pub(super) until: Timestamp,
    pub(super) value: Bytes,
}

/// An entry of a plugin's table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) until: Option<Timestamp>,
    pub(super) value: Bytes,
}

impl Cell {
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What is known of a tenant's tables without looking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tables {
    pub(super) bytes: u64,
    pub(super) entries: u64,
    /// The calls that are remembered have numbers from here on, without gaps.
    pub(super) calls_start: u64,
    /// The next call's number.
    pub(super) calls_end: u64,
}

/// A call that is remembered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Remember {
    pub(super) at: Timestamp,
    pub(super) name: [u8; 16],
}

/// All that history holds of an event, put together.
#[derive(Debug, Default)]
pub(super) struct Story {
    pub(super) listed: Option<Listed>,
    pub(super) finished: bool,
    pub(super) rows: Vec<DeliveryRecord>,
    /// Every outcome's rows as they are stored, in order.
    pub(super) stored: Vec<Row<'static>>,
    /// The outcomes' numbers in their keys.
    pub(super) numbers: Vec<u64>,
    pub(super) outcome_bytes: u64,
}

impl Story {
    /// Adds what stands under the event's key number `n`.
    pub(super) fn add(&mut self, n: u64, value: &[u8]) -> Result<(), StoreError> {
        if n == 0 {
            self.listed = Some(decode(value)?);
            return Ok(());
        }
        let outcome: Outcome<'static> = decode(value)?;
        self.numbers.push(n);
        self.outcome_bytes += value.len() as u64;
        match outcome.end {
            End::Nothing => {}
            End::Entry => self.finished = true,
            // A job that ended without an outcome of its own became other deliveries.
            End::Job(job) if outcome.rows.iter().all(|row| row.id() != job) => self.rows.retain(|row| row.id != job),
            End::Job(_) => {}
        }
        for row in outcome.rows {
            merge(&mut self.rows, row.clone().into_record());
            self.stored.push(row);
        }
        Ok(())
    }

    /// Whether nothing further happens to the event by itself.
    pub(super) fn is_terminal(&self) -> bool {
        self.finished && self.rows.iter().all(|row| row.state.is_terminal())
    }

    /// What the event takes of the history's budget once it is terminal.
    pub(super) fn bytes(&self) -> u64 {
        self.listed.map_or(0, |listed| u64::from(listed.bytes)) + self.outcome_bytes
    }

    pub(super) fn summary(self, id: EventId) -> Option<EventSummary> {
        let Listed { source, accepted_at, lane, .. } = self.listed?;
        Some(EventSummary { id, source, accepted_at, lane, deliveries: self.rows, finished: self.finished })
    }
}
