//! What only a server of its own can do to an engine: break, stall, forget.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate::clock::Clock;
use tidegate::event::{Event, EventId, Lane};
use tidegate::store::redis::{Durability, RedisConfig, RedisStore, Timeouts};
use tidegate::store::{Accepted, Budget, Job, Store, StoreError};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use super::proxy::{Fault, Proxy};
use crate::world::*;

const SPAN: Duration = Duration::from_millis(400);
const FOR_EVER: Duration = Duration::from_secs(3600);

fn config(url: &str, durability: Durability) -> RedisConfig {
    RedisConfig {
        durability,
        shards: 8,
        check_every: Duration::from_millis(50),
        ..RedisConfig::standalone(url.parse().expect("a Redis URL"))
    }
}

async fn connect(config: RedisConfig) -> Arc<RedisStore> {
    Arc::new(RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands"))
}

fn make(number: u64) -> Event {
    event(number, TENANT, Clock::system().now(), Bytes::from(vec![7; 1000]))
}

async fn all_ids(store: &RedisStore, node: &str) -> Vec<EventId> {
    let lease = eventually(async || store.acquire(SHARD, node, SPAN).await.ok().flatten()).await;
    let mut claimed = Vec::new();
    loop {
        let more = eventually(async || store.claim(&lease, Lane::Normal, ALL).await.ok()).await;
        if more.is_empty() {
            break;
        }
        claimed.extend(more);
    }
    // What a claim took whose answer was lost.
    let held = claimed.iter().map(|one| one.ticket).collect();
    claimed.extend(eventually(async || store.reclaim(&lease, &held, ALL).await.ok()).await);
    claimed.sort_by_key(|one| one.ticket);
    claimed_ids(&claimed)
}

/// Waits until the store takes writes again.
async fn back(store: &RedisStore) {
    while store.ready().is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_killed_under_fsync_loses_nothing_acknowledged() {
    // A kill can tear the write of a transaction to the log. This Redis drops the torn one as it loads, but leaves its head in the log
    // without an end, so that the next load takes it for the head of the transaction behind it: events of a batch that was sent again
    // are then there twice, with one id. That may be: a crash can duplicate.
    killed_in_mid_load(Flavor::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valkey_killed_under_fsync_loses_nothing_acknowledged_and_doubles_nothing() {
    assert_eq!(killed_in_mid_load(Flavor::Valkey).await, 0);
}

/// `appendfsync always`, and the server is killed in mid load, twice: what was acknowledged is there. Answers how many events are
/// there more than once.
async fn killed_in_mid_load(flavor: Flavor) -> usize {
    let mut server = Server::start(Config::new(flavor, Fsync::Always)).await;
    let mut config = config(&server.url(), Durability::Fsync);
    config.timeouts = Timeouts { settle: Duration::from_secs(60), ..Timeouts::default() };
    let store = connect(config).await;
    let mut senders = Vec::new();
    let (progress, mut progressed) = tokio::sync::watch::channel(0_u64);
    for sender in 0..4_u64 {
        let (store, progress) = (store.clone(), progress.clone());
        senders.push(tokio::spawn(async move {
            let mut acknowledged = HashSet::new();
            for batch in 0..60_u64 {
                let events: Vec<_> = (0..16).map(|i| make(sender << 32 | batch << 16 | i)).collect();
                // A refusal leaves it open what became of them: they are not counted on.
                match store.accept(events.iter().map(acceptance).collect()).await {
                    Ok(_) => acknowledged.extend(ids(&events)),
                    Err(_) => back(&store).await,
                }
                progress.send_modify(|count| *count += 1);
            }
            acknowledged
        }));
    }
    for at in [40, 120] {
        progressed.wait_for(|count| *count >= at).await.unwrap();
        server.kill();
        server.restart().await;
    }
    let mut acknowledged = HashSet::new();
    for sender in senders {
        acknowledged.extend(sender.await.unwrap());
    }
    let seen = all_ids(&store, "a").await;
    let kept: HashSet<_> = seen.iter().copied().collect();
    let missing: Vec<_> = acknowledged.difference(&kept).collect();
    assert!(missing.is_empty(), "{} of {} acknowledged events are gone", missing.len(), acknowledged.len());
    assert!(acknowledged.len() > 2000, "most were acknowledged: {}", acknowledged.len());
    seen.len() - kept.len()
}

/// The answer to `EXEC` (or the request) is lost with its connection: the accept still answers truthfully, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_asked_for() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let proxy = Proxy::before(server.port()).await;
    let store = connect(config(&proxy.url(), Durability::EverySec)).await;
    let mut sent = Vec::new();
    let (mut number, mut queued) = (0, 0);
    for fault in [Fault::DropAnswer, Fault::DropRequest, Fault::None, Fault::DropAnswer] {
        proxy.arm(fault);
        let events: Vec<_> = (0..20)
            .map(|_| {
                number += 1;
                make(number)
            })
            .collect();
        let answers = store.accept(events.iter().map(acceptance).collect()).await.unwrap();
        sent.extend(ids(&events));
        queued += events.iter().map(|event| event.request.size() as u64).sum::<u64>();
        assert_eq!(answers, vec![Accepted::New { queued }; 20], "{fault:?}");
    }
    assert_eq!(proxy.faults(), 3);
    assert_eq!(all_ids(&store, "a").await, sent);
}

/// The same for events with a dedup key: the engine's own second try is not a duplicate, a producer's is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_keeps_dedup_truthful() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let proxy = Proxy::before(server.port()).await;
    let store = connect(config(&proxy.url(), Durability::EverySec)).await;
    let (first, repeat, other) = (make(1), make(2), make(3));
    proxy.arm(Fault::DropAnswer);
    assert_eq!(repeats(store.accept(vec![once(&first, 1, FOR_EVER)]).await.unwrap()), [None]);
    proxy.arm(Fault::DropAnswer);
    let answers = store.accept(vec![once(&repeat, 1, FOR_EVER), once(&other, 2, FOR_EVER)]).await.unwrap();
    let queued = (first.request.size() + other.request.size()) as u64;
    assert_eq!(answers, [Accepted::Duplicate(first.id), Accepted::New { queued }]);
    assert_eq!(proxy.faults(), 2);
    assert_eq!(all_ids(&store, "a").await, [first.id, other.id]);
}

/// The answer to a claim is lost: it says so, and what it took is reclaimed before what came later is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_claim_took_is_reclaimed_first() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let proxy = Proxy::before(server.port()).await;
    let store = connect(config(&proxy.url(), Durability::EverySec)).await;
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    let events: Vec<_> = (1..=3).map(make).collect();
    store.accept(events[..2].iter().map(acceptance).collect()).await.unwrap();
    // Its answer names the lane only if there is something in it.
    proxy.drop_answer("XREADGROUP", "in:normal");
    assert!(store.claim(&lease, Lane::Normal, ALL).await.is_err());
    store.accept(vec![acceptance(&events[2])]).await.unwrap();
    let lost = store.reclaim(&lease, &HashSet::new(), ALL).await.unwrap();
    assert_eq!(claimed_ids(&lost), ids(&events[..2]));
    let third = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    assert_eq!(claimed_ids(&third), [events[2].id]);

    // A claim reads several times: what its first read took is handed out, and the next claim tells of the second.
    let now = Clock::system().now();
    let marked = event(6, TENANT, now, Bytes::from_static(b"this one is marked"));
    let events = [make(4), make(5), marked];
    store.accept(events.iter().map(acceptance).collect()).await.unwrap();
    proxy.drop_answer("XREADGROUP", "this one is marked");
    // Room for two as large as the last ones, and then for a smaller one.
    let few = Budget::new(100, events[0].request.size() * 5 / 2);
    let first = store.claim(&lease, Lane::Normal, few).await.unwrap();
    assert_eq!((claimed_ids(&first), proxy.faults()), (ids(&events[..2]), 2));
    store.accept(vec![acceptance(&make(7))]).await.unwrap();
    assert!(store.claim(&lease, Lane::Normal, ALL).await.is_err());
    let in_hand = lost.iter().chain(&third).chain(&first).map(|one| one.ticket).collect();
    let found = store.reclaim(&lease, &in_hand, ALL).await.unwrap();
    assert_eq!(claimed_ids(&found), [events[2].id]);
    assert_eq!(store.claim(&lease, Lane::Normal, ALL).await.unwrap().len(), 1);
}

/// A look at what was left behind that ends in an error is no hand-out: it was counted, until the entry was given up without a run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reclaim_that_fails_counts_nothing() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(config(&server.url(), Durability::EverySec)).await;
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    store.accept(vec![acceptance(&make(1))]).await.unwrap();
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    store.record(&lease, &[progress(&claimed[0], vec![delivered(&claimed[0].event, 0)])]).await.unwrap();
    let buckets = server.command(&["KEYS", "{tg:3}:h:*"]).await;
    let [bucket] = redis::from_redis_value::<[String; 1]>(buckets).unwrap();
    server.command(&["RPUSH", &bucket, "no piece of history"]).await;
    for _ in 0..4 {
        assert!(store.reclaim(&lease, &HashSet::new(), ALL).await.is_err());
    }
    server.command(&["RPOP", &bucket]).await;
    let again = store.reclaim(&lease, &HashSet::new(), ALL).await.unwrap();
    assert_eq!((claimed_ids(&again), again[0].claims), (claimed_ids(&claimed), 2));
}

/// Redis stalls for longer than the engine waits, with the batch in its socket: it is not executed twice when Redis goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_does_not_double_a_batch() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let mut config = config(&server.url(), Durability::EverySec);
    // Nothing but the batch's own time-out makes the engine look at the server.
    config.check_every = FOR_EVER;
    config.timeouts = Timeouts {
        response: Duration::from_millis(150),
        connect: Duration::from_millis(150),
        settle: Duration::from_secs(60),
        ..Timeouts::default()
    };
    let store = connect(config).await;
    let events: Vec<_> = (1..=20).map(make).collect();
    store.accept(vec![acceptance(&events[0])]).await.unwrap();
    server.pause();
    let accepting = tokio::spawn({
        let (store, batch) = (store.clone(), events[1..].iter().map(acceptance).collect());
        async move { store.accept(batch).await }
    });
    eventually(async || store.ready().err()).await;
    server.resume();
    assert_eq!(repeats(accepting.await.unwrap().unwrap()), vec![None; 19]);
    assert_eq!(all_ids(&store, "a").await, ids(&events));
}

/// A lost answer to an owner's write is settled too: nothing is written twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_does_not_double_a_record() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let mut config = config(&server.url(), Durability::EverySec);
    config.timeouts = Timeouts {
        response: Duration::from_millis(150),
        connect: Duration::from_millis(150),
        operation: Duration::from_millis(400),
        ..Timeouts::default()
    };
    let store = connect(config).await;
    let event = make(1);
    store.accept(vec![acceptance(&event)]).await.unwrap();
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap().remove(0);
    let now = Clock::system().now();
    let batch = [finish(&claimed, vec![scheduled(&event, 0, now, 1)])];
    server.pause();
    let failed = store.record(&lease, &batch).await;
    assert!(matches!(failed, Err(StoreError::Unavailable(_))), "{failed:?}");
    server.resume();
    // The next write settles it first; the batch sent again then finds nothing left to do.
    let taken = eventually(async || store.due(&lease, now, ALL).await.ok()).await;
    assert_eq!(taken, [Job { claims: 1, ..job(&event, 0, 1) }]);
    store.record(&lease, &batch).await.unwrap();
    assert!(store.due(&lease, now, ALL).await.unwrap().is_empty());
    let row = store.event(HOME, event.id).await.unwrap().unwrap().summary.deliveries.remove(0);
    assert_eq!(row.attempts.len(), 1);
}

/// An owner that stalls past its lease: the next one has its work, and nothing of what it still sends is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_owner_is_fenced() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let stalled = connect(config(&server.url(), Durability::EverySec)).await;
    let next = connect(config(&server.url(), Durability::EverySec)).await;
    let (event, second) = (make(1), make(2));
    stalled.accept(vec![acceptance(&event), acceptance(&second)]).await.unwrap();
    let old = stalled.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    let claimed = stalled.claim(&old, Lane::Normal, ALL).await.unwrap();
    let new = eventually(async || next.acquire(SHARD, "b", SPAN).await.unwrap()).await;
    let late = [finish(&claimed[0], vec![scheduled(&event, 0, Clock::system().now(), 1)])];
    assert!(is_fenced(stalled.record(&old, &late).await));
    assert!(is_fenced(stalled.claim(&old, Lane::Normal, ALL).await));
    assert!(is_fenced(stalled.renew(&old).await));
    assert_eq!(next.depth(SHARD).await.unwrap().scheduled, 0);
    let again = next.reclaim(&new, &HashSet::new(), ALL).await.unwrap();
    assert_eq!(claimed_ids(&again), [event.id, second.id]);
    next.record(&new, &[finish(&again[0], vec![delivered(&event, 0)])]).await.unwrap();
    assert!(next.event(HOME, event.id).await.unwrap().unwrap().summary.finished);
}

/// While the store stalls nobody loses a lease: a challenger that could not look has seen nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stall_of_the_store_ends_no_lease() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let mut config = config(&server.url(), Durability::EverySec);
    config.timeouts = Timeouts {
        response: Duration::from_millis(100),
        connect: Duration::from_millis(100),
        operation: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let (owner, challenger) = (connect(config.clone()).await, connect(config).await);
    let lease = owner.acquire(SHARD, "a", SPAN).await.unwrap().unwrap();
    assert_eq!(challenger.acquire(SHARD, "b", SPAN).await.unwrap(), None);
    server.pause();
    let started = tidegate::clock::monotonic();
    while started.elapsed() < 2 * SPAN {
        assert!(challenger.acquire(SHARD, "b", SPAN).await.is_err());
    }
    server.resume();
    eventually(async || challenger.ready().ok()).await;
    assert_eq!(eventually(async || challenger.acquire(SHARD, "b", SPAN).await.ok()).await, None, "the look starts anew");
    eventually(async || owner.renew(&lease).await.ok()).await;
}

/// Somebody removes the group: it comes back, with what is unfinished, and without what is finished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_group_is_made_anew() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(config(&server.url(), Durability::EverySec)).await;
    let events: Vec<_> = (1..=4).map(make).collect();
    store.accept(events.iter().map(acceptance).collect()).await.unwrap();
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    let done: Vec<_> = [0, 2].iter().map(|i| finish(&claimed[*i], vec![delivered(&claimed[*i].event, 0)])).collect();
    store.record(&lease, &done).await.unwrap();
    server.command(&["XGROUP", "DESTROY", "{tg:3}:in:normal", "g"]).await;
    let mut again = Vec::new();
    while again.len() < 2 {
        let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
        again.extend(claimed_ids(&claimed));
    }
    assert_eq!(again, [events[1].id, events[3].id]);
    assert!(store.claim(&lease, Lane::Normal, ALL).await.unwrap().is_empty());
    let later = make(5);
    store.accept(vec![acceptance(&later)]).await.unwrap();
    assert_eq!(claimed_ids(&store.claim(&lease, Lane::Normal, ALL).await.unwrap()), [later.id]);
}

/// A pending entry that somebody deleted is a loss, and counted as one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_is_counted() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(config(&server.url(), Durability::EverySec)).await;
    let events: Vec<_> = (1..=3).map(make).collect();
    store.accept(events.iter().map(acceptance).collect()).await.unwrap();
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    let claimed = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    let gone = claimed[1].ticket;
    server.command(&["XDEL", "{tg:3}:in:normal", &format!("{}-{}", gone.major, gone.minor)]).await;
    let again = store.reclaim(&lease, &HashSet::new(), ALL).await.unwrap();
    assert_eq!(claimed_ids(&again), [events[0].id, events[2].id]);
    assert_eq!(store.lost_entries(), 1);
}

/// Scripts that somebody flushed come back by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushed_scripts_come_back() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(config(&server.url(), Durability::EverySec)).await;
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    server.command(&["SCRIPT", "FLUSH"]).await;
    store.renew(&lease).await.unwrap();
    server.command(&["SCRIPT", "FLUSH"]).await;
    let event = make(1);
    let answers = eventually(async || store.accept(vec![once(&event, 1, FOR_EVER)]).await.ok()).await;
    assert_eq!(repeats(answers), [None]);
    assert_eq!(all_ids(&store, "a").await, [event.id]);
}
