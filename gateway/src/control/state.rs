//! The configuration in memory: an immutable tree that changes by copying what a change touches.
//!
//! Everything of a tenant hangs below that tenant, so that what is looked up for one can't find another's.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::Condition;
use super::homes::Homes;
use super::model::{Connections, Destinations, FieldError, KeyRecord, Keys, Kind, Plugins, Sources, TenantRecord, Tenants};
use super::parts::Origin;
use super::prepare::{Prepare, Preparer};
use super::seal::SealError;
use super::snapshot::Diverted;
use super::sorted::Sorted;
use super::steering::{self, Steering};
use crate::clock::Timestamp;
use crate::event::{KeyId, Revision, SourceId, TenantId};

/// A stored record that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer release.
    #[error("record `{0}` has format version {1}, which is newer than this release: upgrade this node")]
    Newer(String, u8),
    /// Not a record of its kind.
    #[error("record `{0}` is damaged: {1}")]
    Damaged(String, String),
    /// Its secrets can't be opened.
    #[error("record `{0}`: {1}")]
    Sealed(String, SealError),
    /// Its content isn't valid here.
    #[error("record `{0}` is not valid here: {1}")]
    Invalid(String, String),
}

/// A spec that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// What is wrong with it.
    #[error("{} faults", .0.len())]
    Invalid(Vec<FieldError>),
    /// Its secrets can't be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// One resource, ready for use.
#[derive(Debug)]
pub struct Entry<K: Kind> {
    /// Its id.
    pub id: K::Id,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// Its spec as JSON, with its secrets sealed.
    pub sealed: Value,
    /// What is made of it.
    pub parts: K::Parts,
    /// What the gateway noted of it by itself; of destinations alone.
    pub condition: Condition,
    /// Its record in the store.
    pub record: Bytes,
    digest: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Record {
    v: u8,
    created_at: Timestamp,
    updated_at: Timestamp,
    spec: Value,
    #[serde(default, skip_serializing_if = "Condition::is_empty")]
    condition: Condition,
}

impl<K: Prepare> Entry<K> {
    /// Checks a spec, seals its secrets and makes it ready.
    pub fn build(
        owner: Option<TenantId>,
        id: K::Id,
        times: (Timestamp, Timestamp),
        (spec, condition): (&K::Spec, Condition),
        with: &Preparer,
    ) -> Result<Self, BuildError> {
        let parts = K::prepare(owner, id, spec, with, Origin::Asked).map_err(BuildError::Invalid)?;
        let mut sealed = serde_json::to_value(spec).expect("specs are plain data");
        with.sealer.seal_json(&id.to_string(), K::SECRETS, &mut sealed)?;
        let (created_at, updated_at) = times;
        let record = Record { v: K::format(spec), created_at, updated_at, spec: sealed.clone(), condition: condition.clone() };
        let record = Bytes::from(serde_json::to_vec(&record).expect("records are plain data"));
        let digest = hash(&record);
        Ok(Self { id, name: K::name(spec).to_owned(), created_at, updated_at, sealed, parts, condition, record, digest })
    }

    fn load(key: &str, owner: Option<TenantId>, id: K::Id, bytes: &Bytes, with: &Preparer) -> Result<Self, RecordError> {
        let damaged = |error: serde_json::Error| RecordError::Damaged(key.to_owned(), error.to_string());
        let record: Record = serde_json::from_slice(bytes).map_err(damaged)?;
        if record.v > K::FORMAT {
            return Err(RecordError::Newer(key.to_owned(), record.v));
        }
        let mut open = record.spec.clone();
        let sealed = |error| RecordError::Sealed(key.to_owned(), error);
        with.sealer.open_json(&id.to_string(), K::SECRETS, &mut open).map_err(sealed)?;
        let spec: K::Spec = serde_json::from_value(open).map_err(damaged)?;
        let parts = K::prepare(owner, id, &spec, with, Origin::Stored).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect();
            RecordError::Invalid(key.to_owned(), faults.join("; "))
        })?;
        let Record { created_at, updated_at, spec: sealed, condition, .. } = record;
        let name = K::name(&spec).to_owned();
        Ok(Self { id, name, created_at, updated_at, sealed, parts, condition, record: bytes.clone(), digest: hash(bytes) })
    }

    /// The spec with its secrets open. Keep it no longer than needed.
    pub fn open(&self, with: &Preparer) -> Result<K::Spec, RecordError> {
        let key = || format!("{}/{}", K::KEY, self.id);
        let mut open = self.sealed.clone();
        with.sealer.open_json(&self.id.to_string(), K::SECRETS, &mut open).map_err(|error| RecordError::Sealed(key(), error))?;
        serde_json::from_value(open).map_err(|error| RecordError::Damaged(key(), error.to_string()))
    }
}

/// Resources of one kind: by id, and by name.
#[derive(Debug)]
pub struct Table<K: Kind> {
    rows: BTreeMap<K::Id, Arc<Entry<K>>>,
    names: BTreeMap<String, K::Id>,
}

impl<K: Kind> Default for Table<K> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), names: BTreeMap::new() }
    }
}

impl<K: Kind> Clone for Table<K> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), names: self.names.clone() }
    }
}

impl<K: Kind> Table<K> {
    /// By id.
    pub fn get(&self, id: K::Id) -> Option<&Arc<Entry<K>>> {
        self.rows.get(&id)
    }

    /// By name.
    pub fn named(&self, name: &str) -> Option<&Arc<Entry<K>>> {
        self.names.get(name).and_then(|id| self.rows.get(id))
    }

    /// By id or name.
    pub fn find(&self, reference: &str) -> Option<&Arc<Entry<K>>> {
        match reference.parse() {
            Ok(id) => self.get(id),
            Err(_) => self.named(reference),
        }
    }

    /// All, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<Entry<K>>> {
        self.rows.values()
    }

    /// All after `id`, oldest first.
    pub fn after(&self, id: Option<K::Id>) -> impl Iterator<Item = &Arc<Entry<K>>> {
        let start = id.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.rows.range((start, std::ops::Bound::Unbounded)).map(|(_, entry)| entry)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Puts an entry in, in place of the one with its id.
    pub(super) fn put(&mut self, entry: Arc<Entry<K>>) {
        self.remove(entry.id);
        self.names.insert(entry.name.clone(), entry.id);
        self.rows.insert(entry.id, entry);
    }

    pub(super) fn remove(&mut self, id: K::Id) {
        if let Some(old) = self.rows.remove(&id) {
            self.names.remove(&old.name);
        }
    }

    fn same(&self, other: &Self) -> bool {
        self.len() == other.len() && self.rows.values().zip(other.rows.values()).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

/// A tenant with everything that is its own.
#[derive(Clone, Debug)]
pub struct TenantState {
    /// The tenant itself.
    pub entry: Arc<Entry<Tenants>>,
    /// Its sources.
    pub sources: Table<Sources>,
    /// Its destinations.
    pub destinations: Table<Destinations>,
    /// Its connections.
    pub connections: Table<Connections>,
    /// Its plugins.
    pub plugins: Table<Plugins>,
}

impl TenantState {
    pub(super) fn new(entry: Arc<Entry<Tenants>>) -> Self {
        Self {
            entry,
            sources: Table::default(),
            destinations: Table::default(),
            connections: Table::default(),
            plugins: Table::default(),
        }
    }

    /// Its id.
    pub fn id(&self) -> TenantId {
        self.entry.id
    }

    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
            && self.sources.same(&other.sources)
            && self.destinations.same(&other.destinations)
            && self.connections.same(&other.connections)
            && self.plugins.same(&other.plugins)
    }
}

/// The whole configuration at one revision.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The revision.
    pub revision: Revision,
    pub(super) tenants: Sorted<TenantId, Arc<TenantState>>,
    pub(super) tenant_names: Sorted<String, TenantId>,
    pub(super) keys: Sorted<KeyId, Arc<Entry<Keys>>>,
    pub(super) steering: Arc<Steering>,
}

impl State {
    /// Reads the records of one revision, keeping from `before` what has not changed.
    pub fn load(before: &Self, revision: Revision, records: &[(String, Bytes)], with: &Preparer) -> Result<Self, RecordError> {
        let steering = Arc::new(Steering::load(&before.steering, records)?);
        let mut state = Self { revision, steering, ..Self::default() };
        // Tenants first: `ten/` sorts behind the others, and engines may list in any order.
        for (key, bytes) in records {
            if let Some(id) = key.strip_prefix("ten/") {
                let id = parse(key, id)?;
                let old = before.tenants.get(&id).map(|tenant| &tenant.entry);
                let entry = reuse_or_load(key, None, id, bytes, old, with)?;
                state.tenant_names.insert(entry.name.clone(), id);
                state.tenants.insert(id, Arc::new(TenantState::new(entry)));
            }
        }
        for (key, bytes) in records.iter().filter(|(key, _)| !key.starts_with(steering::KEY)) {
            state.load_owned(before, key, bytes, with)?;
        }
        let kept = state.tenants.values().filter_map(|tenant| before.tenants.get(&tenant.id()).filter(|old| old.same(tenant)));
        for old in kept.cloned().collect::<Vec<_>>() {
            state.tenants.insert(old.id(), old);
        }
        Ok(state)
    }

    fn load_owned(&mut self, before: &Self, key: &str, bytes: &Bytes, with: &Preparer) -> Result<(), RecordError> {
        let mut parts = key.splitn(3, '/');
        let (kind, owner, id) = match (parts.next(), parts.next(), parts.next()) {
            (Some("ten"), ..) => return Ok(()),
            (Some(kind), Some(owner), Some(id)) => (kind, owner, id),
            _ => return Err(RecordError::Damaged(key.to_owned(), "its key has no known form".into())),
        };
        if kind == Keys::KEY {
            let id = parse(key, id)?;
            let owner = if owner == OPERATOR { None } else { Some(parse(key, owner)?) };
            let entry = reuse_or_load(key, owner, id, bytes, before.keys.get(&id), with)?;
            self.keys.insert(id, entry);
            return Ok(());
        }
        let owner: TenantId = parse(key, owner)?;
        let orphan = || RecordError::Damaged(key.to_owned(), "its tenant is not there".into());
        let tenant = Arc::make_mut(self.tenants.get_mut(&owner).ok_or_else(orphan)?);
        let old = before.tenants.get(&owner);
        macro_rules! load {
            ($table:ident) => {{
                let id = parse(key, id)?;
                let old = old.and_then(|old| old.$table.get(id));
                tenant.$table.put(reuse_or_load(key, Some(owner), id, bytes, old, with)?);
            }};
        }
        match kind {
            Sources::KEY => load!(sources),
            Destinations::KEY => load!(destinations),
            Connections::KEY => load!(connections),
            Plugins::KEY => load!(plugins),
            _ => return Err(RecordError::Damaged(key.to_owned(), "its kind is not known".into())),
        }
        Ok(())
    }

    /// A tenant by id.
    pub fn tenant(&self, id: TenantId) -> Option<&Arc<TenantState>> {
        self.tenants.get(&id)
    }

    /// A tenant by id or name.
    pub fn find_tenant(&self, reference: &str) -> Option<&Arc<TenantState>> {
        let id = reference.parse().ok().or_else(|| self.tenant_names.get(reference).copied())?;
        self.tenants.get(&id)
    }

    /// Whose work is diverted.
    pub fn owner_of(&self, who: Diverted) -> Option<&Arc<TenantState>> {
        match who {
            Diverted::Tenant(id) => self.tenant(id),
            Diverted::Source(source) => self.tenants.values().find(|tenant| tenant.sources.get(source).is_some()),
        }
    }

    /// Who it is by id, by a tenant's name, or by the names of a tenant and its source: `acme/github`.
    pub fn find_diverted(&self, reference: &str) -> Option<Diverted> {
        if let Ok(id) = reference.parse::<SourceId>() {
            let who = Diverted::Source(id);
            return self.owner_of(who).map(|_| who);
        }
        match reference.split_once('/') {
            Some((tenant, source)) => Some(Diverted::Source(self.find_tenant(tenant)?.sources.find(source)?.id)),
            None => self.find_tenant(reference).map(|tenant| Diverted::Tenant(tenant.id())),
        }
    }

    /// What people call who is diverted: `acme`, or `acme/github`.
    pub fn name_of(&self, who: Diverted) -> Option<String> {
        let tenant = self.owner_of(who)?;
        match who {
            Diverted::Tenant(_) => Some(tenant.entry.name.clone()),
            Diverted::Source(id) => Some(format!("{}/{}", tenant.entry.name, tenant.sources.get(id)?.name)),
        }
    }

    /// All tenants, oldest first.
    pub fn tenants(&self) -> impl Iterator<Item = &Arc<TenantState>> {
        self.tenants.values()
    }

    /// What operators set for the gateway's work.
    pub fn steering(&self) -> &Arc<Steering> {
        &self.steering
    }

    /// An API key by the id inside it.
    pub fn key(&self, id: KeyId) -> Option<&Arc<Entry<Keys>>> {
        self.keys.get(&id)
    }
}

/// The owner part of an operator's key's key.
const OPERATOR: &str = "-";

/// Where a resource's record is in the store.
pub(super) fn store_key<K: Kind>(owner: Option<TenantId>, id: K::Id) -> String {
    match owner {
        _ if K::KEY == Tenants::KEY => format!("{}/{id}", K::KEY),
        Some(owner) => format!("{}/{owner}/{id}", K::KEY),
        None => format!("{}/{OPERATOR}/{id}", K::KEY),
    }
}

fn reuse_or_load<K: Prepare>(
    key: &str,
    owner: Option<TenantId>,
    id: K::Id,
    bytes: &Bytes,
    old: Option<&Arc<Entry<K>>>,
    with: &Preparer,
) -> Result<Arc<Entry<K>>, RecordError> {
    match old {
        Some(old) if old.digest == hash(bytes) => Ok(Arc::clone(old)),
        _ => Entry::load(key, owner, id, bytes, with).map(Arc::new),
    }
}

fn parse<T: std::str::FromStr<Err = crate::event::IdError>>(key: &str, text: &str) -> Result<T, RecordError> {
    text.parse().map_err(|error: crate::event::IdError| RecordError::Damaged(key.to_owned(), error.to_string()))
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

impl Entry<Tenants> {
    /// Where its data is.
    pub fn homes(&self) -> Homes {
        Homes { tenant: self.id, shards: self.parts.shards.clone() }
    }

    /// The tenant's own record.
    pub fn tenant(&self) -> TenantRecord {
        serde_json::from_value(self.sealed.clone()).expect("was read as one before")
    }
}

impl Entry<Keys> {
    /// The key's own record.
    pub fn key(&self) -> &KeyRecord {
        &self.parts
    }
}
