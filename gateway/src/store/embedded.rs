//! The embedded engine: one directory, one process, no server. On fjall (<https://docs.rs/fjall>), a log-structured merge tree.
//!
//! # What each durability mode promises
//! | mode | a commit is answered after | a crash of the gateway loses | a crash of the machine loses |
//! |---|---|---|---|
//! | [`Durability::Fsync`] (default) | its journal is fsynced | nothing | nothing |
//! | [`Durability::Everysec`] | its journal is handed to the kernel | nothing | about the last second |
//!
//! A journal write or an fsync that fails stops the store for good: every call answers [`StoreError::Unavailable`], and
//! [`Embedded::failed`] tells the process to exit. What was answered before is safe; what was not may or may not be there.
//!
//! # Who does what
//! - **The committer** (one thread) writes everything: it puts what has arrived from all callers into one unit, commits it with one
//!   fsync, and answers. Callers encode their records themselves.
//! - **The owner's reads** (claim, due, unpark, heads) run on blocking threads, one at a time for each shard, and read what is committed.
//!   They go on from a cursor in memory and never wade through what was removed before it.
//! - **Listings** read what is committed.
//!
//! # Layout
//! Six trees. Keys are of fixed width and big endian; each value starts with the format version.
//!
//! | tree | key | value |
//! |---|---|---|
//! | log | shard, lane, place, tenant, event | the event; stays at its place when it is finished, until retention takes it |
//! | history | tenant, event, 0 | source, accept time, where the event is in the log |
//! | history | tenant, event, n | one record's outcomes |
//! | jobs | shard, delivery | the frozen request, or the event to plan |
//! | components | hash | the component |
//! | index | `p` shard, delivery | a job but for its request: place, attempts, bytes |
//! | index | `s` shard, due, delivery | the schedule |
//! | index | `q` shard, queue, n | a parked delivery |
//! | index | `l` shard, queue, line, place, delivery; `h` shard, queue, line; `a` shard, queue, due, line | a place in a line; the first of it; which line is due first |
//! | index | `x` shard, delivery | how often a job was handed out |
//! | index | `d` shard, tenant, time, delivery; `o` shard, time, delivery | dead letters, to list and to expire |
//! | index | `g` shard | counts, epoch, bytes of history ([`rows::Ledger`]) |
//! | index | `w` shard, lane | how far the lane is claimed |
//! | index | `c` shard, lane, place | how often an entry was claimed, from the second time on |
//! | index | `k` tenant, key; `m` key; `e` time, key | dedup keys; remembered values; when they end |
//! | index | `t` topic, 0, node; `e` time, key | what nodes say; when it ends |
//! | index | `b` shard, tenant | bytes of what is queued |
//! | index | `u` tenant | what its purge has removed |
//! | tables | `e` shard, tenant, plugin, key | an entry of a plugin's table |
//! | tables | `x` shard, tenant, time, plugin, key | when it ends |
//! | tables | `u` shard, tenant | what the tenant's tables take, and which calls are remembered |
//! | tables | `q` shard, tenant, n; `o` shard, tenant, name | a remembered call; its answers |
//! | tables | `b` shard, tenant, name; `c` shard, tenant, name; `n` shard, tenant | what a bookmark says; its copy; what the tenant's count |
//! | index | `r`; `v` key; `n`; `f` | revision; configuration; reserved numbers; the directory's format |
//! | index | `i` | there while an import fills the directory |
//!
//! A lane's places have no gaps, so its length is arithmetic: what is between the claim cursor and its end is unclaimed, and below
//! the cursor only the entries in memory are unfinished. At open they are found again by looking up the events between the first
//! that may be unfinished and the cursor: normally what was in flight.
//!
//! # What an operation costs
//! | operation | reads | writes |
//! |---|---|---|
//! | accept | 1 if it has a dedup key | log, history (and 2 for a dedup key), one ledger for each shard of the unit, one count for each tenant of it |
//! | claim | a scan of the log from the cursor | the claim cursor, in the journal before the answer, not fsynced |
//! | record of an entry that ends well | none | one outcome |
//! | record that puts work somewhere | 1, and the event's outcomes if it had any | outcome, request, 2 in the index |
//! | record that changes a line | 2 and a scan for each line of the unit | 1 for each job, 4 for each line whose first job is another one |
//! | put back | 1 and a scan for each line of the unit | 1 for each job, 4 for each line of which it changes when it is due |
//! | record of a job | its event's outcomes, its place | outcome, and 4 removals if it is done |
//! | due, unpark | a scan of the index, 3 for each job | 1 for each job, in the journal before the answer, not fsynced |
//! | heads | a scan of the index, 3 for each job | 1 for each job, in the journal before the answer, not fsynced |
//! | event | 1 scan, 1 | none |
//! | listing | 1 scan | none |
//! | trim | the outcomes of at most [`retention::STEP`] events | 2 removals for each event and 1 for each outcome |
//! | table, reading | 1 for each operation | none |
//! | table, writing | 3, 1 for each operation, and what has ended | 3, and 1 for each operation that changes something, 2 if it has an end |
//! | page of a table | 1 scan | none |
//! | keeping, taking away a bookmark | 2 | 3 |
//! | bookmarks, bookmark | 1 scan, 2 | none |
//! | purge | [`purge`] says how many jobs, or rows of history, are looked at | 5 removals for each job, and as trim for each event |
//! | open | one look at each lane, keys of parked jobs, events in flight; of a shard with empty lanes all jobs but for their requests | none |

mod bookmark;
mod command;
mod committer;
mod disk;
mod keys;
mod listing;
mod open;
mod owner;
mod purge;
mod retention;
mod rows;
mod state;
mod table;
mod transfer;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::command::{Command, Entry, Move, Note, Reply, TableCall};
use self::disk::{Disk, Tree, Unit};
use self::state::{Cell, State};
pub use self::transfer::{Export, Import};
use super::bookmark::StoredBookmark;
use super::row::shown;
use super::table::{call_name, check_count};
use super::{
    Acceptance, Accepted, Bookmark, BookmarkHead, BookmarkLimits, BookmarkName, Bookmarked, Budget, Burial, Claimed, ConfigChange,
    DeadLetter, Depth, EventHistory, EventSummary, Heads, Home, Job, Lease, Once, Page, PageRequest, Purged, PutBack, QueueKey,
    Record, Retention, Store, StoreError, Table, TableAnswer, TableEntry, TableKey, TableOp, TablePage, TableResult, TableUse,
    Ticket, Trimmed, Unparked,
};
use crate::clock::{Clock, Timestamp, monotonic};
use crate::event::{DeliveryId, EventId, Lane, PluginId, Revision, Shard, TenantId, VersionHash};

/// Calls that may wait for the committer; more wait for a place.
const MAX_WAITING: usize = 4096;

/// A commit that takes longer counts as a store that is not ready.
const STUCK: Duration = Duration::from_secs(30);

/// How often [`Durability::Everysec`] fsyncs.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// When a commit is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After its fsync.
    #[default]
    Fsync,
    /// After it was handed to the kernel; fsyncs follow once a second.
    Everysec,
}

/// How the store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory; made if it is not there.
    pub dir: PathBuf,
    /// When a commit is answered.
    pub durability: Durability,
    /// Blocks of data kept in memory.
    pub cache_bytes: u64,
    /// Free space below which events are refused, so that acks and retries still find room.
    pub reserve_bytes: u64,
    /// What leases, dedup windows and remembered values go by.
    pub clock: Clock,
}

impl Options {
    /// The defaults for a directory: fsync, 8 MiB of cache, 256 MiB kept free, the machine's clock.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            durability: Durability::default(),
            cache_bytes: 8 << 20,
            reserve_bytes: 256 << 20,
            clock: Clock::system(),
        }
    }
}

/// The embedded store. Dropping it writes what callers have sent, and closes the directory.
pub struct Embedded {
    shared: Arc<Shared>,
    commands: Option<mpsc::Sender<Command>>,
    committer: Option<JoinHandle<()>>,
    syncer: Option<(std::sync::mpsc::SyncSender<()>, JoinHandle<()>)>,
}

/// What the threads share.
struct Shared {
    disk: Disk,
    dir: PathBuf,
    reserve_bytes: u64,
    clock: Clock,
    cells: RwLock<HashMap<Shard, Arc<Cell>>>,
    revision: AtomicU64,
    unsynced: AtomicBool,
    committing: Mutex<Option<Instant>>,
    failure: watch::Sender<Option<StoreError>>,
}

impl Embedded {
    /// Opens the directory. It blocks, on the disk and on what was in flight when it was last closed.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let durability = options.durability;
        let open::Opened { shared, serial, revision } = open::open(options)?;
        let shared = Arc::new(shared);
        let (commands, receiver) = mpsc::channel(MAX_WAITING);
        let committer = committer::Committer::new(shared.clone(), serial, revision);
        let committer = spawn("store-commit", move || committer.run(receiver))?;
        let syncer = match durability {
            Durability::Fsync => None,
            Durability::Everysec => {
                let (stop, stopped) = std::sync::mpsc::sync_channel(1);
                let shared = shared.clone();
                let thread = spawn("store-sync", move || {
                    while stopped.recv_timeout(SYNC_EVERY) == Err(RecvTimeoutError::Timeout) {
                        shared.sync();
                    }
                })?;
                Some((stop, thread))
            }
        };
        Ok(Self { shared, commands: Some(commands), committer: Some(committer), syncer })
    }

    /// Waits until the store has stopped for good, and says why. The process should exit: a restart reads what is durable.
    pub async fn failed(&self) -> StoreError {
        let mut failure = self.shared.failure.subscribe();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(error)) => error,
            _ => StoreError::Unavailable("the store is closed".into()),
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, StoreError> {
        self.shared.is_up()?;
        let closed = || StoreError::Unavailable("the store is closed".into());
        let (reply, answer) = oneshot::channel();
        self.commands.as_ref().ok_or_else(closed)?.send(command(reply)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| closed())?
    }

    /// Reads on a thread that may block.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Shared) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.shared.is_up()?;
        let shared = self.shared.clone();
        let looked = tokio::task::spawn_blocking(move || look(&shared)).await;
        looked.map_err(|error| StoreError::Unavailable(format!("a read was cut short: {error}")))?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.commands = None;
        let syncer = self.syncer.take().map(|(stop, thread)| {
            drop(stop);
            thread
        });
        if self.shared.is_up().is_err() {
            // A thread may hang in what failed.
            return;
        }
        for thread in self.committer.take().into_iter().chain(syncer) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StoreError> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(run);
    spawned.map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))
}

impl Shared {
    fn cell(&self, shard: Shard) -> Arc<Cell> {
        let known = self.cells.read().unwrap_or_else(PoisonError::into_inner).get(&shard).cloned();
        known.unwrap_or_else(|| {
            let mut cells = self.cells.write().unwrap_or_else(PoisonError::into_inner);
            cells.entry(shard).or_insert_with(|| Arc::new(Cell::new(State::new(shard, rows::Ledger::default())))).clone()
        })
    }

    fn is_up(&self) -> Result<(), StoreError> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Stops the store for good.
    fn fail(&self, error: &StoreError) {
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            if is_first {
                tracing::error!(%error, "the store stops");
                *failure = Some(error.clone());
            }
            is_first
        });
    }

    fn commit(&self, unit: Unit) -> Result<(), StoreError> {
        *self.committing.lock().unwrap_or_else(PoisonError::into_inner) = Some(monotonic());
        let written = self.disk.commit(unit);
        *self.committing.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.unsynced.store(true, Ordering::Release);
        written
    }

    fn sync(&self) {
        if self.unsynced.swap(false, Ordering::AcqRel)
            && let Err(error) = self.disk.sync()
        {
            self.fail(&error);
        }
    }

    /// Writes rows that need to survive the process only.
    fn note(&self, rows: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
        self.unsynced.store(true, Ordering::Release);
        self.disk.note(rows).inspect_err(|error| self.fail(error))
    }

    fn publish(&self, revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
    }

    fn has_room(&self) -> Result<(), StoreError> {
        let stat = rustix::fs::statvfs(&self.dir).map_err(|error| StoreError::Unavailable(format!("free space: {error}")))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < self.reserve_bytes {
            return Err(StoreError::Full(format!("{free} bytes are free, {} are kept for acks and retries", self.reserve_bytes)));
        }
        Ok(())
    }

    fn is_stuck(&self) -> bool {
        let committing = *self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        committing.is_some_and(|since| since.elapsed() > STUCK)
    }
}

#[async_trait]
impl Store for Embedded {
    async fn accept(&self, batch: Vec<Acceptance>) -> Result<Vec<Accepted>, StoreError> {
        let batch = batch.into_iter().map(Entry::of).collect();
        self.ask(|reply| Command::Accept(batch, reply)).await
    }

    async fn acquire(&self, shard: Shard, node: &str, ttl: Duration) -> Result<Option<Lease>, StoreError> {
        self.ask(|reply| Command::Acquire(shard, node.to_owned(), ttl, reply)).await
    }

    async fn renew(&self, lease: &Lease) -> Result<(), StoreError> {
        self.shared.is_up()?;
        let until = self.shared.clock.now().after(lease.ttl);
        if let Some(owner) = &mut self.shared.cell(lease.shard).owned(lease)?.owner {
            owner.until = until;
        }
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.shared.cell(lease.shard).owned(lease)?.owner = None;
        Ok(())
    }

    async fn claim(&self, lease: &Lease, lane: Lane, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
        let is_empty = {
            let cell = self.shared.cell(lease.shard);
            let mut state = cell.owned(lease)?;
            let lane = state.lane(lane);
            lane.cursor == lane.next
        };
        if is_empty {
            return Ok(Vec::new());
        }
        let lease = lease.clone();
        self.look(move |shared| owner::claim(shared, &lease, lane, budget)).await
    }

    async fn reclaim(&self, lease: &Lease, held: &HashSet<Ticket>, budget: Budget) -> Result<Vec<Claimed>, StoreError> {
        if owner::left_behind(&*self.shared.cell(lease.shard).owned(lease)?, held, None).is_empty() {
            return Ok(Vec::new());
        }
        let (lease, held) = (lease.clone(), held.clone());
        self.look(move |shared| owner::reclaim(shared, &lease, &held, budget)).await
    }

    async fn due(&self, lease: &Lease, now: Timestamp, budget: Budget) -> Result<Vec<Job>, StoreError> {
        let lease = lease.clone();
        self.look(move |shared| owner::due(shared, &lease, now, budget)).await
    }

    async fn next_due(&self, lease: &Lease) -> Result<Option<Timestamp>, StoreError> {
        let lease = lease.clone();
        self.look(move |shared| owner::next_due(shared, &lease)).await
    }

    async fn queues(&self, lease: &Lease) -> Result<Vec<(QueueKey, u64)>, StoreError> {
        self.shared.is_up()?;
        let cell = self.shared.cell(lease.shard);
        let state = cell.owned(lease)?;
        Ok(state.queues.iter().map(|(key, queue)| (*key, queue.waiting)).collect())
    }

    async fn unpark(&self, lease: &Lease, queue: QueueKey, budget: Budget) -> Result<Unparked, StoreError> {
        let lease = lease.clone();
        self.look(move |shared| owner::unpark(shared, &lease, queue, budget)).await
    }

    async fn heads(&self, lease: &Lease, queue: QueueKey, now: Timestamp, budget: Budget) -> Result<Heads, StoreError> {
        let lease = lease.clone();
        self.look(move |shared| owner::heads(shared, &lease, queue, now, budget)).await
    }

    async fn put_back(&self, lease: &Lease, jobs: &[PutBack]) -> Result<(), StoreError> {
        self.ask(|reply| Command::PutBack(lease.clone(), jobs.to_vec(), reply)).await
    }

    async fn record(&self, lease: &Lease, batch: &[Record]) -> Result<(), StoreError> {
        let notes = batch.iter().map(Note::of).collect::<Result<_, _>>()?;
        self.ask(|reply| Command::Record(lease.clone(), notes, reply)).await
    }

    async fn trim(&self, lease: &Lease, retention: Retention, now: Timestamp) -> Result<Trimmed, StoreError> {
        let owned = lease.clone();
        let cut = self.look(move |shared| retention::find(shared, &owned, retention, now)).await?;
        self.ask(|reply| Command::Trim(lease.clone(), Box::new(cut), reply)).await
    }

    async fn purge(&self, lease: &Lease, tenant: TenantId) -> Result<Purged, StoreError> {
        let owned = lease.clone();
        let haul = self.look(move |shared| purge::find(shared, &owned, tenant)).await?;
        self.ask(|reply| Command::Purge(lease.clone(), tenant, Box::new(haul), reply)).await
    }

    async fn purged(&self, home: Home) -> Result<Option<Purged>, StoreError> {
        self.look(move |shared| shared.disk.read(Tree::Index, &keys::purged(home))).await
    }

    fn signal(&self, shard: Shard) -> Arc<Notify> {
        self.shared.cell(shard).signal.clone()
    }

    async fn queued_by_tenant(&self, shard: Shard) -> Result<Vec<(TenantId, u64)>, StoreError> {
        self.shared.is_up()?;
        Ok(self.shared.cell(shard).state().queued.all())
    }

    async fn queued_bytes(&self, home: Home) -> Result<u64, StoreError> {
        self.shared.is_up()?;
        Ok(self.shared.cell(home.shard).state().queued.of(home.tenant))
    }

    async fn depth(&self, shard: Shard) -> Result<Depth, StoreError> {
        self.look(move |shared| Ok(owner::depth(shared, shard))).await
    }

    async fn event(&self, home: Home, id: EventId) -> Result<Option<EventHistory>, StoreError> {
        self.look(move |shared| listing::event(&shared.disk, home, id)).await
    }

    async fn events(&self, home: Home, page: PageRequest<EventId>) -> Result<Page<EventSummary, EventId>, StoreError> {
        self.look(move |shared| listing::events(&shared.disk, home, page)).await
    }

    async fn dead_letters(&self, home: Home, page: PageRequest<Burial>) -> Result<Page<DeadLetter, Burial>, StoreError> {
        self.look(move |shared| listing::dead_letters(&shared.disk, home, page)).await
    }

    async fn oldest_dead_letters(
        &self,
        home: Home,
        after: Option<Burial>,
        limit: usize,
    ) -> Result<Page<DeadLetter, Burial>, StoreError> {
        self.look(move |shared| listing::oldest_dead_letters(&shared.disk, home, after, limit)).await
    }

    async fn dead_letters_of(&self, home: Home, ids: &[DeliveryId]) -> Result<Vec<DeadLetter>, StoreError> {
        let ids = ids.to_vec();
        self.look(move |shared| listing::dead_letters_of(&shared.disk, home, &ids)).await
    }

    async fn retry_each(&self, home: Home, each: &[(DeliveryId, Timestamp)]) -> Result<u64, StoreError> {
        self.ask(|reply| Command::Retry(home, each.to_vec(), reply)).await
    }

    async fn add(&self, home: Home, jobs: &[Job], now: Timestamp) -> Result<u64, StoreError> {
        let jobs = jobs.iter().filter(|job| job.tenant() == home.tenant);
        let moves = jobs.map(|job| (Move::scheduled(job, now), shown(job, now))).collect();
        self.ask(|reply| Command::Add(home, moves, reply)).await
    }

    async fn config(&self) -> Result<(Revision, Vec<(String, Bytes)>), StoreError> {
        self.look(|shared| listing::config(&shared.disk)).await
    }

    async fn config_revision(&self) -> Result<Revision, StoreError> {
        self.shared.is_up()?;
        Ok(Revision(self.shared.revision.load(Ordering::Acquire)))
    }

    async fn configure(&self, expected: Revision, changes: Vec<ConfigChange>) -> Result<Revision, StoreError> {
        self.ask(|reply| Command::Configure(expected, changes, reply)).await
    }

    async fn put_component(&self, version: VersionHash, component: Bytes) -> Result<(), StoreError> {
        self.ask(|reply| Command::PutComponent(version, component, reply)).await
    }

    async fn component(&self, version: VersionHash) -> Result<Option<Bytes>, StoreError> {
        self.look(move |shared| listing::component(&shared.disk, version)).await
    }

    async fn remember(&self, key: &str, value: Bytes, ttl: Duration) -> Result<Option<Bytes>, StoreError> {
        self.ask(|reply| Command::Remember(key.to_owned(), value, ttl, reply)).await
    }

    async fn say(&self, topic: &str, node: &str, value: Bytes, ttl: Duration) -> Result<(), StoreError> {
        self.ask(|reply| Command::Say(keys::said_by(topic, node), value, ttl, reply)).await
    }

    async fn said(&self, topic: &str) -> Result<Vec<Bytes>, StoreError> {
        let topic = topic.to_owned();
        self.look(move |shared| listing::said(&shared.disk, &topic, shared.clock.now())).await
    }

    async fn table(
        &self,
        table: Table,
        once: Option<Once>,
        ops: &[(TableKey, TableOp)],
        quota: u64,
        now: Timestamp,
    ) -> Result<Vec<TableResult>, StoreError> {
        check_count(ops)?;
        let ops = ops.to_vec();
        if ops.iter().any(|(_, op)| op.writes()) {
            let name = call_name(table.plugin, once.as_ref(), &ops);
            return self.ask(|reply| Command::Table(TableCall { table, name, ops, quota, now }, reply)).await;
        }
        let read = move |shared: &Shared| {
            let value = |(key, _): &(TableKey, TableOp)| table::value(&shared.disk, table, key, now);
            ops.iter().map(|op| Ok(Ok(TableAnswer::Value(value(op)?)))).collect()
        };
        self.look(read).await
    }

    async fn table_page(&self, table: Table, page: &TablePage, now: Timestamp) -> Result<Page<TableEntry, TableKey>, StoreError> {
        let page = page.clone();
        self.look(move |shared| table::page(&shared.disk, table, &page, now)).await
    }

    async fn table_use(&self, home: Home) -> Result<TableUse, StoreError> {
        self.look(move |shared| table::usage(&shared.disk, home)).await
    }

    async fn drop_tables(&self, home: Home, plugin: Option<PluginId>) -> Result<u64, StoreError> {
        self.ask(|reply| Command::DropTables(home, plugin, reply)).await
    }

    async fn keep_bookmark(
        &self,
        home: Home,
        name: &BookmarkName,
        bookmark: &Bookmark,
        limits: BookmarkLimits,
    ) -> Result<Bookmarked, StoreError> {
        let stored = Box::new(StoredBookmark::of(bookmark));
        self.ask(|reply| Command::KeepBookmark(home, name.clone(), stored, limits, reply)).await
    }

    async fn bookmarks(&self, home: Home) -> Result<Vec<(BookmarkName, BookmarkHead)>, StoreError> {
        self.look(move |shared| bookmark::list(&shared.disk, home)).await
    }

    async fn bookmark(&self, home: Home, name: &BookmarkName) -> Result<Option<Bookmark>, StoreError> {
        let name = name.clone();
        self.look(move |shared| bookmark::find(&shared.disk, home, &name)).await
    }

    async fn drop_bookmark(&self, home: Home, name: &BookmarkName) -> Result<bool, StoreError> {
        self.ask(|reply| Command::DropBookmark(home, name.clone(), reply)).await
    }

    fn ready(&self) -> Result<(), StoreError> {
        self.shared.is_up()?;
        if self.shared.is_stuck() {
            return Err(StoreError::Unavailable(format!("a write has taken more than {} s", STUCK.as_secs())));
        }
        self.shared.has_room()
    }

    async fn probe(&self) -> Result<Duration, StoreError> {
        self.ask(Command::Probe).await
    }
}
