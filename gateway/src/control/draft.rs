//! A change in the making: the state as it would be, and the records to write for it.

mod visits;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::condition::Condition;
use super::model::{
    Change, Connections, Destinations, FieldError, KeyRecord, Keys, Kind, Knob, Level, Plugins, SourceAuth, Sources, TenantRecord,
    Tenants, Who,
};
use super::prepare::{Prepare, Preparer};
use super::service::Error;
use super::snapshot::{Diversion, Diverted};
use super::state::{BuildError, Entry, State, Table, TenantState, store_key};
use super::steering::Order;
use crate::clock::Timestamp;
use crate::event::{KeyId, Shard, TenantId};
use crate::store::ConfigChange;

/// A kind of resource that belongs to a tenant.
pub trait Owned: Prepare {
    /// Where a tenant has them.
    fn table(tenant: &TenantState) -> &Table<Self>;
    /// The same, to be changed.
    fn table_mut(tenant: &mut TenantState) -> &mut Table<Self>;
    /// Turns what the spec refers to into ids; what isn't there is a fault.
    fn link(spec: &mut Self::Spec, tenant: &TenantState, faults: &mut Vec<FieldError>);
    /// What refers to this one, as people call it.
    fn users(tenant: &TenantState, id: Self::Id) -> Vec<String>;
    /// What can't stand beside the others that the tenant has.
    fn conflict(_id: Self::Id, _spec: &Self::Spec, _tenant: &TenantState) -> Option<FieldError> {
        None
    }
    /// How it is diverted, if it is something that can be.
    fn diverted(_: Self::Id) -> Option<Diverted> {
        None
    }
}

/// A change in the making.
#[derive(Debug)]
pub(super) struct Draft {
    state: State,
    changes: BTreeMap<String, Option<Bytes>>,
    steered: Vec<Arc<Change>>,
    with: Arc<Preparer>,
    now: Timestamp,
}

impl Draft {
    pub(super) fn new(state: State, with: Arc<Preparer>, now: Timestamp) -> Self {
        Self { state, changes: BTreeMap::new(), steered: Vec::new(), with, now }
    }

    /// The state with the change.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    pub(super) fn with(&self) -> &Preparer {
        &self.with
    }

    /// The state, what to write, and what was changed of the gateway's traffic.
    pub(super) fn into_parts(self) -> (State, Vec<ConfigChange>, Vec<Arc<Change>>) {
        (self.state, self.changes.into_iter().collect(), self.steered)
    }

    pub(super) fn tenant(&self, id: TenantId) -> Result<&TenantState, Error> {
        self.state.tenants.get(&id).map(|tenant| &**tenant).ok_or_else(|| Error::missing::<Tenants>(&id.to_string()))
    }

    /// A tenant that is not being deleted.
    pub(super) fn living(&self, id: TenantId) -> Result<&TenantState, Error> {
        let tenant = self.tenant(id)?;
        if tenant.entry.parts.deleting.is_some() { Err(Error::BeingDeleted) } else { Ok(tenant) }
    }

    /// Puts a resource in, new or changed. What the gateway noted of it stays.
    pub(super) fn put<K: Owned>(&mut self, owner: TenantId, id: K::Id, spec: K::Spec) -> Result<Arc<Entry<K>>, Error> {
        let condition = K::table(self.living(owner)?).get(id).map(|old| old.condition.clone());
        self.put_with(owner, id, spec, condition.unwrap_or_default())
    }

    /// The same with what the gateway notes of it from now on.
    pub(super) fn put_with<K: Owned>(
        &mut self,
        owner: TenantId,
        id: K::Id,
        mut spec: K::Spec,
        condition: Condition,
    ) -> Result<Arc<Entry<K>>, Error> {
        let tenant = self.living(owner)?;
        let mut faults = Vec::new();
        K::link(&mut spec, tenant, &mut faults);
        faults.extend(K::conflict(id, &spec, tenant));
        let old = K::table(tenant).get(id);
        if let Some(other) = K::table(tenant).named(K::name(&spec)).filter(|other| other.id.to_string() != id.to_string()) {
            return Err(Error::Taken { kind: K::NAME, name: other.name.clone() });
        }
        let times = (old.map_or(self.now, |old| old.created_at), self.now);
        let entry = match Entry::<K>::build(Some(owner), id, times, (&spec, condition), &self.with) {
            Ok(entry) if faults.is_empty() => Arc::new(entry),
            Ok(_) => return Err(Error::Invalid(faults)),
            Err(BuildError::Invalid(more)) => return Err(Error::Invalid(faults.into_iter().chain(more).collect())),
            Err(BuildError::Seal(error)) => return Err(error.into()),
        };
        self.changes.insert(store_key::<K>(Some(owner), id), Some(entry.record.clone()));
        K::table_mut(self.tenant_mut(owner)?).put(Arc::clone(&entry));
        Ok(entry)
    }

    /// Takes a resource away, unless something refers to it.
    pub(super) fn delete<K: Owned>(&mut self, owner: TenantId, id: K::Id) -> Result<(), Error> {
        let users = K::users(self.tenant(owner)?, id);
        if !users.is_empty() {
            return Err(Error::InUse { kind: K::NAME, by: users });
        }
        if let Some(who) = K::diverted(id) {
            self.undivert(who);
        }
        K::table_mut(self.tenant_mut(owner)?).remove(id);
        self.changes.insert(store_key::<K>(Some(owner), id), None);
        Ok(())
    }

    /// Puts a tenant in, new or changed.
    pub(super) fn put_tenant(&mut self, id: TenantId, spec: &TenantRecord) -> Result<Arc<Entry<Tenants>>, Error> {
        if let Some(other) = self.state.tenant_names.get(&spec.name).filter(|other| **other != id) {
            return Err(Error::Taken { kind: Tenants::NAME, name: self.state.tenants[other].entry.name.clone() });
        }
        let old = self.state.tenants.get(&id);
        if old.is_some_and(|old| old.entry.parts.deleting.is_some()) {
            return Err(Error::BeingDeleted);
        }
        let times = (old.map_or(self.now, |old| old.entry.created_at), self.now);
        let entry = Arc::new(Entry::build(None, id, times, (spec, Condition::default()), &self.with)?);
        if let Some(old) = old {
            self.state.tenant_names.remove(&old.entry.name);
        }
        self.state.tenant_names.insert(entry.name.clone(), id);
        self.changes.insert(store_key::<Tenants>(None, id), Some(entry.record.clone()));
        match self.state.tenants.get_mut(&id) {
            Some(tenant) => Arc::make_mut(tenant).entry = Arc::clone(&entry),
            None => {
                self.state.tenants.insert(id, Arc::new(TenantState::new(Arc::clone(&entry))));
            }
        }
        Ok(entry)
    }

    /// Begins to delete a tenant: all that it has goes with its keys, and what is queued is left to be given up and purged.
    pub(super) fn begin_deletion(&mut self, id: TenantId) -> Result<Arc<Entry<Tenants>>, Error> {
        let tenant = self.tenant(id)?;
        if tenant.entry.parts.deleting.is_some() {
            return Ok(Arc::clone(&tenant.entry));
        }
        let tenant = tenant.clone();
        self.undivert(Diverted::Tenant(id));
        self.remove_all::<Connections>(&tenant);
        self.remove_all::<Destinations>(&tenant);
        self.remove_all::<Sources>(&tenant);
        self.remove_all::<Plugins>(&tenant);
        let keys: Vec<KeyId> = self.state.keys.values().filter(|key| key.key().tenant == Some(id)).map(|key| key.id).collect();
        for key in keys {
            self.delete_key(key);
        }
        let entry = self.put_tenant(id, &TenantRecord { deleting: Some(self.now), ..tenant.entry.tenant() })?;
        self.state.tenants.insert(id, Arc::new(TenantState::new(Arc::clone(&entry))));
        Ok(entry)
    }

    fn remove_all<K: Owned>(&mut self, tenant: &TenantState) {
        for entry in K::table(tenant).iter() {
            if let Some(who) = K::diverted(entry.id) {
                self.undivert(who);
            }
            self.changes.insert(store_key::<K>(Some(tenant.id()), entry.id), None);
        }
    }

    /// Takes a tenant away of which nothing is left.
    pub(super) fn end_deletion(&mut self, id: TenantId) -> Result<(), Error> {
        let name = self.tenant(id)?.entry.name.clone();
        self.state.tenant_names.remove(&name);
        self.state.tenants.remove(&id);
        self.changes.insert(store_key::<Tenants>(None, id), None);
        Ok(())
    }

    /// Puts an API key in.
    pub(super) fn put_key(&mut self, id: KeyId, spec: &KeyRecord) -> Result<Arc<Entry<Keys>>, Error> {
        let entry = Arc::new(Entry::build(spec.tenant, id, (self.now, self.now), (spec, Condition::default()), &self.with)?);
        self.changes.insert(store_key::<Keys>(spec.tenant, id), Some(entry.record.clone()));
        self.state.keys.insert(id, Arc::clone(&entry));
        Ok(entry)
    }

    /// Takes an API key away.
    pub(super) fn delete_key(&mut self, id: KeyId) {
        if let Some(entry) = self.state.keys.remove(&id) {
            self.changes.insert(store_key::<Keys>(entry.key().tenant, id), None);
        }
    }

    /// Sets something for the gateway's work, or ends a diversion. The record of it is part of the same change.
    pub(super) fn steer(&mut self, knob: Knob, to: Option<Level>, by: &Who, reason: Option<&str>) {
        let name = match knob {
            Knob::Diversion(who) => self.state.name_of(who),
            Knob::Lane(_) | Knob::Retries | Knob::Shard(_) => None,
        };
        let order = Order { knob, name, to, by, reason };
        let (change, writes) = Arc::make_mut(&mut self.state.steering).make(order, self.now);
        self.changes.extend(writes);
        self.steered.push(change);
    }

    /// Notes that in a shard nothing is held any more of who is returning. Its diversion ends with the last of its shards.
    pub(super) fn returned(&mut self, who: Diverted, shard: Shard) {
        let steering = &self.state.steering;
        if steering.traffic().diversion_of(who, shard) != Some(Diversion::Returning) {
            return;
        }
        let Some(tenant) = self.state.owner_of(who).filter(|tenant| tenant.entry.parts.shards.contains(shard)) else { return };
        let is_over = |other| other == shard || steering.traffic().drained.contains(&(who, other));
        let is_last = tenant.entry.parts.shards.iter().all(is_over);
        if is_last {
            self.steer(Knob::Diversion(who), None, &Who::Gateway, Some("nothing of it is held any more"));
        } else {
            self.changes.extend(Arc::make_mut(&mut self.state.steering).drain(who, shard));
        }
    }

    /// Who is deleted is not diverted any more.
    fn undivert(&mut self, who: Diverted) {
        if self.state.steering.diversion(who).is_some() {
            self.steer(Knob::Diversion(who), None, &Who::Gateway, Some("deleted"));
        }
    }

    fn tenant_mut(&mut self, id: TenantId) -> Result<&mut TenantState, Error> {
        let tenant = self.state.tenants.get_mut(&id).map(Arc::make_mut);
        tenant.ok_or_else(|| Error::missing::<Tenants>(&id.to_string()))
    }
}

fn connections_where(tenant: &TenantState, uses: impl Fn(&Entry<Connections>) -> bool) -> Vec<String> {
    let users = tenant.connections.iter().filter(|entry| uses(entry));
    users.map(|entry| format!("connection `{}`", entry.name)).collect()
}

impl Owned for Sources {
    fn table(tenant: &TenantState) -> &Table<Self> {
        &tenant.sources
    }

    fn table_mut(tenant: &mut TenantState) -> &mut Table<Self> {
        &mut tenant.sources
    }

    fn link(spec: &mut Self::Spec, tenant: &TenantState, faults: &mut Vec<FieldError>) {
        if let SourceAuth::Plugin(visit) = &mut spec.auth {
            visits::link("auth", "verify", visit, tenant, faults);
        }
        if let Some(visit) = &mut spec.respond {
            visits::link("respond", "respond", visit, tenant, faults);
        }
    }

    fn users(tenant: &TenantState, id: Self::Id) -> Vec<String> {
        let id = id.to_string();
        connections_where(tenant, |entry| entry.parts.source == id)
    }

    fn conflict(id: Self::Id, spec: &Self::Spec, tenant: &TenantState) -> Option<FieldError> {
        let mut others = tenant.sources.iter().filter(|other| other.id != id && other.parts.verifier.takes_notices());
        let other = others.next().filter(|_| spec.takes_notices())?;
        let message = format!("a tenant has one source of type \"notices\", and `{}` is it: connect that one", other.name);
        Some(FieldError { field: "auth.type".to_owned(), message })
    }

    fn diverted(id: Self::Id) -> Option<Diverted> {
        Some(Diverted::Source(id))
    }
}

impl Owned for Destinations {
    fn table(tenant: &TenantState) -> &Table<Self> {
        &tenant.destinations
    }

    fn table_mut(tenant: &mut TenantState) -> &mut Table<Self> {
        &mut tenant.destinations
    }

    fn link(spec: &mut Self::Spec, tenant: &TenantState, faults: &mut Vec<FieldError>) {
        for (field, visit) in [("sign", &mut spec.sign), ("judge", &mut spec.judge)] {
            if let Some(visit) = visit {
                visits::link(field, field, visit, tenant, faults);
            }
        }
    }

    fn users(tenant: &TenantState, id: Self::Id) -> Vec<String> {
        let id = id.to_string();
        connections_where(tenant, |entry| entry.parts.destination == id)
    }
}

impl Owned for Connections {
    fn table(tenant: &TenantState) -> &Table<Self> {
        &tenant.connections
    }

    fn table_mut(tenant: &mut TenantState) -> &mut Table<Self> {
        &mut tenant.connections
    }

    fn link(spec: &mut Self::Spec, tenant: &TenantState, faults: &mut Vec<FieldError>) {
        link_one("source", &mut spec.source, &tenant.sources, faults);
        link_one("destination", &mut spec.destination, &tenant.destinations, faults);
        for (index, stage) in spec.plugins.iter_mut().enumerate() {
            link_one(&format!("plugins[{index}].plugin"), &mut stage.plugin, &tenant.plugins, faults);
            let Some(plugin) = tenant.plugins.find(&stage.plugin) else { continue };
            let field = format!("plugins[{index}].version");
            visits::check_reference(&field, &plugin.parts, &stage.version, &["filter", "transform"], faults);
        }
    }

    fn users(_: &TenantState, _: Self::Id) -> Vec<String> {
        Vec::new()
    }
}

impl Owned for Plugins {
    fn table(tenant: &TenantState) -> &Table<Self> {
        &tenant.plugins
    }

    fn table_mut(tenant: &mut TenantState) -> &mut Table<Self> {
        &mut tenant.plugins
    }

    fn link(spec: &mut Self::Spec, tenant: &TenantState, faults: &mut Vec<FieldError>) {
        visits::keep_offers(spec, tenant, faults);
    }

    fn users(tenant: &TenantState, id: Self::Id) -> Vec<String> {
        let id = id.to_string();
        let mut users = connections_where(tenant, |entry| entry.parts.stages.iter().any(|stage| stage.plugin == id));
        users.extend(visits::users(tenant, &id, None));
        users
    }
}

/// Who names this alias, or this version by its hash.
pub(super) fn reference_users(tenant: &TenantState, plugin: &str, reference: &str) -> Vec<String> {
    let is_meant =
        |entry: &Entry<Connections>| entry.parts.stages.iter().any(|stage| stage.plugin == plugin && stage.version == reference);
    let mut users = connections_where(tenant, is_meant);
    users.extend(visits::users(tenant, plugin, Some(reference)));
    users
}

fn link_one<K: Kind>(field: &str, reference: &mut String, table: &Table<K>, faults: &mut Vec<FieldError>) {
    match table.find(reference) {
        Some(entry) => *reference = entry.id.to_string(),
        None => {
            let names = listing(table.iter().map(|entry| &entry.name));
            let message = format!("there is no {} `{}` in this tenant; it has {names}", K::NAME, short(reference));
            faults.push(FieldError { field: field.to_owned(), message });
        }
    }
}

/// The first few names, for an error's help.
fn listing<'a>(names: impl Iterator<Item = &'a String>) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<String> = names.take(SHOWN + 1).map(|name| format!("`{name}`")).collect();
    if names.is_empty() {
        return "none".into();
    }
    if names.len() > SHOWN {
        names[SHOWN] = "more".into();
    }
    names.join(", ")
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}
