//! Plugins: uploads, versions, aliases.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Control, Error, compiled};
use crate::control::draft::{Draft, reference_users};
use crate::control::inspect::Inspection;
use crate::control::model::{
    Faults, LATEST, MAX_RETIRED, PluginRecord, Plugins, RetiredRecord, Tenants, VersionRecord, check_alias, check_name,
};
use crate::control::state::Entry;
use crate::event::{PluginId, TenantId, VersionHash};

/// How long a deleted version can still be run: longer than anything that was accepted with it waits, or can be retried by hand with the
/// defaults.
const RETIRED: Duration = Duration::from_secs(45 * 24 * 60 * 60);

/// A component, and what it is known by.
#[derive(Clone, Debug)]
pub struct Component {
    /// What was uploaded.
    pub bytes: Bytes,
    /// Its hash.
    pub hash: VersionHash,
}

impl Component {
    /// Takes the hash of all of it at once, which takes about a millisecond for each MiB.
    pub fn of(bytes: Bytes) -> Self {
        Self { hash: VersionHash::of(&bytes), bytes }
    }
}

/// A component that was taken.
#[derive(Debug)]
pub struct Uploaded {
    /// Its plugin.
    pub plugin: Arc<Entry<Plugins>>,
    /// Its version.
    pub version: VersionRecord,
    /// Whether the plugin had it already.
    pub known: bool,
}

/// A component that can be used.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The component's hash.
    pub hash: VersionHash,
    /// Its size in bytes.
    pub size: u64,
    /// What was found.
    pub inspection: Inspection,
}

impl Control {
    /// Adds a version to a plugin, which is made if there is none of that name. `latest` moves to it.
    pub async fn upload(&self, owner: TenantId, name: &str, component: Component) -> Result<Uploaded, Error> {
        let mut faults = Faults::default();
        if name.parse::<PluginId>().is_err() {
            check_name("plugin", name, &mut faults);
        }
        faults.or(()).map_err(Error::Invalid)?;
        let state = self.state();
        let tenant = state.tenant(owner).ok_or_else(|| Error::missing::<Tenants>(&owner.to_string()))?;
        let hash = component.hash;
        let known = tenant.plugins.find(name).and_then(|plugin| plugin.parts.version(hash).cloned());
        let version = match known {
            Some(version) => version,
            None => self.keep_for(owner, component).await?,
        };
        let id = PluginId::new(self.clock.now(), self.random_id()?);
        self.change(|draft| {
            let found = draft.tenant(owner)?.plugins.find(name).cloned();
            if found.is_none() && name.parse::<PluginId>().is_ok() {
                return Err(Error::missing::<Plugins>(name));
            }
            let known = found.as_ref().is_some_and(|plugin| plugin.parts.version(hash).is_some());
            let plugin = add_version(draft, owner, found.as_deref(), (id, name), &version)?;
            Ok(Uploaded { plugin, version: version.clone(), known })
        })
        .await
    }

    /// Inspects a tenant's component without keeping it. A tenant waits for its own uploads alone.
    pub async fn inspect_for(&self, tenant: TenantId, component: Component) -> Result<Inspected, Error> {
        let Component { bytes, hash } = component;
        let size = bytes.len() as u64;
        let inspection = self.inspector.inspect_for(tenant, bytes).await.map_err(Error::Component)?;
        Ok(Inspected { hash, size, inspection })
    }

    /// Inspects a component and keeps it.
    pub async fn keep(&self, component: Bytes) -> Result<VersionRecord, Error> {
        self.keep_for(TenantId(0), Component::of(component)).await
    }

    /// The same for a tenant, which waits for its own uploads alone.
    pub async fn keep_for(&self, tenant: TenantId, component: Component) -> Result<VersionRecord, Error> {
        let Inspected { hash, size, inspection } = self.inspect_for(tenant, component.clone()).await?;
        self.store.put_component(hash, component.bytes).await?;
        let Inspection { kind, exports, compiled } = inspection;
        Ok(VersionRecord { hash, size, compiled, kind, exports, uploaded_at: self.clock.now() })
    }

    /// Inspects a component that is in the store.
    pub async fn kept(&self, hash: VersionHash) -> Result<VersionRecord, Error> {
        let bytes = self.store.component(hash).await?;
        let bytes = bytes.ok_or_else(|| Error::NotFound { kind: "component", reference: hash.to_string() })?;
        let inspected = self.inspect_for(TenantId(0), Component { bytes, hash }).await?;
        let Inspected { size, inspection: Inspection { kind, exports, compiled }, .. } = inspected;
        Ok(VersionRecord { hash, size, compiled, kind, exports, uploaded_at: self.clock.now() })
    }

    /// Takes a version away, unless an alias or a connection names it. What was accepted with it still runs it.
    pub async fn delete_version(&self, owner: TenantId, plugin: &str, version: &str) -> Result<(), Error> {
        let now = self.clock.now();
        self.change(|draft| {
            let entry = find(draft, owner, plugin)?;
            let missing = || Error::NotFound { kind: "version", reference: version.chars().take(80).collect() };
            let hash: VersionHash = version.parse().map_err(|_| missing())?;
            let kind = entry.parts.version(hash).ok_or_else(missing)?.kind;
            let mut by = entry.parts.aliases_of(hash);
            by.extend(reference_users(draft.tenant(owner)?, &entry.id.to_string(), &hash.to_string()));
            if !by.is_empty() {
                return Err(Error::InUse { kind: "version", by });
            }
            let mut record = entry.parts.clone();
            record.versions.retain(|version| version.hash != hash);
            record.past.values_mut().for_each(|past| past.retain(|past| past.version != hash));
            record.retired.retain(|old| now < old.at.after(RETIRED));
            if record.retired.len() >= MAX_RETIRED {
                let days = RETIRED.as_secs() / 86_400;
                let message = format!("{MAX_RETIRED} versions of this plugin were deleted in the last {days} days, and events may still be pinned to them: wait, or leave it");
                return Err(Error::field("version", message));
            }
            record.retired.push(RetiredRecord { hash, kind, at: now });
            draft.put::<Plugins>(owner, entry.id, record).map(drop)
        })
        .await
    }

    /// Takes an alias away, unless a connection names it.
    pub async fn delete_alias(&self, owner: TenantId, plugin: &str, alias: &str) -> Result<(), Error> {
        check(alias)?;
        self.change(|draft| {
            let entry = find_alias(draft, owner, plugin, alias)?;
            let by = reference_users(draft.tenant(owner)?, &entry.id.to_string(), alias);
            if !by.is_empty() {
                return Err(Error::InUse { kind: "alias", by });
            }
            let mut record = entry.parts.clone();
            record.aliases.remove(alias);
            record.splits.remove(alias);
            record.past.remove(alias);
            draft.put::<Plugins>(owner, entry.id, record).map(drop)
        })
        .await
    }
}

pub(super) fn find(draft: &Draft, owner: TenantId, plugin: &str) -> Result<Arc<Entry<Plugins>>, Error> {
    draft.tenant(owner)?.plugins.find(plugin).cloned().ok_or_else(|| Error::missing::<Plugins>(plugin))
}

/// The plugin that has this alias.
pub(super) fn find_alias(draft: &Draft, owner: TenantId, plugin: &str, alias: &str) -> Result<Arc<Entry<Plugins>>, Error> {
    let entry = find(draft, owner, plugin)?;
    if entry.parts.aliases.contains_key(alias) {
        return Ok(entry);
    }
    Err(Error::NotFound { kind: "alias", reference: alias.chars().take(80).collect() })
}

/// Refuses what can't be an alias that is set by hand.
pub(super) fn check(alias: &str) -> Result<(), Error> {
    let mut faults = Faults::default();
    check_alias("alias", alias, &mut faults);
    faults.or(()).map_err(Error::Invalid)
}

/// Adds a version to `found`, or to a new plugin of that id and name; `latest` moves to it.
pub(in crate::control) fn add_version(
    draft: &mut Draft,
    owner: TenantId,
    found: Option<&Entry<Plugins>>,
    new: (PluginId, &str),
    version: &VersionRecord,
) -> Result<Arc<Entry<Plugins>>, Error> {
    let (id, mut record) = match found {
        Some(plugin) => (plugin.id, plugin.parts.clone()),
        None => (new.0, PluginRecord { name: new.1.to_owned(), ..PluginRecord::default() }),
    };
    if record.version(version.hash).is_none() {
        compiled::check(draft.tenant(owner)?, version)?;
        record.add(version);
    }
    record.aliases.insert(LATEST.into(), version.hash);
    if let Some(plugin) = found.filter(|plugin| plugin.parts == record) {
        return draft.tenant(owner)?.plugins.get(plugin.id).cloned().ok_or_else(|| Error::missing::<Plugins>(&plugin.name));
    }
    draft.put::<Plugins>(owner, id, record)
}
