//! What is shown of how the gateway's queues stand.

use serde::Serialize;
use utoipa::ToSchema;

use super::shown;
use crate::clock::Timestamp;
use crate::control::inspect::Ailing;
use crate::control::signals::{LaneQueue, Measured, Queues, Scaling, TOP};
use crate::control::snapshot::{Snapshot, Traffic};
use crate::event::{Shard, TenantId};

/// How the gateway's queues stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct SignalsView {
    /// When the store was asked; not longer than a second ago.
    at: String,
    /// All shards together.
    gateway: QueuesView,
    /// Each shard.
    shards: Vec<ShardView>,
    /// Who has most queued, most first; at most ten.
    tenants: Vec<QueuedView>,
    /// What waits for plugins' sake, as the gateway that answers sees it.
    plugins: AilingView,
}

/// What waits for plugins' sake on one gateway, in the shards that it owns.
#[derive(Debug, Serialize, ToSchema)]
pub struct AilingView {
    /// Versions that are poisoned, each where it runs.
    poisoned: usize,
    /// Tenants whose events wait for fuel (`plan.plugin_fuel`); at most ten are named.
    waiting_for_fuel: usize,
    tenants: Vec<String>,
}

/// How much of a tenant is queued.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueuedView {
    tenant: String,
    /// Null for one that is gone.
    name: Option<String>,
    /// Of the requests in the lanes, scheduled and parked.
    bytes: u64,
}

impl SignalsView {
    pub(in crate::control::api) fn of(measured: &Measured, ailing: &Ailing, snapshot: &Snapshot) -> Self {
        let traffic = &snapshot.traffic;
        let tenant = |(tenant, bytes): &(TenantId, u64)| QueuedView {
            tenant: tenant.to_string(),
            name: snapshot.tenants.get(tenant).map(|tenant| tenant.name.clone()),
            bytes: *bytes,
        };
        let shard = |(number, queues): (u16, &Queues)| ShardView {
            shard: number,
            percent: traffic.shard(Shard(number)).get(),
            queues: QueuesView::of(queues, measured.at, traffic),
        };
        Self {
            at: shown(measured.at),
            gateway: QueuesView::of(&measured.whole, measured.at, traffic),
            shards: (0..).zip(&measured.shards).map(shard).collect(),
            tenants: measured.top.iter().map(tenant).collect(),
            plugins: AilingView {
                poisoned: ailing.poisoned,
                waiting_for_fuel: ailing.fuel_waits.len(),
                tenants: ailing.fuel_waits.iter().take(TOP).map(ToString::to_string).collect(),
            },
        }
    }
}

/// How the queues of a shard stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct ShardView {
    shard: u16,
    /// What it may use, in percent of the capacity.
    percent: u8,
    queues: QueuesView,
}

/// How queues stand.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueuesView {
    lanes: Vec<LaneView>,
    /// Deliveries that wait for their time.
    scheduled: u64,
    /// Deliveries that wait for a window, a destination or an operator.
    parked: u64,
    dead_letters: u64,
    /// Of the requests in the lanes, scheduled and parked.
    bytes: u64,
}

impl QueuesView {
    fn of(queues: &Queues, now: Timestamp, traffic: &Traffic) -> Self {
        Self {
            lanes: queues.lanes.iter().map(|lane| LaneView::of(lane, now, traffic)).collect(),
            scheduled: queues.scheduled,
            parked: queues.parked,
            dead_letters: queues.dead_letters,
            bytes: queues.bytes,
        }
    }
}

/// How a lane stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct LaneView {
    /// `normal`, `low` or `held`.
    lane: &'static str,
    /// What it may use, in percent of the capacity.
    percent: u8,
    /// Accepted, and not finished nor parked.
    events: u64,
    /// How long ago the oldest of them was accepted; null if there is none.
    oldest_age_seconds: Option<f64>,
    /// How many a second were accepted into it, over the last two minutes at most. Null before the second reading.
    accepted_per_second: Option<f64>,
    /// How many a second of it were finished or parked.
    finished_per_second: Option<f64>,
    /// How long it takes until those that are in it now are finished or parked, at this rate; null if it is paused or none is.
    drain_seconds: Option<f64>,
}

impl LaneView {
    fn of(lane: &LaneQueue, now: Timestamp, traffic: &Traffic) -> Self {
        Self {
            lane: lane.lane.as_str(),
            percent: traffic.lane(lane.lane).get(),
            events: lane.events,
            oldest_age_seconds: lane.oldest.map(|oldest| now.since(oldest).as_secs_f64()),
            accepted_per_second: lane.rates.map(|rates| rates.accepted),
            finished_per_second: lane.rates.map(|rates| rates.finished),
            drain_seconds: lane.drain().map(|drain| drain.as_secs_f64()),
        }
    }
}

/// How many gateways the backlog asks for.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScalingView {
    /// Events in lanes that are not paused.
    backlog: u64,
    /// How long ago the oldest of them was accepted; 0 if there is none.
    oldest_age_seconds: f64,
    /// How many a second are accepted into these lanes, over the last two minutes at most. Null before the second reading.
    accepted_per_second: Option<f64>,
    /// How many a second of them are finished or parked.
    finished_per_second: Option<f64>,
    /// How long it takes until the backlog of now is finished or parked, at this rate; null if nothing is.
    drain_seconds: Option<f64>,
    /// Gateways that deliver now.
    nodes: u64,
    /// Gateways that would have the backlog drained within the target, while as much is accepted as now.
    replicas: u64,
}

impl ScalingView {
    pub(in crate::control::api) fn of(scaling: &Scaling, replicas: usize) -> Self {
        Self {
            backlog: scaling.backlog,
            oldest_age_seconds: scaling.oldest_age.as_secs_f64(),
            accepted_per_second: scaling.rates.map(|rates| rates.accepted),
            finished_per_second: scaling.rates.map(|rates| rates.finished),
            drain_seconds: scaling.drain().map(|drain| drain.as_secs_f64()),
            nodes: scaling.nodes as u64,
            replicas: replicas as u64,
        }
    }
}
