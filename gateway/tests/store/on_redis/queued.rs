//! What Redis counts as queued where the counts are not what they should be.

use redis::Value;
use tidegate::clock::Clock;
use tidegate::event::{DestinationId, Event, Lane, TenantId};
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate::store::{Accepted, Home, Line, QueueKey, Store};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

const COUNTS: &str = "{tg:3}:qb";

async fn start() -> (Server, RedisStore) {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let config = RedisConfig { shards: 8, ..RedisConfig::standalone(server.url().parse().expect("a Redis URL")) };
    let store = RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands");
    (server, store)
}

fn make(number: u64, tenant: TenantId) -> Event {
    event(number, tenant, Clock::system().now(), "a".into())
}

/// Takes and finishes so many entries.
async fn finish_some(store: &RedisStore, count: usize) {
    let lease = store.acquire(SHARD, "a", std::time::Duration::from_secs(60)).await.unwrap().unwrap();
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
    let lease = store.acquire(SHARD, "a", std::time::Duration::from_secs(60)).await.unwrap().unwrap();
    let destination = DestinationId(0xd);
    let line = Line::end(destination, 1, Clock::system().now().before(std::time::Duration::from_secs(1)));
    let ordered = QueueKey::Ordered(TENANT, destination);
    let mut ids = Vec::new();
    for (number, queue) in [(1, TENANT_QUEUE), (2, TENANT_QUEUE), (3, ordered)] {
        let event = make(number, TENANT);
        store.accept(vec![acceptance(&event)]).await.unwrap();
        let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap().remove(0);
        let mut row = parked_plan(&event, queue);
        if queue == ordered {
            row.job.as_mut().unwrap().line = Some(line);
        }
        ids.push(row.id);
        store.record(&lease, &[finish(&claimed, vec![row])]).await.unwrap();
    }
    for id in [ids[0], ids[2]] {
        // The format that follows the length, the place and the size becomes one that nobody knows.
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
    let one = tidegate::store::Budget { count: 1, ..ALL };
    let first = store.unpark(&lease, TENANT_QUEUE, one).await.unwrap();
    assert_eq!((first.jobs.len(), first.unreadable), (0, 1));
    let second = store.unpark(&lease, TENANT_QUEUE, one).await.unwrap();
    assert_eq!((second.jobs.len(), second.unreadable), (1, 0));
    let heads = store.heads(&lease, ordered, Clock::system().now(), ALL).await.unwrap();
    assert_eq!((heads.jobs.len(), heads.unreadable), (0, 1));
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
