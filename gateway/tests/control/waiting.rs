//! Why something is not delivered yet, as the events of the API tell it.

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::condition::CircuitNote;
use tidegate::dispatch::circuit::Phase;
use tidegate::event::{Attempt, DeliveryId, DestinationId, Event, EventId, Failure, Lane, Party, PluginRun, Request, VersionHash};
use tidegate::ingest::verify::Verifier;
use tidegate::store::{Acceptance, Budget, DeliveryRecord, DeliveryState, Home, Job, Lease, Origin, QueueKey, Record, Work};

use crate::world::{Tenant, World};

/// A tenant with one queued event, and the lease of its shard.
struct Queued<'a> {
    world: &'a World,
    tenant: &'a Tenant,
    home: Home,
    event: Event,
}

impl<'a> Queued<'a> {
    async fn in_lane(world: &'a World, tenant: &'a Tenant, lane: Lane) -> Self {
        let homes = world.control.homes(tidegate::control::service::Access::Operator, Some(&tenant.id)).unwrap();
        let home = homes.at(homes.shards.home());
        let now = Clock::system().now();
        let event = Event {
            id: EventId::new(now, lane as u128),
            tenant: home.tenant,
            source: tenant.source.parse().unwrap(),
            revision: world.control.state().revision,
            accepted_at: now,
            request: Request { method: "POST".into(), path: "/".into(), query: None, headers: Vec::new(), body: "{}".into() },
            pins: Vec::new(),
            trace: None,
        };
        let verified = Verifier::none().verify(event.clone(), now).unwrap();
        world.store.accept(vec![Acceptance { event: verified, shard: home.shard, lane, dedup: None }]).await.unwrap();
        Self { world, tenant, home, event }
    }

    /// The event's `waiting`, and its first delivery's.
    async fn waiting(&self) -> (Value, Value) {
        let event = self.world.ok_as(&self.tenant.key, "GET", &format!("/v1/events/{}", self.event.id), None).await;
        (event["waiting"].clone(), event["deliveries"][0]["waiting"].clone())
    }

    /// Takes it out of a queue and parks it in another.
    async fn park(&self, lease: &Lease, from: QueueKey, to: QueueKey, reason: &str) {
        let job = self.world.store.unpark(lease, from, BUDGET).await.unwrap().jobs.remove(0).id;
        let parked = DeliveryState::Parked { reason: reason.into(), queue: Some(to) };
        self.record(lease, Origin::Job(job), parked, Vec::new()).await;
    }

    /// For what the event waits, with the word that its detail has.
    async fn waits_for(&self, reason: &str, word: &str) {
        let (event, _) = self.waiting().await;
        assert!(event["for"] == reason && event["detail"].as_str().unwrap().contains(word), "{reason}, {word}: {event}");
        assert!(event["since"].is_string(), "{event}");
    }

    async fn record(&self, lease: &Lease, origin: Origin, state: DeliveryState, attempts: Vec<Attempt>) {
        self.record_run(lease, origin, state, attempts, None).await;
    }

    /// With a run of a plugin that failed the delivery has no destination yet.
    async fn record_run(
        &self,
        lease: &Lease,
        origin: Origin,
        state: DeliveryState,
        attempts: Vec<Attempt>,
        run: Option<PluginRun>,
    ) {
        let id = DeliveryId::derive(self.event.id, self.tenant.connection.parse().unwrap(), 0);
        let work = Work::Plan { event: Box::new(self.event.clone()), connection: Some(self.tenant.connection.parse().unwrap()) };
        let spent = attempts.len() as u32;
        let job = Job { id, attempts: spent, spent, since: self.event.accepted_at, work, line: None, claims: 0 };
        let row = DeliveryRecord {
            id,
            connection: Some(self.tenant.connection.parse().unwrap()),
            destination: run.is_none().then(|| self.tenant.destination.parse().unwrap()),
            output: 0,
            at: Clock::system().now(),
            job: (!state.is_terminal()).then(|| Box::new(job)),
            state,
            attempts,
            runs: run.into_iter().collect(),
        };
        let batch = [Record { origin, event: self.event.id, tenant: self.home.tenant, finished: true, deliveries: vec![row] }];
        self.world.store.record(lease, &batch).await.unwrap();
    }
}

const BUDGET: Budget = Budget::new(10, 1 << 20);

/// An event that is claimed and parked for its tenant's window.
async fn parked<'a>(world: &'a World, tenant: &'a Tenant) -> (Queued<'a>, Lease, QueueKey) {
    let queued = Queued::in_lane(world, tenant, Lane::Normal).await;
    let lease = world.store.acquire(queued.home.shard, "test", std::time::Duration::from_secs(60)).await.unwrap().unwrap();
    let ticket = world.store.claim(&lease, Lane::Normal, BUDGET).await.unwrap().remove(0).ticket;
    let queue = QueueKey::Tenant(queued.home.tenant);
    let parked = DeliveryState::Parked { reason: "tenant_window".into(), queue: Some(queue) };
    queued.record(&lease, Origin::Entry(ticket), parked, Vec::new()).await;
    (queued, lease, queue)
}

/// Says how a destination's circuit stands.
async fn circuit(world: &World, destination: DestinationId, phase: Phase, since: Timestamp) {
    let reason = failed(since).failure.unwrap();
    let note = CircuitNote { phase, since, until: Some(since.after(std::time::Duration::from_secs(60))), reason };
    let (topic, ttl) = (CircuitNote::topic(destination), std::time::Duration::from_secs(60));
    world.store.say(&topic, "shard-0", note.encode().into(), ttl).await.unwrap();
}

fn failed(at: Timestamp) -> Attempt {
    let failure = Failure { party: Party::Destination, code: "status".into(), detail: "it answered 500".into(), retryable: true };
    Attempt {
        number: 1,
        started_at: at,
        took_us: 1,
        status: Some(500),
        response: "".into(),
        response_cut: false,
        failure: Some(failure),
        batch: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_waits_in_its_lane_or_for_an_operator() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let normal = Queued::in_lane(&world, &acme, Lane::Normal).await;
    let low = Queued::in_lane(&world, &acme, Lane::Low).await;
    normal.waits_for("lane", "normal lane").await;
    low.waits_for("lane", "over its plan's throughput").await;
    let set = async |path: &str, body: Value| world.ok("PUT", &format!("/v1/traffic/{path}"), Some(&body)).await;
    set("lanes/low", json!({"percent": 0, "reason": "a storm"})).await;
    low.waits_for("paused", "an operator paused lanes.low: a storm").await;
    normal.waits_for("lane", "normal lane").await;
    set(&format!("shards/{}", normal.home.shard.0), json!({"percent": 0})).await;
    normal.waits_for("paused", "paused shards.").await;
    let diverted = set("diversions/acme", json!({"reason": "their request"})).await;
    normal.waits_for("held", "an operator diverted its tenant: their request").await;
    assert_eq!(normal.waiting().await.0["since"], diverted["at"], "since it is diverted, not since it came");
    set("diversions/acme%2Fin", json!({})).await;
    normal.waits_for("held", "diverted its source").await;
    for who in ["acme", "acme%2Fin"] {
        world.ok("DELETE", &format!("/v1/traffic/diversions/{who}"), None).await;
    }
    normal.waits_for("paused", "paused shards.").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_says_what_it_waits_for_until_it_is_done() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let (queued, lease, mut queue) = parked(&world, &acme).await;
    queued.waits_for("tenant_window", "plan.in_flight").await;
    let connection = queued.tenant.connection.parse().unwrap();
    let id: DestinationId = queued.tenant.destination.parse().unwrap();
    let destination = QueueKey::Destination(queued.home.tenant, id);
    let rate = json!({"limit": 1, "per": "second"});
    world.ok("PATCH", "/v1/destinations/out?tenant=acme", Some(&json!({ "rate": rate }))).await;
    world.ok("PATCH", "/v1/tenants/acme", Some(&json!({"plan": {"delivery_rate": rate}}))).await;
    circuit(&world, id, Phase::Open, Timestamp(1)).await;
    for (next, reason, word) in [
        (QueueKey::Plugins(queued.home.tenant), "plugin_fuel", "plan.plugin_fuel"),
        (QueueKey::Connection(queued.home.tenant, connection), "plugin_poisoned", "stopped again and again"),
        (destination, "rate_limit", "`rate`"),
        (destination, "delivery_rate", "plan.delivery_rate"),
        (destination, "no_capacity", "egress.max_connections"),
        (destination, "circuit_open", "failed again and again"),
    ] {
        queued.park(&lease, queue, next, reason).await;
        queued.waits_for(reason, word).await;
        queue = next;
    }

    let job = world.store.unpark(&lease, queue, BUDGET).await.unwrap().jobs.remove(0).id;
    let due = Timestamp(1);
    queued.record(&lease, Origin::Job(job), DeliveryState::Scheduled { due }, vec![failed(queued.event.accepted_at)]).await;
    queued.waits_for("retry", "attempt 1 ended with `status`").await;
    let (event, delivery) = queued.waiting().await;
    assert_eq!(event, delivery);
    assert_eq!(delivery["until"], due.to_string());
    world.ok("PUT", "/v1/traffic/retries", Some(&json!({"percent": 0}))).await;
    queued.waits_for("paused", "paused retries").await;
    world.ok("PUT", "/v1/traffic/retries", Some(&json!({"percent": 100}))).await;
    world.ok("PATCH", "/v1/destinations/out?tenant=acme", Some(&json!({"enabled": false}))).await;
    queued.waits_for("destination_disabled", "`out` is disabled").await;

    let job = world.store.due(&lease, Clock::system().now(), BUDGET).await.unwrap().remove(0).id;
    queued.record(&lease, Origin::Job(job), DeliveryState::Delivered, Vec::new()).await;
    assert_eq!(queued.waiting().await, (Value::Null, Value::Null), "what is delivered waits for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_waited_for_no_more() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let (queued, lease, mut queue) = parked(&world, &acme).await;
    let (tenant, id) = (queued.home.tenant, queued.tenant.destination.parse().unwrap());
    let destination = QueueKey::Destination(tenant, id);
    for (next, reason) in [
        (QueueKey::Source(tenant, queued.event.source), "held"),
        (QueueKey::Paused(tenant, queued.tenant.connection.parse().unwrap()), "connection_paused"),
        (QueueKey::Retries(tenant), "retries_paused"),
        (destination, "destination_disabled"),
        (destination, "rate_limit"),
        (destination, "delivery_rate"),
        (destination, "circuit_open"),
    ] {
        queued.park(&lease, queue, next, reason).await;
        queued.waits_for("lane", "which is over").await;
        queue = next;
    }
    queued.park(&lease, queue, destination, "destination_window").await;
    queued.waits_for("destination_window", "in_flight").await;
    circuit(&world, id, Phase::Open, Clock::system().now()).await;
    queued.waits_for("circuit_open", "failed again and again").await;
    circuit(&world, id, Phase::Closed, Clock::system().now()).await;
    queued.waits_for("destination_window", "in_flight").await;
    // What is planned is not held for its source's sake.
    world.ok("PUT", "/v1/traffic/diversions/acme%2Fin", Some(&json!({}))).await;
    queued.waits_for("destination_window", "in_flight").await;
    world.ok("PUT", "/v1/traffic/diversions/acme", Some(&json!({}))).await;
    queued.waits_for("held", "diverted its tenant").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_plugin_failed_waits_for_its_next_try() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let (queued, lease, queue) = parked(&world, &acme).await;
    let job = world.store.unpark(&lease, queue, BUDGET).await.unwrap().jobs.remove(0).id;
    let failure = Failure { party: Party::Plugin, code: "trap".into(), detail: "it trapped".into(), retryable: true };
    let version = VersionHash::of(b"a plugin");
    let run = PluginRun { version, fuel: 1, memory: 2, took_us: 3, outcome: Err(failure), logs: Vec::new() };
    let due = Clock::system().now().after(std::time::Duration::from_secs(3600));
    queued.record_run(&lease, Origin::Job(job), DeliveryState::Scheduled { due }, Vec::new(), Some(run)).await;
    queued.waits_for("retry", "its plugins failed with `trap`").await;
    world.ok("PUT", "/v1/traffic/retries", Some(&json!({"percent": 0}))).await;
    queued.waits_for("paused", "paused retries").await;
    world.ok("PUT", "/v1/traffic/retries", Some(&json!({"percent": 100}))).await;
    world.ok("PATCH", "/v1/destinations/out?tenant=acme", Some(&json!({"enabled": false}))).await;
    queued.waits_for("destination_disabled", "`out` is disabled").await;
}
