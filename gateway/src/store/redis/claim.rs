//! Reading lanes. No read blocks: one that still waits when its owner is fenced would take entries from the next.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use redis::{Pipeline, Value, cmd};

use super::error::{Fault, odd};
use super::hold::{Hold, stream_id, ticket};
use super::keys::lane_index;
use super::piece::{Merged, bucket_of, merge};
use super::{Inner, lease, scripts};
use crate::event::{EventId, Lane, decode_event};
use crate::store::{Budget, Claimed, Lease, SUSPECT, StoreError, Suspects, Ticket};

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
    suspects: Suspects,
    out: Vec<Claimed>,
}

impl Room {
    fn new(budget: Budget) -> Self {
        Self { count: budget.count, bytes: budget.bytes, suspects: budget.suspects, out: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.count == 0 || (self.bytes == 0 && !self.out.is_empty())
    }

    /// Takes it if it fits; one that is larger than the whole budget fits when it is alone.
    fn takes(&mut self, one: Claimed) -> bool {
        let size = one.event.request.size();
        if self.count == 0 || (size > self.bytes && !self.out.is_empty()) {
            return false;
        }
        self.count -= 1;
        self.bytes = self.bytes.saturating_sub(size);
        self.out.push(one);
        true
    }

    /// How many of these pending entries to look at next: a suspect by itself, and only if nothing came before it.
    fn next(&self, pending: &[(Ticket, u32)], average: usize) -> Option<usize> {
        let is_suspect = |(_, claims): &(Ticket, u32)| *claims >= SUSPECT;
        match pending.iter().position(is_suspect) {
            Some(0) => self.out.is_empty().then_some(1),
            before => Some(self.guess(average).min(before.unwrap_or(pending.len()))),
        }
    }

    /// How many entries of this size may fit.
    fn guess(&self, average: usize) -> usize {
        let average = if average == 0 { FIRST_GUESS } else { average };
        self.count.min(MAX_READ).min((self.bytes / average).max(1))
    }
}

pub(super) async fn claim(inner: &Arc<Inner>, lease: &Lease, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
    let hold = inner.hold(lease).await?;
    let mut room = Room::new(budget);
    let mut watching = hold.reader(lane).watching.lock().await;
    if hold.lanes[lane_index(lane)].is_torn.swap(false, Ordering::AcqRel) {
        return Err(StoreError::Unavailable("the answer to an earlier read was lost; what it took is reclaimed".into()));
    }
    while !room.is_full() {
        let wanted = room.guess(hold.lanes[lane_index(lane)].average.load(Ordering::Relaxed));
        let entries = match read(inner, &hold, &mut watching, lane, wanted).await {
            Err(error) if room.out.is_empty() => return Err(error),
            // What is in `room` is claimed: hand it out, and say so the next time.
            Err(_) => {
                hold.lanes[lane_index(lane)].is_torn.store(true, Ordering::Release);
                break;
            }
            Ok(entries) => entries,
        };
        let got = entries.len();
        let mut beyond = Vec::new();
        for one in entries {
            let ticket = one.ticket;
            if !beyond.is_empty() || !room.takes(one) {
                beyond.push(ticket);
            }
        }
        if !beyond.is_empty() {
            unread(inner, &hold, lane, &room.out, &beyond).await?;
            break;
        }
        if got < wanted {
            break;
        }
    }
    hold.take_in_hand(&room.out);
    Ok(room.out)
}

/// Reads in a transaction that fails if the token has changed since it was last seen, and sees it again for the next one.
async fn watched(hold: &Hold, watching: &mut Option<u64>, lane: Lane, count: usize) -> Result<Value, Fault> {
    let link = &hold.reader(lane).link;
    let live = link.live().await.map_err(Fault::Unsent)?;
    let watch = |pipe: &mut Pipeline| {
        pipe.cmd("WATCH").arg(&hold.keys.token).cmd("GET").arg(&hold.keys.token);
    };
    let is_ours = |token: Option<Value>| matches!(token, Some(Value::BulkString(token)) if token == hold.token.as_bytes());
    if *watching != Some(live.generation) {
        let mut pipe = Pipeline::new();
        // What it watched before may have been touched by this owner itself.
        pipe.cmd("UNWATCH");
        watch(&mut pipe);
        let answers = link.exchange(&live, &pipe, 0, 3).await?;
        if !is_ours(answers.into_iter().nth(2)) {
            return Err(Fault::fenced());
        }
    }
    *watching = None;
    let mut pipe = Pipeline::new();
    pipe.cmd("MULTI").cmd("XREADGROUP").arg("GROUP").arg("g").arg("o").arg("COUNT").arg(count);
    pipe.arg("STREAMS").arg(hold.keys.lane(lane)).arg(">").cmd("EXEC");
    watch(&mut pipe);
    let mut answers = link.exchange(&live, &pipe, 0, 5).await?.into_iter().skip(2);
    let (read, token) = (answers.next().unwrap_or_default(), answers.nth(1));
    if is_ours(token) {
        *watching = Some(live.generation);
    } else if matches!(read, Value::Nil) {
        return Err(Fault::fenced());
    }
    let Value::Array(read) = read.extract_error().map_err(Fault::of)? else {
        return Err(Fault::Unsent(StoreError::Unavailable("the owner's token was touched; try again".into())));
    };
    match read.into_iter().next().unwrap_or_default().extract_error().map_err(Fault::of)? {
        Value::Nil => Ok(Value::Array(Vec::new())),
        streams => entries_of(streams).ok_or_else(|| Fault::Unsent(odd("XREADGROUP"))),
    }
}

/// Reads in a script.
async fn scripted(inner: &Inner, hold: &Hold, lane: Lane, count: usize) -> Result<Value, Fault> {
    let mut call = scripts::CLAIM.call(&[&hold.keys.own, hold.keys.lane(lane)]);
    inner.owner.once(call.arg(&hold.token).arg(count)).await
}

/// The entries in `[[stream, entries]]`.
fn entries_of(streams: Value) -> Option<Value> {
    let Value::Array(streams) = streams else { return None };
    let Some(Value::Array(stream)) = streams.into_iter().next() else { return None };
    stream.into_iter().nth(1)
}

/// Gives back what was read beyond the budget: the group goes back to the last entry that is handed out.
async fn unread(inner: &Inner, hold: &Hold, lane: Lane, out: &[Claimed], beyond: &[Ticket]) -> Result<(), StoreError> {
    let Some(last) = out.last() else { return Ok(()) };
    let mut call = scripts::UNREAD.call(&[&hold.keys.own, hold.keys.lane(lane)]);
    call.arg(&hold.token).arg(stream_id(last.ticket));
    for ticket in beyond {
        call.arg(stream_id(*ticket));
    }
    inner.owner.repeat(&call).await.map(drop).map_err(|fault| inner.fault(hold, fault))
}

async fn read(
    inner: &Inner,
    hold: &Hold,
    watching: &mut Option<u64>,
    lane: Lane,
    count: usize,
) -> Result<Vec<Claimed>, StoreError> {
    // One try: what a read with a lost answer took is pending, and `reclaim` finds it.
    let answer = if inner.connector.is_cluster() {
        scripted(inner, hold, lane, count).await
    } else {
        match watched(hold, watching, lane, count).await {
            // A full server refuses any transaction.
            Err(fault) if fault.is("EXECABORT") => scripted(inner, hold, lane, count).await,
            answer => answer,
        }
    };
    let answer = match answer {
        Err(fault) if fault.is("NOGROUP") => {
            tracing::error!(
                shard = hold.shard.0,
                lane = lane.as_str(),
                "the lane's consumer group is gone: redis lost data or somebody removed it; made anew from the first entry"
            );
            hold.again(lease::groups(inner, hold).await?);
            return Ok(Vec::new());
        }
        answer => answer.map_err(|fault| inner.fault(hold, fault))?,
    };
    let entries = parse(answer, lane, |_| 1, hold)?;
    let state = &hold.lanes[lane_index(lane)];
    if let Some(total) = entries.iter().map(|one| one.event.request.size()).reduce(|a, b| a + b) {
        let fresh = total / entries.len();
        let average = state.average.load(Ordering::Relaxed);
        state.average.store(if average == 0 { fresh } else { (3 * average + fresh) / 4 }.max(1), Ordering::Relaxed);
    }
    let again_until = *state.again_until();
    let Some(until) = again_until else { return Ok(entries) };
    if entries.first().is_none_or(|one| one.ticket > until) {
        *state.again_until() = None;
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
    let mut claims = hold.no_claims().await;
    if claims.iter().any(|watching| watching.is_none()) && !inner.connector.is_cluster() {
        // A read whose answer was lost may not have come to the server yet: touched, the token stops it.
        let mut touch = scripts::TOUCH.call(&[&hold.keys.own, &hold.keys.token]);
        inner.owner.repeat(touch.arg(&hold.token)).await.map_err(|fault| inner.fault(&hold, fault))?;
        claims.iter_mut().for_each(|watching| **watching = None);
    }
    let out = loop {
        let mut room = Room::new(budget);
        for lane in Lane::ALL {
            if room.is_full() || !look_in_lane(inner, &hold, lane, held, &mut room).await? {
                break;
            }
        }
        let found = room.out.len();
        let out = drop_finished(inner, &hold, room.out).await?;
        // What was finished is claimed no more.
        if found == 0 || !out.is_empty() {
            break out;
        }
    };
    take_over(inner, &hold, out.iter().map(|(one, _)| (one.ticket, one.claims)).collect()).await?;
    hold.take_in_hand(out.iter().map(|(one, _)| one));
    let handed_out = out.into_iter().map(|(one, merged)| {
        hold.remember_written(one.ticket, merged.written);
        one
    });
    Ok(handed_out.collect())
}

/// Finds what fits. False if there was more than there is room for.
async fn look_in_lane(inner: &Inner, hold: &Hold, lane: Lane, held: &HashSet<Ticket>, room: &mut Room) -> Result<bool, StoreError> {
    let mut from = "-".to_owned();
    loop {
        let page = pending(inner, hold, lane, &from).await?;
        let free: Vec<(Ticket, u32)> = {
            let (unreadable, counted) = (hold.unreadable(), hold.counted());
            let free = |(ticket, _): &&(Ticket, u32)| !held.contains(ticket) && !unreadable.contains(ticket);
            // With this hand-out, unless that was counted before.
            let number = |(ticket, claims): &(Ticket, u32)| counted.get(ticket).copied().unwrap_or(claims.saturating_add(1));
            page.iter().filter(free).map(|one| (one.0, number(one))).collect()
        };
        let mut rest = &free[..];
        while !rest.is_empty() {
            if room.is_full() {
                return Ok(false);
            }
            let Some(most) = room.next(rest, hold.lanes[lane_index(lane)].average.load(Ordering::Relaxed)) else {
                return Ok(false);
            };
            if rest[0].1 >= SUSPECT && room.suspects == Suspects::Left {
                return Err(StoreError::Suspect(hold.shard));
            }
            let (chunk, later) = rest.split_at(most);
            rest = later;
            if !look_at(inner, hold, chunk, room).await? {
                return Ok(false);
            }
        }
        let (Some((last, _)), true) = (page.last(), page.len() == PENDING_PAGE) else { return Ok(true) };
        from = format!("({}", stream_id(*last));
    }
}

/// Reads pending entries and keeps those that fit; false if one did not, or none may come behind it.
async fn look_at(inner: &Inner, hold: &Hold, chunk: &[(Ticket, u32)], room: &mut Room) -> Result<bool, StoreError> {
    let mut ask = Pipeline::new();
    for (ticket, _) in chunk {
        let id = stream_id(*ticket);
        ask.cmd("XRANGE").arg(hold.keys.lane(ticket.lane)).arg(&id).arg(&id);
    }
    let answers = inner.owner.repeat_all(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let mut all_fit = true;
    let mut lost = Vec::new();
    for ((ticket, claims), answer) in chunk.iter().zip(answers) {
        if matches!(&answer, Value::Array(rows) if rows.is_empty()) {
            lost.push((*ticket, *claims));
            continue;
        }
        for one in parse(answer, ticket.lane, |_| *claims, hold)? {
            all_fit = room.takes(one);
        }
        if !all_fit {
            break;
        }
    }
    if !lost.is_empty() {
        let count = lost.len();
        // Claiming them takes them off the list of what is pending.
        take_over(inner, hold, lost).await?;
        count_lost(inner, hold, chunk[0].0.lane, count).await?;
    }
    let is_suspect = room.out.last().is_some_and(|one| one.claims >= SUSPECT);
    Ok(all_fit && !is_suspect)
}

/// Makes entries claimed so and so often. What that leaves in doubt, or in nobody's hands, is not counted another time.
async fn take_over(inner: &Inner, hold: &Hold, taken: Vec<(Ticket, u32)>) -> Result<(), StoreError> {
    let mut alike: BTreeMap<(usize, u32), Vec<Ticket>> = BTreeMap::new();
    for (ticket, claims) in &taken {
        alike.entry((lane_index(ticket.lane), *claims)).or_default().push(*ticket);
    }
    hold.counted().extend(taken.iter().copied());
    for ((_, claims), tickets) in alike {
        for tickets in tickets.chunks(MAX_READ) {
            let mut call = scripts::RECLAIM.call(&[&hold.keys.own, hold.keys.lane(tickets[0].lane)]);
            call.arg(&hold.token).arg(claims);
            for ticket in tickets {
                call.arg(stream_id(*ticket));
            }
            inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?;
        }
    }
    let mut counted = hold.counted();
    for (ticket, _) in taken {
        counted.remove(&ticket);
    }
    Ok(())
}

async fn count_lost(inner: &Inner, hold: &Hold, lane: Lane, lost: usize) -> Result<(), StoreError> {
    inner.count_lost(lost);
    tracing::error!(shard = hold.shard.0, lane = lane.as_str(), lost, "pending entries no longer exist: events are lost");
    let fewer = cmd("HINCRBY").arg(&hold.keys.unfinished).arg(lane.as_str()).arg(format!("-{lost}")).to_owned();
    inner.owner.once(&fewer).await.map(drop).map_err(|fault| inner.fault(hold, fault))
}

/// Takes entries in hand that this engine did not hand out under this lease, if they are claimed and unfinished: what was in flight
/// when the lease was lost and taken again is still worth to be recorded.
pub(super) async fn adopt(inner: &Inner, hold: &Hold, unknown: HashSet<Ticket>) -> Result<(), StoreError> {
    if unknown.is_empty() {
        return Ok(());
    }
    let _nobody_claims = hold.no_claims().await;
    let unknown: Vec<Ticket> = unknown.into_iter().collect();
    let mut claimed = Vec::new();
    for chunk in unknown.chunks(MAX_READ) {
        let mut ask = Pipeline::new();
        for ticket in chunk {
            let (key, id) = (hold.keys.lane(ticket.lane), stream_id(*ticket));
            ask.cmd("XPENDING").arg(key).arg("g").arg(&id).arg(&id).arg(1).cmd("XRANGE").arg(key).arg(&id).arg(&id);
        }
        let mut answers = inner.owner.repeat_all(&ask).await.map_err(|fault| inner.fault(hold, fault))?.into_iter();
        for ticket in chunk {
            let (pending, entry) = (answers.next().unwrap_or_default(), answers.next().unwrap_or_default());
            if matches!(pending, Value::Array(rows) if !rows.is_empty()) {
                claimed.extend(parse(entry, ticket.lane, |_| 1, hold)?);
            }
        }
    }
    for (one, merged) in drop_finished(inner, hold, claimed).await? {
        hold.take_in_hand([&one]);
        hold.remember_written(one.ticket, merged.written);
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

/// Reads `[[id, [field, entry]], ...]`. What can't be read stays pending and is left to a release that can.
fn parse(answer: Value, lane: Lane, claims: impl Fn(&Ticket) -> u32, hold: &Hold) -> Result<Vec<Claimed>, StoreError> {
    let Value::Array(rows) = answer else { return Err(odd("a claim")) };
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let Some((ticket, entry)) = parse_entry(row, lane) else { return Err(odd("a lane entry")) };
        match decode_event(&entry) {
            Ok(event) => out.push(Claimed { ticket, event, claims: claims(&ticket), progress: Vec::new() }),
            Err(error) => {
                tracing::error!(lane = lane.as_str(), id = %stream_id(ticket), %error, "a lane entry is unreadable; it stays pending");
                hold.unreadable().insert(ticket);
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
    let buckets: BTreeSet<u64> = wanted.iter().map(|event| bucket_of(*event)).collect();
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
