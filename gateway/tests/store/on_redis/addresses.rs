//! Where a store's servers are, as it tells those who must not let others reach them.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tidegate::clock::Clock;
use tidegate::store::redis::{Durability, RedisConfig, RedisStore, RedisUrl, Topology};
use tidegate_test_support::eventually as within;
use tidegate_test_support::redis::{Cluster, Config, Flavor, Fsync, Server};

use crate::world::*;

const SOON: std::time::Duration = std::time::Duration::from_secs(60);

fn url(text: &str) -> RedisUrl {
    text.parse().expect("a Redis URL")
}

async fn knows(topology: Topology, durability: Durability, ports: &[u16]) {
    let config = RedisConfig { topology, durability, ..RedisConfig::standalone(url("redis://localhost")) };
    let store = RedisStore::connect(config, Clock::system()).await.expect("the servers are as the engine demands");
    let expected: BTreeSet<SocketAddr> = ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect();
    eventually(async || {
        let known: BTreeSet<SocketAddr> = store.addresses().load().iter().copied().collect();
        expected.is_subset(&known).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_servers_of_a_store_are_known() {
    let config =
        || Config::new(Flavor::Redis, Fsync::EverySec).with("min-replicas-to-write", "1").with("repl-diskless-sync-delay", "0");
    let primary = Server::start(config()).await;
    let replica = Server::start(config().replica_of(&primary)).await;
    let sentinel = Server::start(Config::sentinel_of(&primary)).await;
    within("the sentinel and the primary know the replica", SOON, async || {
        let knows = sentinel.info("master0").await.contains("slaves=1");
        (knows && primary.info("min_slaves_good_slaves").await == "1").then_some(())
    })
    .await;
    let pair = [primary.port(), replica.port()];
    let named = Topology::Standalone(url(&format!("redis://localhost:{}", primary.port())));
    knows(named, Durability::Replicated, &pair).await;
    let watched = Topology::Sentinel { urls: vec![url(&sentinel.url())], master: Config::WATCHED.into() };
    knows(watched, Durability::Replicated, &[pair[0], pair[1], sentinel.port()]).await;

    let mut cluster = Cluster::start(Config::new(Flavor::Redis, Fsync::EverySec), 3).await;
    let ports: Vec<u16> = cluster.nodes().iter().map(Server::port).collect();
    let first = Topology::Cluster(vec![url(&cluster.urls()[0])]);
    knows(first, Durability::EverySec, &ports).await;
}
