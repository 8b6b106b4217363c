//! Looking events up.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use redis::{Pipeline, Value, cmd};

use super::claim::parse_entry;
use super::error::{Fault, odd};
use super::hold::stream_id;
use super::keys::{ShardKeys, tenant_name};
use super::piece::{Listed, Merged, bucket_of, merge, pages_of, read_page};
use super::{Inner, scripts};
use crate::clock::Timestamp;
use crate::event::{Event, EventId, Lane, TenantId, decode_event};
use crate::store::{Depth, EventHistory, EventSummary, Home, LaneDepth, MAX_PAGE, Page, PageRequest, StoreError, Ticket};

/// How many entries one script looks at, and how many are looked at in all, to find an unfinished event's body.
const FIND_STEP: usize = 256;
const FIND_MAX: usize = 16_384;
/// How many members of an index are read in one round trip.
const INDEX_STEP: usize = 64;
/// How far apart the clocks of a gateway and of Redis may be for a body to be found at once.
const SKEW_MS: u64 = 10_000;

pub(super) async fn event(inner: &Arc<Inner>, home: Home, id: EventId) -> Result<Option<EventHistory>, StoreError> {
    let keys = inner.keys(home.shard)?;
    let mut ask = Pipeline::new();
    ask.add_command(pages_of(&keys.index(home.tenant), bucket_of(id)));
    ask.cmd("LRANGE").arg(keys.bucket(bucket_of(id))).arg(0).arg(-1);
    let mut answers = inner.query.repeat_all(&ask).await.map_err(Fault::into_store)?.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let pages: Vec<Vec<u8>> = redis::from_redis_value(next()).map_err(|_| odd("a tenant's index"))?;
    let mut listed = Vec::new();
    for page in &pages {
        listed.extend(read_page(page)?);
    }
    let Some(member) = listed.into_iter().find(|listed| listed.event == id) else { return Ok(None) };
    let pieces: Vec<Vec<u8>> = redis::from_redis_value(next()).map_err(|_| odd("a bucket of history"))?;
    let Some(merged) = outcome(inner, &keys.index(home.tenant), id, merge(&pieces, |event| event == id)?).await? else {
        return Ok(None);
    };
    let event = match &merged.finished {
        Some(finished) => body(inner, keys, finished.ticket).await?,
        None => find(inner, keys, &member).await?,
    };
    Ok(Some(EventHistory { summary: summary(&member, merged), event }))
}

/// What is known of a listed event; none if it was trimmed meanwhile.
async fn outcome(
    inner: &Inner,
    index: &str,
    id: EventId,
    mut known: HashMap<EventId, Merged>,
) -> Result<Option<Merged>, StoreError> {
    match known.remove(&id) {
        Some(merged) => Ok(Some(merged)),
        None => Ok(still_listed(inner, index, [id]).await?.contains(&id).then(Merged::default)),
    }
}

/// Which of these events, of which no outcome was found, are listed still. Between two reads an event may have been trimmed with all its
/// outcomes, and must not be taken for one that is queued.
async fn still_listed(
    inner: &Inner,
    index: &str,
    events: impl IntoIterator<Item = EventId>,
) -> Result<HashSet<EventId>, StoreError> {
    let buckets: BTreeSet<u64> = events.into_iter().map(bucket_of).collect();
    let mut listed = HashSet::new();
    if buckets.is_empty() {
        return Ok(listed);
    }
    let mut ask = Pipeline::new();
    for bucket in buckets {
        ask.add_command(pages_of(index, bucket));
    }
    for answer in inner.query.repeat_all(&ask).await.map_err(Fault::into_store)? {
        let pages: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a tenant's index"))?;
        for page in &pages {
            listed.extend(read_page(page)?.into_iter().map(|row| row.event));
        }
    }
    Ok(listed)
}

fn summary(member: &Listed, merged: Merged) -> EventSummary {
    EventSummary {
        id: member.event,
        source: member.source,
        accepted_at: member.accepted_at,
        lane: member.lane,
        finished: merged.finished.is_some(),
        deliveries: merged.rows,
    }
}

async fn body(inner: &Inner, keys: &ShardKeys, ticket: Ticket) -> Result<Option<Event>, StoreError> {
    let id = stream_id(ticket);
    let ask = cmd("XRANGE").arg(keys.lane(ticket.lane)).arg(&id).arg(&id).to_owned();
    let Value::Array(rows) = inner.query.repeat(&ask).await.map_err(Fault::into_store)? else { return Err(odd("XRANGE")) };
    let Some((_, entry)) = rows.into_iter().next().and_then(|row| parse_entry(row, ticket.lane)) else { return Ok(None) };
    Ok(Some(decode_event(&entry)?))
}

/// Looks for the body of an event that has no outcome yet among the entries of its time, and then from the first entry on.
async fn find(inner: &Inner, keys: &ShardKeys, member: &Listed) -> Result<Option<Event>, StoreError> {
    let near = format!("{}-0", member.event.made_at().0.saturating_sub(SKEW_MS));
    for start in [near, "-".to_owned()] {
        let mut from = start;
        for _ in 0..FIND_MAX / FIND_STEP {
            let mut call = scripts::FIND.call(&[keys.lane(member.lane)]);
            call.arg(&member.event.0.to_be_bytes()[..]).arg(&from).arg(FIND_STEP);
            let answer = inner.query.repeat(&call).await.map_err(Fault::into_store)?;
            let found: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a search"))?;
            match <[Vec<u8>; 2]>::try_from(found) {
                Ok([_, entry]) => return Ok(Some(decode_event(&entry.into())?)),
                Err(rest) => match rest.into_iter().next() {
                    Some(last) => from = format!("({}", String::from_utf8_lossy(&last)),
                    None => break,
                },
            }
        }
    }
    Ok(None)
}

pub(super) async fn events(
    inner: &Arc<Inner>,
    home: Home,
    page: PageRequest<EventId>,
) -> Result<Page<EventSummary, EventId>, StoreError> {
    let keys = inner.keys(home.shard)?;
    let limit = page.limit.clamp(1, MAX_PAGE);
    let mut members = listed(inner, &keys.index(home.tenant), page.before, limit + 1).await?;
    let more = members.len() > limit;
    members.truncate(limit);
    let mut known = outcomes(inner, keys, &members).await?;
    let next = more.then(|| members.last().map(|member| member.event)).flatten();
    let unknown = members.iter().map(|member| member.event).filter(|event| !known.contains_key(event));
    let queued = still_listed(inner, &keys.index(home.tenant), unknown).await?;
    let item = |member: &Listed| {
        let merged = known.remove(&member.event).or_else(|| queued.contains(&member.event).then(Merged::default))?;
        Some(summary(member, merged))
    };
    Ok(Page { items: members.iter().filter_map(item).collect(), next })
}

/// The newest `count` of a tenant's events that are older than `before`.
async fn listed(inner: &Inner, index: &str, before: Option<EventId>, count: usize) -> Result<Vec<Listed>, StoreError> {
    let mut rows: Vec<Listed> = Vec::new();
    let mut from = match before {
        None => b"+".to_vec(),
        Some(before) => [b"(", &(bucket_of(before) + 1).to_be_bytes()[..]].concat(),
    };
    loop {
        let mut ask = cmd("ZREVRANGEBYLEX");
        ask.arg(index).arg(&from).arg("-").arg("LIMIT").arg(0).arg(INDEX_STEP);
        let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
        let pages: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a tenant's index"))?;
        for page in &pages {
            rows.extend(read_page(page)?.into_iter().filter(|row| before.is_none_or(|before| row.event < before)));
        }
        rows.sort_unstable_by_key(|row| std::cmp::Reverse(row.event));
        // The last bucket may go on in the next pages: what is newer than it is complete.
        let last = pages.last().filter(|_| pages.len() == INDEX_STEP);
        let open = last.and_then(|page| page.first_chunk()).map(|bucket| u64::from_be_bytes(*bucket));
        let complete = rows.iter().take_while(|row| open.is_none_or(|open| bucket_of(row.event) > open)).count();
        if complete >= count || open.is_none() {
            rows.truncate(count);
            return Ok(rows);
        }
        from = last.map(|page| [b"(", &page[..]].concat()).unwrap_or_default();
    }
}

async fn outcomes(inner: &Inner, keys: &ShardKeys, members: &[Listed]) -> Result<HashMap<EventId, Merged>, StoreError> {
    let wanted: HashSet<EventId> = members.iter().map(|member| member.event).collect();
    let buckets: BTreeSet<u64> = wanted.iter().map(|event| bucket_of(*event)).collect();
    let mut all = HashMap::new();
    // One bucket after the other: a bucket of a busy shard is large, and a page may touch many.
    for bucket in buckets {
        let ask = cmd("LRANGE").arg(keys.bucket(bucket)).arg(0).arg(-1).to_owned();
        let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
        let pieces: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a bucket of history"))?;
        all.extend(merge(&pieces, |event| wanted.contains(&event))?);
    }
    Ok(all)
}

pub(super) async fn queued_bytes(inner: &Arc<Inner>, home: Home) -> Result<u64, StoreError> {
    let keys = inner.keys(home.shard)?;
    let mut ask = scripts::QUEUED.call(&[&keys.queued_bytes, &keys.unfinished, &keys.jobs, &keys.dead]);
    let answer = inner.query.repeat(ask.arg(tenant_name(home.tenant))).await.map_err(Fault::into_store)?;
    redis::from_redis_value(answer).map_err(|_| odd("the bytes that are queued"))
}

pub(super) async fn queued_by_tenant(inner: &Arc<Inner>, shard: crate::event::Shard) -> Result<Vec<(TenantId, u64)>, StoreError> {
    let ask = cmd("HGETALL").arg(&inner.keys(shard)?.queued_bytes).to_owned();
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let all: Vec<(String, u64)> = redis::from_redis_value(answer).map_err(|_| odd("the bytes that are queued"))?;
    let tenant = |name: String| u128::from_str_radix(&name, 16).map(TenantId).map_err(|_| odd("a tenant's name"));
    all.into_iter().filter(|(_, bytes)| *bytes > 0).map(|(name, bytes)| Ok((tenant(name)?, bytes))).collect()
}

pub(super) async fn depth(inner: &Arc<Inner>, shard: crate::event::Shard) -> Result<Depth, StoreError> {
    let keys = inner.keys(shard)?;
    let mut ask = scripts::DEPTH.call(&[&keys.jobs, &keys.schedule, &keys.taken_due, &keys.dead, &keys.unfinished, &keys.finished]);
    ask.arg(&Lane::ALL.map(Lane::as_str)[..]);
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    type Lanes<T> = Vec<Option<T>>;
    let (jobs, waiting, taken, dead_letters, unfinished, finished): (u64, u64, u64, u64, Lanes<i64>, Lanes<u64>) =
        redis::from_redis_value(answer).map_err(|_| odd("its counts"))?;
    let mut lanes = Vec::with_capacity(Lane::ALL.len());
    for ((lane, unfinished), finished) in Lane::ALL.into_iter().zip(unfinished).zip(finished) {
        let entries = u64::try_from(unfinished.unwrap_or(0)).unwrap_or(0);
        let oldest = if entries > 0 { oldest_of(inner, keys, lane).await? } else { None };
        lanes.push(LaneDepth { lane, entries, oldest, finished: finished.unwrap_or(0) });
    }
    let scheduled = waiting + taken;
    Ok(Depth { lanes, scheduled, parked: jobs.saturating_sub(scheduled + dead_letters), dead_letters })
}

/// When the oldest unfinished entry was accepted: the first pending one, or else the first that was never claimed.
async fn oldest_of(inner: &Inner, keys: &ShardKeys, lane: Lane) -> Result<Option<Timestamp>, StoreError> {
    let key = keys.lane(lane);
    let pending = match inner.query.repeat(cmd("XPENDING").arg(key).arg("g").arg("-").arg("+").arg(1)).await {
        Ok(answer) => redis::from_redis_value::<Vec<(String, String, u64, u64)>>(answer).map_err(|_| odd("XPENDING"))?,
        // Nobody has claimed anything yet.
        Err(fault) if fault.is("NOGROUP") => return oldest(inner, key, lane, "-").await,
        Err(fault) => return Err(fault.into_store()),
    };
    if let Some((first, ..)) = pending.first() {
        return oldest(inner, key, lane, first).await;
    }
    let answer = inner.query.repeat(cmd("XINFO").arg("GROUPS").arg(key)).await.map_err(Fault::into_store)?;
    let groups: Vec<HashMap<String, Value>> = redis::from_redis_value(answer).map_err(|_| odd("XINFO GROUPS"))?;
    let delivered = groups.into_iter().next().and_then(|mut group| group.remove("last-delivered-id"));
    let delivered: String = redis::from_redis_value(delivered.unwrap_or_default()).map_err(|_| odd("XINFO GROUPS"))?;
    oldest(inner, key, lane, &format!("({delivered}")).await
}

async fn oldest(inner: &Inner, key: &str, lane: Lane, from: &str) -> Result<Option<Timestamp>, StoreError> {
    let ask = cmd("XRANGE").arg(key).arg(from).arg("+").arg("COUNT").arg(1).to_owned();
    let Value::Array(rows) = inner.query.repeat(&ask).await.map_err(Fault::into_store)? else { return Err(odd("XRANGE")) };
    let Some((_, entry)) = rows.into_iter().next().and_then(|row| parse_entry(row, lane)) else { return Ok(None) };
    Ok(Some(decode_event(&entry)?.accepted_at))
}
