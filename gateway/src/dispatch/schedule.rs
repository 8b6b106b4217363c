//! When a delivery is tried again, and when it is given up. Pure: policy, history, outcome, now and randomness go in, a decision
//! comes out.
//!
//! - Delays are exponential with **full jitter**: uniform between nothing and a ceiling that doubles with each attempt. A
//!   destination that comes back after an outage meets a spread of retries, not a front.
//! - **Retry-After is obeyed**: never earlier than the destination asked, with a jitter on top, but at most `max_retry_after_ms` away.
//! - **Two ends**: attempts run out, or the delivery grows too old. A retry that would fall behind the age limit is moved up to the
//!   limit itself, so that the whole time is used.
//! - A failure that a retry cannot help is given up at once. `410 Gone` has a reason of its own, because more follows from it than
//!   from any other: the receiver asks that nothing be sent any more.
//!
//! The default is 18 attempts: about a minute of quick ones, then hours apart. They take two and a half days on average and three at
//! most, so that what breaks on a Friday evening and is repaired on Monday morning loses nothing.

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::event::{Failure, Party};

/// How a destination's failed deliveries are retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts altogether, the first one included.
    pub max_attempts: u32,
    /// Ceiling of the first delay; it doubles with each attempt.
    pub base_ms: u64,
    /// The ceiling never exceeds this.
    pub max_delay_ms: u64,
    /// How far away a destination may push the next attempt by Retry-After.
    pub max_retry_after_ms: u64,
    /// How long after the event was accepted the last attempt may start.
    pub max_age_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 18, base_ms: 10 * SECOND_MS, max_delay_ms: DAY_MS, max_retry_after_ms: DAY_MS, max_age_ms: 3 * DAY_MS }
    }
}

/// A value of a retry policy outside its limits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` must be from {min} to {max}, not {value}")]
pub struct PolicyError {
    /// The field.
    pub field: &'static str,
    /// What it is.
    pub value: u64,
    /// The least that is allowed.
    pub min: u64,
    /// The most that is allowed.
    pub max: u64,
}

/// A delivery's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    /// Attempts made, the one that just ended included.
    pub attempts: u32,
    /// When the event was accepted, or when somebody asked for the delivery to be tried afresh.
    pub since: Timestamp,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome<'a> {
    /// A complete 2xx head came.
    Delivered,
    /// Anything else.
    Failed {
        /// What went wrong.
        failure: &'a Failure,
        /// The destination's Retry-After, as a point in time.
        not_before: Option<Timestamp>,
    },
}

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Delivered; nothing more.
    Done,
    /// Try again then.
    RetryAt(Timestamp),
    /// Give up, with the reason.
    DeadLetter(Reason),
}

/// Why a delivery is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The destination answered 410: it wants nothing more.
    Gone,
    /// No retry can help.
    NotRetryable,
    /// All attempts are used up.
    AttemptsExhausted,
    /// The delivery is older than the policy allows.
    TooOld,
}

impl RetryPolicy {
    /// Every value that is outside its limits.
    pub fn problems(&self) -> Vec<PolicyError> {
        let limits = [
            ("max_attempts", u64::from(self.max_attempts), 1, 50),
            ("base_ms", self.base_ms, 1, 60 * 60 * SECOND_MS),
            ("max_delay_ms", self.max_delay_ms, self.base_ms, 7 * DAY_MS),
            ("max_retry_after_ms", self.max_retry_after_ms, 0, 7 * DAY_MS),
            ("max_age_ms", self.max_age_ms, SECOND_MS, 30 * DAY_MS),
        ];
        limits
            .into_iter()
            .filter(|(_, value, min, max)| value < min || value > max)
            .map(|(field, value, min, max)| PolicyError { field, value, min, max })
            .collect()
    }

    /// Decides what follows an attempt that ended `now`.
    pub fn next(&self, history: History, outcome: Outcome<'_>, now: Timestamp, rng: &mut impl Rng) -> Next {
        let (failure, not_before) = match outcome {
            Outcome::Delivered => return Next::Done,
            Outcome::Failed { failure, not_before } => (failure, not_before),
        };
        if failure.code == Failure::GONE {
            return Next::DeadLetter(Reason::Gone);
        }
        if !failure.retryable {
            return Next::DeadLetter(Reason::NotRetryable);
        }
        if history.attempts >= self.max_attempts {
            return Next::DeadLetter(Reason::AttemptsExhausted);
        }
        let oldest = history.since.after(Duration::from_millis(self.max_age_ms));
        if now >= oldest {
            return Next::DeadLetter(Reason::TooOld);
        }
        let wanted = self.wanted(history.attempts, not_before, now, rng);
        Next::RetryAt(wanted.min(oldest))
    }

    fn wanted(&self, attempts: u32, not_before: Option<Timestamp>, now: Timestamp, rng: &mut impl Rng) -> Timestamp {
        let jittered = now.after(Duration::from_millis(rng.random_range(0..=self.ceiling_ms(attempts))));
        let farthest = now.after(Duration::from_millis(self.max_retry_after_ms));
        match not_before.map(|asked| asked.min(farthest)) {
            Some(asked) if asked >= jittered => asked.after(Duration::from_millis(rng.random_range(0..=self.base_ms))),
            _ => jittered,
        }
    }

    fn ceiling_ms(&self, attempts: u32) -> u64 {
        let doublings = attempts.saturating_sub(1).min(63);
        self.base_ms.saturating_mul(1 << doublings).min(self.max_delay_ms)
    }
}

impl Reason {
    /// The dead letter's failure: this reason over the failure of the last attempt.
    pub fn over(self, last: &Failure) -> Failure {
        let Failure { party, code, detail, .. } = last;
        match self {
            // The last failure is the whole story.
            Self::Gone | Self::NotRetryable => Failure { retryable: false, ..last.clone() },
            Self::AttemptsExhausted => {
                dead(*party, "attempts_exhausted", format!("every attempt failed; the last one with {code}: {detail}"))
            }
            Self::TooOld => {
                dead(*party, "too_old", format!("it could not be delivered in time; the last attempt failed with {code}: {detail}"))
            }
        }
    }
}

fn dead(party: Party, code: &str, detail: String) -> Failure {
    Failure { party, code: code.to_owned(), detail, retryable: false }
}

const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 24 * 60 * 60 * SECOND_MS;

#[cfg(test)]
mod tests;
