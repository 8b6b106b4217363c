//! From the state to the snapshot. Tenants that a change didn't touch are taken over as they are.

use std::sync::Arc;

use super::model::{Connections, Destinations, Plugins, PortionRecord, Sources, VersionRecord, VisitParts};
use super::snapshot::{CanaryPin, Connection, Destination, Order, Portion, Snapshot, Source, Split, Stage, Visit};
use super::sorted::Sorted;
use super::state::{Entry, State, TenantState};
use crate::dispatch::rate::{Paces, Rate, Unit};
use crate::event::{DestinationId, Pin, SourceId};

/// Something refers to what isn't there.
#[derive(Debug, thiserror::Error)]
#[error("{who} refers to {missing}, which is not there")]
pub struct Dangling {
    who: String,
    missing: String,
}

/// The snapshot of `state`, made from the one of `before`.
pub(super) fn assemble(before: &State, last: &Snapshot, state: &State) -> Result<Snapshot, Dangling> {
    let mut snapshot = last.clone();
    snapshot.revision = state.revision;
    snapshot.traffic = Arc::clone(state.steering.traffic());
    let changed = before.tenants.differences(&state.tenants, Arc::ptr_eq);
    for old in changed.iter().filter_map(|(old, _)| *old) {
        forget(&mut snapshot, old);
    }
    for new in changed.iter().filter_map(|(_, new)| *new) {
        add(&mut snapshot, new)?;
    }
    Ok(snapshot)
}

fn forget(snapshot: &mut Snapshot, tenant: &TenantState) {
    snapshot.tenants.remove(&tenant.id());
    for entry in tenant.sources.iter() {
        snapshot.sources.remove(&entry.id);
    }
    for entry in tenant.connections.iter() {
        snapshot.connections.remove(&entry.id);
    }
    for entry in tenant.destinations.iter() {
        snapshot.destinations.remove(&entry.id);
    }
}

fn add(snapshot: &mut Snapshot, tenant: &TenantState) -> Result<(), Dangling> {
    snapshot.tenants.insert(tenant.id(), Arc::clone(&tenant.entry.parts));
    for entry in tenant.destinations.iter() {
        snapshot.destinations.insert(entry.id, destination(tenant, entry)?);
    }
    let mut by_source = std::collections::HashMap::<SourceId, Vec<Arc<Connection>>>::new();
    let mut connections: Vec<&Arc<Entry<Connections>>> = tenant.connections.iter().collect();
    connections.sort_by(|a, b| a.name.cmp(&b.name));
    for entry in connections {
        let connection = Arc::new(connect(tenant, entry, &snapshot.destinations)?);
        if connection.enabled {
            by_source.entry(connection.source).or_default().push(Arc::clone(&connection));
        }
        snapshot.connections.insert(entry.id, connection);
    }
    for entry in tenant.sources.iter() {
        let connections = by_source.remove(&entry.id).unwrap_or_default();
        snapshot.sources.insert(entry.id, Arc::new(source(tenant, entry, connections)?));
    }
    Ok(())
}

/// The one of the state, with its plugins if it names any.
fn destination(tenant: &TenantState, entry: &Entry<Destinations>) -> Result<Arc<Destination>, Dangling> {
    let (own, condition) = (&entry.parts.destination, &entry.condition);
    let (sign, judge) = (&entry.parts.sign, &entry.parts.judge);
    let shards = tenant.entry.parts.shards.count();
    let handshake = entry.parts.handshake.as_ref();
    let agreement = handshake.and_then(|handshake| condition.agreement(&handshake.asked));
    let rates = [
        own.rate,
        agreement.and_then(|agreement| agreement.rate).map(|limit| Rate { limit: limit.min(Rate::MAX), per: Unit::Minute }),
    ];
    let slowest = rates.into_iter().flatten().map(|rate| rate.pace(shards)).max();
    let paces = Paces {
        destination: slowest.map(|pace| (own.id, pace)),
        tenant: tenant.entry.parts.plan.delivery_rate.map(|rate| (own.tenant, rate.pace(shards))),
    };
    let order = own.order.as_ref().map(|order| order_of(tenant, entry, order));
    let is_plain = paces.is_empty() && order.is_none() && condition.is_empty() && sign.is_none() && judge.is_none();
    if is_plain && handshake.is_none() {
        return Ok(Arc::clone(own));
    }
    let visit = |parts: &Option<VisitParts>| {
        let who = || format!("destination `{}`", entry.id);
        parts.as_ref().map(|parts| visit(tenant, parts, who)).transpose()
    };
    let is_wanted = own.enabled && condition.disabled.is_none();
    let awaits = handshake.filter(|_| is_wanted && agreement.is_none()).cloned();
    Ok(Arc::new(Destination {
        enabled: is_wanted && awaits.is_none(),
        awaits,
        paces,
        order,
        failing_since: condition.failing_since,
        enabled_at: condition.enabled_at.unwrap_or_default(),
        sign: visit(sign)?,
        judge: visit(judge)?,
        ..Destination::clone(own)
    }))
}

/// With what is the same for all of the destination's connections.
fn order_of(tenant: &TenantState, entry: &Entry<Destinations>, order: &Order) -> Order {
    let id = entry.id.to_string();
    let mut known = Order::new(order.by.clone());
    let connections: Vec<_> = tenant.connections.iter().filter(|one| one.parts.destination == id).collect();
    if !connections.is_empty() {
        known.is_paused = connections.iter().all(|one| one.parts.paused);
        known.runs_plugins = connections.iter().all(|one| !one.parts.stages.is_empty());
    }
    known.connections = connections.iter().map(|one| one.id).collect();
    known
}

fn visit(tenant: &TenantState, parts: &VisitParts, who: impl Fn() -> String) -> Result<Visit, Dangling> {
    let (plugin, version) = resolve(tenant, &parts.plugin, &parts.version, who)?;
    let VisitParts { config, secrets, limits, .. } = parts;
    let (config, secrets, limits) = (Arc::clone(config), Arc::clone(secrets), limits.clone());
    Ok(Visit { name: plugin.name.clone(), version: version.hash, config, secrets, limits })
}

/// The plugin and its version that somebody names.
fn resolve<'a>(
    tenant: &'a TenantState,
    plugin: &str,
    version: &str,
    who: impl Fn() -> String,
) -> Result<(&'a Entry<Plugins>, &'a VersionRecord), Dangling> {
    let missing = |missing: String| Dangling { who: who(), missing };
    let found = plugin.parse().ok().and_then(|id| tenant.plugins.get(id));
    let found: &Entry<Plugins> = found.ok_or_else(|| missing(format!("plugin `{plugin}`")))?;
    let resolved = found.parts.resolve(version);
    Ok((found, resolved.ok_or_else(|| missing(format!("version `{version}` of plugin `{}`", found.name)))?))
}

fn connect(
    tenant: &TenantState,
    entry: &Entry<Connections>,
    destinations: &Sorted<DestinationId, Arc<Destination>>,
) -> Result<Connection, Dangling> {
    let who = || format!("connection `{}`", entry.id);
    let missing = |missing: String| Dangling { who: who(), missing };
    let parts = &entry.parts;
    let source = parts.source.parse::<SourceId>().ok().and_then(|id| tenant.sources.get(id));
    let source = source.ok_or_else(|| missing(format!("source `{}`", parts.source)))?;
    let destination = parts.destination.parse::<DestinationId>().ok().and_then(|id| tenant.destinations.get(id));
    let destination = destination.ok_or_else(|| missing(format!("destination `{}`", parts.destination)))?;
    let stages = parts.stages.iter().map(|stage| {
        let (plugin, version) = resolve(tenant, &stage.plugin, &stage.version, who)?;
        Ok(Stage {
            plugin: plugin.id,
            name: plugin.name.clone(),
            version: version.hash,
            kind: version.kind,
            split: split(plugin, &stage.version),
            versions: plugin.parts.runnable().collect(),
            config: Arc::clone(&stage.config),
            secrets: Arc::clone(&stage.secrets),
            limits: stage.limits.clone(),
            on_failure: stage.on_failure,
            poison_after: stage.poison_after,
            on_poisoned: stage.on_poisoned,
            invocations: stage.invocations,
        })
    });
    Ok(Connection {
        id: entry.id,
        name: entry.name.clone(),
        tenant: tenant.id(),
        source: source.id,
        enabled: parts.enabled,
        paused: parts.paused,
        filter: parts.filter.clone(),
        chain: stages.collect::<Result<_, _>>()?,
        withheld: source.parts.verifier.signature_headers().filter_map(|name| name.parse().ok()).collect(),
        retry: parts.retry.clone().unwrap_or_else(|| destination.parts.retry.clone()),
        destination: Arc::clone(destinations.get(&destination.id).unwrap_or(&destination.parts.destination)),
        window: destination.parts.destination.window(&tenant.entry.parts),
    })
}

/// What an alias runs beside its own version.
fn split(plugin: &Entry<Plugins>, alias: &str) -> Option<Arc<Split>> {
    let record = plugin.parts.splits.get(alias)?;
    let portion = |portion: Option<PortionRecord>| {
        let PortionRecord { version, share, since } = portion?;
        Some(Portion { version, kind: plugin.parts.version(version)?.kind, share, since })
    };
    let (canary, shadow) = (portion(record.canary), portion(record.shadow));
    Some(Arc::new(Split { plugin: plugin.id, alias: alias.to_owned(), canary, shadow }))
}

fn source(tenant: &TenantState, entry: &Entry<Sources>, connections: Vec<Arc<Connection>>) -> Result<Source, Dangling> {
    let mut pins = Vec::new();
    let mut canaries = Vec::new();
    for connection in connections.iter().filter(|connection| !connection.chain.is_empty()) {
        let splits = connection.chain.iter().enumerate().filter_map(|(stage, one)| Some((stage, one.split.as_ref()?)));
        let taken = splits.filter(|(_, split)| split.canary.is_some());
        canaries.extend(taken.map(|(stage, split)| CanaryPin { pin: pins.len(), stage, split: Arc::clone(split) }));
        pins.push(Pin { connection: connection.id, versions: connection.chain.iter().map(|stage| stage.version).collect() });
    }
    let parts = &entry.parts;
    let visit = |parts: &Option<VisitParts>| {
        let who = || format!("source `{}`", entry.id);
        parts.as_ref().map(|parts| visit(tenant, parts, who)).transpose()
    };
    Ok(Source {
        id: entry.id,
        name: entry.name.clone(),
        tenant: Arc::clone(&tenant.entry.parts),
        enabled: parts.enabled,
        verifier: Arc::clone(&parts.verifier),
        verify: visit(&parts.verify)?,
        respond: visit(&parts.respond)?,
        permits: parts.permits.clone(),
        format: parts.format,
        methods: parts.methods.clone(),
        dedup: parts.dedup.clone(),
        max_body: parts.max_body,
        trust_trace: parts.trust_trace,
        is_ordered: connections.iter().any(|connection| connection.destination.order.is_some()),
        pins,
        canaries,
        connections,
    })
}
