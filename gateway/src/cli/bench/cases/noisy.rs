//! `noisy_p99`, `fellows_p99`: what quiet tenants feel of noisy ones, and of as many events from others like them.
//!
//! A hundred tenants send at a fixed rate, far inside their plans. Then they do the same again while one tenant sends ten times what its
//! plan allows and another one's destination never answers. The figure is the quiet ones' latency, its floor the same without the noise.
//! In between they do it beside fellows who together send as much as the noisy one, but inside their plans: what those cost is the price of the load,
//! not of the noise.
//! Everything is sent at fixed moments (see `latency`).

use serde_json::{Value, json};

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::gateway::{Gateway, Route};
use super::super::lab::{self, Lab, accepted, all_arrived, arrived, delivered};
use super::super::load::Sent;
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::{Outcome, compare};
use super::super::part::Part;
use super::super::receiver::HANG;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::{Findings, Site, Store, middle, progress};
use crate::clock;
use crate::event::ConnectionId;

const GOAL: Goal = Goal::RatioAtMost(2.0);

const QUIET: usize = 100;
/// Requests per second of all quiet tenants together.
const QUIET_RATE: f64 = 1_000.0;
/// What each tenant's plan allows, in events per second.
const PLAN_RATE: f64 = 200.0;
/// What the noisy one sends.
const NOISY_RATE: f64 = 10.0 * PLAN_RATE;
/// How many tenants send as much together.
const FELLOWS: usize = 20;
/// What is sent to the destination that never answers.
const HANGING_RATE: f64 = 50.0;

/// One store's repetitions.
struct Runs {
    store: Store,
    alone: Vec<Outcome>,
    beside_fellows: Vec<Outcome>,
    beside_noise: Vec<Outcome>,
    missing: u64,
    refused: u64,
    fsync: Vec<Fsync>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic) -> Result<Findings, BenchError> {
    let mut faults = Vec::new();
    let new =
        |&store| Runs { store, alone: vec![], beside_fellows: vec![], beside_noise: vec![], missing: 0, refused: 0, fsync: vec![] };
    let mut all: Vec<Runs> = traffic.store.list().iter().map(new).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, &mut faults).await?;
        }
    }
    Ok((all.iter().flat_map(Runs::figures).collect(), faults))
}

/// Tenants and where they send to.
struct Tenants {
    paths: Vec<String>,
    connections: Vec<ConnectionId>,
}

impl Tenants {
    async fn with_plan(plan: &Value, names: &str, count: usize, gateway: &Gateway, receiver: &Part) -> Result<Self, BenchError> {
        let mut routes = Vec::with_capacity(count);
        for number in 0..count {
            routes.push(gateway.tenant(&format!("{names}-{number}"), plan).await?.connect(receiver.address()?, None).await?);
        }
        Ok(Self::of(routes))
    }

    fn of(routes: Vec<Route<ConnectionId>>) -> Self {
        let (paths, connections) = routes.into_iter().map(|route| (route.path, route.connection)).unzip();
        Self { paths, connections }
    }

    async fn load(&self, lab: &Lab, gateway: &Gateway, connections: u16) -> Result<Part, BenchError> {
        lab.load(gateway.ingest(), &self.paths, connections).await
    }
}

impl Runs {
    async fn once(&mut self, lab: &Lab, traffic: &Traffic, faults: &mut Vec<String>) -> Result<(), BenchError> {
        self.fsync.push(fsync_probe(lab.dir())?);
        let Site { gateway, server: _server } = Site::start(lab, traffic, self.store).await?;
        let receiver = lab.receiver().await?;
        let plan = json!({"rate": PLAN_RATE, "burst": PLAN_RATE as u64});
        let quiet = Tenants::with_plan(&plan, "quiet", QUIET, &gateway, &receiver).await?;
        let fellows = Tenants::with_plan(&plan, "fellow", FELLOWS, &gateway, &receiver).await?;
        let noisy = Tenants::with_plan(&plan, "noisy", 1, &gateway, &receiver).await?;
        let hanging = gateway.tenant("hanging", &plan).await?.to(HANG).connect(receiver.address()?, None).await?;
        let mut quiet_load = quiet.load(lab, &gateway, traffic.connections).await?;
        let mut fellows_load = fellows.load(lab, &gateway, traffic.connections).await?;
        let mut noisy_load = noisy.load(lab, &gateway, traffic.connections).await?;
        let mut hanging_load = lab.load(gateway.ingest(), &[&hanging.path], 4).await?;

        let mut expected = arrived(&receiver).await?;
        let warm_up = lab::send(&mut quiet_load, lab.time / 4, Some(QUIET_RATE)).await?;
        let since = clock::wall_micros();
        let alone = lab::send(&mut quiet_load, lab.time, Some(QUIET_RATE)).await?;
        expected += warm_up.accepted + alone.accepted;
        all_arrived(&receiver, expected).await?;
        let (log, arrivals) = (accepted(lab, &mut quiet_load).await?, delivered(&receiver).await?);
        self.alone.push(compare(&log, &quiet.connections, &arrivals, since));

        let since = clock::wall_micros();
        let (beside_fellows, fellow) = tokio::join!(
            lab::send(&mut quiet_load, lab.time, Some(QUIET_RATE)),
            lab::send(&mut fellows_load, lab.time, Some(NOISY_RATE)),
        );
        let (beside_fellows, fellow) = (beside_fellows?, fellow?);
        expected += beside_fellows.accepted + fellow.accepted;
        all_arrived(&receiver, expected).await?;
        let (log, arrivals) = (accepted(lab, &mut quiet_load).await?, delivered(&receiver).await?);
        self.beside_fellows.push(compare(&log, &quiet.connections, &arrivals, since));

        let since = clock::wall_micros();
        let (beside, noise, hung) = tokio::join!(
            lab::send(&mut quiet_load, lab.time, Some(QUIET_RATE)),
            lab::send(&mut noisy_load, lab.time, Some(NOISY_RATE)),
            lab::send(&mut hanging_load, lab.time, Some(HANGING_RATE)),
        );
        let (beside, noise, hung) = (beside?, noise?, hung?);
        all_arrived(&receiver, expected + beside.accepted + noise.accepted).await?;
        let arrivals = delivered(&receiver).await?;
        let quiet_outcome = compare(&accepted(lab, &mut quiet_load).await?, &quiet.connections, &arrivals, since);
        let noisy_outcome = compare(&accepted(lab, &mut noisy_load).await?, &noisy.connections, &arrivals, since);
        let fellows_outcome = compare(&accepted(lab, &mut fellows_load).await?, &fellows.connections, &arrivals, since);
        for (who, outcome) in [("quiet", &quiet_outcome), ("noisy", &noisy_outcome), ("fellow", &fellows_outcome)] {
            // The others' deliveries are foreign to each: what counts is that its own are there.
            let fault = outcome.fault(u64::MAX);
            faults.extend(fault.map(|fault| format!("noisy, {}, {who} tenants: {fault}", self.store.described())));
            self.missing += outcome.missing.len() as u64;
        }
        let refused = |sent: &Sent| sent.failed + sent.refused.values().sum::<u64>();
        self.refused += [&warm_up, &alone, &beside_fellows, &fellow, &beside, &noise, &hung].into_iter().map(refused).sum::<u64>();
        self.beside_noise.push(quiet_outcome);
        for load in [quiet_load, fellows_load, noisy_load, hanging_load] {
            load.stop().await?;
        }
        drop(gateway);
        receiver.stop().await
    }

    fn figures(&self) -> [Figure; 2] {
        let of = |outcomes: &[Outcome]| Spread::of(outcomes.iter().map(|outcome| outcome.latency_p99_ms));
        let quiet = format!("p99 from due to arrival for {QUIET} tenants with {QUIET_RATE}/s together, while");
        let noise = format!(
            "one sends {NOISY_RATE}/s on a plan of {PLAN_RATE}/s and the destination of one with {HANGING_RATE}/s never answers; {}; floor: \
             without these two",
            self.store.described()
        );
        let fellows = format!(
            "{FELLOWS} others like them send {NOISY_RATE}/s together, all inside their plans; {}; floor: without these",
            self.store.described()
        );
        let goal = (self.store == Store::Redis).then_some(GOAL);
        let figure = |name: &str, what: String, outcomes: &[Outcome], goal| {
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
        [figure("noisy_p99", noise, &self.beside_noise, goal), figure("fellows_p99", fellows, &self.beside_fellows, None)]
    }
}
