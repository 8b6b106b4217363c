//! Events as they are shown: their deliveries, attempts and runs, and what they wait for.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use super::{AttemptPartView, shown};
use crate::control::waiting::{Explainer, Waiting};
use crate::event::{Attempt, Event, Failure, Header, PluginRun, Request};
use crate::store::{DeliveryRecord, DeliveryState, EventHistory, EventSummary};

/// An event.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventView {
    id: String,
    source: String,
    accepted_at: String,
    /// `queued`: nothing is recorded yet. `active`: something is still to happen. `dead_lettered`: at least one delivery was
    /// given up. `delivered`: at least one was delivered. `filtered`, `unmatched`: none was to be.
    state: &'static str,
    /// Why it is not done yet; only while something is still to happen.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingView>,
    deliveries: Vec<DeliveryView>,
    /// Whether it was made of a bookmark; only when one event is shown, and while history keeps its request.
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<bool>,
    /// What came in; only when one event is shown, and while history keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestView>,
}

impl EventView {
    pub(in crate::control::api) fn summary(event: &EventSummary, explainer: Explainer<'_>) -> Self {
        Self {
            id: event.id.to_string(),
            source: event.source.to_string(),
            accepted_at: shown(event.accepted_at),
            state: overall(event),
            waiting: explainer.event().map(WaitingView::of),
            deliveries: event.deliveries.iter().map(|row| DeliveryView::of(row, explainer)).collect(),
            test: None,
            request: None,
        }
    }

    pub(in crate::control::api) fn full(history: &EventHistory, explainer: Explainer<'_>) -> Self {
        Self {
            test: history.event.as_ref().map(Event::is_test),
            request: history.event.as_ref().map(|event| RequestView::of(&event.request)),
            ..Self::summary(&history.summary, explainer)
        }
    }
}

fn overall(event: &EventSummary) -> &'static str {
    let any = |is: fn(&DeliveryState) -> bool| event.deliveries.iter().any(|row| is(&row.state));
    if event.deliveries.is_empty() && !event.finished {
        "queued"
    } else if !event.finished || any(|state| !state.is_terminal()) {
        "active"
    } else if any(|state| matches!(state, DeliveryState::DeadLettered { .. })) {
        "dead_lettered"
    } else if any(|state| matches!(state, DeliveryState::Delivered)) {
        "delivered"
    } else if any(|state| matches!(state, DeliveryState::Filtered { .. })) {
        "filtered"
    } else {
        "unmatched"
    }
}

/// A request as it came in.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestView {
    method: String,
    /// Below the source.
    path: String,
    query: Option<String>,
    /// In order, repeated ones repeated; credentials were taken out.
    headers: Vec<HeaderView>,
    /// Bytes of the body.
    size: usize,
    /// The body, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64, if it isn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// A header line.
#[derive(Debug, Serialize, ToSchema)]
pub struct HeaderView {
    name: String,
    /// Bytes that are not UTF-8 are shown as `U+FFFD`.
    value: String,
    /// The value in base64, if it isn't text.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

impl HeaderView {
    pub(super) fn of(header: &Header) -> Self {
        let value = String::from_utf8_lossy(&header.value);
        let is_text = matches!(value, std::borrow::Cow::Borrowed(_));
        let value_base64 = (!is_text).then(|| STANDARD.encode(&header.value));
        Self { name: header.name.clone(), value: value.into_owned(), value_base64 }
    }
}

impl RequestView {
    pub(super) fn of(request: &Request) -> Self {
        let text = std::str::from_utf8(&request.body).ok().map(str::to_owned);
        Self {
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            headers: request.headers.iter().map(HeaderView::of).collect(),
            size: request.body.len(),
            body_base64: text.is_none().then(|| STANDARD.encode(&request.body)),
            body: text,
        }
    }
}

/// What became of an event on one connection.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeliveryView {
    id: String,
    /// Null if this is of the whole event: it waits or was given up before it was planned, or matched no connection.
    connection: Option<String>,
    /// Null if it is not planned.
    destination: Option<String>,
    /// Which output of the transform.
    output: u32,
    /// Whether a replay made it, and not the event's own way.
    replay: bool,
    /// `delivered`, `filtered`, `unmatched`, `scheduled`, `parked` or `dead_lettered`.
    state: &'static str,
    /// When this was recorded.
    at: String,
    /// When it is tried again, if it is scheduled.
    #[serde(skip_serializing_if = "Option::is_none")]
    due: Option<String>,
    /// What filtered it, or why it was parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Why it is not done yet; only while something is still to happen.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<WaitingView>,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView>,
    attempts: Vec<AttemptView>,
    plugin_runs: Vec<RunView>,
}

impl DeliveryView {
    pub(in crate::control::api) fn of(row: &DeliveryRecord, explainer: Explainer<'_>) -> Self {
        let (mut due, mut reason, mut failure) = (None, None, None);
        let state = match &row.state {
            DeliveryState::Delivered => "delivered",
            DeliveryState::Filtered { by } => {
                reason = Some(by.clone());
                "filtered"
            }
            DeliveryState::Unmatched => "unmatched",
            DeliveryState::Scheduled { due: at } => {
                due = Some(shown(*at));
                "scheduled"
            }
            DeliveryState::Parked { reason: why, .. } => {
                reason = Some(why.clone());
                "parked"
            }
            DeliveryState::DeadLettered { reason } => {
                failure = Some(FailureView::of(reason));
                "dead_lettered"
            }
        };
        Self {
            id: row.id.to_string(),
            connection: row.connection.map(|id| id.to_string()),
            destination: row.destination.map(|id| id.to_string()),
            output: row.output,
            replay: explainer.is_replay(row),
            state,
            at: shown(row.at),
            due,
            reason,
            waiting: explainer.delivery(row).map(WaitingView::of),
            failure,
            attempts: row.attempts.iter().map(AttemptView::of).collect(),
            plugin_runs: row.runs.iter().map(RunView::of).collect(),
        }
    }
}

/// Why something is not done yet.
#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingView {
    /// `lane`: its turn, in its lane or behind what it waited for before. `held`: an operator, who diverted its tenant or source. `paused`: an operator, who
    /// paused its lane, its shard or retries, or its connection, which is paused. `tenant_window`, `destination_window`: a place there. `destination_disabled`.
    /// `destination_handshake`: its destination has not agreed to be sent to. `order`: deliveries of its key that come before it. `retry`: its next attempt's
    /// time. `plugin_fuel`, `plugin_poisoned`: its plugins. `rate_limit`, `delivery_rate`: its destination's rate, or its tenant's. `no_capacity`: a
    /// connection to its destination. `circuit_open`: its destination's circuit.
    #[serde(rename = "for")]
    reason: &'static str,
    /// As far as it is recorded.
    since: String,
    /// When it goes on by itself; null if that is not known.
    until: Option<String>,
    /// In words.
    detail: String,
}

impl WaitingView {
    pub(super) fn of(waiting: Waiting) -> Self {
        let Waiting { reason, since, until, detail } = waiting;
        Self { reason: reason.as_str(), since: shown(since), until: until.map(shown), detail }
    }
}

/// Who failed, and how.
#[derive(Debug, Serialize, ToSchema)]
pub struct FailureView {
    /// `gateway`, `plugin`, `network` or `destination`.
    party: String,
    /// A stable name to branch on.
    code: String,
    detail: String,
    /// Whether trying again can help.
    retryable: bool,
}

impl FailureView {
    pub(super) fn of(failure: &Failure) -> Self {
        let party = serde_json::to_value(failure.party).ok().and_then(|value| value.as_str().map(str::to_owned));
        let (code, detail) = (failure.code.clone(), failure.detail.clone());
        Self { party: party.unwrap_or_default(), code, detail, retryable: failure.retryable }
    }
}

/// One HTTP request of a delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptView {
    /// 1 for the first.
    number: u32,
    started_at: String,
    /// Microseconds.
    took_us: u64,
    /// If a complete response head came.
    status: Option<u16>,
    /// The response body up to the cap; bytes that are not UTF-8 are shown as `U+FFFD`.
    response: String,
    /// Whether the response body was cut.
    response_cut: bool,
    failure: Option<FailureView>,
    /// The request that it was in with other deliveries; none if it went out alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch: Option<BatchView>,
}

/// A request of several deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchView {
    /// Its id, which went out as `webhook-id`.
    #[schema(example = "bat_01j9zx1c2m8t6r4v5w7y9a0b3d")]
    id: String,
    /// How many deliveries were in it.
    size: u32,
}

impl AttemptView {
    pub(super) fn of(attempt: &Attempt) -> Self {
        Self {
            number: attempt.number,
            started_at: shown(attempt.started_at),
            took_us: attempt.took_us,
            status: attempt.status,
            response: String::from_utf8_lossy(&attempt.response).into_owned(),
            response_cut: attempt.response_cut,
            failure: attempt.failure.as_ref().map(FailureView::of),
            batch: attempt.batch.map(|batch| BatchView { id: batch.id.to_string(), size: batch.size }),
        }
    }
}

/// One run of a plugin.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunView {
    /// The version's hash.
    version: String,
    fuel: u64,
    /// Peak, bytes.
    memory: u64,
    /// Microseconds.
    took_us: u64,
    /// How many outputs it gave; null if it failed.
    outputs: Option<u32>,
    failure: Option<FailureView>,
    logs: Vec<String>,
    /// Of which attempt it signed the request or judged the answer; none if it ran in the connection's chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<AttemptPartView>,
}

impl RunView {
    pub(super) fn of(run: &PluginRun) -> Self {
        Self {
            version: run.version.to_string(),
            fuel: run.fuel,
            memory: run.memory,
            took_us: run.took_us,
            outputs: run.outcome.as_ref().ok().copied(),
            failure: run.outcome.as_ref().err().map(FailureView::of),
            logs: run.guest_logs().to_vec(),
            attempt: run.attempt_part().map(AttemptPartView::of),
        }
    }
}
