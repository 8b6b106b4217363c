//! `latency_p50`, `latency_p99`: delivery latency at half of the load that the machine carries.
//!
//! A closed loop first finds out what it carries. Then requests are sent at fixed moments, at half that rate, whether or not those before
//! them were answered (an open loop), and each latency counts from the moment at which its request was due. So a gateway that stalls
//! pays for every request that it kept from being sent (coordinated omission).
//!
//! Counted is more than delivery latency, by sending the request, accepting it and the receiver's reading of the attempt's head.

use hdrhistogram::Histogram;

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::gateway::{Backend, Gateway, IN_FLIGHT};
use super::super::lab::{Lab, Stage, accepted, delivered};
use super::super::load::Sent;
use super::super::machine::{Fsync, fsync_probe};
use super::super::outcome::{Outcome, compare};
use super::super::redis_server::RedisServer;
use super::super::report::{Details, Figure, Goal, Percentiles};
use super::super::statistics::Spread;
use super::{Findings, Store, middle, progress};
use crate::clock;

const P50_GOAL: Goal = Goal::AtMost(2.0);
const P99_GOAL: Goal = Goal::AtMost(10.0);

/// One store's repetitions.
struct Runs {
    store: Store,
    outcomes: Vec<Outcome>,
    histogram: Histogram<u64>,
    rates: Vec<f64>,
    unanswered: u64,
    fsync: Vec<Fsync>,
    /// One durable write by itself, in milliseconds.
    floor: Vec<f64>,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic) -> Result<Findings, BenchError> {
    let mut faults = Vec::new();
    let mut all: Vec<Runs> = traffic.store.list().iter().map(|&store| Runs::new(store)).collect();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, &mut faults).await?;
        }
    }
    Ok((all.iter().flat_map(Runs::figures).collect(), faults))
}

impl Runs {
    fn new(store: Store) -> Self {
        let histogram = Histogram::new(3).expect("three digits are possible");
        Self { store, outcomes: vec![], histogram, rates: vec![], unanswered: 0, fsync: vec![], floor: vec![] }
    }

    async fn once(&mut self, lab: &Lab, traffic: &Traffic, faults: &mut Vec<String>) -> Result<(), BenchError> {
        let room = lab.room()?;
        let fsync = fsync_probe(lab.dir())?;
        self.fsync.push(fsync);
        let server = match self.store {
            Store::Redis => Some(RedisServer::start(&traffic.redis_server, &room.join("redis")).await?),
            Store::Embedded => None,
        };
        self.floor.push(match &server {
            Some(server) => server.write_ms().await?,
            None => fsync.median,
        });
        let backend = server.as_ref().map_or(Backend::Embedded, Backend::Redis);
        let gateway = Gateway::start(lab, &room, backend, "all").await?;
        let receiver = lab.receiver().await?;
        let route = gateway.source().await?.connect(receiver.address()?, None).await?;
        let mut load = lab.load(gateway.ingest(), &[&route.path], traffic.connections).await?;
        let name = format!("latency, {}", self.store.described());
        let processes = vec![("gateway", gateway.pid())];
        let mut stage = Stage { name: name.clone(), load: &mut load, receiver: Some(&receiver), processes };

        let since = clock::wall_micros();
        let closed = stage.send(lab.time / 2, None).await?;
        let carried = compare(&accepted(lab, stage.load).await?, &[route.connection], &delivered(&receiver).await?, since);
        #[allow(clippy::cast_precision_loss)]
        let rate = (carried.events as f64 / carried.seconds / 2.0).max(1.0);

        let since = clock::wall_micros();
        let paced = stage.send(lab.time, Some(rate)).await?;
        let outcome = compare(&accepted(lab, &mut load).await?, &[route.connection], &delivered(&receiver).await?, since);
        let unanswered = |sent: &Sent| sent.failed + sent.refused.values().sum::<u64>();
        self.unanswered += unanswered(&paced);
        faults.extend(outcome.fault(unanswered(&closed) + unanswered(&paced)).map(|fault| format!("{name}: {fault}")));
        for &latency in &outcome.latencies_us {
            let _ = self.histogram.record(latency);
        }
        self.rates.push(rate);
        self.outcomes.push(outcome);
        load.stop().await?;
        receiver.stop().await
    }

    fn figures(&self) -> [Figure; 2] {
        let goals = (self.store == Store::Redis).then_some((P50_GOAL, P99_GOAL));
        let value = |of: fn(&Outcome) -> f64| Spread::of(self.outcomes.iter().map(of));
        let figure = |name: &str, value, goal| {
            let floor = Spread::of(self.floor.iter().copied());
            Figure::new(format!("{name}{}", self.store.suffix()), "ms", value, Some(floor), goal, self.details())
        };
        [
            figure("latency_p50", value(|outcome| outcome.latency_p50_ms), goals.map(|goals| goals.0)),
            figure("latency_p99", value(|outcome| outcome.latency_p99_ms), goals.map(|goals| goals.1)),
        ]
    }

    fn details(&self) -> Details {
        let what = format!(
            "from the moment a request was due to its delivery's arrival, open loop at half load; {}; no plugin; one signing secret; \
             {IN_FLIGHT} attempts at once; floor: one durable write by itself",
            self.store.described()
        );
        Details {
            what,
            repetitions: self.outcomes.len(),
            events: self.outcomes.iter().map(|outcome| outcome.events).sum(),
            per_second: Spread::of(self.rates.iter().copied()).median,
            fsync_ms: Some(middle(&self.fsync)),
            percentiles_ms: Some(Percentiles::of(&self.histogram)),
            refused: self.unanswered,
            missing: Some(self.outcomes.iter().map(|outcome| outcome.missing.len() as u64).sum()),
            duplicates: Some(self.outcomes.iter().map(|outcome| outcome.duplicates).sum()),
            ..Details::default()
        }
    }
}
