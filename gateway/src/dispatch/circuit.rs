//! The circuit breaker of one destination: a state machine. Pure: settings, outcomes and now go in.
//!
//! - **Closed**: everything is attempted. So many failures in a row open it, or so large a share of failures among the attempts of the last
//!   while. Counting begins with a failure, so a destination that never fails has no circuit at all.
//! - **Open**: nothing is attempted, for a pause.
//! - **Half open**: after the pause one probe is let in; once it has succeeded, a few. When all have, the circuit closes. The first that fails
//!   opens it again, for twice as long, up to a limit. A probe that is never heard of makes room for another.
//!
//! One that opens again soon after it closed goes on with the pause that it had: that is what keeps a destination that can't bear its
//! backlog from swinging. What began before the circuit opened says nothing about it any more.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::Failure;

/// How finely the window slides.
const STEPS: u64 = 10;
/// How much longer than an attempt may take it takes until a probe counts as lost.
const GRACE: Duration = Duration::from_secs(5);
/// How long one is kept that lets probes in and gets none.
const UNUSED: Duration = Duration::from_secs(24 * 60 * 60);

/// When a circuit opens, and how it closes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// So many failures in a row open it; 0 for any number.
    pub failures: u32,
    /// Such a share of failures opens it, percent; 0 for any.
    pub percent: u8,
    /// Attempts in the window before a share says something.
    pub min_attempts: u32,
    /// The window, milliseconds.
    pub window_ms: u64,
    /// The first pause, milliseconds.
    pub pause_ms: u64,
    /// The longest pause, milliseconds.
    pub max_pause_ms: u64,
    /// Probes that have to succeed.
    pub probes: u32,
    /// After so long a time of failures alone the destination is disabled, milliseconds.
    pub disable_after_ms: Option<u64>,
    /// How long an attempt may take, milliseconds.
    pub timeout_ms: u64,
}

/// Whether an attempt may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Yes.
    Closed,
    /// So many, as probes.
    Probing(usize),
    /// Not before this.
    Open(Timestamp),
}

/// What an outcome did to the circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that shows.
    None,
    /// It opened, or opened again.
    Opened,
    /// A probe succeeded, and more have to.
    HalfOpened,
    /// It closed.
    Closed,
}

/// What a circuit is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Timestamp },
    HalfOpen { let_in: u32, passed: u32, lost_at: Timestamp },
}

/// A circuit as others see it, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Everything is attempted.
    Closed,
    /// Probes are.
    HalfOpen,
    /// Nothing is.
    Open,
}

impl Phase {
    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// A destination's circuit.
#[derive(Clone, Debug)]
pub struct Circuit {
    state: State,
    /// Since when it is not closed; or when it was made, or closed.
    since: Timestamp,
    in_a_row: u32,
    counts: [Count; STEPS as usize],
    pause: Duration,
    /// Until then it goes on with its pause when it opens, and is kept.
    remembered_until: Timestamp,
    /// Since when all attempts failed, and how many.
    failing: Option<(Timestamp, u64)>,
    reason: Failure,
}

/// Attempts in one step of the window.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    step: u64,
    attempts: u32,
    failures: u32,
}

impl Circuit {
    /// For a destination that has just failed for the first time in a while; the failure itself is yet to be told.
    pub fn new(reason: Failure, now: Timestamp) -> Self {
        Self {
            state: State::Closed,
            since: now,
            in_a_row: 0,
            counts: Default::default(),
            pause: Duration::ZERO,
            remembered_until: now,
            failing: None,
            reason,
        }
    }

    /// Whether an attempt may begin now.
    pub fn standing(&self, breaker: &Breaker, now: Timestamp) -> Standing {
        match self.state {
            State::Closed => Standing::Closed,
            State::Open { until } if now < until => Standing::Open(until),
            State::Open { .. } => Standing::Probing(1),
            State::HalfOpen { let_in, passed, lost_at } => {
                let under_way = if now >= lost_at { passed } else { let_in };
                let most = if passed == 0 { 1 } else { breaker.probes };
                match most.saturating_sub(under_way) {
                    0 => Standing::Open(lost_at),
                    room => Standing::Probing(room as usize),
                }
            }
        }
    }

    /// Begins an attempt. `Some(true)` if it is a probe, none if it may not begin.
    pub fn begin(&mut self, breaker: &Breaker, now: Timestamp) -> Option<bool> {
        match self.standing(breaker, now) {
            Standing::Closed => return Some(false),
            Standing::Open(_) => return None,
            Standing::Probing(_) => {}
        }
        let lost_at = now.after(Duration::from_millis(breaker.timeout_ms) + GRACE);
        let (under_way, passed) = match self.state {
            State::HalfOpen { passed, lost_at, .. } if now >= lost_at => (passed, passed),
            State::HalfOpen { let_in, passed, .. } => (let_in, passed),
            _ => (0, 0),
        };
        self.state = State::HalfOpen { let_in: under_way + 1, passed, lost_at };
        Some(true)
    }

    /// Notes a probe that was not used, or says nothing: another may be.
    pub fn unused(&mut self) {
        if let State::HalfOpen { let_in, passed, .. } = &mut self.state {
            *let_in = let_in.saturating_sub(1).max(*passed);
        }
    }

    /// Notes an attempt that failed.
    pub fn failed(&mut self, breaker: &Breaker, is_probe: bool, reason: &Failure, now: Timestamp) -> Change {
        let (since, count) = self.failing.unwrap_or((now, 0));
        self.failing = Some((since, count.saturating_add(1)));
        self.reason = reason.clone();
        match self.state {
            State::Closed => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                self.count(breaker, true, now);
                self.remember(breaker, now);
                if self.is_too_much(breaker, now) { self.open(breaker, now) } else { Change::None }
            }
            State::HalfOpen { .. } if is_probe => self.open(breaker, now),
            State::HalfOpen { .. } | State::Open { .. } => Change::None,
        }
    }

    /// Notes an attempt that succeeded.
    pub fn succeeded(&mut self, breaker: &Breaker, is_probe: bool, now: Timestamp) -> Change {
        self.failing = None;
        match self.state {
            State::Closed => {
                self.in_a_row = 0;
                self.count(breaker, false, now);
                Change::None
            }
            State::HalfOpen { passed, .. } if is_probe && passed + 1 >= breaker.probes => {
                (self.state, self.since, self.in_a_row, self.counts) = (State::Closed, now, 0, Default::default());
                self.remember(breaker, now);
                Change::Closed
            }
            State::HalfOpen { let_in, passed, lost_at } if is_probe => {
                let change = if passed == 0 { Change::HalfOpened } else { Change::None };
                self.state = State::HalfOpen { let_in, passed: passed + 1, lost_at };
                change
            }
            State::HalfOpen { .. } | State::Open { .. } => Change::None,
        }
    }

    /// Opens it whatever was counted.
    pub fn open(&mut self, breaker: &Breaker, now: Timestamp) -> Change {
        let first = Duration::from_millis(breaker.pause_ms);
        let is_again = self.state != State::Closed || (now < self.remembered_until && !self.pause.is_zero());
        self.pause = if is_again { (self.pause * 2).max(first) } else { first }.min(Duration::from_millis(breaker.max_pause_ms));
        if self.state == State::Closed {
            self.since = now;
        }
        self.state = State::Open { until: now.after(self.pause) };
        (self.in_a_row, self.counts) = (0, Default::default());
        Change::Opened
    }

    /// How it shows.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    /// Since when it is as it is.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// When an open one lets a probe in.
    pub fn until(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { until } => Some(until),
            _ => None,
        }
    }

    /// The last failure.
    pub fn reason(&self) -> &Failure {
        &self.reason
    }

    /// Since when every attempt failed, and how many.
    pub fn failing(&self) -> Option<(Timestamp, u64)> {
        self.failing
    }

    /// Whether nothing has to be known of it any more.
    pub fn is_over(&self, now: Timestamp) -> bool {
        match self.state {
            State::Closed => now >= self.remembered_until,
            State::Open { until: at } | State::HalfOpen { lost_at: at, .. } => now >= at.after(UNUSED),
        }
    }

    fn is_too_much(&self, breaker: &Breaker, now: Timestamp) -> bool {
        if breaker.failures > 0 && self.in_a_row >= breaker.failures {
            return true;
        }
        let step = step_of(breaker, now);
        let recent = self.counts.iter().filter(|count| count.step + STEPS > step);
        let (attempts, failures) = recent.fold((0_u64, 0_u64), |(attempts, failures), count| {
            (attempts + u64::from(count.attempts), failures + u64::from(count.failures))
        });
        breaker.percent > 0
            && attempts >= u64::from(breaker.min_attempts)
            && failures * 100 >= attempts * u64::from(breaker.percent)
    }

    fn count(&mut self, breaker: &Breaker, is_failure: bool, now: Timestamp) {
        let step = step_of(breaker, now);
        let count = &mut self.counts[(step % STEPS) as usize];
        if count.step != step {
            *count = Count { step, ..Count::default() };
        }
        count.attempts = count.attempts.saturating_add(1);
        count.failures = count.failures.saturating_add(u32::from(is_failure));
    }

    fn remember(&mut self, breaker: &Breaker, now: Timestamp) {
        let time = Duration::from_millis(breaker.window_ms).max(self.pause);
        self.remembered_until = self.remembered_until.max(now.after(time));
    }
}

fn step_of(breaker: &Breaker, now: Timestamp) -> u64 {
    now.0 / (breaker.window_ms / STEPS).max(1)
}

#[cfg(test)]
mod tests;
