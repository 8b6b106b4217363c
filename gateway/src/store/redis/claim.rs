//! Reading lanes. No read blocks: one that still waits when its owner is fenced would take entries from the next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use redis::{Pipeline, Value, cmd};

use super::error::odd;
use super::hold::{Hold, Reader, stream_id, ticket};
use super::keys::lane_index;
use super::piece::{Merged, bucket_of, merge};
use super::{Inner, lease, scripts};
use crate::event::{EventId, Lane, decode_event};
use crate::store::{Budget, Claimed, Lease, StoreError, Ticket};

/// The most entries of one read: their scripts must stay short for everybody else on the server.
const MAX_READ: usize = 256;
/// How many pending entries are looked at in one round trip.
const PENDING_PAGE: usize = 1000;
/// An entry's size before any was seen.
const FIRST_GUESS: usize = 2048;

/// What still fits.
struct Room {
    count: usize,
    bytes: usize,
    out: Vec<Claimed>,
}

impl Room {
    fn new(budget: Budget) -> Self {
        Self { count: budget.count, bytes: budget.bytes, out: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.count == 0 || (self.bytes == 0 && !self.out.is_empty())
    }

    /// Takes it if it fits; one that is larger than the whole budget fits when it is alone.
    fn take(&mut self, one: Claimed) -> Result<(), Claimed> {
        let size = one.event.request.size();
        if self.count == 0 || (size > self.bytes && !self.out.is_empty()) {
            return Err(one);
        }
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        self.out.push(one);
        Ok(())
    }

    /// Takes what fits; the rest is kept in order, for the next time.
    fn fill(&mut self, entries: Vec<Claimed>, rest: &mut VecDeque<Claimed>) {
        for one in entries {
            let refused = if rest.is_empty() { self.take(one).err() } else { Some(one) };
            rest.extend(refused);
        }
    }
}

pub(super) async fn claim(inner: &Arc<Inner>, lease: &Lease, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
    let hold = inner.hold(lease).await?;
    let mut room = Room::new(budget);
    let mut reader = hold.reader.lock().await;
    let state = &mut reader.lanes[lane_index(lane)];
    while let Some(one) = state.ahead.pop_front() {
        if let Err(one) = room.take(one) {
            state.ahead.push_front(one);
            hold.take_in_hand(&room.out);
            return Ok(room.out);
        }
    }
    while !room.is_full() {
        let average = reader.lanes[lane_index(lane)].average;
        let guess = if average == 0 { FIRST_GUESS } else { average };
        let wanted = room.count.min(room.bytes / guess + 1).min(MAX_READ);
        let entries = match read(inner, &hold, &mut reader, lane, wanted).await {
            Err(error) if room.out.is_empty() => return Err(error),
            // What is in `room` was claimed before: hand it out, the error comes again.
            Err(_) => break,
            Ok(entries) => entries,
        };
        let got = entries.len();
        room.fill(entries, &mut reader.lanes[lane_index(lane)].ahead);
        if got < wanted || !reader.lanes[lane_index(lane)].ahead.is_empty() {
            break;
        }
    }
    hold.take_in_hand(&room.out);
    Ok(room.out)
}

async fn read(inner: &Inner, hold: &Hold, reader: &mut Reader, lane: Lane, count: usize) -> Result<Vec<Claimed>, StoreError> {
    let mut call = scripts::CLAIM.call(&[&hold.keys.own, hold.keys.lane(lane)]);
    call.arg(&hold.token).arg(count);
    // One try: what a read with a lost answer took is pending, and `reclaim` finds it.
    let answer = match inner.owner.once(&call).await {
        Err(fault) if fault.is("NOGROUP") => {
            tracing::error!(
                shard = hold.shard.0,
                lane = lane.as_str(),
                "the lane's consumer group is gone: redis lost data or somebody removed it; made anew from the first entry"
            );
            reader.again(lease::groups(inner, hold).await?);
            return Ok(Vec::new());
        }
        answer => answer.map_err(|fault| inner.fault(hold, fault))?,
    };
    let entries = parse(answer, lane, |_| 1, &mut reader.unreadable)?;
    let state = &mut reader.lanes[lane_index(lane)];
    if let Some(total) = entries.iter().map(|one| one.event.request.size()).reduce(|a, b| a + b) {
        let fresh = total / entries.len();
        state.average = if state.average == 0 { fresh } else { (3 * state.average + fresh) / 4 }.max(1);
    }
    let Some(until) = state.again_until else { return Ok(entries) };
    if entries.first().is_none_or(|one| one.ticket > until) {
        state.again_until = None;
        let forget = cmd("HDEL").arg(&hold.keys.own).arg(format!("again:{}", lane.as_str())).to_owned();
        inner.owner.repeat(&forget).await.map_err(|fault| inner.fault(hold, fault))?;
        return Ok(entries);
    }
    let open = drop_finished(inner, hold, entries).await?;
    Ok(open.into_iter().map(|(one, _)| one).collect())
}

pub(super) async fn reclaim(
    inner: &Arc<Inner>,
    lease: &Lease,
    held: &HashSet<Ticket>,
    budget: Budget,
) -> Result<Vec<Claimed>, StoreError> {
    let hold = inner.hold(lease).await?;
    let mut room = Room::new(budget);
    let mut reader = hold.reader.lock().await;
    while let Some(one) = reader.reclaimed.pop_front() {
        if let Err(one) = room.take(one) {
            reader.reclaimed.push_front(one);
            break;
        }
    }
    for lane in Lane::ALL {
        if room.is_full() || !reader.reclaimed.is_empty() {
            break;
        }
        reclaim_lane(inner, &hold, &mut reader, lane, held, &mut room).await?;
    }
    let out = drop_finished(inner, &hold, room.out).await?;
    hold.take_in_hand(out.iter().map(|(one, _)| one));
    let handed_out = out.into_iter().map(|(one, merged)| {
        hold.remember_written(one.ticket, merged.written);
        one
    });
    Ok(handed_out.collect())
}

async fn reclaim_lane(
    inner: &Inner,
    hold: &Hold,
    reader: &mut Reader,
    lane: Lane,
    held: &HashSet<Ticket>,
    room: &mut Room,
) -> Result<(), StoreError> {
    let skip: HashSet<Ticket> = reader.lanes[lane_index(lane)]
        .ahead
        .iter()
        .map(|one| one.ticket)
        .chain(room.out.iter().map(|one| one.ticket))
        .chain(reader.unreadable.iter().copied())
        .collect();
    let mut from = "-".to_owned();
    while !room.is_full() && reader.reclaimed.is_empty() {
        let page = pending(inner, hold, lane, &from).await?;
        let last = page.last().map(|(ticket, _)| *ticket);
        let free: Vec<(Ticket, u32)> =
            page.iter().filter(|(ticket, _)| !held.contains(ticket) && !skip.contains(ticket)).copied().collect();
        for chunk in free.chunks(MAX_READ) {
            if room.is_full() || !reader.reclaimed.is_empty() {
                return Ok(());
            }
            let chunk = &chunk[..chunk.len().min(room.count)];
            let taken = take_pending(inner, hold, reader, lane, chunk).await?;
            room.fill(taken, &mut reader.reclaimed);
        }
        let (Some(last), true) = (last, page.len() == PENDING_PAGE) else { return Ok(()) };
        from = format!("({}", stream_id(last));
    }
    Ok(())
}

/// A page of a lane's pending entries, with how often each was claimed.
async fn pending(inner: &Inner, hold: &Hold, lane: Lane, from: &str) -> Result<Vec<(Ticket, u32)>, StoreError> {
    let ask = cmd("XPENDING").arg(hold.keys.lane(lane)).arg("g").arg(from).arg("+").arg(PENDING_PAGE).to_owned();
    let answer = match inner.owner.repeat(&ask).await {
        // Nothing was ever claimed; the next claim makes the group.
        Err(fault) if fault.is("NOGROUP") => return Ok(Vec::new()),
        answer => answer.map_err(|fault| inner.fault(hold, fault))?,
    };
    let rows: Vec<(String, String, u64, u32)> = redis::from_redis_value(answer).map_err(|_| odd("XPENDING"))?;
    rows.into_iter()
        .map(|(id, _, _, claims)| Some((ticket(lane, id.as_bytes())?, claims)))
        .collect::<Option<_>>()
        .ok_or_else(|| odd("XPENDING"))
}

async fn take_pending(
    inner: &Inner,
    hold: &Hold,
    reader: &mut Reader,
    lane: Lane,
    chunk: &[(Ticket, u32)],
) -> Result<Vec<Claimed>, StoreError> {
    let mut call = scripts::RECLAIM.call(&[&hold.keys.own, hold.keys.lane(lane)]);
    call.arg(&hold.token);
    for (ticket, _) in chunk {
        call.arg(stream_id(*ticket));
    }
    let answer = inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?;
    let before: HashMap<Ticket, u32> = chunk.iter().copied().collect();
    let claims = |ticket: &Ticket| before.get(ticket).copied().unwrap_or(0).saturating_add(1);
    let unreadable = reader.unreadable.len();
    let entries = parse(answer, lane, claims, &mut reader.unreadable)?;
    let lost = chunk.len().saturating_sub(entries.len() + reader.unreadable.len() - unreadable);
    if lost > 0 {
        inner.count_lost(lost);
        let fewer = cmd("HINCRBY").arg(&hold.keys.unfinished).arg(lane.as_str()).arg(format!("-{lost}")).to_owned();
        inner.owner.once(&fewer).await.map_err(|fault| inner.fault(hold, fault))?;
        tracing::error!(shard = hold.shard.0, lane = lane.as_str(), lost, "pending entries no longer exist: events are lost");
    }
    Ok(entries)
}

/// Reads `[[id, [field, entry]], ...]`. What can't be read stays pending and is left to a release that can.
fn parse(
    answer: Value,
    lane: Lane,
    claims: impl Fn(&Ticket) -> u32,
    unreadable: &mut HashSet<Ticket>,
) -> Result<Vec<Claimed>, StoreError> {
    let Value::Array(rows) = answer else { return Err(odd("a claim")) };
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let Some((ticket, entry)) = parse_entry(row, lane) else { return Err(odd("a lane entry")) };
        match decode_event(&entry) {
            Ok(event) => out.push(Claimed { ticket, event, claims: claims(&ticket), progress: Vec::new() }),
            Err(error) => {
                tracing::error!(lane = lane.as_str(), id = %stream_id(ticket), %error, "a lane entry is unreadable; it stays pending");
                unreadable.insert(ticket);
            }
        }
    }
    Ok(out)
}

/// Reads `[id, [field, entry]]`.
pub(super) fn parse_entry(row: Value, lane: Lane) -> Option<(Ticket, Bytes)> {
    let Value::Array(row) = row else { return None };
    let [Value::BulkString(id), Value::Array(fields)] = <[Value; 2]>::try_from(row).ok()? else { return None };
    let [_, Value::BulkString(entry)] = <[Value; 2]>::try_from(fields).ok()? else { return None };
    Some((ticket(lane, &id)?, Bytes::from(entry)))
}

/// Adds what was recorded before, and acks what is finished already instead of handing it out.
async fn drop_finished(inner: &Inner, hold: &Hold, claimed: Vec<Claimed>) -> Result<Vec<(Claimed, Merged)>, StoreError> {
    let mut known = history(inner, hold, claimed.iter().map(|one| one.event.id)).await?;
    let mut open = Vec::with_capacity(claimed.len());
    let mut ack = Pipeline::new();
    for mut one in claimed {
        let mut merged = known.remove(&one.event.id).unwrap_or_default();
        if merged.finished.is_some() {
            ack.cmd("XACK").arg(hold.keys.lane(one.ticket.lane)).arg("g").arg(stream_id(one.ticket));
            continue;
        }
        one.progress = std::mem::take(&mut merged.rows);
        open.push((one, merged));
    }
    inner.owner.repeat_all(&ack).await.map_err(|fault| inner.fault(hold, fault))?;
    Ok(open)
}

/// What history says of these events.
async fn history(
    inner: &Inner,
    hold: &Hold,
    events: impl Iterator<Item = EventId>,
) -> Result<HashMap<EventId, Merged>, StoreError> {
    let wanted: HashSet<EventId> = events.collect();
    let buckets: std::collections::BTreeSet<u64> = wanted.iter().map(|event| bucket_of(*event)).collect();
    let mut ask = Pipeline::new();
    for bucket in buckets {
        ask.cmd("LRANGE").arg(hold.keys.bucket(bucket)).arg(0).arg(-1);
    }
    let answers = inner.owner.repeat_all(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let mut all = HashMap::new();
    for answer in answers {
        let pieces: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a bucket of history"))?;
        all.extend(merge(&pieces, |event| wanted.contains(&event))?);
    }
    Ok(all)
}
