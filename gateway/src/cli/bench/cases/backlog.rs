//! `backlog_memory`, `backlog_drain`, `backlog_quiet_p99`: many events that wait, and what that costs everybody else.
//!
//! One tenant's destination does not answer while its events pile up; then it does, and they drain. A quiet tenant sends at a fixed rate
//! before, beside the backlog, and during the drain.

use std::time::Duration;

use serde_json::json;

use super::super::Traffic;
use super::super::cpu;
use super::super::error::BenchError;
use super::super::lab::{self, Lab, accepted, all_arrived, arrived, delivered, open_gate};
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::{Outcome, compare};
use super::super::receiver::GATE;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::{Findings, Site, Store, middle, progress};
use crate::clock;

const MEMORY_GOAL: Goal = Goal::AtMost(64.0);

/// Requests per second of the quiet tenant.
const QUIET_RATE: f64 = 200.0;
/// How long the backlog grows between two looks at its size.
pub(super) const FILL: Duration = Duration::from_secs(2);

/// One store's repetitions.
struct Runs {
    store: Store,
    events: u64,
    memory_mib: Vec<f64>,
    memory_before_mib: Vec<f64>,
    accept_rate: Vec<f64>,
    drain_rate: Vec<f64>,
    quiet_before: Vec<f64>,
    quiet_beside: Vec<f64>,
    quiet_draining: Vec<f64>,
    missing: u64,
    duplicates: u64,
    refused: u64,
    fsync: Vec<Fsync>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, events: u64) -> Result<Findings, BenchError> {
    let mut faults = Vec::new();
    let mut all: Vec<Runs> = traffic.store.list().iter().map(|&store| Runs::new(store)).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, events, &mut faults).await?;
        }
    }
    Ok((all.iter().flat_map(Runs::figures).collect(), faults))
}

impl Runs {
    fn new(store: Store) -> Self {
        Self {
            store,
            events: 0,
            memory_mib: vec![],
            memory_before_mib: vec![],
            accept_rate: vec![],
            drain_rate: vec![],
            quiet_before: vec![],
            quiet_beside: vec![],
            quiet_draining: vec![],
            missing: 0,
            duplicates: 0,
            refused: 0,
            fsync: vec![],
        }
    }

    #[allow(clippy::cast_precision_loss)]
    async fn once(&mut self, lab: &Lab, traffic: &Traffic, events: u64, faults: &mut Vec<String>) -> Result<(), BenchError> {
        self.fsync.push(fsync_probe(lab.dir())?);
        let Site { gateway, server: _server } = Site::start(lab, traffic, self.store).await?;
        let (receiver, gated) = (lab.receiver().await?, lab.receiver().await?);
        let plan = json!({"rate": 1_000_000.0, "burst": 1_000_000, "queued_bytes": "1TiB"});
        let quiet = gateway.tenant("quiet", &plan).await?.connect(receiver.address()?, None).await?;
        let piling = gateway.tenant("piling", &plan).await?.to(GATE).connect(gated.address()?, None).await?;
        let mut quiet_load = lab.load(gateway.ingest(), &[&quiet.path], 8).await?;
        let mut fill = lab.load(gateway.ingest(), &[&piling.path], traffic.connections).await?;

        // The allocator's own growth under load is not the backlog's.
        let mut quiet_sent = lab::send(&mut quiet_load, lab.time / 4, Some(QUIET_RATE)).await?.accepted;
        let since_before = clock::wall_micros();
        quiet_sent += lab::send(&mut quiet_load, lab.time, Some(QUIET_RATE)).await?.accepted;
        all_arrived(&receiver, quiet_sent).await?;
        let since_beside = clock::wall_micros();
        let (mut queued, mut took) = (0, 0);
        let mut before = None;
        while queued < events {
            let sent = lab::send(&mut fill, FILL.min(lab.time), None).await?.some("the backlog")?;
            self.refused += sent.failed + sent.refused.values().sum::<u64>();
            queued += sent.accepted;
            took += sent.elapsed_us;
            // The first piece warms the gateway up for work at this rate.
            before.get_or_insert(cpu::resident_mib(gateway.pid())?);
        }
        progress(&format!("{queued} events are queued"));
        quiet_sent += lab::send(&mut quiet_load, lab.time, Some(QUIET_RATE)).await?.accepted;
        all_arrived(&receiver, quiet_sent).await?;
        let before = before.unwrap_or_default();
        self.memory_before_mib.push(before);
        self.memory_mib.push(cpu::resident_mib(gateway.pid())? - before);
        self.accept_rate.push(queued as f64 * 1e6 / took as f64);

        let since_draining = clock::wall_micros();
        open_gate(&gated).await?;
        let started = clock::monotonic();
        while arrived(&gated).await? < queued {
            let seen = arrived(&gated).await?;
            quiet_sent += lab::send(&mut quiet_load, lab.time, Some(QUIET_RATE)).await?.accepted;
            if arrived(&gated).await? == seen {
                all_arrived(&gated, queued).await?;
                break;
            }
        }
        all_arrived(&receiver, quiet_sent).await?;
        let log = accepted(lab, &mut quiet_load).await?;
        let arrivals = delivered(&receiver).await?;
        let quiet_from = |since: u64, until: u64| {
            let part = log.iter().filter(|(_, due, _)| (since..until).contains(due)).copied().collect();
            compare(&part, &[quiet.connection], &arrivals, since)
        };
        let piled = compare(&accepted(lab, &mut fill).await?, &[piling.connection], &delivered(&gated).await?, 0);
        let parts = [
            quiet_from(since_before, since_beside),
            quiet_from(since_beside, since_draining),
            quiet_from(since_draining, u64::MAX),
        ];
        for (p99, outcome) in [&mut self.quiet_before, &mut self.quiet_beside, &mut self.quiet_draining].into_iter().zip(&parts) {
            p99.push(outcome.latency_p99_ms);
        }
        self.drain_rate.push(queued as f64 / started.elapsed().as_secs_f64());
        self.events += queued;
        self.judge(&parts, &piled, faults);
        for load in [quiet_load, fill] {
            load.stop().await?;
        }
        drop(gateway);
        gated.stop().await?;
        receiver.stop().await
    }

    fn judge(&mut self, quiet: &[Outcome], piled: &Outcome, faults: &mut Vec<String>) {
        for (who, outcome) in quiet.iter().map(|outcome| ("quiet", outcome)).chain([("piling", piled)]) {
            let fault = outcome.fault(u64::MAX);
            faults.extend(fault.map(|fault| format!("backlog, {}, the {who} tenant: {fault}", self.store.described())));
            self.missing += outcome.missing.len() as u64;
            self.duplicates += outcome.duplicates;
        }
    }

    fn figures(&self) -> [Figure; 3] {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let goal = (self.store == Store::Redis).then_some(MEMORY_GOAL);
        let name = |name: &str| format!("{name}{}", self.store.suffix());
        let quiet = format!(
            "p99 of a quiet tenant with {QUIET_RATE}/s while the backlog drains; {:.1} ms beside the backlog at rest; floor: without one",
            spread(&self.quiet_beside).median
        );
        let memory = format!(
            "resident memory of the gateway with the backlog, above the {:.0} MiB that it had once it was warm",
            spread(&self.memory_before_mib).median
        );
        [
            Figure::new(name("backlog_memory"), "MiB", spread(&self.memory_mib), None, goal, self.details(&memory)),
            Figure::new(
                name("backlog_drain"),
                "/s",
                spread(&self.drain_rate),
                None,
                None,
                self.details("events from the moment the destination answers again to the last one's arrival, by that time"),
            ),
            Figure::new(
                name("backlog_quiet_p99"),
                "ms",
                spread(&self.quiet_draining),
                Some(spread(&self.quiet_before)),
                None,
                self.details(&quiet),
            ),
        ]
    }

    fn details(&self, what: &str) -> Details {
        let repetitions = self.memory_mib.len();
        Details {
            what: format!(
                "{what}; {} events queued each time; {}",
                self.events / repetitions.max(1) as u64,
                self.store.described()
            ),
            repetitions,
            events: self.events,
            per_second: Spread::of(self.accept_rate.iter().copied()).median,
            fsync_ms: Some(middle(&self.fsync)),
            refused: self.refused,
            missing: Some(self.missing),
            duplicates: Some(self.duplicates),
            ..Details::default()
        }
    }
}
