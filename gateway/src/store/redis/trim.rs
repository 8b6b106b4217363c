//! Retention: bucket by bucket from the oldest on, what is terminal goes: by its age, while there is more of it than its budget, and
//! while the server is short of room. So history gives way to what is still to be delivered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{Pipeline, cmd};

use super::error::odd;
use super::hold::{Hold, Pen, stream_id};
use super::keys::{BUCKET_MS, lane_index};
use super::piece::{Finished, Merged, Piece, merge, page, pages_of, read_page};
use super::{Inner, scripts, table};
use crate::clock::Timestamp;
use crate::event::{EventId, Lane, TenantId};
use crate::store::{Lease, Retention, StoreError, Trimmed};

/// How many buckets, and how many events, one step looks at.
const STEP_BUCKETS: usize = 64;
const STEP_EVENTS: usize = 2000;
const STEP_DEAD_LETTERS: usize = 500;
/// How long an event's last outcome is kept even if the server is short of room: somebody may be waiting to see it.
const FRESH: Duration = Duration::from_secs(15);
/// How many buckets are remembered in which nothing has ended.
const OPEN_BUCKETS: usize = 1 << 16;
/// The most arguments that one command of a script gets.
const MAX_ARGUMENTS: usize = 1000;

pub(super) async fn trim(inner: &Arc<Inner>, lease: &Lease, retention: Retention, now: Timestamp) -> Result<Trimmed, StoreError> {
    let mut pen = Pen::of(inner, lease).await?;
    super::detached(async move {
        let mut trimmed = Trimmed::default();
        dead_letters(&pen, retention, now, &mut trimmed).await?;
        trimmed.more |= table::sweep(&pen, now).await?;
        history(&mut pen, retention, now, &mut trimmed).await?;
        Ok(trimmed)
    })
    .await
}

async fn dead_letters(pen: &Pen, retention: Retention, now: Timestamp, trimmed: &mut Trimmed) -> Result<(), StoreError> {
    let Pen { inner, hold, .. } = pen;
    let bound = now.before(retention.dead_letter_age);
    let mut call = scripts::TRIM_DEAD.call(&[&hold.keys.own]);
    call.arg(&hold.token).arg(&bound.0.to_be_bytes()[..]).arg(STEP_DEAD_LETTERS);
    let answer = inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?;
    let gone: usize = redis::from_redis_value(answer).map_err(|_| odd("a trim"))?;
    trimmed.dead_letters = gone as u64;
    trimmed.more |= gone == STEP_DEAD_LETTERS;
    Ok(())
}

async fn history(pen: &mut Pen, retention: Retention, now: Timestamp, trimmed: &mut Trimmed) -> Result<(), StoreError> {
    let Pen { inner, hold, writer } = pen;
    let mut ask = Pipeline::new();
    let from = format!("({}", writer.trimmed_to);
    ask.cmd("GET").arg(&hold.keys.history_bytes);
    ask.cmd("ZRANGEBYSCORE").arg(&hold.keys.buckets).arg(from).arg("+inf").arg("LIMIT").arg(0).arg(STEP_BUCKETS);
    let mut answers = inner.owner.repeat_all(&ask).await.map_err(|fault| inner.fault(hold, fault))?.into_iter();
    let held: Option<i64> = redis::from_redis_value(answers.next().unwrap_or_default()).map_err(|_| odd("history's size"))?;
    let buckets: Vec<u64> = redis::from_redis_value(answers.next().unwrap_or_default()).map_err(|_| odd("history's buckets"))?;
    let mut held = u64::try_from(held.unwrap_or(0)).unwrap_or(0);
    let excess = inner.health.load().excess(inner.given_back.load(Ordering::Relaxed));
    let limits = Limits { retention, squeezed: retention.bytes.min(held.saturating_sub(excess)) };
    let lengths = lengths(inner, hold, &buckets, &writer.open_buckets).await?;
    let mut events = 0;
    for (position, bucket) in buckets.iter().enumerate() {
        let old = now.since(Timestamp(bucket * BUCKET_MS)) > retention.age;
        if !old && held <= limits.squeezed {
            // All that follow are younger; the next step starts anew, for what has become terminal meanwhile.
            writer.trimmed_to = 0;
            return Ok(());
        }
        if events >= STEP_EVENTS {
            trimmed.more = true;
            return Ok(());
        }
        if lengths.get(bucket).is_some_and(|length| writer.open_buckets.get(bucket) == Some(length)) {
            writer.trimmed_to = *bucket;
            trimmed.more |= position + 1 == STEP_BUCKETS;
            continue;
        }
        let before = held;
        let gone = bucket_step(inner, hold, *bucket, limits, now, &mut held).await?;
        if writer.open_buckets.len() >= OPEN_BUCKETS {
            writer.open_buckets.clear();
        }
        match gone.open {
            Some(length) => drop(writer.open_buckets.insert(*bucket, length)),
            None => drop(writer.open_buckets.remove(bucket)),
        }
        inner.given_back.fetch_add(before - held, Ordering::Relaxed);
        trimmed.events += gone.events;
        events += gone.looked_at;
        writer.trimmed_to = *bucket;
        trimmed.more |= gone.again || position + 1 == STEP_BUCKETS;
        if gone.again {
            writer.trimmed_to = bucket.saturating_sub(1);
            return Ok(());
        }
    }
    if buckets.len() < STEP_BUCKETS {
        writer.trimmed_to = 0;
    }
    Ok(())
}

/// How many pieces those buckets have that are remembered as open.
async fn lengths(
    inner: &Inner,
    hold: &Hold,
    buckets: &[u64],
    open: &HashMap<u64, usize>,
) -> Result<HashMap<u64, usize>, StoreError> {
    let known: Vec<u64> = buckets.iter().copied().filter(|bucket| open.contains_key(bucket)).collect();
    if known.is_empty() {
        return Ok(HashMap::new());
    }
    let mut ask = Pipeline::new();
    for bucket in &known {
        ask.cmd("LLEN").arg(hold.keys.bucket(*bucket));
    }
    let answers = inner.owner.repeat_all(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let lengths = answers.into_iter().map(|answer| redis::from_redis_value(answer).map_err(|_| odd("a bucket's length")));
    known.into_iter().zip(lengths).map(|(bucket, length)| Ok((bucket, length?))).collect()
}

/// What history keeps now.
#[derive(Clone, Copy)]
struct Limits {
    retention: Retention,
    /// The budget where the server is short of room.
    squeezed: u64,
}

impl Limits {
    /// Whether this terminal event is beyond them while so much is held.
    fn end(&self, merged: &Merged, finished: Finished, now: Timestamp, held: u64) -> bool {
        let recorded = || merged.rows.iter().map(|row| row.at).max().unwrap_or(finished.accepted_at);
        now.since(finished.accepted_at) > self.retention.age
            || held > self.retention.bytes
            || (held > self.squeezed && now.since(recorded()) > FRESH)
    }
}

#[derive(Default)]
struct Gone {
    events: u64,
    looked_at: usize,
    /// Somebody added to the bucket meanwhile.
    again: bool,
    /// The bucket's pieces, if nothing in it has ended.
    open: Option<usize>,
}

async fn bucket_step(
    inner: &Inner,
    hold: &Hold,
    bucket: u64,
    limits: Limits,
    now: Timestamp,
    held: &mut u64,
) -> Result<Gone, StoreError> {
    let ask = cmd("LRANGE").arg(hold.keys.bucket(bucket)).arg(0).arg(-1).to_owned();
    let answer = inner.owner.repeat(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let pieces: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a bucket of history"))?;
    let all: BTreeMap<EventId, Merged> = merge(&pieces, |_| true)?.into_iter().collect();
    let tenants = all.values().filter_map(|merged| merged.tenant).collect();
    let index = Index::read(inner, hold, bucket, tenants).await?;
    let mut going = Going::new();
    let before: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    let share = before / (all.len() as u64).max(1);
    for (event, merged) in &all {
        // Not listed any more: history of what was trimmed before, written by a retry that came after.
        if merged.finished.is_none() && merged.tenant.is_none_or(|tenant| !index.lists(tenant, *event)) {
            going.insert(*event, None);
        }
        let (Some(tenant), Some(finished), true) = (merged.tenant, merged.finished, merged.is_terminal()) else { continue };
        if limits.end(merged, finished, now, *held) {
            *held = held.saturating_sub(u64::from(finished.bytes) + share);
            going.insert(*event, Some((tenant, finished)));
        }
    }
    let mut gone = Gone { looked_at: all.len(), ..Gone::default() };
    if going.is_empty() {
        gone.open = all.values().all(|merged| !merged.is_terminal()).then_some(pieces.len());
        return Ok(gone);
    }
    if cut(inner, hold, bucket, &pieces, &index, &going, |_| {}).await? {
        gone.events = going.values().flatten().count() as u64;
    } else {
        gone.again = true;
    }
    Ok(gone)
}

/// What goes of a bucket; those that are not in the index any more go without their entries.
pub(super) type Going = BTreeMap<EventId, Option<(TenantId, Finished)>>;

/// Takes events out of a bucket, with their entries and their places in the index. False, with nothing changed, if somebody added
/// to the bucket since it was read. `more` adds operations of its own.
pub(super) async fn cut(
    inner: &Inner,
    hold: &Hold,
    bucket: u64,
    pieces: &[Vec<u8>],
    index: &Index,
    going: &Going,
    more: impl FnOnce(&mut redis::Cmd),
) -> Result<bool, StoreError> {
    let left = rest_of(pieces, going)?;
    let before: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
    let bodies: u64 = going.values().flatten().map(|(_, finished)| u64::from(finished.bytes)).sum();
    let after: u64 = left.iter().map(|piece| piece.len() as u64).sum();
    let mut call = scripts::TRIM.call(&[&hold.keys.own]);
    call.arg(&hold.token).arg(bucket).arg(pieces.len()).arg((before + bodies).saturating_sub(after)).arg(left.len());
    for piece in &left {
        call.arg(&piece[..]);
    }
    deletions(going, &mut call);
    index.deletions(bucket, going, &mut call);
    more(&mut call);
    let answer = inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?;
    let done: u64 = redis::from_redis_value(answer).map_err(|_| odd("a trim"))?;
    Ok(done == 1)
}

/// What is left of the pieces without the events that go.
fn rest_of(pieces: &[Vec<u8>], going: &Going) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut left = Vec::new();
    for bytes in pieces {
        let mut piece = Piece::decode(bytes)?;
        piece.outcomes.retain(|outcome| !going.contains_key(&outcome.event));
        if !piece.outcomes.is_empty() {
            left.push(piece.encode());
        }
    }
    Ok(left)
}

fn deletions(going: &Going, call: &mut redis::Cmd) {
    let mut entries: [Vec<String>; 3] = Default::default();
    for (_, finished) in going.values().flatten() {
        entries[lane_index(finished.ticket.lane)].push(stream_id(finished.ticket));
    }
    for (lane, ids) in Lane::ALL.iter().zip(&entries) {
        for ids in ids.chunks(MAX_ARGUMENTS) {
            call.arg("x").arg(lane.as_str()).arg(ids.len()).arg(ids);
        }
    }
}

/// A bucket's part of the tenants' indices.
pub(super) struct Index(BTreeMap<TenantId, Vec<Vec<u8>>>);

impl Index {
    /// Reads these tenants' parts.
    pub(super) async fn read(inner: &Inner, hold: &Hold, bucket: u64, tenants: BTreeSet<TenantId>) -> Result<Self, StoreError> {
        let mut ask = Pipeline::new();
        for tenant in &tenants {
            ask.add_command(pages_of(&hold.keys.index(*tenant), bucket));
        }
        let answers = inner.owner.repeat_all(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
        let mut index = BTreeMap::new();
        for (tenant, answer) in tenants.into_iter().zip(answers) {
            let pages: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a tenant's index"))?;
            for page in &pages {
                read_page(page)?;
            }
            index.insert(tenant, pages);
        }
        Ok(Self(index))
    }

    pub(super) fn lists(&self, tenant: TenantId, event: EventId) -> bool {
        let mut rows = self.0.get(&tenant).into_iter().flatten().flat_map(|page| read_page(page).unwrap_or_default());
        rows.any(|row| row.event == event)
    }

    /// Takes out the pages with events that go, and puts what is left of them back.
    fn deletions(&self, bucket: u64, going: &Going, call: &mut redis::Cmd) {
        for (tenant, pages) in &self.0 {
            for old in pages {
                let mut rows = read_page(old).unwrap_or_default();
                let before = rows.len();
                rows.retain(|row| !going.get(&row.event).is_some_and(Option::is_some));
                if rows.len() == before {
                    continue;
                }
                let left = if rows.is_empty() { Vec::new() } else { page(bucket, &rows) };
                call.arg("i").arg(format!("{:032x}", tenant.0)).arg(2).arg(&old[..]).arg(left);
            }
        }
    }
}
