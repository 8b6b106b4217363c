//! The cases: what is measured, in which order, and what becomes of it.

mod accept;
mod backlog;
mod cost;
mod deliver;
mod hanging;
mod hostile;
mod latency;
mod memory;
mod noisy;
mod parked;
mod plugin;
mod rates;
mod restart;
mod slow_store;
mod tenants;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use super::error::BenchError;
use super::gateway::{Backend, Gateway, Planned, Tuning};
use super::lab::{Lab, Measured};
use super::machine::{Fsync, Machine};
use super::redis_server::RedisServer;
use super::report::{Details, Figure, Report, Times, rounded};
use super::statistics::Spread;
use super::{Options, PluginChoice, Stores, Traffic};

pub(super) use cost::Extent;
pub(super) use plugin::Subject;

/// Which case.
#[derive(Clone)]
pub(super) enum Plan {
    Accept(Traffic),
    Deliver(Traffic, PluginChoice),
    Latency(Traffic),
    Noisy(Traffic),
    Hostile(Traffic),
    Backlog(Traffic, u64),
    Restart(Traffic, u64),
    Tenants(Traffic, usize),
    SlowStore(Traffic, u32),
    Cost(Traffic, Extent),
    Memory(Traffic),
    Hanging(Traffic, usize),
    Parked(Traffic, u64),
    Rates(Traffic, Duration),
    Plugin(Subject),
}

/// The transform in the path.
pub(super) const COMPONENT: &[u8] = include_bytes!("../../../../plugins/prebuilt/github-push-to-chat.wasm");

/// Which store a figure is of. The figures with goals are those on Redis; the others carry a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Store {
    Redis,
    Embedded,
}

impl Store {
    fn suffix(self) -> &'static str {
        match self {
            Self::Redis => "",
            Self::Embedded => "_embedded",
        }
    }

    fn described(self) -> &'static str {
        match self {
            Self::Redis => "Redis, everysec",
            Self::Embedded => "embedded, fsync",
        }
    }
}

impl Stores {
    fn list(self) -> &'static [Store] {
        match self {
            Self::Embedded => &[Store::Embedded],
            Self::Redis => &[Store::Redis],
            Self::Both => &[Store::Redis, Store::Embedded],
        }
    }
}

/// Runs a case and prints it.
pub(super) fn run(options: &Options, plan: Plan) -> Result<(), BenchError> {
    if !cfg!(target_os = "linux") {
        return Err(BenchError::NotLinux);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("runtime"))?;
    runtime.block_on(async {
        tokio::select! {
            code = conduct(options, plan) => code,
            _ = tokio::signal::ctrl_c() => Err(BenchError::Interrupted),
        }
    })
}

async fn conduct(options: &Options, plan: Plan) -> Result<(), BenchError> {
    let lab = Lab::set_up(options)?;
    let redis = match &plan {
        Plan::Accept(traffic)
        | Plan::Deliver(traffic, _)
        | Plan::Latency(traffic)
        | Plan::Noisy(traffic)
        | Plan::Hostile(traffic)
        | Plan::Backlog(traffic, _)
        | Plan::Restart(traffic, _)
        | Plan::Tenants(traffic, _)
        | Plan::SlowStore(traffic, _)
        | Plan::Cost(traffic, _)
        | Plan::Memory(traffic)
        | Plan::Hanging(traffic, _)
        | Plan::Parked(traffic, _)
        | Plan::Rates(traffic, _)
            if traffic.store.list().contains(&Store::Redis) =>
        {
            Some(RedisServer::start(&traffic.redis_server, &lab.room()?).await?.settings())
        }
        _ => None,
    };
    let machine = Machine::look(lab.dir(), lab.threads, redis)?;
    let (figures, faults) = match plan {
        Plan::Accept(traffic) => accept::run(&lab, &traffic).await?,
        Plan::Deliver(traffic, plugin) => deliver::run(&lab, &traffic, plugin).await?,
        Plan::Latency(traffic) => latency::run(&lab, &traffic).await?,
        Plan::Noisy(traffic) => noisy::run(&lab, &traffic).await?,
        Plan::Hostile(traffic) => hostile::run(&lab, &traffic).await?,
        Plan::Backlog(traffic, events) => backlog::run(&lab, &traffic, events).await?,
        Plan::Restart(traffic, events) => restart::run(&lab, &traffic, events).await?,
        Plan::Tenants(traffic, tenants) => tenants::run(&lab, &traffic, tenants).await?,
        Plan::SlowStore(traffic, delay_ms) => slow_store::run(&lab, &traffic, delay_ms).await?,
        Plan::Cost(traffic, extent) => cost::run(&lab, &traffic, extent).await?,
        Plan::Memory(traffic) => memory::run(&lab, &traffic).await?,
        Plan::Hanging(traffic, destinations) => hanging::run(&lab, &traffic, destinations).await?,
        Plan::Parked(traffic, events) => parked::run(&lab, &traffic, events).await?,
        Plan::Rates(traffic, time) => rates::run(&lab, &traffic, time).await?,
        Plan::Plugin(subject) => plugin::run(&lab, &subject).await?,
    };
    let report = Report { machine, figures };
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        println!("{report}");
    }
    if faults.is_empty() { Ok(()) } else { Err(BenchError::Lost(faults.join("\n"))) }
}

/// A gateway in all roles on a store of its own. Killed and thrown away when dropped.
struct Site {
    gateway: Gateway,
    server: Option<RedisServer>,
}

impl Site {
    async fn start(lab: &Lab, traffic: &Traffic, store: Store) -> Result<Self, BenchError> {
        let Ground { server, planned } = Ground::prepare(lab, traffic, store, Tuning::default()).await?;
        Ok(Self { gateway: planned.start().await?.0, server })
    }
}

/// A store, and a gateway that does not run on it yet.
struct Ground {
    server: Option<RedisServer>,
    planned: Planned,
}

impl Ground {
    async fn prepare(lab: &Lab, traffic: &Traffic, store: Store, tuning: Tuning) -> Result<Self, BenchError> {
        let room = lab.room()?;
        let server = match store {
            Store::Redis => Some(RedisServer::start(&traffic.redis_server, &room.join("redis")).await?),
            Store::Embedded => None,
        };
        let backend = server.as_ref().map_or(Backend::Embedded, Backend::Redis);
        let planned = Planned::new(lab, &room, backend, "all", tuning)?;
        Ok(Self { server, planned })
    }
}

/// Figures, and why they don't count, if so.
type Findings = (Vec<Figure>, Vec<String>);

/// Of one process over all repetitions.
fn cpu_of(runs: &[Measured], process: &str) -> Spread {
    Spread::of(runs.iter().map(|run| run.cpu_us.get(process).copied().unwrap_or(f64::NAN)))
}

/// The median of several probes, and the slowest write of all.
fn middle(probes: &[Fsync]) -> Fsync {
    let median = Spread::of(probes.iter().map(|probe| probe.median)).median;
    let max = Spread::of(probes.iter().map(|probe| probe.max)).max;
    Fsync { median: rounded(median), max: rounded(max) }
}

/// What stands beside every figure of these runs.
#[allow(clippy::cast_precision_loss)]
fn details(what: String, runs: &[Measured]) -> Details {
    let median = |of: &dyn Fn(&Measured) -> f64| rounded(Spread::of(runs.iter().map(of)).median);
    let processes: BTreeSet<&'static str> = runs.iter().flat_map(|run| run.cpu_us.keys().copied()).collect();
    Details {
        what,
        repetitions: runs.len(),
        events: runs.iter().map(|run| run.sent.accepted).sum(),
        per_second: median(&|run| run.sent.accepted as f64 * 1e6 / run.sent.elapsed_us as f64),
        cpu_us: processes.into_iter().map(|process| (process, rounded(cpu_of(runs, process).median))).collect(),
        answer_ms: Some(Times {
            p50: median(&|run| run.sent.answer_p50_us as f64 / 1e3),
            p99: median(&|run| run.sent.answer_p99_us as f64 / 1e3),
        }),
        refused: runs.iter().map(|run| run.unclear).sum(),
        ..Details::default()
    }
}

/// Tells a person who waits what is going on.
fn progress(line: &str) {
    let _ = writeln!(std::io::stderr(), "bench: {line}");
}
