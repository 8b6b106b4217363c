//! What was accepted against what arrived: as sets, never as counts.

use std::collections::{HashMap, HashSet};

use super::error::BenchError;
use super::statistics::percentile;
use crate::event::{ConnectionId, DeliveryId, EventId};

/// How many missing ids an error names.
const NAMED: usize = 5;

/// What arrived, and when: microseconds since the epoch.
pub(super) type Arrivals = Vec<(DeliveryId, u64)>;

/// What was acknowledged, when it was due, and which path it went to.
pub(super) type Acknowledged = Vec<(EventId, u64, usize)>;

/// Reads what the receiver wrote.
pub(super) fn read_arrivals(text: &str) -> Result<Arrivals, BenchError> {
    read("receiver", text, |mut words| Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
}

/// Reads what the load wrote.
pub(super) fn read_acknowledged(text: &str) -> Result<Acknowledged, BenchError> {
    read("load", text, |mut words| Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?)))
}

fn read<T>(name: &'static str, text: &str, entry: fn(std::str::Split<'_, char>) -> Option<T>) -> Result<Vec<T>, BenchError> {
    let broken = |line: &str| BenchError::Answer { name, answer: line.chars().take(100).collect() };
    text.lines().map(|line| entry(line.split(' ')).ok_or_else(|| broken(line))).collect()
}

/// The result of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Acknowledged and not arrived.
    pub(super) missing: Vec<EventId>,
    /// Arrived again, under the same id.
    pub(super) duplicates: u64,
    /// Arrived without an acknowledgement that belongs to it.
    pub(super) foreign: u64,
    /// Acknowledged with an id that another event has.
    pub(super) repeated_ids: u64,
    /// Events that were sent at `since` or later.
    pub(super) events: u64,
    /// From the first of those being sent to the last arriving.
    pub(super) seconds: f64,
    /// From sending to the arrival of its first attempt, of those, in order of size.
    pub(super) latencies_us: Vec<u64>,
    /// When those arrived first, in no order.
    pub(super) arrived_us: Vec<u64>,
    /// The median.
    pub(super) latency_p50_ms: f64,
    /// The same, 99th percentile.
    pub(super) latency_p99_ms: f64,
}

/// Compares every acknowledged (event, connection of its path) with the deliveries that the receiver logged. Times are of what was
/// due at `since` or later, so that a warm-up doesn't count in them.
#[allow(clippy::cast_precision_loss)]
pub(super) fn compare(accepted: &Acknowledged, connections: &[ConnectionId], delivered: &Arrivals, since: u64) -> Outcome {
    let mut outcome = Outcome::default();
    let mut arrivals: HashMap<DeliveryId, u64> = HashMap::with_capacity(delivered.len());
    for &(id, at) in delivered {
        let mut again = true;
        let first = arrivals.entry(id).or_insert_with(|| {
            again = false;
            at
        });
        *first = at.min(*first);
        outcome.duplicates += u64::from(again);
    }
    let mut seen = HashSet::with_capacity(accepted.len());
    let (mut latencies, mut first_sent, mut last_arrival) = (Vec::new(), u64::MAX, 0);
    for &(event, sent, path) in accepted {
        if !seen.insert(event) {
            outcome.repeated_ids += 1;
            continue;
        }
        let Some(arrived) = arrivals.remove(&DeliveryId::derive(event, connections[path], 0)) else {
            outcome.missing.push(event);
            continue;
        };
        if sent >= since {
            latencies.push(arrived.saturating_sub(sent));
            outcome.arrived_us.push(arrived);
            first_sent = sent.min(first_sent);
            last_arrival = arrived.max(last_arrival);
        }
    }
    outcome.foreign = arrivals.len() as u64;
    latencies.sort_unstable();
    outcome.events = latencies.len() as u64;
    outcome.seconds = last_arrival.saturating_sub(first_sent) as f64 / 1e6;
    outcome.latency_p50_ms = percentile(&latencies, 0.5) as f64 / 1e3;
    outcome.latency_p99_ms = percentile(&latencies, 0.99) as f64 / 1e3;
    outcome.latencies_us = latencies;
    outcome
}

/// How many events have the id of an earlier one.
pub(super) fn repeated(accepted: &Acknowledged) -> usize {
    let distinct: HashSet<EventId> = accepted.iter().map(|(id, ..)| *id).collect();
    accepted.len() - distinct.len()
}

impl Outcome {
    /// Why the run doesn't count, if so. What was not acknowledged clearly (`unclear` requests) may have been accepted.
    pub(super) fn fault(&self, unclear: u64) -> Option<String> {
        let mut faults = Vec::new();
        if !self.missing.is_empty() {
            let named: Vec<String> = self.missing.iter().take(NAMED).map(ToString::to_string).collect();
            faults.push(format!("{} acknowledged events did not arrive: {} ...", self.missing.len(), named.join(", ")));
        }
        if self.repeated_ids > 0 {
            faults.push(format!("{} events were acknowledged with the id of another", self.repeated_ids));
        }
        if self.foreign > unclear {
            faults.push(format!("{} deliveries arrived that belong to no acknowledged event", self.foreign));
        }
        (!faults.is_empty()).then(|| faults.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECTION: ConnectionId = ConnectionId(5);

    fn delivery(event: u128) -> DeliveryId {
        DeliveryId::derive(EventId(event), CONNECTION, 0)
    }

    #[test]
    fn equal_counts_do_not_hide_a_loss() {
        let accepted = vec![(EventId(1), 10, 0), (EventId(2), 20, 0)];
        let delivered = vec![(delivery(1), 15), (delivery(1), 16)];
        let outcome = compare(&accepted, &[CONNECTION], &delivered, 0);
        assert_eq!((outcome.missing.as_slice(), outcome.duplicates), (&[EventId(2)][..], 1));
        assert!(outcome.fault(0).unwrap().contains(&EventId(2).to_string()));
    }

    #[test]
    fn a_delivery_under_another_id_is_both_missing_and_foreign() {
        let accepted = vec![(EventId(1), 10, 0)];
        let delivered = vec![(DeliveryId::derive(EventId(1), CONNECTION, 1), 15)];
        let outcome = compare(&accepted, &[CONNECTION], &delivered, 0);
        assert_eq!((outcome.missing.len(), outcome.foreign), (1, 1));
    }

    #[test]
    fn what_was_answered_unclearly_may_arrive() {
        let outcome = compare(&vec![], &[CONNECTION], &vec![(delivery(1), 15)], 0);
        assert!(outcome.fault(1).is_none());
        assert!(outcome.fault(0).is_some());
    }

    #[test]
    fn times_are_those_of_the_measured_part() {
        let accepted = vec![(EventId(1), 1_000, 0), (EventId(2), 2_000_000, 0), (EventId(3), 2_500_000, 0)];
        let delivered = vec![(delivery(1), 900_000), (delivery(3), 3_000_000), (delivery(2), 2_004_000)];
        let outcome = compare(&accepted, &[CONNECTION], &delivered, 2_000_000);
        assert!(outcome.fault(0).is_none());
        assert_eq!((outcome.events, outcome.seconds), (2, 1.0));
        assert_eq!((outcome.latency_p50_ms, outcome.latency_p99_ms), (4.0, 500.0));
    }

    #[test]
    fn two_events_with_one_id_are_a_fault() {
        let outcome =
            compare(&vec![(EventId(1), 1, 0), (EventId(1), 2, 0)], &[CONNECTION], &vec![(delivery(1), 3), (delivery(1), 4)], 0);
        assert!(outcome.fault(0).unwrap().contains("with the id of another"));
    }

    #[test]
    fn logs_are_read_as_they_are_written() {
        let text = format!("{} 17 0\n{} 18 3\n", EventId(1), EventId(2));
        assert_eq!(read_acknowledged(&text).unwrap(), [(EventId(1), 17, 0), (EventId(2), 18, 3)]);
        assert!(read_acknowledged("evt_1").is_err());
        assert_eq!(read_arrivals(&format!("{} 17\n", delivery(1))).unwrap(), [(delivery(1), 17)]);
    }
}
