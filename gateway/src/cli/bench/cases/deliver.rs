//! `deliver_cpu`, `deliver_rate` and `store_cpu`: the whole way, from accepting an event to its delivery on record.

use super::super::error::BenchError;
use super::super::gateway::{Backend, Gateway, IN_FLIGHT};
use super::super::lab::{Lab, Measured, Stage, accepted, delivered};
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::{Outcome, compare};
use super::super::redis_server::RedisServer;
use super::super::report::{Details, Figure, Goal, Times};
use super::super::statistics::Spread;
use super::super::{PluginChoice, Traffic};
use super::{COMPONENT, Findings, Store, cpu_of, details, middle, progress};

const CPU_GOAL: Goal = Goal::RatioAtMost(1.5);
const STORE_GOAL: Goal = Goal::RatioAtMost(2.0);
const RATE_GOAL: Goal = Goal::AtLeast(20_000.0);
const RATE_PLUGIN_GOAL: Goal = Goal::AtLeast(12_000.0);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Path {
    Plain,
    Transform,
}

impl PluginChoice {
    fn list(self) -> &'static [Path] {
        match self {
            Self::None => &[Path::Plain],
            Self::Transform => &[Path::Transform],
            Self::Both => &[Path::Plain, Path::Transform],
        }
    }
}

/// Repetitions of one store and one path.
struct Runs {
    store: Store,
    path: Path,
    measured: Vec<Measured>,
    outcomes: Vec<Outcome>,
    fsync: Vec<Fsync>,
    /// What the store's commands cost without us, on Redis.
    store_floor: Vec<f64>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, plugin: PluginChoice) -> Result<Findings, BenchError> {
    let mut faults = Vec::new();
    let mut floors: Vec<(Path, Vec<Measured>)> = plugin.list().iter().map(|&path| (path, Vec::new())).collect();
    let cells = traffic.store.list().iter().flat_map(|&store| plugin.list().iter().map(move |&path| (store, path)));
    let mut runs: Vec<Runs> = cells.map(|(store, path)| Runs::new(store, path)).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for (path, floors) in &mut floors {
            floors.push(floor(lab, traffic, *path).await?);
        }
        for runs in &mut runs {
            runs.once(lab, traffic, &mut faults).await?;
        }
    }
    let floor_of = |path| floors.iter().find(|(floor, _)| *floor == path).map(|(_, runs)| cpu_of(runs, "floor"));
    let figures = runs.iter().flat_map(|runs| runs.figures(floor_of(runs.path))).collect();
    Ok((figures, faults))
}

/// A bare server that forwards before it answers, through a bare call of the same component.
async fn floor(lab: &Lab, traffic: &Traffic, path: Path) -> Result<Measured, BenchError> {
    let receiver = lab.receiver().await?;
    let mut arguments = vec![format!("--forward={}", receiver.address()?)];
    if path == Path::Transform {
        let component = lab.room()?.join("component.wasm");
        std::fs::write(&component, COMPONENT).map_err(BenchError::io(component.display().to_string()))?;
        arguments.push(format!("--component={}", component.display()));
    }
    let floor = lab.floor(&arguments).await?;
    let mut load = lab.load(floor.address()?, &["/in/floor"], traffic.connections).await?;
    let processes = vec![("floor", floor.pid()), ("load", load.pid()), ("receiver", receiver.pid())];
    let mut stage = Stage { name: "the floor of deliver".into(), load: &mut load, receiver: Some(&receiver), processes };
    let measured = lab.measure(&mut stage).await?;
    load.stop().await?;
    floor.stop().await?;
    receiver.stop().await?;
    Ok(measured)
}

impl Runs {
    fn new(store: Store, path: Path) -> Self {
        Self { store, path, measured: Vec::new(), outcomes: Vec::new(), fsync: Vec::new(), store_floor: Vec::new() }
    }

    async fn once(&mut self, lab: &Lab, traffic: &Traffic, faults: &mut Vec<String>) -> Result<(), BenchError> {
        let room = lab.room()?;
        self.fsync.push(fsync_probe(lab.dir())?);
        let server = match self.store {
            Store::Redis => Some(RedisServer::start(&traffic.redis_server, &room.join("redis")).await?),
            Store::Embedded => None,
        };
        if let Some(server) = &server {
            self.store_floor.push(server.floor(lab.time / 2).await?);
        }
        let backend = server.as_ref().map_or(Backend::Embedded, Backend::Redis);
        let gateway = Gateway::start(lab, &room, backend, "all").await?;
        let receiver = lab.receiver().await?;
        let component = (self.path == Path::Transform).then_some(COMPONENT);
        let route = gateway.source().await?.connect(receiver.address()?, component).await?;
        let mut load = lab.load(gateway.ingest(), &[&route.path], traffic.connections).await?;
        let mut processes = vec![("gateway", gateway.pid()), ("load", load.pid()), ("receiver", receiver.pid())];
        processes.extend(server.as_ref().map(|server| ("redis", server.pid())));
        let name = format!("deliver, {}", self.described());
        let mut stage = Stage { name: name.clone(), load: &mut load, receiver: Some(&receiver), processes };
        let measured = lab.measure(&mut stage).await?;
        let (accepted, delivered) = (accepted(lab, &mut load).await?, delivered(&receiver).await?);
        let outcome = compare(&accepted, &[route.connection], &delivered, measured.since);
        faults.extend(outcome.fault(measured.unclear).map(|fault| format!("{name}: {fault}")));
        self.measured.push(measured);
        self.outcomes.push(outcome);
        load.stop().await?;
        receiver.stop().await
    }

    fn described(&self) -> String {
        let path = match self.path {
            Path::Plain => "no plugin",
            Path::Transform => "Rust transform",
        };
        format!("{}; {path}; one signing secret; {IN_FLIGHT} attempts at once", self.store.described())
    }

    fn figures(&self, floor: Option<Spread>) -> Vec<Figure> {
        let on_redis = self.store == Store::Redis;
        let suffix = self.store.suffix();
        let (cpu, cpu_goal, rate, rate_goal) = match self.path {
            Path::Plain => ("deliver_cpu_plain", None, "deliver_rate", RATE_GOAL),
            Path::Transform => ("deliver_cpu", Some(CPU_GOAL), "deliver_rate_plugin", RATE_PLUGIN_GOAL),
        };
        let mut figures = vec![
            Figure::new(
                format!("{cpu}{suffix}"),
                "us",
                cpu_of(&self.measured, "gateway"),
                floor,
                cpu_goal.filter(|_| on_redis),
                self.details("CPU of the gateway for each event accepted, delivered and recorded"),
            ),
            Figure::new(
                format!("{rate}{suffix}"),
                "/s",
                self.rate(),
                None,
                Some(rate_goal).filter(|_| on_redis),
                self.details("events from the first sent to the last arrived, by that time"),
            ),
        ];
        if on_redis && self.path == Path::Plain {
            figures.push(Figure::new(
                "store_cpu".into(),
                "us",
                cpu_of(&self.measured, "redis"),
                Some(Spread::of(self.store_floor.iter().copied())),
                Some(STORE_GOAL),
                self.details("CPU of Redis for each event the whole way; floor: XADD, XREADGROUP, XACK, XDEL in batches of 64"),
            ));
        }
        figures
    }

    #[allow(clippy::cast_precision_loss)]
    fn rate(&self) -> Spread {
        Spread::of(self.outcomes.iter().map(|outcome| outcome.events as f64 / outcome.seconds))
    }

    fn details(&self, what: &str) -> Details {
        let median = |of: fn(&Outcome) -> f64| Spread::of(self.outcomes.iter().map(of)).median;
        Details {
            fsync_ms: Some(middle(&self.fsync)),
            latency_ms: Some(Times {
                p50: median(|outcome| outcome.latency_p50_ms),
                p99: median(|outcome| outcome.latency_p99_ms),
            }),
            missing: Some(self.outcomes.iter().map(|outcome| outcome.missing.len() as u64).sum()),
            duplicates: Some(self.outcomes.iter().map(|outcome| outcome.duplicates).sum()),
            per_second: self.rate().median,
            ..details(format!("{what}; {}", self.described()), &self.measured)
        }
    }
}
