//! Moving everything out of a namespace, or into an empty one, while no gateway works on it.
//!
//! No lock keeps gateways away. So an export, and an import too, asks whether any is present; and an export looks at each shard before and
//! after for signs that somebody wrote: the owner's heartbeat, the last entry of each lane. A file whose export saw any is never ended.

mod export;
mod import;
mod vacancy;

use std::sync::Arc;

use redis::{Pipeline, Value, cmd};

use super::Inner;
use super::error::{Fault, odd};
use crate::event::Lane;
use crate::store::StoreError;

pub use export::Export;
pub use import::Import;

/// Refuses a store that an import did not fill to its end.
pub(super) async fn check_whole(inner: &Inner) -> Result<(), StoreError> {
    if is_importing(inner).await? {
        return Err(StoreError::Refused(format!(
            "an import into the namespace `{}` did not come to its end: run `tidegate import` again, which begins anew",
            inner.config.namespace
        )));
    }
    Ok(())
}

async fn is_importing(inner: &Inner) -> Result<bool, StoreError> {
    let answer = inner.query.repeat(cmd("EXISTS").arg(inner.names.importing())).await.map_err(Fault::into_store)?;
    Ok(answer != Value::Int(0))
}

/// Refuses a store that a gateway works on.
async fn check_alone(inner: &Inner) -> Result<(), StoreError> {
    let mut ask = Pipeline::new();
    ask.cmd("TIME").cmd("ZRANGE").arg(inner.names.nodes()).arg(0).arg(-1).arg("WITHSCORES");
    let mut answers = Vec::new();
    for command in ask.cmd_iter() {
        answers.push(inner.query.repeat(command).await.map_err(Fault::into_store)?);
    }
    let nodes: Vec<(String, f64)> = redis::from_redis_value(answers.pop().unwrap_or_default()).map_err(|_| odd("its nodes"))?;
    let (seconds, _): (u64, u64) = redis::from_redis_value(answers.pop().unwrap_or_default()).map_err(|_| odd("TIME"))?;
    let present: Vec<String> =
        nodes.into_iter().filter(|(_, until)| *until > seconds as f64 * 1000.0).map(|(node, _)| node).collect();
    if present.is_empty() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "gateways are running on it ({}): stop them all first; one that was killed counts for its lease's time",
        present.join(", ")
    )))
}

/// Of each shard what changes when somebody writes: the owner's token, heartbeat, epoch and sequence, and each lane's last entry.
async fn signs(inner: &Arc<Inner>) -> Result<Vec<Value>, StoreError> {
    let mut signs = Vec::new();
    for keys in inner.shards.iter() {
        let mut ask = Pipeline::new();
        ask.cmd("HMGET").arg(&keys.own).arg(&["t", "h", "e", "s"]);
        for lane in Lane::ALL {
            ask.cmd("XREVRANGE").arg(keys.lane(lane)).arg("+").arg("-").arg("COUNT").arg(1);
        }
        signs.extend(inner.query.repeat_all(&ask).await.map_err(Fault::into_store)?);
    }
    signs.push(inner.query.repeat(cmd("GET").arg(inner.names.revision())).await.map_err(Fault::into_store)?);
    Ok(signs)
}
