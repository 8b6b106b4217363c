//! The schedule that a policy gives: when each attempt of a delivery begins that always fails at once and without a Retry-After.

use super::RetryPolicy;

/// When an attempt begins, in milliseconds after the event was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which attempt, from 1.
    pub attempt: u32,
    /// If jitter takes away all that it may, of each delay.
    pub earliest_ms: u64,
    /// If it takes away half of that: on average.
    pub nominal_ms: u64,
    /// If it takes away nothing.
    pub latest_ms: u64,
}

impl RetryPolicy {
    /// Each attempt that there may be. What would fall behind the age limit is at the limit, and there is none after it.
    pub fn timetable(&self) -> Vec<Due> {
        let mut due = Due { attempt: 1, earliest_ms: 0, nominal_ms: 0, latest_ms: 0 };
        let mut all = vec![due];
        while due.attempt < self.most_attempts() && due.earliest_ms < self.max_age_ms {
            let ceiling = self.ceiling_ms(due.attempt);
            let floor = self.floor_ms(ceiling);
            let later = |at: u64, by: u64| at.saturating_add(by).min(self.max_age_ms);
            due = Due {
                attempt: due.attempt + 1,
                earliest_ms: later(due.earliest_ms, floor),
                nominal_ms: later(due.nominal_ms, floor + (ceiling - floor) / 2),
                latest_ms: later(due.latest_ms, ceiling),
            };
            all.push(due);
        }
        all
    }
}
