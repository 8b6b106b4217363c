//! `kill -9` in the middle of load, of the gateway and of Redis. What was acknowledged is in the receiver's log or in a state of the
//! store: compared as sets, duplicates counted apart.
//!
//! Each run prints its seed; `TIDEGATE_SEED` repeats one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidegate_test_support::{eventually, now};

use crate::load::{self, Acked, Load, Log, Promise, Verdict};
use crate::world::{EMBEDDED, Engine, SOON, World};

const KILLS: usize = 3;
const SENDERS: usize = 16;
/// The number of an event that was never sent.
const FORGED: u64 = 1 << 40;
/// Of Redis's everysec mode: an append may be put off this long while an fsync runs.
const EVERYSEC_WINDOW: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_on_the_embedded_store_with_fsync() {
    kill_gateway(Engine::Embedded("fsync")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_on_the_embedded_store_everysec() {
    kill_gateway(Engine::Embedded("everysec")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_on_redis_everysec() {
    kill_gateway(Engine::Redis("everysec")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_on_redis_with_fsync() {
    kill_gateway(Engine::Redis("fsync")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_on_redis_ephemeral() {
    kill_gateway(Engine::Redis("ephemeral")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_nothing_on_redis_replicated() {
    kill_gateway(Engine::Redis("replicated")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_loses_nothing_with_fsync() {
    let (run, kills) = kill_redis("fsync").await;
    run.nothing_is_lost();
    assert_eq!(kills.len(), KILLS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_redis_loses_at_most_its_window_with_everysec() {
    let (run, kills) = kill_redis("everysec").await;
    for promise in &run.lost {
        let Acked { event, sent_at, acked_at } = &run.acked[&promise.0];
        let before = |kill: &SystemTime| kill.duration_since(*acked_at).unwrap_or_default();
        let in_window = kills.iter().any(|kill| sent_at <= kill && before(kill) <= EVERYSEC_WINDOW);
        assert!(in_window, "{event} of {acked_at:?} is lost, which no kill explains: {kills:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_that_nobody_kept_is_seen_as_lost() {
    let world = World::start(EMBEDDED).await;
    let (load, log) = begin(&world).await;
    load.ledger.more(20, SOON).await;
    let mut acked = load.stop().await;
    let forged = Acked { event: "evt_01arz3ndektsv4rrffq69g5fav".to_owned(), sent_at: now(), acked_at: now() };
    acked.insert(FORGED, forged);
    let run = Run::compare("with a forged acknowledgement", &world, acked, &log, Duration::from_secs(5)).await;
    assert_eq!(run.lost, load::promised(&run.acked).into_iter().filter(|(number, _)| *number == FORGED).collect());
    assert_eq!(run.lost.len(), 2);
}

async fn kill_gateway(engine: Engine) {
    let mut rng = rng(&format!("gateway on {engine:?}"));
    let mut world = World::start(engine).await;
    let (load, log) = begin(&world).await;
    for _ in 0..KILLS {
        load.ledger.more(rng.random_range(50..1_000), SOON).await;
        world.gateway.kill();
        world.gateway.restart().await;
    }
    load.ledger.more(20, SOON).await;
    let run = Run::end(&format!("gateway on {engine:?}"), &world, load, &log).await;
    run.nothing_is_lost();
}

async fn kill_redis(mode: &'static str) -> (Run, Vec<SystemTime>) {
    let mut rng = rng(&format!("Redis {mode}"));
    let mut world = World::start(Engine::Redis(mode)).await;
    let (load, log) = begin(&world).await;
    let mut kills = Vec::new();
    for _ in 0..KILLS {
        load.ledger.more(rng.random_range(50..1_000), SOON).await;
        world.redis().kill();
        kills.push(now());
        world.redis().restart().await;
    }
    load.ledger.more(20, SOON).await;
    (Run::end(&format!("Redis {mode}"), &world, load, &log).await, kills)
}

fn rng(what: &str) -> StdRng {
    let seed = std::env::var("TIDEGATE_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("{what}: TIDEGATE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Every tenth delivery is refused at first, so that the schedule is never empty.
async fn begin(world: &World) -> (Load, Log) {
    load::set_up(&world.api, &world.receiver).await;
    if let Some(redis) = &world.servers.redis {
        // The configuration is not what is put at risk here.
        redis.command(&["BGREWRITEAOF"]).await;
        eventually("the configuration is on disk", SOON, async || {
            (redis.info("aof_rewrite_in_progress").await == "0" && redis.info("aof_rewrite_scheduled").await == "0").then_some(())
        })
        .await;
    }
    let log = Log::keep(&world.receiver, |number| if number % 10 == 9 { Verdict::Refuse } else { Verdict::Take });
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "load").await));
    (Load::start(&[url], SENDERS), log)
}

/// What a run ended with.
pub(crate) struct Run {
    acked: BTreeMap<u64, Acked>,
    states: BTreeMap<Promise, String>,
    missing: BTreeSet<Promise>,
    /// Neither received nor in the store.
    lost: BTreeSet<Promise>,
}

impl Run {
    /// Ends the load and lets the store drain.
    pub(crate) async fn end(what: &str, world: &World, load: Load, log: &Log) -> Self {
        Self::compare(what, world, load.stop().await, log, SOON).await
    }

    async fn compare(what: &str, world: &World, acked: BTreeMap<u64, Acked>, log: &Log, drain: Duration) -> Self {
        let promised = load::promised(&acked);
        let missing = log.missing(&promised, drain).await;
        let states = load::states(&world.api, &acked).await;
        let lost: BTreeSet<Promise> = missing.iter().filter(|promise| !states.contains_key(promise)).copied().collect();
        println!(
            "{what}: {} events acknowledged, {} deliveries promised, {} not received, {} of them lost, {} duplicates",
            acked.len(),
            promised.len(),
            missing.len(),
            lost.len(),
            log.duplicates()
        );
        Self { acked, states, missing, lost }
    }

    pub(crate) fn nothing_is_lost(&self) {
        assert!(self.lost.is_empty(), "neither received nor in the store: {:?}", self.lost);
        let stuck: BTreeMap<_, _> = self.states.iter().filter(|(promise, _)| self.missing.contains(*promise)).collect();
        assert!(stuck.is_empty(), "in the store, but not delivered in time: {stuck:?}");
        let unknown: BTreeSet<Promise> =
            load::promised(&self.acked).difference(&self.states.keys().copied().collect()).copied().collect();
        assert!(unknown.is_empty(), "delivered, but the history does not know them: {unknown:?}");
    }
}
