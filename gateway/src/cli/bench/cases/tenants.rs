//! `tenants_start`, `tenants_memory`, `tenants_cost`: very many tenants on one node, each with a source, a destination, a connection and a
//! plugin version of its own.
//!
//! They are set up once for each store (see `estate`): every component is in the store, and its artifact in the cache on disk, as
//! after an upload to this node. So nothing is compiled here; what is measured is loading. A start has no version in
//! memory; the first event of a tenant loads its version, and the gateway keeps as many ready as its cache has room for. With more tenants
//! than that (and than open connections) in turn, an event pays for loading and for connecting: both are in `tenants_cost`.

use std::time::Duration;

use super::super::Traffic;
use super::super::cpu;
use super::super::error::BenchError;
use super::super::estate::{Estate, Routes};
use super::super::gateway::{Gateway, Tuning};
use super::super::lab::{self, Lab, Measured, Stage, accepted, all_arrived, arrived, delivered};
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::compare;
use super::super::part::Part;
use super::super::redis_server::RedisServer;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::{COMPONENT, Findings, Ground, Store, cpu_of, details, middle, progress};

const START_GOAL: Goal = Goal::AtMost(5.0);
const MEMORY_GOAL: Goal = Goal::AtMost(1024.0);
const COST_GOAL: Goal = Goal::RatioAtMost(1.2);

/// So many tenants' versions and connections stay ready: they count for some 200 of the 256 MiB that `plugins.loaded_bytes` allows.
const READY: usize = 300;
/// How long it may take until each tenant has been heard.
const EACH: Duration = Duration::from_secs(300);

/// One store's repetitions.
struct Runs {
    store: Store,
    tenants: usize,
    start_s: Vec<f64>,
    ready_mib: Vec<f64>,
    used_mib: Vec<f64>,
    used_resident_mib: Vec<f64>,
    /// With one tenant active, with some, and with all.
    one: Vec<Measured>,
    some: Vec<Measured>,
    all: Vec<Measured>,
    missing: u64,
    duplicates: u64,
    fsync: Vec<Fsync>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, tenants: usize) -> Result<Findings, BenchError> {
    let (mut faults, mut figures) = (Vec::new(), Vec::new());
    for &store in traffic.store.list() {
        let mut runs = Runs::new(store, tenants);
        let tuning = Tuning { plugins: "cache_bytes = \"64GiB\"", ..Tuning::default() };
        let Ground { server, planned } = Ground::prepare(lab, traffic, store, tuning).await?;
        let receiver = lab.receiver().await?;
        progress(&format!("setting {tenants} tenants up, {}", store.described()));
        let estate = Estate { tenants, destinations: 1, component: Some(COMPONENT) };
        let routes = estate.write(&planned, receiver.address()?).await?;
        let (mut gateway, _) = planned.start().await?;
        for repetition in 1..=lab.repetitions {
            progress(&format!("repetition {repetition} of {}", lab.repetitions));
            let scene = Scene { lab, traffic, server: server.as_ref(), receiver: &receiver, routes: &routes };
            runs.once(&scene, &mut gateway, &mut faults).await?;
        }
        figures.extend(runs.figures());
        drop(gateway);
        receiver.stop().await?;
    }
    Ok((figures, faults))
}

/// What stays over the repetitions.
struct Scene<'a> {
    lab: &'a Lab,
    traffic: &'a Traffic,
    server: Option<&'a RedisServer>,
    receiver: &'a Part,
    routes: &'a Routes,
}

impl Scene<'_> {
    /// Sends to the first `active` tenants in turn.
    async fn load(&self, gateway: &Gateway, active: usize) -> Result<Part, BenchError> {
        self.lab.load(gateway.ingest(), &self.routes.paths[..active], self.traffic.connections).await
    }
}

impl Runs {
    fn new(store: Store, tenants: usize) -> Self {
        Self {
            store,
            tenants,
            start_s: vec![],
            ready_mib: vec![],
            used_mib: vec![],
            used_resident_mib: vec![],
            one: vec![],
            some: vec![],
            all: vec![],
            missing: 0,
            duplicates: 0,
            fsync: vec![],
        }
    }

    async fn once(&mut self, scene: &Scene<'_>, gateway: &mut Gateway, faults: &mut Vec<String>) -> Result<(), BenchError> {
        let Scene { lab, receiver, routes, .. } = scene;
        self.fsync.push(fsync_probe(lab.dir())?);
        self.start_s.push(gateway.restart().await?.as_secs_f64());
        self.ready_mib.push(cpu::held_mib(gateway.pid())?);
        let before = arrived(receiver).await?;
        let mut log = Vec::new();
        let mut load = scene.load(gateway, self.tenants).await?;
        let each = lab::send_each(&mut load, EACH).await?;
        all_arrived(receiver, before + each.accepted).await?;
        self.used_mib.push(cpu::held_mib(gateway.pid())?);
        self.used_resident_mib.push(cpu::resident_mib(gateway.pid())?);
        log.extend(accepted(lab, &mut load).await?);
        load.stop().await?;
        let mut unclear = each.failed + each.refused.values().sum::<u64>();
        for (active, runs) in [(1, &mut self.one), (READY, &mut self.some), (self.tenants, &mut self.all)] {
            let active = active.min(self.tenants);
            let mut load = scene.load(gateway, active).await?;
            if active <= READY {
                // Their versions may have gone to make room for the others'; loading them is not what is measured here.
                let before = arrived(receiver).await?;
                let each = lab::send_each(&mut load, EACH).await?;
                unclear += each.failed + each.refused.values().sum::<u64>();
                all_arrived(receiver, before + each.accepted).await?;
            }
            let mut processes = vec![("gateway", gateway.pid()), ("load", load.pid()), ("receiver", receiver.pid())];
            processes.extend(scene.server.map(|server| ("redis", server.pid())));
            let name = format!("tenants, {}, {active} active", self.store.described());
            let measured = lab.measure(&mut Stage { name, load: &mut load, receiver: Some(receiver), processes }).await?;
            unclear += measured.unclear;
            runs.push(measured);
            log.extend(accepted(lab, &mut load).await?);
            load.stop().await?;
        }
        // The receiver has what earlier repetitions sent, too: what counts is that all of this one is there.
        let outcome = compare(&log, &routes.connections, &delivered(receiver).await?, 0);
        faults.extend(outcome.fault(u64::MAX).map(|fault| format!("tenants, {}: {fault}", self.store.described())));
        if unclear == 0 && each.accepted != self.tenants as u64 {
            faults.push(format!("tenants, {}: only {} of {} were heard", self.store.described(), each.accepted, self.tenants));
        }
        self.missing += outcome.missing.len() as u64;
        // Of all arrivals so far.
        self.duplicates = outcome.duplicates;
        Ok(())
    }

    fn figures(&self) -> [Figure; 5] {
        let (tenants, store) = (self.tenants, self.store.described());
        let goal = |goal| (self.store == Store::Redis).then_some(goal);
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let name = |name: &str| format!("{name}{}", self.store.suffix());
        let still = |what: String| Details {
            answer_ms: None,
            cpu_us: Default::default(),
            per_second: 0.0,
            ..self.details(what, &self.all)
        };
        let resident = spread(&self.used_resident_mib).median;
        let memory = "memory of the gateway, resident and in files of compiled code,";
        let cost = |runs, active: usize, more: &str| {
            let what = format!(
                "CPU of the gateway for each event accepted, transformed and delivered with {active} of {tenants} tenants active in turn{more}; \
                 {store}; floor: with one active"
            );
            self.details(what, runs)
        };
        let floor = Some(cpu_of(&self.one, "gateway"));
        [
            Figure::new(
                name("tenants_start"),
                "s",
                spread(&self.start_s),
                None,
                goal(START_GOAL),
                still(format!(
                    "from the start of the process to its readiness, {tenants} tenants with as many plugin versions; {store}"
                )),
            ),
            Figure::new(
                name("tenants_memory_ready"),
                "MiB",
                spread(&self.ready_mib),
                None,
                None,
                still(format!("{memory} as soon as it is ready, {tenants} tenants; {store}")),
            ),
            Figure::new(
                name("tenants_memory"),
                "MiB",
                spread(&self.used_mib),
                None,
                goal(MEMORY_GOAL),
                still(format!(
                    "{memory} after an event of each of {tenants} tenants, each through its own version; {resident:.0} MiB of it resident; {store}"
                )),
            ),
            Figure::new(
                name("tenants_cost_ready"),
                "us",
                cpu_of(&self.some, "gateway"),
                floor,
                goal(COST_GOAL),
                cost(&self.some, READY.min(tenants), ", which all stay ready"),
            ),
            Figure::new(
                name("tenants_cost"),
                "us",
                cpu_of(&self.all, "gateway"),
                floor,
                goal(COST_GOAL),
                cost(&self.all, tenants, ", whose versions and connections do not all stay ready"),
            ),
        ]
    }

    fn details(&self, what: String, runs: &[Measured]) -> Details {
        Details {
            fsync_ms: Some(middle(&self.fsync)),
            missing: Some(self.missing),
            duplicates: Some(self.duplicates),
            ..details(what, runs)
        }
    }
}
