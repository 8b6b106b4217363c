//! What is read when metrics are collected, and what is counted for that.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;

use super::{Metrics, QueueSample};
use crate::event::{Lane, Shard};

/// What gauges read when they are collected.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) shards: Mutex<HashMap<Shard, QueueSample>>,
    // Tenants whose events wait for fuel.
    pub(super) fuel_waits: Mutex<HashMap<Shard, u64>>,
    pub(super) poisoned: AtomicU64,
    // Instances, and their bytes.
    pub(super) idle: [AtomicU64; 2],
    // Destinations' circuits that are not closed.
    pub(super) circuits: Mutex<HashMap<Shard, u64>>,
    // What notices tell of, by name.
    pub(super) conditions: Mutex<Vec<(&'static str, u64)>>,
    // By `lane as usize`; none while nothing of the lane is finished.
    pub(super) drain: Mutex<[Option<Duration>; Lane::ALL.len()]>,
    pub(super) connections: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) in_flight_bytes: AtomicU64,
    pub(super) probe_us: AtomicU64,
    pub(super) yielding: AtomicU64,
    pub(super) revision: AtomicU64,
    pub(super) spans_dropped: AtomicU64,
    pub(super) spans_failed: AtomicU64,
}

/// Something counted while this lives.
#[must_use = "what it counts is gone once it is dropped"]
#[derive(Debug)]
pub struct Gauged {
    state: Arc<State>,
    counted: Counted,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Counted {
    Connection,
    Event { bytes: u64 },
}

impl Gauged {
    pub(super) fn count(metrics: &Metrics, counted: Counted) -> Self {
        let state = metrics.0.state.clone();
        match counted {
            Counted::Connection => state.connections.fetch_add(1, Ordering::Relaxed),
            Counted::Event { bytes } => {
                state.in_flight_bytes.fetch_add(bytes, Ordering::Relaxed);
                state.in_flight.fetch_add(1, Ordering::Relaxed)
            }
        };
        Self { state, counted }
    }
}

impl Drop for Gauged {
    fn drop(&mut self) {
        match self.counted {
            Counted::Connection => self.state.connections.fetch_sub(1, Ordering::Relaxed),
            Counted::Event { bytes } => {
                self.state.in_flight_bytes.fetch_sub(bytes, Ordering::Relaxed);
                self.state.in_flight.fetch_sub(1, Ordering::Relaxed)
            }
        };
    }
}

pub(super) fn define_gauges(meter: &Meter, state: &Arc<State>) {
    type Read = fn(&State) -> u64;
    let gauges: [(&'static str, &'static str, &'static str, Read); 14] = [
        ("tidegate.ingest.connections", "{connection}", "Open ingest connections.", |s| s.connections.load(Ordering::Relaxed)),
        ("tidegate.accept.in_flight", "{event}", "Events that wait for the store.", |s| s.in_flight.load(Ordering::Relaxed)),
        ("tidegate.accept.in_flight.size", "By", "Bytes that wait for the store.", |s| s.in_flight_bytes.load(Ordering::Relaxed)),
        ("tidegate.dispatch.yielding", "", "Whether the low lane yields because the normal one or the store is slow.", |s| {
            s.yielding.load(Ordering::Relaxed)
        }),
        ("tidegate.config.revision", "", "Configuration revision in use.", |s| s.revision.load(Ordering::Relaxed)),
        ("tidegate.queue.scheduled", "{job}", "Jobs that wait for their time, owned shards.", |s| sum(s, |q| q.scheduled)),
        ("tidegate.queue.parked", "{job}", "Jobs in parked sub-queues, owned shards: the work of noisy tenants.", |s| {
            sum(s, |q| q.parked)
        }),
        ("tidegate.queue.dead_letters", "{job}", "Dead letters, owned shards.", |s| sum(s, |q| q.dead_letters)),
        ("tidegate.plugin.poisoned", "{version}", "Plugin versions that are poisoned, each where it runs.", |s| {
            s.poisoned.load(Ordering::Relaxed)
        }),
        ("tidegate.plugin.fuel.waits", "{tenant}", "Tenants whose events wait for fuel, owned shards.", |s| {
            s.fuel_waits.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
        }),
        ("tidegate.plugin.idle", "{instance}", "Plugins' instances that wait for another run of their stage.", |s| {
            s.idle[0].load(Ordering::Relaxed)
        }),
        ("tidegate.plugin.idle.size", "By", "Memories and tables of these.", |s| s.idle[1].load(Ordering::Relaxed)),
        ("tidegate.destination.circuits.open", "{destination}", "Destinations whose circuit is not closed, owned shards.", |s| {
            s.circuits.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
        }),
        ("tidegate.queue.shards", "{shard}", "Shards owned.", |s| sum(s, |_| 1)),
    ];
    for (name, unit, help, read) in gauges {
        let state = state.clone();
        let gauge = meter.u64_observable_gauge(name).with_unit(unit).with_description(help);
        gauge.with_callback(move |observer| observer.observe(read(&state), &[])).build();
    }
    let counters: [(&'static str, &'static str, Read); 2] = [
        ("tidegate.spans.dropped", "Spans dropped because the exporter's queue was full.", |s| {
            s.spans_dropped.load(Ordering::Relaxed)
        }),
        ("tidegate.spans.failed", "Spans that the receiver did not take.", |s| s.spans_failed.load(Ordering::Relaxed)),
    ];
    for (name, help, read) in counters {
        let state = state.clone();
        let counter = meter.u64_observable_counter(name).with_description(help);
        counter.with_callback(move |observer| observer.observe(read(&state), &[])).build();
    }
    define_lane_gauges(meter, state);
    let probed = state.clone();
    meter
        .f64_observable_gauge("tidegate.store.probe.duration")
        .with_unit("s")
        .with_description("What one durable write of nothing cost, last time.")
        .with_callback(move |observer| {
            observer.observe(Duration::from_micros(probed.probe_us.load(Ordering::Relaxed)).as_secs_f64(), &[]);
        })
        .build();
}

fn define_lane_gauges(meter: &Meter, state: &Arc<State>) {
    let depth = state.clone();
    meter
        .u64_observable_gauge("tidegate.queue.depth")
        .with_unit("{event}")
        .with_description("Events accepted and not finished nor parked, by lane, owned shards.")
        .with_callback(move |observer| {
            for lane in Lane::ALL {
                let total = sum(&depth, |sample| sample.lanes.iter().filter(|row| row.0 == lane).map(|row| row.1).sum());
                observer.observe(total, &[KeyValue::new("lane", lane.as_str())]);
            }
        })
        .build();
    let age = state.clone();
    meter
        .f64_observable_gauge("tidegate.queue.oldest.age")
        .with_unit("s")
        .with_description("Age of the oldest unfinished event, by lane, owned shards.")
        .with_callback(move |observer| {
            let shards = age.shards.lock().unwrap_or_else(PoisonError::into_inner);
            for lane in Lane::ALL {
                let rows = shards.values().flat_map(|sample| &sample.lanes);
                let oldest = rows.filter(|row| row.0 == lane).map(|row| row.2).max().unwrap_or_default();
                observer.observe(oldest.as_secs_f64(), &[KeyValue::new("lane", lane.as_str())]);
            }
        })
        .build();
    let drain = state.clone();
    meter
        .f64_observable_gauge("tidegate.queue.drain")
        .with_unit("s")
        .with_description(
            "How long it takes until all that is in a lane is finished at the present rate, all shards; nothing while none is. The same on every node.",
        )
        .with_callback(move |observer| {
            let times = *drain.drain.lock().unwrap_or_else(PoisonError::into_inner);
            for (lane, time) in Lane::ALL.into_iter().zip(times) {
                if let Some(time) = time {
                    observer.observe(time.as_secs_f64(), &[KeyValue::new("lane", lane.as_str())]);
                }
            }
        })
        .build();
    let conditions = state.clone();
    meter
        .u64_observable_gauge("tidegate.conditions")
        .with_description("What is in each condition that notices tell of, tenants whose home shard is owned.")
        .with_callback(move |observer| {
            for (name, count) in &*conditions.conditions.lock().unwrap_or_else(PoisonError::into_inner) {
                observer.observe(*count, &[KeyValue::new("condition", *name)]);
            }
        })
        .build();
    let parked = state.clone();
    meter
        .f64_observable_gauge("tidegate.queue.parked.oldest.age")
        .with_unit("s")
        .with_description("How long the oldest parked job waits at most, owned shards. Parked is the work of noisy tenants.")
        .with_callback(move |observer| {
            let shards = parked.shards.lock().unwrap_or_else(PoisonError::into_inner);
            let oldest = shards.values().map(|sample| sample.parked_age).max().unwrap_or_default();
            observer.observe(oldest.as_secs_f64(), &[]);
        })
        .build();
}

fn sum(state: &State, of: impl Fn(&QueueSample) -> u64) -> u64 {
    state.shards.lock().unwrap_or_else(PoisonError::into_inner).values().map(of).sum()
}
