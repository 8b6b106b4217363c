//! `cost_queued`, `cost_tenants`, `cost_destinations`, `cost_configured`: whether an event costs the same whatever else there is.
//!
//! *Queued*: one tenant's events are measured on the whole way while another's wait for a destination that does not answer: none, a
//! hundredth, all. *Tenants*: one, some, very many, each with a source, a destination and a connection, all active in turn. *Destinations*: gateways with one destination, a thousand, very many, each with a source and a connection; all of them
//! are active in turn. Each has connections of its own, and with more than the gateway keeps open an event pays for connecting.
//! *Configured*: the same with one of them active, so that nothing is left but the size of the configuration.
//!
//! A figure is the dearest of its sizes, its floor the cheapest. The gateway's CPU and that of Redis are told apart (`_store`).

use std::time::Duration;

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::estate::Estate;
use super::super::gateway::Tuning;
use super::super::lab::{self, Lab, Measured, Stage, accepted, all_arrived, delivered, open_gate};
use super::super::outcome::compare;
use super::super::receiver::GATE;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::backlog::FILL;
use super::{Findings, Ground, Site, Store, cpu_of, details, progress};

const GOAL: Goal = Goal::RatioAtMost(1.2);

/// Destinations of one tenant, at most.
const OF_A_TENANT: usize = 1_000;
/// Tenants whose connections all stay open.
const SOME_TENANTS: usize = 300;

/// What catches up is paced, and pauses: it is done when the gateway has been at rest so many times in a row.
const PAUSES: u32 = 20;

/// How long it may take until what is queued only waits.
const PARKED: Duration = Duration::from_secs(180);

/// How much there is to be.
#[derive(Clone, Copy)]
pub(in crate::cli::bench) struct Extent {
    pub(in crate::cli::bench) events: u64,
    pub(in crate::cli::bench) tenants: usize,
    pub(in crate::cli::bench) destinations: usize,
}

/// The same work at several sizes, over the repetitions.
struct Series {
    name: &'static str,
    what: &'static str,
    sizes: Vec<(String, Vec<Measured>)>,
}

/// One store's measurements.
struct Runs {
    store: Store,
    queued: Series,
    tenants: Series,
    destinations: Series,
    configured: Series,
    missing: u64,
    duplicates: u64,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, extent: Extent) -> Result<Findings, BenchError> {
    let (mut faults, mut figures) = (Vec::new(), Vec::new());
    for &store in traffic.store.list() {
        let mut runs = Runs::new(store);
        for repetition in 1..=lab.repetitions {
            progress(&format!("queued, repetition {repetition} of {}", lab.repetitions));
            runs.queue(lab, traffic, extent.events, &mut faults).await?;
        }
        for size in sizes(SOME_TENANTS, extent.tenants) {
            progress(&format!("setting {size} tenants up, {}", store.described()));
            let active = [(Runs::tenants as Which, size)];
            runs.spread(lab, traffic, (size, 1), &active, &mut faults).await?;
        }
        for size in sizes(OF_A_TENANT, extent.destinations) {
            progress(&format!("setting {size} destinations up, {}", store.described()));
            let destinations = size.min(OF_A_TENANT);
            let active = [(Runs::configured as Which, 1), (Runs::destinations as Which, size)];
            runs.spread(lab, traffic, (size.div_ceil(destinations), destinations), &active, &mut faults).await?;
        }
        figures.extend(runs.figures());
    }
    Ok((figures, faults))
}

/// One, some and all.
fn sizes(some: usize, all: usize) -> Vec<usize> {
    let mut sizes = vec![1, some.min(all), all];
    sizes.dedup();
    sizes
}

/// The series that a measurement belongs to.
type Which = fn(&mut Runs) -> &mut Series;

impl Series {
    fn new(name: &'static str, what: &'static str) -> Self {
        Self { name, what, sizes: Vec::new() }
    }

    fn push(&mut self, size: String, measured: Measured) {
        match self.sizes.iter_mut().find(|(known, _)| *known == size) {
            Some((_, runs)) => runs.push(measured),
            None => self.sizes.push((size, vec![measured])),
        }
    }

    /// What `process` uses at the dearest size, by what it uses at the cheapest.
    fn figure(&self, name: String, process: &'static str, runs: &Runs) -> Figure {
        let costs: Vec<(&String, &Vec<Measured>, Spread)> =
            self.sizes.iter().map(|(size, runs)| (size, runs, cpu_of(runs, process))).collect();
        let order = |one: &&(&String, &Vec<Measured>, Spread), other: &&(&String, &Vec<Measured>, Spread)| {
            one.2.median.total_cmp(&other.2.median)
        };
        let (Some(cheapest), Some(dearest)) = (costs.iter().min_by(order), costs.iter().max_by(order)) else {
            unreachable!("a series has a size");
        };
        let listed: Vec<String> = costs.iter().map(|(size, _, cost)| format!("{size}: {:.1} us", cost.median)).collect();
        let what = format!(
            "CPU of {process} for each event accepted and delivered, the dearest by the cheapest of these: {} ({}); {}",
            self.what,
            listed.join(", "),
            runs.store.described()
        );
        let details = Details { missing: Some(runs.missing), duplicates: Some(runs.duplicates), ..details(what, dearest.1) };
        let goal = (runs.store == Store::Redis).then_some(GOAL);
        Figure::new(name, "us", dearest.2, Some(cheapest.2), goal, details)
    }
}

impl Runs {
    fn new(store: Store) -> Self {
        Self {
            store,
            queued: Series::new("cost_queued", "another tenant's events that are queued meanwhile"),
            tenants: Series::new("cost_tenants", "tenants, all active in turn"),
            destinations: Series::new("cost_destinations", "destinations, all active in turn"),
            configured: Series::new("cost_configured", "destinations, one of them active"),
            missing: 0,
            duplicates: 0,
        }
    }

    /// From an empty queue to `events` that wait.
    async fn queue(&mut self, lab: &Lab, traffic: &Traffic, events: u64, faults: &mut Vec<String>) -> Result<(), BenchError> {
        let site = Site::start(lab, traffic, self.store).await?;
        let (receiver, gated) = (lab.receiver().await?, lab.receiver().await?);
        let route = site.gateway.source().await?.connect(receiver.address()?, None).await?;
        let plan = serde_json::json!({"rate": 1_000_000.0, "burst": 1_000_000, "queued_bytes": "1TiB"});
        let piling = site.gateway.tenant("piling", &plan).await?.to(GATE).connect(gated.address()?, None).await?;
        let mut load = lab.load(site.gateway.ingest(), &[&route.path], traffic.connections).await?;
        let mut fill = lab.load(site.gateway.ingest(), &[&piling.path], traffic.connections).await?;
        let mut queued = 0;
        for size in [0, events / 100, events] {
            while queued < size {
                queued += lab::send(&mut fill, FILL.min(lab.time), None).await?.some("the queue")?.accepted;
            }
            // What was accepted is parked in the store before it only waits; that is not measured here.
            lab::at_rest(site.gateway.pid(), PAUSES, PARKED).await?;
            let name = format!("cost, {}, {size} queued", self.store.described());
            let mut processes = vec![("gateway", site.gateway.pid()), ("load", load.pid()), ("receiver", receiver.pid())];
            processes.extend(site.server.as_ref().map(|server| ("redis", server.pid())));
            let mut stage = Stage { name, load: &mut load, receiver: Some(&receiver), processes };
            self.queued.push(size.to_string(), lab.measure(&mut stage).await?);
        }
        open_gate(&gated).await?;
        all_arrived(&gated, queued).await?;
        let ends = [(load, &receiver, route.connection), (fill, &gated, piling.connection)];
        for (mut load, receiver, connection) in ends {
            let outcome = compare(&accepted(lab, &mut load).await?, &[connection], &delivered(receiver).await?, 0);
            // A request of the fill that was not answered may have been accepted.
            faults.extend(outcome.fault(u64::MAX).map(|fault| format!("cost, {}: {fault}", self.store.described())));
            self.missing += outcome.missing.len() as u64;
            self.duplicates += outcome.duplicates;
            load.stop().await?;
        }
        drop(site);
        gated.stop().await?;
        receiver.stop().await
    }

    fn tenants(&mut self) -> &mut Series {
        &mut self.tenants
    }

    fn destinations(&mut self) -> &mut Series {
        &mut self.destinations
    }

    fn configured(&mut self) -> &mut Series {
        &mut self.configured
    }

    /// With so many tenants that have so many destinations each, of which so many are active, for each series.
    async fn spread(
        &mut self,
        lab: &Lab,
        traffic: &Traffic,
        (tenants, destinations): (usize, usize),
        active: &[(Which, usize)],
        faults: &mut Vec<String>,
    ) -> Result<(), BenchError> {
        let Ground { server, planned } = Ground::prepare(lab, traffic, self.store, Tuning::default()).await?;
        let receiver = lab.receiver().await?;
        let estate = Estate { tenants, destinations, component: None };
        let routes = estate.write(&planned, receiver.address()?).await?;
        let (gateway, _) = planned.start().await?;
        let size = routes.paths.len();
        let mut log = Vec::new();
        for &(series, active) in active {
            let mut load = lab.load(gateway.ingest(), &routes.paths[..active], traffic.connections).await?;
            for _ in 0..lab.repetitions {
                let name = format!("cost, {}, {active} of {size} routes", self.store.described());
                let mut processes = vec![("gateway", gateway.pid()), ("load", load.pid()), ("receiver", receiver.pid())];
                processes.extend(server.as_ref().map(|server| ("redis", server.pid())));
                let mut stage = Stage { name, load: &mut load, receiver: Some(&receiver), processes };
                let measured = lab.measure(&mut stage).await?;
                series(self).push(size.to_string(), measured);
            }
            log.extend(accepted(lab, &mut load).await?);
            load.stop().await?;
        }
        let outcome = compare(&log, &routes.connections, &delivered(&receiver).await?, 0);
        faults.extend(outcome.fault(u64::MAX).map(|fault| format!("cost, {}: {fault}", self.store.described())));
        self.missing += outcome.missing.len() as u64;
        self.duplicates += outcome.duplicates;
        drop(gateway);
        receiver.stop().await
    }

    fn figures(&self) -> Vec<Figure> {
        let suffix = self.store.suffix();
        let series = [&self.queued, &self.tenants, &self.destinations, &self.configured];
        let gateway = series.map(|series| series.figure(format!("{}{suffix}", series.name), "gateway", self));
        let redis = |series: &&Series| series.figure(format!("{}_store", series.name), "redis", self);
        let redis: Vec<Figure> = if self.store == Store::Redis { series.iter().map(redis).collect() } else { Vec::new() };
        gateway.into_iter().chain(redis).collect()
    }
}
