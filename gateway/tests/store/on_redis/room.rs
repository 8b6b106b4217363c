//! A server that fills up: what was accepted goes on, and history makes room.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Clock;
use tidegate::event::{Event, Lane};
use tidegate::store::redis::{Durability, RedisConfig, RedisStore};
use tidegate::store::{Acceptance, PageRequest, Retention, Store, StoreError};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

const FOR_EVER: Duration = Duration::from_secs(1_000_000);

async fn connect(server: &Server, check_every: Duration) -> Arc<RedisStore> {
    let url = server.url().parse().expect("a Redis URL");
    let config = RedisConfig { durability: Durability::EverySec, shards: 8, check_every, ..RedisConfig::standalone(url) };
    Arc::new(RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands"))
}

fn make(number: u64) -> Event {
    event(number, TENANT, Clock::system().now(), Bytes::from(vec![7; 2000]))
}

fn low(event: &Event) -> Acceptance {
    Acceptance { lane: Lane::Low, ..acceptance(event) }
}

/// Makes what the server uses now this share of its maxmemory.
async fn now_uses(server: &Server, percent: u64) {
    let used: u64 = server.info("used_memory").await.parse().unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", &(used * 100 / percent).to_string()]).await;
}

async fn fill(store: &RedisStore) -> Vec<Event> {
    let events: Vec<_> = (1..=4000).map(make).collect();
    for batch in events.chunks(200) {
        store.accept(batch.iter().map(acceptance).collect()).await.unwrap();
    }
    events
}

fn is_full<T>(answer: &Result<T, StoreError>) -> bool {
    matches!(answer, Err(StoreError::Full(_)))
}

/// At maxmemory accepts are refused as full, and what was accepted goes on: acks, retries, dead letters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_still_takes_records() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server, FOR_EVER).await;
    let events: Vec<_> = (1..=3).map(make).collect();
    store.accept(events.iter().map(acceptance).collect()).await.unwrap();
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
    let refused = store.accept(vec![acceptance(&make(4)), once(&make(5), 1, FOR_EVER)]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    let refused = store.accept(vec![once(&make(6), 2, FOR_EVER)]).await;
    assert!(matches!(refused, Err(StoreError::Full(_))), "{refused:?}");
    let now = Clock::system().now();
    let outcomes = [scheduled(&events[0], 0, now, 1), dead(&events[1], 0, now), parked(&events[2], 0, TENANT_QUEUE)];
    let batch: Vec<_> = claimed.iter().zip(outcomes).map(|(entry, outcome)| finish(entry, vec![outcome])).collect();
    store.record(&lease, &batch).await.unwrap();
    store.renew(&lease).await.unwrap();
    assert_eq!(store.due(&lease, now, ALL).await.unwrap().len(), 1);
    assert_eq!(store.unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs.len(), 1);
    assert_eq!(store.dead_letters(HOME, PageRequest { before: None, limit: 10 }).await.unwrap().items.len(), 1);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(repeats(store.accept(vec![acceptance(&make(7))]).await.unwrap()), [None]);
}

/// The checks see it coming: first the low lane is refused, then all, and all are taken again when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_low_lane_is_refused_first() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server, Duration::from_millis(50)).await;
    fill(&store).await;
    now_uses(&server, 80).await;
    eventually(async || store.admits(Lane::Low).err()).await;
    assert!(is_full(&store.admits(Lane::Low)));
    assert!(is_full(&store.accept(vec![low(&make(5001))]).await));
    store.ready().unwrap();
    store.admits(Lane::Normal).unwrap();
    let mixed = vec![low(&make(5002)), acceptance(&make(5003))];
    assert_eq!(repeats(store.accept(mixed).await.unwrap()), [None; 2], "what was admitted is not refused for its company");
    now_uses(&server, 90).await;
    eventually(async || store.ready().err()).await;
    for lane in Lane::ALL {
        assert!(is_full(&store.admits(lane)), "{lane:?}");
    }
    assert!(is_full(&store.accept(vec![acceptance(&make(5004))]).await));
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually(async || store.admits(Lane::Low).ok()).await;
    assert_eq!(repeats(store.accept(vec![low(&make(5005))]).await.unwrap()), [None]);
}

/// History that is inside its budget, beyond maxmemory: claims and outcomes go on, the oldest history goes, and there is room again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_does_not_fill_the_server() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server, Duration::from_millis(50)).await;
    let events = fill(&store).await;
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    now_uses(&server, 110).await;
    eventually(async || store.ready().err()).await;
    let mut finished = 0;
    loop {
        let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        let batch: Vec<_> = claimed.iter().map(|one| finish(one, vec![delivered(&one.event, 0)])).collect();
        store.record(&lease, &batch).await.unwrap();
        finished += batch.len();
        // What else the owner asks in its turns, and a gateway that starts.
        store.depth(SHARD).await.unwrap();
        store.queues(&lease).await.unwrap();
        store.next_due(&lease).await.unwrap();
        store.config().await.unwrap();
        store.renew(&lease).await.unwrap();
    }
    assert_eq!(finished, events.len());
    let retention = Retention { age: FOR_EVER, bytes: u64::MAX, dead_letter_age: FOR_EVER };
    // However long it took to get here, for the store the first one has just ended, and later the last one long ago.
    let just_ended = events[0].accepted_at;
    loop {
        let step = store.trim(&lease, retention, just_ended).await.unwrap();
        assert_eq!(step.events, 0, "what has just ended can still be seen");
        if !step.more {
            break;
        }
    }
    let long_ended = events[3999].accepted_at.after(Duration::from_secs(3600));
    let mut gone = 0;
    while store.admits(Lane::Low).is_err() {
        gone += store.trim(&lease, retention, long_ended).await.unwrap().events;
        // What is trimmed before the server was looked at again may be more than room was needed for.
        is_looked_at_twice(&server).await;
    }
    assert!(gone > 1000, "{gone}");
    assert!(store.event(HOME, events[0].id).await.unwrap().is_none(), "the oldest are gone");
    let newest = store.event(HOME, events[3999].id).await.unwrap().expect("the newest are there");
    assert!(newest.summary.finished && newest.event.is_some());
    assert_eq!(repeats(store.accept(vec![low(&make(5000))]).await.unwrap()), [None]);
}

/// A backlog larger than history's budget is not read again and again for something that has ended; what does end goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_is_not_searched_again_for_what_has_ended() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server, FOR_EVER).await;
    fill(&store).await;
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    loop {
        let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
        if claimed.is_empty() {
            break;
        }
        let batch: Vec<_> = claimed.iter().map(|one| finish(one, vec![parked(&one.event, 0, TENANT_QUEUE)])).collect();
        store.record(&lease, &batch).await.unwrap();
    }
    let now = Clock::system().now();
    let none = Retention { age: Duration::ZERO, bytes: 0, dead_letter_age: FOR_EVER };
    let pass = async || {
        let (mut gone, before) = (0, reads(&server).await);
        loop {
            let step = store.trim(&lease, none, now.after(FOR_EVER)).await.unwrap();
            gone += step.events;
            if !step.more {
                return (gone, reads(&server).await - before);
            }
        }
    };
    let (gone, first) = pass().await;
    assert_eq!(gone, 0);
    assert!(first > 0, "it was searched once");
    assert_eq!(pass().await, (0, 0));
    let job = store.unpark(&lease, TENANT_QUEUE, ALL).await.unwrap().jobs.remove(0);
    let event = store.event(HOME, job.event()).await.unwrap().and_then(|known| known.event).expect("it is queued");
    store.record(&lease, &[finish_job(&job, vec![delivered(&event, 0)])]).await.unwrap();
    assert_eq!(pass().await, (1, 1), "what has ended is found where it is");
}

/// How many buckets of history have been read.
async fn reads(server: &Server) -> u64 {
    calls(server, "lrange").await
}

/// Waits until the store has looked at the server again, from the beginning to the end of it.
async fn is_looked_at_twice(server: &Server) {
    // The second half of a look, and nobody else asks it.
    const ASKED: &str = "config|get";
    let before = calls(server, ASKED).await;
    eventually(async || (calls(server, ASKED).await >= before + 2).then_some(())).await;
}

async fn calls(server: &Server, command: &str) -> u64 {
    let calls = server.info(&format!("cmdstat_{command}")).await;
    calls.strip_prefix("calls=").and_then(|rest| rest.split(',').next()).and_then(|calls| calls.parse().ok()).expect("a count")
}
