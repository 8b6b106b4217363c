use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FORMAT, Faults, FieldError, Kind, Who, check_name};
use crate::clock::Timestamp;
use crate::control::snapshot::{Share, StageKind};
use crate::event::{PluginId, VersionHash};

/// The alias that every upload moves.
pub const LATEST: &str = "latest";
/// Versions of one plugin.
pub const MAX_VERSIONS: usize = 200;
/// Aliases of one plugin.
const MAX_ALIASES: usize = 50;
/// Versions that an alias had before, newest last; older ones are forgotten.
const MAX_PAST: usize = 10;
/// Deleted versions that events may still be pinned to.
pub const MAX_RETIRED: usize = 200;
/// The format of a record with an alias that is split: an older release would run the alias' own version for all events.
const SPLIT: u8 = 2;

/// Plugins.
#[derive(Debug)]
pub enum Plugins {}

impl Kind for Plugins {
    type Id = PluginId;
    type Spec = PluginRecord;
    type Parts = PluginRecord;
    const NAME: &'static str = "plugin";
    const KEY: &'static str = "plg";
    const FORMAT: u8 = SPLIT;

    fn new_id(now: Timestamp, random: u128) -> PluginId {
        PluginId::new(now, random)
    }

    fn name(spec: &PluginRecord) -> &str {
        &spec.name
    }

    fn format(spec: &PluginRecord) -> u8 {
        if spec.splits.is_empty() { FORMAT } else { SPLIT }
    }
}

/// A plugin as it is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRecord {
    /// Unique in the tenant.
    pub name: String,
    /// In the order of their upload.
    pub versions: Vec<VersionRecord>,
    /// Names for versions; `latest` is always there.
    pub aliases: BTreeMap<String, VersionHash>,
    /// Aliases that run other versions beside their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub splits: BTreeMap<String, SplitRecord>,
    /// What aliases pointed to before, oldest first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub past: BTreeMap<String, Vec<PastRecord>>,
    /// Versions that were deleted and that events may still be pinned to, in the order of their deletion.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<RetiredRecord>,
}

/// What an alias runs beside its own version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitRecord {
    /// Runs instead of the alias' version, for its share of the events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<PortionRecord>,
    /// Runs as well, for its share of the events, and is only compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<PortionRecord>,
}

/// A version with its share of the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortionRecord {
    /// The version.
    pub version: VersionHash,
    /// Its share.
    pub share: Share,
    /// Since when it has that place.
    pub since: Timestamp,
}

/// What an alias pointed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastRecord {
    /// The version.
    pub version: VersionHash,
    /// When the alias left it.
    pub until: Timestamp,
    /// Who moved it.
    pub by: Who,
}

/// A version that was deleted: nothing can name it any more, but what was accepted with it still runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredRecord {
    /// The component's hash.
    pub hash: VersionHash,
    /// What it does.
    pub kind: StageKind,
    /// When it was deleted.
    pub at: Timestamp,
}

/// A version of a plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    /// The component's hash.
    pub hash: VersionHash,
    /// The component's size in bytes.
    pub size: u64,
    /// Bytes of its compiled code, as the node that took it compiled it; 0 if that was not noted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub compiled: u64,
    /// What it does.
    pub kind: StageKind,
    /// The interfaces that it exports.
    pub exports: Vec<String>,
    /// When it was uploaded.
    pub uploaded_at: Timestamp,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl VersionRecord {
    /// Whether it exports this interface of `tidegate:plugin`: `verify`. What nothing is known of is taken to.
    pub fn offers(&self, interface: &str) -> bool {
        let name = |export: &str| export.strip_prefix("tidegate:plugin/").map(|rest| rest.split('@').next() == Some(interface));
        self.exports.is_empty() || self.exports.iter().any(|export| name(export) == Some(true))
    }
}

impl PluginRecord {
    pub(in crate::control) fn prepare(&self) -> Result<Self, Vec<FieldError>> {
        let mut faults = Faults::default();
        check_name("name", &self.name, &mut faults);
        if self.versions.len() > MAX_VERSIONS {
            faults.add("versions", format!("there may be {MAX_VERSIONS} versions: delete some that are not in use"));
        }
        if self.aliases.len() > MAX_ALIASES {
            faults.add("aliases", format!("there may be {MAX_ALIASES} aliases"));
        }
        for (alias, split) in &self.splits {
            self.check_split(alias, split, &mut faults);
        }
        faults.or(self.clone())
    }

    fn check_split(&self, alias: &str, split: &SplitRecord, faults: &mut Faults) {
        let own = self.aliases.get(alias).and_then(|hash| self.version(*hash));
        let Some(own) = own else { return faults.add("alias", "has no version of its own") };
        for (field, portion) in [("canary", &split.canary), ("shadow", &split.shadow)] {
            let Some(portion) = portion else { continue };
            match self.version(portion.version) {
                None => faults.add(format!("{field}.version"), "is not a version of this plugin"),
                Some(version) if version.hash == own.hash => {
                    faults.add(format!("{field}.version"), "is the alias' own version: name another");
                }
                Some(version) if version.kind != own.kind => faults.add(
                    format!("{field}.version"),
                    format!("is a {}, the alias' own version is a {}: both must be of one kind", version.kind, own.kind),
                ),
                Some(_) => {}
            }
        }
    }

    /// Adds a version, unless it is there.
    pub(in crate::control) fn add(&mut self, version: &VersionRecord) {
        if self.version(version.hash).is_none() {
            self.retired.retain(|old| old.hash != version.hash);
            self.versions.push(version.clone());
        }
    }

    /// Points an alias elsewhere, and notes where it pointed.
    pub(in crate::control) fn point(&mut self, alias: &str, version: VersionHash, by: &Who, now: Timestamp) {
        let Some(before) = self.aliases.insert(alias.to_owned(), version).filter(|before| *before != version) else { return };
        let past = self.past.entry(alias.to_owned()).or_default();
        past.push(PastRecord { version: before, until: now, by: by.clone() });
        past.drain(..past.len().saturating_sub(MAX_PAST));
    }

    /// Sets what an alias runs beside its own version.
    pub(in crate::control) fn split(&mut self, alias: &str, split: SplitRecord) {
        match split {
            SplitRecord { canary: None, shadow: None } => drop(self.splits.remove(alias)),
            split => drop(self.splits.insert(alias.to_owned(), split)),
        }
    }

    /// Aliases that run this version, or a share of their events with it.
    pub fn aliases_of(&self, hash: VersionHash) -> Vec<String> {
        let own = self.aliases.iter().filter(|(_, to)| **to == hash).map(|(alias, _)| format!("alias `{alias}`"));
        let part = |name: &'static str, of: fn(&SplitRecord) -> Option<PortionRecord>| {
            let users = self.splits.iter().filter(move |(_, split)| of(split).is_some_and(|portion| portion.version == hash));
            users.map(move |(alias, _)| format!("the {name} of alias `{alias}`"))
        };
        own.chain(part("canary", |split| split.canary)).chain(part("shadow", |split| split.shadow)).collect()
    }

    /// Every version that an event can be pinned to, with what it does.
    pub fn runnable(&self) -> impl Iterator<Item = (VersionHash, StageKind)> {
        let retired = self.retired.iter().map(|version| (version.hash, version.kind));
        self.versions.iter().map(|version| (version.hash, version.kind)).chain(retired)
    }

    /// The version with this hash.
    pub fn version(&self, hash: VersionHash) -> Option<&VersionRecord> {
        self.versions.iter().find(|version| version.hash == hash)
    }

    /// The version that `reference` names: an alias or a hash.
    pub fn resolve(&self, reference: &str) -> Option<&VersionRecord> {
        let hash = self.aliases.get(reference).copied().or_else(|| reference.parse().ok())?;
        self.version(hash)
    }
}

/// Checks an alias that is to be set by hand.
pub fn check_alias(field: &str, alias: &str, faults: &mut Faults) {
    check_name(field, alias, faults);
    if alias == LATEST {
        faults.add(field, "`latest` moves with each upload and can't be set");
    } else if alias.parse::<VersionHash>().is_ok() {
        faults.add(field, "must not look like a version's hash");
    }
}
