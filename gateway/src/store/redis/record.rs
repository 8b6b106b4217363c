//! Writing what happened: one script for a batch.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use redis::Cmd;

use super::hold::{Effect, Hand, Pen, stream_id};
use super::jobs::{Dead, grave, rest, spot};
use super::keys::{lane_index, queue_name, tenant_name};
use super::piece::{End, Finished, Outcome, Piece, bucket_of, hash};
use super::{Inner, claim, scripts};
use crate::event::{DeliveryId, Lane, TenantId};
use crate::store::row::Row;
use crate::store::{DeliveryRecord, DeliveryState, Job, Lease, Origin, Record, StoreError, Ticket};

/// The most entries that one `XACK` names: Lua's stack is bounded.
const MAX_ACK: usize = 1000;

pub(super) async fn record(inner: &Arc<Inner>, lease: &Lease, batch: &[Record]) -> Result<(), StoreError> {
    for delivery in batch.iter().flat_map(|record| &record.deliveries) {
        check(delivery)?;
    }
    let mut pen = Pen::of(inner, lease).await?;
    let unknown: HashSet<Ticket> = {
        let hand = pen.hold.hand();
        let entries = batch.iter().filter_map(|record| if let Origin::Entry(ticket) = record.origin { Some(ticket) } else { None });
        entries.filter(|ticket| !hand.entries.contains_key(ticket)).collect()
    };
    claim::adopt(inner, &pen.hold, unknown).await?;
    let plan = Plan::of(batch, &pen.hold.hand());
    let Some(plan) = plan else { return inner.check_token(&pen.hold).await };
    let Plan { arguments, gone, written, .. } = plan;
    super::detached(async move {
        let add = |call: &mut Cmd| {
            for argument in &arguments {
                call.arg(&argument[..]);
            }
        };
        pen.write(&scripts::RECORD, Effect::Recorded { gone, written }, add).await.map(drop)
    })
    .await
}

fn check(delivery: &DeliveryRecord) -> Result<(), StoreError> {
    let refuse = |text: &str| Err(StoreError::Refused(text.to_owned()));
    match &delivery.state {
        DeliveryState::Scheduled { .. } | DeliveryState::Parked { .. } | DeliveryState::DeadLettered { .. }
            if delivery.job.is_none() =>
        {
            refuse("a state that goes on, or a dead letter, needs its job")
        }
        DeliveryState::Parked { queue: None, .. } => refuse("a parked delivery needs its queue"),
        _ => Ok(()),
    }
}

/// What a batch changes.
struct Plan {
    arguments: Vec<Vec<u8>>,
    /// Whose jobs the last arguments are about.
    tenant: Option<TenantId>,
    gone: Vec<Origin>,
    written: Vec<(Origin, u64)>,
}

impl Plan {
    /// None if nothing of the batch is in hand.
    fn of(batch: &[Record], hand: &Hand) -> Option<Self> {
        let mut plan = Self { arguments: Vec::new(), tenant: None, gone: Vec::new(), written: Vec::new() };
        let mut acks: [Vec<Vec<u8>>; 3] = Default::default();
        let mut finished: BTreeMap<TenantId, u64> = BTreeMap::new();
        let mut history: BTreeMap<u64, (Vec<Outcome<'_>>, usize)> = BTreeMap::new();
        let mut gone: HashSet<OriginKey> = HashSet::new();
        for record in batch {
            let Some((end, known)) = in_hand(record, hand, &gone) else { continue };
            let rows: Vec<Row<'_>> = record.deliveries.iter().map(Row::of).collect();
            if !record.finished {
                let hashes: Vec<_> = rows.iter().map(|row| (record.origin, hash(row))).collect();
                if hashes.iter().all(|row| known.contains(&row.1) || plan.written.contains(row)) {
                    continue;
                }
                plan.written.extend(hashes);
            }
            let outcome = Outcome { event: record.event, tenant: record.tenant, end, rows };
            plan.moves(record, &mut gone);
            if let (Origin::Entry(ticket), true) = (record.origin, record.finished) {
                acks[lane_index(ticket.lane)].push(stream_id(ticket).into_bytes());
                let bytes = hand.entries.get(&ticket).map_or(0, |entry| entry.bytes);
                *finished.entry(record.tenant).or_default() += u64::from(bytes);
            }
            let (outcomes, bytes) = history.entry(bucket_of(record.event)).or_default();
            *bytes += if let End::Entry(finished) = end { finished.bytes as usize } else { 0 };
            outcomes.push(outcome);
        }
        for (lane, ids) in Lane::ALL.iter().zip(acks) {
            for ids in ids.chunks(MAX_ACK) {
                plan.arguments.extend([b"a".to_vec(), lane.as_str().into(), ids.len().to_string().into()]);
                plan.arguments.extend_from_slice(ids);
            }
        }
        for (tenant, bytes) in finished {
            plan.of_tenant(tenant, bytes);
        }
        for (bucket, (outcomes, bytes)) in history {
            let piece = Piece { outcomes }.encode();
            let bytes = bytes + piece.len();
            plan.arguments.extend([b"h".to_vec(), bucket.to_string().into(), bytes.to_string().into(), piece]);
        }
        (!plan.arguments.is_empty()).then_some(plan)
    }

    /// This much of the tenant's entries is finished, and the jobs that follow are its own.
    fn of_tenant(&mut self, tenant: TenantId, bytes: u64) {
        self.tenant = Some(tenant);
        self.arguments.extend([b"t".to_vec(), tenant_name(tenant).into(), bytes.to_string().into()]);
    }

    /// Where the record's jobs go, and what of its origin is left.
    fn moves(&mut self, record: &Record, gone: &mut HashSet<OriginKey>) {
        let has_jobs = matches!(record.origin, Origin::Job(_)) || record.deliveries.iter().any(|delivery| delivery.job.is_some());
        if has_jobs && self.tenant != Some(record.tenant) {
            self.of_tenant(record.tenant, 0);
        }
        if record.finished {
            gone.insert(key(record.origin));
            self.gone.push(record.origin);
            let put_again = |id: DeliveryId| {
                record.deliveries.iter().any(|delivery| place(delivery, record.tenant).is_some_and(|(job, _)| job.id == id))
            };
            if let Origin::Job(id) = record.origin
                && !put_again(id)
            {
                self.arguments.extend([b"x".to_vec(), id.0.to_be_bytes().to_vec()]);
            }
        }
        for delivery in &record.deliveries {
            let Some((job, place)) = place(delivery, record.tenant) else { continue };
            let dead = if let DeliveryState::DeadLettered { reason } = &delivery.state {
                Some(Dead { at: delivery.at, reason, last: delivery.last_attempt() })
            } else {
                None
            };
            self.arguments.extend([b"p".to_vec(), job.id.0.to_be_bytes().to_vec(), place, rest(job, dead)]);
            let moved = Origin::Job(job.id);
            if gone.insert(key(moved)) {
                self.gone.push(moved);
            }
        }
    }
}

/// The job that goes on from this outcome, and where it goes.
fn place(delivery: &DeliveryRecord, tenant: TenantId) -> Option<(&Job, Vec<u8>)> {
    if let Some((queue, line, due)) = delivery.lined() {
        return Some((delivery.job.as_deref()?, spot(queue, line, delivery.output, due)));
    }
    let place = match &delivery.state {
        DeliveryState::Scheduled { due } => format!("r{}", due.0).into_bytes(),
        DeliveryState::Parked { queue: Some(queue), .. } => format!("q|{}", queue_name(*queue)).into_bytes(),
        DeliveryState::DeadLettered { .. } => grave(delivery.at, tenant),
        _ => return None,
    };
    Some((delivery.job.as_deref()?, place))
}

type OriginKey = (u8, u64, u128);

fn key(origin: Origin) -> OriginKey {
    match origin {
        Origin::Entry(ticket) => (lane_index(ticket.lane) as u8, ticket.major, u128::from(ticket.minor)),
        Origin::Job(id) => (u8::MAX, 0, id.0),
    }
}

/// What the record ends and what was written for its origin; none if the origin is not in hand.
fn in_hand<'a>(record: &Record, hand: &'a Hand, gone: &HashSet<OriginKey>) -> Option<(End, &'a [u64])> {
    if gone.contains(&key(record.origin)) {
        return None;
    }
    match record.origin {
        Origin::Entry(ticket) => {
            let entry = hand.entries.get(&ticket)?;
            let finished = Finished { ticket, accepted_at: entry.accepted_at, source: entry.source, bytes: entry.bytes };
            let end = if record.finished && entry.event == record.event { End::Entry(finished) } else { End::Open };
            Some((end, &entry.written))
        }
        Origin::Job(id) => {
            let job = hand.jobs.get(&id)?;
            let own = record.deliveries.iter().filter(|delivery| delivery.id == id);
            let last = own.flat_map(|delivery| &delivery.attempts).map(|attempt| attempt.number).max();
            // An attempt that the job has behind it was recorded, and the job handed out again since.
            if last.is_some_and(|number| number <= job.attempts) {
                return None;
            }
            Some((if record.finished { End::Job(id) } else { End::Open }, &job.written))
        }
    }
}
