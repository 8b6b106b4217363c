//! Failovers under a real Sentinel: a primary and a replica that change places.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::event::{Event, EventId, Lane};
use tidegate::store::redis::{Durability, RedisConfig, RedisStore, Timeouts, Topology};
use tidegate::store::{Lease, Store};
use tidegate_test_support::eventually as within;
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use super::tls::Authority;
use crate::world::*;

const FOR_EVER: Duration = Duration::from_secs(3600);
/// A failover takes a few seconds, and more on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// Two servers, of which the first begins as the primary.
struct Pair {
    servers: [Server; 2],
    sentinel: Server,
    authority: Option<Authority>,
}

impl Pair {
    /// With an authority all of them speak TLS, with each other too.
    async fn start(authority: Option<Authority>) -> Self {
        let secure = |config: Config| match &authority {
            Some(authority) => authority.secure(config, "yes"),
            None => config,
        };
        let config = || {
            let config = Config::new(Flavor::Redis, Fsync::EverySec).with("min-replicas-to-write", "1");
            secure(config.with("repl-diskless-sync-delay", "0").with("repl-ping-replica-period", "1"))
        };
        let primary = Server::start(config()).await;
        let replica = Server::start(config().replica_of(&primary)).await;
        let sentinel = Server::start(secure(Config::sentinel_of(&primary))).await;
        within("the sentinel knows both", SOON, async || {
            let knows = sentinel.info("master0").await.contains("status=ok") && sentinel.info("master0").await.contains("slaves=1");
            (knows && primary.info("min_slaves_good_slaves").await == "1").then_some(())
        })
        .await;
        Self { servers: [primary, replica], sentinel, authority }
    }

    async fn connect(&self) -> Arc<RedisStore> {
        let url = if self.authority.is_some() { self.sentinel.tls_url() } else { self.sentinel.url() };
        let url: tidegate::store::redis::RedisUrl = url.parse().expect("a Redis URL");
        let config = RedisConfig {
            tls: self.authority.as_ref().map(|authority| authority.known_as("gateway.test")).unwrap_or_default(),
            topology: Topology::Sentinel { urls: vec![url.clone()], master: Config::WATCHED.into() },
            durability: Durability::Replicated,
            shards: 8,
            timeouts: Timeouts { settle: SOON, operation: SOON, ..Timeouts::default() },
            ..RedisConfig::standalone(url)
        };
        Arc::new(RedisStore::connect(config, Clock::system()).await.expect("the sentinel knows a primary"))
    }

    /// Waits until the server is the primary and has a replica.
    async fn leads(&self, server: usize) {
        within("the other leads", SOON, async || {
            // One whose role changes cuts its clients off.
            let answer = self.servers[server].query(&["INFO", "replication"]).await.ok()?;
            let info: String = redis::from_redis_value(answer).expect("INFO is text");
            if info.contains("role:master") && info.contains("connected_slaves:0") {
                // A sentinel that finds the machine too busy to tell the time tells nobody whom to follow for half a minute.
                let port = self.servers[server].peer_port().to_string();
                let _ = self.servers[1 - server].query(&["REPLICAOF", "127.0.0.1", &port]).await;
            }
            (info.contains("role:master") && info.contains("min_slaves_good_slaves:1")).then_some(())
        })
        .await;
    }
}

fn make(number: u64) -> Event {
    event(number, TENANT, Clock::system().now(), "a".into())
}

/// Accepts one event after the other, until told to stop; answers those that were acknowledged.
async fn produce(store: Arc<RedisStore>, stop: tokio::sync::watch::Receiver<bool>) -> Vec<EventId> {
    let mut acknowledged = Vec::new();
    for number in 1.. {
        let event = make(number);
        match store.accept(vec![acceptance(&event)]).await {
            Ok(_) => acknowledged.push(event.id),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        if *stop.borrow() {
            break;
        }
    }
    acknowledged
}

/// Everything that can be claimed or reclaimed under the lease that was taken before the failover.
async fn all_under(store: &RedisStore, lease: &Lease) -> Vec<EventId> {
    let mut seen = Vec::new();
    loop {
        let claimed = within("a claim", SOON, async || store.claim(lease, Lane::Normal, ALL).await.ok()).await;
        if claimed.is_empty() {
            break;
        }
        seen.extend(claimed_ids(&claimed));
    }
    seen.extend(claimed_ids(&store.reclaim(lease, &HashSet::new(), ALL).await.unwrap()));
    seen
}

async fn goes_on_after(authority: Option<Authority>, fail_over: impl AsyncFnOnce(&mut Pair)) {
    let mut pair = Pair::start(authority).await;
    let (store, other) = (pair.connect().await, pair.connect().await);
    let lease = store.acquire(SHARD, "a", FOR_EVER).await.unwrap().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let producing = tokio::spawn(produce(store.clone(), stopped));
    within("events are accepted", SOON, async || (store.depth(SHARD).await.ok()?.lanes[0].entries > 20).then_some(())).await;
    let before = store.claim(&lease, Lane::Normal, ALL).await.unwrap();
    assert!(!before.is_empty());
    fail_over(&mut pair).await;
    pair.leads(1).await;
    let late = make(1 << 40);
    within("an accept after the failover", SOON, async || store.accept(vec![acceptance(&late)]).await.ok()).await;
    stop.send_replace(true);
    let acknowledged = producing.await.unwrap();
    within("a renewal", SOON, async || store.renew(&lease).await.ok()).await;
    assert_eq!(within("a look", SOON, async || other.acquire(SHARD, "b", FOR_EVER).await.ok()).await, None, "the lease holds");
    let seen: HashSet<_> = all_under(&store, &lease).await.into_iter().collect();
    let missing = acknowledged.iter().chain([&late.id]).filter(|id| !seen.contains(id)).count();
    assert_eq!(missing, 0, "of {} acknowledged events", acknowledged.len());
    let done: Vec<_> = before.iter().map(|one| finish(one, vec![delivered(&one.event, 0)])).collect();
    store.record(&lease, &done).await.unwrap();
    assert!(store.event(HOME, before[0].event.id).await.unwrap().unwrap().summary.finished);
}

async fn order(pair: &mut Pair) {
    within("the sentinel begins", SOON, async || pair.sentinel.query(&["SENTINEL", "FAILOVER", Config::WATCHED]).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_failover_loses_nothing() {
    goes_on_after(None, order).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordered_failover_over_tls_loses_nothing() {
    goes_on_after(Some(Authority::new()), order).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_the_primary_loses_nothing() {
    goes_on_after(None, async |pair| {
        pair.servers[0].kill();
        within("the replica is promoted", SOON, async || {
            // Who is promoted hangs up on its clients.
            let replication = pair.servers[1].query(&["INFO", "replication"]).await.ok()?;
            let replication: String = redis::from_redis_value(replication).expect("INFO is text");
            replication.contains("role:master").then_some(())
        })
        .await;
        // Without a replica the new primary takes nothing in this mode.
        pair.servers[0].restart().await;
    })
    .await;
}
