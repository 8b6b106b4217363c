//! Who is told, and of what nobody is: what follows from the configuration alone, made anew with each of its revisions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::control::condition::Condition as Noted;
use crate::control::snapshot::{Snapshot, Source};
use crate::control::state::State;
use crate::event::{ConnectionId, DestinationId, Revision, Shard, SourceId, TenantId};

/// What the configuration says of notices.
#[derive(Debug, Default)]
pub(super) struct Receivers {
    revisions: Option<(Revision, Revision)>,
    sources: HashMap<TenantId, Arc<Source>>,
    operator: Option<TenantId>,
    /// Where notices go.
    destinations: HashSet<DestinationId>,
    /// The way there.
    connections: HashSet<ConnectionId>,
    /// What the gateway noted of other destinations.
    pub(super) noted: HashMap<TenantId, Vec<(DestinationId, Noted)>>,
    /// Tenants to be looked at though nothing of them is seen in their home: something is noted, or may be seen in another shard.
    pub(super) by_home: HashMap<Shard, Vec<TenantId>>,
}

impl Receivers {
    /// Follows the configuration. `operator` is the name of the tenant that hears of all.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, state: &State, operator: Option<&str>) {
        let revisions = Some((snapshot.revision, state.revision));
        if self.revisions == revisions {
            return;
        }
        let told = |source: &&Arc<Source>| source.verifier.takes_notices();
        let all: Vec<&Arc<Source>> = snapshot.sources.values().filter(told).collect();
        let operator = operator.and_then(|name| {
            let found = snapshot.tenants.values().find(|tenant| tenant.name == name);
            if found.is_none() && self.revisions.is_none_or(|_| self.operator.is_some()) {
                tracing::warn!(tenant = name, "`notices.tenant` names no tenant: the operator is told nothing");
            }
            found.map(|tenant| tenant.id)
        });
        // Of disabled ones too: what is on its way there is a notice all the same.
        let ids: HashSet<SourceId> = all.iter().map(|source| source.id).collect();
        let ways = snapshot.connections.values().filter(|connection| ids.contains(&connection.source));
        let (connections, destinations) = ways.map(|connection| (connection.id, connection.destination.id)).unzip();
        *self = Self {
            revisions,
            sources: all.iter().filter(|source| source.enabled).map(|source| (source.tenant.id, Arc::clone(source))).collect(),
            operator,
            destinations,
            connections,
            noted: HashMap::new(),
            by_home: HashMap::new(),
        };
        for tenant in state.tenants() {
            let noted = tenant.destinations.iter().filter(|entry| !entry.condition.is_empty() && !self.is_way(entry.id));
            let noted: Vec<_> = noted.map(|entry| (entry.id, entry.condition.clone())).collect();
            let shards = &tenant.entry.parts.shards;
            if !noted.is_empty() || shards.count() > 1 {
                self.by_home.entry(shards.home()).or_default().push(tenant.id());
            }
            if !noted.is_empty() {
                self.noted.insert(tenant.id(), noted);
            }
        }
    }

    /// Where a notice about a tenant goes.
    pub(super) fn of(&self, tenant: TenantId) -> Vec<&Arc<Source>> {
        let operator = self.operator.filter(|operator| *operator != tenant);
        [Some(tenant), operator].into_iter().flatten().filter_map(|one| self.sources.get(&one)).collect()
    }

    /// Whether anybody is told of a tenant.
    pub(super) fn hears_of(&self, tenant: TenantId) -> bool {
        !self.sources.is_empty() && !self.of(tenant).is_empty()
    }

    /// Whether notices go to this destination: it is not told of.
    pub(super) fn is_way(&self, destination: DestinationId) -> bool {
        self.destinations.contains(&destination)
    }

    /// Whether notices go over this connection: its plugins are not told of.
    pub(super) fn is_way_over(&self, connection: ConnectionId) -> bool {
        self.connections.contains(&connection)
    }
}
