//! When something is told: the hysteresis of one condition of one thing. Pure: what is so, now and the rules go in.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Rules;
use super::notice::Notice;
use crate::clock::Timestamp;
use crate::event::{ConnectionId, DestinationId};

/// What can be so of a tenant, or of a thing that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Condition {
    /// The gateway disabled a destination.
    Disabled(DestinationId),
    /// A destination has failed for long.
    Failing(DestinationId),
    /// A destination's circuit is not closed.
    Circuit(DestinationId),
    /// There are many new dead letters.
    DeadLetters,
    /// What runs on a stage is poisoned.
    Poisoned {
        /// The stage's connection.
        connection: ConnectionId,
        /// Its position there.
        stage: usize,
    },
    /// Much is queued.
    Backlog,
}

impl Condition {
    /// Every kind of condition, by the name that its metric has.
    pub(super) const NAMES: [&str; 6] =
        ["destination_disabled", "destination_failing", "circuit_open", "dead_letters_growing", "plugin_poisoned", "backlog"];

    /// Which of [`Condition::NAMES`] it is.
    pub(super) fn number(self) -> usize {
        match self {
            Self::Disabled(_) => 0,
            Self::Failing(_) => 1,
            Self::Circuit(_) => 2,
            Self::DeadLetters => 3,
            Self::Poisoned { .. } => 4,
            Self::Backlog => 5,
        }
    }
}

/// Which change of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Edge {
    /// It began.
    Begun,
    /// It is over.
    Over,
}

/// What has been told of a condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Alarm {
    /// Whether the last thing told was that it began.
    pub(super) stands: bool,
    /// How often it has been told to begin: with the edge, the name of what was told.
    pub(super) episode: u64,
    /// Since when it was so, as far as it was told.
    pub(super) since: Timestamp,
    begun_at: Option<Timestamp>,
    over_at: Option<Timestamp>,
    /// Told, and perhaps not accepted yet.
    pub(super) pending: Option<Pending>,
    /// Since when it is not so.
    #[serde(skip)]
    calm_since: Option<Timestamp>,
}

/// A notice that is on its way to the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) edge: Edge,
    pub(super) at: Timestamp,
    pub(super) notice: Notice,
}

impl Alarm {
    /// What is to be told now.
    pub(super) fn step(&mut self, is_so: bool, now: Timestamp, rules: &Rules) -> Option<Edge> {
        let is_quiet = |told: Option<Timestamp>| told.is_none_or(|at| now.since(at) >= rules.quiet);
        if is_so {
            self.calm_since = None;
            return (!self.stands && is_quiet(self.begun_at)).then_some(Edge::Begun);
        }
        let calm_since = *self.calm_since.get_or_insert(now);
        (self.stands && now.since(calm_since) >= rules.hold && is_quiet(self.over_at)).then_some(Edge::Over)
    }

    /// Notes what is being told. `since` is when it began.
    pub(super) fn telling(&mut self, pending: Pending, since: Timestamp) {
        match pending.edge {
            Edge::Begun => {
                self.stands = true;
                self.episode += 1;
                self.since = since;
                self.begun_at = Some(pending.at);
            }
            Edge::Over => {
                self.stands = false;
                self.over_at = Some(pending.at);
            }
        }
        self.pending = Some(pending);
    }

    /// Whether anything was told that has not been taken back.
    pub(super) fn was_told(&self) -> bool {
        self.stands || self.begun_at.is_some() || self.pending.is_some()
    }

    /// What it is once nobody hears of it, or what it is about is not there: told of nothing. How often it was told stays, so that what is told next
    /// is no repeat.
    pub(super) fn untold(&self, now: Timestamp) -> Self {
        Self { episode: self.episode, over_at: Some(now), calm_since: Some(now), ..Self::default() }
    }

    /// Notes that it is not so, without telling of it.
    pub(super) fn calm(&mut self, now: Timestamp) {
        self.calm_since.get_or_insert(now);
    }

    /// Whether nothing of it matters any more: it is over, and nobody would be told too early of the next time. Longer than the dedup
    /// keys of what was told, which count from it.
    pub(super) fn is_spent(&self, now: Timestamp, rules: &Rules) -> bool {
        let last = self.begun_at.max(self.over_at).unwrap_or_default();
        !self.stands && self.pending.is_none() && self.calm_since.is_some() && now.since(last) >= rules.quiet * 2
    }
}

/// Events of the last while, out of counts that only grow. Counts to a twentieth of the while.
#[derive(Debug, Default)]
pub(super) struct Recent {
    last: u64,
    steps: VecDeque<(Timestamp, u64)>,
}

impl Recent {
    /// Takes a reading; answers how many there were in the while before it.
    pub(super) fn read(&mut self, count: u64, now: Timestamp, window: Duration) -> u64 {
        let new = count.saturating_sub(self.last);
        self.last = count;
        if new > 0 {
            match self.steps.back_mut() {
                Some((began, sum)) if now.since(*began) < window / 20 => *sum += new,
                _ => self.steps.push_back((now, new)),
            }
        }
        while self.steps.front().is_some_and(|(began, _)| now.since(*began) >= window) {
            self.steps.pop_front();
        }
        self.steps.iter().map(|(_, sum)| sum).sum()
    }

    /// Since when it counts anything.
    pub(super) fn since(&self) -> Option<Timestamp> {
        self.steps.front().map(|(began, _)| *began)
    }
}

/// Whether a measure is too much: from its threshold on, and once that was told, as long as it is not below half of it.
pub(super) fn is_over(value: u64, threshold: u64, stands: bool) -> bool {
    value >= if stands { threshold.div_ceil(2) } else { threshold }.max(1)
}

#[cfg(test)]
mod tests;
