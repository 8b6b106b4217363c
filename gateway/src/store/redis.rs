//! The store on Redis streams: Redis 7 or later, or Valkey; one server, one behind Sentinel, or a cluster.
//!
//! # Key layout
//! `ns` is the namespace, `S` the shard. All keys of a shard carry one hash tag, so that they share a Cluster slot.
//!
//! | key | type | what it holds |
//! |---|---|---|
//! | `{ns:S}:in:<lane>` | stream, group `g`, consumer `o` | accepted events: one field with the encoded event; stays after its ack, for history |
//! | `{ns:S}:ix:<tenant>` | ZSET in order of its members | the tenant's events, packed by batch and bucket: id, time, source, lane |
//! | `{ns:S}:n` | hash | how many entries of each lane are not finished (the group's own `lag` is wrong after a restart) |
//! | `{ns:S}:f` | hash | how many entries of each lane have been finished |
//! | `{ns:S}:qb` | hash | bytes of what is queued, by tenant |
//! | `{ns:S}:dd:<key>` | string, lifetime | the first event with this dedup key |
//! | `{ns:S}:tb:n:<tenant>`, `{ns:S}:tb:c:<tenant>` | string, lifetime | when the tenant's shared bucket (normal lane, ceiling) will be full |
//! | `{ns:S}:own` | hash | owner: token, heartbeat, epoch, node, lease time, sequence of the last write |
//! | `{ns:S}:tok` | string | the token alone, which claims watch |
//! | `{ns:S}:h:<bucket>` | list | history: packed outcomes of the events whose ids were made in the same 32 ms |
//! | `{ns:S}:hb`, `{ns:S}:hs` | ZSET, number | the buckets; bytes of history |
//! | `{ns:S}:j` | hash | every job: its place, and how often it was put back there when its owner had gone away; its size, itself |
//! | `{ns:S}:rt`, `{ns:S}:tr` | ZSET | scheduled jobs by due time; those that are taken |
//! | `{ns:S}:q:<queue>`, `{ns:S}:tq` | ZSET | parked jobs by sequence; those that are taken |
//! | `{ns:S}:l:<queue>:<line>` | ZSET | the jobs of a line of an ordered queue, in order, the one that is taken too; `q:<queue>` holds the queue's lines that have nothing taken, by when their first is due |
//! | `{ns:S}:qs`, `{ns:S}:sq` | hash, number | lengths of the queues; the last sequence |
//! | `{ns:S}:dl`, `{ns:S}:dl:<tenant>` | ZSET in order of their members | dead letters by time: of the shard, of a tenant |
//! | `{ns:S}:kv:<tenant>:<plugin>`, `{ns:S}:kk:<tenant>:<plugin>` | hash, ZSET in order of its members | a plugin's table; its keys |
//! | `{ns:S}:ku:<tenant>` | hash | what the tenant's tables take: bytes, entries, and entries by plugin |
//! | `{ns:S}:kx:<tenant>`, `{ns:S}:ke` | ZSET | entries by when they end; tenants by when the first of theirs may |
//! | `{ns:S}:km:<tenant>`, `{ns:S}:ka:<tenant>` | ZSET by time, hash; lifetime | calls that wrote to tables, by name; what they answered |
//! | `{ns:S}:bm:<tenant>`, `{ns:S}:bc:<tenant>`, `{ns:S}:bb:<tenant>` | hash, hash, number | what the tenant's bookmarks say, by name; their copies; bytes of these |
//! | `{ns:S}:pu:<tenant>` | hash | what a deleted tenant's purge has removed |
//! | `{ns:c}:seq:<committer>` | number, lifetime | the last batch that this committer got through |
//! | `{ns:c}:nodes` | ZSET by expiry | the nodes that take shards |
//! | `{ns:c}:cfg`, `{ns:c}:rev` | hash, number | the configuration; its revision |
//! | `{ns:c}:imp` | string | there while an import fills the store |
//! | `{ns:w:<hash>}`, `ns:m:<key>` | string | components; what is remembered |
//! | `ns:t:<topic>` | hash, lifetime | what each node says under a topic, with when it ends |
//! | `{ns:S}:wake` | channel | wakes the owner of a shard |
//!
//! # Costs, in round trips
//! accept 1 (cluster: one for each shard in the batch) · spend 1 (cluster: the same) · present 1 · acquire 4, a take-over from another node 3 more · renew, release, claim,
//! record, due, unpark, heads, put back, next due, queues 1 · reclaim 1 for each lane and each 1000 pending, 1 for each 256 that it reads, 1 for their progress, 1 for each 256 of a lane that are as often claimed, 1 after a claim without an answer ·
//! table, page of a table, use of tables 1 · a step of dropping tables 1 · bookmark 2, everything else of bookmarks 1 ·
//! trim 3, and 2 for each bucket that it touches · purge 2, and 3 to 4 for each bucket that it touches · look-up of an event 2 (unfinished: the search for its body takes 1 for each
//! 256 entries of its lane around its time) · listing of events 1 for each 64 members of the index, and 1 for each bucket that the page touches (a bucket holds what
//! the shard accepted in 32 ms, some 110 bytes an event) · dead letters 2 · new work 2 for each job · queued bytes, say, said 1 · depth 1, and 2 to 3 for each lane that is not empty.
//!
//! # Why it is like this
//! - **History is found by the event's id alone**: the id carries its time, the time names the bucket. A log of outcomes in order of
//!   time would have to be searched from the acceptance to wherever the outcome is, which is hours away after a backlog; an entry
//!   for each event would cost as much as the event's own write. A batch of acks touches one or two buckets.
//! - **A claim is a transaction that watches the token**, not a script: Lua would copy every entry twice and costs three times as
//!   much as the read itself. Each claim ends by watching the token again for the next, so that it is one round trip. On a cluster,
//!   where the client can't watch, and on a full server, which refuses transactions, it is a script.
//! - **A claim whose answer was lost** leaves entries that are pending and in nobody's hands. The owner reclaims before it claims anew, so that what
//!   came later does not overtake them; the token is touched first, so that a claim which is still on its way takes nothing after that.
//! - **The index is packed**: a member for each event would cost more than the event's stream entry.
//! - **What a tenant has queued is a number that goes along** in whatever changes it: one `HINCRBY` for each tenant of an accept's batch, whose
//!   reply is the answer, and one for each tenant of a record's. Some 2 us of Redis each: nothing to be seen where a batch is one tenant's, a
//!   quarter of the accept where each of its 64 events is another's. It is never below zero, so that work from before it was counted makes it
//!   too low for a while, never too high. Too high it can be only where entries vanish from Redis: asking for it
//!   ([`Store::queued_bytes`], which ingest does for who is being refused) sets all of a shard's to zero if no work is left in it.
//! - **Leases do not expire by the server's clock**: see [`lease`].
//! - **Writes of an owner carry a sequence** and are sent one at a time for each shard, so that one whose answer was lost is sent
//!   again until it is known to be done, and never done twice.
//! - **What was read beyond a budget is given back** at once (one more round trip): kept here, it would count as claimed when the
//!   owner dies. How many entries fit is guessed by their average size, so that this is rare.
//! - **A group that is gone** (somebody removed it, or part of the data was lost) is made anew from the first entry; what history
//!   calls finished is then acked instead of handed out.
//!
//! # Room
//! Of `maxmemory` the last quarter is not for everybody: from 75 % on the low lane takes nothing new ([`StoreError::Full`]) and
//! history goes, oldest first, before its budget is used up, but for what ended in the last 15 seconds; from 85 % on no lane takes anything. Claims, acks, retries, dead
//! letters and trims go on at 100 %: their scripts are flagged for it.
//!
//! Limits: one engine in a process for each store; the lease's owner is the engine that acquired it. Events in a cluster are atomic
//! for each shard, not across shards.

mod accept;
mod bookmark;
mod claim;
mod config;
mod error;
mod health;
mod history;
mod hold;
mod jobs;
mod keys;
mod lease;
mod link;
mod piece;
mod purge;
mod reach;
mod record;
mod registry;
mod scripts;
mod servers;
mod share;
mod table;
mod tls;
mod transfer;
mod trim;
mod wake;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use redis::{Pipeline, Value, cmd};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

pub use self::config::{Durability, RedisConfig, RedisUrl, RedisUrlError, Timeouts, Topology};
pub use self::tls::{Identity, Tls};
pub use self::transfer::{Export, Import};

use self::accept::{Committers, Ingest};
use self::error::{Fault, odd};
use self::health::Health;
use self::hold::{From, Hold, token};
use self::keys::{Keys, ShardKeys};
use self::lease::{RELEASE, RENEW, Sightings, Vacant};
use self::link::{Connector, Link};
use self::servers::Servers;
use super::{
    Acceptance, Accepted, Bookmark, BookmarkHead, BookmarkLimits, BookmarkName, Bookmarked, Budget, Burial, Claimed, ConfigChange,
    DeadLetter, Depth, EventHistory, EventSummary, Heads, Home, Job, Lease, Once, Page, PageRequest, Purged, PutBack, QueueKey,
    Record, Retention, Spent, Store, StoreError, Table, TableEntry, TableKey, TableOp, TablePage, TableResult, TableUse, Ticket,
    Trimmed, Unparked,
};
use crate::clock::{self, Clock, Timestamp};
use crate::event::{DeliveryId, EventId, Lane, PluginId, Revision, Shard, TenantId, VersionHash};

/// How long a check waits for the next while the server is away. How often it is dialled is the connection's to say.
const AWAY_PAUSE: Duration = Duration::from_millis(100);

/// The engine.
pub struct RedisStore {
    inner: Arc<Inner>,
    signals: Arc<[Arc<Notify>]>,
    /// For shards that do not exist.
    nobody: Arc<Notify>,
    addresses: Arc<ArcSwap<Vec<SocketAddr>>>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// What all operations share.
struct Inner {
    clock: Clock,
    connector: Arc<Connector>,
    names: Keys,
    shards: Arc<[ShardKeys]>,
    ingest: Arc<Ingest>,
    /// For the owner's reads and writes.
    owner: Link,
    /// For plugins' tables.
    tables: Link,
    /// For the API.
    query: Link,
    /// For checks, so that they never wait behind work.
    watch: Link,
    holds: Mutex<HashMap<Shard, Arc<Hold>>>,
    sightings: Sightings,
    health: ArcSwap<Health>,
    config: RedisConfig,
    lost: AtomicU64,
    /// Bytes of history that went, since the start.
    given_back: AtomicU64,
}

impl RedisStore {
    /// Connects, and refuses a server whose settings do not give what the durability mode promises, and a store that an import did not
    /// fill to its end.
    pub async fn connect(config: RedisConfig, clock: Clock) -> Result<Self, StoreError> {
        let store = Self::open(config, clock).await?;
        transfer::check_whole(&store.inner).await?;
        Ok(store)
    }

    async fn open(config: RedisConfig, clock: Clock) -> Result<Self, StoreError> {
        config.check().map_err(StoreError::Refused)?;
        let connector = Arc::new(Connector::new(&config));
        let names = Keys::new(&config.namespace);
        let shards: Arc<[ShardKeys]> = (0..config.shards).map(|shard| names.shard(Shard(shard))).collect();
        let [ingesting, owner, tables, query, watch] = std::array::from_fn(|_| Link::new(connector.clone()));
        let health = health::check(&watch, &config, 0).await?;
        health.settings.clone().map_err(|error| match error {
            StoreError::Unavailable(text) => StoreError::Refused(text),
            other => other,
        })?;
        let mut servers = Servers::new(&config);
        servers.look(&connector, &health).await;
        let addresses = servers.addresses();
        let ingest = Arc::new(Ingest {
            link: ingesting,
            keys: names.clone(),
            shards: shards.clone(),
            durability: config.durability,
            replica_wait: config.timeouts.replica,
            settle_within: config.timeouts.settle,
            cluster: connector.is_cluster(),
            committers: Arc::new(Committers::new()),
        });
        let inner = Arc::new(Inner {
            clock,
            connector: connector.clone(),
            names: names.clone(),
            shards,
            ingest,
            owner,
            tables,
            query,
            watch,
            holds: Mutex::default(),
            sightings: Sightings::default(),
            health: ArcSwap::from_pointee(health),
            config,
            lost: AtomicU64::new(0),
            given_back: AtomicU64::new(0),
        });
        let signals: Arc<[Arc<Notify>]> = inner.shards.iter().map(|_| Arc::new(Notify::new())).collect();
        let listening = wake::listen(connector.clone(), names.wake_pattern(), signals.clone(), Arc::downgrade(&inner));
        let checking = check_again(Arc::downgrade(&inner), connector, servers);
        let tasks = [tokio::spawn(listening), tokio::spawn(checking)].map(AbortOnDropHandle::new);
        Ok(Self { inner, signals, nobody: Arc::default(), addresses, _tasks: tasks })
    }

    async fn may_accept(&self, lane: Lane) -> Result<(), StoreError> {
        self.inner.connector.reach.pass().await?;
        self.inner.health.load().may_accept(lane)
    }

    /// Where all servers are that the store knows of, sentinels and replicas too. Kept up to date.
    pub fn addresses(&self) -> Arc<ArcSwap<Vec<SocketAddr>>> {
        Arc::clone(&self.addresses)
    }

    /// How many claimed entries were found to exist no more: losses, each logged.
    pub fn lost_entries(&self) -> u64 {
        self.inner.lost.load(Ordering::Relaxed)
    }
}

/// Checks the server's settings every so often, and at once when there is a doubt that it can be reached.
async fn check_again(inner: Weak<Inner>, connector: Arc<Connector>, mut servers: Servers) {
    let Some(every) = inner.upgrade().map(|inner| inner.config.check_every) else { return };
    let mut last = Ok(());
    loop {
        if connector.reach.now().is_ok() {
            let _either = timeout(every, connector.reach.doubted()).await;
        } else {
            tokio::time::sleep(every.min(AWAY_PAUSE)).await;
        }
        let Some(inner) = inner.upgrade() else { return };
        let found = health::check(&inner.watch, &inner.config, inner.given_back.load(Ordering::Relaxed)).await;
        let reached = match &found {
            Err(error) => Err(error.clone()),
            Ok(health) if health.elsewhere => health.settings.clone(),
            Ok(_) => Ok(()),
        };
        let now = found.and_then(|health| {
            inner.health.store(Arc::new(health));
            inner.health.load().may_accept(Lane::Normal)
        });
        connector.reach.found(&reached);
        if reached.is_ok() {
            servers.look(&connector, &inner.health.load_full()).await;
        }
        match (&last, &now) {
            (Ok(()), Err(error)) => tracing::error!(%error, "the store is not ready"),
            (Err(_), Ok(())) => tracing::info!("the store is ready again"),
            _ => {}
        }
        last = now;
    }
}

/// Runs a write to its end even if its caller goes away.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T, StoreError>> + Send + 'static) -> Result<T, StoreError> {
    tokio::spawn(work).await.unwrap_or_else(|_| Err(ended_early()))
}

fn ended_early() -> StoreError {
    StoreError::Unavailable("the write ended early; it may have been done".into())
}

impl Inner {
    fn keys(&self, shard: Shard) -> Result<&ShardKeys, StoreError> {
        let known = self.shards.get(usize::from(shard.0));
        known.ok_or_else(|| StoreError::Refused(format!("there is no shard {}: the store has {}", shard.0, self.shards.len())))
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<Shard, Arc<Hold>>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn installed(&self, shard: Shard) -> Option<Arc<Hold>> {
        self.holds().get(&shard).cloned()
    }

    /// Notes a new ownership, unless a later one is there.
    fn install(&self, hold: Arc<Hold>) {
        let mut holds = self.holds();
        if holds.get(&hold.shard).is_none_or(|present| present.epoch <= hold.epoch) {
            holds.insert(hold.shard, hold);
        }
    }

    fn uninstall(&self, shard: Shard, token: &str) {
        let mut holds = self.holds();
        if holds.get(&shard).is_some_and(|present| present.token == token) {
            holds.remove(&shard);
        }
    }

    fn forget(&self, lease: &Lease) {
        self.uninstall(lease.shard, &token(lease));
    }

    /// What is remembered of this lease. A lease that this engine did not acquire must be the store's present one.
    async fn hold(&self, lease: &Lease) -> Result<Arc<Hold>, StoreError> {
        let token = token(lease);
        if let Some(hold) = self.installed(lease.shard).filter(|hold| hold.token == token) {
            return Ok(hold);
        }
        let hold = Arc::new(Hold::new(self, lease, self.keys(lease.shard)?.clone(), None));
        self.check_token(&hold).await?;
        self.install(hold.clone());
        Ok(self.installed(lease.shard).filter(|present| present.token == token).unwrap_or(hold))
    }

    /// Whether the store still has this owner.
    async fn check_token(&self, hold: &Hold) -> Result<(), StoreError> {
        self.fenced_reads(hold, Pipeline::new()).await.map(drop)
    }

    /// Reads of an owner. Its token is read last: if that is its own, so it was all the time before. No transaction: a full server
    /// refuses those.
    async fn fenced_reads(&self, hold: &Hold, mut reads: Pipeline) -> Result<Vec<Value>, StoreError> {
        reads.cmd("HGET").arg(&hold.keys.own).arg("t");
        let mut answers = self.owner.repeat_all(&reads).await.map_err(|fault| self.fault(hold, fault))?;
        let present: Option<String> = redis::from_redis_value(answers.pop().unwrap_or_default()).map_err(|_| odd("an owner"))?;
        if present.as_ref() != Some(&hold.token) {
            self.uninstall(hold.shard, &hold.token);
            return Err(StoreError::Fenced(hold.shard));
        }
        Ok(answers)
    }

    fn fault(&self, hold: &Hold, fault: Fault) -> StoreError {
        if fault.is("FENCED") {
            self.uninstall(hold.shard, &hold.token);
            return StoreError::Fenced(hold.shard);
        }
        if fault.is("SUSPECT") {
            return StoreError::Suspect(hold.shard);
        }
        fault.into_store()
    }

    fn count_lost(&self, lost: usize) {
        self.lost.fetch_add(lost as u64, Ordering::Relaxed);
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn accept(&self, batch: Vec<Acceptance>) -> Result<Vec<Accepted>, StoreError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        // One that is low among others was admitted a moment ago.
        let low = batch.iter().all(|acceptance| acceptance.lane == Lane::Low);
        let lane = if low { Lane::Low } else { Lane::Normal };
        self.may_accept(lane).await?;
        for acceptance in &batch {
            self.inner.keys(acceptance.shard)?;
        }
        let ingest = self.inner.ingest.clone();
        let turn = ingest.committers.turn().await;
        // The server may have gone while those before were at it.
        self.may_accept(lane).await?;
        detached(async move { ingest.accept(batch, turn).await }).await
    }

    async fn spend(&self, over: Duration, spent: &[Spent]) -> Result<Vec<Duration>, StoreError> {
        share::spend(&self.inner, over, spent).await
    }

    fn admits(&self, lane: Lane) -> Result<(), StoreError> {
        self.inner.connector.reach.now()?;
        self.inner.health.load().may_accept(lane)
    }

    async fn acquire(&self, shard: Shard, node: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        lease::acquire(&self.inner, shard, node, ttl, Vacant::Taken).await
    }

    async fn take_over(&self, shard: Shard, node: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        lease::acquire(&self.inner, shard, node, ttl, Vacant::Left).await
    }

    async fn present(&self, node: &str, ttl: Duration) -> Result<usize, StoreError> {
        lease::present(&self.inner, node, ttl).await
    }

    async fn renew(&self, lease: &Lease) -> Result<(), StoreError> {
        lease::keep(&self.inner, lease, RENEW).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        lease::keep(&self.inner, lease, RELEASE).await
    }

    async fn claim(&self, lease: &Lease, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
        claim::claim(&self.inner, lease, lane, budget).await
    }

    async fn reclaim(&self, lease: &Lease, held: &HashSet<Ticket>, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
        claim::reclaim(&self.inner, lease, held, budget).await
    }

    async fn due(&self, lease: &Lease, now: Timestamp, budget: Budget) -> Result<Vec<Job>, StoreError> {
        Ok(jobs::take(&self.inner, lease, From::Schedule, now, budget).await?.jobs)
    }

    async fn next_due(&self, lease: &Lease) -> Result<Option<Timestamp>, StoreError> {
        jobs::next_due(&self.inner, lease).await
    }

    async fn queues(&self, lease: &Lease) -> Result<Vec<(QueueKey, u64)>, StoreError> {
        jobs::queues(&self.inner, lease).await
    }

    async fn unpark(&self, lease: &Lease, queue: QueueKey, budget: Budget) -> Result<Unparked, StoreError> {
        let Heads { jobs, unreadable, .. } = jobs::take(&self.inner, lease, From::Queue(queue), Timestamp(0), budget).await?;
        Ok(Unparked { jobs, unreadable })
    }

    async fn heads(&self, lease: &Lease, queue: QueueKey, now: Timestamp, budget: Budget) -> Result<Heads, StoreError> {
        jobs::take(&self.inner, lease, From::Lines(queue), now, budget).await
    }

    async fn put_back(&self, lease: &Lease, jobs: &[PutBack]) -> Result<(), StoreError> {
        jobs::put_back(&self.inner, lease, jobs).await
    }

    async fn record(&self, lease: &Lease, batch: &[Record]) -> Result<(), StoreError> {
        record::record(&self.inner, lease, batch).await
    }

    async fn trim(&self, lease: &Lease, retention: Retention, now: Timestamp) -> Result<Trimmed, StoreError> {
        trim::trim(&self.inner, lease, retention, now).await
    }

    async fn purge(&self, lease: &Lease, tenant: TenantId) -> Result<Purged, StoreError> {
        purge::purge(&self.inner, lease, tenant).await
    }

    async fn purged(&self, home: Home) -> Result<Option<Purged>, StoreError> {
        purge::purged(&self.inner, home).await
    }

    fn signal(&self, shard: Shard) -> Arc<Notify> {
        self.signals.get(usize::from(shard.0)).unwrap_or(&self.nobody).clone()
    }

    async fn queued_by_tenant(&self, shard: Shard) -> Result<Vec<(TenantId, u64)>, StoreError> {
        history::queued_by_tenant(&self.inner, shard).await
    }

    async fn queued_bytes(&self, home: Home) -> Result<u64, StoreError> {
        history::queued_bytes(&self.inner, home).await
    }

    async fn depth(&self, shard: Shard) -> Result<Depth, StoreError> {
        history::depth(&self.inner, shard).await
    }

    async fn event(&self, home: Home, id: EventId) -> Result<Option<EventHistory>, StoreError> {
        history::event(&self.inner, home, id).await
    }

    async fn events(&self, home: Home, page: PageRequest<EventId>) -> Result<Page<EventSummary, EventId>, StoreError> {
        history::events(&self.inner, home, page).await
    }

    async fn dead_letters(&self, home: Home, page: PageRequest<Burial>) -> Result<Page<DeadLetter, Burial>, StoreError> {
        jobs::dead_letters(&self.inner, home, page).await
    }

    async fn oldest_dead_letters(
        &self,
        home: Home,
        after: Option<Burial>,
        limit: usize,
    ) -> Result<Page<DeadLetter, Burial>, StoreError> {
        jobs::oldest_dead_letters(&self.inner, home, after, limit).await
    }

    async fn dead_letters_of(&self, home: Home, ids: &[DeliveryId]) -> Result<Vec<DeadLetter>, StoreError> {
        jobs::dead_letters_of(&self.inner, home, ids).await
    }

    async fn retry_each(&self, home: Home, each: &[(DeliveryId, Timestamp)]) -> Result<u64, StoreError> {
        jobs::retry(&self.inner, home, each).await
    }

    async fn add(&self, home: Home, jobs: &[Job], now: Timestamp) -> Result<u64, StoreError> {
        jobs::add(&self.inner, home, jobs, now).await
    }

    async fn config(&self) -> Result<(Revision, Vec<(String, Bytes)>), StoreError> {
        registry::config(&self.inner).await
    }

    async fn config_revision(&self) -> Result<Revision, StoreError> {
        registry::revision(&self.inner).await
    }

    async fn configure(&self, expected: Revision, changes: Vec<ConfigChange>) -> Result<Revision, StoreError> {
        registry::configure(&self.inner, expected, changes).await
    }

    async fn put_component(&self, version: VersionHash, component: Bytes) -> Result<(), StoreError> {
        registry::put_component(&self.inner, version, component).await
    }

    async fn component(&self, version: VersionHash) -> Result<Option<Bytes>, StoreError> {
        registry::component(&self.inner, version).await
    }

    async fn remember(&self, key: &str, value: Bytes, ttl: Duration) -> Result<Option<Bytes>, StoreError> {
        registry::remember(&self.inner, key, value, ttl).await
    }

    async fn say(&self, topic: &str, node: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        registry::say(&self.inner, topic, node, value, ttl).await
    }

    async fn said(&self, topic: &str) -> Result<Vec<Bytes>, StoreError> {
        registry::said(&self.inner, topic).await
    }

    async fn table(
        &self,
        table: Table,
        once: Option<Once>,
        ops: &[(TableKey, TableOp)],
        quota: u64,
        now: Timestamp,
    ) -> Result<Vec<TableResult>, StoreError> {
        table::table(&self.inner, table, once, ops, quota, now).await
    }

    async fn table_page(&self, table: Table, page: &TablePage, now: Timestamp) -> Result<Page<TableEntry, TableKey>, StoreError> {
        table::page(&self.inner, table, page, now).await
    }

    async fn table_use(&self, home: Home) -> Result<TableUse, StoreError> {
        table::usage(&self.inner, home).await
    }

    async fn drop_tables(&self, home: Home, plugin: Option<PluginId>) -> Result<u64, StoreError> {
        table::drop_tables(&self.inner, home, plugin).await
    }

    async fn keep_bookmark(
        &self,
        home: Home,
        name: &BookmarkName,
        bookmark: &Bookmark,
        limits: BookmarkLimits,
    ) -> Result<Bookmarked, StoreError> {
        bookmark::keep(&self.inner, home, name, bookmark, limits).await
    }

    async fn bookmarks(&self, home: Home) -> Result<Vec<(BookmarkName, BookmarkHead)>, StoreError> {
        bookmark::list(&self.inner, home).await
    }

    async fn bookmark(&self, home: Home, name: &BookmarkName) -> Result<Option<Bookmark>, StoreError> {
        bookmark::find(&self.inner, home, name).await
    }

    async fn drop_bookmark(&self, home: Home, name: &BookmarkName) -> Result<bool, StoreError> {
        bookmark::drop_one(&self.inner, home, name).await
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.admits(Lane::Normal)
    }

    async fn probe(&self) -> Result<Duration, StoreError> {
        let started = clock::monotonic();
        let write = cmd("SET").arg(self.inner.names.probe()).arg(1).to_owned();
        self.inner.watch.repeat(&write).await.map_err(Fault::into_store)?;
        Ok(started.elapsed())
    }
}
