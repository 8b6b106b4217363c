//! Aliases: where they point, what runs beside, and back.

use std::sync::Arc;

use super::plugins::{check, find, find_alias};
use super::{Control, Error};
use crate::clock::Timestamp;
use crate::control::model::{Faults, PluginRecord, Plugins, PortionRecord, SplitRecord, Who};
use crate::control::snapshot::Share;
use crate::control::state::Entry;
use crate::event::{TenantId, VersionHash};

/// What an alias is to be.
#[derive(Clone, Debug, Default)]
pub struct AliasChange {
    /// Where it points: a version's hash, or another alias. None leaves it.
    pub version: Option<String>,
    /// What takes its share of the events. None leaves it, `Some(None)` ends it.
    pub canary: Option<Option<PortionChange>>,
    /// What runs along. None leaves it, `Some(None)` ends it.
    pub shadow: Option<Option<PortionChange>>,
}

/// A version with its share of the events.
#[derive(Clone, Debug)]
pub struct PortionChange {
    /// A version's hash, or another alias.
    pub version: String,
    /// Of all events.
    pub percent: f64,
}

impl Control {
    /// Points an alias at a version, and sets what it runs beside. The alias is made if there is none.
    pub async fn set_alias(
        &self,
        owner: TenantId,
        plugin: &str,
        alias: &str,
        to: &AliasChange,
        by: &Who,
    ) -> Result<Arc<Entry<Plugins>>, Error> {
        check(alias)?;
        let now = self.clock.now();
        self.change(|draft| {
            let entry = match &to.version {
                Some(_) => find(draft, owner, plugin)?,
                None => find_alias(draft, owner, plugin, alias)?,
            };
            let mut record = entry.parts.clone();
            change_alias(&mut record, alias, to, by, now)?;
            if record == entry.parts { Ok(entry) } else { draft.put::<Plugins>(owner, entry.id, record) }
        })
        .await
    }

    /// Has an alias point to its canary from now on.
    pub async fn promote(&self, owner: TenantId, plugin: &str, alias: &str, by: &Who) -> Result<Arc<Entry<Plugins>>, Error> {
        check(alias)?;
        let now = self.clock.now();
        self.change(|draft| {
            let entry = find_alias(draft, owner, plugin, alias)?;
            let mut record = entry.parts.clone();
            let split = record.splits.get(alias).copied().unwrap_or_default();
            let canary = split.canary.ok_or(Error::State("the alias has no canary to promote: set one first"))?;
            record.point(alias, canary.version, by, now);
            let shadow = split.shadow.filter(|shadow| shadow.version != canary.version);
            record.split(alias, SplitRecord { canary: None, shadow });
            draft.put::<Plugins>(owner, entry.id, record)
        })
        .await
    }

    /// Ends an alias' canary; without one, has it point to where it pointed before.
    pub async fn roll_back(&self, owner: TenantId, plugin: &str, alias: &str) -> Result<Arc<Entry<Plugins>>, Error> {
        check(alias)?;
        self.change(|draft| {
            let entry = find_alias(draft, owner, plugin, alias)?;
            let mut record = entry.parts.clone();
            let split = record.splits.get(alias).copied().unwrap_or_default();
            if split.canary.is_some() {
                record.split(alias, SplitRecord { canary: None, ..split });
                return draft.put::<Plugins>(owner, entry.id, record);
            }
            let before = record.past.get_mut(alias).and_then(Vec::pop);
            let before = before.ok_or(Error::State("the alias has no canary, and nothing is known that it pointed to before"))?;
            record.past.retain(|_, past| !past.is_empty());
            record.aliases.insert(alias.to_owned(), before.version);
            let fits = |version: VersionHash| {
                let kind = |hash| record.version(hash).map(|version| version.kind);
                version != before.version && kind(version) == kind(before.version)
            };
            let shadow = split.shadow.filter(|shadow| fits(shadow.version));
            record.split(alias, SplitRecord { canary: None, shadow });
            draft.put::<Plugins>(owner, entry.id, record)
        })
        .await
    }
}

/// Changes an alias in the record.
pub(in crate::control) fn change_alias(
    record: &mut PluginRecord,
    alias: &str,
    to: &AliasChange,
    by: &Who,
    now: Timestamp,
) -> Result<(), Error> {
    let mut faults = Faults::default();
    let find = |record: &PluginRecord, field: &str, version: &str, faults: &mut Faults| {
        let found = record.resolve(version).map(|version| version.hash);
        if found.is_none() {
            faults.add(field, "is neither a version nor an alias of this plugin");
        }
        found
    };
    if let Some(version) = &to.version
        && let Some(hash) = find(record, "version", version, &mut faults)
    {
        record.point(alias, hash, by, now);
    }
    let mut split = record.splits.get(alias).copied().unwrap_or_default();
    let parts = [("canary", &to.canary, &mut split.canary), ("shadow", &to.shadow, &mut split.shadow)];
    for (field, change, portion) in parts {
        let Some(change) = change else { continue };
        let Some(change) = change else {
            *portion = None;
            continue;
        };
        let version = find(record, &format!("{field}.version"), &change.version, &mut faults);
        let share =
            Share::of_percent(change.percent).map_err(|error| faults.add(format!("{field}.percent"), error.to_string())).ok();
        if let (Some(version), Some(share)) = (version, share) {
            // The same version in the same place has been there since it came.
            let since = portion.filter(|before| before.version == version).map_or(now, |before| before.since);
            *portion = Some(PortionRecord { version, share, since });
        }
    }
    faults.or(()).map_err(Error::Invalid)?;
    record.split(alias, split);
    Ok(())
}
