//! How much compiled code a tenant's plugins may have: `plan.plugin_bytes`.
//!
//! Every version of every plugin of the tenant counts, the same component once, at the size that it had when it was taken. Artifacts are
//! kept by content, so one that several tenants uploaded takes the disk once; it counts for each of them all the same, since none may
//! learn from its own count what others have. What the gateway has built in counts for nobody.

use std::collections::BTreeMap;

use super::Error;
use crate::config::units::ShownSize;
use crate::control::draft::reference_users;
use crate::control::model::{PluginRecord, VersionRecord};
use crate::control::state::TenantState;
use crate::event::VersionHash;

/// Versions that a refusal proposes to delete.
const PROPOSED: usize = 3;

/// Whether there is room for one more version.
pub(super) fn check(tenant: &TenantState, more: &VersionRecord) -> Result<(), Error> {
    let versions = tenant.plugins.iter().flat_map(|plugin| &plugin.parts.versions);
    let mut counted: BTreeMap<VersionHash, u64> = versions.map(|version| (version.hash, bytes(version))).collect();
    if counted.insert(more.hash, bytes(more)).is_some() {
        return Ok(());
    }
    let (sum, limit) = (counted.values().sum::<u64>(), tenant.entry.parts.plan.plugin_bytes);
    if sum <= limit {
        return Ok(());
    }
    let detail = format!(
        "with this component the compiled code of the tenant's plugins would take {}, and its plan allows {} (plan.plugin_bytes): {}, \
         make the component smaller, or have plan.plugin_bytes raised",
        ShownSize(sum),
        ShownSize(limit),
        proposal(tenant),
    );
    Err(Error::OverPlan { code: "plugin_bytes_exceeded", detail })
}

/// What a version was compiled to, or what it would be about that was taken before that was noted.
fn bytes(version: &VersionRecord) -> u64 {
    if version.compiled > 0 { version.compiled } else { version.size.saturating_mul(3) }
}

/// The largest versions that nothing names.
fn proposal(tenant: &TenantState) -> String {
    let mut unused: Vec<(u64, String)> = Vec::new();
    for plugin in tenant.plugins.iter() {
        let is_named = |record: &PluginRecord, hash: VersionHash| {
            let by_alias = record.aliases.values().any(|named| *named == hash);
            by_alias || !reference_users(tenant, &plugin.id.to_string(), &hash.to_string()).is_empty()
        };
        let versions = plugin.parts.versions.iter().filter(|version| !is_named(&plugin.parts, version.hash));
        unused.extend(versions.map(|version| {
            let bytes = bytes(version);
            (bytes, format!("{} of `{}` ({})", version.hash, plugin.name, ShownSize(bytes)))
        }));
    }
    unused.sort_unstable_by(|a, b| b.cmp(a));
    let names: Vec<String> = unused.into_iter().take(PROPOSED).map(|(_, name)| name).collect();
    if names.is_empty() {
        "every version is named by an alias or a connection: delete plugins that are not in use".into()
    } else {
        format!("delete versions that nothing names, such as {}", names.join(", "))
    }
}
