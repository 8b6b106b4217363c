//! `hanging_p99`, `hanging_many_p99`: what the other destinations feel of one that hangs.
//!
//! A thousand destinations, of one tenant and then of as many, get events at a steady rate, and one of them as many again as make it fill its window
//! once it hangs. The figure is the others' latency while it hangs (each of its attempts until the time-out, its circuit breaker off), the floor the same
//! while it answers. Everything is sent at fixed moments (see `latency`). In the end it answers again, and everything arrives.

use serde_json::json;

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::estate::Estate;
use super::super::gateway::{Gateway, IN_FLIGHT, Tuning};
use super::super::lab::{self, Lab, accepted, all_arrived, delivered};
use super::super::load::Sent;
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::{Outcome, compare};
use super::super::receiver::HANG;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::{Findings, Ground, Store, middle, progress};
use crate::clock;

const GOAL: Goal = Goal::RatioAtMost(2.0);

/// Requests per second of all destinations but the one.
const RATE: f64 = 1_000.0;
/// Of the one: more than its window holds for as long as an attempt hangs.
const HANGING_RATE: f64 = 200.0;
/// How long an attempt hangs.
const TIMEOUT: &str = "2s";
/// Each tenant's name is this and a number.
const TENANT: &str = "tenant-0";

/// How the destinations are spread over tenants.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    tenants: usize,
    destinations: usize,
}

/// One shape on one store.
struct Runs {
    store: Store,
    shape: Shape,
    alone: Vec<Outcome>,
    beside: Vec<Outcome>,
    missing: u64,
    refused: u64,
    fsync: Vec<Fsync>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, destinations: usize) -> Result<Findings, BenchError> {
    let shapes = [
        Shape { name: "hanging_p99", tenants: 1, destinations },
        Shape { name: "hanging_many_p99", tenants: destinations, destinations: 1 },
    ];
    let new = |store, shape| Runs { store, shape, alone: vec![], beside: vec![], missing: 0, refused: 0, fsync: vec![] };
    let mut all: Vec<Runs> = traffic.store.list().iter().flat_map(|&store| shapes.map(|shape| new(store, shape))).collect();
    let mut faults = Vec::new();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, &mut faults).await?;
        }
    }
    Ok((all.iter().map(Runs::figure).collect(), faults))
}

impl Runs {
    async fn once(&mut self, lab: &Lab, traffic: &Traffic, faults: &mut Vec<String>) -> Result<(), BenchError> {
        self.fsync.push(fsync_probe(lab.dir())?);
        let Ground { planned, server: _server } = Ground::prepare(lab, traffic, self.store, Tuning::default()).await?;
        let receiver = lab.receiver().await?;
        let estate = Estate { tenants: self.shape.tenants, destinations: self.shape.destinations, component: None };
        let mut routes = estate.write(&planned, receiver.address()?).await?;
        let (gateway, _) = planned.start().await?;
        // The first path leads to the first destination of the first tenant.
        let (one, one_connection) = (routes.paths.remove(0), routes.connections.remove(0));
        let mut others = lab.load(gateway.ingest(), &routes.paths, traffic.connections).await?;
        let mut ill = lab.load(gateway.ingest(), &[one], 4).await?;

        let hook = format!("http://{}/hook", receiver.address()?);
        // Every connection is opened before anything is measured.
        let each = lab::send_each(&mut others, lab.time).await?;
        let mut sent = vec![each];
        let mut outcomes = Vec::new();
        for url in [&hook, &format!("http://{}{HANG}", receiver.address()?)] {
            change(&gateway, url).await?;
            sent.push(lab::send(&mut ill, lab.time / 4, Some(HANGING_RATE)).await?);
            let since = clock::wall_micros();
            let (beside, one) =
                tokio::join!(lab::send(&mut others, lab.time, Some(RATE)), lab::send(&mut ill, lab.time, Some(HANGING_RATE)),);
            sent.extend([beside?, one?]);
            let log = accepted(lab, &mut others).await?;
            // What is sent to the one arrives in the end.
            let own = sent.iter().map(|sent| sent.accepted).sum::<u64>() - if url == &hook { 0 } else { hung(&sent) };
            all_arrived(&receiver, own).await?;
            outcomes.push(compare(&log, &routes.connections, &delivered(&receiver).await?, since));
        }
        change(&gateway, &hook).await?;
        all_arrived(&receiver, sent.iter().map(|sent| sent.accepted).sum()).await?;
        let arrivals = delivered(&receiver).await?;
        let logs = [
            ("the others", compare(&accepted(lab, &mut others).await?, &routes.connections, &arrivals, 0)),
            ("the one", compare(&accepted(lab, &mut ill).await?, &[one_connection], &arrivals, 0)),
        ];
        for (who, outcome) in logs {
            // What is the other's is foreign to each.
            let fault = outcome.fault(u64::MAX);
            faults.extend(fault.map(|fault| format!("{}, {}, {who}: {fault}", self.shape.name, self.store.described())));
            self.missing += outcome.missing.len() as u64;
        }
        self.refused += sent.iter().map(|sent| sent.failed + sent.refused.values().sum::<u64>()).sum::<u64>();
        self.beside.extend(outcomes.pop());
        self.alone.extend(outcomes.pop());
        others.stop().await?;
        ill.stop().await?;
        drop(gateway);
        receiver.stop().await
    }

    fn figure(&self) -> Figure {
        let of = |outcomes: &[Outcome]| Spread::of(outcomes.iter().map(|outcome| outcome.latency_p99_ms));
        let Shape { name, tenants, destinations } = self.shape;
        let details = Details {
            what: format!(
                "p99 from due to arrival for all but one of {} destinations of {tenants} tenants with {RATE}/s together, while the one, with {HANGING_RATE}/s \
                 and a window of {IN_FLIGHT}, hangs for {TIMEOUT} at each attempt; {}; floor: while it answers",
                tenants * destinations,
                self.store.described()
            ),
            repetitions: self.beside.len(),
            events: self.beside.iter().map(|outcome| outcome.events).sum(),
            per_second: RATE,
            fsync_ms: Some(middle(&self.fsync)),
            refused: self.refused,
            missing: Some(self.missing),
            duplicates: Some(self.beside.iter().map(|outcome| outcome.duplicates).sum()),
            ..Details::default()
        };
        let goal = (self.store == Store::Redis).then_some(GOAL);
        Figure::new(format!("{name}{}", self.store.suffix()), "ms", of(&self.beside), Some(of(&self.alone)), goal, details)
    }
}

/// What was sent to the one while it hung: its last two loads.
fn hung(sent: &[Sent]) -> u64 {
    let last = sent.len() - 1;
    sent[last].accepted + sent[last - 2].accepted
}

/// Has the one's deliveries go there from now on.
async fn change(gateway: &Gateway, url: &str) -> Result<(), BenchError> {
    let spec = json!({
        "url": url, "timeout": TIMEOUT, "circuit_breaker": {"enabled": false}, "retry": {"base": "100ms", "max_delay": "1s", "max_attempts": 50},
    });
    gateway.change(&format!("/v1/destinations/0?tenant={TENANT}"), &spec).await
}
