//! What is done to a gateway, made from a seed. Each operation says all that it needs, so that a run without some of them means something.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

/// Sources, by their places.
pub(crate) const SOURCES: [&str; 2] = ["a", "b"];
/// Destinations, by their places. `x` gets batches; `y` has a circuit and a rule for 410; a 410 of `z` disables it.
pub(crate) const DESTINATIONS: [&str; 3] = ["x", "y", "z"];
pub(crate) const BATCHED: &str = "x";
/// Connections, by their places: name, source, destination. `even` has a filter, `keep` a plugin that filters.
pub(crate) const CONNECTIONS: [(&str, usize, usize); 4] = [("every", 0, 0), ("even", 0, 1), ("keep", 1, 1), ("gone", 1, 2)];
pub(crate) const EVEN: usize = 1;
pub(crate) const KEEP: usize = 2;

/// The receiver does not answer.
pub(crate) const HANG: u16 = 0;
/// The receiver closes the connection.
pub(crate) const RESET: u16 = 1;

/// What an event is like, and how it is answered: by each destination with these in turn, the last again and again.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) even: bool,
    pub(crate) keep: bool,
    pub(crate) answers: [Vec<u16>; DESTINATIONS.len()],
}

/// An operation. Numbers name things by their places, remainders where there are fewer.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Sends these at once to a source.
    Send {
        source: usize,
        gateway: usize,
        events: Vec<Script>,
    },
    /// The same, and kills a gateway once the receiver got so many requests more, or all were answered.
    SendAndKill {
        source: usize,
        gateway: usize,
        events: Vec<Script>,
        requests: usize,
    },
    /// Lets the receiver get so many requests more, if there are any to come.
    Await {
        requests: usize,
    },
    /// Pauses a connection, or has it go on.
    Pause {
        connection: usize,
        paused: bool,
    },
    /// Enables or disables a destination.
    Enable {
        destination: usize,
        enabled: bool,
    },
    /// Gives a destination a rate, or takes it away.
    Limit {
        destination: usize,
        limited: bool,
    },
    /// An operator pauses retries, or has them go on.
    Retries {
        paused: bool,
    },
    /// An operator diverts the tenant, or gives it back.
    Divert {
        diverted: bool,
    },
    /// The tenant gets all shards.
    Spread,
    /// Tries an event's dead letters again.
    RetryEvent {
        event: usize,
    },
    /// Tries the newest dead letters again, by their ids.
    RetryLetters {
        count: usize,
    },
    /// Tries all dead letters again.
    RetryJob,
    DeleteConnection {
        connection: usize,
    },
    /// With its connections.
    DeleteDestination {
        destination: usize,
    },
    /// With its connections.
    DeleteSource {
        source: usize,
    },
    /// Makes anew what was deleted.
    Restore,
    /// `kill -9`. The last one that lives, or the only one there is, starts again at once.
    Kill {
        gateway: usize,
    },
    /// In good order.
    Stop {
        gateway: usize,
    },
    /// Starts those again that do not run.
    Start,
}

/// So many operations by this seed.
pub(crate) fn random(seed: u64, count: usize) -> Vec<Op> {
    let mut dice = StdRng::seed_from_u64(seed);
    (0..count).map(|_| one(&mut dice)).collect()
}

fn one(dice: &mut StdRng) -> Op {
    let gateway = dice.random_range(0..2);
    let source = dice.random_range(0..SOURCES.len());
    let connection = dice.random_range(0..CONNECTIONS.len());
    let destination = dice.random_range(0..DESTINATIONS.len());
    match dice.random_range(0..100) {
        0..30 => Op::Send { source, gateway, events: scripts(dice, 10) },
        30..36 => Op::SendAndKill { source, gateway, events: scripts(dice, 24), requests: dice.random_range(0..30) },
        36..50 => Op::Await { requests: dice.random_range(1..12) },
        50..56 => Op::Pause { connection, paused: dice.random_bool(0.5) },
        56..62 => Op::Enable { destination, enabled: dice.random_bool(0.6) },
        62..66 => Op::Limit { destination, limited: dice.random_bool(0.5) },
        66..69 => Op::Retries { paused: dice.random_bool(0.4) },
        69..73 => Op::Divert { diverted: dice.random_bool(0.4) },
        73 => Op::Spread,
        74..79 => Op::RetryEvent { event: dice.random_range(0..1000) },
        79..82 => Op::RetryLetters { count: dice.random_range(1..20) },
        82..84 => Op::RetryJob,
        84..86 => Op::DeleteConnection { connection },
        86 => Op::DeleteDestination { destination },
        87 => Op::DeleteSource { source },
        88..92 => Op::Restore,
        92..96 => Op::Kill { gateway },
        96..98 => Op::Stop { gateway },
        _ => Op::Start,
    }
}

fn scripts(dice: &mut StdRng, most: usize) -> Vec<Script> {
    (0..dice.random_range(1..=most)).map(|_| script(dice)).collect()
}

fn script(dice: &mut StdRng) -> Script {
    let answers = std::array::from_fn(|_| {
        let failures = match dice.random_range(0..10) {
            0..5 => 0,
            5..8 => dice.random_range(1..=2),
            _ => dice.random_range(3..=7),
        };
        let mut answers: Vec<u16> = (0..failures).map(|_| failure(dice)).collect();
        // Some are never taken.
        if answers.is_empty() || dice.random_bool(0.8) {
            answers.push(200);
        }
        answers
    });
    Script { even: dice.random_bool(0.5), keep: dice.random_bool(0.7), answers }
}

fn failure(dice: &mut StdRng) -> u16 {
    match dice.random_range(0..40) {
        0..3 => HANG,
        3..6 => RESET,
        6..9 => 410,
        9..16 => 429,
        _ => *[500, 503, 404].choose(dice).expect("there are some"),
    }
}
