//! Tenants' WebAssembly: compiled apart, kept authenticated, run in a sandbox with a limit on everything.
//!
//! A component comes from [`Components`] or [`Runtime::inspect`]; it is screened, compiled in a child process that can be
//! killed, kept on disk as an artifact that only this node can have made, and linked against the host interfaces of `sdk/wit`.
//! Each event then gets a fresh instance on threads of the runtime's own, or one that its stage had before if that asks for it
//! ([`reuse`]). Every trap and every refusal has a name: see [`Stop`], [`Refusal`], and the table in [`limits`].
//!
//! This module knows events, and neither the store nor who dispatches.

mod artifact;
mod bindings;
pub mod build;
mod call;
pub mod compare;
mod compile;
mod cost;
mod engine;
mod error;
pub(crate) mod fuel;
mod host;
pub mod limits;
mod output;
pub mod poison;
mod pool;
pub mod reuse;
mod screen;
pub mod table;
mod versions;
mod visit;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

pub use call::{Call, Frame, Report};
pub use compile::COMPILER_WORD;
pub use compile::child::compiler_child;
pub use error::{CallError, LoadError, PluginError, Refusal, Stop};
pub use host::{Access, Secrets};
pub use limits::{CompileLimits, Limits};
use limits::{TABLE_BYTE_FUEL, TABLE_CALLS, TABLE_FUEL, TENANT_TABLE_CALLS};
pub use reuse::Reuse;
pub use screen::{Interface, Screen, screen};
pub use table::Table;
pub use visit::{Attempted, Judgement, Response, Verification};

use artifact::Artifacts;
use call::Ready;
use compile::Compiler;
use engine::Filling;
use fuel::{Fuel, Fuels};
use poison::Circuits;
use pool::{HAND_OFF, Pool, Size, Work};
use reuse::{Idle, IdleLimits};
use table::{NoTables, Overlay, Place, TableAnswer, Tables};
use versions::{CacheSize, Side, Version, Versions};

use crate::clock::Timestamp;
use crate::event::{EventId, Header, Request, Shard, SharedRequest, TenantId, VersionHash};
use crate::room::Room;

/// Where components come from.
#[async_trait]
pub trait Components: Send + Sync {
    /// The component with this hash; none if there is none.
    async fn fetch(&self, version: VersionHash) -> Result<Option<Bytes>, Box<dyn std::error::Error + Send + Sync>>;
}

/// How the runtime is set up.
#[derive(Clone, Debug)]
pub struct PluginConfig {
    /// Compiled artifacts and the key that authenticates them. Private to this node.
    pub directory: PathBuf,
    /// The program that is started with [`COMPILER_WORD`] to compile: the gateway's own binary.
    pub compiler: PathBuf,
    /// Threads for calls that are short on average.
    pub threads: usize,
    /// Threads for those that are not.
    pub long_threads: usize,
    /// Threads for calls that a sender or an attempt waits for: no other call ever takes them.
    pub gate_threads: usize,
    /// Calls that wait or run, in all.
    pub queue: usize,
    /// Calls that wait or run, of one tenant.
    pub tenant_queue: usize,
    /// Versions kept ready.
    pub cached_versions: usize,
    /// Bytes of compiled code kept ready.
    pub cached_bytes: u64,
    /// Instances that wait for another run of their stage, counted by their memories; with 0 none does.
    pub idle_instances: u32,
    /// Bytes of their memories and tables.
    pub idle_bytes: usize,
    /// How long one waits at the most.
    pub idle_time: Duration,
    /// Bytes of compiled code kept on disk.
    pub disk_bytes: u64,
    /// Compilers at work at once. One tenant has at most all but one of them.
    pub compilers: usize,
    /// What a component may be.
    pub compile: CompileLimits,
}

impl PluginConfig {
    /// The defaults for this machine, with the running program as the compiler.
    pub fn new(directory: PathBuf) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            directory,
            compiler: std::env::current_exe()?,
            threads: cores,
            long_threads: cores.div_ceil(2),
            gate_threads: cores.div_ceil(2),
            queue: 4096,
            tenant_queue: 64,
            cached_versions: 16_384,
            cached_bytes: 256 << 20,
            idle_instances: 64,
            idle_bytes: 64 << 20,
            idle_time: Duration::from_secs(60),
            disk_bytes: 8 << 30,
            compilers: cores.div_ceil(2).max(2),
            compile: CompileLimits::default(),
        })
    }
}

impl PluginConfig {
    /// Threads of all kinds, and as many calls as give way to others while they run: so many plugins may run at once.
    pub fn all_threads(&self) -> usize {
        let (threads, gate_threads) = (self.threads.max(1), self.gate_threads.max(1));
        let giving_way = pool::may_give_way(threads) + pool::may_give_way(gate_threads);
        threads + self.long_threads.max(1) + 2 * gate_threads + giving_way
    }
}

/// What [`Runtime::inspect`] found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// The component's hash.
    pub version: VersionHash,
    /// The component's size.
    pub bytes: u64,
    /// The compiled artifact's size.
    pub artifact_bytes: u64,
    /// Fuel that an instantiation costs, before any call.
    pub fuel: u64,
    /// Memory that an instance begins with.
    pub memory: u64,
    /// Imports, exports and counts.
    pub screen: Screen,
}

/// The engine that a component runs in, with room for `slots` instances at once: for measuring what a bare call of it costs.
pub(crate) fn bare_engine(component: &[u8], slots: u32) -> wasmtime::Result<wasmtime::Engine> {
    let engine = engine::runtime(filling_of(component)?, slots, 0)?;
    engine::start_epochs([&engine])?;
    Ok(engine)
}

fn filling_of(component: &[u8]) -> Result<Filling, Refusal> {
    screen(component, &CompileLimits::default()).map(|screen| Filling::of(screen.data))
}

/// Keeps the artifact of `component` for `copies` too: the same component but for custom sections, which the compiler leaves out. That it
/// does is shown with one `copy`. For benchmarks, which have no time for ten thousand compilations.
pub(crate) async fn stock(
    config: &PluginConfig,
    component: &Bytes,
    copy: &Bytes,
    copies: Vec<VersionHash>,
) -> Result<(), LoadError> {
    let fault = |error: &dyn std::fmt::Display| LoadError::Gateway(error.to_string());
    let compiler = Compiler::new(config.compiler.clone(), config.compile.clone(), 1);
    let filling = filling_of(component)?;
    let turn = compiler.turn(TenantId(0), VersionHash::of(component)).await;
    let artifact = compiler.compile(&turn, component, filling).await?;
    if compiler.compile(&turn, copy, filling).await? != artifact {
        return Err(LoadError::Gateway("a custom section changes what the compiler makes of a component".into()));
    }
    let (directory, max_bytes, max_total) = (config.directory.clone(), config.compile.artifact_bytes as u64, config.disk_bytes);
    let keep = move || -> Result<(), PluginError> {
        let engine = engine::runtime(filling, 1, 0).map_err(|error| PluginError::Engine(format!("{error:#}")))?;
        let artifacts = Artifacts::open(&directory, &engine, max_bytes, max_total)?;
        let kept = artifacts.store_all(&copies, &artifact);
        kept.map_err(|source| PluginError::Directory { path: directory.display().to_string(), source })
    };
    let kept = tokio::task::spawn_blocking(keep).await.map_err(|error| fault(&error))?;
    kept.map_err(|error| fault(&error))
}

/// Runs plugins. Clones share everything; the threads end with the last one.
#[derive(Clone)]
pub struct Runtime(Arc<Inner>);

struct Inner {
    versions: Versions,
    idle: Arc<Idle>,
    pool: Pool,
    /// For what a sender or an attempt waits for.
    gate: Pool,
    tables: Arc<dyn Tables>,
    /// Of calls that use them.
    table_turns: Room,
    circuits: Circuits,
    fuels: Fuels,
    /// Who has used up its fuel, in which shards of this node.
    fuel_waits: Mutex<BTreeMap<Shard, Vec<TenantId>>>,
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

impl Runtime {
    /// A runtime whose plugins have no tables.
    pub fn start(config: PluginConfig, components: Arc<dyn Components>) -> Result<Self, PluginError> {
        Self::with_tables(config, components, Arc::new(NoTables))
    }

    /// Sets up the engine, the artifacts' directory and the threads.
    pub fn with_tables(
        config: PluginConfig,
        components: Arc<dyn Components>,
        tables: Arc<dyn Tables>,
    ) -> Result<Self, PluginError> {
        let fault = |error: wasmtime::Error| PluginError::Engine(format!("{error:#}"));
        let threads = config.all_threads();
        let slots = u32::try_from(threads).unwrap_or(u32::MAX);
        let limits = IdleLimits { instances: config.idle_instances, bytes: config.idle_bytes, time: config.idle_time };
        let idle = Idle::start(limits);
        let side = |filling| -> Result<Side, PluginError> {
            let engine = engine::runtime(filling, slots, config.idle_instances).map_err(fault)?;
            let linker = host::linker(&engine).map_err(fault)?;
            let artifacts = Artifacts::open(&config.directory, &engine, config.compile.artifact_bytes as u64, config.disk_bytes)?;
            Ok(Side { filling, engine, linker, artifacts: Arc::new(artifacts), idle: Arc::clone(&idle) })
        };
        let sides = [side(Filling::Copied)?, side(Filling::Mapped)?];
        engine::start_epochs(sides.iter().map(|side| &side.engine)).map_err(PluginError::Thread)?;
        let compiler = Compiler::new(config.compiler, config.compile.clone(), config.compilers.max(1));
        let size = CacheSize { versions: config.cached_versions.max(1), bytes: config.cached_bytes };
        let screens = config.compilers.max(1);
        let versions = Versions::new(sides, compiler, config.compile, screens, components, size);
        let pool = |threads: usize, long_threads: usize, least: Duration| {
            let (queue, tenant_queue) = (config.queue.max(1), config.tenant_queue.max(1));
            let size = Size {
                threads: threads.max(1),
                long_threads: long_threads.max(1),
                queue,
                tenant_queue,
                least_us: u64::try_from(least.as_micros()).unwrap_or(u64::MAX),
            };
            Pool::start(size).map_err(PluginError::Thread)
        };
        // Somebody waits for each call at the gate, and nothing is known of a version that has not run yet.
        let gate = pool(config.gate_threads, config.gate_threads, HAND_OFF)?;
        let pool = pool(config.threads, config.long_threads, Duration::ZERO)?;
        Ok(Self(Arc::new(Inner {
            versions,
            idle,
            pool,
            gate,
            tables,
            table_turns: Room::new(TABLE_CALLS, TENANT_TABLE_CALLS),
            circuits: Circuits::default(),
            fuels: Fuels::default(),
            fuel_waits: Mutex::default(),
        })))
    }

    /// How many instances wait for another run of their stage, and the bytes of their memories and tables.
    pub fn idle_instances(&self) -> (usize, usize) {
        self.0.idle.waiting()
    }

    /// Which versions are poisoned on this node. Who runs them tells how they ended.
    pub fn circuits(&self) -> &Circuits {
        &self.0.circuits
    }

    /// What tenants in a shard may use of fuel, as this node sees it.
    pub(crate) fn fuel(&self, shard: Shard) -> Fuel {
        self.0.fuels.of(shard)
    }

    /// The same for whoever owns the shard from now on.
    pub(crate) fn own_fuel(&self, shard: Shard) -> Fuel {
        self.0.fuels.afresh(shard)
    }

    /// Notes whose events wait for fuel in a shard of this node.
    pub fn set_fuel_waits(&self, shard: Shard, tenants: Vec<TenantId>) {
        let mut waits = self.0.fuel_waits.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants.is_empty() {
            waits.remove(&shard);
        } else {
            waits.insert(shard, tenants);
        }
    }

    /// Whose events wait for fuel on this node.
    pub fn fuel_waits(&self) -> Vec<TenantId> {
        let waits = self.0.fuel_waits.lock().unwrap_or_else(PoisonError::into_inner);
        waits.values().flatten().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// A dry run of a component: screened, compiled, linked, instantiated with the default limits. What it compiles is kept, so
    /// that the first event does not wait for it.
    pub async fn inspect(&self, component: Bytes) -> Result<Inspection, LoadError> {
        self.inspect_for(TenantId(0), component).await
    }

    /// The same for a tenant: it waits for its turn at the compilers.
    pub async fn inspect_for(&self, tenant: TenantId, component: Bytes) -> Result<Inspection, LoadError> {
        let bytes = component.len() as u64;
        let (screen, hash, version) = self.0.versions.inspect(tenant, component).await?;
        let artifact_bytes = version.bytes;
        let call = Call {
            tenant,
            version: hash,
            event: EventId(0),
            accepted_at: Timestamp(0),
            request: SharedRequest::Made(Arc::default()),
            config: "{}".into(),
            secrets: Arc::default(),
            limits: Limits::default(),
            table: Table::default(),
            reuse: None,
        };
        let (report, _) = self.run(&self.0.pool, version, call, call::instantiate).await;
        match report.result {
            Ok(()) => {}
            Err(CallError::Stopped(stop)) => return Err(Refusal::Instantiation(format!("it {stop}")).into()),
            Err(CallError::Load(error)) => return Err(error),
            Err(error) => return Err(LoadError::Gateway(error.to_string())),
        }
        Ok(Inspection { version: hash, bytes, artifact_bytes, fuel: report.run.fuel, memory: report.run.memory, screen })
    }

    /// Asks a filter whether an event goes on.
    pub async fn filter(&self, call: Call) -> Report<bool> {
        self.call(call, call::filter).await
    }

    /// Asks a transform for the requests to send.
    pub async fn transform(&self, call: Call) -> Report<Vec<Request>> {
        self.call(call, call::transform).await
    }

    /// Asks whether a request that came in is its sender's. `call.event` seeds the random numbers; there is no event yet.
    pub async fn verify(&self, call: Call) -> Report<Verification> {
        self.at(&self.0.gate, call, visit::verify).await
    }

    /// Asks for an answer to a request that came in; none if it is an event like any other.
    pub async fn respond(&self, call: Call) -> Report<Option<Response>> {
        self.at(&self.0.gate, call, visit::respond).await
    }

    /// Asks for the headers that sign an attempt, of which `call.request` is what goes out.
    pub async fn sign(&self, call: Call, attempt: Attempted) -> Report<Vec<Header>> {
        self.at(&self.0.gate, call, move |ready: &Ready, call: &Call| visit::sign(ready, call, &attempt)).await
    }

    /// Asks what a destination's answer to an attempt means.
    pub async fn judge(&self, call: Call, attempt: Attempted, answer: Response) -> Report<Judgement> {
        self.at(&self.0.gate, call, move |ready: &Ready, call: &Call| visit::judge(ready, call, &attempt, &answer)).await
    }

    async fn call<T: Send + 'static>(&self, call: Call, ask: fn(&Ready, &Call) -> Report<T>) -> Report<T> {
        match call.table.place {
            Some(place) => self.answering(place, call, ask).await,
            None => self.at(&self.0.pool, call, ask).await,
        }
    }

    /// Runs a call again with each answer that it was stopped for. It counts as one run, with the fuel and the time of all. What a guest asks
    /// may depend on what it finds in its memory: so whatever runs again does so in a fresh instance, and what was asked in another one is
    /// not put to the table.
    async fn answering<T: Send + 'static>(&self, place: Place, mut call: Call, ask: fn(&Ready, &Call) -> Report<T>) -> Report<T> {
        let mut overlay = Overlay::default();
        let (mut fuel, mut took_us, mut beside) = (0u64, 0u64, 0u64);
        // From the first question on, so that answers of a few calls alone are held.
        let mut turn = None;
        loop {
            let (mut report, back) = self.lend(&self.0.pool, call, ask).await;
            fuel = fuel.saturating_add(report.run.fuel);
            took_us = took_us.saturating_add(report.run.took_us);
            beside = beside.saturating_add(report.beside);
            let Some((op, asking)) = report.asked.take().zip(back) else {
                (report.run.fuel, report.run.took_us) = (fuel, took_us);
                return Report { beside, ..report };
            };
            call = Call { reuse: None, ..asking };
            if report.reused {
                continue;
            }
            if turn.is_none() {
                turn = Some(self.0.table_turns.take(call.tenant).await);
            }
            let number = u32::try_from(call.table.answers.len()).unwrap_or(u32::MAX);
            let tables = &*self.0.tables;
            let answer =
                if call.table.trial { overlay.ask(tables, &place, &op).await } else { tables.ask(&place, number, &op).await };
            match answer {
                Ok(answer) => {
                    let bytes = op.bytes().saturating_add(answer.as_ref().map_or(0, TableAnswer::bytes)) as u64;
                    beside = beside.saturating_add(TABLE_FUEL + bytes.saturating_mul(TABLE_BYTE_FUEL));
                    Arc::make_mut(&mut call.table.answers).push((op, answer));
                }
                Err(error) => {
                    let mut failed = call::failed(call.version, CallError::Table(error.to_string()));
                    (failed.run.fuel, failed.run.took_us, failed.beside) = (fuel, took_us, beside);
                    return failed;
                }
            }
        }
    }

    async fn at<T: Send + 'static>(
        &self,
        pool: &Pool,
        call: Call,
        ask: impl FnOnce(&Ready, &Call) -> Report<T> + Send + 'static,
    ) -> Report<T> {
        self.lend(pool, call, ask).await.0
    }

    /// Gives the call back too, if it ran.
    async fn lend<T: Send + 'static>(
        &self,
        pool: &Pool,
        call: Call,
        ask: impl FnOnce(&Ready, &Call) -> Report<T> + Send + 'static,
    ) -> (Report<T>, Option<Call>) {
        match self.0.versions.get(call.tenant, call.version).await {
            Ok(version) => self.run(pool, version, call, ask).await,
            Err(error) => (call::failed(call.version, error.into()), None),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        pool: &Pool,
        version: Arc<Version>,
        call: Call,
        ask: impl FnOnce(&Ready, &Call) -> Report<T> + Send + 'static,
    ) -> (Report<T>, Option<Call>) {
        let (done, ran) = oneshot::channel();
        let (tenant, hash, cost) = (call.tenant, call.version, version.ready.costs.of(call.tenant));
        let asked = Asked { version, call, ask: Some(ask), done, report: None };
        pool.submit(tenant, cost, Box::new(asked)).await;
        match ran.await {
            Ok((report, call)) => (report, Some(call)),
            Err(_) => (call::failed(hash, CallError::Gateway("the thread that ran it panicked".into())), None),
        }
    }
}

/// A call on its way through the pool.
struct Asked<T, A> {
    version: Arc<Version>,
    call: Call,
    ask: Option<A>,
    done: oneshot::Sender<(Report<T>, Call)>,
    report: Option<Report<T>>,
}

impl<T: Send, A: FnOnce(&Ready, &Call) -> Report<T> + Send> Work for Asked<T, A> {
    fn run(&mut self) {
        // Who gave up waiting is not worth the work.
        let Some(ask) = self.ask.take().filter(|_| !self.done.is_closed()) else { return };
        self.report = Some(ask(&self.version.ready, &self.call));
    }

    fn tell(self: Box<Self>) {
        let Self { done, report, call, .. } = *self;
        if let Some(report) = report {
            let _ = done.send((report, call));
        }
    }
}
