//! What the API shows.

mod aliases;
mod bookmarks;
mod destinations;
mod part;
mod recovery;
mod replay;
mod signals;
mod traffic;
mod trial;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

pub use aliases::{AliasView, ShadowView, SplitView};
pub use bookmarks::{BookmarkView, SentView};
pub use destinations::{CircuitView, DestinationStatusView, DisabledView, DueView, HandshakeView, ScheduleView};
pub use part::AttemptPartView;
pub use recovery::{DeadLetterView, EventFilterView, LetterFilterView, ReplayJobView, RetriedView, RetryJobView};
pub use replay::ReplayView;
pub use signals::{AilingView, LaneView, QueuedView, QueuesView, ScalingView, ShardView, SignalsView};
pub use traffic::{DiversionView, SettingView, TrafficChangeView, TrafficView, WhoView};
pub use trial::TriedView;

use crate::clock::Timestamp;
use crate::control::model::{Keys, PlanSpec, Plugins, Tenants, VersionRecord};
use crate::control::service::Inspected;
use crate::control::snapshot::StageKind;
use crate::control::state::Entry;
use crate::control::waiting::{Explainer, Waiting};
use crate::event::{Attempt, Event, Failure, Header, PluginRun, Request};
use crate::plugin::poison::Poisoned;
use crate::store::{DeliveryRecord, DeliveryState, EventHistory, EventSummary, Purged, TableEntry, TableUse};

/// A view as JSON.
pub(super) fn to_json(view: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(view).expect("views are plain data")
}

fn shown(time: Timestamp) -> String {
    time.to_string()
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct TenantView {
    id: String,
    name: String,
    plan: PlanSpec,
    /// Its home, the first of its shards.
    shard: u16,
    /// Where its events are kept.
    shards: Vec<u16>,
    /// `active` or `deleting`.
    state: &'static str,
    /// How far its deletion has come; only when one tenant is shown that is being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    deletion: Option<DeletionView>,
    /// What its plugins' tables take; only when one tenant is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    tables: Option<TablesView>,
    created_at: String,
    updated_at: String,
}

/// What the tables of a tenant's plugins take.
#[derive(Debug, Serialize, ToSchema)]
pub struct TablesView {
    /// Bytes, as `plan.table_bytes` counts them. Entries that have ended may count a little longer.
    bytes: u64,
    /// Entries.
    entries: u64,
}

/// An entry of a plugin's table.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableEntryView {
    key: String,
    /// Bytes of its value.
    size: u64,
    /// When it ends; null if it is for good.
    expires_at: Option<String>,
    /// The value, if it is a text of at most 1 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    /// The value, if it is no text, and at most 1 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

impl TableEntryView {
    pub(super) fn of(entry: &TableEntry) -> Self {
        let text = entry.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).map(str::to_owned);
        let base64 = entry.value.as_ref().filter(|_| text.is_none()).map(|value| STANDARD.encode(value));
        Self { key: entry.key.to_string(), size: entry.size, expires_at: entry.until.map(shown), value: text, base64 }
    }
}

/// How far a tenant's deletion has come.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletionView {
    /// Events removed, with their history.
    events: u64,
    /// Deliveries that still waited and were given up.
    given_up: u64,
    /// Dead letters from before, removed.
    dead_letters: u64,
}

impl TenantView {
    pub(super) fn of(entry: &Entry<Tenants>) -> Self {
        let record = entry.tenant();
        Self {
            id: entry.id.to_string(),
            name: record.name,
            plan: PlanSpec { shards: u16::try_from(entry.parts.shards.count()).ok(), ..record.plan },
            shard: record.shard.0,
            shards: entry.parts.shards.iter().map(|shard| shard.0).collect(),
            state: if record.deleting.is_some() { "deleting" } else { "active" },
            deletion: None,
            tables: None,
            created_at: shown(entry.created_at),
            updated_at: shown(entry.updated_at),
        }
    }

    pub(super) fn using(self, TableUse { bytes, entries }: TableUse) -> Self {
        Self { tables: Some(TablesView { bytes, entries }), ..self }
    }

    pub(super) fn with(self, purged: Option<Purged>) -> Self {
        let deletion = purged.map(|Purged { events, given_up, dead_letters, .. }| DeletionView { events, given_up, dead_letters });
        Self { deletion, ..self }
    }
}

/// A key, without its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    id: String,
    name: String,
    /// Whose data it opens; null for an operator's.
    tenant: Option<String>,
    created_at: String,
}

impl KeyView {
    pub(super) fn of(entry: &Entry<Keys>) -> Self {
        let record = entry.key();
        Self {
            id: entry.id.to_string(),
            name: record.name.clone(),
            tenant: record.tenant.map(|id| id.to_string()),
            created_at: shown(entry.created_at),
        }
    }
}

/// A key that was just made: the only time that its text is shown.
#[derive(Serialize, ToSchema)]
pub struct MintedView {
    /// The key's text: keep it now.
    pub(super) key: String,
    /// The key.
    pub(super) info: KeyView,
}

/// A plugin.
#[derive(Debug, Serialize, ToSchema)]
pub struct PluginView {
    id: String,
    name: String,
    /// In the order of their upload.
    versions: Vec<VersionView>,
    /// Hashes by alias; `latest` is always there.
    aliases: std::collections::BTreeMap<String, String>,
    /// Aliases that run other versions beside their own.
    splits: std::collections::BTreeMap<String, SplitView>,
    /// Where it was stopped again and again and is tried now and then, as the gateway that answers sees it; only when one plugin is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    poisoned: Vec<PoisonedView>,
    created_at: String,
    updated_at: String,
}

impl PluginView {
    pub(super) fn of(entry: &Entry<Plugins>) -> Self {
        Self {
            id: entry.id.to_string(),
            name: entry.name.clone(),
            versions: entry.parts.versions.iter().map(VersionView::of).collect(),
            aliases: entry.parts.aliases.iter().map(|(alias, hash)| (alias.clone(), hash.to_string())).collect(),
            splits: entry.parts.splits.iter().map(|(alias, split)| (alias.clone(), SplitView::of(split))).collect(),
            poisoned: Vec::new(),
            created_at: shown(entry.created_at),
            updated_at: shown(entry.updated_at),
        }
    }

    pub(super) fn with(self, poisoned: &[Poisoned]) -> Self {
        Self { poisoned: poisoned.iter().map(PoisonedView::of).collect(), ..self }
    }
}

/// A version that was stopped again and again where it runs.
#[derive(Debug, Serialize, ToSchema)]
pub struct PoisonedView {
    /// The connection.
    connection: String,
    /// Its place in the connection's `plugins`, from 0.
    stage: usize,
    /// The version's hash.
    version: String,
    since: String,
    /// In a row.
    stops: u64,
    /// The last of them.
    reason: FailureView,
    /// When it is tried with one event, at the earliest.
    next_try: String,
}

impl PoisonedView {
    fn of(poisoned: &Poisoned) -> Self {
        Self {
            connection: poisoned.place.connection.to_string(),
            stage: poisoned.place.stage,
            version: poisoned.place.version.to_string(),
            since: shown(poisoned.since),
            stops: poisoned.stops,
            reason: FailureView::of(&poisoned.reason),
            next_try: shown(poisoned.next_try),
        }
    }
}

/// A version of a plugin.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// SHA-256 of the component, in hex.
    hash: String,
    /// Bytes.
    size: u64,
    /// Bytes of its compiled code, which count against `plan.plugin_bytes`; 0 if that was not noted.
    compiled: u64,
    kind: StageKind,
    /// The interfaces that it exports.
    exports: Vec<String>,
    uploaded_at: String,
}

impl VersionView {
    pub(super) fn of(version: &VersionRecord) -> Self {
        Self {
            hash: version.hash.to_string(),
            size: version.size,
            compiled: version.compiled,
            kind: version.kind,
            exports: version.exports.clone(),
            uploaded_at: shown(version.uploaded_at),
        }
    }
}

/// A component that can be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct ComponentView {
    /// SHA-256, in hex.
    hash: String,
    /// Bytes.
    size: u64,
    kind: StageKind,
    /// The interfaces that it exports.
    exports: Vec<String>,
    /// Whether it was kept, so that an apply can name it.
    kept: bool,
}

impl ComponentView {
    pub(super) fn inspected(found: &Inspected) -> Self {
        let inspection = &found.inspection;
        let (kind, exports) = (inspection.kind, inspection.exports.clone());
        Self { hash: found.hash.to_string(), size: found.size, kind, exports, kept: false }
    }

    pub(super) fn kept(version: &VersionRecord) -> Self {
        let (kind, exports) = (version.kind, version.exports.clone());
        Self { hash: version.hash.to_string(), size: version.size, kind, exports, kept: true }
    }
}

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
    pub(super) fn summary(event: &EventSummary, explainer: Explainer<'_>) -> Self {
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

    pub(super) fn full(history: &EventHistory, explainer: Explainer<'_>) -> Self {
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
    fn of(header: &Header) -> Self {
        let value = String::from_utf8_lossy(&header.value);
        let is_text = matches!(value, std::borrow::Cow::Borrowed(_));
        let value_base64 = (!is_text).then(|| STANDARD.encode(&header.value));
        Self { name: header.name.clone(), value: value.into_owned(), value_base64 }
    }
}

impl RequestView {
    fn of(request: &Request) -> Self {
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
    pub(super) fn of(row: &DeliveryRecord, explainer: Explainer<'_>) -> Self {
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
    fn of(waiting: Waiting) -> Self {
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
    fn of(failure: &Failure) -> Self {
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
    fn of(attempt: &Attempt) -> Self {
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
    fn of(run: &PluginRun) -> Self {
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

/// Whether the gateway can serve.
#[derive(Debug, Serialize, ToSchema)]
pub struct HealthView {
    /// `ok` or `unavailable`.
    pub(super) status: &'static str,
    /// The configuration's revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) revision: Option<u64>,
    /// What is not ready.
    pub(super) reasons: Vec<String>,
}
