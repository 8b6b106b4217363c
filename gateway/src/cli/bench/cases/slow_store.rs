//! `slow_p50`, `slow_p99`, `slow_low_share`, `slow_heal`, `slow_oscillation`: a store that becomes slow for a while.
//!
//! A proxy stands between the gateway and Redis. It passes everything on at first (*before*), then holds each answer back for some
//! milliseconds (*slow*), then no longer (*healed*). All the while quiet tenants send inside their plans (the normal lane), and one sends far over its
//! own (the low lane), at fixed moments. The floor is one durable write after the other through the same proxy at the same time.
//!
//! What the normal lane may take is told by what the store takes: on its way to the first attempt an event needs [`ROUND_TRIPS`] of it, so
//! that an added delay of each adds as many delays to the event. The figure is what was really added, its floor that product.
//!
//! On Redis alone: the embedded store has nothing in between that could be held back.

use std::time::Duration;

use serde_json::json;

use super::super::Traffic;
use super::super::error::BenchError;
use super::super::gateway::{Backend, Planned, Tuning};
use super::super::lab::{self, Lab, accepted, all_arrived, arrived, delivered};
use super::super::load::Sent;
use super::super::outcome::{Acknowledged, Arrivals, Outcome, compare};
use super::super::part::Part;
use super::super::redis_server::RedisServer;
use super::super::report::{Details, Figure, Goal, Phase, rounded};
use super::super::statistics::{Spread, percentile};
use super::{Findings, progress};
use crate::clock;
use crate::event::ConnectionId;

/// Of the store, between an event's arrival and its first attempt: the write that accepts it, and the read that claims it. The message that
/// wakes its owner is on its way together with the answer to the write.
const ROUND_TRIPS: f64 = 2.0;
/// Added latency by added delay of these round trips.
const GOAL: Goal = Goal::RatioAtMost(2.0);
/// Once up, and not down again.
const OSCILLATION_GOAL: Goal = Goal::AtMost(1.0);

const QUIET: usize = 20;
/// Requests per second of all quiet tenants together.
const QUIET_RATE: f64 = 400.0;
/// Requests per second of the one over its plan.
const LOW_RATE: f64 = 1_000.0;
/// A phase takes so many times what another case sends for: what reacts to the store needs time to.
const PHASE: u32 = 3;
/// How long the normal lane's latencies are looked at together after the healing, and how long the low lane's arrivals, in microseconds.
const WINDOW: u64 = 100_000;
const STEP: u64 = 250_000;

pub(super) async fn run(lab: &Lab, traffic: &Traffic, delay_ms: u32) -> Result<Findings, BenchError> {
    let (mut faults, mut runs) = (Vec::new(), Vec::new());
    for repetition in 1..=lab.repetitions {
        progress(&format!("repetition {repetition} of {}", lab.repetitions));
        runs.push(Incident::replay(lab, traffic, delay_ms, &mut faults).await?);
    }
    Ok((figures(&runs, delay_ms), faults))
}

/// One repetition.
struct Incident {
    /// Before, slow, healed.
    phases: [Phase; 3],
    heal_ms: f64,
    crossings: f64,
    events: u64,
    refused: u64,
    missing: u64,
    duplicates: u64,
}

/// When the phases began, and when the last one ended: microseconds since the epoch.
struct Times([u64; 4]);

impl Times {
    fn of(&self, phase: usize) -> std::ops::Range<u64> {
        self.0[phase]..self.0[phase + 1]
    }
}

impl Incident {
    async fn replay(lab: &Lab, traffic: &Traffic, delay_ms: u32, faults: &mut Vec<String>) -> Result<Self, BenchError> {
        let room = lab.room()?;
        let server = RedisServer::start(&traffic.redis_server, &room.join("redis")).await?;
        let mut proxy = Part::start(&lab.program, "proxy", &[format!("--target={}", server.address())]).await?;
        let through = proxy.address()?;
        let (gateway, _) = Planned::new(lab, &room, Backend::RedisAt(through), "all", Tuning::default())?.start().await?;
        let receiver = lab.receiver().await?;
        let (mut paths, mut quiet) = (Vec::new(), Vec::new());
        for number in 0..QUIET {
            let plan = json!({"rate": QUIET_RATE, "burst": QUIET_RATE as u64});
            let route = gateway.tenant(&format!("quiet-{number}"), &plan).await?.connect(receiver.address()?, None).await?;
            paths.push(route.path);
            quiet.push(route.connection);
        }
        // A plan so small that nearly all is over it: which lane an event was in need not be guessed.
        let low = gateway.tenant("low", &json!({"rate": 0.01, "burst": 1})).await?.connect(receiver.address()?, None).await?;
        let mut quiet_load = lab.load(gateway.ingest(), &paths, traffic.connections).await?;
        let mut low_load = lab.load(gateway.ingest(), &[&low.path], traffic.connections).await?;

        let warm = both(&mut quiet_load, &mut low_load, lab.time).await?;
        all_arrived(&receiver, warm.iter().map(|sent| sent.accepted).sum()).await?;
        let settled = arrived(&receiver).await?;
        let phase = lab.time * PHASE;
        let incident = async {
            let began = clock::wall_micros();
            let mut times = [began; 4];
            for (number, delay) in [(1, delay_ms), (2, 0)] {
                tokio::time::sleep(phase).await;
                let _: u32 = proxy.ask(&format!("delay {delay}"), Duration::from_secs(10)).await?;
                times[number] = clock::wall_micros();
            }
            tokio::time::sleep(phase).await;
            times[3] = clock::wall_micros();
            Ok::<_, BenchError>(Times(times))
        };
        let (sent, writes, times) =
            tokio::join!(both(&mut quiet_load, &mut low_load, phase * 3), server.writes(through, phase * 3), incident);
        let (sent, writes, times) = (sent?, writes?, times?);
        all_arrived(&receiver, settled + sent.iter().map(|sent| sent.accepted).sum::<u64>()).await?;

        let (quiet_log, low_log) = (accepted(lab, &mut quiet_load).await?, accepted(lab, &mut low_load).await?);
        let arrivals = delivered(&receiver).await?;
        let all = [compare(&quiet_log, &quiet, &arrivals, 0), compare(&low_log, &[low.connection], &arrivals, 0)];
        for (who, outcome) in ["quiet tenants", "the low lane"].iter().zip(&all) {
            // The others' deliveries are foreign to each.
            faults.extend(outcome.fault(u64::MAX).map(|fault| format!("slow-store, {who}: {fault}")));
        }
        let low_arrivals = arrivals_of(&low_log, low.connection, &arrivals);
        let phases = [0, 1, 2].map(|number| phase_of(number, &times, (&quiet_log, &quiet, &arrivals), &writes, &low_arrivals));
        let healed = within(&quiet_log, &(times.0[2]..u64::MAX));
        let incident = Self {
            heal_ms: heal_ms(&healed, &quiet, &arrivals, times.0[2], &phases[0]),
            crossings: crossings(&low_arrivals, &times.of(2), phases[0].low_share),
            events: all.iter().map(|outcome| outcome.events).sum(),
            refused: warm.iter().chain(&sent).map(|sent| sent.failed + sent.refused.values().sum::<u64>()).sum(),
            missing: all.iter().map(|outcome| outcome.missing.len() as u64).sum(),
            // Of all arrivals, so the same in both.
            duplicates: all[0].duplicates,
            phases,
        };
        for load in [quiet_load, low_load] {
            load.stop().await?;
        }
        drop(gateway);
        proxy.stop().await?;
        receiver.stop().await?;
        Ok(incident)
    }
}

async fn both(quiet: &mut Part, low: &mut Part, time: Duration) -> Result<[Sent; 2], BenchError> {
    let (quiet, low) = tokio::join!(lab::send(quiet, time, Some(QUIET_RATE)), lab::send(low, time, Some(LOW_RATE)));
    Ok([quiet?, low?])
}

/// What was due in that time.
fn within(log: &Acknowledged, time: &std::ops::Range<u64>) -> Acknowledged {
    log.iter().filter(|(_, due, _)| time.contains(due)).copied().collect()
}

/// When each of these events arrived first, in order.
fn arrivals_of(log: &Acknowledged, connection: ConnectionId, arrivals: &Arrivals) -> Vec<u64> {
    let outcome: Outcome = compare(log, &[connection], arrivals, 0);
    let mut at = outcome.arrived_us;
    at.sort_unstable();
    at
}

#[allow(clippy::cast_precision_loss)]
fn phase_of(
    number: usize,
    times: &Times,
    (log, connections, arrivals): (&Acknowledged, &[ConnectionId], &Arrivals),
    writes: &[(u64, u64)],
    low: &[u64],
) -> Phase {
    let time = times.of(number);
    let outcome = compare(&within(log, &time), connections, arrivals, 0);
    let mut took: Vec<u64> = writes.iter().filter(|(at, _)| time.contains(at)).map(|(_, took)| *took).collect();
    took.sort_unstable();
    let due = LOW_RATE * (time.end - time.start) as f64 / 1e6;
    let came = low.iter().filter(|at| time.contains(at)).count();
    Phase {
        name: ["before", "slow", "healed"][number],
        p50_ms: outcome.latency_p50_ms,
        p99_ms: outcome.latency_p99_ms,
        write_p50_ms: percentile(&took, 0.5) as f64 / 1e3,
        write_p99_ms: percentile(&took, 0.99) as f64 / 1e3,
        low_share: came as f64 / due,
    }
}

/// Until the end of the last window in which the normal lane was slower than before: its median above the p99 of then, and twice the median.
#[allow(clippy::cast_precision_loss)]
fn heal_ms(log: &Acknowledged, connections: &[ConnectionId], arrivals: &Arrivals, healed: u64, before: &Phase) -> f64 {
    let normal = before.p99_ms.max(2.0 * before.p50_ms);
    let last = log.iter().map(|(_, due, _)| *due).max().unwrap_or(healed);
    let mut until = healed;
    for start in (healed..=last).step_by(usize::try_from(WINDOW).unwrap_or(usize::MAX)) {
        let window = within(log, &(start..start + WINDOW));
        if compare(&window, connections, arrivals, 0).latency_p50_ms > normal {
            until = start + WINDOW;
        }
    }
    (until - healed) as f64 / 1e3
}

/// How often the low lane's throughput crosses half of what it was before.
#[allow(clippy::cast_precision_loss)]
fn crossings(arrived: &[u64], time: &std::ops::Range<u64>, share_before: f64) -> f64 {
    let half = share_before * LOW_RATE * STEP as f64 / 1e6 / 2.0;
    let steps = (time.end - time.start) / STEP;
    let above = |step: u64| {
        let (from, to) = (time.start + step * STEP, time.start + (step + 1) * STEP);
        let count = arrived.partition_point(|at| *at < to) - arrived.partition_point(|at| *at < from);
        count as f64 > half
    };
    (1..steps).filter(|&step| above(step) != above(step - 1)).count() as f64
}

fn figures(runs: &[Incident], delay_ms: u32) -> Vec<Figure> {
    let of = |value: &dyn Fn(&Incident) -> f64| Spread::of(runs.iter().map(value));
    let added = |of_phase: fn(&Phase) -> f64| move |run: &Incident| of_phase(&run.phases[1]) - of_phase(&run.phases[0]);
    let store = of(&|run| ROUND_TRIPS * added(|phase| phase.write_p50_ms)(run));
    let phases: Vec<Phase> = [0, 1, 2].into_iter().map(|number| median(runs, number)).collect();
    let details = |what: &str| Details {
        what: format!(
            "{what}; {QUIET} quiet tenants with {QUIET_RATE}/s together, one with {LOW_RATE}/s in the low lane, answers of Redis (everysec) held \
             back for {delay_ms} ms meanwhile"
        ),
        repetitions: runs.len(),
        events: runs.iter().map(|run| run.events).sum(),
        per_second: QUIET_RATE + LOW_RATE,
        refused: runs.iter().map(|run| run.refused).sum(),
        missing: Some(runs.iter().map(|run| run.missing).sum()),
        duplicates: Some(runs.iter().map(|run| run.duplicates).sum()),
        ..Details::default()
    };
    let latency = |which: &str| {
        format!(
            "what the slow store adds to the normal lane's {which}, from due to arrival; floor: what it adds to the median of a durable write, times \
             the {ROUND_TRIPS} round trips on an event's way to its first attempt"
        )
    };
    let figure =
        |name: &str, unit, value, floor, goal, what: &str| Figure::new(name.into(), unit, value, floor, goal, details(what));
    let mut figures = vec![
        figure("slow_p50", "ms", of(&added(|phase| phase.p50_ms)), Some(store), Some(GOAL), &latency("median")),
        figure("slow_p99", "ms", of(&added(|phase| phase.p99_ms)), Some(store), Some(GOAL), &latency("p99")),
        figure(
            "slow_low_share",
            "%",
            of(&|run| run.phases[1].low_share * 100.0),
            Some(of(&|run| run.phases[0].low_share * 100.0)),
            None,
            "what arrives of the low lane while the store is slow, of what is due then; floor: before",
        ),
        figure(
            "slow_heal",
            "ms",
            of(&|run| run.heal_ms),
            None,
            None,
            "from the healing to the end of the last 100 ms in which the normal lane's median was above twice its median and above its p99 before",
        ),
        figure(
            "slow_oscillation",
            "times",
            of(&|run| run.crossings),
            None,
            Some(OSCILLATION_GOAL),
            "how often the low lane's throughput, by 250 ms, crossed half of what it was before, from the healing on",
        ),
    ];
    // Once is enough.
    figures[0].details.phases = phases;
    figures
}

/// The medians of a phase over the repetitions.
fn median(runs: &[Incident], number: usize) -> Phase {
    let of = |value: fn(&Phase) -> f64| rounded(Spread::of(runs.iter().map(|run| value(&run.phases[number]))).median);
    Phase {
        name: runs[0].phases[number].name,
        p50_ms: of(|phase| phase.p50_ms),
        p99_ms: of(|phase| phase.p99_ms),
        write_p50_ms: of(|phase| phase.write_p50_ms),
        write_p99_ms: of(|phase| phase.write_p99_ms),
        low_share: of(|phase| phase.low_share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_comes_back_crosses_once_and_one_that_flaps_more_often() {
        // A second in steps of 250 ms: nothing, then all that was due.
        let steady = |from: u64, to: u64| (from..to).step_by(1_000);
        let back: Vec<u64> = steady(500_000, 1_000_000).collect();
        assert_eq!(crossings(&back, &(0..1_000_000), 1.0), 1.0);
        let flapping: Vec<u64> = steady(250_000, 500_000).chain(steady(750_000, 1_000_000)).collect();
        assert_eq!(crossings(&flapping, &(0..1_000_000), 1.0), 3.0);
        assert_eq!(crossings(&steady(0, 1_000_000).collect::<Vec<_>>(), &(0..1_000_000), 1.0), 0.0);
    }
}
