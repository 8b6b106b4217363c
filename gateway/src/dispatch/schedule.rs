//! When a delivery is tried again, and when it is given up. Pure: policy, history, outcome, now and randomness go in, a decision
//! comes out.
//!
//! - Delays grow as the policy says ([`Backoff`]), and **jitter** takes up to a share of each away: by default all of it, so that a delay is
//!   uniform between nothing and a ceiling that doubles with each attempt. A destination that comes back after an outage meets a
//!   spread of retries, not a front.
//! - **Retry-After is obeyed**: never earlier than the destination asked, with a jitter on top, but at most `max_retry_after_ms` away.
//! - **Two ends**: attempts run out, or the delivery grows too old. A retry that would fall behind the age limit is moved up to the
//!   limit itself, so that the whole time is used.
//! - **Rules** say what a status means, the first that fits. Without one, a failure that a retry cannot help is given up at once. `410 Gone`
//!   has a reason of its own, because more follows from it than from any other: the receiver asks that nothing be sent any more.
//!
//! The default is 18 attempts: about a minute of quick ones, then hours apart. They take two and a half days on average and three at
//! most, so that what breaks on a Friday evening and is repaired on Monday morning loses nothing.

mod timetable;

use std::time::Duration;

use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

pub use self::timetable::Due;
use crate::clock::Timestamp;
use crate::event::{Failure, Party};

/// How a destination's failed deliveries are retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// Attempts altogether, the first one included.
    pub max_attempts: u32,
    /// How delays grow.
    pub backoff: Backoff,
    /// The first delay, where `backoff` has none of its own.
    pub base_ms: u64,
    /// No delay exceeds this, where `backoff` has none of its own.
    pub max_delay_ms: u64,
    /// How much of a delay chance may take away, in thousandths: 1000 for all of it.
    pub jitter: u16,
    /// How far away a destination may push the next attempt by Retry-After.
    pub max_retry_after_ms: u64,
    /// How long after the event was accepted the last attempt may start.
    pub max_age_ms: u64,
    /// What statuses mean; the first that fits.
    pub rules: Vec<Rule>,
}

/// How delays grow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// Each is twice the one before.
    #[default]
    Exponential,
    /// Each is longer than the one before by the first.
    Linear,
    /// These, milliseconds. After the last of them there is no other attempt.
    List(Vec<u64>),
}

/// What a range of statuses means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The first status that it is about.
    pub from: u16,
    /// The last.
    pub to: u16,
    /// What is done.
    pub then: Then,
}

/// What is done with a delivery that was answered so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It is tried again.
    Retry,
    /// It is given up, and can be retried by hand.
    DeadLetter,
    /// It counts as delivered.
    Deliver,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 18,
            backoff: Backoff::Exponential,
            base_ms: 10 * SECOND_MS,
            max_delay_ms: DAY_MS,
            jitter: 1000,
            max_retry_after_ms: DAY_MS,
            max_age_ms: 3 * DAY_MS,
            rules: Vec::new(),
        }
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
        /// The status, if one came.
        status: Option<u16>,
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
    /// A rule of the policy says so.
    Ruled,
    /// All attempts are used up.
    AttemptsExhausted,
    /// The delivery is older than the policy allows.
    TooOld,
}

impl RetryPolicy {
    /// The most delays in a list.
    pub const MAX_DELAYS: usize = 49;
    /// The longest delay.
    pub const MAX_DELAY: Duration = Duration::from_millis(7 * DAY_MS);

    /// Every value that is outside its limits.
    pub fn problems(&self) -> Vec<PolicyError> {
        let limits = [
            ("max_attempts", u64::from(self.max_attempts), 1, 50),
            ("jitter", u64::from(self.jitter), 0, 1000),
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
        let (failure, status, not_before) = match outcome {
            Outcome::Delivered => return Next::Done,
            Outcome::Failed { failure, status, not_before } => (failure, status, not_before),
        };
        match status.and_then(|status| self.ruling(status)) {
            Some(Then::Deliver) => return Next::Done,
            Some(Then::DeadLetter) => return Next::DeadLetter(Reason::Ruled),
            Some(Then::Retry) => {}
            None if failure.code == Failure::GONE => return Next::DeadLetter(Reason::Gone),
            None if !failure.retryable => return Next::DeadLetter(Reason::NotRetryable),
            None => {}
        }
        if history.attempts >= self.most_attempts() {
            return Next::DeadLetter(Reason::AttemptsExhausted);
        }
        let oldest = history.since.after(Duration::from_millis(self.max_age_ms));
        if now >= oldest {
            return Next::DeadLetter(Reason::TooOld);
        }
        let wanted = self.wanted(history.attempts, not_before, now, rng);
        Next::RetryAt(wanted.min(oldest))
    }

    /// What its rules say of a status.
    pub fn ruling(&self, status: u16) -> Option<Then> {
        self.rules.iter().find(|rule| (rule.from..=rule.to).contains(&status)).map(|rule| rule.then)
    }

    fn wanted(&self, attempts: u32, not_before: Option<Timestamp>, now: Timestamp, rng: &mut impl Rng) -> Timestamp {
        let ceiling = self.ceiling_ms(attempts);
        let jittered = now.after(Duration::from_millis(rng.random_range(self.floor_ms(ceiling)..=ceiling)));
        let farthest = now.after(Duration::from_millis(self.max_retry_after_ms));
        match not_before.map(|asked| asked.min(farthest)) {
            Some(asked) if asked >= jittered => asked.after(Duration::from_millis(rng.random_range(0..=self.spread_ms()))),
            _ => jittered,
        }
    }

    /// Attempts altogether, as far as there are delays between them.
    fn most_attempts(&self) -> u32 {
        match &self.backoff {
            Backoff::List(delays) => u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1).min(self.max_attempts),
            Backoff::Exponential | Backoff::Linear => self.max_attempts,
        }
    }

    /// The delay after so many attempts, before jitter.
    fn ceiling_ms(&self, attempts: u32) -> u64 {
        let before = attempts.saturating_sub(1);
        match &self.backoff {
            Backoff::Exponential => self.base_ms.saturating_mul(1 << before.min(63)).min(self.max_delay_ms),
            Backoff::Linear => self.base_ms.saturating_mul(u64::from(before) + 1).min(self.max_delay_ms),
            Backoff::List(delays) => delays.get(before as usize).or(delays.last()).copied().unwrap_or(0),
        }
    }

    /// What jitter leaves of a delay at least.
    fn floor_ms(&self, ceiling: u64) -> u64 {
        ceiling - ceiling.saturating_mul(u64::from(self.jitter.min(1000))) / 1000
    }

    /// How far those spread that are asked to come at one time.
    fn spread_ms(&self) -> u64 {
        let first = self.ceiling_ms(1);
        first - self.floor_ms(first)
    }
}

impl Reason {
    /// The dead letter's failure: this reason over the failure of the last attempt.
    pub fn over(self, last: &Failure) -> Failure {
        let Failure { party, code, detail, .. } = last;
        match self {
            // The last failure is the whole story.
            Self::Gone | Self::NotRetryable | Self::Ruled => Failure { retryable: false, ..last.clone() },
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
