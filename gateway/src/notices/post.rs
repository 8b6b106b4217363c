//! Brings a notice into the sources that it is for, and keeps what was told.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::alarm::{Alarm, Condition, Edge, Pending};
use super::notice::{Notice, NoticeData, NoticeKind, NoticeThing, PluginThing};
use super::receivers::Receivers;
use super::so::So;
use super::watch::Parts;
use crate::clock::Timestamp;
use crate::control::snapshot::{Snapshot, Source};
use crate::event::{Event, EventId, Header, Lane, Request, Shard, TenantId};
use crate::ingest::accept::AcceptError;
use crate::store::{Acceptance, Dedup, Store, StoreError};

/// The format of what is kept of alarms.
const FORMAT: u8 = 1;
/// What stands for so long is told again if another owner takes its shard then.
const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long what takes something back stays.
const AT_ONCE: Duration = Duration::from_millis(1);

/// An alarm as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    v: u8,
    tenant: TenantId,
    condition: Condition,
    alarm: Alarm,
}

pub(super) struct Post<'a> {
    pub(super) parts: &'a Parts,
    pub(super) receivers: &'a Receivers,
    pub(super) snapshot: &'a Snapshot,
    pub(super) shard: Shard,
}

impl Post<'_> {
    /// The alarms that the owner before kept of a shard.
    pub(super) async fn alarms(store: &dyn Store, shard: Shard) -> Result<BTreeMap<(TenantId, Condition), Alarm>, StoreError> {
        let said = store.said(&topic(shard)).await?;
        let kept = said.iter().filter_map(|said| serde_json::from_slice::<Kept>(said).ok()).filter(|kept| kept.v <= FORMAT);
        Ok(kept.map(|kept| ((kept.tenant, kept.condition), kept.alarm)).collect())
    }

    /// Decides what is told, and keeps that before anybody is told.
    pub(super) async fn begin(
        &self,
        tenant: TenantId,
        condition: Condition,
        alarm: &mut Alarm,
        edge: Edge,
        so: Option<&So>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let since = so.map_or(alarm.since, |so| so.since);
        let notice = self.write(tenant, condition, edge, so, (since, now));
        let (kind, mut next) = (notice.kind.as_str(), alarm.clone());
        next.telling(Pending { edge, at: now, notice }, since);
        self.keep(tenant, condition, &next).await?;
        tracing::info!(%tenant, notice = kind, %since, "notice");
        self.parts.metrics.notice(kind);
        *alarm = next;
        Ok(())
    }

    /// Sends what is on its way to whom it is for. Sent again it is the same event.
    pub(super) async fn send(&self, tenant: TenantId, condition: Condition, alarm: &mut Alarm) -> Result<(), StoreError> {
        let Some(pending) = &alarm.pending else { return Ok(()) };
        for source in self.receivers.of(tenant) {
            let name = name_of(source, tenant, condition, (alarm.episode, pending.edge));
            self.accept(source, name, pending).await?;
        }
        alarm.pending = None;
        self.keep(tenant, condition, alarm).await
    }

    async fn accept(&self, source: &Source, name: [u8; 32], pending: &Pending) -> Result<(), StoreError> {
        let mut random = [0; 16];
        random.copy_from_slice(&name[..16]);
        let id = EventId::new(pending.at, u128::from_be_bytes(random));
        let body = serde_json::to_vec(&pending.notice).expect("plain data");
        let content_type = Header { name: "content-type".to_owned(), value: Bytes::from_static(b"application/json") };
        let event = Event {
            id,
            tenant: source.tenant.id,
            source: source.id,
            revision: self.snapshot.revision,
            accepted_at: self.parts.clock.now(),
            request: Request { method: "POST".to_owned(), headers: vec![content_type], body: body.into(), ..Request::default() },
            pins: source.pins_for(id),
            trace: None,
        };
        let Some(event) = source.verifier.notice(event) else { return Ok(()) };
        let shards = &source.tenant.shards;
        let shard = if source.is_ordered { shards.home() } else { shards.place(id, Some(&name)) };
        let is_diverted = self.snapshot.traffic.diversion(source.tenant.id, source.id, shard).is_some();
        let lane = if is_diverted { Lane::Held } else { Lane::Normal };
        let dedup = Some(Dedup { key: name, window: self.parts.rules.quiet });
        match self.parts.acceptor.accept(Acceptance { event, shard, lane, dedup }).await {
            Ok(_) => Ok(()),
            Err(AcceptError::Store(error)) => Err(error),
            Err(error @ (AcceptError::QueueFull | AcceptError::Stopping)) => Err(StoreError::Unavailable(error.to_string())),
        }
    }

    /// Has nothing be told of a condition.
    pub(super) async fn take_back(
        &self,
        tenant: TenantId,
        condition: Condition,
        alarm: &mut Alarm,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let next = alarm.untold(now);
        self.keep(tenant, condition, &next).await?;
        tracing::info!(%tenant, ?condition, "nobody hears of this any more");
        *alarm = next;
        Ok(())
    }

    /// Forgets all alarms of a tenant.
    pub(super) async fn forget(
        &self,
        alarms: &mut BTreeMap<(TenantId, Condition), Alarm>,
        tenant: TenantId,
    ) -> Result<(), StoreError> {
        let all: Vec<_> = alarms.range((tenant, Condition::FIRST)..=(tenant, Condition::LAST)).map(|(key, _)| *key).collect();
        for key in all {
            self.forget_one(alarms, key).await?;
        }
        Ok(())
    }

    pub(super) async fn forget_one(
        &self,
        alarms: &mut BTreeMap<(TenantId, Condition), Alarm>,
        key: (TenantId, Condition),
    ) -> Result<(), StoreError> {
        self.parts.store.say(&topic(self.shard), &node(key.0, key.1), Bytes::new(), AT_ONCE).await?;
        alarms.remove(&key);
        Ok(())
    }

    async fn keep(&self, tenant: TenantId, condition: Condition, alarm: &Alarm) -> Result<(), StoreError> {
        let kept = Kept { v: FORMAT, tenant, condition, alarm: alarm.clone() };
        let kept = serde_json::to_vec(&kept).expect("plain data");
        self.parts.store.say(&topic(self.shard), &node(tenant, condition), kept.into(), KEPT).await
    }

    fn write(
        &self,
        tenant: TenantId,
        condition: Condition,
        edge: Edge,
        so: Option<&So>,
        (since, now): (Timestamp, Timestamp),
    ) -> Notice {
        let (snapshot, kind) = (self.snapshot, NoticeKind::of(condition, edge));
        let thing = |id: String, name: &String| NoticeThing { id, name: name.clone() };
        let whose = snapshot.tenants.get(&tenant).map(|one| one.name.clone()).unwrap_or_default();
        let mut data = NoticeData {
            tenant: thing(tenant.to_string(), &whose),
            destination: None,
            connection: None,
            plugin: None,
            since: since.to_string(),
            reason: so.and_then(|so| so.reason.clone()),
            measure: so.and_then(|so| so.measure),
            advice: kind.advice().to_owned(),
        };
        match condition {
            Condition::Disabled(id) | Condition::Failing(id) | Condition::Circuit(id) => {
                data.destination = snapshot.destinations.get(&id).map(|one| thing(id.to_string(), &one.name));
            }
            Condition::Poisoned { connection: id, stage } => {
                if let Some(connection) = snapshot.connections.get(&id) {
                    data.connection = Some(thing(id.to_string(), &connection.name));
                    data.plugin = connection.chain.get(stage).map(|one| PluginThing {
                        id: one.plugin.to_string(),
                        name: one.name.clone(),
                        stage,
                        version: one.version.to_string(),
                    });
                }
            }
            Condition::DeadLetters | Condition::Backlog => {}
        }
        Notice { kind, timestamp: now.to_string(), data }
    }
}

fn topic(shard: Shard) -> String {
    format!("notices/alarms/{}", shard.0)
}

fn node(tenant: TenantId, condition: Condition) -> String {
    let condition = serde_json::to_string(&condition).expect("plain data");
    format!("{tenant}/{condition}")
}

/// What a notice is known by: whose source it goes to, what it tells of, and which time it was.
fn name_of(source: &Source, tenant: TenantId, condition: Condition, (episode, edge): (u64, Edge)) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(b"tidegate notice 1");
    context.update(&source.id.0.to_be_bytes());
    context.update(node(tenant, condition).as_bytes());
    context.update(&episode.to_be_bytes());
    context.update(&[u8::from(edge == Edge::Over)]);
    let mut name = [0; 32];
    name.copy_from_slice(context.finish().as_ref());
    name
}
