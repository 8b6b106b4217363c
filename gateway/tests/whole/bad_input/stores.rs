//! Stores that are down, full, read-only, evicting or not there.

use std::time::Duration;

use tidegate_test_support::http::{Answer, Reply, send};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};
use tidegate_test_support::{eventually, monotonic};

use super::{accepted, set_up, still_delivers};
use crate::world::{REDIS, SOON, Servers, World};

pub(super) async fn post(world: &World, source: &str) -> Reply {
    send("POST", &world.gateway.ingest(&format!("/in/{source}")), &[], "{}").await
}

pub(super) fn is_unavailable(reply: &Reply, code: &str) {
    assert_eq!((reply.status, reply.json()["code"].as_str()), (503, Some(code)), "{:?}", reply.body);
    assert!(reply.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok()), "{:?}", reply.headers);
}

/// A world with an event that waits for its next attempt.
async fn with_something_to_lose() -> (World, String) {
    let world = World::start(REDIS).await;
    set_up(&world).await;
    world.receiver.answer_in_turn([Answer::status(503).header("retry-after", "3")], Answer::status(200));
    let waiting = accepted(&world, "open", "{}").await;
    world.receiver.wait_for(1, SOON).await;
    (world, waiting)
}

/// Waits until events are taken again; then nothing of what was there before is missing.
async fn comes_back(world: &World, source: &str, waiting: &str) {
    eventually("events are taken again", SOON, async || (post(world, source).await.status == 202).then_some(())).await;
    assert_eq!(world.api.settled(waiting, SOON).await["state"], "delivered");
    still_delivers(world).await;
}

#[tokio::test]
async fn a_store_that_is_down_answers_503_until_it_is_back() {
    let (mut world, waiting) = with_something_to_lose().await;
    let source = world.api.id("sources", "open").await;
    eventually("the retry is recorded", SOON, async || {
        (world.api.event(&waiting).await["deliveries"][0]["state"] == "scheduled").then_some(())
    })
    .await;
    world.redis().stop().await;
    // This one may be the first to find out, and wait for its write.
    is_unavailable(&post(&world, &source).await, "store_unavailable");
    let started = monotonic();
    is_unavailable(&post(&world, &source).await, "store_unavailable");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let shown = world.api.try_get(&format!("/v1/events/{waiting}?tenant=acme")).await;
    assert_eq!((shown.status, shown.json()["code"].as_str()), (503, Some("store_unavailable")), "{:?}", shown.body);
    world.redis().restart().await;
    comes_back(&world, &source, &waiting).await;
}

#[tokio::test]
async fn a_full_store_answers_503_and_still_delivers_what_it_holds() {
    let (mut world, waiting) = with_something_to_lose().await;
    let source = world.api.id("sources", "open").await;
    let used: u64 = world.redis().info("used_memory").await.parse().expect("a number");
    world.redis().command(&["CONFIG", "SET", "maxmemory", &(used * 11 / 10).to_string()]).await;
    let refused = eventually("the store is found full", SOON, async || {
        let reply = post(&world, &source).await;
        (reply.status == 503).then_some(reply)
    })
    .await;
    is_unavailable(&refused, "store_full");
    assert_eq!(world.api.settled(&waiting, SOON).await["state"], "delivered", "what is left is for retries and outcomes");
    world.redis().command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    comes_back(&world, &source, &waiting).await;
}

#[tokio::test]
async fn a_store_that_turns_weak_while_it_runs_answers_503_with_the_reason_in_the_log() {
    let (mut world, waiting) = with_something_to_lose().await;
    let source = world.api.id("sources", "open").await;
    let table = [
        (["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"], ["CONFIG", "SET", "maxmemory-policy", "noeviction"], "noeviction"),
        (["CONFIG", "SET", "appendonly", "no"], ["CONFIG", "SET", "appendonly", "yes"], "append-only file"),
    ];
    for (spoil, mend, reason) in table {
        world.redis().command(&spoil).await;
        let refused = eventually(&format!("{spoil:?} is noticed"), SOON, async || {
            let reply = post(&world, &source).await;
            (reply.status == 503).then_some(reply)
        })
        .await;
        is_unavailable(&refused, "store_unavailable");
        world.gateway.wait_for_log(SOON, |log| log.contains(reason)).await;
        world.redis().command(&mend).await;
        comes_back(&world, &source, &waiting).await;
    }
    world.redis().command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    is_unavailable(&post(&world, &source).await, "store_unavailable");
    world.redis().command(&["REPLICAOF", "NO", "ONE"]).await;
    comes_back(&world, &source, &waiting).await;
}

#[tokio::test]
async fn a_store_that_is_too_weak_or_not_there_is_refused_at_start() {
    let primary = Server::start(Config::new(Flavor::Redis, Fsync::EverySec)).await;
    let config = |fsync| Config::new(Flavor::Redis, fsync);
    let table = [
        (config(Fsync::EverySec).replica_of(&primary), "everysec", "is a replica"),
        (config(Fsync::EverySec).with("maxmemory-policy", "allkeys-lru"), "everysec", "noeviction"),
        (config(Fsync::Off), "everysec", "appendonly"),
        (config(Fsync::EverySec), "fsync", "appendfsync always"),
        (config(Fsync::EverySec), "replicated", "min-replicas-to-write"),
    ];
    for (config, mode, reason) in table {
        let server = Server::start(config).await;
        let servers = Servers::of(server, mode);
        let finished = servers.launch("").run(&["serve"]).await;
        assert_eq!(finished.status.code(), Some(1), "{}", finished.output);
        assert!(finished.output.contains(reason), "{reason} is not in {}", finished.output);
    }
    let mut gone = Server::start(config(Fsync::EverySec)).await;
    gone.kill();
    let finished = Servers::of(gone, "everysec").launch("").run(&["serve"]).await;
    assert_eq!(finished.status.code(), Some(1), "{}", finished.output);
    assert!(finished.output.contains("redis"), "{}", finished.output);
}
