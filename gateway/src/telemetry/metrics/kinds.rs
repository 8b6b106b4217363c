//! What is counted, in the closed sets that labels come from.

use std::time::Duration;

use crate::event::{Lane, PluginRun};

/// How a request to the ingest listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Ingested {
    /// Kept.
    Accepted,
    /// Dropped as a duplicate of one that is kept.
    Duplicate,
    /// No such source.
    UnknownSource,
    /// Refused by the source's verification.
    Unauthorized,
    /// Over a size limit.
    TooLarge,
    /// Not a request that can be taken: malformed, wrong method, disabled source.
    Refused,
    /// Its tenant is over its plan.
    OverPlan,
    /// Too slow.
    TimedOut,
    /// No room for it here: 503 without asking the store.
    Overloaded,
    /// The store could not take it.
    StoreFailed,
    /// The sender went away before its request was complete.
    HungUp,
    /// No event: a plugin of its source answered it.
    Answered,
    /// A plugin of its source failed, or gave no answer in time.
    PluginFailed,
}

impl Ingested {
    pub(super) const ALL: [(Self, &'static str); 13] = [
        (Self::Accepted, "accepted"),
        (Self::Duplicate, "duplicate"),
        (Self::UnknownSource, "unknown_source"),
        (Self::Unauthorized, "unauthorized"),
        (Self::TooLarge, "too_large"),
        (Self::Refused, "refused"),
        (Self::OverPlan, "over_plan"),
        (Self::TimedOut, "timed_out"),
        (Self::Overloaded, "overloaded"),
        (Self::StoreFailed, "store_failed"),
        (Self::HungUp, "hung_up"),
        (Self::Answered, "answered"),
        (Self::PluginFailed, "plugin_failed"),
    ];
}

/// Which kind of store write is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Write {
    /// A batch of accepted events.
    Accept,
    /// A batch of outcomes.
    Record,
}

/// For what an event waits whose plugins can't run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginWait {
    /// Its tenant's fuel.
    Fuel,
    /// A version that is poisoned.
    Poisoned,
}

/// What happened to a destination's circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitChange {
    /// It opened.
    Opened,
    /// A probe failed.
    Reopened,
    /// A probe succeeded.
    HalfOpened,
    /// It closed.
    Closed,
}

/// Whether a tenant was inside its throughput: delivery latency is promised to quiet ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum TenantClass {
    /// Inside its throughput and its in-flight window.
    Quiet,
    /// Over either.
    Noisy,
}

/// What happened to a shard's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// Taken.
    Acquired,
    /// Given up by us.
    Released,
    /// Another owner has it, or it ran out.
    Lost,
}

/// How full a shard is, as its owner last saw it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueSample {
    /// Unfinished entries of each lane, and how old the oldest is.
    pub lanes: Vec<(Lane, u64, Duration)>,
    /// Jobs that wait for their time.
    pub scheduled: u64,
    /// Jobs in parked sub-queues: the work of noisy tenants; that of quiet ones is in the lanes.
    pub parked: u64,
    /// How long the oldest of them waits at most.
    pub parked_age: Duration,
    /// Dead letters.
    pub dead_letters: u64,
}

/// What a plugin run is told of.
#[derive(Clone, Copy, Debug)]
pub struct PluginOutcome<'a> {
    /// What it ran for.
    pub track: Track,
    /// `ok`, or the failure's code.
    pub code: &'a str,
    /// Fuel used.
    pub fuel: u64,
    /// Wall time.
    pub took: Duration,
}

impl<'a> From<&'a PluginRun> for PluginOutcome<'a> {
    fn from(run: &'a PluginRun) -> Self {
        Self {
            track: Track::Stable,
            code: run.outcome.as_ref().err().map_or("ok", |failure| failure.code.as_str()),
            fuel: run.fuel,
            took: Duration::from_micros(run.took_us),
        }
    }
}

/// What a plugin ran for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// A connection, with the version that it names.
    Stable,
    /// A connection, with the version that takes a share of an alias' events.
    Canary,
    /// To be compared alone.
    Shadow,
    /// A source, to say whose a request is.
    Verify,
    /// A source, to answer what is no event.
    Respond,
    /// A destination, to sign an attempt.
    Sign,
    /// A destination, to say what an answer means.
    Judge,
}

impl Track {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Canary => "canary",
            Self::Shadow => "shadow",
            Self::Verify => "verify",
            Self::Respond => "respond",
            Self::Sign => "sign",
            Self::Judge => "judge",
        }
    }
}

/// What became of an event that was to be run by a shadow too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadowed {
    /// Both gave the same.
    Same,
    /// Both gave the same JSON, written in another way.
    Formatting,
    /// They gave something else.
    Different,
    /// The shadow failed where the other did not.
    Failed,
    /// There was no room to run it.
    Dropped,
}

impl Shadowed {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Formatting => "formatting",
            Self::Different => "different",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}
