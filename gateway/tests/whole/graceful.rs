//! Stopping in the middle of load, and gateways that take over from each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidegate_test_support::{eventually, monotonic};

use crate::api::{Api, TENANT};
use crate::kill::Run;
use crate::load::{self, Load, Log, Verdict};
use crate::world::{EMBEDDED, Engine, LEASE, REDIS, SOON, World};

/// What is in flight at the stop has this long.
const DEADLINE: Duration = Duration::from_secs(2);
const SENDERS: usize = 8;
/// As many as there are by default.
const SHARDS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_load_keeps_what_is_unfinished_on_the_embedded_store() {
    stop_and_restart(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_the_middle_of_load_keeps_what_is_unfinished_on_redis() {
    stop_and_restart(REDIS).await;
}

async fn stop_and_restart(engine: Engine) {
    let mut world = World::with(engine, |launch| launch, "shutdown.deadline = \"2s\"").await;
    load::set_up(&world.api, &world.receiver).await;
    // While the gate is shut every fifth request finds a receiver that doesn't answer: unfinished at the deadline.
    let shut = Arc::new(AtomicBool::new(true));
    let gate = shut.clone();
    let hangs = move |number: usize| number % 5 == 4 && gate.load(Ordering::SeqCst);
    let log = Log::keep(&world.receiver, move |number| if hangs(number) { Verdict::Hang } else { Verdict::Take });
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "load").await));
    let load = Load::start(&[url], SENDERS);
    load.ledger.more(100, SOON).await;
    let began = monotonic();
    let status = world.gateway.stop(SOON).await;
    let took = began.elapsed();
    assert!(status.success(), "{status}: {}", world.gateway.log());
    assert!(took < DEADLINE + Duration::from_secs(6), "stopped only after {took:?}");
    let before = log.missing(&load::promised(&load.ledger.acked()), Duration::ZERO).await;
    assert!(!before.is_empty(), "nothing was left unfinished: the test shows nothing");
    shut.store(false, Ordering::SeqCst);
    world.gateway.restart().await;
    load.ledger.more(10, SOON).await;
    println!("stopped in {took:?} with {} deliveries unfinished", before.len());
    Run::end(&format!("graceful stop on {engine:?}"), &world, load, &log).await.nothing_is_lost();
}

/// What is in flight can't be recorded then; the process must end all the same, and the work be found where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_the_store_is_away_ends_in_time_and_loses_nothing() {
    let mut world = World::with(REDIS, |launch| launch, "shutdown.deadline = \"1s\"").await;
    load::set_up(&world.api, &world.receiver).await;
    let shut = Arc::new(AtomicBool::new(true));
    let gate = shut.clone();
    let log = Log::keep(&world.receiver, move |_| if gate.load(Ordering::SeqCst) { Verdict::Hang } else { Verdict::Take });
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "load").await));
    let load = Load::start(&[url], SENDERS);
    load.ledger.more(50, SOON).await;
    world.receiver.wait_for(10, SOON).await;
    world.redis().stop().await;
    let status = world.gateway.stop(SOON).await;
    assert!(status.success(), "{status}: {}", world.gateway.log());
    world.redis().restart().await;
    shut.store(false, Ordering::SeqCst);
    world.gateway.restart().await;
    load.ledger.more(10, SOON).await;
    Run::end("stop while Redis is away", &world, load, &log).await.nothing_is_lost();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_gateway_gives_its_leases_to_the_next_at_once() {
    const LONG: Duration = Duration::from_secs(60);
    let mut world = World::with(REDIS, |launch| launch, "dispatch.lease_ttl = \"60s\"\nshutdown.deadline = \"1s\"").await;
    load::set_up(&world.api, &world.receiver).await;
    let shut = Arc::new(AtomicBool::new(true));
    let gate = shut.clone();
    let log = Log::keep(&world.receiver, move |_| if gate.load(Ordering::SeqCst) { Verdict::Hang } else { Verdict::Take });
    let path = format!("/in/{}", world.api.id("sources", "load").await);
    let load = Load::start(&[world.gateway.ingest(&path)], SENDERS);
    load.ledger.more(50, SOON).await;
    world.receiver.wait_for(10, SOON).await;
    assert!(world.gateway.stop(SOON).await.success());
    let promised = load::promised(&load.stop().await);
    let unfinished = log.missing(&promised, Duration::ZERO).await;
    assert!(!unfinished.is_empty(), "nothing was left unfinished: the test shows nothing");

    shut.store(false, Ordering::SeqCst);
    let began = monotonic();
    let _next = world.servers.launch("dispatch.lease_ttl = \"60s\"").start().await;
    let missing = log.missing(&promised, SOON).await;
    assert!(missing.is_empty(), "the next gateway did not deliver {missing:?}");
    assert!(began.elapsed() < LONG / 2, "only after {:?}: the leases were not given up", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_of_two_gateways_dies_the_other_takes_over_within_the_lease() {
    let mut world = World::start(REDIS).await;
    let other = world.servers.launch("").start().await;
    load::set_up(&world.api, &world.receiver).await;
    let log = Log::keep(&world.receiver, |number| if number % 10 == 9 { Verdict::Refuse } else { Verdict::Take });
    let path = format!("/in/{}", world.api.id("sources", "load").await);
    // The second gateway hears of the new configuration in its own time.
    let known = format!("/v1/sources/load?tenant={TENANT}");
    eventually("the other gateway knows the source", SOON, async || {
        (Api::of(&other).try_get(&known).await.status == 200).then_some(())
    })
    .await;
    let load = Load::start(&[world.gateway.ingest(&path), other.ingest(&path)], SENDERS);
    load.ledger.more(200, SOON).await;
    world.gateway.kill();
    let (killed, before) = (monotonic(), log.received().len());
    load.ledger.more(50, SOON).await;
    eventually("the other gateway delivers", SOON, async || (log.received().len() > before + 50).then_some(())).await;
    let idle = killed.elapsed();
    assert!(idle < LEASE * 2 + Duration::from_secs(1), "taken over only after {idle:?}");
    println!("taken over after {idle:?}");
    world.api = Api::of(&other);
    Run::end("one of two gateways killed", &world, load, &log).await.nothing_is_lost();
}

/// The second gateway gets half of the shards without anybody's stopping, and all when the first dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_joins_gets_its_share_of_the_shards() {
    let mut world = World::start(REDIS).await;
    load::set_up(&world.api, &world.receiver).await;
    let log = Log::keep(&world.receiver, |_| Verdict::Take);
    let path = format!("/in/{}", world.api.id("sources", "load").await);
    let load = Load::start(&[world.gateway.ingest(&path)], SENDERS);
    load.ledger.more(50, SOON).await;
    let shards = |log: &str, what: &str| log.lines().filter(|line| line.contains(what)).count();
    world.gateway.wait_for_log(SOON, |log| shards(log, "shard taken") == SHARDS).await;
    let other = world.servers.launch("").start().await;
    let joined = monotonic();
    other.wait_for_log(SOON, |log| shards(log, "shard taken") == SHARDS / 2).await;
    println!("a joining gateway had its share after {:?}", joined.elapsed());
    world.gateway.wait_for_log(SOON, |log| shards(log, "shard given up") == SHARDS / 2).await;
    load.ledger.more(50, SOON).await;
    world.gateway.kill();
    other.wait_for_log(SOON, |log| shards(log, "shard taken") == SHARDS).await;
    world.gateway.restart().await;
    other.wait_for_log(SOON, |log| shards(log, "shard given up") == SHARDS / 2).await;
    load.ledger.more(50, SOON).await;
    Run::end("a gateway joins, dies and joins again", &world, load, &log).await.nothing_is_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_what_bounds_memory() {
    let world = World::with(EMBEDDED, |launch| launch, "telemetry.log = \"json\"\ndispatch.bytes = \"5MiB\"").await;
    let log = world.gateway.log();
    let lines = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let limits = lines.filter(|line| line["dispatch.bytes"].is_u64()).collect::<Vec<_>>();
    let [limits] = &limits[..] else { panic!("{log}") };
    assert_eq!(limits["dispatch.bytes"], 5 << 20, "{limits}");
    let fields = limits.as_object().unwrap().iter().filter(|(name, _)| name.contains('.') || *name == "overhead");
    let sum: u64 = fields.map(|(_, bytes)| bytes.as_u64().unwrap()).sum();
    assert_eq!(limits["mib"], sum >> 20, "{limits}");
}
