//! Buckets that gateways share. Their times are hours here, so that the milliseconds which pass meanwhile don't matter.

use std::time::Duration;

use redis::Value;
use tidegate::clock::Clock;
use tidegate::control::snapshot::Plan;
use tidegate::event::{Lane, Shard, TenantId};
use tidegate::ingest::quota::Quotas;
use tidegate::store::redis::{RedisConfig, RedisStore, Topology};
use tidegate::store::{Allowance, Home, Spent, Store, StoreError};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

const HOUR: Duration = Duration::from_secs(3600);

async fn connect(topology: Topology) -> RedisStore {
    let url = "redis://127.0.0.1".parse().expect("a Redis URL");
    let config = RedisConfig { topology, shards: 8, ..RedisConfig::standalone(url) };
    RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands")
}

async fn standalone(server: &Server) -> RedisStore {
    connect(Topology::Standalone(server.url().parse().expect("a Redis URL"))).await
}

fn spent(tenant: TenantId, shard: Shard, time: Duration) -> Spent {
    Spent { home: Home { tenant, shard }, allowance: Allowance::Normal, time }
}

/// In whole hours.
async fn spend(store: &RedisStore, over: Duration, spent: &[Spent]) -> Vec<u64> {
    let answers = store.spend(over, spent).await.unwrap();
    answers.into_iter().map(|full_in| (full_in + HOUR / 2).as_secs() / HOUR.as_secs()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_gateway_hears_what_all_have_taken() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let cluster = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).whole_cluster()).await;
    let url = || vec![cluster.url().parse().expect("a Redis URL")];
    for (one, other) in [
        (standalone(&server).await, standalone(&server).await),
        (connect(Topology::Cluster(url())).await, connect(Topology::Cluster(url())).await),
    ] {
        let ours = spent(TENANT, SHARD, 2 * HOUR);
        assert_eq!(spend(&one, Duration::ZERO, &[ours]).await, [2]);
        assert_eq!(spend(&other, Duration::ZERO, &[ours]).await, [4]);
        let others = [
            Spent { time: HOUR, ..ours },
            Spent { allowance: Allowance::Ceiling, ..ours },
            spent(OTHER_TENANT, SHARD, 3 * HOUR),
            spent(TENANT, OTHER_SHARD, 6 * HOUR),
            spent(OTHER_TENANT, OTHER_SHARD, Duration::ZERO),
        ];
        assert_eq!(spend(&one, Duration::ZERO, &others).await, [5, 2, 3, 6, 0], "each is apart");
        assert_eq!(spend(&one, Duration::ZERO, &[]).await, [0; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_over_a_while_has_filled_meanwhile() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let (one, other) = (standalone(&server).await, standalone(&server).await);
    let ours = spent(TENANT, SHARD, 2 * HOUR);
    assert_eq!(spend(&one, 2 * HOUR, &[ours]).await, [0], "as fast as it fills");
    assert_eq!(spend(&other, 2 * HOUR, &[ours]).await, [2], "that is twice as fast");
    assert_eq!(spend(&other, 100 * HOUR, &[spent(TENANT, SHARD, HOUR)]).await, [3], "what is taken is not forgotten");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_buckets_are_answered_in_order_and_none_stays() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = standalone(&server).await;
    let many: Vec<_> = (0..1500_u32).map(|n| spent(TenantId(n.into()), Shard((n % 7) as u16), HOUR * n)).collect();
    let expected: Vec<u64> = (0..1500).collect();
    assert_eq!(spend(&store, Duration::ZERO, &many).await, expected);
    let Value::Array(keys) = server.command(&["KEYS", "*:tb:*"]).await else { panic!("keys") };
    assert_eq!(keys.len(), 1500);
    for key in keys {
        let key: String = redis::from_redis_value(key).unwrap();
        let left: i64 = redis::from_redis_value(server.command(&["PTTL", &key]).await).unwrap();
        assert!(left > 0, "{key} would stay for ever");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_scripts_and_a_server_that_is_away_are_errors_that_pass() {
    let mut server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = standalone(&server).await;
    let ours = spent(TENANT, SHARD, HOUR);
    assert_eq!(spend(&store, Duration::ZERO, &[ours]).await, [1]);
    server.command(&["SCRIPT", "FLUSH"]).await;
    assert!(store.spend(Duration::ZERO, &[ours]).await.is_err());
    assert_eq!(spend(&store, Duration::ZERO, &[ours]).await, [2]);
    server.stop().await;
    assert!(matches!(store.spend(Duration::ZERO, &[ours]).await, Err(StoreError::Unavailable(_))));
    server.restart().await;
    eventually(async || store.spend(Duration::ZERO, &[ours]).await.ok()).await;
}

/// Two acceptors take turns at a plan that fills so slowly that its burst is all there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_acceptors_admit_the_plan_and_not_twice_the_plan() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let stores = [standalone(&server).await, standalone(&server).await];
    let acceptors = [Quotas::default(), Quotas::default()];
    let clock = Clock::system();
    let plan = Plan {
        delivery_rate: None,
        rate: 0.001,
        burst: 1000,
        weight: 1,
        in_flight: 1,
        ceiling: 0.001,
        queued_bytes: 1,
        table_bytes: 0,
        plugin_fuel: 0,
        plugin_bytes: 0,
    };
    let (mut normal, mut taken) = (0, 0);
    for _ in 0..100 {
        for (quotas, store) in acceptors.iter().zip(&stores) {
            let quota = quotas.of(HOME);
            for _ in 0..20 {
                normal += usize::from(quotas.lane(&quota, &plan, clock.now()) == Lane::Normal);
                taken += usize::from(quotas.pass(&quota, &plan, clock.now()).is_ok());
            }
            quotas.share(store, &clock).await;
        }
    }
    // Each may be ahead by what it took since it last heard of the other, and by what is not worth to be told.
    for admitted in [normal, taken] {
        assert!((1000..=1000 + 2 * (20 + 1000 / 64)).contains(&admitted), "{normal} into the normal lane, {taken} taken at all");
    }
}
