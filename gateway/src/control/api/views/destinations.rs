//! Destinations as the gateway sees them, and the schedules of retry policies.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{FailureView, shown};
use crate::control::condition::{Answered, CircuitNote, Condition};
use crate::dispatch::schedule::Due;

/// What the gateway thinks of a destination.
#[derive(Debug, Serialize, ToSchema)]
pub struct DestinationStatusView {
    /// Why the gateway disabled it; null if it did not. `POST /v1/destinations/{destination}/enable` takes it back.
    disabled: Option<DisabledView>,
    /// Since when every attempt failed, once that is long: it will be disabled.
    failing_since: Option<String>,
    /// What it answered to its `handshake`; left out as long as it was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    handshake: Option<HandshakeView>,
    /// Its circuit, the worst of its tenant's shards; only when one destination is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit: Option<CircuitView>,
}

/// Why the gateway disabled a destination.
#[derive(Debug, Serialize, ToSchema)]
pub struct DisabledView {
    at: String,
    /// `gone` (it answered 410) or `failing` (every attempt failed for too long).
    code: String,
    detail: String,
}

/// What a destination answered when it was asked whether it agrees to be sent to.
#[derive(Debug, Serialize, ToSchema)]
pub struct HandshakeView {
    /// Whether it did. While it did not its deliveries wait, and it is asked now and then.
    agreed: bool,
    /// When it first answered so.
    at: String,
    /// Requests a minute that it allows; null for no limit.
    rate: Option<u32>,
    /// Why it did not agree.
    detail: Option<String>,
}

/// How a destination's circuit stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct CircuitView {
    /// `closed`, `open` (nothing is attempted) or `half_open` (it is tried with single deliveries).
    state: &'static str,
    /// Since when it is not closed.
    since: Option<String>,
    /// When it is tried, if it is open.
    until: Option<String>,
    /// The last failure.
    reason: Option<FailureView>,
}

impl HandshakeView {
    fn of(answered: &Answered) -> Self {
        let (agreement, detail) = match &answered.answer {
            Ok(agreement) => (Some(agreement), None),
            Err(detail) => (None, Some(detail.clone())),
        };
        let rate = agreement.and_then(|agreement| agreement.rate);
        Self { agreed: agreement.is_some(), at: shown(answered.at), rate, detail }
    }
}

impl DestinationStatusView {
    pub(in crate::control::api) fn of(condition: &Condition) -> Self {
        let disabled = condition.disabled.as_ref();
        Self {
            disabled: disabled.map(|one| DisabledView { at: shown(one.at), code: one.code.clone(), detail: one.detail.clone() }),
            failing_since: condition.failing_since.map(shown),
            handshake: condition.answered.as_ref().map(HandshakeView::of),
            circuit: None,
        }
    }

    pub(in crate::control::api) fn with(self, circuit: Option<&CircuitNote>) -> Self {
        let circuit = match circuit {
            None => CircuitView { state: "closed", since: None, until: None, reason: None },
            Some(note) => CircuitView {
                state: note.phase.as_str(),
                since: Some(shown(note.since)),
                until: note.until.map(shown),
                reason: Some(FailureView::of(&note.reason)),
            },
        };
        Self { circuit: Some(circuit), ..self }
    }
}

/// When each attempt of a delivery begins that always fails at once and without a Retry-After. Times count from the event's acceptance.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScheduleView {
    attempts: Vec<DueView>,
}

/// When an attempt begins.
#[derive(Debug, Serialize, ToSchema)]
pub struct DueView {
    /// From 1.
    attempt: u32,
    /// If jitter takes away all that it may.
    #[schema(example = "1m 10s")]
    earliest: String,
    /// On average.
    #[schema(example = "1m 15s")]
    nominal: String,
    /// If jitter takes away nothing.
    #[schema(example = "1m 20s")]
    latest: String,
}

impl ScheduleView {
    pub(in crate::control::api) fn of(schedule: &[Due]) -> Self {
        let text = |ms| humantime::format_duration(Duration::from_millis(ms)).to_string();
        let row = |due: &Due| DueView {
            attempt: due.attempt,
            earliest: text(due.earliest_ms),
            nominal: text(due.nominal_ms),
            latest: text(due.latest_ms),
        };
        Self { attempts: schedule.iter().map(row).collect() }
    }
}
