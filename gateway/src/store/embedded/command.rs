//! What callers ask of the committer, prepared as far as it goes without the store's state, so that encoding runs on the callers'
//! threads.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::keys::LogKey;
use super::purge::Haul;
use super::rows::{End, Outcome};
use crate::clock::Timestamp;
use crate::event::{
    DeliveryId, EventId, Failure, Lane, PluginId, Revision, Shard, SourceId, TenantId, VersionHash, encode, encode_event,
    encode_with,
};
use crate::store::bookmark::StoredBookmark;
use crate::store::row::Row;
use crate::store::{
    Acceptance, Accepted, BookmarkLimits, BookmarkName, Bookmarked, ConfigChange, Dedup, DeliveryRecord, DeliveryState, Home, Job,
    Lease, Line, Origin, Purged, PutBack, QueueKey, Record, StoreError, Table, TableKey, TableOp, TableResult, Trimmed,
};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// One thing to do, answered once it is durable.
pub(super) enum Command {
    Accept(Vec<Entry>, Reply<Vec<Accepted>>),
    Record(Lease, Vec<Note>, Reply<()>),
    PutBack(Lease, Vec<PutBack>, Reply<()>),
    Acquire(Shard, String, Duration, Reply<Option<Lease>>),
    Retry(Home, Vec<(DeliveryId, Timestamp)>, Reply<u64>),
    Add(Home, Vec<(Move, DeliveryRecord)>, Reply<u64>),
    Trim(Lease, Box<Cut>, Reply<Trimmed>),
    Purge(Lease, TenantId, Box<Haul>, Reply<Purged>),
    Configure(Revision, Vec<ConfigChange>, Reply<Revision>),
    PutComponent(VersionHash, Bytes, Reply<()>),
    Remember(String, Bytes, Duration, Reply<Option<Bytes>>),
    Say(Vec<u8>, Bytes, Duration, Reply<()>),
    Table(TableCall, Reply<Vec<TableResult>>),
    DropTables(Home, Option<PluginId>, Reply<u64>),
    KeepBookmark(Home, BookmarkName, Box<StoredBookmark>, BookmarkLimits, Reply<Bookmarked>),
    DropBookmark(Home, BookmarkName, Reply<bool>),
    Probe(Reply<Duration>),
}

/// Operations of which some may write to a plugin's table.
pub(super) struct TableCall {
    pub(super) table: Table,
    /// Under what its answers are remembered.
    pub(super) name: [u8; 16],
    pub(super) ops: Vec<(TableKey, TableOp)>,
    pub(super) quota: u64,
    pub(super) now: Timestamp,
}

/// An event to be kept.
pub(super) struct Entry {
    pub(super) shard: Shard,
    pub(super) lane: Lane,
    pub(super) dedup: Option<Dedup>,
    pub(super) tenant: TenantId,
    pub(super) event: EventId,
    pub(super) source: SourceId,
    pub(super) accepted_at: Timestamp,
    /// Bytes of its request.
    pub(super) size: u32,
    pub(super) record: Vec<u8>,
}

/// A size as it is stored and counted.
pub(super) fn counted(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

impl Entry {
    pub(super) fn of(acceptance: Acceptance) -> Self {
        let Acceptance { event, shard, lane, dedup } = acceptance;
        let event = event.event();
        Self {
            shard,
            lane,
            dedup,
            tenant: event.tenant,
            event: event.id,
            source: event.source,
            accepted_at: event.accepted_at,
            size: counted(event.request.size()),
            record: encode_event(event),
        }
    }
}

/// A record to be written.
pub(super) struct Note {
    pub(super) origin: Origin,
    pub(super) event: EventId,
    pub(super) tenant: TenantId,
    pub(super) finished: bool,
    /// Whether all its states are terminal.
    pub(super) is_terminal: bool,
    /// The number of the last attempt of the origin's own delivery, if the origin is a job and made one.
    pub(super) last_attempt: Option<u32>,
    pub(super) outcome: Vec<u8>,
    pub(super) moves: Vec<Move>,
}

/// Work to be put somewhere.
pub(super) struct Move {
    pub(super) id: DeliveryId,
    pub(super) to: Target,
    pub(super) tenant: TenantId,
    pub(super) event: EventId,
    pub(super) attempts: u32,
    pub(super) spent: u32,
    pub(super) since: Timestamp,
    pub(super) bytes: u32,
    /// Of a dead letter with its last attempt behind it, for who reads on.
    pub(super) work: Vec<u8>,
}

/// Where work is put.
pub(super) enum Target {
    Schedule(Timestamp),
    Queue(QueueKey),
    Dead { at: Timestamp, reason: Failure },
    Line { queue: QueueKey, line: Line, output: u32, due: Timestamp },
}

impl Note {
    pub(super) fn of(record: &Record) -> Result<Self, StoreError> {
        let moves = record.deliveries.iter().filter_map(|delivery| Move::of(delivery).transpose()).collect::<Result<_, _>>()?;
        let end = match record.origin {
            _ if !record.finished => End::Nothing,
            Origin::Entry(_) => End::Entry,
            Origin::Job(id) => End::Job(id),
        };
        let rows: Vec<_> = record.deliveries.iter().map(Row::of).collect();
        let outcome = encode(&Outcome { end, rows });
        let own = |delivery: &&DeliveryRecord| record.origin == Origin::Job(delivery.id);
        let attempts = record.deliveries.iter().find(own).map(|delivery| delivery.attempts.iter().map(|attempt| attempt.number));
        Ok(Self {
            origin: record.origin,
            event: record.event,
            tenant: record.tenant,
            finished: record.finished,
            is_terminal: record.deliveries.iter().all(|delivery| delivery.state.is_terminal()),
            last_attempt: attempts.and_then(Iterator::max),
            outcome,
            moves,
        })
    }
}

impl Move {
    /// New work that is due.
    pub(super) fn scheduled(job: &Job, due: Timestamp) -> Self {
        Self {
            id: job.id,
            to: Target::Schedule(due),
            tenant: job.tenant(),
            event: job.event(),
            attempts: job.attempts,
            spent: job.spent,
            since: job.since,
            bytes: counted(job.size()),
            work: encode(&job.work),
        }
    }

    fn of(delivery: &DeliveryRecord) -> Result<Option<Self>, StoreError> {
        let to = match &delivery.state {
            DeliveryState::Delivered | DeliveryState::Filtered { .. } | DeliveryState::Unmatched => return Ok(None),
            DeliveryState::Scheduled { due } => Target::Schedule(*due),
            DeliveryState::Parked { queue: Some(queue), .. } => Target::Queue(*queue),
            DeliveryState::Parked { queue: None, .. } => return Err(lacks(delivery, "its queue")),
            DeliveryState::DeadLettered { reason } => Target::Dead { at: delivery.at, reason: reason.clone() },
        };
        let lined = delivery.lined().map(|(queue, line, due)| Target::Line { queue, line, output: delivery.output, due });
        let to = lined.unwrap_or(to);
        let job = delivery.job.as_deref().ok_or_else(|| lacks(delivery, "its job"))?;
        let last = delivery.last_attempt().filter(|_| matches!(to, Target::Dead { .. }));
        Ok(Some(Self {
            id: job.id,
            to,
            tenant: job.tenant(),
            event: job.event(),
            attempts: job.attempts,
            spent: job.spent,
            since: job.since,
            bytes: counted(job.size()),
            work: last.map_or_else(|| encode(&job.work), |last| encode_with(&job.work, &last)),
        }))
    }
}

fn lacks(delivery: &DeliveryRecord, what: &str) -> StoreError {
    StoreError::Refused(format!("the record of {} goes on without {what}", delivery.id))
}

/// What retention found to remove.
#[derive(Default)]
pub(super) struct Cut {
    /// The shard's revivals when it was found: any more, and it must be looked at again.
    pub(super) revivals: u64,
    pub(super) events: Vec<CutEvent>,
    pub(super) dead: Vec<(Timestamp, DeliveryId)>,
    /// No log key of a lane is below these.
    pub(super) fronts: [u64; 3],
    pub(super) more: bool,
    pub(super) now: Timestamp,
}

/// A terminal event to remove.
pub(super) struct CutEvent {
    pub(super) at: LogKey,
    /// Its outcomes' numbers.
    pub(super) numbers: Vec<u64>,
    /// What it took of the history's budget.
    pub(super) bytes: u64,
}
