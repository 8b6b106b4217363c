//! A tenant that is spread over all shards of two gateways on one Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tidegate::control::snapshot::Shards;
use tidegate::event::{EventId, Shard};
use tidegate_test_support::eventually;
use tidegate_test_support::gateway::Gateway;
use tidegate_test_support::http::{Answer, send};

use crate::api::{Api, TENANT, text};
use crate::kill::Run;
use crate::load::{self, Load, Log, Verdict};
use crate::world::{REDIS, SOON, World};

const SHARDS: usize = 4;
const SENDERS: usize = 8;

/// Another gateway beside the world's, once each owns its half of the shards and both know the tenant as it is.
async fn join(world: &World) -> Gateway {
    let count = |log: &str, what: &str| log.lines().filter(|line| line.contains(what)).count();
    world.gateway.wait_for_log(SOON, |log| count(log, "shard taken") == SHARDS).await;
    let other = world.servers.launch("").start().await;
    other.wait_for_log(SOON, |log| count(log, "shard taken") == SHARDS / 2).await;
    world.gateway.wait_for_log(SOON, |log| count(log, "shard given up") == SHARDS / 2).await;
    other
}

/// Spreads the tenant, with so many events in flight, and waits until every gateway knows.
async fn spread(world: &World, other: &Gateway, in_flight: usize) -> Shards {
    let path = format!("/v1/tenants/{TENANT}");
    let tenant = world.api.patch(&path, &json!({"plan": {"shards": SHARDS, "in_flight": in_flight}})).await;
    eventually("the other gateway knows", SOON, async || (Api::of(other).get(&path).await == tenant).then_some(())).await;
    let shards: Vec<Shard> =
        tenant["shards"].as_array().unwrap().iter().map(|shard| Shard(shard.as_u64().unwrap() as u16)).collect();
    assert_eq!(shards.iter().collect::<BTreeSet<_>>().len(), SHARDS, "{tenant}");
    Shards::new(shards[0], shards[1..].to_vec())
}

/// How many attempts a gateway has made.
async fn attempts(gateway: &Gateway) -> u64 {
    let text = send("GET", &gateway.admin("/metrics"), &[], "").await.body;
    let text = String::from_utf8_lossy(&text).into_owned();
    let counts = text.lines().filter(|line| line.starts_with("tidegate_attempts_total{"));
    counts.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_of_a_spread_tenant_is_delivered_and_listed_once() {
    let world = World::start(REDIS).await;
    load::set_up(&world.api, &world.receiver).await;
    let log = Log::keep(&world.receiver, |number| if number % 10 == 9 { Verdict::Refuse } else { Verdict::Take });
    let other = join(&world).await;
    let path = format!("/in/{}", world.api.id("sources", "load").await);
    let load = Load::start(&[world.gateway.ingest(&path), other.ingest(&path)], SENDERS);
    // It grows while events come in: what is in its first shard stays there.
    load.ledger.more(50, SOON).await;
    let shards = spread(&world, &other, 64).await;
    load.ledger.more(400, SOON).await;
    let ledger = load.ledger.clone();
    Run::end("a tenant on all shards of two gateways", &world, load, &log).await.nothing_is_lost();
    assert_eq!(log.duplicates(), 0);
    let made = (attempts(&world.gateway).await, attempts(&other).await);
    println!("attempts: {made:?}");
    assert!(made.0 > 0 && made.1 > 0, "both delivered: {made:?}");

    let acked: BTreeSet<EventId> = ledger.acked().values().map(|acked| acked.event.parse().unwrap()).collect();
    let used: BTreeMap<Shard, usize> = acked.iter().fold(BTreeMap::new(), |mut used, event| {
        *used.entry(shards.place(*event, None)).or_default() += 1;
        used
    });
    assert_eq!(used.len(), SHARDS, "{used:?}");
    for api in [&world.api, &Api::of(&other)] {
        let listed: Vec<EventId> = api.all("/v1/events").await.iter().map(|event| text(&event["id"]).parse().unwrap()).collect();
        assert!(listed.is_sorted_by(|newer, older| newer > older), "newest first, each once");
        assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), acked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spread_tenant_is_held_and_comes_back_in_the_order_of_each_shard() {
    let world = World::start(REDIS).await;
    world.receiver.answer(Answer::status(200));
    world
        .api
        .apply(json!({
            "sources": [{"name": "open"}],
            "destinations": [{"name": "out", "url": world.receiver.url("/")}],
            "connections": [{"name": "through", "source": "open", "destination": "out"}],
        }))
        .await;
    let other = join(&world).await;
    // One at a time in each shard, so that the order of arrival is the order of delivery.
    let shards = spread(&world, &other, SHARDS).await;
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "open").await));
    let mut sent = Vec::new();
    let accept = async |sent: &mut Vec<EventId>| {
        let reply = send("POST", &url, &[], sent.len().to_string()).await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        sent.push(text(&reply.json()["id"]).parse().unwrap());
    };
    let diversion = format!("/v1/traffic/diversions/{TENANT}");
    let diverted = async |api: &Api| api.get("/v1/traffic").await["diversions"].as_array().unwrap().len();

    assert_eq!(world.api.send("PUT", &diversion, "application/json", "{}").await.status, 200);
    eventually("the other gateway holds it too", SOON, async || (diverted(&Api::of(&other)).await == 1).then_some(())).await;
    for _ in 0..60 {
        accept(&mut sent).await;
    }
    let held: BTreeSet<Shard> = sent.iter().map(|event| shards.place(*event, None)).collect();
    assert_eq!(held.len(), SHARDS);
    assert_eq!(world.receiver.count(), 0);
    assert_eq!(world.api.send("DELETE", &diversion, "application/json", "").await.status, 200);
    // Newcomers stand behind what is held for as long as there is any, in each shard, and come into the normal lane then.
    let over = AtomicBool::new(false);
    let watch = async {
        eventually("it is over in every shard", SOON, async || (diverted(&world.api).await == 0).then_some(())).await;
        over.store(true, Ordering::SeqCst);
    };
    let newcomers = async {
        while !over.load(Ordering::SeqCst) {
            accept(&mut sent).await;
            world.receiver.wait_for(sent.len().saturating_sub(100), SOON).await;
        }
        for _ in 0..20 {
            accept(&mut sent).await;
        }
    };
    tokio::join!(watch, newcomers);
    world.receiver.wait_for(sent.len(), SOON).await;
    let in_order = |numbers: &mut dyn Iterator<Item = usize>| {
        let mut each = BTreeMap::<Shard, Vec<usize>>::new();
        for number in numbers {
            each.entry(shards.place(sent[number], None)).or_default().push(number);
        }
        each
    };
    let requests = world.receiver.requests();
    let mut delivered = requests.iter().map(|request| String::from_utf8_lossy(&request.body).parse().unwrap());
    assert_eq!(in_order(&mut delivered), in_order(&mut (0..sent.len())), "no newcomer overtakes, and nothing comes twice");
    let made = (attempts(&world.gateway).await, attempts(&other).await);
    assert!(made.0 > 0 && made.1 > 0, "both delivered: {made:?}");
}
