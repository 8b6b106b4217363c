//! `tidegate bench`: what the gateway costs, beside what the same work costs without it, measured in the same run.
//!
//! Everything runs in processes of its own (gateway, load, receiver, floor: this binary; Redis: its own server), so that the
//! system's accounting tells their CPU apart. All of it listens on loopback, lives in one temporary directory, and ends with this
//! process. A repetition measures floor and gateway one after the other, each started afresh, with the same runtime threads,
//! connections and body; figures are medians over the repetitions.
//!
//! The load is a closed loop: each connection sends its next request when it has its answer. That is right for CPU per event and
//! for rates; its latencies are those of a full queue and stand there for information only. `latency`, `noisy` and `slow-store` send at fixed moments
//! instead.
//!
//! Nothing counts unless it arrives: what the gateway answered with 202 and what the receiver logged are compared as sets of
//! delivery ids, and a missing one fails the run.

mod attack;
mod body;
mod cage;
mod cases;
mod cpu;
mod error;
mod estate;
mod floor;
mod gateway;
mod http;
mod lab;
mod load;
mod machine;
mod outcome;
mod part;
mod proxy;
mod receiver;
mod redis_server;
mod report;
mod statistics;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

pub use error::BenchError;

/// Measures this gateway on this machine.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    case: Case,
}

#[derive(Debug, Subcommand)]
enum Case {
    /// What it costs to accept an event: gateway CPU against a bare server that reads the same body and answers 202.
    Accept(TrafficOptions),
    /// What it costs to accept, transform and deliver an event, and how many a second arrive.
    Deliver(DeliverOptions),
    /// How long an event takes from its sender to its receiver, at half of the load that the machine carries.
    Latency(TrafficOptions),
    /// What a hundred quiet tenants feel of one that floods and of one whose destination hangs.
    Noisy(TrafficOptions),
    /// What quiet tenants feel of others whose plugins use up all that they may, and whose uploads are dear to compile.
    Hostile(TrafficOptions),
    /// What many queued events cost in memory, and what everybody else feels of them while they wait and drain.
    Backlog(BacklogOptions),
    /// How long it takes from the kill of a gateway to the first delivery of the next, with many events queued.
    Restart(BacklogOptions),
    /// What very many tenants cost, each with a plugin version of its own: time to start, memory, and each event.
    Tenants(TenantsOptions),
    /// What a store that becomes slow for a while does to those inside their plans and to those over them.
    SlowStore(SlowStoreOptions),
    /// Whether an event costs the same with an empty queue and a long one, with one destination and very many.
    Cost(CostOptions),
    /// What the gateway takes of memory at most through a day's shapes of load, against what its limits promise.
    Memory(TrafficOptions),
    /// What the other destinations feel of one that hangs.
    Hanging(HangingOptions),
    /// What very many deliveries that wait for one destination take of the gateway's memory.
    Parked(ParkedOptions),
    /// Whether destinations' rates hold through a minute of more than they allow, and how much of them is used, by one gateway and by two.
    Rates(TrafficOptions),
    /// What one call of a plugin costs in the sandbox: against a bare wasmtime call of the same component.
    Plugin(PluginOptions),
    /// One end of a measurement: sends requests.
    #[command(hide = true)]
    Load(load::LoadArgs),
    /// One end of a measurement: takes deliveries.
    #[command(hide = true)]
    Receiver,
    /// Between the gateway and its store: passes on, later.
    #[command(hide = true)]
    Proxy(proxy::ProxyArgs),
    /// What the gateway is compared with.
    #[command(hide = true)]
    Floor(floor::FloorArgs),
}

#[derive(Clone, Debug, Args)]
struct Options {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// One short repetition: shows that everything works and nothing is lost; its figures say little.
    #[arg(long)]
    short: bool,
    /// How long each measurement sends, in seconds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600), conflicts_with = "short")]
    seconds: Option<u64>,
    /// How often each measurement is repeated.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100), conflicts_with = "short")]
    repetitions: Option<u32>,
    /// Where the stores keep their data meanwhile; a directory is made there and removed. A disk that you care about, not tmpfs.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What goes through a gateway, and what it stands on.
#[derive(Clone, Debug, Args)]
struct Traffic {
    /// Which stores to measure.
    #[arg(long, value_enum, default_value_t = Stores::Both)]
    store: Stores,
    /// Connections that send, and that the floor forwards on.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// The Redis or Valkey server to start.
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,
}

#[derive(Clone, Debug, Args)]
struct TrafficOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    traffic: Traffic,
}

#[derive(Clone, Debug, Args)]
struct DeliverOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    traffic: Traffic,
    /// Whether a plugin stands in the path.
    #[arg(long, value_enum, default_value_t = PluginChoice::Both)]
    plugin: PluginChoice,
}

/// Events of a backlog unless told otherwise.
const BACKLOG: u64 = 1_000_000;
/// In the short form.
const SHORT_BACKLOG: u64 = 1_000;

#[derive(Clone, Debug, Args)]
struct BacklogOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    traffic: Traffic,
    /// How many events are to be queued, at least; one million unless the run is short.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: Option<u64>,
}

impl BacklogOptions {
    fn events(&self) -> u64 {
        self.events.unwrap_or(if self.options.short { SHORT_BACKLOG } else { BACKLOG })
    }
}

/// Tenants unless told otherwise.
const TENANTS: u32 = 10_000;
/// In the short form.
const SHORT_TENANTS: u32 = 40;

#[derive(Clone, Debug, Args)]
struct TenantsOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    traffic: Traffic,
    /// How many tenants; ten thousand unless the run is short. Each takes 0.7 MB of the disk.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tenants: Option<u32>,
}

#[derive(Clone, Debug, Args)]
struct SlowStoreOptions {
    #[command(flatten)]
    options: Options,
    /// Connections of each load.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// The Redis or Valkey server to start.
    #[arg(long, default_value = "redis-server")]
    redis_server: PathBuf,
    /// For how long each answer of the store is held back, in milliseconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    delay_ms: u32,
}

/// Destinations unless told otherwise.
const DESTINATIONS: u32 = 100_000;
/// In the short form.
const SHORT_DESTINATIONS: u32 = 60;

#[derive(Clone, Debug, Args)]
struct CostOptions {
    #[command(flatten)]
    backlog: BacklogOptions,
    /// How many destinations; a hundred thousand unless the run is short.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    destinations: Option<u32>,
}

/// Destinations of `hanging` unless told otherwise.
const FELLOWS: u32 = 1_000;

#[derive(Clone, Debug, Args)]
struct HangingOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    traffic: Traffic,
    /// How many destinations, the one that hangs included; a thousand unless the run is short.
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..=100_000))]
    destinations: Option<u32>,
}

/// Deliveries of `parked` unless told otherwise.
const PARKED: u64 = 100_000;

#[derive(Clone, Debug, Args)]
struct ParkedOptions {
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    traffic: Traffic,
    /// How many deliveries are to wait, at least; a hundred thousand unless the run is short.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    events: Option<u64>,
}

/// How long `rates` sends unless told otherwise: the longer window that it looks at.
const RATES: Duration = Duration::from_secs(60);
/// In the short form.
const SHORT_RATES: Duration = Duration::from_secs(3);

#[derive(Clone, Debug, Args)]
struct PluginOptions {
    #[command(flatten)]
    options: Options,
    /// The transform to call: a component. Default: the first-party one that makes a chat message of a GitHub push
    component: Option<PathBuf>,
    /// Its configuration, a JSON text
    #[arg(long, default_value = "{}", value_name = "JSON")]
    config: String,
    /// The event's body. Default: a GitHub push of 1 KB
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Stores {
    Embedded,
    Redis,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum PluginChoice {
    /// Events are forwarded as they are.
    None,
    /// The first-party transform that makes a chat message of a GitHub push.
    Transform,
    Both,
}

/// Runs a case, or one of its parts. Makes its own runtime, so it must not be called from a task.
///
/// # Errors
/// When something could not be started or measured, and when an accepted event did not arrive.
pub fn run(args: BenchArgs) -> Result<(), BenchError> {
    match args.case {
        Case::Accept(TrafficOptions { options, traffic }) => cases::run(&options, cases::Plan::Accept(traffic)),
        Case::Deliver(DeliverOptions { options, traffic, plugin }) => cases::run(&options, cases::Plan::Deliver(traffic, plugin)),
        Case::Latency(TrafficOptions { options, traffic }) => cases::run(&options, cases::Plan::Latency(traffic)),
        Case::Noisy(TrafficOptions { options, traffic }) => cases::run(&options, cases::Plan::Noisy(traffic)),
        Case::Hostile(TrafficOptions { options, traffic }) => cases::run(&options, cases::Plan::Hostile(traffic)),
        Case::Backlog(backlog) => {
            let events = backlog.events();
            cases::run(&backlog.options, cases::Plan::Backlog(backlog.traffic, events))
        }
        Case::Restart(backlog) => {
            let events = backlog.events();
            cases::run(&backlog.options, cases::Plan::Restart(backlog.traffic, events))
        }
        Case::Tenants(TenantsOptions { options, traffic, tenants }) => {
            let tenants = tenants.unwrap_or(if options.short { SHORT_TENANTS } else { TENANTS });
            cases::run(&options, cases::Plan::Tenants(traffic, tenants as usize))
        }
        Case::SlowStore(SlowStoreOptions { options, connections, redis_server, delay_ms }) => {
            let traffic = Traffic { store: Stores::Redis, connections, redis_server };
            cases::run(&options, cases::Plan::SlowStore(traffic, delay_ms))
        }
        Case::Cost(CostOptions { backlog, destinations }) => {
            let default = if backlog.options.short { SHORT_DESTINATIONS } else { DESTINATIONS };
            let destinations = destinations.unwrap_or(default) as usize;
            let tenants = if backlog.options.short { SHORT_TENANTS } else { TENANTS } as usize;
            let extent = cases::Extent { events: backlog.events(), tenants, destinations };
            cases::run(&backlog.options, cases::Plan::Cost(backlog.traffic, extent))
        }
        Case::Memory(TrafficOptions { options, traffic }) => cases::run(&options, cases::Plan::Memory(traffic)),
        Case::Hanging(HangingOptions { options, traffic, destinations }) => {
            let destinations = destinations.unwrap_or(if options.short { SHORT_DESTINATIONS } else { FELLOWS }) as usize;
            cases::run(&options, cases::Plan::Hanging(traffic, destinations))
        }
        Case::Parked(ParkedOptions { options, traffic, events }) => {
            let events = events.unwrap_or(if options.short { SHORT_BACKLOG } else { PARKED });
            cases::run(&options, cases::Plan::Parked(traffic, events))
        }
        Case::Rates(TrafficOptions { options, traffic }) => {
            let time = options.seconds.map_or(if options.short { SHORT_RATES } else { RATES }, Duration::from_secs);
            cases::run(&options, cases::Plan::Rates(traffic, time))
        }
        Case::Plugin(PluginOptions { options, component, config, body }) => {
            cases::run(&options, cases::Plan::Plugin(cases::Subject { component, config, body }))
        }
        Case::Load(args) => load::run(&args),
        Case::Receiver => receiver::run(),
        Case::Proxy(args) => proxy::run(&args),
        Case::Floor(args) => floor::run(&args),
    }
}
