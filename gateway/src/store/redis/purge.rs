//! Removing a tenant: first its bookmarks and its plugins' tables, then its jobs, then its events, a bounded step at a time.
//!
//! A pass looks at all of it once; a purge is done after a pass that found nothing. What is in somebody's hands is left to a later
//! pass. Where a pass stands is remembered by the owner alone: a new one begins anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use redis::{Pipeline, Value, cmd};

use super::error::{Fault, odd};
use super::hold::{Hold, Pen};
use super::jobs::open;
use super::keys::tenant_name;
use super::piece::{Merged, merge};
use super::trim::{Index, cut};
use super::{Inner, bookmark, scripts, table};
use crate::event::{DeliveryId, EventId, Failure, TenantId};
use crate::store::{Home, Lease, Purged, StoreError};

/// How many jobs, or members of the tenant's index, one step looks at.
const STEP_JOBS: usize = 256;
const STEP_PAGES: usize = 64;

/// How far a pass has come.
#[derive(Clone, Copy)]
pub(super) struct Walk {
    stage: Stage,
    /// Whether the pass has found nothing so far.
    is_clean: bool,
    /// Whether it has looked at everything.
    is_over: bool,
}

/// Where it goes on.
#[derive(Clone, Copy)]
enum Stage {
    Tables,
    Jobs { cursor: u64 },
    Events { bucket: u64 },
}

impl Default for Walk {
    fn default() -> Self {
        Self { stage: Stage::Tables, is_clean: true, is_over: false }
    }
}

pub(super) async fn purge(inner: &Arc<Inner>, lease: &Lease, tenant: TenantId) -> Result<Purged, StoreError> {
    let mut pen = Pen::of(inner, lease).await?;
    super::detached(async move {
        let mut walk = pen.writer.purging.get(&tenant).copied().unwrap_or_default();
        let purged = match walk.stage {
            Stage::Tables => tables(&pen, tenant, &mut walk).await?,
            Stage::Jobs { cursor } => jobs(&pen, tenant, cursor, &mut walk).await?,
            Stage::Events { bucket } => events(&pen, tenant, bucket, &mut walk).await?,
        };
        if walk.is_over {
            pen.writer.purging.remove(&tenant);
        } else {
            pen.writer.purging.insert(tenant, walk);
        }
        Ok(purged)
    })
    .await
}

/// What has been purged, as whoever asks may read it.
pub(super) async fn purged(inner: &Arc<Inner>, home: Home) -> Result<Option<Purged>, StoreError> {
    let keys = inner.keys(home.shard)?;
    let ask = cmd("HMGET").arg(keys.purged(home.tenant)).arg(&["events", "given_up", "dead_letters", "done"]).to_owned();
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let is_there = matches!(&answer, Value::Array(fields) if fields.iter().any(|field| !matches!(field, Value::Nil)));
    is_there.then(|| read(answer)).transpose()
}

fn read(answer: Value) -> Result<Purged, StoreError> {
    let fields: [Option<u64>; 4] = redis::from_redis_value::<Vec<Option<u64>>>(answer)
        .ok()
        .and_then(|fields| fields.try_into().ok())
        .ok_or_else(|| odd("a purge's counts"))?;
    let [events, given_up, dead_letters, done] = fields.map(Option::unwrap_or_default);
    Ok(Purged { events, given_up, dead_letters, done: done == 1 })
}

async fn tables(pen: &Pen, tenant: TenantId, walk: &mut Walk) -> Result<Purged, StoreError> {
    let Pen { inner, hold, .. } = pen;
    let home = Home { tenant, shard: hold.shard };
    let had_bookmarks = bookmark::drop_all(inner, home).await?;
    if table::drop_tables(inner, home, None).await? == 0 && !had_bookmarks {
        return jobs(pen, tenant, 0, walk).await;
    }
    walk.is_clean = false;
    let mut call = scripts::PURGE.call(&[&hold.keys.own]);
    call.arg(&hold.token).arg(tenant_name(tenant)).arg("0");
    read(inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?)
}

/// The shard's jobs are not in order of tenants, so that all of them are looked at.
async fn jobs(pen: &Pen, tenant: TenantId, cursor: u64, walk: &mut Walk) -> Result<Purged, StoreError> {
    let Pen { inner, hold, .. } = pen;
    let ask = cmd("HSCAN").arg(&hold.keys.jobs).arg(cursor).arg("COUNT").arg(STEP_JOBS).to_owned();
    let answer = inner.owner.repeat(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let (next, fields): (u64, Vec<Vec<u8>>) = redis::from_redis_value(answer).map_err(|_| odd("HSCAN"))?;
    let mut call = scripts::PURGE.call(&[&hold.keys.own]);
    call.arg(&hold.token).arg(tenant_name(tenant)).arg("");
    for pair in fields.chunks_exact(2) {
        let (place, stored) = match open(&pair[1]) {
            Ok(opened) => opened,
            Err(error) => {
                tracing::error!(shard = hold.shard.0, id = %hex::encode(&pair[0]), %error, "a job is unreadable; it stays");
                continue;
            }
        };
        if stored.job.tenant() == tenant {
            walk.is_clean = false;
            let is_older = stored.dead.is_some_and(|(_, reason)| reason.code != Failure::TENANT_DELETED);
            let counts_as = if place.first() == Some(&b'd') && is_older { "dead_letters" } else { "given_up" };
            call.arg(&pair[0]).arg(place).arg(counts_as);
        }
    }
    walk.stage = if next == 0 { Stage::Events { bucket: 0 } } else { Stage::Jobs { cursor: next } };
    read(inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?)
}

async fn events(pen: &Pen, tenant: TenantId, from: u64, walk: &mut Walk) -> Result<Purged, StoreError> {
    let Pen { inner, hold, .. } = pen;
    let mut ask = cmd("ZRANGEBYLEX");
    ask.arg(hold.keys.index(tenant)).arg([b"[", &from.to_be_bytes()[..]].concat()).arg("+").arg("LIMIT").arg(0).arg(STEP_PAGES);
    let answer = inner.owner.repeat(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let pages: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a tenant's index"))?;
    let buckets: BTreeSet<u64> =
        pages.iter().filter_map(|page| page.first_chunk()).map(|bucket| u64::from_be_bytes(*bucket)).collect();
    for bucket in &buckets {
        walk.is_clean = false;
        bucket_step(inner, hold, *bucket, tenant).await?;
    }
    // A bucket that the step saw in part was dealt with whole.
    match buckets.last() {
        Some(last) if pages.len() == STEP_PAGES => walk.stage = Stage::Events { bucket: last + 1 },
        _ => walk.is_over = true,
    }
    let mut call = scripts::PURGE.call(&[&hold.keys.own]);
    let done = if !walk.is_over {
        ""
    } else if walk.is_clean {
        "1"
    } else {
        "0"
    };
    call.arg(&hold.token).arg(tenant_name(tenant)).arg(done);
    read(inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?)
}

/// Takes the tenant's finished events out of one bucket, but for those of which a job goes on.
async fn bucket_step(inner: &Inner, hold: &Hold, bucket: u64, tenant: TenantId) -> Result<(), StoreError> {
    let ask = cmd("LRANGE").arg(hold.keys.bucket(bucket)).arg(0).arg(-1).to_owned();
    let answer = inner.owner.repeat(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let pieces: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("a bucket of history"))?;
    let index = Index::read(inner, hold, bucket, [tenant].into()).await?;
    let merged = merge(&pieces, |event| index.lists(tenant, event))?;
    let going_on = going_on(inner, hold, &merged).await?;
    let going: BTreeMap<EventId, _> = merged
        .iter()
        .filter(|(event, _)| !going_on.contains(event))
        .filter_map(|(event, merged)| Some((*event, Some((tenant, merged.finished?)))))
        .collect();
    if going.is_empty() {
        return Ok(());
    }
    let count = going.len();
    let name = tenant_name(tenant);
    // Somebody who added to the bucket meanwhile leaves it to the next pass.
    let counting = |call: &mut redis::Cmd| {
        call.arg("u").arg(name).arg(1).arg(count);
    };
    cut(inner, hold, bucket, &pieces, &index, &going, counting).await.map(drop)
}

/// Events with a job that is still there: one that somebody has in hand. Its delivery may have ended: an outcome can come with another
/// record than the job's own.
async fn going_on(inner: &Inner, hold: &Hold, merged: &HashMap<EventId, Merged>) -> Result<BTreeSet<EventId>, StoreError> {
    let deliveries = merged.iter().flat_map(|(event, merged)| merged.rows.iter().map(|row| (*event, row.id)));
    let deliveries: Vec<(EventId, DeliveryId)> = deliveries.collect();
    if deliveries.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut ask = Pipeline::new();
    for (_, id) in &deliveries {
        ask.cmd("HEXISTS").arg(&hold.keys.jobs).arg(&id.0.to_be_bytes()[..]);
    }
    let answers = inner.owner.repeat_all(&ask).await.map_err(|fault| inner.fault(hold, fault))?;
    let there = deliveries.into_iter().zip(answers).filter(|(_, answer)| !matches!(answer, Value::Int(0)));
    Ok(there.map(|((event, _), _)| event).collect())
}
