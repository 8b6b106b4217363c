//! The snapshot that both wings read.

mod handshake;
mod shards;
mod split;
mod traffic;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub use handshake::{Handshake, Permits};
pub use shards::Shards;
pub use split::{CanaryPin, NoShare, Portion, Share, Split};
pub use traffic::{Diversion, Diverted, Percent, Traffic};

use super::sorted::Sorted;
use crate::clock::Timestamp;
use crate::dispatch::batch::Batching;
use crate::dispatch::circuit::Breaker;
use crate::dispatch::filter::Filter;
use crate::dispatch::rate::{Paces, Rate};
use crate::dispatch::schedule::RetryPolicy;
use crate::egress::{Credentials, MAX_REQUESTS, Signer, Target};
use crate::event::{ConnectionId, DestinationId, Pins, PluginId, Request, Revision, SourceId, TenantId, VersionHash};
use crate::ingest::verify::Verifier;
use crate::plugin::{Limits, Secrets};

/// An immutable view of the configuration at one revision. Everything that can be prepared is: verifiers, filters, targets.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The revision that this is a view of.
    pub revision: Revision,
    /// All tenants.
    pub tenants: Sorted<TenantId, Arc<Tenant>>,
    /// All sources, disabled ones too.
    pub sources: Sorted<SourceId, Arc<Source>>,
    /// All connections, disabled ones too: an event in flight may still name one.
    pub connections: Sorted<ConnectionId, Arc<Connection>>,
    /// All destinations, disabled ones too.
    pub destinations: Sorted<DestinationId, Arc<Destination>>,
    /// What an operator set for all of the gateway's work.
    pub traffic: Arc<Traffic>,
}

/// Who owns sources, destinations, connections and plugins.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name, unique on the gateway.
    pub name: String,
    /// Where its events are. Stored, so that shards can be added to the gateway.
    pub shards: Shards,
    /// What it may use.
    pub plan: Plan,
    /// Since when it is being deleted, if it is: then it has no sources, and what is queued is given up.
    pub deleting: Option<Timestamp>,
}

/// What a tenant may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Events per second that stay in the normal lane.
    pub rate: f64,
    /// Events above the rate that may come at once and still stay in the normal lane.
    pub burst: u32,
    /// Its share against other tenants of a node, and when sub-queues of a shard are served.
    pub weight: u32,
    /// Events being planned or delivered at once, in all shards together; more of them wait in a sub-queue.
    pub in_flight: usize,
    /// Events per second that are taken at all. At least the rate.
    pub ceiling: f64,
    /// Bytes of queued work from which on no events are taken.
    pub queued_bytes: u64,
    /// Fuel a second of its plugins, in all shards together; with 0 none run.
    pub plugin_fuel: u64,
    /// Bytes of compiled code of its plugins' versions.
    pub plugin_bytes: u64,
    /// Bytes that the tables of its plugins may take; 0 forbids them.
    pub table_bytes: u64,
    /// Attempts of all its destinations, in all shards together.
    pub delivery_rate: Option<Rate>,
}

/// An ingestion endpoint.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its id, which is its path: `/in/{id}`.
    pub id: SourceId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// Whose it is.
    pub tenant: Arc<Tenant>,
    /// A disabled source takes nothing.
    pub enabled: bool,
    /// Checks its requests.
    pub verifier: Arc<Verifier>,
    /// Is asked for the verifier's verdict.
    pub verify: Option<Visit>,
    /// Is asked first, and may answer.
    pub respond: Option<Visit>,
    /// Which senders are told that they may send, when they ask.
    pub permits: Option<Arc<Permits>>,
    /// Methods that it takes; `None` means any.
    pub methods: Option<Vec<Method>>,
    /// What its requests must be.
    pub format: Format,
    /// What makes an event a duplicate.
    pub dedup: Option<DedupRule>,
    /// The largest body that it takes, in bytes.
    pub max_body: usize,
    /// Whether a `traceparent` that comes in is the parent of the event's trace; otherwise it is a link.
    pub trust_trace: bool,
    /// Enabled connections, in the order of their names.
    pub connections: Vec<Arc<Connection>>,
    /// Whether one of them leads to a destination that keeps an order: then all its events are in one lane and one shard.
    pub is_ordered: bool,
    /// Ready to be copied into an event: see [`Source::pins_for`].
    pub pins: Pins,
    /// Where canaries take their share.
    pub canaries: Vec<CanaryPin>,
}

impl Source {
    /// Takes out what a sender of this source signed a request with: what another source's connections send does not know that it is to be
    /// withheld.
    pub fn unsign(&self, request: &mut Request) {
        let is_signature = |name: &str| self.verifier.signature_headers().any(|header| name.eq_ignore_ascii_case(header));
        let was_one = |name: &str| self.verifier.earlier_signature_headers().any(|header| name.eq_ignore_ascii_case(header));
        request.headers.retain(|header| !is_signature(&header.name) && !was_one(&header.name));
    }
}

/// What requests of a source must be to be taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = SourceFormat)]
pub enum Format {
    /// Anything.
    #[default]
    Any,
    /// CloudEvents 1.0 over HTTP: binary, structured as JSON, or a batch of these. What is none is answered with 400, which says why.
    CloudEvents,
}

/// What makes an event a duplicate of an earlier one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DedupRule {
    /// What is compared.
    pub by: DedupBy,
    /// How long the first one is remembered.
    pub window: Duration,
}

/// What is compared to find a duplicate. An event without it is never a duplicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DedupBy {
    /// The value of this header.
    Header(HeaderName),
    /// The value at this place in a JSON body (RFC 6901).
    Pointer(String),
}

/// What keeps its order on the way to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What goes in one line.
    pub by: OrderBy,
    /// The connections to the destination.
    pub connections: Vec<ConnectionId>,
    /// Whether all of them are paused.
    pub is_paused: bool,
    /// Whether all of them run plugins.
    pub runs_plugins: bool,
}

impl Order {
    /// Of a destination without connections.
    pub fn new(by: OrderBy) -> Self {
        Self { by, connections: Vec::new(), is_paused: false, runs_plugins: false }
    }
}

/// What goes in one line: what has the same value. An event without it keeps no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderBy {
    /// Everything.
    Destination,
    /// The value of this header.
    Header(HeaderName),
    /// The value at this place in a JSON body (RFC 6901).
    Pointer(String),
}

/// Source to destination.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// Where its events come from.
    pub source: SourceId,
    /// A disabled connection takes no new events.
    pub enabled: bool,
    /// Of a paused one everything waits.
    pub paused: bool,
    /// Which events it takes; all without one.
    pub filter: Option<Filter>,
    /// Plugins, in order.
    pub chain: Vec<Stage>,
    /// The connection's own, or else the destination's.
    pub retry: RetryPolicy,
    /// Headers that are not passed on: those of the source's own signature.
    pub withheld: Vec<HeaderName>,
    /// Where deliveries go.
    pub destination: Arc<Destination>,
    /// The part of each of its tenant's shards in the destination's window, in deliveries.
    pub window: usize,
}

/// A plugin in a connection's chain.
#[derive(Clone, Debug)]
pub struct Stage {
    /// The plugin.
    pub plugin: PluginId,
    /// Its name.
    pub name: String,
    /// The version that the connection's reference resolves to in this revision.
    pub version: VersionHash,
    /// What it does.
    pub kind: StageKind,
    /// What the alias that the connection names runs beside its own version.
    pub split: Option<Arc<Split>>,
    /// All versions of the plugin, deleted ones too, with what each does: an event may be pinned to an older one.
    pub versions: Arc<[(VersionHash, StageKind)]>,
    /// Its configuration: JSON text.
    pub config: Arc<str>,
    /// What it may ask for by name.
    pub secrets: Arc<Secrets>,
    /// What a run may use.
    pub limits: Limits,
    /// What happens when a run fails.
    pub on_failure: OnFailure,
    /// After so many stops in a row the version is poisoned.
    pub poison_after: u32,
    /// What happens to events while it is.
    pub on_poisoned: OnPoisoned,
    /// Runs of one instance; each has its own without it.
    pub invocations: Option<u32>,
}

impl Stage {
    /// Whether `version` is the one that takes its share of the events from the alias' own.
    pub fn is_canary(&self, version: VersionHash) -> bool {
        self.split.as_ref().and_then(|split| split.canary).is_some_and(|canary| canary.version == version)
    }

    /// The version that an event runs, and what it does: the one that it is pinned to, as long as that is one of this plugin.
    pub fn version_for(&self, pinned: Option<VersionHash>) -> (VersionHash, StageKind) {
        let known = pinned.and_then(|pinned| self.versions.iter().find(|(version, _)| *version == pinned));
        known.copied().unwrap_or((self.version, self.kind))
    }
}

/// What a plugin does, as its exports tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Takes an event or drops it.
    Filter,
    /// Makes zero, one or many requests of an event.
    Transform,
}

impl std::fmt::Display for StageKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Transform => "transform",
        })
    }
}

/// What happens when a plugin's run fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// The delivery is given up, and can be retried by hand.
    #[default]
    DeadLetter,
    /// The event goes on as it was before this plugin.
    PassThrough,
    /// The plan is tried again by the connection's retry policy.
    Retry,
}

/// What happens to events while a plugin's version is poisoned: it was stopped again and again, and is tried now and then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnPoisoned {
    /// They wait in the store until it answers again, or until another version takes its place.
    #[default]
    Hold,
    /// They go on as they were before this plugin.
    PassThrough,
    /// Their deliveries are given up, and can be retried by hand.
    DeadLetter,
}

/// Where deliveries go.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its id.
    pub id: DestinationId,
    /// Its name, unique within the tenant.
    pub name: String,
    /// Whose it is.
    pub tenant: TenantId,
    /// Deliveries for a disabled destination wait, whether its owner disabled it or the gateway.
    pub enabled: bool,
    /// Where its requests go.
    pub target: Arc<Target>,
    /// Signs them; none if the destination has no secret.
    pub signer: Option<Arc<Signer>>,
    /// Static headers and credentials; values that are secret are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Credentials that are made for each request.
    pub credentials: Option<Arc<Credentials>>,
    /// Whether bodies are compressed.
    pub gzip: bool,
    /// One attempt, from connect to the end of the response body.
    pub timeout: Duration,
    /// Attempts at once, in all shards of its tenant together; more deliveries wait in a sub-queue.
    pub in_flight: usize,
    /// Attempts in a time, in all shards of its tenant together.
    pub rate: Option<Rate>,
    /// The part of each shard in that, and in its tenant's.
    pub paces: Paces,
    /// What keeps its order, if anything does.
    pub order: Option<Order>,
    /// Whether several deliveries go out in one request, and how.
    pub batch: Option<Batching>,
    /// When its circuit opens; none if it has no circuit.
    pub breaker: Option<Breaker>,
    /// Since when it fails, once the gateway has noted it.
    pub failing_since: Option<Timestamp>,
    /// When it was last enabled after the gateway had noted something: what was learnt before does not count.
    pub enabled_at: Timestamp,
    /// What it has not agreed to yet, while that is all that keeps it from being enabled.
    pub awaits: Option<Arc<Handshake>>,
    /// Signs each attempt.
    pub sign: Option<Visit>,
    /// Says what an answer means.
    pub judge: Option<Visit>,
}

impl Destination {
    /// Requests at once, in one shard of its tenant.
    pub fn requests(&self, tenant: &Tenant) -> usize {
        tenant.shards.part(self.in_flight).min(MAX_REQUESTS)
    }

    /// Deliveries in hand at once, in one shard of its tenant.
    pub fn window(&self, tenant: &Tenant) -> usize {
        let requests = self.requests(tenant);
        self.batch.as_ref().map_or(requests, |batch| batch.window(requests, tenant.shards.part(tenant.plan.in_flight)))
    }
}

/// A plugin that a source or a destination names.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Its name.
    pub name: String,
    /// The version that the reference names in this revision: there are no pins, since what it is asked about is no event's plan.
    pub version: VersionHash,
    /// Its configuration: JSON text.
    pub config: Arc<str>,
    /// What it may ask for by name.
    pub secrets: Arc<Secrets>,
    /// What a run may use.
    pub limits: Limits,
}

/// Where the wings get the snapshot. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Snapshots(Arc<Published>);

#[derive(Debug)]
struct Published {
    current: ArcSwap<Snapshot>,
    revision: watch::Sender<Revision>,
}

impl Snapshots {
    /// Starts with `first`.
    pub fn new(first: Snapshot) -> Self {
        let revision = watch::Sender::new(first.revision);
        Self(Arc::new(Published { current: ArcSwap::from_pointee(first), revision }))
    }

    /// The current snapshot. Never blocks. Don't hold the guard across an await: take [`Snapshots::current`] for that.
    pub fn load(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.0.current.load()
    }

    /// The current snapshot, to keep.
    pub fn current(&self) -> Arc<Snapshot> {
        self.0.current.load_full()
    }

    /// Replaces the snapshot, unless a later one is there already.
    pub fn publish(&self, snapshot: Snapshot) {
        self.0.revision.send_if_modified(|revision| {
            // Inside the watch's lock, so that two publishers can't put an older one last.
            if snapshot.revision < *revision {
                return false;
            }
            *revision = snapshot.revision;
            self.0.current.store(Arc::new(snapshot));
            true
        });
    }

    /// Waits until the snapshot is of `revision` or a later one.
    pub async fn at_least(&self, revision: Revision) -> Arc<Snapshot> {
        let mut published = self.0.revision.subscribe();
        // The sender lives in `self`, so the wait can't end for lack of one.
        let _ = published.wait_for(|current| *current >= revision).await;
        self.current()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(revision: u64) -> Snapshot {
        Snapshot { revision: Revision(revision), ..Snapshot::default() }
    }

    #[tokio::test]
    async fn waits_for_a_revision_and_never_goes_back() {
        let snapshots = Snapshots::new(at(1));
        let waiting = {
            let snapshots = snapshots.clone();
            tokio::spawn(async move { snapshots.at_least(Revision(3)).await.revision })
        };
        snapshots.publish(at(2));
        snapshots.publish(at(4));
        snapshots.publish(at(3));
        assert_eq!(waiting.await.expect("no panic"), Revision(4));
        assert_eq!(snapshots.load().revision, Revision(4));
    }
}
