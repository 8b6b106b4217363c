//! What a shard's owner takes into its hands: lane entries, jobs that are due, parked jobs. All of it is read from what is
//! committed, one read at a time for each shard, while the committer goes on.

use std::collections::HashSet;

use bytes::Bytes;

use super::Shared;
use super::command::counted;
use super::disk::{Pair, Tree};
use super::keys::{self, LogKey, Parts, lane_index};
use super::listing;
use super::rows::{Place, Waiting};
use super::state::{Cell, InHand, Left, State, Taken};
use crate::clock::Timestamp;
use crate::event::{DeliveryId, Event, EventId, Lane, Shard, decode, decode_event, encode};
use crate::store::{Budget, Claimed, Depth, Heads, Job, Lease, QueueKey, SUSPECT, StoreError, Ticket, Unparked, Work};

/// Candidates that are looked at under one lock.
const CHUNK: usize = 256;

pub(super) fn claim(shared: &Shared, lease: &Lease, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
    let cell = shared.cell(lease.shard);
    let _reading = cell.reading();
    let cursor = cell.owned(lease)?.lane(lane).cursor;
    let mut left = Left::of(budget);
    let mut claimed = Vec::new();
    let mut in_hand = Vec::new();
    let mut next = cursor;
    let from = keys::log_from(lease.shard, lane, cursor);
    let to = keys::after(&from[..3]);
    for row in shared.disk.range(Tree::Log, from, to) {
        let (key, value) = row?;
        let at = LogKey::decode(&key)?;
        let bytes = u32::try_from(value.len()).unwrap_or(u32::MAX);
        let event = readable(at, value);
        let size = event.as_ref().map(|event| event.request.size());
        if !left.takes(size.unwrap_or(0)) {
            break;
        }
        next = at.seq + 1;
        let size = size.map(counted);
        in_hand.push((at.seq, InHand { event: at.event, tenant: at.tenant, claims: 1, bytes, size, progressed: false }));
        if let Some(event) = event {
            let ticket = Ticket { lane, major: at.seq, minor: 0 };
            claimed.push(Claimed { ticket, event, claims: 1, progress: Vec::new() });
        }
        if left.is_used_up() {
            break;
        }
    }
    let mark = {
        let mut state = cell.owned(lease)?;
        let lane = state.lane(lane);
        lane.cursor = next;
        lane.claimed.extend(in_hand);
        lane.mark()
    };
    if next > cursor {
        shared.note(vec![(keys::mark(lease.shard, lane), encode(&mark))])?;
    }
    Ok(claimed)
}

/// An event that cannot be read stays unfinished where it is, and must not hold up those behind it.
fn readable(at: LogKey, record: fjall::Slice) -> Option<Event> {
    decode_event(&Bytes::from_owner(record))
        .inspect_err(|error| tracing::error!(event = %at.event, %error, "an event cannot be read and stays in its lane"))
        .ok()
}

/// Entries behind this one that were claimed and are neither finished nor held, oldest first in each lane: some of them.
pub(super) fn left_behind(state: &State, held: &HashSet<Ticket>, after: Option<Ticket>) -> Vec<(Ticket, InHand)> {
    let (first, from) = after.map_or((0, 0), |after| (lane_index(after.lane), after.major + 1));
    let of_lane = |lane: Lane| {
        let from = if lane_index(lane) == first { from } else { 0 };
        let claimed = state.lanes[lane_index(lane)].claimed.range(from..);
        claimed.map(move |(seq, entry)| (Ticket { lane, major: *seq, minor: 0 }, *entry))
    };
    let lanes = Lane::ALL.into_iter().filter(|lane| lane_index(*lane) >= first);
    lanes.flat_map(of_lane).filter(|(ticket, _)| !held.contains(ticket)).take(CHUNK).collect()
}

pub(super) fn reclaim(shared: &Shared, lease: &Lease, held: &HashSet<Ticket>, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
    let cell = shared.cell(lease.shard);
    let _reading = cell.reading();
    let mut found = Vec::new();
    let (mut left, mut after, mut fits) = (Left::of(budget), None, true);
    while fits {
        let page = left_behind(&*cell.owned(lease)?, held, after);
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        fits = find(shared, lease, page, &mut left, &mut found)?;
    }
    let mut counts = Vec::new();
    {
        let mut state = cell.owned(lease)?;
        // What was finished while this read is not handed out.
        found.retain_mut(|claimed| {
            let Ticket { lane, major, .. } = claimed.ticket;
            let Some(entry) = state.lane(lane).claimed.get_mut(&major) else { return false };
            entry.claims += 1;
            entry.size = Some(counted(claimed.event.request.size()));
            claimed.claims = entry.claims;
            counts.push((keys::claims(lease.shard, lane, major), encode(&entry.claims)));
            true
        });
    }
    if !counts.is_empty() {
        shared.note(counts)?;
    }
    Ok(found)
}

/// Reads what was left behind, as long as it fits. Whether all did, and more may.
fn find(
    shared: &Shared,
    lease: &Lease,
    page: Vec<(Ticket, InHand)>,
    left: &mut Left,
    found: &mut Vec<Claimed>,
) -> Result<bool, StoreError> {
    for (ticket, entry) in page {
        let at = LogKey { shard: lease.shard, lane: ticket.lane, seq: ticket.major, tenant: entry.tenant, event: entry.event };
        let Some(event) = shared.disk.get(Tree::Log, &at.encode())?.and_then(|record| readable(at, record)) else { continue };
        let is_suspect = entry.claims + 1 >= SUSPECT;
        if (is_suspect && !left.takes_suspect(lease.shard)?) || !left.takes(event.request.size()) {
            return Ok(false);
        }
        let progress = match entry.progressed {
            true => listing::story(&shared.disk, entry.tenant, entry.event)?.rows,
            false => Vec::new(),
        };
        found.push(Claimed { ticket, event, claims: 0, progress });
        if is_suspect || left.is_used_up() {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn due(shared: &Shared, lease: &Lease, now: Timestamp, budget: Budget) -> Result<Vec<Job>, StoreError> {
    let cell = shared.cell(lease.shard);
    let _reading = cell.reading();
    let mut taking = Taking { shared, cell: &cell, lease, left: Left::of(budget), found: Vec::new() };
    let front = cell.owned(lease)?.schedule.look();
    let end = Timestamp(now.0.saturating_add(1));
    let mut first = None;
    let mut keys = shared.disk.keys(Tree::Index, keys::schedule_from(lease.shard, front), keys::schedule_from(lease.shard, end));
    loop {
        let chunk = keys.by_ref().take(CHUNK).map(|key| scheduled(&key?)).collect::<Result<Vec<_>, _>>()?;
        first = first.or(chunk.first().map(|(due, _)| *due));
        let is_last = chunk.len() < CHUNK;
        let fits = taking.take(chunk.into_iter().map(|(due, id)| (Spot::Due(due), id)))?;
        if is_last || !fits {
            break;
        }
    }
    // Nothing is below what was seen first; with nothing at all, nothing up to now.
    cell.owned(lease)?.schedule.looked(first.unwrap_or(end));
    taking.jobs()
}

pub(super) fn next_due(shared: &Shared, lease: &Lease) -> Result<Option<Timestamp>, StoreError> {
    let cell = shared.cell(lease.shard);
    let front = cell.owned(lease)?.schedule.front;
    let from = keys::schedule_from(lease.shard, front);
    let to = keys::after(&from[..3]);
    let mut keys = shared.disk.keys(Tree::Index, from, to);
    loop {
        let chunk = keys.by_ref().take(CHUNK).map(|key| scheduled(&key?)).collect::<Result<Vec<_>, _>>()?;
        let state = cell.owned(lease)?;
        if let Some((due, _)) = chunk.iter().find(|(_, id)| state.is_free(*id)) {
            return Ok(Some(*due));
        }
        if chunk.len() < CHUNK {
            return Ok(None);
        }
    }
}

fn scheduled(key: &[u8]) -> Result<(Timestamp, DeliveryId), StoreError> {
    let mut parts = Parts(&key[3..]);
    Ok((Timestamp(parts.u64()?), DeliveryId(parts.u128()?)))
}

pub(super) fn unpark(shared: &Shared, lease: &Lease, queue: QueueKey, budget: Budget) -> Result<Unparked, StoreError> {
    let cell = shared.cell(lease.shard);
    let _reading = cell.reading();
    let start = cell.owned(lease)?.queues.get(&queue).map(|queue| queue.next);
    let Some(start) = start else { return Ok(Unparked::default()) };
    let mut taking = Taking { shared, cell: &cell, lease, left: Left::of(budget), found: Vec::new() };
    let from = keys::queued(lease.shard, queue, start);
    let prefix = from.len() - 8;
    let to = keys::after(&from[..prefix]);
    let mut rows = shared.disk.range(Tree::Index, from, to);
    loop {
        let chunk = rows.by_ref().take(CHUNK).map(|row| parked(&row?, prefix)).collect::<Result<Vec<_>, _>>()?;
        let is_last = chunk.len() < CHUNK;
        let fits = taking.take(chunk.into_iter().map(|(seq, id)| (Spot::InQueue(queue, seq), id)))?;
        if is_last || !fits {
            break;
        }
    }
    let taken = taking.found.len();
    let jobs = taking.jobs()?;
    Ok(Unparked { unreadable: (taken - jobs.len()) as u64, jobs })
}

fn parked((key, value): &Pair, prefix: usize) -> Result<(u64, DeliveryId), StoreError> {
    Ok((Parts(&key[prefix..]).u64()?, decode(value)?))
}

/// The first of each line that is due, and when the next one is.
pub(super) fn heads(shared: &Shared, lease: &Lease, queue: QueueKey, now: Timestamp, budget: Budget) -> Result<Heads, StoreError> {
    let cell = shared.cell(lease.shard);
    let _reading = cell.reading();
    let mut taking = Taking { shared, cell: &cell, lease, left: Left::of(budget), found: Vec::new() };
    let front = cell.owned(lease)?.ready(queue).look();
    let from = keys::ready_from(lease.shard, queue, front);
    let prefix = from.len() - 8;
    let to = keys::after(&from[..prefix]);
    let mut rows = shared.disk.range(Tree::Index, from, to);
    let (mut first, mut next, mut fits) = (None, None, true);
    while next.is_none() {
        let chunk = rows.by_ref().take(CHUNK).map(|row| ready(&row?, prefix)).collect::<Result<Vec<_>, _>>()?;
        first = first.or(chunk.first().map(|(due, ..)| *due));
        for (due, line, id) in &chunk {
            if *due <= now && fits {
                fits = taking.take(std::iter::once((Spot::First(queue, *line, *due), *id)))?;
            }
            if (*due > now || !fits) && cell.owned(lease)?.is_free(*id) {
                next = Some(*due);
                break;
            }
        }
        if chunk.len() < CHUNK {
            break;
        }
    }
    cell.owned(lease)?.ready(queue).looked(first.unwrap_or(now));
    let taken = taking.found.len();
    let jobs = taking.jobs()?;
    Ok(Heads { unreadable: (taken - jobs.len()) as u64, jobs, next })
}

fn ready((key, value): &Pair, prefix: usize) -> Result<(Timestamp, u128, DeliveryId), StoreError> {
    let mut parts = Parts(&key[prefix..]);
    Ok((Timestamp(parts.u64()?), parts.u128()?, decode(value)?))
}

/// Where a job was seen.
#[derive(Clone, Copy)]
enum Spot {
    Due(Timestamp),
    InQueue(QueueKey, u64),
    First(QueueKey, u128, Timestamp),
}

impl Spot {
    fn is(self, place: &Place) -> bool {
        match (self, place) {
            (Self::Due(seen), Place::Scheduled(due)) => seen == *due,
            (Self::First(queue, line, due), Place::Lined(spot)) => (queue, line, due) == (spot.queue, spot.line, spot.due),
            (Self::InQueue(queue, seen), Place::Parked(key, seq)) => queue == *key && seen == *seq,
            _ => false,
        }
    }
}

/// Jobs that are being handed out.
struct Taking<'a> {
    shared: &'a Shared,
    cell: &'a Cell,
    lease: &'a Lease,
    left: Left,
    /// Each with how often it was handed out, this time included.
    found: Vec<(DeliveryId, Waiting, u32)>,
}

impl Taking<'_> {
    /// Takes those that are free and still where they were seen. Whether the budget held out.
    fn take(&mut self, seen: impl Iterator<Item = (Spot, DeliveryId)>) -> Result<bool, StoreError> {
        let mut state = self.cell.owned(self.lease)?;
        for (spot, id) in seen {
            if !state.is_free(id) {
                if matches!(spot, Spot::InQueue(..)) && state.leaving.contains(&id) {
                    // It may be arriving here: those behind it wait for their turn.
                    return Ok(false);
                }
                continue;
            }
            // Read under the lock: a job that is free now and was moved since it was seen shows its new place.
            let waiting = self.shared.disk.read::<Waiting>(Tree::Index, &keys::waiting(self.lease.shard, id));
            let waiting = match waiting {
                Ok(waiting) => waiting.filter(|waiting| spot.is(&waiting.place)),
                Err(StoreError::Damaged(error)) => {
                    tracing::error!(delivery = %id, %error, "a job cannot be read and stays where it is");
                    None
                }
                Err(error) => return Err(error),
            };
            let Some(waiting) = waiting else { continue };
            let claims = self.claims(id);
            let is_suspect = claims >= SUSPECT;
            if (is_suspect && !self.left.takes_suspect(self.lease.shard)?) || !self.left.takes(waiting.bytes as usize) {
                return Ok(false);
            }
            if let Place::Lined(spot) = waiting.place {
                state.wait_no_more(spot.queue);
            } else if let Place::Parked(queue, seq) = waiting.place {
                if let Some(queue) = state.queues.get_mut(&queue) {
                    queue.next = seq + 1;
                }
                state.wait_no_more(queue);
            }
            state.taken.insert(id, Taken { place: waiting.place.clone(), attempts: waiting.attempts });
            self.found.push((id, waiting, claims));
            if self.left.is_used_up() || is_suspect {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How often a job was handed out, this time included.
    fn claims(&self, id: DeliveryId) -> u32 {
        let key = keys::taken(self.lease.shard, id);
        self.shared.disk.read::<u32>(Tree::Index, &key).unwrap_or_default().unwrap_or(0).saturating_add(1)
    }

    /// The jobs with their requests. One whose request cannot be read stays taken, so that it does not hold up the others.
    fn jobs(self) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::with_capacity(self.found.len());
        let mut counts = Vec::new();
        for (id, waiting, claims) in self.found {
            match self.shared.disk.read::<Work>(Tree::Jobs, &keys::job(self.lease.shard, id)) {
                Ok(Some(work)) => {
                    counts.push((keys::taken(self.lease.shard, id), encode(&claims)));
                    jobs.push(waiting.job(id, work, claims));
                }
                Ok(None) => tracing::error!(delivery = %id, "a job has no request"),
                Err(StoreError::Damaged(error)) => tracing::error!(delivery = %id, %error, "a job cannot be read"),
                Err(error) => {
                    // The disk is failing: what is in hand comes back with the next owner.
                    self.shared.fail(&error);
                    return Err(error);
                }
            }
        }
        if !counts.is_empty() {
            self.shared.note(counts)?;
        }
        Ok(jobs)
    }
}

pub(super) fn depth(shared: &Shared, shard: Shard) -> Depth {
    let first = |lane: Lane, seq: u64| -> Option<EventId> {
        let from = keys::log_from(shard, lane, seq);
        let to = keys::after(&from[..3]);
        let key = shared.disk.keys(Tree::Log, from, to).next()?.ok()?;
        LogKey::decode(&key).ok().map(|at| at.event)
    };
    shared.cell(shard).state().depth(first)
}
