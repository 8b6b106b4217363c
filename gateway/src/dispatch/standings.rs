//! How what this node dispatches stands, for whoever tells of it: circuits that are not closed, poisoned versions, and how many dead
//! letters there were. Read now and then; nothing here is asked for an event that is delivered.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admission::Admission;
use super::owner::Hold;
use crate::control::condition::CircuitNote;
use crate::control::snapshot::Snapshot;
use crate::event::{ConnectionId, DestinationId, Failure, Shard, SourceId, TenantId};
use crate::plugin::Runtime;
use crate::plugin::poison::Poisoned;
use crate::store::{DeliveryRecord, DeliveryState, Work};

/// How this node's shards stand. Cheap to clone; clones are one.
#[derive(Clone, Debug)]
pub struct Standings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    owned: Mutex<BTreeMap<Shard, Owned>>,
    plugins: Runtime,
}

#[derive(Debug)]
struct Owned {
    hold: Arc<Hold>,
    admission: Admission,
    /// Dead letters of each tenant that has had any, since the shard was taken.
    dead_letters: HashMap<TenantId, u64>,
}

/// A shard that this node owns now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnedShard {
    /// Which.
    pub shard: Shard,
    /// Of its lease: another one means that somebody else may have owned it in between.
    pub incarnation: u64,
}

impl Standings {
    pub(super) fn new(plugins: Runtime) -> Self {
        Self(Arc::new(Inner { owned: Mutex::default(), plugins }))
    }

    pub(super) fn began(&self, hold: Arc<Hold>, admission: Admission) {
        let owned = Owned { admission, dead_letters: HashMap::new(), hold };
        self.owned().insert(owned.hold.lease.shard, owned);
    }

    pub(super) fn ended(&self, shard: Shard) {
        self.owned().remove(&shard);
    }

    /// Counts the dead letters among records that were written. Those of notices are left out, and those of who is deleted.
    pub(super) fn written(&self, shard: Shard, snapshot: &Snapshot, dead: &[Dead]) {
        let mut owned = self.owned();
        let Some(owned) = owned.get_mut(&shard) else { return };
        for Dead { tenant, connection, source } in dead {
            let of_connection = || snapshot.connections.get(&(*connection)?).map(|connection| connection.source);
            let source = source.or_else(of_connection).and_then(|source| snapshot.sources.get(&source));
            if !source.is_some_and(|source| source.verifier.takes_notices()) {
                *owned.dead_letters.entry(*tenant).or_default() += 1;
            }
        }
    }

    /// The shards that this node owns and may act for.
    pub fn shards(&self) -> Vec<OwnedShard> {
        let owned = self.owned();
        let valid = owned.values().filter(|owned| owned.hold.is_valid());
        valid.map(|owned| OwnedShard { shard: owned.hold.lease.shard, incarnation: owned.hold.lease.incarnation }).collect()
    }

    /// Circuits of a shard that are not closed.
    pub fn circuits(&self, shard: Shard) -> Vec<(DestinationId, CircuitNote)> {
        let admission = self.owned().get(&shard).map(|owned| owned.admission.clone());
        admission.map_or_else(Vec::new, |admission| admission.not_closed())
    }

    /// How many dead letters each tenant has had in a shard since this node took it; those without any are left out.
    pub fn dead_letters(&self, shard: Shard) -> Vec<(TenantId, u64)> {
        let owned = self.owned();
        owned
            .get(&shard)
            .map_or_else(Vec::new, |owned| owned.dead_letters.iter().map(|(tenant, count)| (*tenant, *count)).collect())
    }

    /// Versions that are poisoned on this node, in no order.
    pub fn poisoned(&self) -> Vec<Poisoned> {
        self.0.plugins.circuits().all()
    }

    fn owned(&self) -> MutexGuard<'_, BTreeMap<Shard, Owned>> {
        self.0.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A delivery that is given up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dead {
    tenant: TenantId,
    connection: Option<ConnectionId>,
    /// Of an event that was not planned.
    source: Option<SourceId>,
}

impl Dead {
    /// None for one that goes on, or that goes with its tenant.
    pub(super) fn of(tenant: TenantId, delivery: &DeliveryRecord) -> Option<Self> {
        match &delivery.state {
            DeliveryState::DeadLettered { reason } if reason.code != Failure::TENANT_DELETED => {
                let source = match delivery.job.as_deref().map(|job| &job.work) {
                    Some(Work::Plan { event, .. }) => Some(event.source),
                    _ => None,
                };
                Some(Self { tenant, connection: delivery.connection, source })
            }
            _ => None,
        }
    }
}
