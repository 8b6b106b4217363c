//! What the API shows.

mod aliases;
mod bookmarks;
mod destinations;
mod events;
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
pub use events::{AttemptView, BatchView, DeliveryView, EventView, FailureView, HeaderView, RequestView, RunView, WaitingView};
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
use crate::plugin::poison::Poisoned;
use crate::store::{Purged, TableEntry, TableUse};

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
