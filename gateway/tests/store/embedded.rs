//! The embedded engine as the suite starts, restarts and crashes it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{FORMAT, Lane};
use tidegate::store::embedded::{Durability, Embedded, Options};
use tidegate::store::{Retention, Store, StoreError};

use crate::fixture::{Fixture, START};
use crate::world::*;

pub(crate) struct OnDisk {
    dir: TempDir,
    clock: Clock,
    durability: Durability,
    store: Option<Arc<Embedded>>,
}

impl OnDisk {
    pub(crate) async fn start() -> Self {
        Self::with(Durability::Fsync)
    }

    pub(crate) async fn everysec() -> Self {
        Self::with(Durability::Everysec)
    }

    fn with(durability: Durability) -> Self {
        let mut fixture = Self { dir: TempDir::new().unwrap(), clock: Clock::manual(START), durability, store: None };
        fixture.open();
        fixture
    }

    fn open(&mut self) {
        self.store = Some(Arc::new(Embedded::open(self.options()).unwrap()));
    }

    pub(crate) fn options(&self) -> Options {
        let (durability, clock) = (self.durability, self.clock.clone());
        Options { durability, clock, reserve_bytes: 0, ..Options::new(self.dir.path()) }
    }
}

#[async_trait]
impl Fixture for OnDisk {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    async fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
    }

    async fn restart(&mut self) {
        close(self.store.take().unwrap()).await;
        self.open();
    }

    fn dir(&self) -> Option<&Path> {
        Some(self.dir.path())
    }

    /// Goes on with a copy of the files as the kernel has them now: what a killed process leaves.
    async fn crash(&mut self) {
        let copy = TempDir::new().unwrap();
        copy_dir(self.dir.path(), copy.path());
        close(self.store.take().unwrap()).await;
        self.dir = copy;
        self.open();
    }
}

/// Drops the store for good: nobody else may hold it.
async fn close(store: Arc<Embedded>) {
    let store = Arc::into_inner(store).expect("the test holds no other reference to the store");
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy_dir(&entry.path(), &to);
        } else if let Err(error) = std::fs::copy(entry.path(), &to) {
            // A file that was removed since it was listed.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
    }
}

/// The keys of the `index` tree, read behind the store's back.
fn index_keys(dir: &Path) -> Vec<Vec<u8>> {
    let db = fjall::Database::builder(dir).open().unwrap();
    let index = db.keyspace("index", fjall::KeyspaceCreateOptions::default).unwrap();
    index.iter().map(|guard| guard.key().unwrap().to_vec()).collect()
}

#[tokio::test]
async fn a_directory_is_opened_by_one_process_at_a_time() {
    let fixture = OnDisk::start().await;
    let Err(error) = Embedded::open(fixture.options()) else { panic!("opened twice") };
    assert!(matches!(&error, StoreError::Refused(_)), "{error}");
    assert!(error.to_string().contains("another process"), "{error}");
    fixture.store().ready().unwrap();
}

#[tokio::test]
async fn a_newer_directory_is_refused() {
    let mut fixture = OnDisk::start().await;
    close(fixture.store.take().unwrap()).await;
    {
        let db = fjall::Database::builder(fixture.dir.path()).open().unwrap();
        let index = db.keyspace("index", fjall::KeyspaceCreateOptions::default).unwrap();
        index.insert(*b"f", [FORMAT + 1, 9, 9]).unwrap();
    }
    let Err(error) = Embedded::open(fixture.options()) else { panic!("opened a newer directory") };
    assert!(matches!(&error, StoreError::Refused(why) if why.contains("upgrade this node")), "{error}");
}

#[tokio::test]
async fn an_unusable_directory_is_a_clear_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(error) = Embedded::open(Options::new(file.path())) else { panic!("opened a file") };
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_events_and_takes_acks() {
    let mut fixture = OnDisk::start().await;
    let event = event(1, TENANT, START, "body".into());
    fixture.store().accept(vec![acceptance(&event)]).await.unwrap();
    close(fixture.store.take().unwrap()).await;
    let full = Embedded::open(Options { reserve_bytes: u64::MAX, ..fixture.options() }).unwrap();
    assert!(matches!(full.ready(), Err(StoreError::Full(_))));
    assert!(matches!(full.accept(vec![acceptance(&event)]).await, Err(StoreError::Full(_))));
    let lease = full.acquire(SHARD, "a", fixture.span()).await.unwrap().unwrap();
    let claimed = full.claim(&lease, Lane::Normal, ALL).await.unwrap();
    full.record(&lease, &[finish(&claimed[0], vec![scheduled(&event, 0, START, 1)])]).await.unwrap();
    let depth = full.depth(SHARD).await.unwrap();
    assert_eq!((depth.lanes[0].entries, depth.scheduled), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_keys_are_swept_in_bounded_steps() {
    const KEYS: u64 = 1200;
    let mut fixture = OnDisk::start().await;
    let span = fixture.span();
    for i in 0..KEYS {
        let ttl = if i == 7 { span * 100 } else { span };
        fixture.store().remember(&format!("key {i}"), "value".into(), ttl).await.unwrap();
    }
    let first = event(1, TENANT, START, "body".into());
    fixture.store().accept(vec![once(&first, 1, span)]).await.unwrap();
    fixture.pass(span).await;
    // Remembered anew: its first end must not take it away.
    fixture.store().remember("key 9", "again".into(), span * 100).await.unwrap();
    let lease = fixture.store().acquire(SHARD, "a", span).await.unwrap().unwrap();
    let retention = Retention { age: span * 1000, bytes: u64::MAX, dead_letter_age: span * 1000 };
    let mut steps = 0;
    while fixture.store().trim(&lease, retention, fixture.now()).await.unwrap().more {
        steps += 1;
    }
    assert!(steps > 1, "{steps} steps");
    assert_eq!(fixture.store().remember("key 7", "other".into(), span).await.unwrap(), Some("value".into()));
    assert_eq!(fixture.store().remember("key 9", "other".into(), span).await.unwrap(), Some("again".into()));
    close(fixture.store.take().unwrap()).await;
    let keys = index_keys(fixture.dir.path());
    let of = |kind: u8| keys.iter().filter(|key| key[0] == kind).count();
    assert_eq!((of(b'm'), of(b'k'), of(b'e')), (2, 0, 2));
}

/// An entry that can't be read was all that a look with little room saw, and what stood behind it was in nobody's hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_behind_an_unreadable_entry_is_reclaimed() {
    let mut fixture = OnDisk::start().await;
    let events = [1, 2].map(|number| event(number, TENANT, START, "body".into()));
    fixture.store().accept(events.iter().map(acceptance).collect()).await.unwrap();
    let lease = fixture.store().acquire(SHARD, "a", fixture.span()).await.unwrap().unwrap();
    assert_eq!(fixture.store().claim(&lease, Lane::Normal, ALL).await.unwrap().len(), 2);
    close(fixture.store.take().unwrap()).await;
    {
        let db = fjall::Database::builder(fixture.dir.path()).open().unwrap();
        let log = db.keyspace("log", fjall::KeyspaceCreateOptions::default).unwrap();
        let first = log.iter().next().unwrap().key().unwrap();
        log.insert(first, [FORMAT + 1, 9, 9]).unwrap();
    }
    let store = Embedded::open(fixture.options()).unwrap();
    let lease = store.acquire(SHARD, "a", fixture.span()).await.unwrap().unwrap();
    let found =
        store.reclaim(&lease, &std::collections::HashSet::new(), tidegate::store::Budget { count: 1, ..ALL }).await.unwrap();
    assert_eq!(claimed_ids(&found), [events[1].id]);
    close(store.into()).await;
}

/// What was finished, delivered and trimmed leaves nothing behind in the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_store_holds_no_stray_keys() {
    let mut world = World::new(OnDisk::start().await);
    let lease = world.own().await;
    let now = world.now();
    for queue in [TENANT_QUEUE, DESTINATION_QUEUE] {
        let event =
            world.settle(&lease, |event| vec![parked(event, 0, queue), scheduled(event, 1, now, 1), dead(event, 2, now)]).await;
        let mut jobs = world.unpark(&lease, queue).await;
        jobs.extend(world.due(&lease, now).await);
        world.store().retry(HOME, &[delivery_id(&event, 2)], now).await.unwrap();
        jobs.extend(world.due(&lease, now).await);
        assert_eq!(jobs.len(), 3);
        let done =
            jobs.iter().map(|job| finish_job(job, vec![tidegate::store::DeliveryRecord { id: job.id, ..delivered(&event, 0) }]));
        world.record(&lease, done.collect()).await;
    }
    let claimed = world.claim_one(&lease).await;
    let lease = world.own().await;
    world.reclaim(&lease).await;
    world.record(&lease, vec![finish(&claimed, vec![delivered(&claimed.event, 0)])]).await;
    world.fixture.restart().await;
    assert_eq!(world.counts().await, [0; 4]);
    let dir = world.fixture.dir().expect("this engine has a directory").to_owned();
    let copy = TempDir::new().unwrap();
    copy_dir(&dir, copy.path());
    let kinds: std::collections::BTreeSet<_> = index_keys(copy.path()).iter().map(|key| key[0] as char).collect();
    assert_eq!(kinds, ['f', 'g', 'n', 'w'].into(), "format, ledger, numbers, mark");
}
