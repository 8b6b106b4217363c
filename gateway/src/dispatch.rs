//! The dispatch wing: claim, plan, attempt, record.
//!
//! One loop for each owned shard ([`claim`]) decides; plans, calls and attempts run in tasks of their own ([`work`]); one writer for
//! each shard ([`record`]) gathers their outcomes. Nothing here outlives its lease: a task that is dropped means *not delivered*, and
//! the next owner finds its work where it was.

mod admission;
mod attempt;
pub mod batch;
mod begun;
mod budget;
pub mod circuit;
mod claim;
mod diversion;
pub mod filter;
mod gate;
pub mod handshake;
mod order;
mod output;
mod overload;
mod owner;
mod plan;
pub mod rate;
mod record;
mod recovery;
mod rest;
pub mod schedule;
mod shadow;
mod share;
pub mod standings;
mod visit;
mod wait;
mod window;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::{Clock, Timestamp};
use crate::control::condition::Noticed;
use crate::control::snapshot::{Diverted, Snapshots};
use crate::egress::Egress;
use crate::event::{DestinationId, Shard, TenantId};
use crate::plugin;
use crate::store::{Retention, Store};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::trace::Spans;
use standings::Standings;

/// Settings of the wing.
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    /// This node's name, shown to operators. Two nodes with one name are still two.
    pub node: String,
    /// Shards 0..n are dispatched.
    pub shards: u16,
    /// Events and jobs in flight on this node, all shards together.
    pub in_flight: usize,
    /// Their bytes.
    pub in_flight_bytes: usize,
    /// Bytes that plugins made of them; while more is there, no event begins to make any.
    pub output_bytes: usize,
    /// The in-flight window of a queue whose tenant or destination has not been met yet.
    pub default_window: usize,
    /// How long a lease lives without a renewal: how long a dead node's shard waits for another.
    pub lease_ttl: Duration,
    /// A delivery of the normal lane that begins later than this after its acceptance is late: then what can wait yields.
    pub latency_target: Duration,
    /// After this long an unfinished event's progress is written.
    pub progress_after: Duration,
    /// What waits on something that is full, held or disabled is given up once it is older than this.
    pub max_wait: Duration,
    /// At a stop, how long what is in flight may take to finish.
    pub drain: Duration,
    /// What history keeps.
    pub retention: Retention,
}

/// Dispatches until it is told to stop.
#[derive(Debug)]
pub struct Dispatcher {
    shared: Arc<Shared>,
}

/// What every part of the wing uses.
struct Shared {
    config: DispatchConfig,
    store: Arc<dyn Store>,
    snapshots: Snapshots,
    plugins: plugin::Runtime,
    egress: Egress,
    clock: Clock,
    metrics: Metrics,
    spans: Spans,
    in_flight: budget::InFlight,
    solos: claim::Solos,
    outputs: output::Outputs,
    pressure: overload::Pressure,
    share: share::Share,
    shadows: shadow::Shadows,
    returned: Returned,
    noticed: Notice,
    recovery: recovery::Seen,
    standings: Standings,
}

/// Told that in a shard nothing of somebody's work is held any more, again and again until the diversion is gone there. Must not block.
pub type Returned = Arc<dyn Fn(Diverted, Shard) + Send + Sync>;

/// Told what was noticed of a destination, and when, again and again for as long as it is so. Must not block.
pub type Notice = Arc<dyn Fn(TenantId, DestinationId, Noticed, Timestamp) + Send + Sync>;

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What the wing works with.
pub struct DispatchParts {
    /// Where events are.
    pub store: Arc<dyn Store>,
    /// The configuration.
    pub snapshots: Snapshots,
    /// Runs plugins.
    pub plugins: plugin::Runtime,
    /// The way out.
    pub egress: Egress,
    /// Tells the time.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// Takes spans.
    pub spans: Spans,
    /// Ends diversions.
    pub returned: Returned,
    /// Keeps what is noticed of destinations.
    pub noticed: Notice,
}

impl Dispatcher {
    /// A dispatcher over these parts.
    pub fn new(config: DispatchConfig, parts: DispatchParts) -> Self {
        let in_flight = budget::InFlight::new(config.in_flight, config.in_flight_bytes);
        let DispatchParts { store, snapshots, plugins, egress, clock, metrics, spans, returned, noticed } = parts;
        let outputs = output::Outputs::new(config.output_bytes);
        let standings = Standings::new(plugins.clone());
        let (share, pressure) = (share::Share::of(config.shards), overload::Pressure::default());
        let shared = Shared {
            config,
            store,
            snapshots,
            plugins,
            egress,
            clock,
            metrics,
            spans,
            in_flight,
            solos: claim::Solos::default(),
            outputs,
            pressure,
            share,
            shadows: shadow::Shadows::new(),
            returned,
            noticed,
            recovery: recovery::Seen::new([].into()),
            standings,
        };
        Self { shared: Arc::new(shared) }
    }

    /// How what this node dispatches stands.
    pub fn standings(&self) -> Standings {
        self.shared.standings.clone()
    }

    /// Runs until `stop`, then finishes what is in flight inside the drain deadline and gives the shards up.
    pub async fn run(self, stop: CancellationToken) {
        // First of all, so that a node that joins others does not begin by taking everything.
        share::look(&self.shared).await;
        overload::begin(&self.shared);
        let shards = TaskTracker::new();
        shards.spawn(share::keep(self.shared.clone(), stop.clone()));
        shards.spawn(overload::keep(self.shared.clone(), stop.clone()));
        shards.spawn(shadow::keep(self.shared.clone(), stop.clone()));
        shards.spawn(recovery::keep(self.shared.clone(), stop.clone()));
        shards.spawn(handshake::keep(self.shared.clone(), stop.clone()));
        for shard in 0..self.shared.config.shards {
            shards.spawn(owner::keep_owning(self.shared.clone(), Shard(shard), stop.clone()));
        }
        shards.close();
        shards.wait().await;
    }
}
