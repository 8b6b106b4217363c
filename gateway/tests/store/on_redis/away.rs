//! While the server is away nobody waits for it, and when it is back nobody has to tell.

use std::sync::Arc;
use std::time::Duration;

use tidegate::clock::{Clock, monotonic};
use tidegate::event::{Event, Lane};
use tidegate::store::redis::{Durability, RedisConfig, RedisStore, Timeouts};
use tidegate::store::{Store, StoreError};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

/// Far below the time that a write may take.
const AT_ONCE: Duration = Duration::from_secs(1);

async fn connect(server: &Server, timeouts: Timeouts) -> Arc<RedisStore> {
    let url = server.url().parse().expect("a Redis URL");
    let config = RedisConfig { durability: Durability::EverySec, shards: 8, timeouts, ..RedisConfig::standalone(url) };
    Arc::new(RedisStore::connect(config, Clock::system()).await.expect("the server is as the engine demands"))
}

fn make(number: u64) -> Event {
    event(number, TENANT, Clock::system().now(), "a".into())
}

/// Accepts are refused, and quickly.
async fn refused_at_once(store: &RedisStore) {
    for number in 100..120 {
        let started = monotonic();
        let answer = store.accept(vec![acceptance(&make(number))]).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        assert!(store.admits(Lane::Normal).is_err());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_died_is_known_to_be_away_until_it_is_back() {
    let mut server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server, Timeouts::default()).await;
    store.accept(vec![acceptance(&make(1))]).await.unwrap();
    for number in 2..4 {
        // The regular checks come every two seconds: it is the broken connection that tells.
        let died = monotonic();
        server.kill();
        eventually(async || store.ready().err()).await;
        assert!(died.elapsed() < AT_ONCE, "{:?}", died.elapsed());
        refused_at_once(&store).await;
        server.restart().await;
        let restarted = monotonic();
        eventually(async || store.ready().ok()).await;
        assert!(restarted.elapsed() < 2 * AT_ONCE, "{:?}", restarted.elapsed());
        assert_eq!(repeats(store.accept(vec![acceptance(&make(number))]).await.unwrap()), [None]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_is_away_once_a_write_has_waited_for_its_time() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let timeouts = Timeouts {
        response: Duration::from_millis(300),
        connect: Duration::from_millis(300),
        settle: Duration::from_millis(500),
        ..Timeouts::default()
    };
    let store = connect(&server, timeouts).await;
    store.accept(vec![acceptance(&make(1))]).await.unwrap();
    server.pause();
    let answer = store.accept(vec![acceptance(&make(2))]).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    refused_at_once(&store).await;
    server.resume();
    eventually(async || store.ready().ok()).await;
    assert_eq!(repeats(store.accept(vec![acceptance(&make(3))]).await.unwrap()), [None]);
}

/// A load balancer or an operator cuts the connections of a server that is well: nothing is refused for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_breaks_alone_refuses_nothing() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = connect(&server, Timeouts::default()).await;
    for number in 1..=20 {
        assert_eq!(repeats(store.accept(vec![acceptance(&make(number))]).await.unwrap()), [None]);
        for kind in ["normal", "pubsub"] {
            server.command(&["CLIENT", "KILL", "TYPE", kind]).await;
        }
        assert_eq!(repeats(store.accept(vec![acceptance(&make(100 + number))]).await.unwrap()), [None]);
        // On the connection of the checks.
        store.probe().await.unwrap();
    }
}
