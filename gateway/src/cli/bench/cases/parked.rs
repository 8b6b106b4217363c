//! `parked_memory`, `parked_memory_failing`, `parked_memory_hanging`: what very many deliveries take of the gateway's memory that wait for one destination.
//!
//! One tenant's destination gets events at full speed, a piece of them while it answers, so that the gateway is warm. Then it is down: it refuses
//! connections and its circuit opens; or it refuses them with its circuit breaker off, so that all are tried again and again; or it hangs with it
//! off, so that its window is full all the time. The figure is the gateway's resident memory beyond what it was before; what is beyond its window
//! is to wait in the store alone.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::Traffic;
use super::super::cpu;
use super::super::error::BenchError;
use super::super::gateway::{IN_FLIGHT, wide_plan};
use super::super::lab::{self, Lab, accepted, all_arrived, at_rest, delivered};
use super::super::outcome::compare;
use super::super::receiver::HANG;
use super::super::redis_server::free_port;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::backlog::FILL;
use super::{Findings, Site, Store, progress};

/// In MiB: a window of attempts with what each of them holds, and nothing of what waits.
const GOAL: Goal = Goal::AtMost(16.0);
/// How long the gateway may take to come to rest, which one that goes on trying does not.
const REST: Duration = Duration::from_secs(30);

/// How the destination is down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Down {
    Refuses,
    Fails,
    Hangs,
}

/// One way on one store.
struct Runs {
    store: Store,
    down: Down,
    events: u64,
    refused: u64,
    missing: u64,
    duplicates: u64,
    mib: Vec<f64>,
    peak_mib: Vec<f64>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, events: u64) -> Result<Findings, BenchError> {
    let new = |store, down| Runs { store, down, events: 0, refused: 0, missing: 0, duplicates: 0, mib: vec![], peak_mib: vec![] };
    let ways = [Down::Refuses, Down::Fails, Down::Hangs];
    let mut all: Vec<Runs> = traffic.store.list().iter().flat_map(|&store| ways.map(|down| new(store, down))).collect();
    let mut faults = Vec::new();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, events, &mut faults).await?;
        }
    }
    Ok((all.iter().map(Runs::figure).collect(), faults))
}

impl Down {
    /// The destination while it is down.
    fn spec(self, hang: &str) -> Result<Value, BenchError> {
        // Nobody listens at a port that was free a moment ago.
        let refusing = format!("http://127.0.0.1:{}/", free_port()?);
        Ok(match self {
            Self::Refuses => {
                let retry = json!({"base": "100ms", "max_delay": "1s", "max_attempts": 50});
                json!({"url": refusing, "circuit_breaker": {"pause": "1s", "max_pause": "1s"}, "retry": retry})
            }
            Self::Fails => json!({"url": refusing, "circuit_breaker": {"enabled": false}}),
            Self::Hangs => json!({"url": hang, "timeout": "5m", "circuit_breaker": {"enabled": false}}),
        })
    }
}

impl Runs {
    async fn once(&mut self, lab: &Lab, traffic: &Traffic, events: u64, faults: &mut Vec<String>) -> Result<(), BenchError> {
        let Site { gateway, server: _server } = Site::start(lab, traffic, self.store).await?;
        let receiver = lab.receiver().await?;
        let route = gateway.tenant("parked", &wide_plan()).await?.connect(receiver.address()?, None).await?;
        let destination = "/v1/destinations/receiver?tenant=parked";
        let mut load = lab.load(gateway.ingest(), &[&route.path], traffic.connections).await?;

        let warm = lab::send(&mut load, FILL.min(lab.time), None).await?.some("the warm-up")?;
        all_arrived(&receiver, warm.accepted).await?;
        at_rest(gateway.pid(), 3, REST).await?;
        let before = cpu::resident_mib(gateway.pid())?;
        cpu::forget_peak(gateway.pid());
        let well = format!("http://{}/hook", receiver.address()?);
        let hang = format!("http://{}{HANG}", receiver.address()?);
        gateway.change(destination, &self.down.spec(&hang)?).await?;
        let mut queued = 0;
        while queued < events {
            let sent = lab::send(&mut load, FILL.min(lab.time), None).await?.some("the queue")?;
            self.refused += sent.failed + sent.refused.values().sum::<u64>();
            queued += sent.accepted;
        }
        at_rest(gateway.pid(), 3, REST).await?;
        progress(&format!("{queued} deliveries wait"));
        self.mib.push(cpu::resident_mib(gateway.pid())? - before);
        self.peak_mib.push(cpu::peak_mib(gateway.pid())? - before);

        // What hangs would go on doing so until its time-out, and what failed wait for its next attempt.
        if self.down == Down::Refuses {
            gateway.change(destination, &json!({"url": well})).await?;
            all_arrived(&receiver, warm.accepted + queued).await?;
            let outcome = compare(&accepted(lab, &mut load).await?, &[route.connection], &delivered(&receiver).await?, 0);
            faults.extend(outcome.fault(self.refused).map(|fault| format!("parked, {}: {fault}", self.store.described())));
            self.missing += outcome.missing.len() as u64;
            self.duplicates += outcome.duplicates;
        }
        self.events += queued;
        load.stop().await?;
        drop(gateway);
        receiver.stop().await
    }

    fn figure(&self) -> Figure {
        let (name, how) = match self.down {
            Down::Refuses => ("parked_memory", "refuses connections, its circuit open"),
            Down::Fails => ("parked_memory_failing", "refuses connections, its circuit breaker off"),
            Down::Hangs => ("parked_memory_hanging", "hangs, its circuit breaker off"),
        };
        let peak = Spread::of(self.peak_mib.iter().copied()).median;
        let details = Details {
            what: format!(
                "resident memory of the gateway with so many events for one destination that {how}, in a window of {IN_FLIGHT}, beyond what it was before; at \
                 most {peak:.1} MiB while they came; {}",
                self.store.described()
            ),
            repetitions: self.mib.len(),
            events: self.events,
            refused: self.refused,
            missing: Some(self.missing),
            duplicates: Some(self.duplicates),
            ..Details::default()
        };
        Figure::new(
            format!("{name}{}", self.store.suffix()),
            "MiB",
            Spread::of(self.mib.iter().copied()),
            None,
            Some(GOAL),
            details,
        )
    }
}
