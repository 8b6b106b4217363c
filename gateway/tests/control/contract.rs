//! Events as the API tells of them.

use serde_json::json;
use tidegate::clock::Clock;
use tidegate::event::{
    Attempt, BatchId, BatchPart, ConnectionId, DeliveryId, DestinationId, Event, EventId, Failure, Header, Lane, Party, PluginRun,
    Request, VersionHash,
};
use tidegate::ingest::verify::Verifier;
use tidegate::store::{Acceptance, Budget, DeliveryRecord, DeliveryState, Job, Origin, Record, Work};

use crate::world::{Tenant, World, problem};

/// An event that was given up after one attempt, and one that is still queued.
pub(crate) struct Happened {
    pub(crate) event: String,
    pub(crate) delivery: String,
    pub(crate) queued: String,
}

pub(crate) async fn happen(world: &World, tenant: &Tenant) -> Happened {
    let now = Clock::system().now();
    let homes = world.control.homes(tidegate::control::service::Access::Operator, Some(&tenant.id)).unwrap();
    let home = homes.at(homes.shards.home());
    let event = |number: u128| Event {
        id: EventId::new(now, number),
        tenant: home.tenant,
        source: tenant.source.parse().unwrap(),
        revision: world.control.state().revision,
        accepted_at: now,
        request: Request {
            method: "POST".into(),
            path: "/below".into(),
            query: Some("a=b".into()),
            headers: vec![Header { name: "x-kind".into(), value: "push".into() }],
            body: "{\"kind\": \"push\"}".into(),
        },
        pins: Vec::new(),
        trace: None,
    };
    let first = event(1);
    let acceptance = |event| Acceptance {
        event: Verifier::none().verify(event, now).unwrap(),
        shard: home.shard,
        lane: Lane::Normal,
        dedup: None,
    };
    world.store.accept(vec![acceptance(first.clone())]).await.unwrap();
    let ttl = std::time::Duration::from_secs(60);
    let lease = world.store.acquire(home.shard, "test", ttl).await.unwrap().unwrap();
    let claimed = world.store.claim(&lease, Lane::Normal, Budget::new(10, 1 << 20)).await.unwrap().remove(0);
    let connection: ConnectionId = tenant.connection.parse().unwrap();
    let destination: DestinationId = tenant.destination.parse().unwrap();
    let id = DeliveryId::derive(first.id, connection, 0);
    let failure = Failure { party: Party::Destination, code: "status".into(), detail: "it answered 500".into(), retryable: true };
    let work = Work::Plan { event: Box::new(first.clone()), connection: Some(connection) };
    let job = Job { id, attempts: 1, spent: 1, since: now, work, line: None, claims: 0 };
    let record = DeliveryRecord {
        id,
        connection: Some(connection),
        destination: Some(destination),
        output: 0,
        at: now,
        state: DeliveryState::DeadLettered { reason: failure.clone() },
        attempts: vec![Attempt {
            number: 1,
            started_at: now,
            took_us: 1200,
            status: Some(500),
            response: "no".into(),
            response_cut: false,
            failure: Some(failure.clone()),
            batch: Some(BatchPart { id: BatchId::of([id]), size: 1 }),
        }],
        runs: vec![PluginRun {
            version: VersionHash([1; 32]),
            fuel: 7,
            memory: 8,
            took_us: 9,
            outcome: Err(failure),
            logs: vec!["hello".into()],
        }],
        job: Some(Box::new(job)),
    };
    let origin = Origin::Entry(claimed.ticket);
    let batch = [Record { origin, event: first.id, tenant: home.tenant, finished: true, deliveries: vec![record] }];
    world.store.record(&lease, &batch).await.unwrap();
    let queued = event(2);
    world.store.accept(vec![acceptance(queued.clone())]).await.unwrap();
    Happened { event: first.id.to_string(), delivery: id.to_string(), queued: queued.id.to_string() }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_became_of_them() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let seen = happen(&world, &acme).await;
    let listed = world.ok_as(&acme.key, "GET", "/v1/events", None).await;
    let states: Vec<_> =
        listed["items"].as_array().unwrap().iter().map(|event| (event["id"].clone(), event["state"].clone())).collect();
    assert!(states.contains(&(json!(seen.event), json!("dead_lettered"))), "{listed}");
    assert!(states.contains(&(json!(seen.queued), json!("queued"))), "{listed}");
    let event = world.ok_as(&acme.key, "GET", &format!("/v1/events/{}", seen.event), None).await;
    assert_eq!(event["request"]["body"], "{\"kind\": \"push\"}");
    let delivery = &event["deliveries"][0];
    assert_eq!(delivery["failure"]["party"], "destination");
    assert_eq!(delivery["attempts"][0]["status"], 500);
    assert_eq!(delivery["plugin_runs"][0]["logs"][0], "hello");
    assert_eq!(delivery["plugin_runs"][0]["outputs"], json!(null));
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_tried_again_and_only_ones_own() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let other = world.tenant("other").await;
    let seen = happen(&world, &acme).await;
    let retry = json!({ "ids": [seen.delivery] });
    for path in ["/v1/events", "/v1/dead-letters"] {
        let listed = world.ok_as(&other.key, "GET", path, None).await;
        assert_eq!(listed["items"], json!([]), "{path}");
    }
    problem(&world.send(&other.key, "GET", &format!("/v1/events/{}", seen.event), None).await, 404);
    problem(&world.send(&other.key, "POST", &format!("/v1/events/{}/retry", seen.event), None).await, 404);
    problem(&world.send(&other.key, "GET", &format!("/v1/deliveries?event={}", seen.event), None).await, 404);
    assert_eq!(world.ok_as(&other.key, "POST", "/v1/dead-letters/retry", Some(&retry)).await["retried"], 0);
    let letters = world.ok_as(&acme.key, "GET", "/v1/dead-letters", None).await;
    assert_eq!(letters["items"][0]["id"], seen.delivery.as_str());
    assert_eq!(letters["items"][0]["event"], seen.event.as_str());
    assert_eq!(world.ok_as(&acme.key, "POST", &format!("/v1/events/{}/retry", seen.event), None).await["retried"], 1);
    assert_eq!(
        world.ok_as(&acme.key, "POST", "/v1/dead-letters/retry", Some(&retry)).await["retried"],
        0,
        "it is not dead any more"
    );
    let event = world.ok_as(&acme.key, "GET", &format!("/v1/events/{}", seen.event), None).await;
    assert_eq!((&event["state"], &event["deliveries"][0]["state"]), (&json!("active"), &json!("scheduled")));
    assert_eq!(world.ok_as(&acme.key, "GET", "/v1/dead-letters", None).await["items"], json!([]));
}
