//! History is true: at any moment, whatever is done and whatever crashes, each status that the API shows is one that what happened allows, and
//! at the end it is exactly what happened.
//!
//! Operations made from a seed are done to real gateways on a real store, while somebody reads at random; a model made of what was sent, what the
//! receiver answered and what was set judges each answer. A failure prints the operations that are left when as many as
//! can be are taken out. `TIDEGATE_HISTORY_SEED=n` runs one seed, `TIDEGATE_HISTORY_OPS=n` makes runs of so many operations, and
//! `TIDEGATE_HISTORY_SECONDS=n` runs one random seed after the other for so long; `TIDEGATE_HISTORY_LOG=1` prints the gateways' logs as well.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

#[allow(dead_code, reason = "used in full by the tests of the whole")]
#[path = "../whole/api.rs"]
mod api;
mod facts;
mod found;
mod ops;
mod reader;
mod run;
mod verdict;
#[allow(dead_code, reason = "used in full by the tests of the whole")]
#[path = "../whole/world.rs"]
mod world;

use std::time::Duration;

use tidegate_test_support::monotonic;

use crate::ops::Op;
use crate::world::{EMBEDDED, Engine, REDIS};

/// Operations of a run, and runs with the same seed in search of a shorter one that fails.
const OPS: usize = 45;
const SHRINKS: usize = 12;
const SEEDS: [u64; 1] = [2_250_656_954];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_is_what_happened_on_the_embedded_store() {
    trials(EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_shown_is_what_happened_on_redis_with_two_gateways() {
    trials(REDIS).await;
}

async fn trials(engine: Engine) {
    let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let count = setting("TIDEGATE_HISTORY_OPS").map_or(OPS, |count| count as usize);
    let time = setting("TIDEGATE_HISTORY_SECONDS").map(Duration::from_secs);
    let began = monotonic();
    let mut seeds: Box<dyn Iterator<Item = u64>> = match (setting("TIDEGATE_HISTORY_SEED"), time) {
        (Some(seed), _) => Box::new([seed].into_iter()),
        (None, Some(_)) => Box::new(std::iter::repeat_with(|| rand::random::<u32>().into())),
        (None, None) => Box::new(SEEDS.into_iter()),
    };
    while time.is_none_or(|time| began.elapsed() < time)
        && let Some(seed) = seeds.next()
    {
        println!("{engine:?}: TIDEGATE_HISTORY_SEED={seed} TIDEGATE_HISTORY_OPS={count}");
        let ops = ops::random(seed, count);
        if let Err(wrong) = run::run(engine, seed, &ops).await {
            println!("{wrong}");
            let (ops, wrong) = shrink(engine, seed, ops, wrong).await;
            panic!("TIDEGATE_HISTORY_SEED={seed} TIDEGATE_HISTORY_OPS={count} on {engine:?}, with these left: {ops:#?}\n{wrong}");
        }
    }
}

/// Takes out what a failing run does not need to fail: halves first, then smaller parts.
async fn shrink(engine: Engine, seed: u64, mut ops: Vec<Op>, mut wrong: String) -> (Vec<Op>, String) {
    let (mut tries, mut part) = (SHRINKS, ops.len().div_ceil(2));
    while tries > 0 && part > 0 {
        let mut from = 0;
        while from < ops.len() && tries > 0 {
            tries -= 1;
            let mut fewer = ops.clone();
            fewer.drain(from..(from + part).min(ops.len()));
            match run::run(engine, seed, &fewer).await {
                Err(again) => (ops, wrong) = (fewer, again),
                Ok(()) => from += part,
            }
        }
        part /= 2;
    }
    (ops, wrong)
}
