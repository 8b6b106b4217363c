//! A tenant with several shards: it only gets more of them, and what is asked of it is asked of all.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::homes::Homes;
use tidegate::control::refresh;
use tidegate::control::service::Access;
use tidegate::control::snapshot::{Diversion, Diverted};
use tidegate::event::{DeliveryId, Event, EventId, Failure, Lane, Party, Request, Shard};
use tidegate::ingest::verify::Verifier;
use tidegate::store::{Acceptance, Budget, DeliveryRecord, DeliveryState, Job, Lease, Origin, Purged, QueueKey, Record, Work};
use tidegate_test_support::eventually;
use tokio_util::sync::CancellationToken;

use crate::world::{OPERATOR, Tenant, World, problem};

const SOON: Duration = Duration::from_secs(20);
const ALL: Budget = Budget::new(100, 1 << 20);

fn shards(number: u16) -> Value {
    json!({"plan": {"shards": number}})
}

async fn record_of(world: &World, tenant: &str) -> Value {
    let (_, records) = world.store.config().await.unwrap();
    let (_, bytes) = records.iter().find(|(key, _)| *key == format!("ten/{tenant}")).unwrap();
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_gets_the_emptiest_shards_and_keeps_them() {
    let world = World::start().await;
    let (acme, _other) = (world.tenant("acme").await, world.tenant("other").await);
    let shown = world.ok("GET", "/v1/tenants/acme", None).await;
    assert_eq!((&shown["shard"], &shown["shards"], &shown["plan"]["shards"]), (&json!(0), &json!([0]), &json!(1)));
    let first = record_of(&world, &acme.id).await;
    assert_eq!((&first["v"], &first["spec"]["further"]), (&json!(1), &Value::Null), "every release reads it");
    problem(&world.send(&acme.key, "PATCH", "/v1/tenants/acme", Some(&shards(2))).await, 403);

    let revision = world.control.state().revision;
    let grown = world.ok("PATCH", "/v1/tenants/acme", Some(&shards(3))).await;
    assert_eq!((&grown["shard"], &grown["shards"], &grown["plan"]["shards"]), (&json!(0), &json!([0, 2, 3]), &json!(3)));
    assert_eq!(world.control.state().revision.0, revision.0 + 1, "one revision");
    let stored = record_of(&world, &acme.id).await;
    assert_eq!((&stored["v"], &stored["spec"]["further"]), (&json!(2), &json!([2, 3])), "an older release refuses it");
    for same in [shards(3), json!({"plan": {"shards": null}}), json!({"plan": {}})] {
        assert_eq!(world.ok("PATCH", "/v1/tenants/acme", Some(&same)).await, grown);
    }
    assert_eq!(world.control.state().revision.0, revision.0 + 1, "nothing changed");
    for (number, part) in [(2, "at least 3"), (0, "never taken away"), (5, "from 3 to 4: `dispatch.shards` is 4")] {
        let refused = world.refused(422, "PATCH", "/v1/tenants/acme", Some(&shards(number))).await;
        let error = &refused["errors"][0];
        assert!(error["field"] == "plan.shards" && error["message"].as_str().unwrap().contains(part), "{refused}");
    }
    let changed = world.ok("PATCH", "/v1/tenants/acme", Some(&json!({"plan": {"rate": 5.0}}))).await;
    assert_eq!((&changed["shards"], &changed["plan"]["rate"]), (&grown["shards"], &json!(5.0)));
    let made = world.ok("POST", "/v1/tenants", Some(&json!({"name": "big", "plan": {"shards": 4}}))).await;
    assert_eq!(made["shards"], json!([0, 1, 2, 3]));
    assert_eq!(world.ok("POST", "/v1/tenants", Some(&json!({"name": "small"}))).await["shards"], json!([0]));
    let refused = world.refused(422, "POST", "/v1/tenants", Some(&json!({"name": "huge", "plan": {"shards": 5}}))).await;
    assert_eq!(refused["errors"][0]["field"], "plan.shards");
    assert_eq!(world.beside().await.ok("GET", "/v1/tenants/acme", None).await, changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_declared_grows_it_and_leaves_it_alone_otherwise() {
    let world = World::start().await;
    let apply = async |plan: Value| {
        let spec = json!({"tenants": [{"name": "acme", "plan": plan}]});
        world.send(OPERATOR, "POST", "/v1/apply", Some(&spec)).await
    };
    let action = async |plan| apply(plan).await.json()["changes"][0]["action"].clone();
    assert_eq!(action(json!({"shards": 2})).await, "create");
    assert_eq!(action(json!({"shards": 2})).await, "unchanged");
    assert_eq!(action(json!({})).await, "unchanged");
    assert_eq!(action(json!({"shards": 3})).await, "update");
    assert_eq!(action(json!({"rate": 7.0})).await, "update");
    let shown = world.ok("GET", "/v1/tenants/acme", None).await;
    assert_eq!((&shown["shards"], &shown["plan"]["rate"]), (&json!([0, 1, 2]), &json!(7.0)));
    for (number, part) in [(1, "at least 3"), (5, "from 3 to 4")] {
        let refused = problem(&apply(json!({"shards": number})).await, 422);
        let error = &refused["errors"][0];
        assert!(error["field"] == "tenants[0].plan.shards" && error["message"].as_str().unwrap().contains(part), "{refused}");
    }
}

/// A tenant with four shards, and the lease of each.
struct Spread<'a> {
    world: &'a World,
    tenant: Tenant,
    homes: Homes,
    leases: Vec<Lease>,
    made: u64,
}

impl<'a> Spread<'a> {
    async fn start(world: &'a World, count: u16) -> Self {
        let tenant = world.tenant("acme").await;
        world.ok("PATCH", "/v1/tenants/acme", Some(&shards(count))).await;
        let homes = world.control.homes(Access::Operator, Some("acme")).unwrap();
        let mut leases = Vec::new();
        for shard in 0..4 {
            leases.push(world.store.acquire(Shard(shard), "test", SOON).await.unwrap().unwrap());
        }
        Self { world, tenant, homes, leases, made: 0 }
    }

    /// Accepts one in this shard, newer than all before.
    async fn accept(&mut self, shard: u16) -> EventId {
        self.made += 1;
        let now = Timestamp(Clock::system().now().0 + self.made);
        let event = Event {
            id: EventId::new(now, u128::from(self.made)),
            tenant: self.homes.tenant,
            source: self.tenant.source.parse().unwrap(),
            revision: self.world.control.state().revision,
            accepted_at: now,
            request: Request { method: "POST".into(), path: "/".into(), query: None, headers: Vec::new(), body: "{}".into() },
            pins: Vec::new(),
            trace: None,
        };
        let (id, event) = (event.id, Verifier::none().verify(event, now).unwrap());
        let acceptance = Acceptance { event, shard: Shard(shard), lane: Lane::Normal, dedup: None };
        self.world.store.accept(vec![acceptance]).await.unwrap();
        id
    }

    /// Accepts one in this shard, and ends it as its owner would.
    async fn settle(&mut self, shard: u16, state: DeliveryState) -> (EventId, DeliveryId) {
        let event = self.accept(shard).await;
        let lease = &self.leases[usize::from(shard)];
        let claimed = self.world.store.claim(lease, Lane::Normal, ALL).await.unwrap().pop().unwrap();
        assert_eq!(claimed.event.id, event);
        let id = DeliveryId::derive(event, self.tenant.connection.parse().unwrap(), 0);
        let (at, tenant) = (claimed.event.accepted_at, self.homes.tenant);
        let work = Work::Plan { event: Box::new(claimed.event), connection: Some(self.tenant.connection.parse().unwrap()) };
        let row = DeliveryRecord {
            id,
            connection: Some(self.tenant.connection.parse().unwrap()),
            destination: Some(self.tenant.destination.parse().unwrap()),
            output: 0,
            at,
            state,
            attempts: Vec::new(),
            runs: Vec::new(),
            job: Some(Box::new(Job { id, attempts: 0, spent: 0, since: at, work, line: None, claims: 0 })),
        };
        let origin = Origin::Entry(claimed.ticket);
        let record = Record { origin, event, tenant, finished: true, deliveries: vec![row] };
        self.world.store.record(lease, &[record]).await.unwrap();
        (event, id)
    }

    async fn bury(&mut self, shard: u16) -> (EventId, DeliveryId) {
        let reason = Failure { party: Party::Destination, code: "status".into(), detail: "500".into(), retryable: true };
        self.settle(shard, DeliveryState::DeadLettered { reason }).await
    }

    async fn get(&self, path: &str) -> Value {
        self.world.ok_as(&self.tenant.key, "GET", path, None).await
    }

    /// All pages of a listing; `between` runs after each.
    async fn pages(&mut self, path: &str, limit: usize, between: impl AsyncFn(&mut Self)) -> Vec<String> {
        let (mut ids, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}?limit={limit}{cursor}")).await;
            let rows = page["items"].as_array().unwrap();
            assert!(rows.len() == limit || page["next"].is_null(), "{page}");
            ids.extend(rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { return ids };
            cursor = format!("&cursor={next}");
            between(self).await;
        }
    }
}

fn newest_first<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().rev().map(T::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_all_shards_are_listed_newest_first() {
    let world = World::start().await;
    let mut spread = Spread::start(&world, 3).await;
    let shards: Vec<u16> = spread.homes.shards.iter().map(|shard| shard.0).collect();
    let mut events = Vec::new();
    // Evenly, and then many in one shard.
    for number in 0..40_usize {
        let shard = if number < 24 { shards[number % 3] } else { shards[1] };
        events.push(spread.accept(shard).await);
    }
    for limit in [1, 3, 7, 20, 39, 40, 200] {
        assert_eq!(spread.pages("/v1/events", limit, async |_| {}).await, newest_first(&events), "{limit}");
    }
    // What is newer does not come in between, and neither does another shard.
    let seen = spread
        .pages("/v1/events", 15, async |spread| {
            spread.world.ok("PATCH", "/v1/tenants/acme", Some(&self::shards(4))).await;
            for shard in 0..4 {
                spread.accept(shard).await;
            }
        })
        .await;
    assert_eq!(seen, newest_first(&events));
    assert_eq!(spread.get("/v1/events?limit=200").await["items"].as_array().unwrap().len(), 48);
    for event in &events {
        assert_eq!(spread.get(&format!("/v1/events/{event}")).await["request"]["method"], "POST");
    }
    let unknown = EventId::new(Timestamp(1), 1);
    problem(&world.send(&spread.tenant.key, "GET", &format!("/v1/events/{unknown}"), None).await, 404);
    for path in ["/v1/events", "/v1/dead-letters"] {
        for cursor in ["", "nonsense", "-", "12-dlv_1", "%F0%9F%A7%AD"] {
            let refused = problem(&world.send(&spread.tenant.key, "GET", &format!("{path}?cursor={cursor}"), None).await, 422);
            assert_eq!(refused["errors"][0]["field"], "cursor", "{path} {cursor}: {refused}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_all_shards_are_listed_and_tried_again() {
    let world = World::start().await;
    let mut spread = Spread::start(&world, 4).await;
    let mut buried = Vec::new();
    for number in 0..10 {
        buried.push(spread.bury(number % 4).await);
    }
    let letters: Vec<DeliveryId> = buried.iter().map(|(_, delivery)| *delivery).collect();
    for limit in [1, 4, 200] {
        assert_eq!(spread.pages("/v1/dead-letters", limit, async |_| {}).await, newest_first(&letters), "{limit}");
    }
    let key = spread.tenant.key.clone();
    let retry = async |path: &str, body: Option<&Value>| world.ok_as(&key, "POST", path, body).await["retried"].clone();
    assert_eq!(retry(&format!("/v1/events/{}/retry", buried[5].0), None).await, 1);
    let many = json!({"ids": letters[2..8]});
    assert_eq!(retry("/v1/dead-letters/retry", Some(&many)).await, 5, "all but the one that was");
    assert_eq!(retry("/v1/dead-letters/retry", Some(&many)).await, 0);
    let left: Vec<DeliveryId> = [&letters[..2], &letters[8..]].concat();
    assert_eq!(spread.pages("/v1/dead-letters", 3, async |_| {}).await, newest_first(&left));
    assert_eq!(spread.get(&format!("/v1/events/{}", buried[5].0)).await["deliveries"][0]["state"], "scheduled");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_waits_for_its_own_shard() {
    let world = World::start().await;
    let mut spread = Spread::start(&world, 4).await;
    let events = [spread.accept(0).await, spread.accept(3).await];
    world.ok("PUT", "/v1/traffic/shards/3", Some(&json!({"percent": 0}))).await;
    let waits = async |event: EventId| spread.get(&format!("/v1/events/{event}")).await["waiting"]["for"].clone();
    assert_eq!((waits(events[0]).await, waits(events[1]).await), (json!("lane"), json!("paused")));
    let listed = spread.get("/v1/events").await;
    assert_eq!((&listed["items"][0]["waiting"]["for"], &listed["items"][1]["waiting"]["for"]), (&json!("paused"), &json!("lane")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_is_told_of_all_shards_together() {
    let world = World::start().await;
    let mut spread = Spread::start(&world, 4).await;
    for shard in 0..4 {
        spread.accept(shard).await;
    }
    let signals = world.ok("GET", "/v1/signals", None).await;
    let rows = signals["tenants"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["name"]), (1, &json!("acme")), "{signals}");
    assert_eq!(rows[0]["bytes"], signals["gateway"]["bytes"]);
    let of_shard = |shard: &Value| shard["queues"]["bytes"].as_u64().unwrap();
    let shards: Vec<u64> = signals["shards"].as_array().unwrap().iter().map(of_shard).collect();
    assert!(shards.iter().all(|bytes| *bytes > 0 && *bytes * 4 == rows[0]["bytes"].as_u64().unwrap()), "{signals}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_done_when_every_shard_is() {
    let world = World::start().await;
    let mut spread = Spread::start(&world, 3).await;
    let shards: Vec<u16> = spread.homes.shards.iter().map(|shard| shard.0).collect();
    for shard in &shards {
        spread.bury(*shard).await;
        spread
            .settle(*shard, DeliveryState::Parked { reason: "held".into(), queue: Some(QueueKey::Tenant(spread.homes.tenant)) })
            .await;
    }
    assert_eq!(world.send(OPERATOR, "DELETE", "/v1/tenants/acme", None).await.status, 202);
    let refused = world.refused(409, "PATCH", "/v1/tenants/acme", Some(&self::shards(4))).await;
    assert_eq!(refused["code"], "being_deleted");
    let (stop, control) = (CancellationToken::new(), Arc::clone(&world.control));
    let running = tokio::spawn(refresh::run(control, |_| {}, stop.clone()));
    for (done, shard) in shards.iter().enumerate() {
        let done = done as u64;
        let shown = world.ok("GET", "/v1/tenants/acme", None).await;
        assert_eq!(shown["deletion"], json!({"events": 2 * done, "given_up": done, "dead_letters": done}), "{shown}");
        let lease = &spread.leases[usize::from(*shard)];
        let purged = eventually("the shard is purged", SOON, async || {
            let purged = world.store.purge(lease, spread.homes.tenant).await.unwrap();
            purged.done.then_some(purged)
        })
        .await;
        assert_eq!(purged, Purged { events: 2, given_up: 1, dead_letters: 1, done: true });
    }
    eventually("the tenant is gone", SOON, async || {
        (world.send(OPERATOR, "GET", "/v1/tenants/acme", None).await.status == 404).then_some(())
    })
    .await;
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diversion_ends_in_each_shard_and_then_as_a_whole() {
    let world = World::start().await;
    let spread = Spread::start(&world, 2).await;
    let Homes { tenant, shards } = spread.homes.clone();
    let (here, there) = (shards.home(), shards.iter().nth(1).unwrap());
    let source = spread.tenant.source.parse().unwrap();
    let beside = world.beside().await;
    for who in [Diverted::Tenant(tenant), Diverted::Source(source)] {
        let path = match who {
            Diverted::Tenant(_) => "/v1/traffic/diversions/acme",
            Diverted::Source(_) => "/v1/traffic/diversions/acme%2Fin",
        };
        let diversion = |world: &World, shard| world.control.snapshots().current().traffic.diversion(tenant, source, shard);
        let returning = async || {
            world.ok("PUT", path, Some(&json!({}))).await;
            assert_eq!((diversion(&world, here), diversion(&world, there)), (Some(Diversion::Held), Some(Diversion::Held)));
            world.control.returned(who, here).await.unwrap();
            assert_eq!(diversion(&world, here), Some(Diversion::Held), "only what is returning ends");
            world.ok("DELETE", path, None).await;
            beside.control.refresh().await.unwrap();
            world.control.returned(who, here).await.unwrap();
            assert_eq!((diversion(&world, here), diversion(&world, there)), (None, Some(Diversion::Returning)));
        };
        returning().await;
        let revision = world.control.state().revision;
        world.control.returned(who, here).await.unwrap();
        world.control.returned(who, Shard(9)).await.unwrap();
        assert_eq!(world.control.state().revision, revision, "said again, or of a shard that it has not");
        // Diverted once more it is so in every shard, and returns from every shard.
        returning().await;
        assert_eq!(world.ok("GET", "/v1/traffic", None).await["diversions"][0]["state"], "returning");
        // Another node, which has not heard of that, says it of the other shard.
        beside.control.returned(who, there).await.unwrap();
        assert_eq!((diversion(&beside, here), diversion(&beside, there)), (None, None));
        assert!(world.control.refresh().await.unwrap());
        assert_eq!(world.ok("GET", "/v1/traffic", None).await["diversions"], json!([]));
        assert!(world.control.snapshots().current().traffic.drained.is_empty());
    }
    let rows = world.ok("GET", "/v1/traffic/audit", None).await;
    let states: Vec<_> = rows["items"].as_array().unwrap().iter().map(|row| row["to"].clone()).collect();
    assert_eq!(states[..5], ["none", "returning", "held", "returning", "held"], "one end");
}

/// A shard that is added while somebody returns has its part in the diversion, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_added_meanwhile_returns_too() {
    let world = World::start().await;
    let spread = Spread::start(&world, 1).await;
    let Homes { tenant, shards } = spread.homes.clone();
    let who = Diverted::Tenant(tenant);
    world.ok("PUT", "/v1/traffic/diversions/acme", Some(&json!({}))).await;
    world.ok("DELETE", "/v1/traffic/diversions/acme", None).await;
    world.ok("PATCH", "/v1/tenants/acme", Some(&self::shards(2))).await;
    let traffic = || Arc::clone(&world.control.snapshots().current().traffic);
    world.control.returned(who, shards.home()).await.unwrap();
    let added = world.control.homes(Access::Operator, Some("acme")).unwrap().shards.iter().nth(1).unwrap();
    assert_eq!(traffic().diversion_of(who, shards.home()), None);
    assert_eq!(traffic().diversion_of(who, added), Some(Diversion::Returning));
    world.control.returned(who, added).await.unwrap();
    assert!(traffic().diverted.is_empty());
}
