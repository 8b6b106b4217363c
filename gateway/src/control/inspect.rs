//! What control asks of the plugin runtime: whether a component can be used, and for what; and what it makes of an event.

use async_trait::async_trait;
use bytes::Bytes;

use super::snapshot::StageKind;
use crate::clock::Timestamp;
use crate::event::{Request, TenantId};
use crate::plugin::poison::Poisoned;
use crate::plugin::{Call, CallError, Interface, LoadError, Report, Runtime, Screen};
use crate::store::Home;

/// What an inspection found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// What the component does.
    pub kind: StageKind,
    /// The interfaces that it exports, with their versions.
    pub exports: Vec<String>,
    /// Bytes of its compiled code; 0 if it was not compiled.
    pub compiled: u64,
}

impl Inspection {
    /// What a component's outside says. One that is both a filter and a transform runs as a transform, which can do both.
    pub fn of(screen: &Screen) -> Self {
        let kind = if screen.offers.contains(&Interface::Transform) { StageKind::Transform } else { StageKind::Filter };
        Self { kind, exports: screen.exports.clone(), compiled: 0 }
    }
}

/// A component that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InspectError {
    /// It can't be used, with the reason for its author.
    #[error("{reason}")]
    Unusable {
        /// A stable name: `missing_export`, `foreign_import`, `core_module`, ...
        code: String,
        /// One sentence.
        reason: String,
    },
    /// Too many uploads of this tenant wait to be compiled.
    #[error("{0}")]
    Busy(String),
    /// It could not be inspected now; trying again can help.
    #[error("{0}")]
    Unavailable(String),
}

/// Pre-screens, compiles and instantiates a component without running it.
#[async_trait]
pub trait Inspector: Send + Sync + 'static {
    /// Whether the component can be used.
    async fn inspect(&self, component: Bytes) -> Result<Inspection, InspectError>;

    /// The same for a tenant, where tenants wait for one another.
    async fn inspect_for(&self, _tenant: TenantId, component: Bytes) -> Result<Inspection, InspectError> {
        self.inspect(component).await
    }

    /// What a version makes of a request: the requests to send, or none if it keeps the request as it is.
    async fn ask(&self, _: StageKind, call: Call) -> Report<Option<Vec<Request>>> {
        Report::failed(call.version, CallError::Gateway("plugins are not run here".into()))
    }

    /// Pays for runs out of a tenant's fuel in a shard, of which it has so much a second.
    fn pay(&self, _home: Home, _per_second: u64, _fuel: u64, _now: Timestamp) {}

    /// Versions of a tenant's plugins that are poisoned, as this node sees it.
    fn poisoned(&self, _tenant: TenantId) -> Vec<Poisoned> {
        Vec::new()
    }

    /// What waits on this node, or is tried now and then, for plugins' sake.
    fn ailing(&self) -> Ailing {
        Ailing::default()
    }
}

/// What plugins' events wait for on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ailing {
    /// Versions that are poisoned, each where it runs.
    pub poisoned: usize,
    /// Tenants that have used up their fuel.
    pub fuel_waits: Vec<TenantId>,
}

#[async_trait]
impl Inspector for Runtime {
    async fn inspect(&self, component: Bytes) -> Result<Inspection, InspectError> {
        Inspector::inspect_for(self, TenantId(0), component).await
    }

    async fn inspect_for(&self, tenant: TenantId, component: Bytes) -> Result<Inspection, InspectError> {
        match Self::inspect_for(self, tenant, component).await {
            Ok(found) => Ok(Inspection { compiled: found.artifact_bytes, ..Inspection::of(&found.screen) }),
            Err(LoadError::Refused(refusal)) => {
                Err(InspectError::Unusable { code: refusal.code().to_owned(), reason: refusal.to_string() })
            }
            Err(error @ LoadError::QueueFull { .. }) => Err(InspectError::Busy(error.to_string())),
            Err(error) => Err(InspectError::Unavailable(error.to_string())),
        }
    }

    async fn ask(&self, kind: StageKind, call: Call) -> Report<Option<Vec<Request>>> {
        match kind {
            StageKind::Filter => self.filter(call).await.map(|keep| if keep { None } else { Some(Vec::new()) }),
            StageKind::Transform => self.transform(call).await.map(Some),
        }
    }

    fn pay(&self, home: Home, per_second: u64, fuel: u64, now: Timestamp) {
        self.fuel(home.shard).pay(home.tenant, per_second, fuel, now);
    }

    fn poisoned(&self, tenant: TenantId) -> Vec<Poisoned> {
        self.circuits().poisoned(tenant)
    }

    fn ailing(&self) -> Ailing {
        Ailing { poisoned: self.circuits().open(), fuel_waits: self.fuel_waits() }
    }
}
