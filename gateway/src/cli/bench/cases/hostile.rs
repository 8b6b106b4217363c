//! `hostile_p99`, `bombs_p99`, `busy_p99`: what quiet tenants feel of one that attacks with its plugins, and of a core that is busy.
//!
//! Twenty tenants send at a fixed rate, far inside their plans, each through the first-party transform. They do the same again while others
//! upload components that are dear to compile, as fast as they are answered; and once more while events run plugins that burn their fuel,
//! take all the memory, and fill their tables, each of them more often than there is time for. A plugin that is always stopped would soon
//! be poisoned and left alone: the attackers' stages forbid that. The floor is the same without an attack. In between they do it beside a
//! thread that only computes, outside of the gateway: what that costs is the price of a core in use, on this machine, not of the attack.
//! Everything is sent at fixed moments (see `latency`).

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use serde_json::json;
use tokio::time::sleep;

use super::super::Traffic;
use super::super::attack::{Runner, bombs, runners};
use super::super::error::BenchError;
use super::super::estate::distinct;
use super::super::gateway::Gateway;
use super::super::lab::{self, Lab, accepted, all_arrived, arrived, delivered};
use super::super::load::Sent;
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::{Outcome, compare};
use super::super::part::Part;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::{COMPONENT, Findings, Site, Store, middle, progress};
use crate::clock;
use crate::event::ConnectionId;

const GOAL: Goal = Goal::RatioAtMost(2.0);

const QUIET: usize = 20;
/// Requests per second of all quiet tenants together.
const QUIET_RATE: f64 = 200.0;
/// Of each attacker.
const ATTACK_RATE: f64 = 50.0;
/// Those who upload. One tenant alone never has all compilers.
const BOMBERS: usize = 2;
/// Uploads of each at once.
const UPLOADS: usize = 2;
/// How long who is told to come later waits.
const LATER: Duration = Duration::from_millis(100);

/// One store's repetitions.
struct Runs {
    store: Store,
    alone: Vec<Outcome>,
    beside_busy: Vec<Outcome>,
    beside_bombs: Vec<Outcome>,
    beside_runners: Vec<Outcome>,
    missing: u64,
    refused: u64,
    fsync: Vec<Fsync>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic) -> Result<Findings, BenchError> {
    let (runners, bombs) = (runners()?, bombs()?);
    let mut faults = Vec::new();
    let new = |&store| Runs {
        store,
        alone: vec![],
        beside_busy: vec![],
        beside_bombs: vec![],
        beside_runners: vec![],
        missing: 0,
        refused: 0,
        fsync: vec![],
    };
    let mut all: Vec<Runs> = traffic.store.list().iter().map(new).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, (&runners, &bombs), &mut faults).await?;
        }
    }
    Ok((all.iter().flat_map(Runs::figures).collect(), faults))
}

/// The quiet tenants of a site, and what came of their events.
struct Quiet<'a> {
    lab: &'a Lab,
    receiver: &'a Part,
    load: Part,
    connections: Vec<ConnectionId>,
    expected: u64,
    refused: u64,
}

impl<'a> Quiet<'a> {
    async fn at(lab: &'a Lab, traffic: &Traffic, gateway: &Gateway, receiver: &'a Part) -> Result<Self, BenchError> {
        let (mut paths, mut connections) = (Vec::new(), Vec::new());
        for number in 0..QUIET {
            let tenant = gateway.tenant(&format!("quiet-{number}"), &json!({})).await?;
            let route = tenant.connect(receiver.address()?, Some(COMPONENT)).await?;
            paths.push(route.path);
            connections.push(route.connection);
        }
        let load = lab.load(gateway.ingest(), &paths, traffic.connections).await?;
        let expected = arrived(receiver).await?;
        let mut quiet = Self { lab, receiver, load, connections, expected, refused: 0 };
        quiet.send(lab.time / 4).await?;
        Ok(quiet)
    }

    async fn send(&mut self, time: Duration) -> Result<(), BenchError> {
        let sent = lab::send(&mut self.load, time, Some(QUIET_RATE)).await?;
        self.refused += sent.failed + sent.refused.values().sum::<u64>();
        self.expected += sent.accepted;
        all_arrived(self.receiver, self.expected).await
    }

    /// Sends once, and tells how these events fared.
    async fn measured(&mut self) -> Result<Outcome, BenchError> {
        let since = clock::wall_micros();
        self.send(self.lab.time).await?;
        let (log, arrivals) = (accepted(self.lab, &mut self.load).await?, delivered(self.receiver).await?);
        Ok(compare(&log, &self.connections, &arrivals, since))
    }
}

impl Runs {
    async fn once(
        &mut self,
        lab: &Lab,
        traffic: &Traffic,
        (runners, bombs): (&[Runner], &[Bytes]),
        faults: &mut Vec<String>,
    ) -> Result<(), BenchError> {
        self.fsync.push(fsync_probe(lab.dir())?);
        let Site { gateway, server: _server } = Site::start(lab, traffic, self.store).await?;
        let receiver = lab.receiver().await?;
        let mut attackers = Vec::new();
        for runner in runners {
            let stage = json!({"poison_after": 1_000_000});
            let tenant = gateway.tenant(runner.name, &json!({})).await?;
            let route = tenant.connect_through(receiver.address()?, Some((runner.component.clone(), stage))).await?;
            attackers.push(lab.load(gateway.ingest(), &[&route.path], 4).await?);
        }
        for number in 0..BOMBERS {
            gateway.tenant(&bomber(number), &json!({})).await?;
        }
        let mut quiet = Quiet::at(lab, traffic, &gateway, &receiver).await?;
        self.alone.push(quiet.measured().await?);

        let busy = Busy::start();
        self.beside_busy.push(quiet.measured().await?);
        drop(busy);

        let ended = Cell::new(0);
        self.beside_bombs.push(tokio::select! {
            outcome = quiet.measured() => outcome?,
            failed = bombard(&gateway, bombs, &ended) => return Err(failed),
        });
        progress(&format!("{} bombs were compiled meanwhile", ended.get()));

        let (beside, sent) = tokio::try_join!(quiet.measured(), attack(lab, &mut attackers))?;
        for (runner, sent) in runners.iter().zip(&sent).filter(|(_, sent)| sent.accepted == 0) {
            faults.push(format!("hostile, {}: {} never attacked ({sent:?})", self.store.described(), runner.name));
        }
        self.beside_runners.push(beside);

        // The last comparison is of all that the quiet ones sent.
        let fault = self.beside_runners.last().and_then(|outcome| outcome.fault(u64::MAX));
        faults.extend(fault.map(|fault| format!("hostile, {}: {fault}", self.store.described())));
        self.missing += self.beside_runners.last().map_or(0, |outcome| outcome.missing.len() as u64);
        self.refused += quiet.refused;
        for load in attackers.into_iter().chain([quiet.load]) {
            load.stop().await?;
        }
        // What attackers have queued goes with it.
        drop(gateway);
        receiver.stop().await
    }

    fn figures(&self) -> [Figure; 3] {
        let of = |outcomes: &[Outcome]| Spread::of(outcomes.iter().map(|outcome| outcome.latency_p99_ms));
        let quiet =
            format!("p99 from due to arrival for {QUIET} tenants with {QUIET_RATE}/s together, each through a plugin, while");
        let without = format!("{}; floor: without them", self.store.described());
        let runners = format!("plugins that burn fuel, take memory and fill tables are sent {ATTACK_RATE}/s each; {without}");
        let busy = format!("a thread outside of the gateway computes without a pause; {without}");
        let bombs = format!("{BOMBERS} others upload components that are dear to compile, {UPLOADS} at once each; {without}");
        let figure = |name: &str, what: String, outcomes: &[Outcome], goal: Option<Goal>| {
            let details = Details {
                what: format!("{quiet} {what}"),
                repetitions: outcomes.len(),
                events: outcomes.iter().map(|outcome| outcome.events).sum(),
                per_second: QUIET_RATE,
                fsync_ms: Some(middle(&self.fsync)),
                refused: self.refused,
                missing: Some(self.missing),
                duplicates: Some(outcomes.iter().map(|outcome| outcome.duplicates).sum()),
                ..Details::default()
            };
            Figure::new(format!("{name}{}", self.store.suffix()), "ms", of(outcomes), Some(of(&self.alone)), goal, details)
        };
        let goal = (self.store == Store::Redis).then_some(GOAL);
        [
            figure("hostile_p99", runners, &self.beside_runners, goal),
            figure("bombs_p99", bombs, &self.beside_bombs, goal),
            figure("busy_p99", busy, &self.beside_busy, None),
        ]
    }
}

/// A thread that computes without a pause until this is dropped.
struct Busy(Arc<AtomicBool>);

impl Busy {
    fn start() -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let told = ended.clone();
        thread::spawn(move || {
            let mut number = 1_u64;
            while !told.load(Ordering::Relaxed) {
                number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            }
        });
        Self(ended)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn bomber(number: usize) -> String {
    format!("bomber-{number}")
}

/// Sends to all attackers' sources at once.
async fn attack(lab: &Lab, attackers: &mut [Part]) -> Result<Vec<Sent>, BenchError> {
    try_join_all(attackers.iter_mut().map(|load| lab::send(load, lab.time, Some(ATTACK_RATE)))).await
}

/// Uploads one bomb after the other, each another version, until it is dropped; counts those that were compiled to the end.
async fn bombard(gateway: &Gateway, bombs: &[Bytes], ended: &Cell<u64>) -> BenchError {
    let number = Cell::new(0);
    let upload = async |tenant: &str| -> Result<(), BenchError> {
        loop {
            number.set(number.get() + 1);
            let bomb = distinct(&bombs[number.get() % bombs.len()], number.get());
            match gateway.upload(tenant, "bomb", bomb).await?.as_u16() {
                422 => ended.set(ended.get() + 1),
                429 => sleep(LATER).await,
                status => return Err(BenchError::Plugin(format!("the upload of a bomb was answered with {status}"))),
            }
        }
    };
    let tenants: Vec<String> = (0..BOMBERS * UPLOADS).map(|number| bomber(number % BOMBERS)).collect();
    let uploads = try_join_all(tenants.iter().map(|tenant| upload(tenant))).await;
    uploads.err().unwrap_or_else(|| BenchError::Plugin("nobody uploads bombs".into()))
}
