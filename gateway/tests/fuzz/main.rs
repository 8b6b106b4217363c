//! Random bytes where strangers' bytes come in: uploads that are screened, answers of plugins that are lifted, artifacts that are loaded.
//!
//! What is known to be right is changed at random: each case by a seed of its own. A failure names its case: `TIDEGATE_FUZZ_SEED=n` with
//! `TIDEGATE_FUZZ_CASE=m` runs that alone. `TIDEGATE_FUZZ_SECONDS` makes longer runs, from a seed of their own; without it the same cases run
//! each time.
//!
//! The cases know no coverage. They go through the gateway's own boundary instead, with the sandbox that it ships, and need no build beside
//! the tests' own.

#![allow(clippy::unwrap_used, reason = "what fails in a test has failed the test")]

mod answers;
mod artifacts;
#[allow(dead_code, reason = "used in full by the tests of the sandbox")]
#[path = "../plugin/bombs.rs"]
mod bombs;
mod brokers;
#[allow(dead_code, reason = "used in full by the tests of the sandbox")]
#[path = "../plugin/fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "used in full by the tests of the sandbox")]
#[path = "../plugin/guest.rs"]
mod guest;
mod uploads;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidegate_test_support::monotonic;

/// Which cases to run.
pub(crate) struct Cases {
    seed: u64,
    next: u64,
    number: u64,
    time: Option<Duration>,
    only: Option<u64>,
}

impl Cases {
    /// `number` of them, unless the environment says otherwise.
    pub(crate) fn new(number: u64) -> Self {
        let setting = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
        let time = setting("TIDEGATE_FUZZ_SECONDS").map(Duration::from_secs);
        let seed = setting("TIDEGATE_FUZZ_SEED").unwrap_or_else(|| if time.is_some() { rand::random::<u32>().into() } else { 1 });
        Self { seed, next: 0, number, time, only: setting("TIDEGATE_FUZZ_CASE") }
    }

    /// Runs the cases, each with its own random numbers.
    pub(crate) async fn run(self, mut case: impl AsyncFnMut(&mut StdRng)) {
        let Self { seed, mut next, number, time, only } = self;
        let started = monotonic();
        let last = only.map_or(if time.is_some() { u64::MAX } else { number }, |only| only + 1);
        next = only.unwrap_or(next);
        while next < last && time.is_none_or(|time| started.elapsed() < time) {
            let told = Told { seed, case: next };
            case(&mut StdRng::seed_from_u64(seed ^ next.wrapping_mul(0x9e37_79b9_7f4a_7c15))).await;
            std::mem::forget(told);
            next += 1;
        }
        println!("{} cases of seed {seed} in {:.1?}", next - only.unwrap_or(0), started.elapsed());
    }
}

/// Names the case when it panics.
struct Told {
    seed: u64,
    case: u64,
}

impl Drop for Told {
    fn drop(&mut self) {
        println!("run this case alone: TIDEGATE_FUZZ_SEED={} TIDEGATE_FUZZ_CASE={}", self.seed, self.case);
    }
}

/// Changes bytes in a few of the ways in which they break: flipped, overwritten by what is at an edge, cut, doubled, moved.
pub(crate) fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    const EDGES: [u8; 8] = [0, 1, 0x3f, 0x40, 0x7f, 0x80, 0xfe, 0xff];
    for _ in 0..random.random_range(1..=4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        let length = random.random_range(1..=16).min(bytes.len() - at);
        match random.random_range(0..7) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = EDGES[random.random_range(0..EDGES.len())],
            2 => bytes[at..at + length].fill_with(|| random.random()),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..at + length)),
            5 => {
                let piece = bytes[at..at + length].repeat(random.random_range(1..=8));
                bytes.splice(at..at, piece);
            }
            _ => {
                let to = random.random_range(0..=bytes.len() - length);
                bytes.copy_within(at..at + length, to);
            }
        }
    }
}

/// One of several.
pub(crate) fn one<'a, T>(choices: &'a [T], random: &mut StdRng) -> &'a T {
    &choices[random.random_range(0..choices.len())]
}
