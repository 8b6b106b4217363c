//! Brings tenants to a declared state: all of it in one revision, or nothing.
//!
//! What is declared is found by its name. Whatever is there and not declared stays, unless pruning is asked for; then the sources,
//! destinations, connections and plugins of the declared tenants go that are not declared. Tenants themselves are never pruned.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::draft::{Draft, Owned};
use super::model::{
    ConnectionSpec, Connections, DestinationSpec, Destinations, Faults, FieldError, Kind, PlanSpec, Plugins, SourceSpec, Sources,
    TenantRecord, Tenants, VersionRecord, Who, check_alias,
};
use super::service::{Access, AliasChange, Control, Error, PortionChange, add_version, change_alias};
use super::snapshot::StageKind;
use crate::event::{PluginId, TenantId, VersionHash};

/// What tenants are to be like.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplySpec {
    /// Tenants.
    #[serde(default)]
    pub tenants: Vec<ApplyTenant>,
}

/// What a tenant is to be like.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyTenant {
    /// Its name.
    #[schema(example = "acme")]
    pub name: String,
    /// What it may use; stays as it is when left out. Operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanSpec>,
    /// Its plugins.
    #[serde(default)]
    pub plugins: Vec<ApplyPlugin>,
    /// Its sources.
    #[serde(default)]
    pub sources: Vec<SourceSpec>,
    /// Its destinations.
    #[serde(default)]
    pub destinations: Vec<DestinationSpec>,
    /// Its connections; they refer to the others by name.
    #[serde(default)]
    pub connections: Vec<ConnectionSpec>,
}

/// What a plugin is to be like.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyPlugin {
    /// Its name.
    pub name: String,
    /// The hash of a component that was kept before; in a file, the component's path.
    pub component: String,
    /// Aliases that point to this version from now on, and run beside it what `canary` and `shadow` say, or nothing.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Takes its share of the aliases' events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<ApplyPortion>,
    /// Runs along with its share of the aliases' events, and is only compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<ApplyPortion>,
}

/// A component that is to run for a share of an alias' events.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyPortion {
    /// The hash of a component that was kept before; in a file, the component's path.
    pub component: String,
    /// Of the events, in steps of 0.01.
    #[schema(minimum = 0.01, maximum = 100)]
    pub percent: f64,
}

impl ApplyPlugin {
    /// Each component that it names, with the field that does.
    pub fn components(&mut self) -> impl Iterator<Item = (&'static str, &mut String)> {
        let portions = [("canary.component", self.canary.as_mut()), ("shadow.component", self.shadow.as_mut())];
        let portions = portions.into_iter().filter_map(|(field, portion)| Some((field, &mut portion?.component)));
        std::iter::once(("component", &mut self.component)).chain(portions)
    }
}

/// How to apply.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// Only say what would be done.
    pub dry_run: bool,
    /// Take away what is not declared.
    pub prune: bool,
}

/// What was done, or would be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ApplyReport {
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Each thing with what happens to it.
    pub changes: Vec<Change>,
}

/// One thing with what happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// What happens.
    pub action: Action,
    /// `tenant`, `plugin`, `source`, `destination` or `connection`.
    pub kind: String,
    /// The tenant's name.
    pub tenant: String,
    /// Its name.
    pub name: String,
}

/// What happens to a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is made.
    Create,
    /// It changes.
    Update,
    /// It is as declared.
    Unchanged,
    /// It goes.
    Delete,
}

impl Control {
    /// Brings the declared tenants to the declared state.
    pub async fn apply(&self, access: Access, by: &Who, spec: &ApplySpec, mode: Mode) -> Result<ApplyReport, Error> {
        let versions = self.find_versions(spec, mode).await?;
        let make = |draft: &mut Draft| {
            let (changes, faults) = (Vec::new(), Vec::new());
            let mut run = Run { control: self, draft, access, by, mode, versions: &versions, changes, faults };
            for (index, tenant) in spec.tenants.iter().enumerate() {
                let at = format!("tenants[{index}]");
                if let Some(id) = run.tenant(&at, tenant)? {
                    run.contents(&at, id, tenant)?;
                }
            }
            if run.faults.is_empty() { Ok(run.changes) } else { Err(Error::Invalid(run.faults)) }
        };
        let changes = if mode.dry_run { self.rehearse(make)? } else { self.change(make).await? };
        Ok(ApplyReport { dry_run: mode.dry_run, changes })
    }

    /// The components that the spec names, inspected. A dry run doesn't need them to be kept yet.
    async fn find_versions(&self, spec: &ApplySpec, mode: Mode) -> Result<HashMap<VersionHash, VersionRecord>, Error> {
        let state = self.state();
        let mut versions = HashMap::new();
        let mut faults = Faults::default();
        for (index, tenant) in spec.tenants.iter().enumerate() {
            for (number, plugin) in tenant.plugins.iter().enumerate() {
                let known = state.find_tenant(&tenant.name).and_then(|tenant| tenant.plugins.named(&plugin.name));
                for (part, component) in plugin.clone().components() {
                    let field = format!("tenants[{index}].plugins[{number}].{part}");
                    let Ok(hash) = component.parse::<VersionHash>() else {
                        faults.add(field, "must be a component's hash, 64 hex digits");
                        continue;
                    };
                    if versions.contains_key(&hash) {
                        continue;
                    }
                    let version = match known.and_then(|plugin| plugin.parts.version(hash)) {
                        Some(version) => Ok(version.clone()),
                        None => self.kept(hash).await,
                    };
                    match version {
                        Ok(version) => drop(versions.insert(hash, version)),
                        Err(Error::NotFound { .. }) if mode.dry_run => {
                            let kind = known.and_then(|plugin| plugin.parts.versions.last()).map(|version| version.kind);
                            versions.insert(hash, self.unseen(hash, kind.unwrap_or(StageKind::Transform)));
                        }
                        Err(Error::NotFound { .. }) => faults.add(field, "is not kept here: send it to POST /v1/components first"),
                        Err(Error::Component(error)) => faults.add(field, error.to_string()),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        faults.or(versions).map_err(Error::Invalid)
    }

    /// Stands for a component that a dry run has not been given; nothing of it is written.
    fn unseen(&self, hash: VersionHash, kind: StageKind) -> VersionRecord {
        // Of what it takes nothing is known: its size counts for nothing.
        VersionRecord { hash, size: 0, compiled: 0, kind, exports: Vec::new(), uploaded_at: self.clock.now() }
    }
}

/// One pass over the declaration.
struct Run<'a> {
    control: &'a Control,
    draft: &'a mut Draft,
    access: Access,
    by: &'a Who,
    mode: Mode,
    versions: &'a HashMap<VersionHash, VersionRecord>,
    changes: Vec<Change>,
    faults: Vec<FieldError>,
}

impl Run<'_> {
    /// Brings the tenant itself up to date. None if it can't be.
    fn tenant(&mut self, at: &str, spec: &ApplyTenant) -> Result<Option<TenantId>, Error> {
        let found = self.draft.state().find_tenant(&spec.name).filter(|tenant| tenant.entry.name == spec.name);
        let found = found.map(|tenant| (tenant.id(), tenant.entry.tenant()));
        if let Access::Tenant(own) = self.access {
            let reached = found.as_ref().filter(|(id, _)| *id == own);
            let (id, _) = reached.ok_or_else(|| Error::missing::<Tenants>(&spec.name))?;
            if spec.plan.is_some() {
                return Err(Error::Forbidden("a plan is set by an operator: leave `plan` out"));
            }
            return Ok(Some(*id));
        }
        let (id, record, action) = match found {
            Some((id, record)) => {
                let mut changed = TenantRecord { plan: spec.plan.unwrap_or(record.plan), ..record.clone() };
                let spread = self.control.spread(self.draft.state(), &mut changed);
                self.note(at, spread)?;
                let action = if changed == record { Action::Unchanged } else { Action::Update };
                (id, changed, action)
            }
            None => {
                let id = Tenants::new_id(self.control.clock.now(), self.control.random_id()?);
                let made = self.control.new_tenant(self.draft.state(), &spec.name, spec.plan.unwrap_or_default());
                let Some(record) = self.note(at, made)? else { return Ok(None) };
                (id, record, Action::Create)
            }
        };
        let put = if action == Action::Unchanged { Ok(()) } else { self.draft.put_tenant(id, &record).map(drop) };
        let done = self.note(at, put)?;
        self.changes.push(Change { action, kind: "tenant".into(), tenant: spec.name.clone(), name: spec.name.clone() });
        Ok(done.map(|()| id))
    }

    fn contents(&mut self, at: &str, id: TenantId, spec: &ApplyTenant) -> Result<(), Error> {
        for (index, plugin) in spec.plugins.iter().enumerate() {
            self.plugin(&format!("{at}.plugins[{index}]"), (id, &spec.name), plugin)?;
        }
        self.all::<Sources>(&format!("{at}.sources"), (id, &spec.name), &spec.sources)?;
        self.all::<Destinations>(&format!("{at}.destinations"), (id, &spec.name), &spec.destinations)?;
        self.all::<Connections>(&format!("{at}.connections"), (id, &spec.name), &spec.connections)?;
        if self.mode.prune && self.faults.is_empty() {
            self.prune::<Connections>((id, &spec.name), spec.connections.iter().map(|spec| &spec.name))?;
            self.prune::<Destinations>((id, &spec.name), spec.destinations.iter().map(|spec| &spec.name))?;
            self.prune::<Sources>((id, &spec.name), spec.sources.iter().map(|spec| &spec.name))?;
            self.prune::<Plugins>((id, &spec.name), spec.plugins.iter().map(|spec| &spec.name))?;
        }
        Ok(())
    }

    fn plugin(&mut self, at: &str, owner: (TenantId, &str), spec: &ApplyPlugin) -> Result<(), Error> {
        let (id, tenant) = owner;
        let mut faults = Faults::default();
        for (index, alias) in spec.aliases.iter().enumerate() {
            check_alias(&format!("{at}.aliases[{index}]"), alias, &mut faults);
        }
        if spec.aliases.is_empty() && (spec.canary.is_some() || spec.shadow.is_some()) {
            faults.add(format!("{at}.aliases"), "is needed: a canary or a shadow takes its share of an alias' events");
        }
        self.faults.extend(faults.0);
        let version = spec.component.parse::<VersionHash>().ok().and_then(|hash| self.versions.get(&hash));
        let Some(version) = version else { return Ok(()) };
        let before = self.draft.tenant(id)?.plugins.named(&spec.name).cloned();
        let new = (PluginId::new(self.control.clock.now(), self.control.random_id()?), spec.name.as_str());
        let portion = |portion: &Option<ApplyPortion>| {
            Some(portion.as_ref().map(|portion| PortionChange { version: portion.component.clone(), percent: portion.percent }))
        };
        let (canary, shadow) = (portion(&spec.canary), portion(&spec.shadow));
        let to = AliasChange { version: Some(version.hash.to_string()), canary, shadow };
        let beside: Vec<&VersionRecord> = [&spec.canary, &spec.shadow]
            .into_iter()
            .filter_map(|portion| portion.as_ref()?.component.parse().ok())
            .filter_map(|hash: VersionHash| self.versions.get(&hash))
            .collect();
        let (by, now) = (self.by, self.control.clock.now());
        let added = add_version(self.draft, id, before.as_deref(), new, version).and_then(|entry| {
            let mut record = entry.parts.clone();
            for version in beside {
                record.add(version);
            }
            for alias in &spec.aliases {
                change_alias(&mut record, alias, &to, by, now)?;
            }
            if record == entry.parts { Ok(entry) } else { self.draft.put::<Plugins>(id, entry.id, record) }
        });
        if let Some(after) = self.note(at, added)? {
            let action = match before {
                None => Action::Create,
                Some(before) if before.parts == after.parts => Action::Unchanged,
                Some(_) => Action::Update,
            };
            self.changes.push(change::<Plugins>(action, tenant, &spec.name));
        }
        Ok(())
    }

    fn all<K: Owned>(&mut self, at: &str, owner: (TenantId, &str), specs: &[K::Spec]) -> Result<(), Error> {
        let (id, tenant) = owner;
        for (index, spec) in specs.iter().enumerate() {
            let at = format!("{at}[{index}]");
            let name = K::name(spec);
            if specs[..index].iter().any(|earlier| K::name(earlier) == name) {
                self.faults.push(FieldError { field: format!("{at}.name"), message: "is declared twice".into() });
                continue;
            }
            let old = K::table(self.draft.tenant(id)?).named(name).cloned();
            let action = match &old {
                None => Action::Create,
                Some(old) if self.is_same::<K>(id, &old.open(self.draft.with())?, spec)? => Action::Unchanged,
                Some(_) => Action::Update,
            };
            if action != Action::Unchanged {
                let new_id = match &old {
                    Some(old) => old.id,
                    None => K::new_id(self.control.clock.now(), self.control.random_id()?),
                };
                let put = self.draft.put::<K>(id, new_id, spec.clone());
                self.note(&at, put)?;
            }
            self.changes.push(change::<K>(action, tenant, name));
        }
        Ok(())
    }

    fn is_same<K: Owned>(&self, id: TenantId, old: &K::Spec, new: &K::Spec) -> Result<bool, Error> {
        let mut linked = new.clone();
        K::link(&mut linked, self.draft.tenant(id)?, &mut Vec::new());
        Ok(serde_json::to_value(old).ok() == serde_json::to_value(&linked).ok())
    }

    fn prune<'a, K: Owned>(&mut self, owner: (TenantId, &str), kept: impl Iterator<Item = &'a String>) -> Result<(), Error> {
        let (id, tenant) = owner;
        let kept: std::collections::HashSet<&String> = kept.collect();
        let doomed: Vec<_> =
            K::table(self.draft.tenant(id)?).iter().filter(|entry| !kept.contains(&entry.name)).map(Arc::clone).collect();
        for entry in doomed {
            self.draft.delete::<K>(id, entry.id)?;
            self.changes.push(change::<K>(Action::Delete, tenant, &entry.name));
        }
        Ok(())
    }

    /// Collects what is wrong with one thing, so that all is reported at once.
    fn note<T>(&mut self, at: &str, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Invalid(faults)) => {
                let placed = faults.into_iter().map(|fault| {
                    let dot = if fault.field.is_empty() { "" } else { "." };
                    FieldError { field: format!("{at}{dot}{}", fault.field), message: fault.message }
                });
                self.faults.extend(placed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn change<K: Kind>(action: Action, tenant: &str, name: &str) -> Change {
    Change { action, kind: K::NAME.into(), tenant: tenant.to_owned(), name: name.to_owned() }
}
