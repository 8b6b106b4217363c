use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Faults, FieldError, Kind, check_name};
use crate::clock::Timestamp;
use crate::control::snapshot::StageKind;
use crate::event::{PluginId, VersionHash};

/// The alias that every upload moves.
pub const LATEST: &str = "latest";
/// Versions of one plugin.
pub const MAX_VERSIONS: usize = 200;
/// Aliases of one plugin.
const MAX_ALIASES: usize = 50;

/// Plugins.
#[derive(Debug)]
pub enum Plugins {}

impl Kind for Plugins {
    type Id = PluginId;
    type Spec = PluginRecord;
    type Parts = PluginRecord;
    const NAME: &'static str = "plugin";
    const KEY: &'static str = "plg";

    fn new_id(now: Timestamp, random: u128) -> PluginId {
        PluginId::new(now, random)
    }

    fn name(spec: &PluginRecord) -> &str {
        &spec.name
    }
}

/// A plugin as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PluginRecord {
    /// Unique in the tenant.
    pub name: String,
    /// In the order of their upload.
    pub versions: Vec<VersionRecord>,
    /// Names for versions; `latest` is always there.
    pub aliases: BTreeMap<String, VersionHash>,
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
        faults.or(self.clone())
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
