//! Whether an event's plugins may run now: their tenant needs fuel ([`crate::plugin::fuel`]), and their versions must not be poisoned
//! ([`crate::plugin::poison`]). What has to wait is parked in the store, one connection of it at a time, and costs neither memory nor
//! an attempt; the event's other connections go on.
//!
//! Newcomers go behind what waits already. A queue is served as the bucket fills, or with one event for each try of a poisoned version.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::wait::Wait;
use super::window::Windows;
use super::{Shared, admission};
use crate::clock::Timestamp;
use crate::control::snapshot::{Connection, OnPoisoned, Snapshot, Stage, StageKind};
use crate::event::{Failure, Party, PluginRun, Shard, TenantId, VersionHash};
use crate::plugin::CallError;
use crate::plugin::fuel::{Fuel, Reserved};
use crate::plugin::poison::{Place, Standing, Stopped};
use crate::store::QueueKey;
use crate::telemetry::metrics::PluginWait;

/// What one shard knows of plugins that wait. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Gates {
    pub(super) fuel: Fuel,
    shard: Shard,
    /// Queues that hold what the gate held up.
    waiting: Arc<Mutex<HashSet<QueueKey>>>,
}

/// What a piece of work was let out of its queue with.
#[derive(Debug, Default)]
pub(super) enum Pass {
    /// Nothing.
    #[default]
    None,
    /// Fuel that is set aside for it.
    Fuel { _reserved: Reserved },
    /// It is there to try a poisoned version out.
    Try,
    /// Its attempt may begin.
    Turn(admission::Turn),
}

/// The gate for one piece of work.
pub(super) struct Gate<'a> {
    pub(super) shared: &'a Shared,
    pub(super) gates: &'a Gates,
    pub(super) windows: &'a Windows,
    /// What the work waited for before.
    pub(super) wait: Wait,
    /// Whether it is the first of its line: it keeps that place, and goes behind nothing else.
    pub(super) in_line: bool,
    pub(super) pass: &'a Pass,
    pub(super) tenant: TenantId,
    pub(super) since: Timestamp,
}

/// A chain of plugins does not run, or not to its end.
#[derive(Debug)]
pub(super) enum Stay {
    /// It waits in this queue for this.
    In(QueueKey, Wait),
    /// It never runs.
    Out(Failure),
}

/// What a stage does.
#[derive(Debug)]
pub(super) enum Turn {
    /// It runs.
    Run(Run),
    /// It is left out.
    PassThrough,
    /// It holds its event up, or ends it.
    Stay(Stay),
}

/// What a stage runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) version: VersionHash,
    pub(super) kind: StageKind,
    /// Whether a poisoned version is tried out.
    pub(super) is_try: bool,
}

impl Gates {
    pub(super) fn new(shard: Shard, fuel: Fuel) -> Self {
        Self { fuel, shard, waiting: Arc::default() }
    }

    /// Notes that something waits in a queue, if it is one of the gate's.
    pub(super) fn found(&self, shared: &Shared, queue: QueueKey) {
        if matches!(queue, QueueKey::Plugins(_) | QueueKey::Connection(..)) && self.waiting().insert(queue) {
            self.tell(shared);
        }
    }

    /// Fuel a second, unless the plan allows no plugins.
    pub(super) fn rate(&self, shared: &Shared, tenant: TenantId) -> Result<u64, Stay> {
        match rate(&shared.snapshots.load(), tenant) {
            0 => Err(Stay::Out(Failure {
                party: Party::Gateway,
                code: "plugins_forbidden".into(),
                detail: "the tenant's plan allows no plugins: plan.plugin_fuel is 0".into(),
                retryable: false,
            })),
            rate => Ok(rate),
        }
    }

    /// Fuel for what is about to run, behind what waits for it already.
    pub(super) fn begin(
        &self,
        shared: &Shared,
        windows: &Windows,
        (tenant, rate): (TenantId, u64),
        wait: Wait,
    ) -> Result<Reserved, Stay> {
        let own = QueueKey::Plugins(tenant);
        let is_behind = wait != Wait::PluginFuel && windows.is_waiting(own);
        let reserved = if is_behind { None } else { self.fuel.begin(tenant, rate, shared.clock.now()) };
        reserved.ok_or(Stay::In(own, Wait::PluginFuel))
    }

    /// Notes that work waits there, so that newcomers go behind it.
    pub(super) fn park(&self, shared: &Shared, windows: &Windows, (queue, wait): (QueueKey, Wait), since: Timestamp) {
        windows.park(queue, since);
        self.found(shared, queue);
        let reason = if wait == Wait::PluginFuel { PluginWait::Fuel } else { PluginWait::Poisoned };
        shared.metrics.plugin_waits(reason);
    }

    /// How many chains of the tenant may leave its queue now.
    pub(super) fn chains(&self, snapshot: &Snapshot, tenant: TenantId, now: Timestamp) -> usize {
        match rate(snapshot, tenant) {
            0 => usize::MAX,
            rate => self.fuel.chains(tenant, rate, now),
        }
    }

    /// What a piece of work leaves its queue with.
    pub(super) fn pass(&self, shared: &Shared, snapshot: &Snapshot, queue: QueueKey, now: Timestamp) -> Pass {
        match queue {
            QueueKey::Plugins(tenant) => Pass::Fuel { _reserved: self.fuel.begin_anyway(tenant, rate(snapshot, tenant), now) },
            QueueKey::Connection(_, connection) => {
                let Some(connection) = snapshot.connections.get(&connection) else { return Pass::None };
                let mut is_try = false;
                for place in held(connection) {
                    if shared.plugins.circuits().standing(&place, now) == Standing::Due {
                        shared.plugins.circuits().try_out(&place, now);
                        is_try = true;
                    }
                }
                if is_try { Pass::Try } else { Pass::None }
            }
            _ => Pass::None,
        }
    }

    /// In how long the next of what waits may go on, as far as the gate is asked. None if nothing waits.
    pub(super) fn ready_in(&self, shared: &Shared, windows: &Windows) -> Option<Duration> {
        if self.waiting().is_empty() {
            return None;
        }
        let (snapshot, now) = (shared.snapshots.load(), shared.clock.now());
        let mut waiting = self.waiting();
        let before = waiting.len();
        waiting.retain(|queue| windows.is_waiting(*queue));
        let ready = waiting.iter().map(|queue| match queue {
            QueueKey::Plugins(tenant) => match rate(&snapshot, *tenant) {
                0 => Duration::ZERO,
                rate => self.fuel.ready_in(*tenant, rate, now),
            },
            QueueKey::Connection(_, connection) => match snapshot.connections.get(connection).map(|one| poisoned(shared, one, now))
            {
                Some(Standing::Poisoned(next)) => next.since(now),
                _ => Duration::ZERO,
            },
            _ => Duration::MAX,
        });
        let ready = ready.min();
        let is_less = waiting.len() < before;
        drop(waiting);
        if is_less {
            self.tell(shared);
        }
        ready
    }

    fn tell(&self, shared: &Shared) {
        let waiting = self.waiting();
        let tenants: Vec<_> =
            waiting.iter().filter(|queue| matches!(queue, QueueKey::Plugins(_))).map(|queue| queue.tenant()).collect();
        shared.metrics.plugin_fuel_waits(self.shard, tenants.len());
        shared.plugins.set_fuel_waits(self.shard, tenants);
    }

    fn waiting(&self) -> MutexGuard<'_, HashSet<QueueKey>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many events of a connection may leave its queue now: all, or one to try its plugin out.
pub(super) fn tries(shared: &Shared, connection: &Connection, now: Timestamp) -> usize {
    match poisoned(shared, connection, now) {
        Standing::Sound => usize::MAX,
        Standing::Due => 1,
        Standing::Poisoned(_) => 0,
    }
}

/// How the stages stand that hold events while they are poisoned.
fn poisoned(shared: &Shared, connection: &Connection, now: Timestamp) -> Standing {
    let standing = held(connection).map(|place| shared.plugins.circuits().standing(&place, now));
    standing.fold(Standing::Sound, |worst, one| match (worst, one) {
        (Standing::Poisoned(a), Standing::Poisoned(b)) => Standing::Poisoned(a.max(b)),
        (Standing::Poisoned(_), _) | (Standing::Due, Standing::Sound) => worst,
        _ => one,
    })
}

fn held(connection: &Connection) -> impl Iterator<Item = Place> + '_ {
    let stages = connection.chain.iter().enumerate().filter(|(_, stage)| stage.on_poisoned == OnPoisoned::Hold);
    stages.map(|(position, stage)| place(connection, position, stage.version))
}

fn place(connection: &Connection, stage: usize, version: VersionHash) -> Place {
    Place { tenant: connection.tenant, connection: connection.id, stage, version }
}

/// Fuel a second of a tenant in one shard.
pub(super) fn rate(snapshot: &Snapshot, tenant: TenantId) -> u64 {
    snapshot.tenants.get(&tenant).map_or(1, |tenant| tenant.plan.plugin_fuel.div_ceil(tenant.shards.count() as u64))
}

impl Gate<'_> {
    /// Asks for a chain: fuel for it, unless it has to wait.
    pub(super) fn enter(&self, connection: &Connection) -> Result<Option<Reserved>, Stay> {
        let rate = self.gates.rate(self.shared, self.tenant)?;
        let poisoned = QueueKey::Connection(self.tenant, connection.id);
        if self.goes_behind(Wait::PluginPoisoned) && self.windows.is_waiting(poisoned) {
            return Err(Stay::In(poisoned, Wait::PluginPoisoned));
        }
        if matches!(self.pass, Pass::Fuel { .. }) {
            return Ok(None);
        }
        let wait = if self.in_line { Wait::PluginFuel } else { self.wait };
        self.gates.begin(self.shared, self.windows, (self.tenant, rate), wait).map(Some)
    }

    /// Whether newcomers go behind what waits for this already, and the work is one.
    pub(super) fn goes_behind(&self, wait: Wait) -> bool {
        self.wait != wait && !self.in_line
    }

    /// Learns from a chain that ended.
    pub(super) fn learn(&self, price: u64) {
        self.gates.fuel.learn(self.tenant, price);
    }

    /// Pays for a run.
    pub(super) fn pay(&self, price: u64) {
        let rate = rate(&self.shared.snapshots.load(), self.tenant);
        self.gates.fuel.pay(self.tenant, rate, price, self.shared.clock.now());
    }

    /// What a stage does that would run this version, the one that its event is pinned to. If that one is poisoned, the version that the
    /// connection names by now takes its place.
    pub(super) fn turn(&self, connection: &Connection, position: usize, pinned: (VersionHash, StageKind)) -> Turn {
        let stage = &connection.chain[position];
        let circuits = self.shared.plugins.circuits();
        let now = self.shared.clock.now();
        for (version, kind) in [pinned, (stage.version, stage.kind)] {
            let place = place(connection, position, version);
            let is_try = match circuits.standing(&place, now) {
                Standing::Sound => false,
                Standing::Due if version == stage.version => {
                    circuits.try_out(&place, now);
                    true
                }
                Standing::Poisoned(_) if version == stage.version && matches!(self.pass, Pass::Try) => true,
                _ => continue,
            };
            return Turn::Run(Run { version, kind, is_try });
        }
        match stage.on_poisoned {
            OnPoisoned::Hold => Turn::Stay(self.hold(connection)),
            OnPoisoned::PassThrough => Turn::PassThrough,
            OnPoisoned::DeadLetter => Turn::Stay(Stay::Out(Failure {
                party: Party::Plugin,
                code: Wait::PluginPoisoned.as_str().into(),
                detail: format!("plugin `{}` was stopped again and again, and does not run for now", stage.name),
                retryable: false,
            })),
        }
    }

    /// Notes how a run ended. Says where the event waits if the version is poisoned and the connection holds events then.
    pub(super) fn ran(
        &self,
        connection: &Connection,
        position: usize,
        is_try: bool,
        run: &PluginRun,
        error: Option<&CallError>,
    ) -> Option<Stay> {
        let now = self.shared.clock.now();
        let (circuits, stage) = (self.shared.plugins.circuits(), &connection.chain[position]);
        let place = place(connection, position, run.version);
        let failure = match (error, &run.outcome) {
            (Some(CallError::Stopped(_)), Err(failure)) => failure,
            (None | Some(CallError::Failed { .. }), _) => {
                if circuits.answered(&place) {
                    self.tell(stage, connection, &place, None);
                }
                return None;
            }
            // Nothing is known of the version by that.
            _ => return None,
        };
        let stopped = circuits.stopped(place, stage.poison_after, is_try, failure, now);
        if stopped == Stopped::Opened {
            self.tell(stage, connection, &place, Some(failure));
        }
        let is_held = stopped != Stopped::Counted && stage.on_poisoned == OnPoisoned::Hold;
        is_held.then(|| self.hold(connection))
    }

    /// Notes that the work waits there, so that newcomers go behind it.
    pub(super) fn park(&self, queue: QueueKey, wait: Wait) {
        if wait == Wait::ConnectionPaused {
            self.windows.park(queue, self.since);
            return;
        }
        self.gates.park(self.shared, self.windows, (queue, wait), self.since);
    }

    fn hold(&self, connection: &Connection) -> Stay {
        Stay::In(QueueKey::Connection(self.tenant, connection.id), Wait::PluginPoisoned)
    }

    fn tell(&self, stage: &Stage, connection: &Connection, place: &Place, poisoned: Option<&Failure>) {
        self.shared.metrics.plugin_circuit(poisoned.is_some(), self.shared.plugins.circuits().open());
        let (tenant, version, plugin, connection) = (self.tenant, place.version, &stage.name, &connection.name);
        match poisoned {
            Some(failure) => tracing::warn!(
                %tenant, %version, plugin, connection, stops = stage.poison_after, code = failure.code,
                "plugin poisoned: it was stopped again and again, and is tried now and then"
            ),
            None => tracing::info!(%tenant, %version, plugin, connection, "plugin answers again: it is poisoned no more"),
        }
    }
}
