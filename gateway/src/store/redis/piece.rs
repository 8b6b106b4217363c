//! What history is made of: pieces, each with the outcomes of one batch for events of one bucket; and how they merge.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use redis::Cmd;
use serde::{Deserialize, Serialize};

use super::keys::BUCKET_MS;
use crate::clock::Timestamp;
use crate::event::{DecodeError, DeliveryId, Event, EventId, Lane, SourceId, TenantId, decode, encode};
use crate::store::row::{self, Row};
use crate::store::{DeliveryRecord, StoreError, Ticket};

/// The bucket of an event: known from its id alone, so that a look-up needs no index.
pub(super) fn bucket_of(event: EventId) -> u64 {
    event.made_at().0 / BUCKET_MS
}

/// An event in its tenant's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) event: EventId,
    pub(super) accepted_at: Timestamp,
    pub(super) source: SourceId,
    pub(super) lane: Lane,
}

/// Bytes of one event in a page.
const LISTED: usize = 41;

impl Listed {
    pub(super) fn of(event: &Event, lane: Lane) -> Self {
        Self { event: event.id, accepted_at: event.accepted_at, source: event.source, lane }
    }

    fn write(self, page: &mut Vec<u8>) {
        page.extend_from_slice(&self.event.0.to_be_bytes());
        page.extend_from_slice(&self.accepted_at.0.to_be_bytes());
        page.extend_from_slice(&self.source.0.to_be_bytes());
        page.push(super::keys::lane_index(self.lane) as u8);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (event, rest) = bytes.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        let (source, rest) = rest.split_first_chunk()?;
        let lane = *Lane::ALL.get(usize::from(*rest.first()?))?;
        let (event, source) = (EventId(u128::from_be_bytes(*event)), SourceId(u128::from_be_bytes(*source)));
        Some(Self { event, accepted_at: Timestamp(u64::from_be_bytes(*at)), source, lane })
    }
}

/// A member of a tenant's index: the bucket, and the events of that bucket that were accepted together.
pub(super) fn page(bucket: u64, events: &[Listed]) -> Vec<u8> {
    let mut page = Vec::with_capacity(8 + LISTED * events.len());
    page.extend_from_slice(&bucket.to_be_bytes());
    events.iter().for_each(|event| event.write(&mut page));
    page
}

/// Reads what [`page`] wrote.
pub(super) fn read_page(page: &[u8]) -> Result<Vec<Listed>, StoreError> {
    let events = page.get(8..).filter(|events| events.len().is_multiple_of(LISTED));
    let events = events.and_then(|events| events.chunks_exact(LISTED).map(Listed::read).collect());
    events.ok_or_else(|| StoreError::Damaged("a page of a tenant's index".into()))
}

/// The command that reads all of a tenant's pages for one bucket.
pub(super) fn pages_of(index: &str, bucket: u64) -> Cmd {
    let mut ask = redis::cmd("ZRANGEBYLEX");
    let end = bucket.saturating_add(1).to_be_bytes();
    ask.arg(index).arg([b"[", &bucket.to_be_bytes()[..]].concat()).arg([b"(", &end[..]].concat());
    ask
}

/// One batch's outcomes for the events of one bucket.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Piece<'a> {
    pub(super) outcomes: Vec<Outcome<'a>>,
}

/// What one record says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Outcome<'a> {
    pub(super) event: EventId,
    pub(super) tenant: TenantId,
    pub(super) end: End,
    pub(super) rows: Vec<Row<'a>>,
}

/// What an outcome ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    /// Nothing: progress, or a retry by hand.
    Open,
    /// The event's lane entry.
    Entry(Finished),
    /// A job.
    Job(DeliveryId),
}

/// A lane entry that is finished: all that history needs to know of its event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finished {
    pub(super) ticket: Ticket,
    pub(super) accepted_at: Timestamp,
    pub(super) source: SourceId,
    /// Bytes that its entry takes.
    pub(super) bytes: u32,
}

/// The same for the same row, in this process.
pub(super) fn hash(row: &Row<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&encode(row));
    hasher.finish()
}

impl Piece<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Piece<'static>, DecodeError> {
        decode(bytes)
    }
}

/// What the pieces say of one event.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) tenant: Option<TenantId>,
    pub(super) finished: Option<Finished>,
    pub(super) rows: Vec<DeliveryRecord>,
    /// Hashes of all rows, to know one that is sent again.
    pub(super) written: Vec<u64>,
}

impl Merged {
    /// Whether nothing further happens to the event by itself.
    pub(super) fn is_terminal(&self) -> bool {
        self.finished.is_some() && self.rows.iter().all(|row| row.state.is_terminal())
    }

    fn add(&mut self, outcome: Outcome<'static>) {
        self.tenant = Some(outcome.tenant);
        match outcome.end {
            End::Open => {}
            End::Entry(finished) => self.finished = Some(finished),
            // A job that ended without an outcome of its own became other deliveries.
            End::Job(job) if !outcome.rows.iter().any(|row| row.id() == job) => self.rows.retain(|row| row.id != job),
            End::Job(_) => {}
        }
        for row in outcome.rows {
            self.written.push(hash(&row));
            row::merge(&mut self.rows, row.into_record());
        }
    }
}

/// Merges the outcomes in `pieces`, in order, for the events that are `wanted`.
pub(super) fn merge(pieces: &[Vec<u8>], wanted: impl Fn(EventId) -> bool) -> Result<HashMap<EventId, Merged>, StoreError> {
    let mut merged: HashMap<EventId, Merged> = HashMap::new();
    for piece in pieces {
        for outcome in Piece::decode(piece)?.outcomes {
            if wanted(outcome.event) {
                merged.entry(outcome.event).or_default().add(outcome);
            }
        }
    }
    Ok(merged)
}
