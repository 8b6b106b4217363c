//! Who owns a shard.
//!
//! The holder counts a heartbeat up in the store. A challenger takes over when it has seen the same heartbeat for the lease's whole
//! time by its own clock, and then again over several successful round trips. No key expires by the server's clock: after a stall
//! or a restart of the store that would end every lease at once, with every owner alive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{Value, cmd};

use super::error::{Fault, odd};
use super::hold::{Hold, ticket, token};
use super::{Inner, scripts};
use crate::clock::Timestamp;
use crate::event::{Lane, Shard};
use crate::store::{Lease, StoreError, Ticket};

/// How often a challenger looks again before it takes over.
const LAST_LOOKS: u32 = 3;
/// How many jobs are put back in one step.
const RESTORE_STEP: usize = 500;
const STEAL_TRIES: u32 = 3;

/// What a challenger saw of a holder, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    token: String,
    heartbeat: String,
    node: String,
    ttl: Duration,
}

/// Holders that other nodes were seen to be.
#[derive(Default)]
pub(super) struct Sightings(Mutex<HashMap<Shard, (Holder, Timestamp)>>);

impl Sightings {
    /// Since when this holder has not moved.
    fn since(&self, shard: Shard, holder: &Holder, now: Timestamp) -> Timestamp {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get(&shard) {
            Some((seen, since)) if seen == holder => *since,
            _ => {
                all.insert(shard, (holder.clone(), now));
                now
            }
        }
    }

    fn forget(&self, shard: Shard) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }
}

/// What becomes of a shard that nobody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vacant {
    Taken,
    Left,
}

pub(super) async fn acquire(
    inner: &Arc<Inner>,
    shard: Shard,
    node: &str,
    ttl: Duration,
    vacant: Vacant,
) -> Result<Option<Lease>, StoreError> {
    for _ in 0..STEAL_TRIES {
        // A failed look is no look: the holder may have failed to renew for the same reason.
        let holder = look(inner, shard).await.inspect_err(|_| inner.sightings.forget(shard))?;
        if holder.is_none() && vacant == Vacant::Left {
            return Ok(None);
        }
        let own = holder.as_ref().is_some_and(|holder| holder.node == node);
        if let Some(holder) = &holder
            && !own
            && !gone(inner, shard, holder).await.inspect_err(|_| inner.sightings.forget(shard))?
        {
            return Ok(None);
        }
        if let Some(lease) = take_over(inner, shard, node, ttl, holder.as_ref()).await? {
            inner.sightings.forget(shard);
            return Ok(Some(lease));
        }
        if !own {
            return Ok(None);
        }
        // Our own old lease was renewed between the look and the take-over: look again.
    }
    Ok(None)
}

/// Notes that the node takes shards. This goes by the server's clock: it decides who should have how many, never who has one.
pub(super) async fn present(inner: &Inner, node: &str, ttl: Duration) -> Result<usize, StoreError> {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(1 << 40);
    let mut call = scripts::PRESENT.call(&[&inner.names.nodes()]);
    call.arg(node).arg(millis);
    let answer = inner.owner.repeat(&call).await.map_err(Fault::into_store)?;
    redis::from_redis_value(answer).map_err(|_| odd("its nodes"))
}

async fn look(inner: &Inner, shard: Shard) -> Result<Option<Holder>, StoreError> {
    let ask = cmd("HMGET").arg(&inner.keys(shard)?.own).arg(&["t", "h", "n", "l"]).to_owned();
    let answer = inner.owner.repeat(&ask).await.map_err(Fault::into_store)?;
    let [token, heartbeat, node, ttl]: [Option<String>; 4] = redis::from_redis_value::<Vec<Option<String>>>(answer)
        .ok()
        .and_then(|all| all.try_into().ok())
        .ok_or_else(|| odd("an owner"))?;
    let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(None) };
    let ttl = Duration::from_millis(ttl.and_then(|ttl| ttl.parse().ok()).unwrap_or(0));
    Ok(Some(Holder { token, heartbeat: heartbeat.unwrap_or_default(), node: node.unwrap_or_default(), ttl }))
}

/// Whether the holder has shown no sign of life for its lease's time.
async fn gone(inner: &Inner, shard: Shard, holder: &Holder) -> Result<bool, StoreError> {
    let now = inner.clock.now();
    if now.since(inner.sightings.since(shard, holder, now)) < holder.ttl {
        return Ok(false);
    }
    let pause = (holder.ttl / 50).clamp(Duration::from_millis(2), Duration::from_millis(200));
    for _ in 0..LAST_LOOKS {
        tokio::time::sleep(pause).await;
        if look(inner, shard).await?.as_ref() != Some(holder) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn take_over(
    inner: &Arc<Inner>,
    shard: Shard,
    node: &str,
    ttl: Duration,
    from: Option<&Holder>,
) -> Result<Option<Lease>, StoreError> {
    let incarnation: u64 = rand::random();
    let keys = inner.keys(shard)?;
    let (expected, heartbeat) = from.map_or(("", ""), |holder| (&holder.token, &holder.heartbeat));
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let mut call = scripts::TAKE_OVER.call(&[&keys.own, &keys.token]);
    call.arg(expected).arg(heartbeat).arg(format!("{incarnation:016x}")).arg(node).arg(millis);
    let answer = inner.owner.repeat(&call).await.map_err(Fault::into_store)?;
    let epoch = match answer {
        Value::Nil => match look(inner, shard).await? {
            // The first answer was lost and the call sent again: it is ours all the same.
            Some(holder) if holder.token.ends_with(&format!(":{incarnation:016x}")) => holder.token,
            _ => return Ok(None),
        },
        answer => redis::from_redis_value(answer).map_err(|_| odd("a take-over"))?,
    };
    let epoch = epoch.split(':').next().and_then(|epoch| epoch.parse().ok()).ok_or_else(|| odd("an epoch"))?;
    let lease = Lease { shard, epoch, incarnation, ttl };
    let hold = Arc::new(Hold::new(inner, &lease, keys.clone(), Some(0)));
    let until = groups(inner, &hold).await?;
    hold.again(until);
    restore(inner, &hold).await?;
    inner.install(hold);
    Ok(Some(lease))
}

/// Makes the lanes' groups where they are missing. Answers for each lane up to where entries may be finished already.
pub(super) async fn groups(inner: &Inner, hold: &Hold) -> Result<Vec<Option<Ticket>>, StoreError> {
    let keys = &hold.keys;
    let lanes = Lane::ALL.map(|lane| keys.lane(lane));
    let mut call = scripts::GROUPS.call(&[&keys.own, lanes[0], lanes[1], lanes[2]]);
    call.arg(&hold.token).arg(&Lane::ALL.map(Lane::as_str)[..]);
    let answer = inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?;
    let until: Vec<String> = redis::from_redis_value(answer).map_err(|_| odd("its groups"))?;
    Ok(Lane::ALL.iter().zip(until).map(|(lane, until)| ticket(*lane, until.as_bytes())).collect())
}

/// Puts what an earlier owner had taken back to where it was.
async fn restore(inner: &Inner, hold: &Hold) -> Result<(), StoreError> {
    loop {
        let mut call = scripts::RESTORE.call(&[&hold.keys.own]);
        call.arg(&hold.token).arg(RESTORE_STEP);
        let answer = inner.owner.repeat(&call).await.map_err(|fault| inner.fault(hold, fault))?;
        let back: usize = redis::from_redis_value(answer).map_err(|_| odd("a restore"))?;
        if back < RESTORE_STEP {
            return Ok(());
        }
    }
}

pub(super) async fn keep(inner: &Arc<Inner>, lease: &Lease, how: &'static str) -> Result<(), StoreError> {
    let keys = inner.keys(lease.shard)?;
    let mut call = scripts::KEEP.call(&[&keys.own, &keys.token]);
    call.arg(token(lease)).arg(how);
    match inner.owner.repeat(&call).await {
        Ok(_) => {
            if how == RELEASE {
                inner.forget(lease);
            }
            Ok(())
        }
        Err(fault) if fault.is("FENCED") => {
            inner.forget(lease);
            Err(StoreError::Fenced(lease.shard))
        }
        Err(fault) => Err(fault.into_store()),
    }
}

pub(super) const RENEW: &str = "renew";
pub(super) const RELEASE: &str = "release";
