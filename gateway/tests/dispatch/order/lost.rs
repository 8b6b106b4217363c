//! The answer to a claim is lost: what it took goes before what came later.

use std::sync::Arc;

use tidegate::clock::Clock;
use tidegate::control::snapshot::{Diversion, Diverted, Percent, Traffic};
use tidegate::event::Lane;
use tidegate::store::redis::{RedisConfig, RedisStore};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, Receiver};
use tidegate_test_support::redis::{Config, Flavor, Fsync, Server};

use super::{accept, body, by_destination, numbers, ordered};
use crate::proxy::Proxy;
use crate::world::{SHARD, SOON, World, fan_out, is_delivered};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_took_whose_answer_was_lost_is_not_overtaken_on_redis() {
    overtakes(Flavor::Redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_took_whose_answer_was_lost_is_not_overtaken_on_valkey() {
    overtakes(Flavor::Valkey).await;
}

async fn overtakes(flavor: Flavor) {
    let receiver = Receiver::start().await;
    let (_server, proxy, world) = world(flavor).await;
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

pub(super) async fn world(flavor: Flavor) -> (Server, Proxy, World) {
    let server = Server::start(Config::new(flavor, Fsync::EverySec)).await;
    let proxy = Proxy::before(server.port()).await;
    let config = RedisConfig::standalone(proxy.url().parse().unwrap());
    let store = Box::pin(RedisStore::connect(config, Clock::system())).await.unwrap();
    (server, proxy, World::over(Arc::new(store)).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_of_the_low_lane_took_whose_answer_was_lost_is_not_overtaken() {
    let receiver = Receiver::start().await;
    let (_server, proxy, world) = world(Flavor::Redis).await;
    world.declare("t", ordered(&receiver, &by_destination())).await;
    let node = world.dispatch("a");
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let accept = async |number| world.accept_in(Lane::Low, tenant, source, &body("a", number)).await;
    let mut events = Vec::new();
    for _ in 0..5 {
        let mut answer = proxy.keep_answer("XREADGROUP", "in:low");
        events.push(accept(events.len()).await);
        answer.caught().await;
        for _ in 0..5 {
            events.push(accept(events.len()).await);
        }
        drop(answer);
        for event in &events {
            world.settled("t", *event, is_delivered).await;
        }
    }
    assert_eq!(numbers(&receiver.requests(), "a"), (0..30).collect::<Vec<_>>());
    node.stop().await;
}

/// While what a claim took is taken up, another claim is on its way: what that one takes is in its hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_takes_meanwhile_is_not_taken_twice() {
    let receiver = Receiver::start().await;
    let (server, proxy, world) = world(Flavor::Redis).await;
    world.declare("t", fan_out(&[("out", receiver.url("/"))], 8)).await;
    receiver.answer_with(|request| if request.body.as_ref() == b"low" { Answer::hang() } else { Answer::status(200) });
    let node = world.dispatch("a");
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let mut answer = proxy.keep_answer("XREADGROUP", "in:low");
    world.accept_in(Lane::Low, tenant, source, "low").await;
    answer.caught().await;
    proxy.drop_answer("XREADGROUP", "in:normal");
    let normal = world.accept("t", "in", "normal").await;
    eventually("an answer is lost", SOON, async || (proxy.faults() == 2).then_some(())).await;
    let renewals = async || -> u64 { redis::from_redis_value(server.command(&["HGET", "{tg:0}:own", "h"]).await).unwrap() };
    let before = renewals().await;
    // Between two renewals passes more time than after a claim that ended in an error.
    eventually("what it took is looked for", SOON, async || (renewals().await >= before + 2).then_some(())).await;
    answer.pass_on();
    world.settled("t", normal, is_delivered).await;
    receiver.wait_for(2, SOON).await;
    let pending = server.command(&["XPENDING", "{tg:0}:in:low", "g", "-", "+", "10"]).await;
    let pending: Vec<(String, String, u64, u64)> = redis::from_redis_value(pending).unwrap();
    assert_eq!(pending.iter().map(|(.., claims)| *claims).collect::<Vec<_>>(), [1]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_claim_of_the_held_lane_took_whose_answer_was_lost_is_not_overtaken() {
    let receiver = Receiver::start().await;
    let (_server, proxy, world) = world(Flavor::Redis).await;
    world.declare("t", ordered(&receiver, &by_destination())).await;
    let (tenant, source) = (world.home("t").tenant, world.source("t", "in"));
    let who = Diverted::Tenant(tenant);
    world.steer(Traffic { diverted: [(who, Diversion::Returning)].into(), ..Traffic::default() });
    let node = world.dispatch("a");
    eventually("the diversion is over", SOON, async || world.came_back.lock().unwrap().contains(&(who, SHARD)).then_some(())).await;
    // Both are there when the lanes are next read.
    world.steer(Traffic { normal: Percent::NONE, ..Traffic::default() });
    proxy.drop_answer("XREADGROUP", "in:held");
    for number in 0..10 {
        world.accept_in(Lane::Held, tenant, source, &body("a", number)).await;
    }
    let last = world.accept("t", "in", &body("a", 10)).await;
    world.steer(Traffic::default());
    eventually("an answer is lost", SOON, async || (proxy.faults() == 1).then_some(())).await;
    world.settled("t", last, is_delivered).await;
    receiver.wait_for(11, SOON).await;
    assert_eq!(numbers(&receiver.requests(), "a"), (0..=10).collect::<Vec<_>>());
    node.stop().await;
}
