//! What is kept in memory of each shard: its owner, what is in the owner's hands, and where to go on reading. It grows with what
//! is in flight and with the number of queues, never with the backlog.
//!
//! The committer changes it while it builds a unit, before the unit is written: a unit that cannot be written stops the store, so
//! there is nothing to take back. What readers would find in the trees and must not hand out meanwhile is in `leaving`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::keys::lane_index;
use super::purge::Walk;
use super::rows::{Ledger, Mark, Place};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, Lane, Shard, TenantId};
use crate::store::{Budget, Depth, LaneDepth, Lease, QueueKey, StoreError, Suspects};

/// One shard's cell: the committer and the owner's reads meet here.
pub(super) struct Cell {
    state: Mutex<State>,
    /// Held by the owner's reads, which are one at a time for each shard.
    reading: Mutex<()>,
    pub(super) signal: Arc<Notify>,
}

impl Cell {
    pub(super) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), reading: Mutex::default(), signal: Arc::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn reading(&self) -> MutexGuard<'_, ()> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, if the lease still is the owner's.
    pub(super) fn owned(&self, lease: &Lease) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.state();
        state.check(lease)?;
        Ok(state)
    }
}

/// What is known of a shard.
pub(super) struct State {
    pub(super) shard: Shard,
    pub(super) owner: Option<Owner>,
    pub(super) ledger: Ledger,
    pub(super) lanes: [LaneState; 3],
    /// Jobs that were handed out and are not recorded.
    pub(super) taken: HashMap<DeliveryId, Taken>,
    /// Jobs whose place changes in the unit that is being written.
    pub(super) leaving: HashSet<DeliveryId>,
    pub(super) queues: BTreeMap<QueueKey, Queue>,
    /// Bytes of what is queued, by tenant.
    pub(super) queued: Queued,
    pub(super) schedule: Schedule,
    /// The same for the lines of each ordered queue that was used since the store was opened: which is due first.
    ready: HashMap<QueueKey, Schedule>,
    /// Counts retries by hand: they make terminal events go on, which a trim that is under way must notice.
    pub(super) revivals: u64,
    /// Where retention goes on looking in each lane.
    pub(super) walk: Option<[u64; 3]>,
    /// Where each purge goes on.
    pub(super) purging: HashMap<TenantId, Walk>,
}

pub(super) struct Owner {
    pub(super) node: String,
    pub(super) epoch: u64,
    pub(super) incarnation: u64,
    pub(super) until: Timestamp,
}

/// A lane. Entries are numbered without gaps: from `cursor` to `next` they are unclaimed, and below only those in `claimed` are
/// unfinished.
#[derive(Default)]
pub(super) struct LaneState {
    pub(super) next: u64,
    pub(super) cursor: u64,
    pub(super) claimed: BTreeMap<u64, InHand>,
}

impl LaneState {
    /// Entries that are not finished.
    pub(super) fn entries(&self) -> u64 {
        self.next - self.cursor + self.claimed.len() as u64
    }

    /// Entries that are finished.
    fn finished(&self) -> u64 {
        self.cursor - self.claimed.len() as u64
    }

    pub(super) fn mark(&self) -> Mark {
        Mark { cursor: self.cursor, floor: self.claimed.keys().next().copied().unwrap_or(self.cursor) }
    }
}

/// A lane entry that was claimed and is not finished.
#[derive(Clone, Copy, Debug)]
pub(super) struct InHand {
    pub(super) event: EventId,
    pub(super) tenant: TenantId,
    pub(super) claims: u32,
    /// Bytes of the event's record.
    pub(super) bytes: u32,
    /// Bytes of its request; none if nobody has read it since the store was opened.
    pub(super) size: Option<u32>,
    /// Whether outcomes were recorded.
    pub(super) progressed: bool,
}

/// A job that was handed out.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) place: Place,
    pub(super) attempts: u32,
}

/// A parked sub-queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// Jobs that are not taken.
    pub(super) waiting: u64,
    /// What is before it is gone or taken.
    pub(super) next: u64,
}

/// How much of each tenant is queued. Work from before it was counted is in none: so a count stops at zero.
#[derive(Default)]
pub(super) struct Queued {
    bytes: HashMap<TenantId, u64>,
    /// Whose has changed since it was last written.
    changed: HashSet<TenantId>,
}

impl Queued {
    pub(super) fn stored(bytes: HashMap<TenantId, u64>) -> Self {
        Self { bytes, changed: HashSet::new() }
    }

    /// Counted anew; what is stored may differ.
    pub(super) fn counted(bytes: HashMap<TenantId, u64>, stored: &HashMap<TenantId, u64>) -> Self {
        let tenants = bytes.keys().chain(stored.keys()).copied();
        let changed = tenants.filter(|tenant| bytes.get(tenant) != stored.get(tenant)).collect();
        Self { bytes, changed }
    }

    pub(super) fn of(&self, tenant: TenantId) -> u64 {
        self.bytes.get(&tenant).copied().unwrap_or(0)
    }

    pub(super) fn all(&self) -> Vec<(TenantId, u64)> {
        self.bytes.iter().filter(|(_, bytes)| **bytes > 0).map(|(tenant, bytes)| (*tenant, *bytes)).collect()
    }

    pub(super) fn add(&mut self, tenant: TenantId, bytes: u32) {
        *self.bytes.entry(tenant).or_default() += u64::from(bytes);
        self.changed.insert(tenant);
    }

    pub(super) fn take(&mut self, tenant: TenantId, bytes: u32) {
        match self.of(tenant).saturating_sub(bytes.into()) {
            0 => drop(self.bytes.remove(&tenant)),
            left => drop(self.bytes.insert(tenant, left)),
        }
        self.changed.insert(tenant);
    }

    /// What is to be written: 0 means nothing.
    pub(super) fn changes(&mut self) -> Vec<(TenantId, u64)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|tenant| (tenant, self.of(tenant))).collect()
    }
}

/// Where the schedule starts, so that a look at it does not wade through what was removed before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// No key is below it.
    pub(super) front: Timestamp,
    /// The earliest that was put in since a reader last started.
    put: Timestamp,
    /// The earliest in the unit that is being written, which readers cannot see yet.
    unwritten: Timestamp,
}

const NEVER: Timestamp = Timestamp(u64::MAX);

impl Schedule {
    pub(super) fn start() -> Self {
        Self { front: Timestamp(0), put: NEVER, unwritten: NEVER }
    }

    pub(super) fn insert(&mut self, due: Timestamp) {
        self.front = self.front.min(due);
        self.put = self.put.min(due);
        self.unwritten = self.unwritten.min(due);
    }

    pub(super) fn written(&mut self) {
        self.unwritten = NEVER;
    }

    /// A reader starts from the returned point.
    pub(super) fn look(&mut self) -> Timestamp {
        self.put = self.unwritten;
        self.front
    }

    /// The reader saw nothing below `seen`.
    pub(super) fn looked(&mut self, seen: Timestamp) {
        self.front = seen.min(self.put).max(self.front);
    }
}

impl State {
    pub(super) fn new(shard: Shard, ledger: Ledger) -> Self {
        Self {
            shard,
            owner: None,
            ledger,
            lanes: Default::default(),
            taken: HashMap::new(),
            leaving: HashSet::new(),
            queues: BTreeMap::new(),
            queued: Queued::default(),
            schedule: Schedule::start(),
            ready: HashMap::new(),
            revivals: 0,
            walk: None,
            purging: HashMap::new(),
        }
    }

    pub(super) fn check(&self, lease: &Lease) -> Result<(), StoreError> {
        match &self.owner {
            Some(owner) if owner.epoch == lease.epoch && owner.incarnation == lease.incarnation => Ok(()),
            _ => Err(StoreError::Fenced(lease.shard)),
        }
    }

    pub(super) fn lane(&mut self, lane: Lane) -> &mut LaneState {
        &mut self.lanes[lane_index(lane)]
    }

    /// Where an ordered queue's lines start.
    pub(super) fn ready(&mut self, queue: QueueKey) -> &mut Schedule {
        self.ready.entry(queue).or_insert_with(Schedule::start)
    }

    /// The unit that was being written is.
    pub(super) fn written(&mut self) {
        self.schedule.written();
        self.ready.values_mut().for_each(Schedule::written);
    }

    /// Whether a reader may hand this job out.
    pub(super) fn is_free(&self, id: DeliveryId) -> bool {
        !self.taken.contains_key(&id) && !self.leaving.contains(&id)
    }

    /// A new owner finds what was taken at its old place.
    pub(super) fn give_back_all(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        for (id, taken) in taken {
            match taken.place {
                _ if self.leaving.contains(&id) => drop(self.taken.insert(id, taken)),
                Place::Parked(queue, seq) => self.wait(queue, seq),
                Place::Lined(spot) => self.wait(spot.queue, 0),
                Place::Scheduled(due) => self.schedule.front = self.schedule.front.min(due),
                Place::Dead { .. } => {}
            }
        }
    }

    /// A job waits in this queue at this place.
    pub(super) fn wait(&mut self, queue: QueueKey, seq: u64) {
        let queue = self.queues.entry(queue).or_insert(Queue { waiting: 0, next: seq });
        queue.waiting += 1;
        queue.next = queue.next.min(seq);
    }

    /// A job that waited in this queue is taken or gone.
    pub(super) fn wait_no_more(&mut self, queue: QueueKey) {
        let Some(known) = self.queues.get_mut(&queue) else { return };
        known.waiting = known.waiting.saturating_sub(1);
        if known.waiting == 0 {
            self.queues.remove(&queue);
        }
    }

    /// How full the shard is; `first` tells the first unclaimed event of a lane.
    pub(super) fn depth(&self, first: impl Fn(Lane, u64) -> Option<EventId>) -> Depth {
        let lane_depth = |lane: Lane| {
            let state = &self.lanes[lane_index(lane)];
            let in_hand = state.claimed.values().next().map(|entry| entry.event);
            let oldest = in_hand.or_else(|| (state.cursor < state.next).then(|| first(lane, state.cursor)).flatten());
            LaneDepth { lane, entries: state.entries(), oldest: oldest.map(EventId::made_at), finished: state.finished() }
        };
        let Ledger { scheduled, parked, dead, .. } = self.ledger;
        Depth { lanes: Lane::ALL.map(lane_depth).into(), scheduled, parked, dead_letters: dead }
    }
}

/// What a budget still allows.
pub(super) struct Left {
    count: usize,
    bytes: usize,
    suspects: Suspects,
    is_first: bool,
}

impl Left {
    pub(super) fn of(budget: Budget) -> Self {
        Self { count: budget.count, bytes: budget.bytes, suspects: budget.suspects, is_first: true }
    }

    /// Takes one of this size off, unless it does not fit.
    pub(super) fn takes(&mut self, bytes: usize) -> bool {
        if self.count == 0 || (bytes > self.bytes && !self.is_first) {
            return false;
        }
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.is_first = false;
        true
    }

    /// Whether a suspect may come: by itself, and to who takes one.
    pub(super) fn takes_suspect(&self, shard: Shard) -> Result<bool, StoreError> {
        match (self.is_first, self.suspects) {
            (true, Suspects::Left) => Err(StoreError::Suspect(shard)),
            (is_first, _) => Ok(is_first),
        }
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.count == 0
    }
}
