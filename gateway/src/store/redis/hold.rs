//! What the engine remembers of a shard while it owns it. All of it can be lost: the store has the truth.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redis::{Cmd, Value};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard, OwnedMutexGuard};

use super::error::odd;
use super::keys::{ShardKeys, queue_name};
use super::link::Link;
use super::{Inner, jobs, purge, scripts};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, EventId, Lane, Shard, SourceId, TenantId};
use crate::store::{Claimed, Heads, Lease, Origin, QueueKey, SUSPECT, StoreError, Suspects, Ticket};

/// One ownership of one shard.
pub(super) struct Hold {
    pub(super) shard: Shard,
    pub(super) epoch: u64,
    pub(super) token: String,
    pub(super) keys: ShardKeys,
    /// Writes are sent one at a time, so that one whose answer was lost is settled before the next.
    pub(super) writer: Arc<AsyncMutex<Writer>>,
    /// The normal lane's, which waits for no other, and the others'.
    readers: [Reader; 2],
    pub(super) lanes: [LaneState; 3],
    /// Entries that can't be read by this release. They stay pending.
    unreadable: Mutex<HashSet<Ticket>>,
    /// Entries that may have been counted for a hand-out which reached nobody, and its number.
    counted: Mutex<HashMap<Ticket, u32>>,
    hand: Mutex<Hand>,
}

/// The order of writes.
#[derive(Default)]
pub(super) struct Writer {
    /// The last one's sequence; none if it must be asked for.
    sequence: Option<u64>,
    unsettled: Option<(Cmd, Effect)>,
    /// What was taken by a write whose answer came too late for its caller.
    stash: Vec<(From, Heads)>,
    /// Where the next trim goes on.
    pub(super) trimmed_to: u64,
    /// Buckets of history in which nothing had ended when they had so many pieces: no trim reads them again before they have more.
    pub(super) open_buckets: HashMap<u64, usize>,
    /// Where each purge goes on.
    pub(super) purging: HashMap<TenantId, purge::Walk>,
}

/// Where jobs are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    Schedule,
    Queue(QueueKey),
    Lines(QueueKey),
}

/// What a write does to the hand once it is known to be done.
pub(super) enum Effect {
    Recorded { gone: Vec<Origin>, written: Vec<(Origin, u64)> },
    Took(From),
}

/// Who claims, one claim at a time.
pub(super) struct Reader {
    /// For claims alone: it watches the token.
    pub(super) link: Link,
    /// The connection that watches the token, which was this owner's when it began to.
    pub(super) watching: AsyncMutex<Option<u64>>,
}

/// What is known of a lane.
#[derive(Default)]
pub(super) struct LaneState {
    /// What an entry takes on average, to guess how many fit into a budget.
    pub(super) average: AtomicUsize,
    /// Whether a claim handed out entries, and then lost the answer to a read that may have taken more.
    pub(super) is_torn: AtomicBool,
    /// Entries up to this may be finished already: the group was made anew.
    again_until: Mutex<Option<Ticket>>,
}

impl LaneState {
    pub(super) fn again_until(&self) -> MutexGuard<'_, Option<Ticket>> {
        self.again_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was handed out and is not finished.
#[derive(Default)]
pub(super) struct Hand {
    pub(super) entries: HashMap<Ticket, Entry>,
    pub(super) jobs: HashMap<DeliveryId, JobInHand>,
}

/// A job in hand.
#[derive(Clone, Debug)]
pub(super) struct JobInHand {
    /// How many attempts it has behind it.
    pub(super) attempts: u32,
    /// When it was due in its line, if it stands in one.
    pub(super) due: Option<Timestamp>,
    /// Hashes of the rows that were written as progress.
    pub(super) written: Vec<u64>,
}

/// An entry in hand.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) event: EventId,
    pub(super) accepted_at: Timestamp,
    pub(super) source: SourceId,
    pub(super) bytes: u32,
    /// Hashes of the rows that were written as progress.
    pub(super) written: Vec<u64>,
}

impl Hold {
    pub(super) fn new(inner: &Inner, lease: &Lease, keys: ShardKeys, sequence: Option<u64>) -> Self {
        Self {
            shard: lease.shard,
            epoch: lease.epoch,
            token: token(lease),
            keys,
            writer: Arc::new(AsyncMutex::new(Writer { sequence, ..Writer::default() })),
            readers: [(); 2].map(|()| Reader { link: Link::new(inner.connector.clone()), watching: AsyncMutex::default() }),
            lanes: Default::default(),
            unreadable: Mutex::default(),
            counted: Mutex::default(),
            hand: Mutex::default(),
        }
    }

    pub(super) fn reader(&self, lane: Lane) -> &Reader {
        &self.readers[usize::from(lane != Lane::Normal)]
    }

    /// Keeps everybody from claiming.
    pub(super) async fn no_claims(&self) -> [AsyncMutexGuard<'_, Option<u64>>; 2] {
        let [normal, others] = &self.readers;
        [normal.watching.lock().await, others.watching.lock().await]
    }

    pub(super) fn unreadable(&self) -> MutexGuard<'_, HashSet<Ticket>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counted(&self) -> MutexGuard<'_, HashMap<Ticket, u32>> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes up to where each lane's entries may be finished already.
    pub(super) fn again(&self, until: Vec<Option<Ticket>>) {
        for (lane, until) in self.lanes.iter().zip(until) {
            *lane.again_until() = until;
        }
    }

    pub(super) fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes entries as handed out.
    pub(super) fn take_in_hand<'a>(&self, claimed: impl IntoIterator<Item = &'a Claimed>) {
        let mut hand = self.hand();
        for one in claimed {
            let entry = Entry {
                event: one.event.id,
                accepted_at: one.event.accepted_at,
                source: one.event.source,
                bytes: u32::try_from(one.event.request.size()).unwrap_or(u32::MAX),
                written: Vec::new(),
            };
            hand.entries.entry(one.ticket).or_insert(entry);
        }
    }

    /// Notes what was recorded of an entry by an earlier owner.
    pub(super) fn remember_written(&self, ticket: Ticket, written: Vec<u64>) {
        if let Some(entry) = self.hand().entries.get_mut(&ticket) {
            entry.written = written;
        }
    }

    fn apply(&self, effect: Effect) {
        let Effect::Recorded { gone, written } = effect else { return };
        let mut hand = self.hand();
        for (origin, hash) in written {
            let known = match origin {
                Origin::Entry(ticket) => hand.entries.get_mut(&ticket).map(|entry| &mut entry.written),
                Origin::Job(id) => hand.jobs.get_mut(&id).map(|job| &mut job.written),
            };
            if let Some(known) = known {
                known.push(hash);
            }
        }
        for origin in gone {
            match origin {
                Origin::Entry(ticket) => drop(hand.entries.remove(&ticket)),
                Origin::Job(id) => drop(hand.jobs.remove(&id)),
            }
        }
    }
}

/// A lease's token as the store has it.
pub(super) fn token(lease: &Lease) -> String {
    format!("{}:{:016x}", lease.epoch, lease.incarnation)
}

/// The right to write for a shard now. Kept by a task of its own, so that a caller who goes away does not stop a write half-way.
pub(super) struct Pen {
    pub(super) inner: Arc<Inner>,
    pub(super) hold: Arc<Hold>,
    pub(super) writer: OwnedMutexGuard<Writer>,
}

impl Pen {
    pub(super) async fn of(inner: &Arc<Inner>, lease: &Lease) -> Result<Self, StoreError> {
        let hold = inner.hold(lease).await?;
        let writer = hold.writer.clone().lock_owned().await;
        let mut pen = Self { inner: inner.clone(), hold, writer };
        if pen.writer.sequence.is_none() {
            pen.learn_sequence().await?;
        }
        pen.settle().await?;
        Ok(pen)
    }

    async fn learn_sequence(&mut self) -> Result<(), StoreError> {
        let ask = redis::cmd("HGET").arg(&self.hold.keys.own).arg("s").to_owned();
        let answer = self.inner.owner.repeat(&ask).await.map_err(|fault| self.inner.fault(&self.hold, fault))?;
        let sequence: Option<u64> = redis::from_redis_value(answer).map_err(|_| odd("an owner's sequence"))?;
        self.writer.sequence = Some(sequence.unwrap_or(0));
        Ok(())
    }

    /// Finds out what became of a write whose answer was lost, by sending it again with its sequence.
    async fn settle(&mut self) -> Result<(), StoreError> {
        let Some((command, _)) = &self.writer.unsettled else { return Ok(()) };
        let command = command.clone();
        let answer = match self.inner.owner.repeat(&command).await {
            Ok(answer) => answer,
            Err(fault) => match self.inner.fault(&self.hold, fault) {
                // It did not get there at first, and is refused now: nothing was taken.
                StoreError::Suspect(_) => {
                    self.writer.unsettled = None;
                    return Ok(());
                }
                error => return Err(error),
            },
        };
        let Some((_, effect)) = self.writer.unsettled.take() else { return Ok(()) };
        if let Effect::Took(from) = effect {
            let taken = jobs::read_taken(&self.hold, answer)?;
            self.stash(from, taken);
        } else {
            self.hold.apply(effect);
        }
        Ok(())
    }

    /// Writes in the shard's order; `arguments` go behind the token and the sequence.
    pub(super) async fn write(
        &mut self,
        script: &scripts::Loaded,
        effect: Effect,
        arguments: impl FnOnce(&mut Cmd),
    ) -> Result<Value, StoreError> {
        let sequence = self.writer.sequence.unwrap_or(0) + 1;
        self.writer.sequence = Some(sequence);
        let mut command = script.call(&[&self.hold.keys.own]);
        command.arg(&self.hold.token).arg(sequence);
        arguments(&mut command);
        match self.inner.owner.repeat(&command).await {
            Ok(answer) => {
                self.hold.apply(effect);
                Ok(answer)
            }
            Err(fault) => {
                if fault.passes() {
                    self.writer.unsettled = Some((command, effect));
                }
                Err(self.inner.fault(&self.hold, fault))
            }
        }
    }

    /// Keeps what was taken for whoever asks next.
    pub(super) fn stash(&mut self, from: From, taken: Heads) {
        if !taken.jobs.is_empty() || taken.unreadable > 0 {
            self.writer.stash.push((from, taken));
        }
    }

    /// What was taken from there before and reached nobody.
    pub(super) fn stashed(&mut self, from: From) -> Option<Heads> {
        let at = self.writer.stash.iter().position(|(stashed, _)| *stashed == from)?;
        Some(self.writer.stash.swap_remove(at).1)
    }
}

impl From {
    pub(super) fn arguments(self, command: &mut Cmd, now: Timestamp, suspects: Suspects) {
        match self {
            Self::Schedule => command.arg("due").arg(now.0),
            Self::Queue(queue) => command.arg("queue").arg(queue_name(queue)),
            Self::Lines(queue) => command.arg(queue_name(queue)).arg(now.0),
        };
        command.arg(SUSPECT).arg(u8::from(suspects == Suspects::Taken));
    }
}

/// Reads a stream id.
pub(super) fn ticket(lane: Lane, id: &[u8]) -> Option<Ticket> {
    let (major, minor) = std::str::from_utf8(id).ok()?.split_once('-')?;
    Some(Ticket { lane, major: major.parse().ok()?, minor: minor.parse().ok()? })
}

/// A ticket's stream id.
pub(super) fn stream_id(ticket: Ticket) -> String {
    format!("{}-{}", ticket.major, ticket.minor)
}
