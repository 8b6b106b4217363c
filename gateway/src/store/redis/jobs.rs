//! Jobs: the schedule, the parked queues, the dead letters. Every job is a field of one hash, with its place in front, and a member of
//! exactly one sorted set.

use std::sync::Arc;

use redis::{Cmd, Pipeline, Value, cmd};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::error::{Fault, odd};
use super::hold::{Effect, From, Hold, JobInHand, Pen};
use super::keys::{ShardKeys, parse_queue, queue_name, tenant_name};
use super::link::Patience;
use super::piece::{End, Outcome, Piece, bucket_of, merge, pages_of, read_page};
use super::{Inner, scripts};
use crate::clock::Timestamp;
use crate::event::{Attempt, DeliveryId, Failure, TenantId, decode, decode_with, encode, encode_with};
use crate::store::row::{Row, shown};
use crate::store::{
    Budget, Burial, DeadLetter, Heads, Home, Job, Lease, Line, MAX_PAGE, Origin, Page, PageRequest, PutBack, QueueKey, SUSPECT,
    StoreError, Suspects,
};

/// The most jobs of one script.
const MAX_TAKE: usize = 256;

/// A job as it is stored, behind its place and size.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    pub(super) job: Job,
    /// When and why it became a dead letter.
    pub(super) dead: Option<(Timestamp, Failure)>,
}

/// When and why a job is given up, and after which attempt. The attempt stands behind [`Stored`], for who reads on.
#[derive(Debug)]
pub(super) struct Dead<'a> {
    pub(super) at: Timestamp,
    pub(super) reason: &'a Failure,
    pub(super) last: Option<Attempt>,
}

/// The borrowed twin of [`Stored`].
#[derive(Serialize)]
struct StoredRef<'a> {
    job: &'a Job,
    dead: Option<(Timestamp, &'a Failure)>,
}

/// A size as it is counted: where it is stored it has 32 bits.
pub(super) fn counted(size: usize) -> u64 {
    u32::try_from(size).unwrap_or(u32::MAX).into()
}

/// A job's size and itself, as the scripts take them.
pub(super) fn rest(job: &Job, dead: Option<Dead<'_>>) -> Vec<u8> {
    let mut rest = format!("{:08x}", counted(job.size())).into_bytes();
    let stored = StoredRef { job, dead: dead.as_ref().map(|dead| (dead.at, dead.reason)) };
    rest.extend_from_slice(&match dead.and_then(|dead| dead.last) {
        Some(last) => encode_with(&stored, &last),
        None => encode(&stored),
    });
    rest
}

/// The place of a dead letter.
pub(super) fn grave(at: Timestamp, tenant: TenantId) -> Vec<u8> {
    let mut place = vec![b'd'];
    place.extend_from_slice(&at.0.to_be_bytes());
    place.extend_from_slice(format!("{:032x}", tenant.0).as_bytes());
    place
}

/// Splits a stored value into its place and the job.
pub(super) fn open(value: &[u8]) -> Result<(&[u8], Stored), StoreError> {
    let (place, record) = split(value)?;
    Ok((place, decode(record)?))
}

pub(super) fn split(value: &[u8]) -> Result<(&[u8], &[u8]), StoreError> {
    let cut = || StoreError::Damaged("a job's value is cut".into());
    let (&length, value) = value.split_first().ok_or_else(cut)?;
    let (place, value) = value.split_at_checked(usize::from(length)).ok_or_else(cut)?;
    Ok((place, value.get(8..).ok_or_else(cut)?))
}

/// The place of a job in a line, for an output of its event.
pub(super) fn spot(queue: QueueKey, line: Line, output: u32, due: Timestamp) -> Vec<u8> {
    let at = match line.place {
        Some(_) => line.place_of(output, || 0).to_string(),
        None => format!("+{}", line.place_of(output, || 0)),
    };
    format!("o{}|{}|{:032x}|{at}", due.0, queue_name(queue), line.key).into_bytes()
}

/// Reads a place that is one in a line.
fn read_spot(place: &[u8]) -> Option<Line> {
    let mut parts = std::str::from_utf8(place).ok()?.strip_prefix('o')?.split('|');
    let due = Timestamp(parts.next()?.parse().ok()?);
    let QueueKey::Ordered(_, destination) = parse_queue(parts.next()?)? else { return None };
    let key = u128::from_str_radix(parts.next()?, 16).ok()?;
    let place = Some(parts.next()?.parse().ok()?);
    Some(Line { destination, key, place, due })
}

/// How often what stands there has been handed out, this time included: once more than it was put back when its owner had gone away.
fn claims(place: &[u8]) -> u32 {
    let parts = match place.first() {
        Some(b'r') => 1,
        Some(b'q') => 2,
        _ => 4,
    };
    let restored = place.split(|byte| *byte == b'|').nth(parts).and_then(|count| std::str::from_utf8(count).ok()?.parse().ok());
    restored.map_or(1, |restored: u32| restored.saturating_add(1))
}

/// Takes jobs from the schedule or a queue.
pub(super) async fn take(
    inner: &Arc<Inner>,
    lease: &Lease,
    from: From,
    now: Timestamp,
    budget: Budget,
) -> Result<Heads, StoreError> {
    if budget.count == 0 {
        return Ok(Heads { next: Some(now), ..Heads::default() });
    }
    let mut pen = Pen::of(inner, lease).await?;
    let (hand_out, handed_out) = oneshot::channel();
    tokio::spawn(async move {
        let taken = take_with(&mut pen, from, now, budget).await;
        // The caller went away: these are taken, so they must go to whoever asks next.
        if let Err(Ok(taken)) = hand_out.send(taken) {
            pen.stash(from, taken);
        }
    });
    handed_out.await.unwrap_or_else(|_| Err(super::ended_early()))
}

async fn take_with(pen: &mut Pen, from: From, now: Timestamp, budget: Budget) -> Result<Heads, StoreError> {
    if let Some(mut stashed) = pen.stashed(from) {
        if budget.suspects == Suspects::Left && stashed.jobs.iter().any(|job| job.claims >= SUSPECT) {
            pen.stash(from, stashed);
            return Err(StoreError::Suspect(pen.hold.shard));
        }
        let later = stashed.jobs.split_off(stashed.jobs.len().min(budget.count));
        pen.stash(from, Heads { jobs: later, ..Heads::default() });
        return Ok(Heads { next: Some(now), ..stashed });
    }
    let script = if matches!(from, From::Lines(_)) { &scripts::HEADS } else { &scripts::TAKE };
    let answer = pen
        .write(script, Effect::Took(from), |call| {
            call.arg(budget.count.min(MAX_TAKE)).arg(budget.bytes);
            from.arguments(call, now, budget.suspects);
        })
        .await?;
    read_taken(&pen.hold, answer)
}

/// Reads `id, value, id, value, ...`, with lines' next due time behind it, and notes the jobs as handed out. A job that this release
/// can't read stays taken.
pub(super) fn read_taken(hold: &Hold, answer: Value) -> Result<Heads, StoreError> {
    let values: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("taken jobs"))?;
    let mut jobs = Vec::with_capacity(values.len() / 2);
    for pair in values.chunks_exact(2) {
        match open(&pair[1]) {
            Ok((place, stored)) => jobs.push(Job { line: read_spot(place), claims: claims(place), ..stored.job }),
            Err(error) => {
                tracing::error!(shard = hold.shard.0, id = %hex::encode(&pair[0]), %error, "a job is unreadable; it stays taken")
            }
        }
    }
    let mut hand = hold.hand();
    for job in &jobs {
        let due = job.line.map(|line| line.due);
        hand.jobs.insert(job.id, JobInHand { attempts: job.attempts, due, written: Vec::new() });
    }
    drop(hand);
    let next = values.chunks_exact(2).remainder().first().and_then(|due| std::str::from_utf8(due).ok()?.parse::<f64>().ok());
    let unreadable = (values.len() / 2 - jobs.len()) as u64;
    Ok(Heads { jobs, next: next.map(|due| Timestamp(due as u64)), unreadable })
}

/// Puts first jobs of lines, and parked jobs, back to their places.
pub(super) async fn put_back(inner: &Arc<Inner>, lease: &Lease, jobs: &[PutBack]) -> Result<(), StoreError> {
    let mut pen = Pen::of(inner, lease).await?;
    let in_hand: Vec<PutBack> = {
        let hand = pen.hold.hand();
        let is_in_hand = |job: &&PutBack| hand.jobs.get(&job.id).is_some_and(|known| known.due.is_none_or(|due| due == job.from));
        jobs.iter().filter(is_in_hand).copied().collect()
    };
    if in_hand.is_empty() {
        return inner.check_token(&pen.hold).await;
    }
    super::detached(async move {
        for jobs in in_hand.chunks(MAX_TAKE) {
            let gone = jobs.iter().map(|job| Origin::Job(job.id)).collect();
            let add = |call: &mut redis::Cmd| {
                for PutBack { id, from, due } in jobs {
                    call.arg(&id.0.to_be_bytes()[..]).arg(from.0).arg(due.0);
                }
            };
            pen.write(&scripts::PUT_BACK, Effect::Recorded { gone, written: Vec::new() }, add).await?;
        }
        Ok(())
    })
    .await
}

pub(super) async fn next_due(inner: &Arc<Inner>, lease: &Lease) -> Result<Option<Timestamp>, StoreError> {
    let hold = inner.hold(lease).await?;
    let mut ask = Pipeline::new();
    ask.cmd("ZRANGE").arg(&hold.keys.schedule).arg(0).arg(0).arg("WITHSCORES");
    let answers = inner.fenced_reads(&hold, ask).await?;
    let first: Vec<(Vec<u8>, f64)> =
        answers.into_iter().next().and_then(|answer| redis::from_redis_value(answer).ok()).unwrap_or_default();
    Ok(first.first().map(|(_, due)| Timestamp(*due as u64)))
}

pub(super) async fn queues(inner: &Arc<Inner>, lease: &Lease) -> Result<Vec<(QueueKey, u64)>, StoreError> {
    let hold = inner.hold(lease).await?;
    let mut ask = Pipeline::new();
    ask.cmd("HGETALL").arg(&hold.keys.queues);
    let answers = inner.fenced_reads(&hold, ask).await?;
    let all: Vec<(String, u64)> =
        answers.into_iter().next().and_then(|answer| redis::from_redis_value(answer).ok()).ok_or_else(|| odd("the queues"))?;
    let mut queues = Vec::with_capacity(all.len());
    for (name, length) in all {
        queues.push((parse_queue(&name).ok_or_else(|| StoreError::Damaged(format!("a queue is named `{name}`")))?, length));
    }
    queues.sort_unstable();
    Ok(queues)
}

pub(super) async fn dead_letters(
    inner: &Arc<Inner>,
    home: Home,
    page: PageRequest<Burial>,
) -> Result<Page<DeadLetter, Burial>, StoreError> {
    let mut ask = cmd("ZREVRANGEBYLEX");
    ask.arg(inner.keys(home.shard)?.dead_of(home.tenant)).arg(page.before.map_or(b"+".to_vec(), beyond)).arg("-");
    letters(inner, home, ask, page.limit).await
}

pub(super) async fn oldest_dead_letters(
    inner: &Arc<Inner>,
    home: Home,
    after: Option<Burial>,
    limit: usize,
) -> Result<Page<DeadLetter, Burial>, StoreError> {
    let mut ask = cmd("ZRANGEBYLEX");
    ask.arg(inner.keys(home.shard)?.dead_of(home.tenant)).arg(after.map_or(b"-".to_vec(), beyond)).arg("+");
    letters(inner, home, ask, limit).await
}

/// An end of a range of dead letters that leaves this one out.
fn beyond(Burial { at, id }: Burial) -> Vec<u8> {
    [b"(", &at.0.to_be_bytes()[..], &id.0.to_be_bytes()[..]].concat()
}

/// A page of the dead letters in a range of the index.
async fn letters(inner: &Arc<Inner>, home: Home, mut ask: Cmd, limit: usize) -> Result<Page<DeadLetter, Burial>, StoreError> {
    let keys = inner.keys(home.shard)?;
    let limit = limit.clamp(1, MAX_PAGE);
    ask.arg("LIMIT").arg(0).arg(limit + 1);
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let mut members: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("dead letters"))?;
    let more = members.len() > limit;
    members.truncate(limit);
    let next = members.last().filter(|_| more).map(|member| burial(member)).transpose()?;
    let ids = members.iter().map(|member| member.get(8..).unwrap_or_default());
    let mut items = Vec::with_capacity(members.len());
    for (member, letter) in members.iter().zip(found(inner, keys, ids).await?) {
        // One that somebody retried between the two reads is none any more, or was given up again and stands elsewhere now.
        if let Some(letter) = letter
            && letter.place() == burial(member)?
        {
            items.push(letter);
        }
    }
    Ok(Page { items, next })
}

pub(super) async fn dead_letters_of(inner: &Arc<Inner>, home: Home, ids: &[DeliveryId]) -> Result<Vec<DeadLetter>, StoreError> {
    let names: Vec<_> = ids.iter().map(|id| id.0.to_be_bytes()).collect();
    let letters = found(inner, inner.keys(home.shard)?, names.iter().map(|name| &name[..])).await?;
    Ok(letters.into_iter().flatten().filter(|letter| letter.job.tenant() == home.tenant).collect())
}

/// What each of these is as a dead letter, if it is one.
async fn found<'a>(
    inner: &Arc<Inner>,
    keys: &ShardKeys,
    ids: impl ExactSizeIterator<Item = &'a [u8]>,
) -> Result<Vec<Option<DeadLetter>>, StoreError> {
    if ids.len() == 0 {
        return Ok(Vec::new());
    }
    let mut ask = cmd("HMGET");
    ask.arg(&keys.jobs);
    for id in ids {
        ask.arg(id);
    }
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let values: Vec<Option<Vec<u8>>> = redis::from_redis_value(answer).map_err(|_| odd("dead letters"))?;
    let read = |value: Vec<u8>| -> Result<Option<DeadLetter>, StoreError> {
        let (place, record) = split(&value)?;
        if place.first() != Some(&b'd') {
            return Ok(None);
        }
        let (Stored { job, dead }, last) = decode_with(record)?;
        Ok(dead.map(|(at, reason)| DeadLetter { job, at, reason, last }))
    };
    values.into_iter().map(|value| value.map_or(Ok(None), read)).collect()
}

/// The place that a member of the index stands for.
fn burial(member: &[u8]) -> Result<Burial, StoreError> {
    let (at, id) = member.split_first_chunk().ok_or_else(|| odd("a dead letter's place"))?;
    let id = id.try_into().map_err(|_| odd("a dead letter's place"))?;
    Ok(Burial { at: Timestamp(u64::from_be_bytes(*at)), id: DeliveryId(u128::from_be_bytes(id)) })
}

/// Moves dead letters back to the schedule: state-based, since whoever asks is not the owner.
pub(super) async fn retry(inner: &Arc<Inner>, home: Home, each: &[(DeliveryId, Timestamp)]) -> Result<u64, StoreError> {
    let keys = inner.keys(home.shard)?.clone();
    let mut moved = 0;
    for each in each.chunks(MAX_PAGE) {
        let mut ask = cmd("HMGET");
        ask.arg(&keys.jobs);
        for (id, _) in each {
            ask.arg(&id.0.to_be_bytes()[..]);
        }
        let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
        let values: Vec<Option<Vec<u8>>> = redis::from_redis_value(answer).map_err(|_| odd("dead letters"))?;
        let mut call = scripts::RETRY.call(&[&keys.own]);
        call.arg(tenant_name(home.tenant));
        let mut some = false;
        for ((id, due), value) in each.iter().zip(values) {
            let Some(value) = value else { continue };
            let (place, Stored { job, .. }) = open(&value)?;
            if place.first() != Some(&b'd') || job.tenant() != home.tenant {
                continue;
            }
            let place = place.to_vec();
            let job = job.afresh(*due);
            let piece = scheduled(&job, *due);
            call.arg(&id.0.to_be_bytes()[..])
                .arg(place)
                .arg(format!("r{}", due.0))
                .arg(rest(&job, None))
                .arg(bucket_of(job.event()))
                .arg(piece.len())
                .arg(piece);
            some = true;
        }
        if some {
            let inner = inner.clone();
            let wake = redis::cmd("PUBLISH").arg(&keys.wake).arg("").to_owned();
            moved += super::detached(async move {
                // One try: sent again after a lost answer, it would count none.
                let answer = inner.query.once(&call).await.map_err(Fault::into_store)?;
                inner.query.repeat(&wake).await.map_err(Fault::into_store)?;
                redis::from_redis_value::<u64>(answer).map_err(|_| odd("a retry"))
            })
            .await?;
        }
    }
    Ok(moved)
}

/// The record that says that a job is due.
fn scheduled(job: &Job, now: Timestamp) -> Vec<u8> {
    let row = shown(job, now);
    let rows = vec![Row::of(&row)];
    Piece { outcomes: vec![Outcome { event: job.event(), tenant: job.tenant(), end: End::Open, rows }] }.encode()
}

/// Puts new work on the schedule. What is known already is found by reading history first; the script changes nothing where that has
/// changed meanwhile, and then it is read again.
pub(super) async fn add(inner: &Arc<Inner>, home: Home, jobs: &[Job], now: Timestamp) -> Result<u64, StoreError> {
    let keys = inner.keys(home.shard)?.clone();
    let mut put = 0;
    for job in jobs.iter().filter(|job| job.tenant() == home.tenant) {
        let mut patience = Patience::new(inner.config.timeouts.operation);
        loop {
            match add_one(inner, home, &keys, job, now).await? {
                Some(added) => break put += added,
                None if patience.rest().await => {}
                None => return Err(StoreError::Unavailable("the event's history changes all the time; try again".into())),
            }
        }
    }
    if put > 0 {
        let wake = cmd("PUBLISH").arg(&keys.wake).arg("").to_owned();
        inner.query.repeat(&wake).await.map_err(Fault::into_store)?;
    }
    Ok(put)
}

/// None if its history has changed meanwhile.
async fn add_one(inner: &Arc<Inner>, home: Home, keys: &ShardKeys, job: &Job, now: Timestamp) -> Result<Option<u64>, StoreError> {
    let (event, index, bucket) = (job.event(), keys.index(home.tenant), bucket_of(job.event()));
    let mut ask = Pipeline::new();
    ask.add_command(pages_of(&index, bucket));
    ask.cmd("LRANGE").arg(keys.bucket(bucket)).arg(0).arg(-1);
    let mut answers = inner.query.repeat_all(&ask).await.map_err(Fault::into_store)?.into_iter();
    let mut next = || redis::from_redis_value::<Vec<Vec<u8>>>(answers.next().unwrap_or_default());
    let (pages, pieces) = (next().map_err(|_| odd("a tenant's index"))?, next().map_err(|_| odd("a bucket of history"))?);
    let mut listed = None;
    for page in pages {
        if read_page(&page)?.iter().any(|row| row.event == event) {
            listed = Some(page);
        }
    }
    let Some(page) = listed else { return Ok(Some(0)) };
    let known = merge(&pieces, |wanted| wanted == event)?.remove(&event).unwrap_or_default();
    if known.finished.is_none() || known.rows.iter().any(|row| row.id == job.id) {
        return Ok(Some(0));
    }
    let piece = scheduled(job, now);
    let mut call = scripts::ADD.call(&[&keys.own]);
    call.arg(tenant_name(home.tenant)).arg(page).arg(bucket).arg(pieces.len());
    call.arg(&job.id.0.to_be_bytes()[..]).arg(now.0).arg(rest(job, None)).arg(piece.len()).arg(piece);
    let inner = inner.clone();
    let answer = super::detached(async move {
        // Sent again it finds the job that it has put, or another history.
        inner.query.repeat(&call).await.map_err(Fault::into_store)
    })
    .await?;
    match redis::from_redis_value::<i64>(answer).map_err(|_| odd("new work"))? {
        -1 => Ok(None),
        put => Ok(Some(u64::try_from(put).unwrap_or(0))),
    }
}
