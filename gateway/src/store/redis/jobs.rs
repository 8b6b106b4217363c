//! Jobs: the schedule, the parked queues, the dead letters. Every job is a field of one hash, with its place in front, and a member of
//! exactly one sorted set.

use std::sync::Arc;

use redis::{Pipeline, Value, cmd};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::error::{Fault, odd};
use super::hold::{Effect, From, Hold, JobInHand, Pen};
use super::keys::{parse_queue, tenant_name};
use super::piece::{End, Outcome, Piece, bucket_of};
use super::{Inner, scripts};
use crate::clock::Timestamp;
use crate::event::{Attempt, DeliveryId, Failure, TenantId, decode, decode_with, encode, encode_with};
use crate::store::row::Row;
use crate::store::{
    Budget, Burial, DeadLetter, DeliveryRecord, DeliveryState, Home, Job, Lease, MAX_PAGE, Page, PageRequest, QueueKey, StoreError,
    Work,
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

fn split(value: &[u8]) -> Result<(&[u8], &[u8]), StoreError> {
    let cut = || StoreError::Damaged("a job's value is cut".into());
    let (&length, value) = value.split_first().ok_or_else(cut)?;
    let (place, value) = value.split_at_checked(usize::from(length)).ok_or_else(cut)?;
    Ok((place, value.get(8..).ok_or_else(cut)?))
}

/// Takes jobs from the schedule or a queue.
pub(super) async fn take(
    inner: &Arc<Inner>,
    lease: &Lease,
    from: From,
    now: Timestamp,
    budget: Budget,
) -> Result<Vec<Job>, StoreError> {
    if budget.count == 0 {
        return Ok(Vec::new());
    }
    let mut pen = Pen::of(inner, lease).await?;
    let (hand_out, handed_out) = oneshot::channel();
    tokio::spawn(async move {
        let taken = take_with(&mut pen, from, now, budget).await;
        // The caller went away: these are taken, so they must go to whoever asks next.
        if let Err(Ok(jobs)) = hand_out.send(taken) {
            pen.stash(from, jobs);
        }
    });
    handed_out.await.unwrap_or_else(|_| Err(super::ended_early()))
}

async fn take_with(pen: &mut Pen, from: From, now: Timestamp, budget: Budget) -> Result<Vec<Job>, StoreError> {
    if let Some(mut stashed) = pen.stashed(from) {
        let later = stashed.split_off(stashed.len().min(budget.count));
        pen.stash(from, later);
        return Ok(stashed.into());
    }
    let answer = pen
        .write(&scripts::TAKE, Effect::Took(from), |call| {
            call.arg(budget.count.min(MAX_TAKE)).arg(budget.bytes);
            from.arguments(call, now);
        })
        .await?;
    read_taken(&pen.hold, answer)
}

/// Reads `id, value, id, value, ...` and notes the jobs as handed out. A job that this release can't read stays taken.
pub(super) fn read_taken(hold: &Hold, answer: Value) -> Result<Vec<Job>, StoreError> {
    let values: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("taken jobs"))?;
    let mut jobs = Vec::with_capacity(values.len() / 2);
    for pair in values.chunks_exact(2) {
        match open(&pair[1]) {
            Ok((_, stored)) => jobs.push(stored.job),
            Err(error) => {
                tracing::error!(shard = hold.shard.0, id = %hex::encode(&pair[0]), %error, "a job is unreadable; it stays taken")
            }
        }
    }
    let mut hand = hold.hand();
    for job in &jobs {
        hand.jobs.insert(job.id, JobInHand { attempts: job.attempts, written: Vec::new() });
    }
    Ok(jobs)
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
    let keys = inner.keys(home.shard)?;
    let limit = page.limit.clamp(1, MAX_PAGE);
    let from = match page.before {
        None => b"+".to_vec(),
        Some(Burial { at, id }) => [b"(", &at.0.to_be_bytes()[..], &id.0.to_be_bytes()[..]].concat(),
    };
    let mut ask = cmd("ZREVRANGEBYLEX");
    ask.arg(keys.dead_of(home.tenant)).arg(from).arg("-").arg("LIMIT").arg(0).arg(limit + 1);
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let mut members: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("dead letters"))?;
    let more = members.len() > limit;
    members.truncate(limit);
    let next = members.last().filter(|_| more).map(|member| burial(member)).transpose()?;
    let mut items = Vec::with_capacity(members.len());
    if !members.is_empty() {
        let mut ask = cmd("HMGET");
        ask.arg(&keys.jobs);
        for member in &members {
            ask.arg(member.get(8..).unwrap_or_default());
        }
        let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
        let values: Vec<Option<Vec<u8>>> = redis::from_redis_value(answer).map_err(|_| odd("dead letters"))?;
        // One that somebody retried between the two reads is none any more.
        for value in values.into_iter().flatten() {
            let (place, record) = split(&value)?;
            if place.first() == Some(&b'd')
                && let (Stored { job, dead: Some((at, reason)) }, last) = decode_with(record)?
            {
                items.push(DeadLetter { job, at, reason, last });
            }
        }
    }
    Ok(Page { items, next })
}

/// The place that a member of the index stands for.
fn burial(member: &[u8]) -> Result<Burial, StoreError> {
    let (at, id) = member.split_first_chunk().ok_or_else(|| odd("a dead letter's place"))?;
    let id = id.try_into().map_err(|_| odd("a dead letter's place"))?;
    Ok(Burial { at: Timestamp(u64::from_be_bytes(*at)), id: DeliveryId(u128::from_be_bytes(id)) })
}

/// Moves dead letters back to the schedule: state-based, since whoever asks is not the owner.
pub(super) async fn retry(inner: &Arc<Inner>, home: Home, ids: &[DeliveryId], now: Timestamp) -> Result<u64, StoreError> {
    let keys = inner.keys(home.shard)?.clone();
    let mut moved = 0;
    for ids in ids.chunks(MAX_PAGE) {
        let mut ask = cmd("HMGET");
        ask.arg(&keys.jobs);
        for id in ids {
            ask.arg(&id.0.to_be_bytes()[..]);
        }
        let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
        let values: Vec<Option<Vec<u8>>> = redis::from_redis_value(answer).map_err(|_| odd("dead letters"))?;
        let mut call = scripts::RETRY.call(&[&keys.own]);
        call.arg(now.0).arg(tenant_name(home.tenant));
        let mut some = false;
        for (id, value) in ids.iter().zip(values) {
            let Some(value) = value else { continue };
            let (place, Stored { job, .. }) = open(&value)?;
            if place.first() != Some(&b'd') || job.tenant() != home.tenant {
                continue;
            }
            let place = place.to_vec();
            let job = job.afresh(now);
            let piece = retried(&job, now);
            call.arg(&id.0.to_be_bytes()[..])
                .arg(place)
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

/// The record that says that a dead letter was put back.
fn retried(job: &Job, now: Timestamp) -> Vec<u8> {
    let (connection, destination, output) = match &job.work {
        Work::Attempt(delivery) => (Some(delivery.connection), Some(delivery.destination), delivery.output),
        Work::Plan { connection, .. } => (*connection, None, 0),
    };
    let row = DeliveryRecord {
        id: job.id,
        connection,
        destination,
        output,
        at: now,
        state: DeliveryState::Scheduled { due: now },
        attempts: Vec::new(),
        runs: Vec::new(),
        job: None,
    };
    let rows = vec![Row::of(&row)];
    Piece { outcomes: vec![Outcome { event: job.event(), tenant: job.tenant(), end: End::Open, rows }] }.encode()
}
