//! A store that only accepts: at once, when told to, or never.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{DeliveryId, Event, EventId, Lane, PluginId, Revision, Shard, TenantId, VersionHash};
use tidegate::store::{
    Acceptance, Accepted, Allowance, Bookmark, BookmarkHead, BookmarkLimits, BookmarkName, Bookmarked, Budget, Burial, Claimed,
    ConfigChange, DeadLetter, Depth, EventHistory, EventSummary, Heads, Home, Job, Lease, Once, Page, PageRequest, Purged, PutBack,
    QueueKey, Record, Retention, Spent, Store, StoreError, Table, TableEntry, TableKey, TableOp, TablePage, TableResult, TableUse,
    Ticket, Trimmed, Unparked,
};
use tokio::sync::{Notify, watch};

/// What an accept does.
#[derive(Clone, Debug)]
pub(crate) enum Mode {
    Keep,
    Fail(StoreError),
    /// Says yes and forgets.
    #[allow(dead_code)] // The bench's.
    Discard,
    /// Waits for the next mode.
    Hold,
    Panic,
}

pub(crate) struct Stub {
    mode: watch::Sender<Mode>,
    kept: Mutex<Kept>,
    /// How many events reached `accept`, kept or not.
    pub(crate) asked: watch::Sender<usize>,
    /// What it says of every tenant: bytes that are queued.
    pub(crate) queued: AtomicU64,
    /// How often it was asked for them.
    pub(crate) looked: AtomicU64,
    /// Shared buckets, by whose they are: when each is full, by this clock.
    #[allow(dead_code)] // Not the bench's.
    pub(crate) buckets: Mutex<(Option<Clock>, HashMap<TenantId, u128>)>,
}

#[derive(Default)]
struct Kept {
    events: Vec<(Event, Lane)>,
    /// Of every event that came, duplicates too.
    shards: Vec<Shard>,
    dedup: HashMap<[u8; 32], EventId>,
    batches: Vec<usize>,
}

impl Stub {
    pub(crate) fn new(mode: Mode) -> Arc<Self> {
        Arc::new(Self {
            mode: watch::Sender::new(mode),
            kept: Mutex::default(),
            asked: watch::Sender::new(0),
            queued: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            buckets: Mutex::default(),
        })
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.kept().events.iter().map(|(event, _)| event.clone()).collect()
    }

    pub(crate) fn lanes(&self) -> Vec<Lane> {
        self.kept().events.iter().map(|(_, lane)| *lane).collect()
    }

    #[allow(dead_code)] // Not the bench's.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        self.kept().shards.clone()
    }

    pub(crate) fn batches(&self) -> Vec<usize> {
        self.kept().batches.clone()
    }

    /// Waits until this many events have reached `accept`.
    pub(crate) async fn asked(&self, count: usize) {
        self.asked.subscribe().wait_for(|asked| *asked >= count).await.expect("the stub lives");
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no panic under the lock")
    }

    fn keep(&self, batch: Vec<Acceptance>) -> Vec<Accepted> {
        let mut kept = self.kept();
        kept.batches.push(batch.len());
        let queued = self.queued.load(Ordering::Relaxed);
        let mut answers = Vec::with_capacity(batch.len());
        for acceptance in batch {
            kept.shards.push(acceptance.shard);
            let event = acceptance.event.event();
            if let Some(dedup) = &acceptance.dedup {
                let first = *kept.dedup.entry(dedup.key).or_insert(event.id);
                if first != event.id {
                    answers.push(Accepted::Duplicate(first));
                    continue;
                }
            }
            kept.events.push((event.clone(), acceptance.lane));
            answers.push(Accepted::New { queued });
        }
        answers
    }
}

#[async_trait]
impl Store for Stub {
    async fn accept(&self, batch: Vec<Acceptance>) -> Result<Vec<Accepted>, StoreError> {
        if matches!(*self.mode.borrow(), Mode::Discard) {
            return Ok(vec![Accepted::New { queued: 0 }; batch.len()]);
        }
        self.asked.send_modify(|asked| *asked += batch.len());
        let mut mode = self.mode.subscribe();
        let mode = mode.wait_for(|mode| !matches!(mode, Mode::Hold)).await.expect("the stub lives").clone();
        match mode {
            Mode::Fail(error) => Err(error),
            Mode::Panic => panic!("the store's own fault"),
            Mode::Keep | Mode::Hold | Mode::Discard => Ok(self.keep(batch)),
        }
    }

    async fn spend(&self, over: Duration, spent: &[Spent]) -> Result<Vec<Duration>, StoreError> {
        if let Mode::Fail(error) = &*self.mode.borrow() {
            return Err(error.clone());
        }
        let mut buckets = self.buckets.lock().expect("no panic under the lock");
        let (Some(clock), full) = &mut *buckets else { return Ok(Vec::new()) };
        let now = u128::from(clock.now().0) * 1_000_000;
        let mut answers = Vec::new();
        for one in spent.iter().filter(|one| one.allowance == Allowance::Normal) {
            let full = full.entry(one.home.tenant).or_default();
            *full = (*full).max(now - over.as_nanos()) + one.time.as_nanos();
            answers.push(Duration::from_nanos(full.saturating_sub(now) as u64));
        }
        Ok(answers)
    }

    async fn acquire(&self, _: Shard, _: &str, _: Duration) -> Result<Option<Lease>, StoreError> {
        unimplemented!()
    }

    async fn renew(&self, _: &Lease) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn release(&self, _: &Lease) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn claim(&self, _: &Lease, _: Lane, _: Budget) -> Result<Vec<Claimed>, StoreError> {
        unimplemented!()
    }

    async fn reclaim(&self, _: &Lease, _: &HashSet<Ticket>, _: Budget) -> Result<Vec<Claimed>, StoreError> {
        unimplemented!()
    }

    async fn due(&self, _: &Lease, _: Timestamp, _: Budget) -> Result<Vec<Job>, StoreError> {
        unimplemented!()
    }

    async fn next_due(&self, _: &Lease) -> Result<Option<Timestamp>, StoreError> {
        unimplemented!()
    }

    async fn queues(&self, _: &Lease) -> Result<Vec<(QueueKey, u64)>, StoreError> {
        unimplemented!()
    }

    async fn heads(&self, _: &Lease, _: QueueKey, _: Timestamp, _: Budget) -> Result<Heads, StoreError> {
        unimplemented!()
    }

    async fn put_back(&self, _: &Lease, _: &[PutBack]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn unpark(&self, _: &Lease, _: QueueKey, _: Budget) -> Result<Unparked, StoreError> {
        unimplemented!()
    }

    async fn record(&self, _: &Lease, _: &[Record]) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn trim(&self, _: &Lease, _: Retention, _: Timestamp) -> Result<Trimmed, StoreError> {
        unimplemented!()
    }

    async fn purge(&self, _: &Lease, _: TenantId) -> Result<Purged, StoreError> {
        unimplemented!()
    }

    async fn purged(&self, _: Home) -> Result<Option<Purged>, StoreError> {
        unimplemented!()
    }

    fn signal(&self, _: Shard) -> Arc<Notify> {
        unimplemented!()
    }

    async fn queued_by_tenant(&self, _: Shard) -> Result<Vec<(TenantId, u64)>, StoreError> {
        unimplemented!()
    }

    async fn queued_bytes(&self, _: Home) -> Result<u64, StoreError> {
        self.looked.fetch_add(1, Ordering::Relaxed);
        let mode = self.mode.borrow().clone();
        match mode {
            Mode::Fail(error) => Err(error),
            _ => Ok(self.queued.load(Ordering::Relaxed)),
        }
    }

    async fn depth(&self, _: Shard) -> Result<Depth, StoreError> {
        unimplemented!()
    }

    async fn event(&self, _: Home, _: EventId) -> Result<Option<EventHistory>, StoreError> {
        unimplemented!()
    }

    async fn events(&self, _: Home, _: PageRequest<EventId>) -> Result<Page<EventSummary, EventId>, StoreError> {
        unimplemented!()
    }

    async fn dead_letters(&self, _: Home, _: PageRequest<Burial>) -> Result<Page<DeadLetter, Burial>, StoreError> {
        unimplemented!()
    }

    async fn oldest_dead_letters(&self, _: Home, _: Option<Burial>, _: usize) -> Result<Page<DeadLetter, Burial>, StoreError> {
        unimplemented!()
    }

    async fn dead_letters_of(&self, _: Home, _: &[DeliveryId]) -> Result<Vec<DeadLetter>, StoreError> {
        unimplemented!()
    }

    async fn retry_each(&self, _: Home, _: &[(DeliveryId, Timestamp)]) -> Result<u64, StoreError> {
        unimplemented!()
    }

    async fn add(&self, _: Home, _: &[Job], _: Timestamp) -> Result<u64, StoreError> {
        unimplemented!()
    }

    async fn config(&self) -> Result<(Revision, Vec<(String, Bytes)>), StoreError> {
        unimplemented!()
    }

    async fn config_revision(&self) -> Result<Revision, StoreError> {
        unimplemented!()
    }

    async fn configure(&self, _: Revision, _: Vec<ConfigChange>) -> Result<Revision, StoreError> {
        unimplemented!()
    }

    async fn put_component(&self, _: VersionHash, _: Bytes) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn component(&self, _: VersionHash) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }

    async fn remember(&self, _: &str, _: Bytes, _: Duration) -> Result<Option<Bytes>, StoreError> {
        unimplemented!()
    }

    async fn say(&self, _: &str, _: &str, _: Bytes, _: Duration) -> Result<(), StoreError> {
        unimplemented!()
    }

    async fn said(&self, _: &str) -> Result<Vec<Bytes>, StoreError> {
        unimplemented!()
    }

    async fn table(
        &self,
        _: Table,
        _: Option<Once>,
        _: &[(TableKey, TableOp)],
        _: u64,
        _: Timestamp,
    ) -> Result<Vec<TableResult>, StoreError> {
        unimplemented!()
    }

    async fn table_page(&self, _: Table, _: &TablePage, _: Timestamp) -> Result<Page<TableEntry, TableKey>, StoreError> {
        unimplemented!()
    }

    async fn table_use(&self, _: Home) -> Result<TableUse, StoreError> {
        unimplemented!()
    }

    async fn drop_tables(&self, _: Home, _: Option<PluginId>) -> Result<u64, StoreError> {
        unimplemented!()
    }

    async fn keep_bookmark(&self, _: Home, _: &BookmarkName, _: &Bookmark, _: BookmarkLimits) -> Result<Bookmarked, StoreError> {
        unimplemented!()
    }

    async fn bookmarks(&self, _: Home) -> Result<Vec<(BookmarkName, BookmarkHead)>, StoreError> {
        unimplemented!()
    }

    async fn bookmark(&self, _: Home, _: &BookmarkName) -> Result<Option<Bookmark>, StoreError> {
        unimplemented!()
    }

    async fn drop_bookmark(&self, _: Home, _: &BookmarkName) -> Result<bool, StoreError> {
        unimplemented!()
    }

    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn probe(&self) -> Result<Duration, StoreError> {
        unimplemented!()
    }
}
