//! Buckets that gateways share: for each a string with the time at which it will be full again, by the server's clock, which goes
//! a second after that is past. One script for each shard, all of them in one round trip (and so, with an fsync for each write, in one fsync).

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};

use super::error::{Fault, odd};
use super::keys::ShardKeys;
use super::{Inner, scripts};
use crate::event::Shard;
use crate::store::{Spent, StoreError};

/// The most buckets of one script: it must stay short for everybody else on the server.
const MAX_BUCKETS: usize = 256;
/// 35 years in microseconds: beyond it Lua's numbers lose some.
const LONGEST: u64 = 1 << 50;

pub(super) async fn spend(inner: &Inner, over: Duration, spent: &[Spent]) -> Result<Vec<Duration>, StoreError> {
    let mut by_shard: BTreeMap<Shard, Vec<usize>> = BTreeMap::new();
    for (index, one) in spent.iter().enumerate() {
        by_shard.entry(one.home.shard).or_default().push(index);
    }
    let mut calls = Vec::new();
    let mut order = Vec::with_capacity(spent.len());
    for (shard, indices) in by_shard {
        let keys = inner.keys(shard)?;
        for chunk in indices.chunks(MAX_BUCKETS) {
            calls.push(call(keys, over, chunk.iter().map(|index| &spent[*index])));
            order.extend_from_slice(chunk);
        }
    }
    let mut full_in = Vec::with_capacity(spent.len());
    for answer in ask(inner, calls).await.map_err(Fault::into_store)? {
        let micros: Vec<u64> = redis::from_redis_value(answer).map_err(|_| odd("shared buckets"))?;
        full_in.extend(micros);
    }
    if full_in.len() != spent.len() {
        return Err(odd("shared buckets"));
    }
    let mut answers = vec![Duration::ZERO; spent.len()];
    for (index, micros) in order.into_iter().zip(full_in) {
        answers[index] = Duration::from_micros(micros);
    }
    Ok(answers)
}

fn call<'a>(keys: &ShardKeys, over: Duration, spent: impl Iterator<Item = &'a Spent>) -> Cmd {
    let (names, times): (Vec<String>, Vec<u64>) =
        spent.map(|one| (keys.bucket_of(one.home.tenant, one.allowance), micros(one.time))).unzip();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut call = scripts::SPEND.call(&names);
    call.arg(micros(over)).arg(times);
    call
}

/// One try each: sent again after a lost answer, they would take twice.
async fn ask(inner: &Inner, calls: Vec<Cmd>) -> Result<Vec<Value>, Fault> {
    if calls.is_empty() {
        return Ok(Vec::new());
    }
    let link = &inner.query;
    if inner.connector.is_cluster() {
        let mut answers = Vec::with_capacity(calls.len());
        for call in calls {
            answers.push(link.once(&call).await?);
        }
        return Ok(answers);
    }
    let mut pipe = Pipeline::with_capacity(calls.len());
    for call in calls {
        pipe.add_command(call);
    }
    let live = link.live().await.map_err(Fault::Unsent)?;
    let answers = link.exchange(&live, &pipe, 0, pipe.len()).await?;
    let answers: Result<_, _> = answers.into_iter().map(|answer| answer.extract_error().map_err(Fault::of)).collect();
    if matches!(&answers, Err(fault) if fault.is("NOSCRIPT")) {
        // The next connection loads them again.
        link.retire(&live);
    }
    answers
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST)
}
