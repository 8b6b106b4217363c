//! What the tests need that is real: servers started as processes of their own, receivers that remember, and the official libraries
//! of those whom Tidegate talks to.
//!
//! `scripts/setup` puts the programs in place. Everything here panics with an explanation: a test has no better use for an error.
//! Whatever is started ends when its value is dropped, and at the latest when the test process ends, however it ends.

pub mod brokers;
pub mod cloud_events;
pub mod gateway;
pub mod github;
pub mod http;
pub mod mounts;
pub mod otlp;
pub mod peers;
pub mod process;
pub mod redis;
pub mod standard_webhooks;

pub mod ports;
mod tools;

use std::time::{Duration, Instant, SystemTime};

/// How long a server may take to start on a busy machine.
pub const START_DEADLINE: Duration = Duration::from_secs(90);

const POLL: Duration = Duration::from_millis(10);

/// Asks until there is an answer; panics, naming `what`, when there is none `within` that time.
///
/// For what lies in another process and cannot call back. Inside this process wait for the event itself.
pub async fn eventually<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        let mut turn = tokio::time::interval(POLL);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turn.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    match tokio::time::timeout(within, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("{what}: not within {within:?}"),
    }
}

/// The machine's time, for what a test compares with the outside.
#[allow(clippy::disallowed_methods, reason = "the tests' own clock, like the gateway's clock module")]
pub fn now() -> SystemTime {
    SystemTime::now()
}

/// A monotonic reading, to measure how long something took.
#[allow(clippy::disallowed_methods, reason = "the tests' own clock, like the gateway's clock module")]
pub fn monotonic() -> Instant {
    Instant::now()
}
