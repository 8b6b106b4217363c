//! `rates_fullest`, `rates_used`: whether destinations' rates hold, and how much of them is used, through a minute of more than they allow.
//!
//! Two destinations, one with so many attempts a second and one with so many a minute, get a fifth more than that. The attempts' beginnings are
//! read from the gateway's own records: from one to the next they are exact, while between an attempt and its arrival lies what a busy machine takes.
//! On Redis the same is done with two gateways, each of which takes half of the events.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::gateway::{Backend, Gateway, Planned, Tuning, wide_plan};
use super::super::lab::{self, Lab, accepted, all_arrived, delivered};
use super::super::outcome::compare;
use super::super::part::Part;
use super::super::redis_server::RedisServer;
use super::super::report::{Details, Figure, Goal};
use super::super::statistics::Spread;
use super::{Findings, Store, progress};
use crate::event::ConnectionId;

/// Of the limit, in the fullest window.
const FULLEST_GOAL: Goal = Goal::AtMost(100.0);
/// Of the limit, over the whole time.
const USED_GOAL: Goal = Goal::AtLeast(98.0);
/// What is sent, by what is allowed.
const MORE: f64 = 1.2;
/// How often it is asked whether a gateway knows what another was told, and for how long.
const LOOK: Duration = Duration::from_millis(50);
const KNOWN: Duration = Duration::from_secs(10);

/// A rate.
#[derive(Clone, Copy)]
struct Rate {
    limit: u32,
    per: &'static str,
    unit: Duration,
}

const RATES: [Rate; 2] = [
    Rate { limit: 100, per: "second", unit: Duration::from_secs(1) },
    Rate { limit: 1_200, per: "minute", unit: Duration::from_secs(60) },
];

/// One number of gateways on one store.
struct Runs {
    store: Store,
    gateways: usize,
    /// Of the limit, in per cent, of each repetition, by rate.
    fullest: Vec<[f64; 2]>,
    used: Vec<[f64; 2]>,
    events: u64,
    refused: u64,
    missing: u64,
    duplicates: u64,
}

pub(super) async fn run(lab: &Lab, traffic: &Traffic, time: Duration) -> Result<Findings, BenchError> {
    let new =
        |store, gateways| Runs { store, gateways, fullest: vec![], used: vec![], events: 0, refused: 0, missing: 0, duplicates: 0 };
    let mut all = Vec::new();
    for &store in traffic.store.list() {
        all.push(new(store, 1));
        // The embedded store has one gateway.
        if store == Store::Redis {
            all.push(new(store, 2));
        }
    }
    let mut faults = Vec::new();
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        for runs in &mut all {
            runs.once(lab, traffic, time, &mut faults).await?;
        }
    }
    Ok((all.iter().flat_map(|runs| runs.figures(time)).collect(), faults))
}

/// A destination with who sends to it: one load for each gateway.
struct Driven {
    rate: Rate,
    tenant: String,
    connection: ConnectionId,
    loads: Vec<Part>,
}

impl Runs {
    async fn once(&mut self, lab: &Lab, traffic: &Traffic, time: Duration, faults: &mut Vec<String>) -> Result<(), BenchError> {
        let (gateways, _server) = self.start(lab, traffic).await?;
        let receiver = lab.receiver().await?;
        let mut driven = Vec::new();
        for rate in RATES {
            let name = format!("per-{}", rate.per);
            let route = gateways[0].tenant(&name, &wide_plan()).await?.connect(receiver.address()?, None).await?;
            let limit = json!({"rate": {"limit": rate.limit, "per": rate.per}});
            gateways[0].change(&format!("/v1/destinations/receiver?tenant={name}"), &limit).await?;
            let mut loads = Vec::new();
            for gateway in &gateways {
                knows(gateway, &name).await?;
                loads.push(lab.load(gateway.ingest(), &[&route.path], 4).await?);
            }
            driven.push(Driven { rate, tenant: name, connection: route.connection, loads });
        }
        let sends = driven.iter_mut().flat_map(|driven| {
            let each = MORE * driven.rate.each_second() / driven.loads.len() as f64;
            driven.loads.iter_mut().map(move |load| lab::send(load, time, Some(each)))
        });
        let mut sent = 0;
        for outcome in futures_util::future::join_all(sends).await {
            let outcome = outcome?.some("a destination with a rate")?;
            sent += outcome.accepted;
            self.refused += outcome.failed + outcome.refused.values().sum::<u64>();
        }
        all_arrived(&receiver, sent).await?;

        let arrivals = delivered(&receiver).await?;
        let (mut fullest, mut used) = ([0.0; 2], [0.0; 2]);
        for (number, Driven { rate, tenant, connection, loads }) in driven.iter_mut().enumerate() {
            let mut log = Vec::new();
            for load in loads {
                log.extend(accepted(lab, load).await?);
            }
            let outcome = compare(&log, &[*connection], &arrivals, 0);
            faults.extend(outcome.fault(u64::MAX).map(|fault| format!("rates, {}, {tenant}: {fault}", self.store.described())));
            self.events += outcome.events;
            self.missing += outcome.missing.len() as u64;
            // Of all arrivals, so the same for each.
            self.duplicates = outcome.duplicates.max(self.duplicates);
            let begun = begun(&gateways[0], tenant, log.iter().map(|(event, ..)| event.to_string())).await?;
            fullest[number] = rate.fullest(&begun);
            used[number] = rate.used(&begun, time);
        }
        self.fullest.push(fullest);
        self.used.push(used);
        for load in driven.into_iter().flat_map(|driven| driven.loads) {
            load.stop().await?;
        }
        drop(gateways);
        receiver.stop().await
    }

    /// Gateways on a store of their own.
    async fn start(&self, lab: &Lab, traffic: &Traffic) -> Result<(Vec<Gateway>, Option<RedisServer>), BenchError> {
        let room = lab.room()?;
        let server = match self.store {
            Store::Redis => Some(RedisServer::start(&traffic.redis_server, &room.join("redis")).await?),
            Store::Embedded => None,
        };
        let backend = || server.as_ref().map_or(Backend::Embedded, Backend::Redis);
        let first = Planned::new(lab, &room, backend(), "all", Tuning::default())?;
        let mut others = Vec::new();
        for _ in 1..self.gateways {
            others.push(Planned::new(lab, &lab.room()?, backend(), "all", Tuning::default())?.beside(&first)?);
        }
        let mut gateways = vec![first.start().await?.0];
        for other in others {
            gateways.push(other.start().await?.0);
        }
        Ok((gateways, server))
    }

    fn figures(&self, time: Duration) -> [Figure; 2] {
        let number = if self.gateways == 1 { "" } else { "_two" };
        let figure = |name: &str, what: &str, values: &[[f64; 2]], worse: fn(f64, f64) -> f64, goal| {
            let each = |number: usize| Spread::of(values.iter().map(|by_rate| by_rate[number])).median;
            let details = Details {
                what: format!(
                    "{what}, for the worse of {} attempts a second ({:.1} %) and {} a minute ({:.1} %), with {MORE} times as many events through {} s; {} \
                     gateways; {}",
                    RATES[0].limit,
                    each(0),
                    RATES[1].limit,
                    each(1),
                    time.as_secs(),
                    self.gateways,
                    self.store.described()
                ),
                repetitions: values.len(),
                events: self.events,
                per_second: MORE * RATES.iter().map(Rate::each_second).sum::<f64>(),
                refused: self.refused,
                missing: Some(self.missing),
                duplicates: Some(self.duplicates),
                ..Details::default()
            };
            let name = format!("{name}{number}{}", self.store.suffix());
            let worse = values.iter().map(|by_rate| worse(by_rate[0], by_rate[1]));
            Figure::new(name, "%", Spread::of(worse), None, Some(goal), details)
        };
        let fullest = "attempts that began in the fullest span of a rate's unit, of what the rate allows";
        let used = "attempts that began from the first one on, of what the rate allows";
        [
            figure("rates_fullest", fullest, &self.fullest, f64::max, FULLEST_GOAL),
            figure("rates_used", used, &self.used, f64::min, USED_GOAL),
        ]
    }
}

impl Rate {
    fn each_second(&self) -> f64 {
        f64::from(self.limit) / self.unit.as_secs_f64()
    }

    /// The most that began within a unit, in per cent of the limit. `begun` is sorted, in milliseconds.
    #[allow(clippy::cast_precision_loss)]
    fn fullest(&self, begun: &[u64]) -> f64 {
        let unit = self.unit.as_millis() as u64;
        let within = |from: usize| begun[from..].partition_point(|at| *at < begun[from] + unit);
        let most = (0..begun.len()).map(within).max().unwrap_or(0);
        100.0 * most as f64 / f64::from(self.limit)
    }

    /// What began in this time after the first, in per cent of what may.
    #[allow(clippy::cast_precision_loss)]
    fn used(&self, begun: &[u64], time: Duration) -> f64 {
        let Some(first) = begun.first() else { return 0.0 };
        let count = begun.partition_point(|at| *at < first + time.as_millis() as u64);
        100.0 * count as f64 / (self.each_second() * time.as_secs_f64())
    }
}

/// Waits until a gateway has heard of a tenant.
async fn knows(gateway: &Gateway, tenant: &str) -> Result<(), BenchError> {
    let path = format!("/v1/connections/bench?tenant={tenant}");
    let asking = async {
        while gateway.get(&path).await.is_err() {
            sleep(LOOK).await;
        }
    };
    let late = tokio::time::timeout(KNOWN, asking).await;
    late.map_err(|_| BenchError::Setup(format!("a gateway does not hear of {tenant}")))
}

/// When all attempts of these events began, in milliseconds since the epoch, in order.
async fn begun(gateway: &Gateway, tenant: &str, events: impl Iterator<Item = String>) -> Result<Vec<u64>, BenchError> {
    let mut begun = Vec::new();
    for event in events {
        let shown = gateway.get(&format!("/v1/events/{event}?tenant={tenant}")).await?;
        let attempts = shown["deliveries"].as_array().into_iter().flatten().flat_map(|row| row["attempts"].as_array()).flatten();
        for attempt in attempts {
            begun.push(moment(attempt).ok_or_else(|| BenchError::Answer { name: "gateway", answer: attempt.to_string() })?);
        }
    }
    begun.sort_unstable();
    Ok(begun)
}

fn moment(attempt: &Value) -> Option<u64> {
    let at = humantime::parse_rfc3339(attempt["started_at"].as_str()?).ok()?;
    u64::try_from(at.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_span_and_what_is_used() {
        let rate = Rate { limit: 10, per: "second", unit: Duration::from_secs(1) };
        let even: Vec<u64> = (0..100).map(|number| number * 100).collect();
        assert_eq!((rate.fullest(&even), rate.used(&even, Duration::from_secs(10))), (100.0, 100.0));
        let early: Vec<u64> = even.iter().map(|at| if *at == 1_000 { 999 } else { *at }).collect();
        assert_eq!(rate.fullest(&early), 110.0);
        assert_eq!(rate.used(&even[..95], Duration::from_secs(10)), 95.0);
        assert_eq!((rate.fullest(&[]), rate.used(&[], Duration::from_secs(1))), (0.0, 0.0));
    }
}
