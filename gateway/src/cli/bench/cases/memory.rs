//! `memory_peak`: what the gateway takes at most through a day's shapes of load, against what its limits promise.
//!
//! The limits are set tight, so that they are reached: bodies being read, events in work, the embedded store's cache, plugins' memory. Their sum
//! and [`OVERHEAD`] is the budget. Each shape begins with the kernel's high-water mark of resident memory set back, so that its own peak is known exactly.
//! Where the system lets us have a control group, the gateway runs in one with the budget as its hard limit: over it, it is
//! killed, and the run fails. Files that the store writes count in a control group until they are dropped, so the figure is
//! resident memory either way.

use std::time::Duration;

use serde_json::json;

use super::super::Traffic;
use super::super::body;
use super::super::cage::Cage;
use super::super::cpu;
use super::super::error::BenchError;
use super::super::gateway::{Gateway, Route, Tuning};
use super::super::lab::{self, Lab, accepted, all_arrived, delivered, open_gate};
use super::super::outcome::compare;
use super::super::part::Part;
use super::super::receiver::GATE;
use super::super::report::{Details, Figure, Goal, rounded};
use super::super::statistics::Spread;
use super::{COMPONENT, Findings, Ground, Store, progress};
use crate::config::Config;
use crate::config::memory::OVERHEAD;
use crate::event::ConnectionId;
use crate::plugin::PluginConfig;

/// Of the budget.
const GOAL: Goal = Goal::RatioAtMost(1.0);

const TUNING: Tuning = Tuning {
    ingest: "max_body_bytes = \"64MiB\"",
    store: "cache = \"32MiB\"",
    dispatch: "bytes = \"32MiB\"\noutput_bytes = \"16MiB\"",
    plugins: "max_memory = \"16MiB\"\nloaded_bytes = \"32MiB\"\nidle_bytes = \"1MiB\"",
};

/// Requests per second of the steady tenant, all the time.
const STEADY: f64 = 200.0;
/// The burst's.
const BURST: f64 = 10.0 * STEADY;
/// Of the one whose destination hangs.
const HANGING: f64 = 50.0;
/// A large body.
const LARGE: usize = 1 << 20;
/// Slow senders: with half of a large body each, more than the gateway may read at once.
const CRAWLERS: u16 = 200;

/// One store's repetitions.
struct Runs {
    store: Store,
    budget_mib: f64,
    caged: bool,
    peaks: Vec<f64>,
    /// By shape, of all repetitions.
    shapes: Vec<(&'static str, Vec<f64>)>,
    events: u64,
    refused: u64,
    missing: u64,
    duplicates: u64,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic) -> Result<Findings, BenchError> {
    let mut faults = Vec::new();
    let mut all: Vec<Runs> = traffic.store.list().iter().map(|&store| Runs::new(store)).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, &mut faults).await?;
        }
    }
    Ok((all.iter().map(Runs::figure).collect(), faults))
}

/// What the limits add up to, in bytes.
fn budget(config: &Config) -> Result<u64, BenchError> {
    let plugins = PluginConfig::new(config.plugins.cache.clone()).map_err(BenchError::io("this program's path"))?;
    let threads = if config.plugins.threads > 0 { config.plugins.threads } else { plugins.threads };
    Ok(config.memory(PluginConfig { threads, ..plugins }.all_threads()).sum())
}

impl Runs {
    fn new(store: Store) -> Self {
        Self {
            store,
            budget_mib: 0.0,
            caged: false,
            peaks: vec![],
            shapes: vec![],
            events: 0,
            refused: 0,
            missing: 0,
            duplicates: 0,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    async fn once(&mut self, lab: &Lab, traffic: &Traffic, faults: &mut Vec<String>) -> Result<(), BenchError> {
        let Ground { server: _server, planned } = Ground::prepare(lab, traffic, self.store, TUNING).await?;
        let budget = budget(&planned.config()?.0)?;
        let cage = Cage::new(budget);
        self.budget_mib = budget as f64 / f64::from(1 << 20);
        self.caged = cage.is_some();
        let planned = match &cage {
            Some(cage) => planned.caged(cage.procs()),
            None => planned,
        };
        let (gateway, _) = planned.start().await?;
        let (receiver, gated) = (lab.receiver().await?, lab.receiver().await?);
        let mut day = Day { lab, connections: traffic.connections, gateway, peaks: Vec::new(), refused: 0 };
        let tenants = day.pass(&receiver, &gated).await;
        if cage.as_ref().is_some_and(|cage| cage.kills() > 0) {
            faults.push(format!("memory, {}: the kernel killed the gateway at its limit", self.store.described()));
        }
        let tenants = tenants?;
        self.peaks.push(day.peaks.iter().map(|(_, peak)| *peak).fold(0.0, f64::max));
        self.refused += day.refused;
        for (name, peak) in day.peaks {
            match self.shapes.iter_mut().find(|(known, _)| *known == name) {
                Some((_, peaks)) => peaks.push(peak),
                None => self.shapes.push((name, vec![peak])),
            }
        }
        for mut tenant in tenants {
            let arrivals = delivered(tenant.receiver).await?;
            let outcome = compare(&accepted(lab, &mut tenant.load).await?, &[tenant.connection], &arrivals, 0);
            // Others' deliveries are foreign, and what was refused may have been accepted.
            faults.extend(outcome.fault(u64::MAX).map(|fault| format!("memory, {}: {fault}", self.store.described())));
            self.events += outcome.events;
            self.missing += outcome.missing.len() as u64;
            // Of all arrivals at its receiver; one tenant of each is enough.
            if tenant.counts_duplicates {
                self.duplicates += outcome.duplicates;
            }
            tenant.load.stop().await?;
        }
        drop(day.gateway);
        drop(cage);
        gated.stop().await?;
        receiver.stop().await
    }

    fn figure(&self) -> Figure {
        let listed: Vec<String> =
            self.shapes.iter().map(|(name, peaks)| format!("{name} {:.0}", Spread::of(peaks.iter().copied()).median)).collect();
        let held = if self.caged {
            "in a control group with the budget as its hard limit"
        } else {
            "not in a control group, which this system does not give us"
        };
        let what = format!(
            "peak resident memory of the gateway (the kernel's high-water mark), {held}; floor: the budget, which is what its limits add up to and \
             {} MiB; by shape, in MiB: {}; refused are requests over a limit; {}",
            OVERHEAD >> 20,
            listed.join(", "),
            self.store.described()
        );
        let details = Details {
            what,
            repetitions: self.peaks.len(),
            events: self.events,
            refused: self.refused,
            missing: Some(self.missing),
            duplicates: Some(self.duplicates),
            ..Details::default()
        };
        let budget = Spread::of([rounded(self.budget_mib)]);
        let name = format!("memory_peak{}", self.store.suffix());
        Figure::new(name, "MiB", Spread::of(self.peaks.iter().copied()), Some(budget), Some(GOAL), details)
    }
}

/// A tenant with who sends to it, and where its deliveries go.
struct Tenant<'a> {
    load: Part,
    connection: ConnectionId,
    receiver: &'a Part,
    counts_duplicates: bool,
    sent: u64,
}

impl Tenant<'_> {
    /// For a while.
    async fn send(&mut self, time: Duration, rate: Option<f64>) -> Result<u64, BenchError> {
        let sent = lab::send(&mut self.load, time, rate).await?;
        self.sent += sent.accepted;
        Ok(sent.failed + sent.refused.values().sum::<u64>())
    }
}

/// One repetition.
struct Day<'a> {
    lab: &'a Lab,
    connections: u16,
    gateway: Gateway,
    /// By shape.
    peaks: Vec<(&'static str, f64)>,
    refused: u64,
}

impl Day<'_> {
    /// All shapes, one after the other, with the steady tenant beside each.
    async fn pass<'r>(&mut self, receiver: &'r Part, gated: &'r Part) -> Result<[Tenant<'r>; 4], BenchError> {
        let (time, gateway) = (self.lab.time, &self.gateway);
        let (plan, to) = (json!({"rate": 1_000_000.0, "burst": 1_000_000, "queued_bytes": "1TiB"}), receiver.address()?);
        let large = gateway.tenant("large", &plan).await?.connect(to, None).await?;
        let crawled = gateway.tenant("crawled", &plan).await?.unconnected();
        let hanging = gateway.tenant("hanging", &plan).await?.to(GATE).connect(gated.address()?, None).await?;
        let noisy = gateway
            .tenant("noisy", &json!({"rate": STEADY, "burst": 1, "queued_bytes": "1TiB"}))
            .await?
            .connect(to, Some(COMPONENT))
            .await?;
        let steady = gateway.tenant("steady", &plan).await?.connect(to, None).await?;
        let mut crawlers = self.lab.load_of(gateway.ingest(), &[&crawled.path], CRAWLERS, LARGE).await?;
        let mut large = Tenant { counts_duplicates: false, ..self.tenant(large, receiver, LARGE).await? };
        let mut noisy = Tenant { counts_duplicates: false, ..self.tenant(noisy, receiver, body::SIZE).await? };
        let mut hanging = self.tenant(hanging, gated, body::SIZE).await?;
        let mut steady = self.tenant(steady, receiver, body::SIZE).await?;

        self.shape("steady", &mut steady, STEADY, async { Ok(0) }).await?;
        self.shape("ten times that", &mut steady, BURST, async { Ok(0) }).await?;
        self.shape("large bodies", &mut steady, STEADY, large.send(time / 4, None)).await?;
        self.shape("a hanging destination", &mut steady, STEADY, hanging.send(time, Some(HANGING))).await?;
        self.shape("slow senders", &mut steady, STEADY, async { lab::crawl(&mut crawlers, time).await.map(|_| 0) }).await?;
        self.shape("a backlog", &mut steady, STEADY, hanging.send(time, None)).await?;
        open_gate(gated).await?;
        let drained = async { all_arrived(gated, hanging.sent).await.map(|()| 0) };
        self.shape("its drain", &mut steady, STEADY, drained).await?;
        self.shape("a noisy tenant with a plugin", &mut steady, STEADY, noisy.send(time, None)).await?;
        let so_far = large.sent + noisy.sent + steady.sent;
        self.shape("what is left", &mut steady, STEADY, async { all_arrived(receiver, so_far).await.map(|()| 0) }).await?;
        all_arrived(receiver, large.sent + noisy.sent + steady.sent).await?;
        crawlers.stop().await?;
        Ok([steady, large, hanging, noisy])
    }

    async fn tenant<'r>(&self, route: Route<ConnectionId>, receiver: &'r Part, size: usize) -> Result<Tenant<'r>, BenchError> {
        let load = self.lab.load_of(self.gateway.ingest(), &[&route.path], self.connections, size).await?;
        Ok(Tenant { load, connection: route.connection, receiver, counts_duplicates: true, sent: 0 })
    }

    /// Notes the peak of one shape: the steady tenant at this rate, and what goes on beside it, which says what was refused.
    async fn shape(
        &mut self,
        name: &'static str,
        steady: &mut Tenant<'_>,
        rate: f64,
        beside: impl Future<Output = Result<u64, BenchError>>,
    ) -> Result<(), BenchError> {
        cpu::forget_peak(self.gateway.pid());
        let (steady, beside) = tokio::join!(steady.send(self.lab.time, Some(rate)), beside);
        self.gateway.alive()?;
        self.refused += steady? + beside?;
        self.peaks.push((name, cpu::peak_mib(self.gateway.pid())?));
        Ok(())
    }
}
