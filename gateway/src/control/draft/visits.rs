//! Plugins that sources and destinations name: what they must export, and who names them.

use super::{link_one, listing, short};
use crate::control::model::{FieldError, PluginRecord, VisitParts, VisitSpec};
use crate::control::state::TenantState;

/// A plugin that somebody names.
struct Named<'a> {
    /// Who, as people call it.
    who: String,
    /// The field.
    field: &'static str,
    /// What the field needs the plugin to export.
    interface: &'static str,
    visit: &'a VisitParts,
}

fn all(tenant: &TenantState) -> impl Iterator<Item = Named<'_>> {
    let sources = tenant.sources.iter().flat_map(|entry| {
        let places = [("auth", "verify", &entry.parts.verify), ("respond", "respond", &entry.parts.respond)];
        places.into_iter().map(move |place| (format!("source `{}`", entry.name), place))
    });
    let destinations = tenant.destinations.iter().flat_map(|entry| {
        let places = [("sign", "sign", &entry.parts.sign), ("judge", "judge", &entry.parts.judge)];
        places.into_iter().map(move |place| (format!("destination `{}`", entry.name), place))
    });
    let all = sources.chain(destinations);
    all.filter_map(|(who, (field, interface, visit))| Some(Named { who, field, interface, visit: visit.as_ref()? }))
}

/// Turns the reference to a plugin into its id. The version that it names must be there and export `interface`.
pub(super) fn link(field: &str, interface: &str, visit: &mut VisitSpec, tenant: &TenantState, faults: &mut Vec<FieldError>) {
    link_one(&format!("{field}.plugin"), &mut visit.plugin, &tenant.plugins, faults);
    let Some(plugin) = tenant.plugins.find(&visit.plugin) else { return };
    check_reference(&format!("{field}.version"), &plugin.parts, &visit.version, &[interface], faults);
}

/// A version that is named must be there, and export one of `interfaces`.
pub(super) fn check_reference(
    field: &str,
    plugin: &PluginRecord,
    reference: &str,
    interfaces: &[&str],
    faults: &mut Vec<FieldError>,
) {
    let message = match plugin.resolve(reference) {
        None => format!(
            "plugin `{}` has no version or alias `{}`; it has {}",
            plugin.name,
            short(reference),
            listing(plugin.aliases.keys())
        ),
        Some(version) if interfaces.iter().any(|interface| version.offers(interface)) => return,
        Some(version) => format!(
            "version `{}` of plugin `{}` does not export {}, which is needed here; it exports {}",
            short(reference),
            plugin.name,
            interfaces.iter().map(|name| format!("`tidegate:plugin/{name}`")).collect::<Vec<_>>().join(" or "),
            listing(version.exports.iter())
        ),
    };
    faults.push(FieldError { field: field.to_owned(), message });
}

/// A plugin's aliases may not move to a version that lacks what a source or a destination names them for: it would refuse all that comes.
pub(super) fn keep_offers(record: &PluginRecord, tenant: &TenantState, faults: &mut Vec<FieldError>) {
    let Some(plugin) = tenant.plugins.named(&record.name).map(|known| known.id.to_string()) else { return };
    for Named { who, field, interface, visit } in all(tenant).filter(|named| named.visit.plugin == plugin) {
        let Some(version) = record.resolve(&visit.version).filter(|version| !version.offers(interface)) else { continue };
        let message = format!(
            "{who} names `{}` of this plugin in `{field}`, and version {} does not export `tidegate:plugin/{interface}`: \
             name another version there first",
            visit.version, version.hash
        );
        faults.push(FieldError { field: "version".into(), message });
    }
}

/// Who names this plugin, and as what if only that counts.
pub(super) fn users(tenant: &TenantState, plugin: &str, reference: Option<&str>) -> Vec<String> {
    let is_meant = |visit: &VisitParts| visit.plugin == plugin && reference.is_none_or(|reference| visit.version == reference);
    let mut users: Vec<String> = all(tenant).filter(|named| is_meant(named.visit)).map(|named| named.who).collect();
    users.dedup();
    users
}
