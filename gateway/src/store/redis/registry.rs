//! What belongs to no shard: the configuration, components, what is remembered for a while, and what nodes say.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::{Value, cmd};

use super::error::{Fault, odd};
use super::{Inner, scripts};
use crate::event::{Revision, VersionHash};
use crate::store::{ConfigChange, StoreError};

pub(super) async fn config(inner: &Arc<Inner>) -> Result<(Revision, Vec<(String, Bytes)>), StoreError> {
    let ask = scripts::CONFIG.call(&[&inner.names.revision(), &inner.names.config()]);
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let (revision, records): (u64, Vec<(String, Vec<u8>)>) =
        redis::from_redis_value(answer).map_err(|_| odd("the configuration"))?;
    let records = records.into_iter().map(|(key, value)| (key, Bytes::from(value))).collect();
    Ok((Revision(revision), records))
}

pub(super) async fn revision(inner: &Arc<Inner>) -> Result<Revision, StoreError> {
    let answer = inner.query.repeat(cmd("GET").arg(inner.names.revision())).await.map_err(Fault::into_store)?;
    let revision: Option<u64> = redis::from_redis_value(answer).map_err(|_| odd("the revision"))?;
    Ok(Revision(revision.unwrap_or(0)))
}

pub(super) async fn configure(inner: &Arc<Inner>, expected: Revision, changes: Vec<ConfigChange>) -> Result<Revision, StoreError> {
    let next = Revision(expected.0.saturating_add(1));
    let (revision, records) = (inner.names.revision(), inner.names.config());
    let mut call = scripts::CONFIGURE.call(&[&revision, &records]);
    let sets: Vec<(&String, &Bytes)> = changes.iter().filter_map(|(key, value)| Some((key, value.as_ref()?))).collect();
    call.arg(expected.0).arg(next.0).arg(sets.len());
    for (key, value) in sets {
        call.arg(key).arg(&value[..]);
    }
    for (key, _) in changes.iter().filter(|(_, value)| value.is_none()) {
        call.arg(key);
    }
    let inner = inner.clone();
    super::detached(async move {
        // One try: sent again after a lost answer, it would find its own change and call it a conflict.
        let answer = inner.query.once(&call).await.map_err(Fault::into_store)?;
        match redis::from_redis_value::<(u64, u64)>(answer).map_err(|_| odd("a configuration"))? {
            (1, _) => Ok(next),
            (_, present) => Err(StoreError::Conflict(Revision(present))),
        }
    })
    .await
}

pub(super) async fn put_component(inner: &Arc<Inner>, version: VersionHash, component: Bytes) -> Result<(), StoreError> {
    let inner = inner.clone();
    super::detached(async move {
        let put = cmd("SET").arg(inner.names.component(&version.to_string())).arg(&component[..]).to_owned();
        inner.query.repeat(&put).await.map(drop).map_err(Fault::into_store)
    })
    .await
}

pub(super) async fn component(inner: &Arc<Inner>, version: VersionHash) -> Result<Option<Bytes>, StoreError> {
    let ask = cmd("GET").arg(inner.names.component(&version.to_string())).to_owned();
    bytes(inner.query.repeat(&ask).await.map_err(Fault::into_store)?)
}

pub(super) async fn remember(inner: &Arc<Inner>, key: &str, value: Bytes, ttl: Duration) -> Result<Option<Bytes>, StoreError> {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52);
    let set = cmd("SET").arg(inner.names.memory(key)).arg(&value[..]).arg("NX").arg("GET").arg("PX").arg(millis).to_owned();
    let inner = inner.clone();
    super::detached(async move {
        // One try: sent again, it would find what it has set itself.
        bytes(inner.query.once(&set).await.map_err(Fault::into_store)?)
    })
    .await
}

pub(super) async fn say(inner: &Arc<Inner>, topic: &str, node: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
    let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52);
    let mut call = scripts::SAY.call(&[&inner.names.said(topic)]);
    call.arg(node).arg(&value[..]).arg(millis);
    let inner = inner.clone();
    super::detached(async move { inner.query.repeat(&call).await.map(drop).map_err(Fault::into_store) }).await
}

pub(super) async fn said(inner: &Arc<Inner>, topic: &str) -> Result<Vec<Bytes>, StoreError> {
    let ask = scripts::SAID.call(&[&inner.names.said(topic)]);
    let answer = inner.query.repeat(&ask).await.map_err(Fault::into_store)?;
    let said: Vec<Vec<u8>> = redis::from_redis_value(answer).map_err(|_| odd("what nodes say"))?;
    Ok(said.into_iter().map(Bytes::from).collect())
}

fn bytes(answer: Value) -> Result<Option<Bytes>, StoreError> {
    match answer {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes.into())),
        _ => Err(odd("a value")),
    }
}
