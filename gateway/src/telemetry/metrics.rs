//! Every metric of the gateway, defined once: a method here for what happened, an instrument behind it that `/metrics` and OTLP
//! both read.
//!
//! Labels come from closed sets (lanes, outcomes, status classes, named error codes), never from tenants, sources, paths or
//! peers: the number of series does not grow with the number of users.

mod gauges;
mod kinds;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::noop::NoopMeterProvider;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram, Meter, MeterProvider as _};

pub use gauges::Gauged;
pub use kinds::{
    CircuitChange, Ingested, LeaseChange, PluginOutcome, PluginWait, QueueSample, Shadowed, TenantClass, Track, Write,
};

use self::gauges::{Counted, State, define_gauges};
use crate::event::{Lane, Party, Revision, Shard};

/// Histogram bounds for what ends within a request, seconds.
const SHORT: [f64; 16] = [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Histogram bounds for what crosses the network or waits in a queue, seconds.
const LONG: [f64; 17] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 300.0, 3600.0];
/// Histogram bounds for batch sizes.
const SIZES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];
/// Histogram bounds for fuel.
const FUEL: [f64; 8] = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];

/// The gateway's metrics. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Metrics(Arc<Instruments>);

struct Instruments {
    ingested: Vec<BoundCounter<u64>>,
    accept_duration: BoundHistogram<f64>,
    write_duration: [BoundHistogram<f64>; 2],
    batch_size: [BoundHistogram<u64>; 2],
    write_failures: [BoundCounter<u64>; 2],
    delivery_latency: Vec<BoundHistogram<f64>>,
    attempts: Counter<u64>,
    attempt_duration: Histogram<f64>,
    attempt_batch: BoundHistogram<u64>,
    plugin_runs: Counter<u64>,
    plugin_shadows: Counter<u64>,
    plugin_fuel: BoundHistogram<u64>,
    plugin_duration: BoundHistogram<f64>,
    plugin_waits: Counter<u64>,
    plugin_circuits: Counter<u64>,
    destination_waits: Counter<u64>,
    destination_circuits: Counter<u64>,
    notices: Counter<u64>,
    leases: Counter<u64>,
    reload_failures: BoundCounter<u64>,
    refused_connections: Counter<u64>,
    state: Arc<State>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    /// Metrics that nobody reads: for tests and tools.
    fn default() -> Self {
        Self::new(&NoopMeterProvider::new().meter("tidegate"))
    }
}

impl Metrics {
    /// Defines every instrument on `meter`.
    pub fn new(meter: &Meter) -> Self {
        let state = Arc::new(State::default());
        define_gauges(meter, &state);
        let ingested = counter(meter, "tidegate.ingest.requests", "Requests to the ingest listener by how they ended.");
        let write_duration = seconds(meter, "tidegate.store.write.duration", "How long one durable write took.", &SHORT);
        let batch_size = histogram(meter, "tidegate.store.batch.size", "{item}", "Items in one durable write.", &SIZES);
        let write_failures = counter(meter, "tidegate.store.write.failures", "Durable writes that failed.");
        let latency =
            seconds(meter, "tidegate.delivery.latency", "From accepting a request to the start of its first attempt.", &LONG);
        Self(Arc::new(Instruments {
            ingested: Ingested::ALL.iter().map(|(_, name)| ingested.bind(&[KeyValue::new("outcome", *name)])).collect(),
            accept_duration: seconds(
                meter,
                "tidegate.accept.duration",
                "From a request's head to its answer, accepted ones.",
                &SHORT,
            )
            .bind(&[]),
            write_duration: WRITES.map(|name| write_duration.bind(&[KeyValue::new("operation", name)])),
            batch_size: WRITES.map(|name| batch_size.bind(&[KeyValue::new("operation", name)])),
            write_failures: WRITES.map(|name| write_failures.bind(&[KeyValue::new("operation", name)])),
            delivery_latency: bind_latency(&latency),
            attempts: counter(meter, "tidegate.attempts", "HTTP attempts by outcome, party that failed, and status class."),
            attempt_duration: seconds(meter, "tidegate.attempt.duration", "How long one attempt took.", &LONG),
            attempt_batch: histogram(
                meter,
                "tidegate.attempt.batch",
                "{delivery}",
                "Deliveries in one attempt, to destinations that get batches.",
                &SIZES,
            )
            .bind(&[]),
            plugin_runs: counter(meter, "tidegate.plugin.runs", "Plugin runs by outcome (`ok`, or the failure's code) and track."),
            plugin_shadows: counter(
                meter,
                "tidegate.plugin.shadows",
                "Events that a shadow was to run too, by what the comparison gave.",
            ),
            plugin_fuel: histogram(meter, "tidegate.plugin.fuel", "{fuel}", "Fuel used by one plugin run.", &FUEL).bind(&[]),
            plugin_duration: seconds(meter, "tidegate.plugin.duration", "How long one plugin run took.", &SHORT).bind(&[]),
            plugin_waits: counter(
                meter,
                "tidegate.plugin.waits",
                "Events parked for their tenant's fuel or for a poisoned version.",
            ),
            plugin_circuits: counter(meter, "tidegate.plugin.poisonings", "Versions that were poisoned, and that answered again."),
            destination_waits: counter(
                meter,
                "tidegate.destination.waits",
                "Deliveries parked for their destination's or tenant's rate, for a connection, an open circuit or a disabled destination.",
            ),
            destination_circuits: counter(
                meter,
                "tidegate.destination.circuit.changes",
                "Destinations' circuits that opened, opened again after a probe, half opened and closed.",
            ),
            notices: counter(meter, "tidegate.notices", "Notices told, by type."),
            leases: counter(meter, "tidegate.lease.changes", "Shard leases acquired, released and lost."),
            reload_failures: counter(meter, "tidegate.config.reload.failures", "Configurations that could not be applied.")
                .bind(&[]),
            refused_connections: counter(meter, "tidegate.ingest.connections.refused", "Connections closed at once, by the limit."),
            state,
        }))
    }

    /// A request to the ingest listener ended.
    pub fn ingested(&self, outcome: Ingested, took: Duration) {
        self.0.ingested[outcome as usize].add(1);
        if matches!(outcome, Ingested::Accepted | Ingested::Duplicate) {
            self.0.accept_duration.record(took.as_secs_f64());
        }
    }

    /// A durable write of `items` ended.
    pub fn written(&self, write: Write, items: usize, took: Duration, outcome: Result<(), ()>) {
        self.0.write_duration[write as usize].record(took.as_secs_f64());
        self.0.batch_size[write as usize].record(items as u64);
        if outcome.is_err() {
            self.0.write_failures[write as usize].add(1);
        }
    }

    /// The first attempt of a delivery starts, this long after its event was accepted.
    pub fn delivery_latency(&self, lane: Lane, class: TenantClass, latency: Duration) {
        self.0.delivery_latency[lane as usize * 2 + class as usize].record(latency.as_secs_f64());
    }

    /// An attempt ended: with a status, or with the party that failed.
    pub fn attempt(&self, status: Option<u16>, failed: Option<Party>, took: Duration) {
        let outcome = KeyValue::new("outcome", if failed.is_some() { "failed" } else { "delivered" });
        let party = KeyValue::new("party", failed.map_or("none", party_name));
        self.0.attempts.add(1, &[outcome.clone(), party, KeyValue::new("status_class", status_class(status))]);
        self.0.attempt_duration.record(took.as_secs_f64(), &[outcome]);
    }

    /// An attempt was one of so many deliveries together.
    pub fn batch(&self, deliveries: usize) {
        self.0.attempt_batch.record(deliveries as u64);
    }

    /// A plugin ran.
    pub fn plugin_run(&self, run: PluginOutcome<'_>) {
        let track = KeyValue::new("track", run.track.as_str());
        self.0.plugin_runs.add(1, &[KeyValue::new("outcome", run.code.to_owned()), track]);
        self.0.plugin_fuel.record(run.fuel);
        self.0.plugin_duration.record(run.took.as_secs_f64());
    }

    /// A shadow was compared, or dropped.
    pub fn plugin_shadow(&self, shadowed: Shadowed) {
        self.0.plugin_shadows.add(1, &[KeyValue::new("result", shadowed.as_str())]);
    }

    /// An event was parked because its plugins can't run now.
    pub fn plugin_waits(&self, wait: PluginWait) {
        let name = match wait {
            PluginWait::Fuel => "fuel",
            PluginWait::Poisoned => "poisoned",
        };
        self.0.plugin_waits.add(1, &[KeyValue::new("for", name)]);
    }

    /// A version was poisoned, or answered again; so many are poisoned now.
    pub fn plugin_circuit(&self, is_poisoned: bool, now: usize) {
        let change = if is_poisoned { "poisoned" } else { "answered" };
        self.0.plugin_circuits.add(1, &[KeyValue::new("change", change)]);
        self.0.state.poisoned.store(now as u64, Ordering::Relaxed);
    }

    /// A delivery was parked for this reason.
    pub fn destination_waits(&self, reason: &'static str) {
        self.0.destination_waits.add(1, &[KeyValue::new("for", reason)]);
    }

    /// A destination's circuit changed; so many of the shard are not closed now.
    pub fn destination_circuit(&self, shard: Shard, change: CircuitChange, now: usize) {
        let name = match change {
            CircuitChange::Opened => "opened",
            CircuitChange::Reopened => "reopened",
            CircuitChange::HalfOpened => "half_opened",
            CircuitChange::Closed => "closed",
        };
        self.0.destination_circuits.add(1, &[KeyValue::new("change", name)]);
        self.0.state.circuits.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, now as u64);
    }

    /// A notice of this type was told.
    pub fn notice(&self, kind: &'static str) {
        self.0.notices.add(1, &[KeyValue::new("type", kind)]);
    }

    /// So many things are in each condition that notices tell of, of tenants whose home is here.
    pub fn conditions<const N: usize>(&self, names: [&'static str; N], counts: [u64; N]) {
        let mut conditions = self.0.state.conditions.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.clear();
        conditions.extend(names.into_iter().zip(counts));
    }

    /// So many tenants of a shard have events that wait for fuel.
    pub fn plugin_fuel_waits(&self, shard: Shard, tenants: usize) {
        let mut waiting = self.0.state.fuel_waits.lock().unwrap_or_else(PoisonError::into_inner);
        if tenants == 0 {
            waiting.remove(&shard);
        } else {
            waiting.insert(shard, tenants as u64);
        }
    }

    /// So many instances wait for another run of their stage, with so many bytes.
    pub fn plugin_idle(&self, (instances, bytes): (usize, usize)) {
        let [of_instances, of_bytes] = &self.0.state.idle;
        of_instances.store(instances as u64, Ordering::Relaxed);
        of_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// How full a shard is now; its owner says so now and then.
    pub fn queue(&self, shard: Shard, sample: QueueSample) {
        self.shards().insert(shard, sample);
    }

    /// The shard is not ours any more.
    pub fn queue_gone(&self, shard: Shard) {
        self.shards().remove(&shard);
        self.plugin_fuel_waits(shard, 0);
        self.0.state.circuits.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    /// How long it takes until all that is in a lane of the whole gateway is finished, at the present rate; none if nothing is.
    pub fn drain(&self, lane: Lane, time: Option<Duration>) {
        self.0.state.drain.lock().unwrap_or_else(PoisonError::into_inner)[lane as usize] = time;
    }

    /// A shard's lease changed.
    pub fn lease(&self, change: LeaseChange) {
        let name = match change {
            LeaseChange::Acquired => "acquired",
            LeaseChange::Released => "released",
            LeaseChange::Lost => "lost",
        };
        self.0.leases.add(1, &[KeyValue::new("change", name)]);
    }

    /// Whether what can wait yields to the normal lane.
    pub fn yielding(&self, yielding: bool) {
        self.0.state.yielding.store(yielding.into(), Ordering::Relaxed);
    }

    /// What one durable write of nothing cost.
    pub fn probe(&self, took: Duration) {
        self.0.state.probe_us.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The configuration's revision that is in use.
    pub fn revision(&self, revision: Revision) {
        self.0.state.revision.store(revision.0, Ordering::Relaxed);
    }

    /// A configuration could not be applied; the last good one stays.
    pub fn reload_failed(&self) {
        self.0.reload_failures.add(1);
    }

    /// A connection to the ingest listener was closed at once because of `limit`.
    pub fn connection_refused(&self, limit: &'static str) {
        self.0.refused_connections.add(1, &[KeyValue::new("limit", limit)]);
    }

    /// Counts an ingest connection until the guard is dropped.
    pub fn connection(&self) -> Gauged {
        Gauged::count(self, Counted::Connection)
    }

    /// Counts an event that waits for the store, until the guard is dropped.
    pub fn in_flight(&self, bytes: usize) -> Gauged {
        Gauged::count(self, Counted::Event { bytes: bytes as u64 })
    }

    /// Spans were dropped because the queue to the exporter was full.
    pub(super) fn spans_dropped(&self, count: u64) {
        self.0.state.spans_dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Spans were lost because the receiver did not take them.
    pub(super) fn spans_failed(&self, count: u64) {
        self.0.state.spans_failed.fetch_add(count, Ordering::Relaxed);
    }

    fn shards(&self) -> std::sync::MutexGuard<'_, HashMap<Shard, QueueSample>> {
        self.0.state.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const WRITES: [&str; 2] = ["accept", "record"];

fn counter(meter: &Meter, name: &'static str, help: &'static str) -> Counter<u64> {
    meter.u64_counter(name).with_description(help).build()
}

fn seconds(meter: &Meter, name: &'static str, help: &'static str, bounds: &[f64]) -> Histogram<f64> {
    meter.f64_histogram(name).with_unit("s").with_description(help).with_boundaries(bounds.to_vec()).build()
}

fn histogram(meter: &Meter, name: &'static str, unit: &'static str, help: &'static str, bounds: &[f64]) -> Histogram<u64> {
    meter.u64_histogram(name).with_unit(unit).with_description(help).with_boundaries(bounds.to_vec()).build()
}

/// In the order of `lane as usize * 2 + class as usize`.
fn bind_latency(latency: &Histogram<f64>) -> Vec<BoundHistogram<f64>> {
    let classes = ["quiet", "noisy"];
    Lane::ALL
        .iter()
        .flat_map(|lane| classes.map(|class| [KeyValue::new("lane", lane.as_str()), KeyValue::new("class", class)]))
        .map(|labels| latency.bind(&labels))
        .collect()
}

fn party_name(party: Party) -> &'static str {
    match party {
        Party::Gateway => "gateway",
        Party::Plugin => "plugin",
        Party::Network => "network",
        Party::Destination => "destination",
    }
}

fn status_class(status: Option<u16>) -> &'static str {
    match status.map(|status| status / 100) {
        None => "none",
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        Some(_) => "other",
    }
}
