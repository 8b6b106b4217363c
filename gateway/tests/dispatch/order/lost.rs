//! The answer to a claim is lost: what it took goes before what came later.

use std::sync::Arc;

use tidegate::clock::Clock;
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate_test_support::eventually;
use tidegate_test_support::http::Receiver;
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use super::{accept, by_destination, numbers, ordered};
use crate::proxy::Proxy;
use crate::world::{SOON, World, is_delivered};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_took_whose_answer_was_lost_is_not_overtaken_on_redis() {
    overtakes(Flavor::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_took_whose_answer_was_lost_is_not_overtaken_on_valkey() {
    overtakes(Flavor::Valkey).await;
}

async fn overtakes(flavor: Flavor) {
    let (server, receiver) = (Server::start(Config::new(flavor, Fsync::EverySec)).await, Receiver::start().await);
    let proxy = Proxy::before(server.port()).await;
    let config = RedisConfig::standalone(proxy.url().parse().unwrap());
    let store = Box::pin(RedisStore::connect(config, Clock::system())).await.unwrap();
    let world = World::over(Arc::new(store)).await;
    world.declare("t", ordered(&receiver, &by_destination())).await;
    let node = world.dispatch("a");
    let mut events = accept(&world, "a", 0..1).await;
    world.settled("t", events[0], is_delivered).await;
    for round in 1..=5 {
        // Its answer names the lane only if there is something in it.
        proxy.drop_answer("XREADGROUP", "in:normal");
        let first = events.len();
        events.extend(accept(&world, "a", first..first + 1).await);
        eventually("an answer is lost", SOON, async || (proxy.faults() == round).then_some(())).await;
        events.extend(accept(&world, "a", first + 1..first + 6).await);
    }
    for event in &events {
        world.settled("t", *event, is_delivered).await;
    }
    assert_eq!(numbers(&receiver.requests(), "a"), (0..31).collect::<Vec<_>>());
    node.stop().await;
}
