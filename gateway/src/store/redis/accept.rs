//! Accept: one `MULTI`/`EXEC` for a batch (on a cluster: one for each shard in it), and the truth about a lost answer.
//!
//! Redis groups what it makes durable only inside a transaction, so a batch must be one. Each transaction sets the committer's
//! sequence. When the answer to `EXEC` is lost, the old connection is silenced and the sequence tells whether the transaction was
//! executed; if it was not, it is sent again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::config::Durability;
use super::error::{Fault, explain, odd};
use super::jobs::counted;
use super::keys::{Keys, ShardKeys, tenant_name};
use super::link::{Identity, Link, Live, Patience};
use super::piece::{Listed, bucket_of, page};
use super::scripts;
use crate::event::{EventId, Lane, Shard, TenantId, encode_event};
use crate::store::{Acceptance, Accepted, StoreError};

/// How many transactions may be under way at a time. More gain nothing: Redis executes one after the other.
pub(super) const COMMITTERS: usize = 4;
/// How long a committer's last sequence is kept: far longer than anybody asks for it.
const SEQUENCE_KEPT: Duration = Duration::from_secs(3600);

/// Those who commit, each with one transaction at a time.
pub(super) struct Committers {
    idle: std::sync::Mutex<Vec<Committer>>,
    permits: Arc<Semaphore>,
}

/// Names its transactions by a number of its own and a sequence.
#[derive(Debug)]
pub(super) struct Committer {
    number: u64,
    sequence: u64,
}

/// A committer for one batch; it goes back when this is dropped.
pub(super) struct Turn {
    all: Arc<Committers>,
    committer: Option<Committer>,
    _permit: OwnedSemaphorePermit,
}

impl Committers {
    pub(super) fn new() -> Self {
        let idle = (0..COMMITTERS).map(|_| Committer { number: rand::random(), sequence: 0 }).collect();
        Self { idle: std::sync::Mutex::new(idle), permits: Arc::new(Semaphore::new(COMMITTERS)) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Committer>> {
        self.idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits for a free committer.
    pub(super) async fn turn(self: &Arc<Self>) -> Turn {
        let permit = self.permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let committer = self.idle().pop();
        Turn { all: self.clone(), committer, _permit: permit }
    }
}

impl Turn {
    fn next(&mut self) -> (u64, u64) {
        let committer = self.committer.get_or_insert_with(|| Committer { number: rand::random(), sequence: 0 });
        committer.sequence += 1;
        (committer.number, committer.sequence)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(committer) = self.committer.take() {
            self.all.idle().push(committer);
        }
    }
}

/// What accept needs of the engine.
pub(super) struct Ingest {
    pub(super) link: Link,
    pub(super) keys: Keys,
    pub(super) shards: Arc<[ShardKeys]>,
    pub(super) durability: Durability,
    pub(super) replica_wait: Duration,
    pub(super) settle_within: Duration,
    pub(super) cluster: bool,
    pub(super) committers: Arc<Committers>,
}

/// A transaction and how to read its answer.
struct Unit {
    transaction: Pipeline,
    sequence_key: String,
    sequence: u64,
    /// The events, by their places in the batch, and whose they are.
    events: Vec<(usize, Owner)>,
    once: Vec<Once>,
    /// The commands that answer how much of these is queued, by their positions.
    queued: BTreeMap<Owner, usize>,
}

/// A tenant in a shard: what is counted as queued is theirs.
type Owner = (Shard, TenantId);

/// An event that is kept only if its dedup key is free.
struct Once {
    event: usize,
    id: EventId,
    key: String,
    /// The position of its script.
    position: usize,
}

impl Ingest {
    /// Keeps a batch. To be run in a task of its own: a caller that goes away must not leave a write half-way.
    pub(super) async fn accept(&self, batch: Vec<Acceptance>, mut turn: Turn) -> Result<Vec<Accepted>, StoreError> {
        let mut answers = vec![Accepted::New { queued: 0 }; batch.len()];
        let mut groups: BTreeMap<Shard, Vec<usize>> = BTreeMap::new();
        for (index, acceptance) in batch.iter().enumerate() {
            groups.entry(if self.cluster { acceptance.shard } else { Shard(0) }).or_default().push(index);
        }
        for (shard, indices) in groups {
            let (number, sequence) = turn.next();
            let sequence_key =
                if self.cluster { self.shards[usize::from(shard.0)].committed(number) } else { self.keys.committed(number) };
            let unit = self.unit(&batch, &indices, sequence_key, sequence);
            for (event, answer) in self.commit(&unit).await? {
                answers[event] = answer;
            }
        }
        Ok(answers)
    }

    fn unit(&self, batch: &[Acceptance], indices: &[usize], sequence_key: String, sequence: u64) -> Unit {
        let transaction = Pipeline::with_capacity(indices.len() + 8);
        let mut unit = Unit { transaction, sequence_key, sequence, events: vec![], once: vec![], queued: BTreeMap::new() };
        unit.transaction.atomic();
        let kept = u64::try_from(SEQUENCE_KEPT.as_millis()).unwrap_or(u64::MAX);
        unit.transaction.cmd("SET").arg(&unit.sequence_key).arg(sequence).arg("PX").arg(kept);
        let mut listed: BTreeMap<Owner, BTreeMap<u64, Vec<Listed>>> = BTreeMap::new();
        let mut added: BTreeMap<Owner, u64> = BTreeMap::new();
        let mut unfinished: BTreeMap<(Shard, Lane), u64> = BTreeMap::new();
        let mut touched: Vec<Shard> = Vec::new();
        for &index in indices {
            let Acceptance { event, shard, lane, dedup } = &batch[index];
            let event = event.event();
            let keys = &self.shards[usize::from(shard.0)];
            let (bucket, row) = (bucket_of(event.id), Listed::of(event, *lane));
            let entry = encode_event(event);
            let (owner, size) = ((*shard, event.tenant), counted(event.request.size()));
            let added = added.entry(owner).or_default();
            unit.events.push((index, owner));
            if let Some(dedup) = dedup {
                let key = keys.dedup(&dedup.key);
                let window = u64::try_from(dedup.window.as_millis()).unwrap_or(u64::MAX).max(1);
                let index_key = keys.index(event.tenant);
                let mut call =
                    scripts::ACCEPT_ONCE.call(&[&key, keys.lane(*lane), &index_key, &keys.unfinished, &keys.queued_bytes]);
                call.arg(&event.id.0.to_be_bytes()[..]).arg(window).arg(&entry[..]).arg(page(bucket, &[row])).arg(lane.as_str());
                call.arg(tenant_name(event.tenant)).arg(size);
                unit.once.push(Once { event: index, id: event.id, key, position: unit.transaction.len() });
                unit.transaction.add_command(call);
            } else {
                let mut add = Cmd::with_capacity(5, entry.len() + 64);
                add.arg("XADD").arg(keys.lane(*lane)).arg("*").arg("e").arg(&entry[..]);
                unit.transaction.add_command(add);
                listed.entry((*shard, event.tenant)).or_default().entry(bucket).or_default().push(row);
                *unfinished.entry((*shard, *lane)).or_default() += 1;
                *added += size;
            }
            if !touched.contains(shard) {
                touched.push(*shard);
            }
        }
        for ((shard, tenant), buckets) in listed {
            let mut add = cmd("ZADD");
            add.arg(self.shards[usize::from(shard.0)].index(tenant));
            for (bucket, rows) in buckets {
                add.arg(0).arg(page(bucket, &rows));
            }
            unit.transaction.add_command(add);
        }
        for ((shard, lane), count) in unfinished {
            let keys = &self.shards[usize::from(shard.0)];
            unit.transaction.cmd("HINCRBY").arg(&keys.unfinished).arg(lane.as_str()).arg(count);
        }
        for (owner @ (shard, tenant), bytes) in added {
            unit.queued.insert(owner, unit.transaction.len());
            unit.transaction.add_command(queued(&self.shards[usize::from(shard.0)], tenant, bytes));
        }
        for shard in touched {
            unit.transaction.cmd("PUBLISH").arg(&self.shards[usize::from(shard.0)].wake).arg("");
        }
        unit
    }

    async fn commit(&self, unit: &Unit) -> Result<Vec<(usize, Accepted)>, StoreError> {
        let live = self.link.live().await?;
        match self.execute(unit, &live).await {
            Ok(answers) => Ok(answers),
            Err(Fault::Lost(error)) => {
                tracing::warn!(%error, "the answer to a batch of events was lost; asking redis what became of it");
                self.recover(unit, live.identity.clone()).await
            }
            Err(fault) => Err(fault.into_store()),
        }
    }

    async fn execute(&self, unit: &Unit, live: &Live) -> Result<Vec<(usize, Accepted)>, Fault> {
        let queued = unit.transaction.len() + 1;
        let values = self.link.exchange(live, &unit.transaction, queued, 1).await?;
        let Some(Value::Array(items)) = values.into_iter().next() else {
            return Err(Fault::Unsent(odd("EXEC")));
        };
        let answers = self.read(unit, items, live).await?;
        self.replicated(live).await?;
        Ok(answers)
    }

    async fn read(&self, unit: &Unit, items: Vec<Value>, live: &Live) -> Result<Vec<(usize, Accepted)>, Fault> {
        let mut missed = false;
        for item in &items {
            if let Value::ServerError(error) = item {
                if error.code() != "NOSCRIPT" {
                    return Err(Fault::Unsent(explain(&error.clone().into())));
                }
                missed = true;
            }
        }
        if missed {
            // Somebody flushed the scripts. What stands beside them is kept; the next connection loads them again.
            self.link.retire(live);
            return Err(Fault::Unsent(StoreError::Unavailable("redis had lost its scripts (SCRIPT FLUSH): try again".into())));
        }
        let queued: BTreeMap<Owner, Value> =
            unit.queued.iter().filter_map(|(owner, position)| Some((*owner, items.get(*position)?.clone()))).collect();
        let mut answers = unit.answers(queued).map_err(Fault::Unsent)?;
        for once in &unit.once {
            let Some(Value::BulkString(first)) = items.get(once.position) else {
                return Err(Fault::Unsent(odd("a dedup script")));
            };
            once.judge(first, &mut answers).map_err(Fault::Unsent)?;
        }
        Ok(answers.into_iter().collect())
    }

    /// In the mode `replicated`: an accept counts only once a replica has it.
    async fn replicated(&self, live: &Live) -> Result<(), Fault> {
        if self.durability != Durability::Replicated {
            return Ok(());
        }
        let millis = u64::try_from(self.replica_wait.as_millis()).unwrap_or(u64::MAX).max(1);
        match self.link.ask(live, cmd("WAIT").arg(1).arg(millis)).await? {
            Value::Int(count) if count >= 1 => Ok(()),
            _ => Err(Fault::Unsent(StoreError::Unavailable(
                "no replica confirmed the write in time: the events may have been accepted; look at the replicas".into(),
            ))),
        }
    }

    /// Finds out what became of a transaction whose answer was lost, and executes it if it was not.
    async fn recover(&self, unit: &Unit, mut sent_on: Option<Identity>) -> Result<Vec<(usize, Accepted)>, StoreError> {
        let mut patience = Patience::new(self.settle_within);
        loop {
            let fault = match self.link.live().await {
                Err(error) => Fault::Unsent(error),
                Ok(live) => match self.settle(unit, &live, sent_on.as_ref()).await {
                    Ok(answers) => return Ok(answers),
                    Err(fault) => {
                        if matches!(fault, Fault::Lost(_)) {
                            sent_on.clone_from(&live.identity);
                        }
                        fault
                    }
                },
            };
            if !fault.passes() || !patience.rest().await {
                return Err(fault.into_store());
            }
        }
    }

    async fn settle(&self, unit: &Unit, live: &Live, sent_on: Option<&Identity>) -> Result<Vec<(usize, Accepted)>, Fault> {
        self.link.silence(live, sent_on).await?;
        let present = self.link.ask(live, cmd("GET").arg(&unit.sequence_key)).await?;
        let present: u64 = redis::from_redis_value::<Option<u64>>(present).ok().flatten().unwrap_or(0);
        if present < unit.sequence {
            return self.execute(unit, live).await;
        }
        let mut ask = Pipeline::new();
        for (shard, tenant) in unit.queued.keys() {
            ask.add_command(queued(&self.shards[usize::from(shard.0)], *tenant, 0));
        }
        let queued = self.link.exchange(live, &ask, 0, unit.queued.len()).await?;
        let queued = unit.queued.keys().copied().zip(queued).collect();
        let mut answers = unit.answers(queued).map_err(Fault::Unsent)?;
        for once in &unit.once {
            let first = self.link.ask(live, cmd("GET").arg(&once.key)).await?;
            // A key that ran out meanwhile was this event's or an earlier one's; New is the answer that a retry is safe with.
            if let Value::BulkString(first) = first {
                once.judge(&first, &mut answers).map_err(Fault::Unsent)?;
            }
        }
        if self.durability == Durability::Replicated {
            // WAIT counts the replicas that have what this connection wrote, and it has written nothing yet.
            self.link.ask(live, cmd("SET").arg(&unit.sequence_key).arg(unit.sequence).arg("KEEPTTL")).await?;
        }
        self.replicated(live).await?;
        Ok(answers.into_iter().collect())
    }
}

/// Adds to what is queued of a tenant; with nothing to add it only asks, which makes no field.
fn queued(keys: &ShardKeys, tenant: TenantId, bytes: u64) -> Cmd {
    let mut command = cmd(if bytes == 0 { "HGET" } else { "HINCRBY" });
    command.arg(&keys.queued_bytes).arg(tenant_name(tenant));
    if bytes > 0 {
        command.arg(bytes);
    }
    command
}

impl Unit {
    /// The answers for events that are all new.
    fn answers(&self, queued: BTreeMap<Owner, Value>) -> Result<BTreeMap<usize, Accepted>, StoreError> {
        let mut totals = BTreeMap::new();
        for (owner, answer) in queued {
            let total: Option<u64> = redis::from_redis_value(answer).map_err(|_| odd("the bytes that are queued"))?;
            totals.insert(owner, total.unwrap_or(0));
        }
        let new = |owner| Accepted::New { queued: totals.get(owner).copied().unwrap_or(0) };
        Ok(self.events.iter().map(|(event, owner)| (*event, new(owner))).collect())
    }
}

impl Once {
    /// Notes the event as a duplicate if another is the first with its key.
    fn judge(&self, first: &[u8], answers: &mut BTreeMap<usize, Accepted>) -> Result<(), StoreError> {
        let first = first.try_into().map(u128::from_be_bytes).map_err(|_| odd("a dedup key"))?;
        if first != self.id.0 {
            answers.insert(self.event, Accepted::Duplicate(EventId(first)));
        }
        Ok(())
    }
}
