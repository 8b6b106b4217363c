//! The store: where an acknowledged event lives until it is terminal, and where its history is kept.
//!
//! # The contract
//! Both engines ([`redis`], [`embedded`]) and the in-memory model keep it; one suite checks all three.
//!
//! - **accept** is one durable write for the whole batch. When it returns `Ok`, every event in it is queued (or was a
//!   duplicate inside its source's window, and the first event's id is returned). The listing index and the dedup key are
//!   written in the same atomic unit. On an error each event may or may not have been taken; a re-send keeps its id.
//! - **A shard has one owner**, which holds a [`Lease`]. Every write of an owner checks the lease's (epoch, incarnation) for
//!   equality in the same atomic unit and fails with [`StoreError::Fenced`] once another owner took over.
//! - **claim** hands out lane entries in order, each once per ownership. **reclaim** hands out what an earlier owner (or an
//!   earlier connection) had claimed and not finished, with the number of claims and the progress that was recorded.
//! - **Work is in exactly one place**: a lane entry, the schedule, a parked queue, or the dead letters. [`Store::record`] moves
//!   it in one atomic unit together with its outcome record. Recording twice is the same as recording once.
//! - What `due`, `unpark` and `heads` hand out stays in the store as taken; a new owner finds it again, at its old place. How often it is handed out
//!   without being recorded or given back is counted ([`Job::claims`]), over owners and crashes. [`Store::put_back`] gives back what need not run now.
//! - **Lines keep order**: a job with a [`Line`] that is scheduled or parked stands in its destination's ordered queue, in the line of its
//!   key: behind all that stand there, or at the place that it had, if its line names one. [`Store::heads`] hands out the first of a line
//!   alone, once it is due, and nothing of a line that has something taken.
//! - **A status comes from a record, never from absence.** Rows are merged by delivery: the latest state wins, attempts and runs
//!   add up. The row of a job that was finished without an outcome of its own (a plan that became other deliveries) goes.
//! - **Retention** ([`Store::trim`]) touches only what is terminal, oldest first. An event is terminal once its lane entry is
//!   finished and none of its work is scheduled or parked; its age counts from its acceptance. A dead letter carries all that a
//!   retry needs and the attempt that it was given up after, so it outlives the history of its event, and goes by its own age.
//! - **What a tenant has queued is counted in bytes** ([`Store::queued_bytes`]), in the atomic unit of whatever changes it: the requests
//!   ([`Request::size`](crate::event::Request::size)) of its unfinished lane entries and of its scheduled and parked jobs, each where it
//!   stands; no dead letters, no history. Work from before there was a count is in none: the count may be too low until that work is
//!   done. It is never below zero, and so no higher than the truth.
//! - **What leaves a lane is counted** ([`LaneDepth::finished`]) in the atomic unit that finishes it: once each, over all owners and
//!   restarts.
//! - **Tenants and shards are apart**: what is asked for with a [`Home`] finds that tenant's data in that shard and nothing else. Which
//!   shards a tenant has is for others to know; a dedup key counts in the shard that its event goes to, or further.
//!
//! - **Tables of plugins** ([`Store::table`]) are in their tenant's home shard, and anybody may ask, without a lease. The operations of a call
//!   are done in order and in one atomic unit, durable as an accept is; one that fails ([`TableFault`]) changes nothing and stops no
//!   other. What has ended (its time to live is over at the call's `now`) is never seen. A tenant's entries, of all its plugins, count in
//!   bytes ([`table_entry_bytes`](table::table_entry_bytes)) in the unit that changes them; a write that would make them more than the call's quota is a
//!   fault, one that makes an entry no larger is not. What has ended counts until it is taken away: some by each call that
//!   writes, more by one that finds no room, the rest by [`Store::trim`].
//! - **A call that writes is done once** for its [`Once`], the plugin and what it writes: made again, by whomever and after a crash too, it
//!   answers as it did the first time and changes nothing, for [`TABLE_CALL_AGE`](table::TABLE_CALL_AGE) or until [`MAX_TABLE_CALLS`](table::MAX_TABLE_CALLS) later ones of its tenant.
//!   What it only reads is read anew.
//!
//! - **Bookmarks** ([`Store::keep_bookmark`]) are in their tenant's home shard, and anybody may ask, without a lease. Each is a copy: what becomes of its
//!   event's history changes nothing about it, and only [`Store::drop_bookmark`] and a purge take it away. How many there are, and how large they are
//!   together, is checked in the atomic unit that keeps one.
//!
//! Every stored record starts with a format version (`event::FORMAT`).

mod bookmark;
pub mod embedded;
mod line;
mod purge;
pub mod redis;
mod row;
pub mod table;
pub mod transfer;

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

pub use bookmark::{Bookmark, BookmarkHead, BookmarkLimits, BookmarkName, BookmarkNameError, Bookmarked, MAX_BOOKMARK_NAME};
pub use line::{Heads, Line, PutBack, Unparked};
pub use purge::Purged;
pub use table::{
    Once, Table, TableAnswer, TableEntry, TableFault, TableKey, TableKeyError, TableOp, TablePage, TableResult, TableUse,
};

use crate::clock::Timestamp;
use crate::event::{
    Attempt, ConnectionId, DecodeError, Delivery, DeliveryId, DestinationId, Event, EventId, Failure, Lane, PluginId, PluginRun,
    Revision, Shard, SourceId, TenantId, VersionHash,
};
use crate::ingest::verify::VerifiedEvent;

/// An event to be kept.
#[derive(Debug)]
pub struct Acceptance {
    /// The event; only `verify` makes one.
    pub event: VerifiedEvent,
    /// The shard that it goes to: one of its tenant's.
    pub shard: Shard,
    /// The lane that it goes to.
    pub lane: Lane,
    /// Set when the source drops duplicates.
    pub dedup: Option<Dedup>,
}

/// What makes an event a duplicate of an earlier one of the same source, in the same shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// A hash over the source's id and the value of its dedup header or JSON pointer.
    pub key: [u8; 32],
    /// How long the first one is remembered.
    pub window: Duration,
}

/// What became of an [`Acceptance`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Queued.
    New {
        /// What the tenant has queued in the shard with this and with all that was written beside it, in bytes.
        queued: u64,
    },
    /// Dropped: this is the id of the first event with the same key.
    Duplicate(EventId),
}

/// The right to dispatch a shard. Dropping it releases nothing; it runs out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The shard.
    pub shard: Shard,
    /// Counts takeovers of the shard.
    pub epoch: u64,
    /// Random for each acquisition, so that a restored backup or a repeated epoch can't be mistaken for it.
    pub incarnation: u64,
    /// How long the lease lives without a renewal.
    pub ttl: Duration,
}

/// Where a claimed lane entry stands. Opaque outside the store; unique within a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ticket {
    /// The lane.
    pub lane: Lane,
    /// The engine's position: a stream id's milliseconds, or a sequence number.
    pub major: u64,
    /// The second half of a stream id; 0 where the engine has none.
    pub minor: u64,
}

/// How much a claim may hand out. Bytes are those of the request: [`Request::size`](crate::event::Request::size).
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// At most this many.
    pub count: usize,
    /// Stop once this many bytes are reached; a single larger one is still handed out, alone.
    pub bytes: usize,
    /// Whether a suspect may be handed out. What was never handed out before is none.
    pub suspects: Suspects,
}

impl Budget {
    /// So much of whatever is there.
    pub const fn new(count: usize, bytes: usize) -> Self {
        Self { count, bytes, suspects: Suspects::Taken }
    }
}

/// Whether a suspect ([`SUSPECT`]) may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspects {
    /// One may, by itself.
    Taken,
    /// What stands before one may. If it stands first, the read ends in [`StoreError::Suspect`], and nothing is handed out or counted.
    Left,
}

/// What was handed out that often, this time included, and never recorded, may be what gateways went away with: it is handed out by itself, so
/// that nothing else is counted with it.
pub const SUSPECT: u32 = 3;

/// A lane entry that the owner now works on.
#[derive(Debug)]
pub struct Claimed {
    /// To record it with.
    pub ticket: Ticket,
    /// The event.
    pub event: Event,
    /// How often it has been claimed, this time included.
    pub claims: u32,
    /// Deliveries whose outcome was recorded before its owner went away: skip these.
    pub progress: Vec<DeliveryRecord>,
}

/// Work that stands outside the lanes: scheduled, parked or dead-lettered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The delivery's id; for work that is not planned yet, derived in the same way.
    pub id: DeliveryId,
    /// HTTP attempts, or failed plans, so far: the next attempt's number is one more.
    pub attempts: u32,
    /// How many of them count against the retry policy: those since `since`.
    pub spent: u32,
    /// From when the retry policy counts: when the event was accepted, or when somebody asked for another try.
    pub since: Timestamp,
    /// What is to be done.
    pub work: Work,
    /// The line that it stands in, if it keeps an order. Stored as its place, so a dead letter has none.
    #[serde(skip)]
    pub line: Option<Line>,
    /// How often it has been handed out since it was put there, this time included. Said by the store; what goes there has none.
    #[serde(skip)]
    pub claims: u32,
}

/// What a [`Job`] does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// Make this frozen request.
    Attempt(Box<Delivery>),
    /// Plan this event (again), on one connection or on all.
    Plan {
        /// The event.
        event: Box<Event>,
        /// The connection; none means all.
        connection: Option<ConnectionId>,
    },
}

impl Job {
    /// The same work with the retry policy starting afresh `now`: what [`Store::retry`] puts back.
    pub fn afresh(self, now: Timestamp) -> Self {
        Self { spent: 0, since: now, ..self }
    }

    /// The event that the work belongs to.
    pub fn event(&self) -> EventId {
        match &self.work {
            Work::Attempt(delivery) => delivery.event,
            Work::Plan { event, .. } => event.id,
        }
    }

    /// The tenant that the work belongs to.
    pub fn tenant(&self) -> TenantId {
        match &self.work {
            Work::Attempt(delivery) => delivery.tenant,
            Work::Plan { event, .. } => event.tenant,
        }
    }

    /// Bytes of its request, as budgets and [`Store::queued_bytes`] count them.
    pub fn size(&self) -> usize {
        match &self.work {
            Work::Attempt(delivery) => delivery.request.size(),
            Work::Plan { event, .. } => event.request.size(),
        }
    }
}

/// A parked sub-queue, in order of parking: work of one tenant, or of one of its sources, destinations or connections. At its end a
/// variant may be added; those that are there are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum QueueKey {
    /// A tenant over its in-flight window, or one that is diverted.
    Tenant(TenantId),
    /// A destination over its window.
    Destination(TenantId, DestinationId),
    /// What came in by a source that is diverted.
    Source(TenantId, SourceId),
    /// Deliveries that failed before, while retries are paused.
    Retries(TenantId),
    /// Events whose plugins have to wait for their tenant's fuel.
    Plugins(TenantId),
    /// Events of a connection whose plugin is poisoned.
    Connection(TenantId, ConnectionId),
    /// Events and deliveries of a connection that is paused.
    Paused(TenantId, ConnectionId),
    /// What goes to a destination in order: its [lines](Line). Read by [`Store::heads`].
    Ordered(TenantId, DestinationId),
}

impl QueueKey {
    /// Whose work it holds.
    pub fn tenant(self) -> TenantId {
        match self {
            Self::Tenant(tenant)
            | Self::Destination(tenant, _)
            | Self::Source(tenant, _)
            | Self::Retries(tenant)
            | Self::Plugins(tenant)
            | Self::Connection(tenant, _)
            | Self::Paused(tenant, _)
            | Self::Ordered(tenant, _) => tenant,
        }
    }
}

/// What the owner worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A lane entry.
    Entry(Ticket),
    /// A job from `due`, `unpark` or `heads`.
    Job(DeliveryId),
}

/// What happened, to be written in one atomic unit with everything else of its batch.
#[derive(Debug)]
pub struct Record {
    /// What was worked on.
    pub origin: Origin,
    /// The event.
    pub event: EventId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Whether the origin is done with: the lane entry is acked, or the job taken away (unless one of `deliveries` puts work
    /// with the same id elsewhere). Otherwise this is progress, which a reclaim will hand back.
    pub finished: bool,
    /// Outcomes since the last record of this origin.
    pub deliveries: Vec<DeliveryRecord>,
}

/// The outcome of one delivery so far, as history keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRecord {
    /// The delivery.
    pub id: DeliveryId,
    /// The connection; none for an event that could not be planned at all or that matched none.
    pub connection: Option<ConnectionId>,
    /// The destination, once planned.
    pub destination: Option<DestinationId>,
    /// Which output of the transform.
    pub output: u32,
    /// When this was decided.
    pub at: Timestamp,
    /// Where it stands now.
    pub state: DeliveryState,
    /// HTTP attempts since the last record.
    pub attempts: Vec<Attempt>,
    /// Plugin runs since the last record.
    pub runs: Vec<PluginRun>,
    /// The work that goes on from here: set for scheduled, parked and dead-lettered states. Kept apart from history.
    #[serde(skip)]
    pub job: Option<Box<Job>>,
}

impl DeliveryRecord {
    /// The ordered queue that its job goes to, with its line, and when it is due there; none if it goes elsewhere or nowhere.
    pub fn lined(&self) -> Option<(QueueKey, Line, Timestamp)> {
        let job = self.job.as_deref()?;
        let line = job.line?;
        let due = match &self.state {
            DeliveryState::Scheduled { due } => *due,
            DeliveryState::Parked { .. } => line.due,
            _ => return None,
        };
        Some((QueueKey::Ordered(job.tenant(), line.destination), line, due))
    }

    /// What a dead letter carries of its last attempt: it outlives the history that has them all.
    pub fn last_attempt(&self) -> Option<Attempt> {
        let last = self.attempts.last()?;
        let response = last.response.slice(..last.response.len().min(MAX_LAST_RESPONSE));
        let response_cut = last.response_cut || response.len() < last.response.len();
        Some(Attempt { response, response_cut, ..last.clone() })
    }
}

/// Where a delivery stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum DeliveryState {
    /// A complete 2xx head came.
    Delivered,
    /// A filter, or a transform without outputs, dropped it.
    Filtered {
        /// `filter`, or the plugin's name.
        by: String,
    },
    /// The event matched no connection.
    Unmatched,
    /// It will be tried (again) at this time.
    Scheduled {
        /// Due.
        due: Timestamp,
    },
    /// It waits in a sub-queue.
    Parked {
        /// Why it waits: `tenant_window`, `destination_window`, ...
        reason: String,
        /// Which queue.
        #[serde(skip)]
        queue: Option<QueueKey>,
    },
    /// Given up, with the reason; can be retried by hand.
    DeadLettered {
        /// The reason.
        reason: Failure,
    },
}

impl DeliveryState {
    /// Whether nothing further happens by itself.
    pub fn is_terminal(&self) -> bool {
        !matches!(self, Self::Scheduled { .. } | Self::Parked { .. })
    }
}

/// A tenant and one of its shards: where its data is, or a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The tenant.
    pub tenant: TenantId,
    /// The shard.
    pub shard: Shard,
}

/// A token bucket that all acceptors of a tenant's events share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Allowance {
    /// What stays in the normal lane.
    Normal,
    /// What is taken at all.
    Ceiling,
}

/// What an acceptor took from a shared bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Whose.
    pub home: Home,
    /// Which.
    pub allowance: Allowance,
    /// How long it takes to fill that again.
    pub time: Duration,
}

/// The most rows of a page.
pub const MAX_PAGE: usize = 200;

/// A page of a listing, newest first. A place in a listing is the same in every shard and engine.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest<P> {
    /// Only what stands behind this place, the `next` of the page before.
    pub before: Option<P>,
    /// At most this many; engines take 0 for 1 and cap it at [`MAX_PAGE`].
    pub limit: usize,
}

/// One page. It may be shorter than was asked for, even empty, and still not be the last.
#[derive(Clone, Debug)]
pub struct Page<T, P> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page starts, if there is one.
    pub next: Option<P>,
}

/// An event in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSummary {
    /// Its id, which carries the time.
    pub id: EventId,
    /// Its source.
    pub source: SourceId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// The lane that it was accepted into.
    pub lane: Lane,
    /// Its deliveries as recorded so far, merged: one row each. Empty means accepted and still queued.
    pub deliveries: Vec<DeliveryRecord>,
    /// Whether the event's lane entry is finished; if not, more deliveries may follow.
    pub finished: bool,
}

/// An event with all that is known of it.
#[derive(Clone, Debug)]
pub struct EventHistory {
    /// The summary.
    pub summary: EventSummary,
    /// The event itself, while retention keeps it.
    pub event: Option<Event>,
}

/// A dead letter in a listing.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The work that was given up.
    pub job: Job,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: Failure,
    /// The attempt that it was given up after, with at most [`MAX_LAST_RESPONSE`] of the response; none if it was given up without one
    /// (or by a release that did not keep it).
    pub last: Option<Attempt>,
}

/// Bytes of the last response that a dead letter carries.
pub const MAX_LAST_RESPONSE: usize = 1024;

impl DeadLetter {
    /// Where it stands in a listing.
    pub fn place(&self) -> Burial {
        Burial { at: self.at, id: self.job.id }
    }

    /// What comes first when several are tried again: by acceptance, as far as that is told apart, then by when they were given up; of one
    /// event in the order of its outputs.
    pub fn age(&self) -> (Timestamp, Timestamp, EventId, u32) {
        let (accepted_at, output) = match &self.job.work {
            Work::Attempt(delivery) => (delivery.accepted_at, delivery.output),
            Work::Plan { event, .. } => (event.accepted_at, 0),
        };
        (accepted_at, self.at, self.job.event(), output)
    }
}

/// From one dead letter's due time to the next's where they are tried again in order: what is due at once comes in any.
pub const RETRIED_APART: Duration = Duration::from_millis(1);

/// A dead letter's place in a listing: by when it was given up. Shown as `<ms>-<delivery>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Burial {
    /// When it was given up.
    pub at: Timestamp,
    /// What was.
    pub id: DeliveryId,
}

impl fmt::Display for Burial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.at.0, self.id)
    }
}

/// A text that is not a dead letter's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it must be a number of milliseconds, `-` and a delivery's id")]
pub struct NoBurial;

impl FromStr for Burial {
    type Err = NoBurial;

    fn from_str(text: &str) -> Result<Self, NoBurial> {
        let (at, id) = text.split_once('-').ok_or(NoBurial)?;
        Ok(Self { at: Timestamp(at.parse().map_err(|_| NoBurial)?), id: id.parse().map_err(|_| NoBurial)? })
    }
}

/// How long and how much history a shard keeps.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Terminal events older than this go.
    pub age: Duration,
    /// Terminal events go, oldest first, while history holds more than this; an engine that runs out of room may keep less.
    pub bytes: u64,
    /// Dead letters older than this go.
    pub dead_letter_age: Duration,
}

/// What a trim took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Events.
    pub events: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Whether there is more to trim now.
    pub more: bool,
}

/// How full a shard is. What was handed out and is not recorded counts where it was taken from.
#[derive(Clone, Debug, Default)]
pub struct Depth {
    /// Each lane, empty ones too: its unfinished entries, and when the oldest was accepted, as far as the engine can tell cheaply.
    pub lanes: Vec<LaneDepth>,
    /// Jobs scheduled.
    pub scheduled: u64,
    /// Jobs parked.
    pub parked: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

/// How full a lane is.
#[derive(Clone, Copy, Debug)]
pub struct LaneDepth {
    /// Which.
    pub lane: Lane,
    /// Accepted and not finished.
    pub entries: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<Timestamp>,
    /// How many have been finished, whoever owned the shard. Only the difference of two readings says something: where it starts is
    /// the engine's to choose.
    pub finished: u64,
}

impl LaneDepth {
    /// How many have been accepted, counted like `finished`.
    pub fn accepted(&self) -> u64 {
        self.finished + self.entries
    }
}

/// One change to the configuration: `None` deletes.
pub type ConfigChange = (String, Option<Bytes>);

/// What can go wrong.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store can't take it now; trying again later can help.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// The store has no room; deliveries and acks still go on.
    #[error("store is full: {0}")]
    Full(String),
    /// Another owner has the shard.
    #[error("shard {} has another owner now", .0.0)]
    Fenced(Shard),
    /// A suspect is next, and the caller takes none ([`Suspects::Left`]).
    #[error("what is next in shard {} may be what gateways went away with", .0.0)]
    Suspect(Shard),
    /// The configuration was changed meanwhile: read it again.
    #[error("the configuration is at revision {}, not at the expected one", .0.0)]
    Conflict(Revision),
    /// The store's settings, version or content don't allow what was asked; trying again can't help.
    #[error("store refused: {0}")]
    Refused(String),
    /// A stored record can't be read.
    #[error("stored record unreadable: {0}")]
    Damaged(String),
}

impl From<DecodeError> for StoreError {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A store engine. Methods that take a [`Lease`] are the owner's and are fenced; the others are anyone's.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Keeps a batch in one durable write, answering in order. See the contract above.
    async fn accept(&self, batch: Vec<Acceptance>) -> Result<Vec<Accepted>, StoreError>;

    /// Takes out of shared buckets what this process has let through `over` the last while, and answers for each in how long it
    /// will be full, by the store's clock: it was full `over` ago at the earliest, and takes `time` longer from now on. A bucket may be
    /// overdrawn. What was sent again after an error would be taken twice; what is not sent is only not shared. An engine of one
    /// process has nothing to share, and answers nothing.
    async fn spend(&self, _over: Duration, _spent: &[Spent]) -> Result<Vec<Duration>, StoreError> {
        Ok(Vec::new())
    }

    /// Whether an event for this lane is worth to be handed to [`Store::accept`] now, so that what can't be kept need not queue up for
    /// it. Cheap: answers from the last check. An engine whose `accept` never makes others wait leaves it to that.
    fn admits(&self, _lane: Lane) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes the shard if nobody else holds it (or whoever held it has let its lease run out), for `ttl`. The node that holds it
    /// gets a new lease at once, since it asks only after it lost the old one; the old one is fenced.
    async fn acquire(&self, shard: Shard, node: &str, ttl: Duration) -> Result<Option<Lease>, StoreError>;

    /// Like [`Store::acquire`], but leaves a shard that nobody holds to other nodes: only a holder whose lease ran out is succeeded.
    async fn take_over(&self, shard: Shard, node: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        self.acquire(shard, node, ttl).await
    }

    /// Says for `ttl` that this node takes shards; for no time at all, that it is gone. Answers how many nodes take shards. An engine
    /// of one process has one.
    async fn present(&self, _node: &str, _ttl: Duration) -> Result<usize, StoreError> {
        Ok(1)
    }

    /// Prolongs the lease by its `ttl`. A lease that ran out can be prolonged as long as nobody took the shard.
    async fn renew(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Gives the shard up at once. The lease is fenced from then on.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// The next unclaimed entries of a lane, in order. Returns at once, with nothing if there is nothing. An error may have taken entries all the
    /// same: whoever needs their order reclaims before the next claim.
    async fn claim(&self, lease: &Lease, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError>;

    /// Entries that were claimed before, are not finished, and are not in `held`, the caller's own in-flight table. Oldest first
    /// within a lane. Never what [`Store::claim`] has not handed out yet. A suspect ([`SUSPECT`]) comes by itself.
    async fn reclaim(&self, lease: &Lease, held: &HashSet<Ticket>, budget: Budget) -> Result<Vec<Claimed>, StoreError>;

    /// Jobs whose time has come, earliest first. They count as taken until they are recorded. A suspect ([`SUSPECT`]) comes by itself.
    async fn due(&self, lease: &Lease, now: Timestamp, budget: Budget) -> Result<Vec<Job>, StoreError>;

    /// When the next scheduled job that is not taken comes due, if there is one.
    async fn next_due(&self, lease: &Lease) -> Result<Option<Timestamp>, StoreError>;

    /// The sub-queues that hold work which is not taken, with how much of it.
    async fn queues(&self, lease: &Lease) -> Result<Vec<(QueueKey, u64)>, StoreError>;

    /// The oldest jobs of a sub-queue that are not taken, in order of parking. They count as taken until they are recorded; what
    /// is parked again goes behind the others. A suspect ([`SUSPECT`]) comes by itself.
    async fn unpark(&self, lease: &Lease, queue: QueueKey, budget: Budget) -> Result<Unparked, StoreError>;

    /// The first jobs of lines of an ordered queue: of those that are due and have nothing taken, the longest due first. They count as taken
    /// until they are recorded. A suspect ([`SUSPECT`]) comes by itself.
    async fn heads(&self, lease: &Lease, queue: QueueKey, now: Timestamp, budget: Budget) -> Result<Heads, StoreError>;

    /// Puts jobs that `heads` or `unpark` handed out back to their places in their lines or queues. Nothing else changes, and nothing is recorded.
    /// Left alone is what this owner does not have in hand, or of lines has taken again since: a call may be made again.
    async fn put_back(&self, lease: &Lease, jobs: &[PutBack]) -> Result<(), StoreError>;

    /// Writes what happened: acks, outcomes, schedule, parking, dead letters, progress; all or nothing.
    ///
    /// A record whose origin this owner does not have in hand (finished before, or never handed out to it) changes nothing, and so
    /// does one that was written before: that makes a batch safe to send again. What was written before is known by its content,
    /// but for a finished job: there by the number of its last attempt, since it can be parked twice in one millisecond. Work
    /// that is put somewhere leaves the place where it was. [`StoreError::Refused`], with nothing written, if a state that goes on (or a dead letter) comes without its
    /// job, or a parked one without its queue.
    async fn record(&self, lease: &Lease, batch: &[Record]) -> Result<(), StoreError>;

    /// Removes what is terminal and beyond its retention; a bounded step of it.
    async fn trim(&self, lease: &Lease, retention: Retention, now: Timestamp) -> Result<Trimmed, StoreError>;

    /// Removes a bounded step of all that the shard holds of a tenant: its bookmarks, its plugins' tables, its jobs and dead letters, and its finished
    /// events with their history. What is claimed, taken or was never claimed stays until it is recorded; the owner does that
    /// meanwhile. Another tenant is not touched. Answers what has been removed since the first step, over restarts.
    async fn purge(&self, lease: &Lease, tenant: TenantId) -> Result<Purged, StoreError>;

    /// What a purge has removed so far in a shard; none before its first step.
    async fn purged(&self, home: Home) -> Result<Option<Purged>, StoreError>;

    /// Notified when work may have arrived for the shard from this or another node. May fire without cause; a slow poll stands
    /// beside it.
    fn signal(&self, shard: Shard) -> Arc<Notify>;

    /// Bytes of a tenant's work that is queued in a shard, as the contract above counts them.
    async fn queued_bytes(&self, home: Home) -> Result<u64, StoreError>;

    /// The same for everybody who has something queued in a shard, in no order.
    async fn queued_by_tenant(&self, shard: Shard) -> Result<Vec<(TenantId, u64)>, StoreError>;

    /// How full a shard is.
    async fn depth(&self, shard: Shard) -> Result<Depth, StoreError>;

    /// What is known of an event.
    async fn event(&self, home: Home, id: EventId) -> Result<Option<EventHistory>, StoreError>;

    /// The events of a tenant in this shard, newest first by id. A place stays good while events come and go.
    async fn events(&self, home: Home, page: PageRequest<EventId>) -> Result<Page<EventSummary, EventId>, StoreError>;

    /// The dead letters of a tenant in this shard, newest first.
    async fn dead_letters(&self, home: Home, page: PageRequest<Burial>) -> Result<Page<DeadLetter, Burial>, StoreError>;

    /// The same the other way round, oldest first: what stands behind this place, at most so many as in any page.
    async fn oldest_dead_letters(
        &self,
        home: Home,
        after: Option<Burial>,
        limit: usize,
    ) -> Result<Page<DeadLetter, Burial>, StoreError>;

    /// What of these is a dead letter, in any order.
    async fn dead_letters_of(&self, home: Home, ids: &[DeliveryId]) -> Result<Vec<DeadLetter>, StoreError>;

    /// Moves dead letters back to the schedule, due `now` and [`Job::afresh`], with a record that says so. Returns how many of
    /// them were there.
    async fn retry(&self, home: Home, ids: &[DeliveryId], now: Timestamp) -> Result<u64, StoreError> {
        let each: Vec<_> = ids.iter().map(|id| (*id, now)).collect();
        self.retry_each(home, &each).await
    }

    /// The same, each with a time of its own.
    async fn retry_each(&self, home: Home, each: &[(DeliveryId, Timestamp)]) -> Result<u64, StoreError>;

    /// Puts new work of finished events on the schedule, due `now`, with a record that says so, each event's in one atomic unit. Left alone
    /// is what is there already, by the work's id among the event's rows or among what waits, so that a batch may be sent again; and work
    /// of events whose lane entry is not finished, or that have no history in this home any more. Returns how many it put.
    async fn add(&self, home: Home, jobs: &[Job], now: Timestamp) -> Result<u64, StoreError>;

    /// The whole configuration: its revision, and every record by its key.
    async fn config(&self) -> Result<(Revision, Vec<(String, Bytes)>), StoreError>;

    /// The configuration's revision.
    async fn config_revision(&self) -> Result<Revision, StoreError>;

    /// Applies changes in one atomic unit if the revision still is `expected`, and makes the next revision.
    async fn configure(&self, expected: Revision, changes: Vec<ConfigChange>) -> Result<Revision, StoreError>;

    /// Keeps a plugin's component under its hash.
    async fn put_component(&self, version: VersionHash, component: Bytes) -> Result<(), StoreError>;

    /// A plugin's component.
    async fn component(&self, version: VersionHash) -> Result<Option<Bytes>, StoreError>;

    /// Remembers `value` under `key` for `ttl`, unless something is remembered there: then returns that.
    async fn remember(&self, key: &str, value: Bytes, ttl: Duration) -> Result<Option<Bytes>, StoreError>;

    /// Keeps what a node says under `topic` for `ttl`, in place of what it said there before.
    async fn say(&self, topic: &str, node: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError>;

    /// What nodes say under `topic`, one value each, in no order.
    async fn said(&self, topic: &str) -> Result<Vec<Bytes>, StoreError>;

    /// Does at most [`MAX_TABLE_OPS`](table::MAX_TABLE_OPS) operations on a plugin's table, and answers each in order. `quota` is what
    /// the tenant's tables may take. See the contract above.
    async fn table(
        &self,
        table: Table,
        once: Option<Once>,
        ops: &[(TableKey, TableOp)],
        quota: u64,
        now: Timestamp,
    ) -> Result<Vec<TableResult>, StoreError>;

    /// A page of a plugin's table, in order of keys. A place stays good while entries come and go.
    async fn table_page(&self, table: Table, page: &TablePage, now: Timestamp) -> Result<Page<TableEntry, TableKey>, StoreError>;

    /// What a tenant's tables take.
    async fn table_use(&self, home: Home) -> Result<TableUse, StoreError>;

    /// Takes a bounded step of a plugin's table away, or of all tables of a tenant and what is remembered for them. Answers how much it
    /// took away; 0 once there is nothing left.
    async fn drop_tables(&self, home: Home, plugin: Option<PluginId>) -> Result<u64, StoreError>;

    /// Keeps a bookmark under a name that is free.
    async fn keep_bookmark(
        &self,
        home: Home,
        name: &BookmarkName,
        bookmark: &Bookmark,
        limits: BookmarkLimits,
    ) -> Result<Bookmarked, StoreError>;

    /// A tenant's bookmarks without their copies, in order of their names.
    async fn bookmarks(&self, home: Home) -> Result<Vec<(BookmarkName, BookmarkHead)>, StoreError>;

    /// A bookmark.
    async fn bookmark(&self, home: Home, name: &BookmarkName) -> Result<Option<Bookmark>, StoreError>;

    /// Takes a bookmark away. Answers whether it was there.
    async fn drop_bookmark(&self, home: Home, name: &BookmarkName) -> Result<bool, StoreError>;

    /// Whether the store can take a write now. Cheap: answers from the last check.
    fn ready(&self) -> Result<(), StoreError>;

    /// One durable write of nothing: what the store costs at least, for the fsync probe.
    async fn probe(&self) -> Result<Duration, StoreError>;
}
