//! Moving an installation: whatever was in one store is in the other, at its place, and nothing else.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tidegate::clock::{Clock, Timestamp};
use tidegate::event::{
    ConnectionId, DeliveryId, DestinationId, Event, EventId, Lane, PluginId, Revision, Shard, SourceId, VersionHash,
};
use tidegate::store::embedded::{self, Embedded, Options};
use tidegate::store::redis::{self, RedisConfig, RedisStore, Topology};
use tidegate::store::transfer::file::{FORMAT, Header, Next, Reader, Writer};
use tidegate::store::transfer::{Counts, Incoming, Item, MovedEvent, Outgoing};
use tidegate::store::{
    Accepted, Bookmark, BookmarkLimits, Bookmarked, Budget, Burial, DeadLetter, DeliveryRecord, DeliveryState, EventHistory, Home,
    Job, Lease, Line, Once, PageRequest, QueueKey, Retention, Store, StoreError, Table, TableKey, TableOp, TablePage, TableUse,
    Work,
};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

mod traps;

const OTHER_HOME: Home = Home { tenant: OTHER_TENANT, shard: OTHER_SHARD };
const TABLE: Table = Table { home: HOME, plugin: PluginId(1) };
const SPAN: Duration = Duration::from_secs(600);
const MUCH: u64 = 1 << 30;
const SHARDS: u16 = 8;
const BOOKMARKS: BookmarkLimits = BookmarkLimits { count: 10, bytes: MUCH };

/// A store that can be opened, exported and imported into.
enum Site {
    Disk(TempDir),
    Redis(Server, bool),
}

impl Site {
    fn disk() -> Self {
        Self::Disk(TempDir::new().unwrap())
    }

    async fn redis(flavor: Flavor) -> Self {
        Self::Redis(Server::start(Config::new(flavor, Fsync::EverySec)).await, false)
    }

    async fn cluster() -> Self {
        Self::Redis(Server::start(Config::new(Flavor::Redis, Fsync::EverySec).whole_cluster()).await, true)
    }

    fn options(dir: &TempDir) -> Options {
        Options { reserve_bytes: 0, ..Options::new(dir.path().join("data")) }
    }

    fn config(server: &Server, is_cluster: bool) -> RedisConfig {
        let url: redis::RedisUrl = server.url().parse().unwrap();
        let config = RedisConfig { shards: SHARDS, ..RedisConfig::standalone(url.clone()) };
        if is_cluster { RedisConfig { topology: Topology::Cluster(vec![url]), ..config } } else { config }
    }

    async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        match self {
            Self::Disk(dir) => Ok(Arc::new(Embedded::open(Self::options(dir))?)),
            Self::Redis(server, is_cluster) => {
                let connecting = RedisStore::connect(Self::config(server, *is_cluster), Clock::system());
                Ok(Arc::new(Box::pin(connecting).await?))
            }
        }
    }

    async fn outgoing(&self) -> Result<Box<dyn Outgoing>, StoreError> {
        match self {
            Self::Disk(dir) => Ok(Box::new(embedded::Export::open(&Self::options(dir))?)),
            Self::Redis(server, is_cluster) => {
                let connecting = redis::Export::connect(Self::config(server, *is_cluster), Clock::system());
                Ok(Box::new(Box::pin(connecting).await?))
            }
        }
    }

    async fn incoming(&self) -> Result<Box<dyn Incoming>, StoreError> {
        match self {
            Self::Disk(dir) => Ok(Box::new(embedded::Import::open(&Self::options(dir))?)),
            Self::Redis(server, is_cluster) => {
                let connecting = redis::Import::connect(Self::config(server, *is_cluster), Clock::system());
                Ok(Box::new(Box::pin(connecting).await?))
            }
        }
    }

    /// Everything as a file.
    async fn export(&self) -> (Vec<u8>, Counts) {
        let header = Header {
            format: FORMAT,
            release: "test".into(),
            created_at: Clock::system().now(),
            store: "test".into(),
            shards: SHARDS,
            revision: Revision(1),
            encryption_keys: Vec::new(),
        };
        let mut writer = Writer::new(Vec::new(), &header).unwrap();
        let mut store = self.outgoing().await.unwrap();
        while let Some(items) = store.next().await.unwrap() {
            items.iter().for_each(|item| writer.item(item).unwrap());
        }
        store.finish().await.unwrap();
        writer.finish().unwrap()
    }

    async fn import(&self, file: &[u8]) {
        let mut store = self.incoming().await.unwrap();
        for items in items(file).chunks(7) {
            store.put(items.to_vec()).await.unwrap();
        }
        assert_eq!(store.finish().await.unwrap(), 0, "there is a place for everything");
    }
}

fn items(file: &[u8]) -> Vec<Item> {
    let mut reader = Reader::new(file).unwrap();
    let mut items = Vec::new();
    while let Next::Item(item) = reader.next().unwrap() {
        items.push(*item);
    }
    items
}

/// The store is given up as by a process that ends.
async fn close(store: Arc<dyn Store>) {
    tokio::task::spawn_blocking(move || drop(store)).await.unwrap();
}

fn key(text: &str) -> TableKey {
    text.parse().unwrap()
}

fn once(number: u32) -> Once {
    Once { event: EventId(7), connection: ConnectionId(1), stage: 0, output: 0, number }
}

fn calls() -> [(Once, Vec<(TableKey, TableOp)>); 3] {
    let gone = TableOp::Set { value: Bytes::from(vec![0; 70_000]), ttl: None };
    [
        (once(1), vec![(key("count"), TableOp::Increment { by: 5, ttl: None }), (key("count"), TableOp::Get)]),
        (once(2), vec![(key("first"), TableOp::Add { value: "x".into(), ttl: None }), (key("away"), TableOp::Delete)]),
        (once(3), vec![(key("large"), gone), (key("until"), TableOp::Set { value: "y".into(), ttl: Some(SPAN) })]),
    ]
}

async fn call_all(store: &dyn Store, now: Timestamp) -> Vec<Vec<tidegate::store::TableResult>> {
    let mut answers = Vec::new();
    for (once, ops) in calls() {
        answers.push(store.table(TABLE, Some(once), &ops, MUCH, now).await.unwrap());
    }
    answers
}

const QUEUES: [QueueKey; 7] = [
    DESTINATION_QUEUE,
    TENANT_QUEUE,
    QueueKey::Source(TENANT, SourceId(0x5a)),
    QueueKey::Retries(TENANT),
    QueueKey::Plugins(TENANT),
    QueueKey::Connection(TENANT, ConnectionId(1)),
    QueueKey::Paused(TENANT, ConnectionId(1)),
];

const ORDERED_BY: DestinationId = DestinationId(0xd);
const ORDERED: QueueKey = QueueKey::Ordered(TENANT, ORDERED_BY);

/// What was put into a store, to be compared.
struct Filled {
    events: Vec<Event>,
    other: Event,
    now: Timestamp,
    answers: Vec<Vec<tidegate::store::TableResult>>,
}

/// One of everything.
async fn fill(store: &dyn Store) -> Filled {
    let now = Clock::system().now();
    let change = |key: &str, value: &str| (key.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())));
    store.configure(Revision(0), vec![change("ten/1", "{}"), change("a", "1")]).await.unwrap();
    store.configure(Revision(1), vec![change("b", "\0\x01"), ("a".into(), None)]).await.unwrap();
    store.put_component(VersionHash::of(b"wasm"), Bytes::from_static(b"wasm")).await.unwrap();
    store.remember("idem", Bytes::from_static(b"first"), SPAN).await.unwrap();
    store.say("topic", "a", Bytes::from_static(b"one"), SPAN).await.unwrap();
    store.say("topic", "b", Bytes::from_static(b"two"), SPAN).await.unwrap();
    let set = |value: &'static str| TableOp::Set { value: Bytes::from_static(value.as_bytes()), ttl: None };
    store.table(TABLE, None, &[(key("away"), set("z")), (key("kept"), set("z"))], MUCH, now).await.unwrap();
    let answers = call_all(store, now).await;
    for number in [1, 2] {
        let kept = Bookmark::new(event(900 + number, TENANT, now, Bytes::from(vec![7; 70_000])), now, "me".into(), "note".into());
        let done = store.keep_bookmark(HOME, &format!("b{number}").parse().unwrap(), &kept, BOOKMARKS).await.unwrap();
        assert_eq!(done, Bookmarked::Kept);
    }

    let events: Vec<Event> = (1..=24).map(|number| event(number, TENANT, now, Bytes::from(format!("body {number}")))).collect();
    let mut batch: Vec<_> = events.iter().map(acceptance).collect();
    batch[20].lane = Lane::Low;
    batch[21].lane = Lane::Held;
    batch[22] = crate::world::once(&events[22], 9, SPAN);
    store.accept(batch).await.unwrap();
    let other = event(25, OTHER_TENANT, now, Bytes::from_static(b"another's"));
    let mut another = acceptance(&other);
    another.shard = OTHER_SHARD;
    store.accept(vec![another]).await.unwrap();

    let lease = store.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, Budget::new(18, 1 << 20)).await.unwrap();
    assert_eq!(claimed.len(), 18);
    let mut records = vec![
        finish(&claimed[0], vec![DeliveryRecord { runs: vec![run(1)], ..delivered(&events[0], 0) }]),
        progress(&claimed[1], vec![delivered(&events[1], 0)]),
        finish(&claimed[2], vec![scheduled(&events[2], 0, now.after(SPAN), 2), delivered(&events[2], 1)]),
        finish(&claimed[3], vec![dead(&events[3], 0, now)]),
        finish(
            &claimed[4],
            vec![DeliveryRecord { attempts: vec![attempt(&events[4], 5)], ..dead(&events[4], 0, now.after(SPAN)) }],
        ),
    ];
    // The later in a queue, the earlier it was accepted.
    let lined = claimed[14..17].iter().rev().enumerate();
    records.extend(lined.map(|(number, one)| {
        let parked = parked(&one.event, 0, ORDERED);
        let line = Line::end(ORDERED_BY, number as u128 % 2, now.after(SPAN * number as u32));
        finish(one, vec![DeliveryRecord { job: parked.job.map(|job| Box::new(Job { line: Some(line), ..*job })), ..parked }])
    }));
    let waiting = claimed[5..14].iter().rev().enumerate();
    records.extend(waiting.map(|(number, one)| match QUEUES[number % QUEUES.len()] {
        queue @ QueueKey::Tenant(_) => finish(one, vec![parked_plan(&one.event, queue)]),
        queue => finish(one, vec![parked(&one.event, 0, queue)]),
    }));
    for record in records {
        store.record(&lease, &[record]).await.unwrap();
    }
    // Left in somebody's hands: an entry, a job that was due, one that was parked.
    store.unpark(&lease, DESTINATION_QUEUE, Budget::new(1, 1 << 20)).await.unwrap();
    store.due(&lease, now.after(2 * SPAN), ALL).await.unwrap();
    Filled { events, other, now, answers }
}

/// What anybody can see of a store.
#[derive(Debug, PartialEq)]
struct Seen {
    config: (Revision, BTreeMap<String, Bytes>),
    component: Option<Bytes>,
    said: Vec<Bytes>,
    events: Vec<(EventHistoryView, Option<Event>)>,
    listed: Vec<EventId>,
    dead: Vec<(Job, Burial, String)>,
    queued: [u64; 2],
    depth: Vec<[u64; 6]>,
    table: Vec<(String, Option<Bytes>, Option<Timestamp>)>,
    table_use: TableUse,
    bookmarks: Vec<Option<Bookmark>>,
    /// Whether they count as much as they did.
    bookmarks_are_full: Bookmarked,
}

type EventHistoryView = (EventId, SourceId, Timestamp, Lane, bool, BTreeMap<DeliveryId, DeliveryRecord>);

async fn seen(store: &dyn Store, filled: &Filled) -> Seen {
    let (revision, records) = store.config().await.unwrap();
    let mut said = store.said("topic").await.unwrap();
    said.sort();
    let mut events = Vec::new();
    let homes = filled.events.iter().map(|event| (HOME, event)).chain([(OTHER_HOME, &filled.other)]);
    for (home, event) in homes {
        let EventHistory { summary, event } = store.event(home, event.id).await.unwrap().expect("the event is known");
        let rows = summary.deliveries.into_iter().map(|row| (row.id, row)).collect();
        events.push(((summary.id, summary.source, summary.accepted_at, summary.lane, summary.finished, rows), event));
    }
    let all = || PageRequest { before: None, limit: 200 };
    let listed = store.events(HOME, all()).await.unwrap().items.into_iter().map(|summary| summary.id).collect();
    let dead = store.dead_letters(HOME, PageRequest { before: None, limit: 200 }).await.unwrap().items;
    let dead = dead.into_iter().map(|letter: DeadLetter| (letter.job.clone(), letter.place(), format!("{letter:?}"))).collect();
    let mut depth = Vec::new();
    for shard in [SHARD, OTHER_SHARD] {
        let found = store.depth(shard).await.unwrap();
        let [normal, low, held] = [0, 1, 2].map(|lane| found.lanes[lane].entries);
        depth.push([normal, low, held, found.scheduled, found.parked, found.dead_letters]);
    }
    let page = TablePage { prefix: String::new(), after: None, limit: 200 };
    let table = store.table_page(TABLE, &page, filled.now).await.unwrap().items;
    let mut bookmarks = Vec::new();
    for (name, _) in store.bookmarks(HOME).await.unwrap() {
        bookmarks.push(store.bookmark(HOME, &name).await.unwrap());
    }
    Seen {
        config: (revision, records.into_iter().collect()),
        component: store.component(VersionHash::of(b"wasm")).await.unwrap(),
        said,
        events,
        listed,
        dead,
        queued: [store.queued_bytes(HOME).await.unwrap(), store.queued_bytes(OTHER_HOME).await.unwrap()],
        depth,
        table: table.into_iter().map(|entry| (entry.key.to_string(), entry.value, entry.until)).collect(),
        table_use: store.table_use(HOME).await.unwrap(),
        bookmarks_are_full: {
            let one = bookmarks[0].clone().expect("it is kept");
            let full = BookmarkLimits { bytes: 3 * one.head.bytes - 1, ..BOOKMARKS };
            store.keep_bookmark(HOME, &"b3".parse().unwrap(), &one, full).await.unwrap()
        },
        bookmarks,
    }
}

/// What a new owner gets into its hands.
#[derive(Debug, PartialEq)]
struct Handed {
    reclaimed: Vec<(EventId, u32, Vec<DeliveryRecord>)>,
    claimed: Vec<(EventId, u32)>,
    low: Vec<EventId>,
    held: Vec<EventId>,
    due: Vec<Job>,
    queues: Vec<(QueueKey, Vec<DeliveryId>)>,
}

/// What stands in lines, the first of each together, those before them being delivered.
async fn in_line(store: &dyn Store, lease: &Lease, now: Timestamp) -> Vec<DeliveryId> {
    let mut ids = Vec::new();
    assert_eq!(store.heads(lease, ORDERED, now.before(SPAN), ALL).await.unwrap().next, Some(now), "nothing is due yet");
    loop {
        let mut jobs = store.heads(lease, ORDERED, now.after(2 * SPAN), ALL).await.unwrap().jobs;
        if jobs.is_empty() {
            return ids;
        }
        jobs.sort_by_key(|job| job.line.map(|line| line.key));
        for job in jobs {
            ids.push(job.id);
            let Work::Attempt(delivery) = &job.work else { panic!("an attempt stands there") };
            let row = DeliveryRecord {
                id: job.id,
                connection: Some(delivery.connection),
                destination: Some(delivery.destination),
                output: delivery.output,
                at: now,
                state: DeliveryState::Delivered,
                attempts: Vec::new(),
                runs: Vec::new(),
                job: None,
            };
            store.record(lease, &[finish_job(&job, vec![row])]).await.unwrap();
        }
    }
}

async fn hand_out(store: &dyn Store, now: Timestamp) -> Handed {
    let lease = store.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    let reclaimed = reclaim_all(store, &lease).await;
    let reclaimed = reclaimed.into_iter().map(|one| (one.event.id, one.claims, one.progress)).collect();
    let mut lanes = Vec::new();
    for lane in Lane::ALL {
        let claimed = store.claim(&lease, lane, ALL).await.unwrap();
        lanes.push(claimed.iter().map(|one| (one.event.id, one.claims)).collect::<Vec<_>>());
    }
    let [held, low, claimed] = [(); 3].map(|()| lanes.pop().unwrap());
    let ids = |entries: Vec<(EventId, u32)>| entries.into_iter().map(|(id, _)| id).collect();
    let due = store.due(&lease, now.after(2 * SPAN), ALL).await.unwrap();
    let due = due.into_iter().map(|job| Job { claims: 0, ..job }).collect();
    let mut queues = Vec::new();
    for (queue, count) in store.queues(&lease).await.unwrap() {
        if queue == ORDERED {
            assert_eq!(count, 3);
            queues.push((queue, in_line(store, &lease, now).await));
            continue;
        }
        let jobs = store.unpark(&lease, queue, ALL).await.unwrap().jobs;
        queues.push((queue, jobs.iter().map(|job| job.id).collect()));
    }
    Handed { reclaimed, claimed, low: ids(low), held: ids(held), due, queues }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_embedded_store_to_redis() {
    moves(Site::disk(), Site::redis(Flavor::Redis).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_redis_to_the_embedded_store() {
    moves(Site::redis(Flavor::Redis).await, Site::disk()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_redis_to_valkey() {
    moves(Site::redis(Flavor::Redis).await, Site::redis(Flavor::Valkey).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_directory_to_another() {
    moves(Site::disk(), Site::disk()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_cluster_to_redis() {
    moves(Site::cluster().await, Site::redis(Flavor::Redis).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_embedded_store_to_a_cluster() {
    moves(Site::disk(), Site::cluster().await).await;
}

/// Everything that can be seen is the same, and a new owner gets the same into its hands. Then life goes on.
async fn moves(from: Site, to: Site) {
    let store = from.open().await.unwrap();
    let filled = fill(&*store).await;
    let before = seen(&*store, &filled).await;
    close(store).await;
    let (file, counts) = from.export().await;
    let expected = [
        ("components", 1),
        ("dead_letters", 2),
        ("dedup_keys", 1),
        ("finished_events", 16),
        ("parked", 12),
        ("queued_events", 9),
        ("remembered", 1),
        ("revisions", 1),
        ("said", 2),
        ("scheduled", 1),
        ("settings", 2),
        ("table_entries", 4),
    ];
    for (kind, count) in expected {
        assert_eq!(counts.get(kind), Some(&count), "{kind} of {counts:?}");
    }
    to.import(&file).await;

    let store = to.open().await.unwrap();
    assert_eq!(seen(&*store, &filled).await, before);
    let source = from.open().await.unwrap();
    let (there, here) = (hand_out(&*source, filled.now).await, hand_out(&*store, filled.now).await);
    assert_eq!(here, there);
    let two_of_a_queue: Vec<usize> = here.queues.iter().map(|(_, jobs)| jobs.len()).collect();
    assert_eq!(two_of_a_queue.iter().sum::<usize>(), 12, "what was taken is back");
    assert_eq!(here.reclaimed.len(), 2, "the one with progress, the one without");
    assert_eq!(here.reclaimed[0].2.len(), 1, "what was delivered is known as delivered");
    assert_eq!(call_all(&*store, filled.now).await, filled.answers, "a call that is made again changes nothing");
    assert_eq!(seen(&*store, &filled).await.table, before.table);
    life_goes_on(&*store, &filled).await;
    close(source).await;
    close(store).await;
}

async fn life_goes_on(store: &dyn Store, filled: &Filled) {
    let now = filled.now;
    assert_eq!(store.remember("idem", Bytes::from_static(b"second"), SPAN).await.unwrap(), Some(Bytes::from_static(b"first")));
    let again = event(90, TENANT, now.after(Duration::from_secs(1)), Bytes::new());
    let answers = store.accept(vec![crate::world::once(&again, 9, SPAN)]).await.unwrap();
    assert_eq!(answers, [Accepted::Duplicate(filled.events[22].id)]);
    assert_eq!(store.config_revision().await.unwrap(), Revision(2));
    assert_eq!(store.configure(Revision(2), vec![]).await.unwrap(), Revision(3));

    // What is parked now stands behind what was.
    let next = event(91, TENANT, now.after(Duration::from_secs(2)), Bytes::from_static(b"later"));
    store.accept(vec![acceptance(&next)]).await.unwrap();
    let lease = store.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    assert_eq!(claimed_ids(&claimed), [next.id]);
    store.record(&lease, &[finish(&claimed[0], vec![parked(&next, 0, DESTINATION_QUEUE)])]).await.unwrap();
    let jobs = store.unpark(&lease, DESTINATION_QUEUE, ALL).await.unwrap().jobs;
    assert_eq!((jobs.len(), jobs.last().unwrap().event()), (3, next.id));

    // A dead letter is tried again, and everything is finished.
    let letters = store.dead_letters(HOME, PageRequest { before: None, limit: 200 }).await.unwrap().items;
    let ids: Vec<DeliveryId> = letters.iter().map(|letter| letter.job.id).collect();
    assert_eq!(store.retry(HOME, &ids, now).await.unwrap(), 2);
    let mut batch = Vec::new();
    for job in jobs.into_iter().chain(store.due(&lease, now.after(2 * SPAN), ALL).await.unwrap()) {
        let own = filled.events.iter().chain([&next]).find(|event| event.id == job.event()).unwrap();
        batch.push(finish_job(&job, vec![delivered(own, 0)]));
    }
    assert_eq!(batch.len(), 6);
    for (queue, _) in store.queues(&lease).await.unwrap() {
        for job in store.unpark(&lease, queue, ALL).await.unwrap().jobs {
            batch.push(finish_job(&job, vec![]));
        }
    }
    for one in reclaim_all(store, &lease).await {
        let known = one.progress.iter().any(|row| row.output == 0);
        batch.push(finish(&one, if known { vec![] } else { vec![delivered(&one.event, 0)] }));
    }
    store.record(&lease, &batch).await.unwrap();
    assert_eq!(store.queued_bytes(HOME).await.unwrap(), 0, "every byte that was counted is gone");
    let depth = store.depth(SHARD).await.unwrap();
    assert_eq!((depth.scheduled, depth.parked, depth.dead_letters), (0, 0, 0));
    let all = Retention { age: Duration::ZERO, bytes: 0, dead_letter_age: Duration::ZERO };
    let mut gone = 0;
    loop {
        let trimmed = store.trim(&lease, all, now.after(10 * SPAN)).await.unwrap();
        gone += trimmed.events;
        if !trimmed.more {
            break;
        }
    }
    assert_eq!(gone, 25, "all of history can go");
    assert!(store.events(HOME, PageRequest { before: None, limit: 200 }).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_cut_short_can_only_begin_anew() {
    for (from, to) in [(Site::disk(), Site::redis(Flavor::Redis).await), (Site::redis(Flavor::Redis).await, Site::disk())] {
        let store = from.open().await.unwrap();
        let filled = fill(&*store).await;
        let before = seen(&*store, &filled).await;
        close(store).await;
        let (file, _) = from.export().await;
        let mut begun = to.incoming().await.unwrap();
        let all = items(&file);
        begun.put(all[..all.len() / 2].to_vec()).await.unwrap();
        drop(begun);
        for refused in [to.open().await.map(drop), to.outgoing().await.map(drop)] {
            let error = refused.expect_err("half a store is none").to_string();
            assert!(error.contains("did not come to its end") && error.contains("tidegate import"), "{error}");
        }
        to.import(&file).await;
        let store = to.open().await.unwrap();
        assert_eq!(seen(&*store, &filled).await, before);
        close(store).await;
        let error = to.incoming().await.map(drop).expect_err("it is full now").to_string();
        assert!(error.contains("not empty"), "{error}");
    }
}

/// Entries that nobody had claimed stand before one that somebody had, so that the group does not hand them out.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_passed_is_handed_out_and_no_script_runs_long() {
    const PASSED: u64 = 3_000;
    let site = Site::redis(Flavor::Redis).await;
    let now = Clock::system().now();
    let moved = |number: u64| {
        let (claims, event) = (u32::from(number == PASSED), event(number, TENANT, now, Bytes::from_static(b"1")));
        Item::Event(Box::new(MovedEvent { shard: SHARD, lane: Lane::Normal, claims, finished: false, event, rows: Vec::new() }))
    };
    let items: Vec<_> = (0..=PASSED).map(moved).collect();
    let mut incoming = site.incoming().await.unwrap();
    for items in items.chunks(500) {
        incoming.put(items.to_vec()).await.unwrap();
    }
    incoming.finish().await.unwrap();
    let Site::Redis(server, _) = &site else { panic!("it is Redis") };
    let calls: u64 =
        server.info("cmdstat_eval").await.split(',').find_map(|part| part.strip_prefix("calls=")?.parse().ok()).unwrap();
    assert!(calls > PASSED / 1024 + 1, "{calls} calls");
    let store = site.open().await.unwrap();
    let lease = store.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    let (mut held, mut reclaimed) = (HashSet::new(), Vec::new());
    loop {
        let some = store.reclaim(&lease, &held, ALL).await.unwrap();
        if some.is_empty() {
            break;
        }
        held.extend(some.iter().map(|one| one.ticket));
        reclaimed.extend(some.into_iter().map(|one| (one.event.id, one.claims)));
    }
    let expected = |number: u64| (event(number, TENANT, now, Bytes::new()).id, 1 + u32::from(number == PASSED));
    assert_eq!(reclaimed.len() as u64, PASSED + 1);
    assert!(reclaimed.into_iter().eq((0..=PASSED).map(expected)), "each, in order, and with its claims");
    assert!(store.claim(&lease, Lane::Normal, ALL).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_works_on_a_store_that_is_moved() {
    let disk = Site::disk();
    let open = disk.open().await.unwrap();
    let error = disk.outgoing().await.map(drop).expect_err("it is locked").to_string();
    assert!(error.contains("another process has"), "{error}");
    close(open).await;

    let redis = Site::redis(Flavor::Redis).await;
    let store = redis.open().await.unwrap();
    store.present("gateway-1", SPAN).await.unwrap();
    for refused in [redis.outgoing().await.map(drop), redis.incoming().await.map(drop)] {
        let error = refused.expect_err("a gateway is there").to_string();
        assert!(error.contains("gateway-1") && error.contains("stop them"), "{error}");
    }
    store.present("gateway-1", Duration::ZERO).await.unwrap();
    // One that only takes events is not present; what it takes is seen at the end.
    let mut export = redis.outgoing().await.unwrap();
    while export.next().await.unwrap().is_some() {}
    store.accept(vec![acceptance(&event(1, TENANT, Clock::system().now(), Bytes::new()))]).await.unwrap();
    let error = export.finish().await.expect_err("somebody wrote").to_string();
    assert!(error.contains("while it was read"), "{error}");
}

/// What a backup of an installation that goes on working is made of.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_gives_a_cut_of_one_moment() {
    let primary = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).with("repl-diskless-sync-delay", "0")).await;
    let site = Site::Redis(primary, false);
    let store = site.open().await.unwrap();
    store.present("gateway-1", Duration::from_secs(1)).await.unwrap();
    let filled = fill(&*store).await;
    let before = seen(&*store, &filled).await;
    let Site::Redis(primary, _) = &site else { unreachable!() };
    let replica = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).replica_of(primary)).await;
    eventually(async || (replica.info("master_link_status").await == "up").then_some(())).await;
    let offset = async |server: &Server, field: &str| server.info(field).await.trim().parse::<u64>().unwrap();
    let wrote = offset(primary, "master_repl_offset").await;
    eventually(async || (offset(&replica, "slave_repl_offset").await >= wrote).then_some(())).await;
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    // The gateway goes on, at the primary alone.
    store.accept(vec![acceptance(&event(95, TENANT, filled.now, Bytes::new()))]).await.unwrap();
    let copy = Site::Redis(replica, false);
    eventually(async || copy.outgoing().await.ok().map(drop)).await;
    let (file, _) = copy.export().await;
    let restored = Site::disk();
    restored.import(&file).await;
    let there = restored.open().await.unwrap();
    assert_eq!(seen(&*there, &filled).await, before);
    close(there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_shards_than_are_configured_are_not_overlooked() {
    let site = Site::redis(Flavor::Redis).await;
    let store = site.open().await.unwrap();
    let mut far = acceptance(&event(1, TENANT, Clock::system().now(), Bytes::new()));
    far.shard = Shard(7);
    store.accept(vec![far]).await.unwrap();
    close(store).await;
    let Site::Redis(server, _) = &site else { unreachable!() };
    let config = RedisConfig { shards: 4, ..Site::config(server, false) };
    let mut export = Box::pin(redis::Export::connect(config, Clock::system())).await.unwrap();
    let error = loop {
        match export.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a shard was overlooked"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("shard 7") && error.contains("dispatch.shards"), "{error}");
}

#[tokio::test]
async fn a_place_without_a_store_is_no_empty_store() {
    let dir = TempDir::new().unwrap();
    for path in [dir.path().join("nothing"), dir.path().to_owned()] {
        let error = embedded::Export::open(&Options::new(&path)).map(drop).expect_err("nothing is there").to_string();
        assert!(error.contains("there is no store in"), "{error}");
    }
}
