//! What history is made of: pieces, each with the outcomes of one batch for events of one bucket; and how they merge.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use serde::{Deserialize, Serialize};

use super::keys::BUCKET_MS;
use crate::clock::Timestamp;
use crate::event::{
    Attempt, ConnectionId, DecodeError, DeliveryId, DestinationId, Event, EventId, Failure, Lane, PluginRun, SourceId, TenantId,
    decode, encode,
};
use crate::store::{DeliveryRecord, DeliveryState, StoreError, Ticket};

/// The bucket of an event: known from its id alone, so that a look-up needs no index.
pub(super) fn bucket_of(event: EventId) -> u64 {
    event.made_at().0 / BUCKET_MS
}

/// An event in its tenant's index: 41 bytes that sort by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexMember {
    pub(super) event: EventId,
    pub(super) accepted_at: Timestamp,
    pub(super) source: SourceId,
    pub(super) lane: Lane,
}

impl IndexMember {
    pub(super) fn of(event: &Event, lane: Lane) -> Self {
        Self { event: event.id, accepted_at: event.accepted_at, source: event.source, lane }
    }

    pub(super) fn to_bytes(self) -> [u8; 41] {
        let mut bytes = [0; 41];
        bytes[..16].copy_from_slice(&self.event.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.accepted_at.0.to_be_bytes());
        bytes[24..40].copy_from_slice(&self.source.0.to_be_bytes());
        bytes[40] = super::keys::lane_index(self.lane) as u8;
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged("a member of a tenant's index".into());
        let bytes: &[u8; 41] = bytes.try_into().map_err(|_| damaged())?;
        let wide = |from: usize| u128::from_be_bytes(bytes[from..from + 16].try_into().unwrap_or_default());
        let at = u64::from_be_bytes(bytes[16..24].try_into().unwrap_or_default());
        let lane = Lane::ALL.get(usize::from(bytes[40])).ok_or_else(damaged)?;
        Ok(Self { event: EventId(wide(0)), accepted_at: Timestamp(at), source: SourceId(wide(24)), lane: *lane })
    }
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

/// A [`DeliveryRecord`] as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row<'a> {
    id: DeliveryId,
    connection: Option<ConnectionId>,
    destination: Option<DestinationId>,
    output: u32,
    at: Timestamp,
    state: State<'a>,
    attempts: Cow<'a, [Attempt]>,
    runs: Cow<'a, [PluginRun]>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State<'a> {
    Delivered,
    Filtered(Cow<'a, str>),
    Unmatched,
    Scheduled(Timestamp),
    Parked(Cow<'a, str>),
    DeadLettered(Cow<'a, Failure>),
}

impl<'a> Row<'a> {
    pub(super) fn of(record: &'a DeliveryRecord) -> Self {
        let state = match &record.state {
            DeliveryState::Delivered => State::Delivered,
            DeliveryState::Filtered { by } => State::Filtered(Cow::Borrowed(by)),
            DeliveryState::Unmatched => State::Unmatched,
            DeliveryState::Scheduled { due } => State::Scheduled(*due),
            DeliveryState::Parked { reason, .. } => State::Parked(Cow::Borrowed(reason)),
            DeliveryState::DeadLettered { reason } => State::DeadLettered(Cow::Borrowed(reason)),
        };
        Self {
            id: record.id,
            connection: record.connection,
            destination: record.destination,
            output: record.output,
            at: record.at,
            state,
            attempts: Cow::Borrowed(&record.attempts),
            runs: Cow::Borrowed(&record.runs),
        }
    }

    /// The same for the same row, in this process.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write(&encode(self));
        hasher.finish()
    }

    pub(super) fn into_owned(self) -> Row<'static> {
        let state = match self.state {
            State::Delivered => State::Delivered,
            State::Filtered(by) => State::Filtered(Cow::Owned(by.into_owned())),
            State::Unmatched => State::Unmatched,
            State::Scheduled(due) => State::Scheduled(due),
            State::Parked(reason) => State::Parked(Cow::Owned(reason.into_owned())),
            State::DeadLettered(reason) => State::DeadLettered(Cow::Owned(reason.into_owned())),
        };
        let (attempts, runs) = (Cow::Owned(self.attempts.into_owned()), Cow::Owned(self.runs.into_owned()));
        let Row { id, connection, destination, output, at, .. } = self;
        Row { id, connection, destination, output, at, state, attempts, runs }
    }

    pub(super) fn into_record(self) -> DeliveryRecord {
        let state = match self.state {
            State::Delivered => DeliveryState::Delivered,
            State::Filtered(by) => DeliveryState::Filtered { by: by.into_owned() },
            State::Unmatched => DeliveryState::Unmatched,
            State::Scheduled(due) => DeliveryState::Scheduled { due },
            State::Parked(reason) => DeliveryState::Parked { reason: reason.into_owned(), queue: None },
            State::DeadLettered(reason) => DeliveryState::DeadLettered { reason: reason.into_owned() },
        };
        DeliveryRecord {
            id: self.id,
            connection: self.connection,
            destination: self.destination,
            output: self.output,
            at: self.at,
            state,
            attempts: self.attempts.into_owned(),
            runs: self.runs.into_owned(),
            job: None,
        }
    }
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
            End::Job(job) if !outcome.rows.iter().any(|row| row.id == job) => self.rows.retain(|row| row.id != job),
            End::Job(_) => {}
        }
        for row in outcome.rows {
            self.written.push(row.hash());
            let mut row = row.into_record();
            let Some(known) = self.rows.iter_mut().find(|known| known.id == row.id) else {
                self.rows.push(row);
                continue;
            };
            let mut attempts = std::mem::take(&mut known.attempts);
            let mut runs = std::mem::take(&mut known.runs);
            attempts.append(&mut row.attempts);
            runs.append(&mut row.runs);
            *known = DeliveryRecord { attempts, runs, ..row };
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
