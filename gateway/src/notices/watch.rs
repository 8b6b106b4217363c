//! Looks at how things stand, again and again, and tells what changed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Rules;
use super::alarm::{Alarm, Condition, Recent};
use super::notice::NoticeReason;
use super::post::Post;
use super::receivers::Receivers;
use super::seen::{Seen, SeenCircuit, SeenPoison};
use super::so::{So, is_there, what_is_so};
use crate::clock::Clock;
use crate::control::service::Control;
use crate::control::snapshot::{Snapshot, Tenant};
use crate::dispatch::standings::{OwnedShard, Standings};
use crate::event::{Failure, Shard, TenantId};
use crate::ingest::accept::Acceptor;
use crate::store::{Store, StoreError};
use crate::telemetry::metrics::Metrics;

/// What is queued is read every so many looks: it costs the store more than the rest.
const QUEUES: u32 = 5;
/// Alarms of one shard; conditions beyond are told once others are over.
const ALARMS: usize = 4_096;

/// What it works with.
pub struct Parts {
    /// The configuration.
    pub control: Arc<Control>,
    /// Where alarms are kept.
    pub store: Arc<dyn Store>,
    /// Takes notices.
    pub acceptor: Acceptor,
    /// How dispatch stands.
    pub standings: Standings,
    /// Tells the time.
    pub clock: Clock,
    /// Counts.
    pub metrics: Metrics,
    /// When something is told.
    pub rules: Rules,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("rules", &self.rules).finish_non_exhaustive()
    }
}

/// Looks and tells until `stop`.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(parts.rules.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch { parts, receivers: Receivers::default(), shards: BTreeMap::new(), looks: 0 };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // What is on its way to the store is finished: it is short, and would otherwise be sent again by the next owner.
        watch.look().await;
    }
}

struct Watch {
    parts: Parts,
    receivers: Receivers,
    shards: BTreeMap<Shard, Watched>,
    looks: u32,
}

/// A shard that this node owns.
#[derive(Debug, Default)]
struct Watched {
    incarnation: u64,
    /// Of tenants whose home it is.
    alarms: BTreeMap<(TenantId, Condition), Alarm>,
    dead_letters: HashMap<TenantId, Recent>,
    /// Who has much queued, when that was last read.
    queued: HashMap<TenantId, u64>,
    /// Of whom something was said to the owner of their home.
    said: HashSet<TenantId>,
    is_full: bool,
}

impl Watch {
    async fn look(&mut self) {
        let snapshot = self.parts.control.snapshots().current();
        self.receivers.follow(&snapshot, &self.parts.control.state(), self.parts.rules.tenant.as_deref());
        let owned = self.parts.standings.shards();
        self.shards.retain(|shard, watched| owned.contains(&OwnedShard { shard: *shard, incarnation: watched.incarnation }));
        let reads_queues = self.looks.is_multiple_of(QUEUES);
        self.looks = self.looks.wrapping_add(1);
        let mut seen = self.poisoned(&snapshot, &owned);
        for OwnedShard { shard, incarnation } in owned {
            if let Err(error) = self.take(shard, incarnation, reads_queues, &snapshot).await {
                tracing::warn!(shard = shard.0, %error, "notices not looked after, trying again");
                continue;
            }
            self.see(shard, &snapshot, &mut seen);
        }
        let mut sums = [0; Condition::NAMES.len()];
        let shards: Vec<Shard> = self.shards.keys().copied().collect();
        for shard in shards {
            if let Err(error) = self.tell(shard, &snapshot, &mut seen, &mut sums).await {
                tracing::warn!(shard = shard.0, %error, "notices not told, trying again");
            }
        }
        self.parts.metrics.conditions(Condition::NAMES, sums);
    }

    /// Takes the shard up where the owner before left it, and reads what is queued.
    async fn take(&mut self, shard: Shard, incarnation: u64, reads_queues: bool, snapshot: &Snapshot) -> Result<(), StoreError> {
        let store = &*self.parts.store;
        if let Entry::Vacant(new) = self.shards.entry(shard) {
            let alarms = Post::alarms(store, shard).await?;
            new.insert(Watched { incarnation, alarms, ..Watched::default() });
        }
        if !reads_queues {
            return Ok(());
        }
        let threshold = |tenant: &Tenant| self.parts.rules.backlog(tenant).div_ceil(2) / tenant.shards.count() as u64;
        let queued = store.queued_by_tenant(shard).await?.into_iter();
        let queued =
            queued.filter(|(tenant, bytes)| snapshot.tenants.get(tenant).is_some_and(|tenant| *bytes >= threshold(tenant)));
        if let Some(watched) = self.shards.get_mut(&shard) {
            watched.queued = queued.collect();
        }
        Ok(())
    }

    /// What is poisoned on this node: seen in the tenant's home if that is here, or else in one of its other shards.
    fn poisoned(&self, snapshot: &Snapshot, owned: &[OwnedShard]) -> HashMap<(Shard, TenantId), Seen> {
        let mut seen: HashMap<_, Seen> = HashMap::new();
        for poisoned in self.parts.standings.poisoned() {
            let place = poisoned.place;
            let Some(tenant) = snapshot.tenants.get(&place.tenant) else { continue };
            let Some(stage) = snapshot.connections.get(&place.connection).and_then(|one| one.chain.get(place.stage)) else {
                continue;
            };
            // Of a version that nothing runs any more nobody needs to hear.
            if stage.version != place.version && !stage.is_canary(place.version) {
                continue;
            }
            let here = tenant.shards.iter().find(|shard| owned.iter().any(|owned| owned.shard == *shard));
            let Some(shard) = here.filter(|_| !self.receivers.is_way_over(place.connection)) else { continue };
            seen.entry((shard, place.tenant)).or_default().poisoned.push(SeenPoison {
                connection: place.connection,
                stage: place.stage,
                since: poisoned.since,
                stops: poisoned.stops,
                reason: NoticeReason { code: poisoned.reason.code, detail: poisoned.reason.detail },
            });
        }
        seen
    }

    /// Adds what is to be seen in a shard.
    fn see(&mut self, shard: Shard, snapshot: &Snapshot, seen: &mut HashMap<(Shard, TenantId), Seen>) {
        let (now, rules) = (self.parts.clock.now(), &self.parts.rules);
        for (id, note) in self.parts.standings.circuits(shard) {
            let Some(destination) = snapshot.destinations.get(&id) else { continue };
            // One that is gone is disabled, and that is told.
            let is_known = !destination.enabled || note.reason.code == Failure::GONE;
            let is_old = destination.breaker.is_none() || note.since < destination.enabled_at;
            if is_known || is_old || self.receivers.is_way(id) {
                continue;
            }
            let reason = NoticeReason { code: note.reason.code, detail: note.reason.detail };
            let circuit = SeenCircuit { destination: id, since: note.since, reason };
            seen.entry((shard, destination.tenant)).or_default().circuits.push(circuit);
        }
        let Some(watched) = self.shards.get_mut(&shard) else { return };
        for (tenant, count) in self.parts.standings.dead_letters(shard) {
            let recent = watched.dead_letters.entry(tenant).or_default();
            let count = recent.read(count, now, rules.dead_letters_window);
            if count > 0 {
                let seen = seen.entry((shard, tenant)).or_default();
                (seen.dead_letters, seen.dead_since) = (count, recent.since());
            }
        }
        for (tenant, bytes) in &watched.queued {
            seen.entry((shard, *tenant)).or_default().queued = *bytes;
        }
    }

    /// Tells of the tenants whose home the shard is, and says what is seen there of others.
    async fn tell(
        &mut self,
        shard: Shard,
        snapshot: &Snapshot,
        seen: &mut HashMap<(Shard, TenantId), Seen>,
        sums: &mut [u64; Condition::NAMES.len()],
    ) -> Result<(), StoreError> {
        let Self { parts, receivers, shards, .. } = self;
        let Some(watched) = shards.get_mut(&shard) else { return Ok(()) };
        let mut tenants: BTreeSet<TenantId> = seen.keys().filter(|(at, _)| *at == shard).map(|(_, tenant)| *tenant).collect();
        tenants.extend(watched.alarms.keys().map(|(tenant, _)| *tenant));
        tenants.extend(&watched.said);
        tenants.extend(receivers.by_home.get(&shard).into_iter().flatten());
        let mut post = Post { parts, receivers, snapshot, shard };
        for id in tenants {
            let Some(tenant) = snapshot.tenants.get(&id).filter(|tenant| tenant.deleting.is_none()) else {
                post.forget(&mut watched.alarms, id).await?;
                continue;
            };
            let mut here = seen.remove(&(shard, id)).unwrap_or_default();
            if tenant.shards.home() != shard {
                if tenant.shards.contains(shard) && (!here.is_empty() || watched.said.contains(&id)) {
                    here.say(&*parts.store, id, shard, parts.rules.every * 10).await?;
                    if here.is_empty() {
                        watched.said.remove(&id)
                    } else {
                        watched.said.insert(id)
                    };
                }
                continue;
            }
            if tenant.shards.count() > 1 {
                here = here.and(Seen::said(&*parts.store, id).await?);
            }
            let now = parts.clock.now();
            let stands = |condition| watched.alarms.get(&(id, condition)).is_some_and(|alarm| alarm.stands);
            let noted = receivers.noted.get(&id).map_or(&[][..], |noted| noted);
            let so = what_is_so(&here, noted, tenant, &parts.rules, stands, now);
            so.keys().for_each(|condition| sums[condition.number()] += 1);
            watched.follow(id, so, &mut post).await?;
        }
        Ok(())
    }
}

impl Watched {
    /// Tells what changed of a tenant.
    async fn follow(&mut self, id: TenantId, so: BTreeMap<Condition, So>, post: &mut Post<'_>) -> Result<(), StoreError> {
        let is_heard = post.receivers.hears_of(id);
        for condition in so.keys().filter(|_| is_heard) {
            let key = (id, *condition);
            if self.alarms.len() < ALARMS || self.alarms.contains_key(&key) {
                self.alarms.entry(key).or_default();
                self.is_full &= self.alarms.len() >= ALARMS;
            } else if !std::mem::replace(&mut self.is_full, true) {
                tracing::warn!(shard = post.shard.0, alarms = ALARMS, "too many conditions to tell of: some are told later");
            }
        }
        let mut spent = Vec::new();
        let all = (id, Condition::FIRST)..=(id, Condition::LAST);
        for ((_, condition), alarm) in self.alarms.range_mut(all) {
            let now = post.parts.clock.now();
            if !is_heard || (alarm.pending.is_none() && !is_there(*condition, id, post.snapshot, post.receivers)) {
                if alarm.was_told() {
                    post.take_back(id, *condition, alarm, now).await?;
                    continue;
                }
                // Its new owner does not know since when.
                alarm.calm(now);
                if alarm.episode == 0 || alarm.is_spent(now, &post.parts.rules) {
                    spent.push(*condition);
                }
                continue;
            }
            if alarm.pending.is_none() {
                let so = so.get(condition);
                let Some(edge) = alarm.step(so.is_some(), now, &post.parts.rules) else {
                    if alarm.is_spent(now, &post.parts.rules) {
                        spent.push(*condition);
                    }
                    continue;
                };
                post.begin(id, *condition, alarm, edge, so, now).await?;
            }
            post.send(id, *condition, alarm).await?;
        }
        for condition in spent {
            post.forget_one(&mut self.alarms, (id, condition)).await?;
        }
        Ok(())
    }
}

impl Rules {
    /// From how many queued bytes on it is told of a tenant.
    pub(super) fn backlog(&self, tenant: &Tenant) -> u64 {
        let share = u128::from(tenant.plan.queued_bytes) * u128::from(self.backlog_percent) / 100;
        u64::try_from(share).unwrap_or(u64::MAX).max(1)
    }
}
