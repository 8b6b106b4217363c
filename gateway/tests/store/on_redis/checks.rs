//! Start-up checks and their repetition, on real servers. What each setting means is tested beside the code.

use std::time::Duration;

use tidegate::clock::Clock;
use tidegate::store::redis::{Durability, RedisConfig, RedisStore, Timeouts};
use tidegate::store::{Store, StoreError};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use crate::world::*;

fn config(server: &Server, durability: Durability) -> RedisConfig {
    RedisConfig {
        durability,
        shards: 8,
        check_every: Duration::from_millis(50),
        timeouts: Timeouts { replica: Duration::from_millis(300), ..Timeouts::default() },
        ..RedisConfig::standalone(server.url().parse().expect("a Redis URL"))
    }
}

async fn refusal(server: &Server, durability: Durability) -> String {
    match RedisStore::connect(config(server, durability), Clock::system()).await {
        Ok(_) => panic!("not refused"),
        Err(StoreError::Refused(text)) => text,
        Err(other) => panic!("refused as {other:?}"),
    }
}

#[tokio::test]
async fn a_server_that_is_too_weak_is_refused() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    assert!(refusal(&server, Durability::Fsync).await.contains("appendfsync always"));
    assert!(refusal(&server, Durability::Replicated).await.contains("min-replicas-to-write"));
    server.command(&["CONFIG", "SET", "appendfsync", "no"]).await;
    assert!(refusal(&server, Durability::EverySec).await.contains("appendfsync"));
    server.command(&["CONFIG", "SET", "appendfsync", "always", "no-appendfsync-on-rewrite", "yes"]).await;
    assert!(refusal(&server, Durability::Fsync).await.contains("no-appendfsync-on-rewrite"));
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    assert!(refusal(&server, Durability::EverySec).await.contains("noeviction"));
}

#[tokio::test]
async fn a_server_without_a_log_is_for_ephemeral_only() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::Off)).await;
    assert!(refusal(&server, Durability::EverySec).await.contains("appendonly"));
    RedisStore::connect(config(&server, Durability::Ephemeral), Clock::system()).await.unwrap();
}

#[tokio::test]
async fn a_replica_is_refused() {
    let primary = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let replica = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).replica_of(&primary)).await;
    assert!(refusal(&replica, Durability::EverySec).await.contains("master"));
}

#[tokio::test]
async fn where_config_is_denied_somebody_must_vouch() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::Always).with("rename-command", "CONFIG \"\"")).await;
    assert!(refusal(&server, Durability::Fsync).await.contains("vouched"));
    let config = RedisConfig { vouched: true, ..config(&server, Durability::Fsync) };
    RedisStore::connect(config, Clock::system()).await.unwrap().ready().unwrap();
}

#[tokio::test]
async fn nothing_there_is_unavailable() {
    let mut server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    server.kill();
    let error = RedisStore::connect(config(&server, Durability::EverySec), Clock::system()).await.err().expect("nobody answers");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
}

#[tokio::test]
async fn drift_is_noticed_and_ends() {
    let server = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let store = RedisStore::connect(config(&server, Durability::EverySec), Clock::system()).await.unwrap();
    let sent = event(1, TENANT, Clock::system().now(), "a".into());
    store.accept(vec![acceptance(&sent)]).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]).await;
    let error = eventually(async || store.ready().err()).await;
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("noeviction")), "{error}");
    assert!(matches!(store.accept(vec![acceptance(&sent)]).await, Err(StoreError::Unavailable(_))));
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await;
    eventually(async || store.ready().ok()).await;
    store.accept(vec![acceptance(&sent)]).await.unwrap();
}

#[tokio::test]
async fn a_replicated_accept_needs_its_replica() {
    let settings = |config: Config| config.with("min-replicas-to-write", "1").with("repl-diskless-sync-delay", "0");
    let primary = Server::start(settings(Config::new(Flavor::Redis, Fsync::EverySec))).await;
    let mut replica = Server::start(Config::new(Flavor::Redis, Fsync::EverySec).replica_of(&primary)).await;
    tidegate_test_support::eventually("the replica follows", Duration::from_secs(30), async || {
        (primary.info("connected_slaves").await == "1" && replica.info("master_link_status").await == "up").then_some(())
    })
    .await;
    let store = RedisStore::connect(config(&primary, Durability::Replicated), Clock::system()).await.unwrap();
    let sent = event(1, TENANT, Clock::system().now(), "a".into());
    eventually(async || store.accept(vec![acceptance(&sent)]).await.ok()).await;
    replica.pause();
    let error = store.accept(vec![acceptance(&sent)]).await.unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable(text) if text.contains("replica")), "{error}");
    replica.kill();
    let error = eventually(async || match store.accept(vec![acceptance(&sent)]).await {
        Err(StoreError::Unavailable(text)) if text.contains("min-replicas-to-write") => Some(text),
        _ => None,
    });
    error.await;
}
