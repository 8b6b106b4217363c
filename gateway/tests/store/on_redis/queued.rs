//! What Redis counts as queued where the counts are not what they should be.

use std::time::Duration;

use redis::Value;
use tidegate::clock::Clock;
use tidegate::event::{DeliveryId, DestinationId, Event, Lane, TenantId};
use tidegate::store::redis::{RedisConfig, RedisStore, Timeouts};
use tidegate::store::{Accepted, Budget, Home, Lease, Line, QueueKey, Store, StoreError};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

const COUNTS: &str = "{tg:3}:qb";
/// Keeps an order.
const LINE: DestinationId = DestinationId(0xd);
const ONE: Budget = Budget { count: 1, ..ALL };

async fn start() -> (Server, RedisStore) {
    start_with(Timeouts::default()).await
}

async fn start_with(timeouts: Timeouts) -> (Server, RedisStore) {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let config = RedisConfig { shards: 8, timeouts, ..RedisConfig::standalone(server.url().parse().expect("a Redis URL")) };
    let store = RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands");
    (server, store)
}

/// Gives up soon on a server that stands still.
fn impatient() -> Timeouts {
    Timeouts {
        response: Duration::from_secs(1),
        connect: Duration::from_secs(1),
        operation: Duration::from_secs(2),
        ..Timeouts::default()
    }
}

fn make(number: u64, tenant: TenantId) -> Event {
    event(number, tenant, Clock::system().now(), "a".into())
}

/// Takes and finishes so many entries.
async fn finish_some(store: &RedisStore, count: usize) {
    let lease = store.acquire(SHARD, "a", Duration::from_secs(60)).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, tidegate::store::Budget { count, ..ALL }).await.unwrap();
    assert_eq!(claimed.len(), count);
    store.record(&lease, &claimed.iter().map(|entry| finish(entry, vec![])).collect::<Vec<_>>()).await.unwrap();
}

/// Entries that were accepted before anybody counted: the count is too low until they are done, and never below zero.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_from_before_it_was_counted_makes_no_count_negative() {
    let (server, store) = start().await;
    let events: Vec<_> = (1..=4).map(|number| make(number, TENANT)).collect();
    let size = events[0].request.size() as u64;
    store.accept(events[..2].iter().map(acceptance).collect()).await.unwrap();
    server.command(&["DEL", COUNTS]).await;
    assert_eq!(store.accept(vec![acceptance(&events[2])]).await.unwrap(), [Accepted::New { queued: size }]);
    finish_some(&store, 2).await;
    assert_eq!(store.queued_bytes(HOME).await.unwrap(), 0);
    assert_eq!(store.accept(vec![acceptance(&events[3])]).await.unwrap(), [Accepted::New { queued: size }]);
    finish_some(&store, 2).await;
    assert_eq!(store.queued_bytes(HOME).await.unwrap(), 0);
    assert_eq!(server.command(&["EXISTS", COUNTS]).await, Value::Int(0), "nothing is kept of who has nothing queued");
}

/// A parked job that this release can't read: who counts what waits hears that it left its queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_read_leaves_its_queue_and_is_counted() {
    let (server, store) = start().await;
    let lease = store.acquire(SHARD, "a", Duration::from_secs(60)).await.unwrap().unwrap();
    let ordered = QueueKey::Ordered(TENANT, LINE);
    let mut ids = Vec::new();
    for (number, queue) in [(1, TENANT_QUEUE), (2, TENANT_QUEUE), (3, ordered)] {
        ids.push(park(&store, &lease, number, queue).await);
    }
    for id in [ids[0], ids[2]] {
        spoil(&server, id).await;
    }
    let first = store.unpark(&lease, TENANT_QUEUE, ONE).await.unwrap();
    assert_eq!((first.jobs.len(), first.unreadable), (0, 1));
    let second = store.unpark(&lease, TENANT_QUEUE, ONE).await.unwrap();
    assert_eq!((second.jobs.len(), second.unreadable), (1, 0));
    let heads = store.heads(&lease, ordered, Clock::system().now(), ALL).await.unwrap();
    assert_eq!((heads.jobs.len(), heads.unreadable), (0, 1));
}

/// The same if the answer that told of it came too late for its caller.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_read_is_counted_when_a_lost_answer_is_settled() {
    let (server, store) = start_with(impatient()).await;
    let lease = store.acquire(SHARD, "a", Duration::from_secs(60)).await.unwrap().unwrap();
    let id = park(&store, &lease, 1, TENANT_QUEUE).await;
    park(&store, &lease, 2, TENANT_QUEUE).await;
    spoil(&server, id).await;
    server.pause();
    let failed = store.unpark(&lease, TENANT_QUEUE, ALL).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    server.resume();
    let found = eventually(async || store.unpark(&lease, TENANT_QUEUE, ALL).await.ok()).await;
    assert_eq!((found.jobs.len(), found.unreadable), (1, 1));
    let rest = store.unpark(&lease, TENANT_QUEUE, ALL).await.unwrap();
    assert_eq!((rest.jobs.len(), rest.unreadable), (0, 0));
}

/// What would take a suspect, and did not get there, is refused when it is sent again: that keeps nothing else from being written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_that_is_refused_for_a_suspect_when_it_is_sent_again_holds_up_nothing() {
    let (server, store) = start_with(impatient()).await;
    let mut lease = store.acquire(SHARD, "a", Duration::from_secs(60)).await.unwrap().unwrap();
    park(&store, &lease, 1, TENANT_QUEUE).await;
    for node in ["b", "c"] {
        assert_eq!(store.unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs.len(), 1);
        store.release(&lease).await.unwrap();
        lease = store.acquire(SHARD, node, Duration::from_secs(60)).await.unwrap().unwrap();
    }
    let next = make(2, TENANT);
    // Before the pause: right after it an acceptance may still be answered too late.
    store.accept(vec![acceptance(&next)]).await.unwrap();
    server.pause();
    let failed = store.unpark(&lease, TENANT_QUEUE, NO_SUSPECTS).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    server.resume();
    eventually(async || store.due(&lease, Clock::system().now(), ALL).await.ok()).await;
    plan(&store, &lease, &next, TENANT_QUEUE).await;
    assert_eq!(store.unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs.len(), 1);
}

/// Puts a new event's plan into a queue.
async fn park(store: &RedisStore, lease: &Lease, number: u64, queue: QueueKey) -> DeliveryId {
    let event = make(number, TENANT);
    store.accept(vec![acceptance(&event)]).await.unwrap();
    plan(store, lease, &event, queue).await
}

/// Puts the plan of an accepted event into a queue.
async fn plan(store: &RedisStore, lease: &Lease, event: &Event, queue: QueueKey) -> DeliveryId {
    let claimed = store.claim(lease, Lane::Normal, ALL).await.unwrap().remove(0);
    let mut row = parked_plan(event, queue);
    if let QueueKey::Ordered(_, destination) = queue {
        row.job.as_mut().unwrap().line = Some(Line::end(destination, 1, Clock::system().now().before(Duration::from_secs(1))));
    }
    let id = row.id;
    store.record(lease, &[finish(&claimed, vec![row])]).await.unwrap();
    id
}

/// The format that follows the length, the place and the size becomes one that nobody knows.
async fn spoil(server: &Server, id: DeliveryId) {
    let mut spoil = redis::cmd("EVAL");
    spoil
        .arg(
            "local value = redis.call('HGET', KEYS[1], ARGV[1])
             local before = 9 + string.byte(value, 1)
             redis.call('HSET', KEYS[1], ARGV[1], string.sub(value, 1, before) .. string.char(255) .. string.sub(value, before + 2))",
        )
        .arg(1)
        .arg("{tg:3}:j")
        .arg(&id.0.to_be_bytes()[..]);
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    spoil.query_async::<Value>(&mut connection).await.unwrap();
}

/// Bytes that nobody takes away (an entry that vanished from Redis) go once the shard has no work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_that_is_too_high_goes_when_the_shard_has_no_work() {
    let (server, store) = start().await;
    let field = format!("{:032x}", TENANT.0);
    server.command(&["HSET", COUNTS, &field, "1000000"]).await;
    let theirs = make(1, OTHER_TENANT);
    store.accept(vec![acceptance(&theirs)]).await.unwrap();
    assert_eq!(store.queued_bytes(HOME).await.unwrap(), 1_000_000, "there is work, and it may be this tenant's");
    finish_some(&store, 1).await;
    assert_eq!(store.queued_bytes(HOME).await.unwrap(), 0);
    assert_eq!(store.queued_bytes(Home { tenant: OTHER_TENANT, shard: SHARD }).await.unwrap(), 0);
    let ours = make(2, TENANT);
    let queued = ours.request.size() as u64;
    assert_eq!(store.accept(vec![acceptance(&ours)]).await.unwrap(), [Accepted::New { queued }]);
    assert_eq!(store.queued_bytes(HOME).await.unwrap(), queued);
}
