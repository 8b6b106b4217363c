//! Destinations that the gateway disabled, and the schedules of retry policies.

use serde_json::{Value, json};
use tidegate::clock::{Clock, Timestamp};
use tidegate::control::condition::Noticed;

use crate::world::{Tenant, World};

const START: Timestamp = Timestamp(1_800_000_000_000);
const OUT: &str = "/v1/destinations/out";

/// A second after the test's only moment, which is when destinations are enabled.
const LATER: Timestamp = Timestamp(START.0 + 1000);

async fn notice(world: &World, tenant: &Tenant, noticed: Noticed) {
    let (tenant, destination) = (tenant.id.parse().unwrap(), tenant.destination.parse().unwrap());
    world.control.notice(tenant, destination, &noticed, LATER).await.unwrap();
}

fn gone() -> Noticed {
    Noticed::Gone { detail: "the destination answered 410".into() }
}

fn is_enabled(world: &World, tenant: &Tenant) -> bool {
    let snapshots = world.control.snapshots();
    let snapshot = snapshots.load();
    let destination = snapshot.destinations.get(&tenant.destination.parse().unwrap()).unwrap().enabled;
    let connection = snapshot.connections.get(&tenant.connection.parse().unwrap()).unwrap().destination.enabled;
    assert_eq!(destination, connection);
    destination
}

/// What is over what egress has at once would be taken up only to find no connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_window_is_never_larger_than_what_can_be_sent_at_once() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let window = || {
        let snapshots = world.control.snapshots();
        let snapshot = snapshots.load();
        let destination = &snapshot.destinations[&acme.destination.parse().unwrap()];
        destination.window(&snapshot.tenants[&acme.id.parse().unwrap()])
    };
    for (wanted, most) in [(64, 64), (256, 256), (257, 256), (10_000, 256)] {
        let shown = world.ok_as(&acme.key, "PATCH", OUT, Some(&json!({"in_flight": wanted}))).await;
        assert_eq!((&shown["in_flight"], window()), (&json!(wanted), most));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_disabled_stays_so_until_somebody_enables_it() {
    let world = World::at(Clock::manual(START)).await;
    let acme = world.tenant("acme").await;
    let shown = async || world.ok_as(&acme.key, "GET", OUT, None).await;
    assert_eq!(shown().await["status"]["disabled"], Value::Null);
    notice(&world, &acme, Noticed::Failing { since: START }).await;
    assert_eq!(shown().await["status"]["failing_since"], START.to_string());
    notice(&world, &acme, gone()).await;
    let revision = world.control.state().revision;
    notice(&world, &acme, gone()).await;
    assert_eq!(world.control.state().revision, revision, "the same again changes nothing");
    let disabled = shown().await;
    assert_eq!(disabled["enabled"], true, "what its owner wants stays");
    assert_eq!(
        disabled["status"]["disabled"],
        json!({"at": LATER.to_string(), "code": "gone", "detail": "the destination answered 410"})
    );
    assert!(!is_enabled(&world, &acme));
    // Neither another change nor a restart enables it.
    world.ok_as(&acme.key, "PATCH", OUT, Some(&json!({"in_flight": 7}))).await;
    let other = world.beside().await;
    assert!(!is_enabled(&world, &acme) && !is_enabled(&other, &acme));
    let listed = world.ok_as(&acme.key, "GET", "/v1/destinations", None).await;
    assert_eq!(listed["items"][0]["status"]["disabled"]["code"], "gone");

    for way in ["patch", "enable"] {
        let enabled = match way {
            "patch" => world.ok_as(&acme.key, "PATCH", OUT, Some(&json!({"enabled": true}))).await,
            _ => world.ok_as(&acme.key, "POST", &format!("{OUT}/enable"), None).await,
        };
        assert_eq!(enabled["status"], json!({"disabled": null, "failing_since": null}), "{way}");
        assert!(is_enabled(&world, &acme));
        notice(&world, &acme, Noticed::FailedTooLong { detail: "it has failed".into() }).await;
        assert_eq!(shown().await["status"]["disabled"]["code"], "failing");
    }
    // One that its owner disabled is enabled by the same call.
    world.ok_as(&acme.key, "PATCH", OUT, Some(&json!({"enabled": false}))).await;
    world.ok_as(&acme.key, "POST", &format!("{OUT}/enable"), None).await;
    assert!(is_enabled(&world, &acme) && shown().await["enabled"] == true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_shows_its_schedule() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    let schedule = async |path: &str| world.ok_as(&acme.key, "GET", &format!("{path}/schedule"), None).await["attempts"].clone();
    assert_eq!(schedule(OUT).await.as_array().unwrap().len(), 18);
    let retry = json!({"retry": {"max_attempts": 4, "base": "10s", "jitter": "equal"}});
    world.ok_as(&acme.key, "PATCH", OUT, Some(&retry)).await;
    let row = |attempt: u32, earliest: &str, nominal: &str, latest: &str| json!({"attempt": attempt, "earliest": earliest, "nominal": nominal, "latest": latest});
    let expected = json!([
        row(1, "0s", "0s", "0s"),
        row(2, "5s", "7s 500ms", "10s"),
        row(3, "15s", "22s 500ms", "30s"),
        row(4, "35s", "52s 500ms", "1m 10s")
    ]);
    assert_eq!(schedule(OUT).await, expected);
    assert_eq!(schedule("/v1/connections/through").await, expected, "the destination's, as long as it has none of its own");
    let own = json!({"retry": {"backoff": "list", "delays": ["1s", "1h"], "jitter": "none"}});
    world.ok_as(&acme.key, "PATCH", "/v1/connections/through", Some(&own)).await;
    let expected = json!([row(1, "0s", "0s", "0s"), row(2, "1s", "1s", "1s"), row(3, "1h 1s", "1h 1s", "1h 1s")]);
    assert_eq!(schedule("/v1/connections/through").await, expected);
    let draft = world.ok_as(&acme.key, "POST", &format!("{OUT}/schedule"), Some(&own["retry"])).await;
    assert_eq!(draft["attempts"], expected);
    assert_eq!(schedule(OUT).await.as_array().unwrap().len(), 4, "a draft changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_keeps_an_order_takes_no_replays() {
    let world = World::start().await;
    world.tenant("acme").await;
    let (out, jobs) = ("/v1/destinations/out?tenant=acme", "/v1/replay-jobs?tenant=acme");
    let asked = json!({"connection": "through"});
    world.ok("PATCH", out, Some(&json!({"order": {"by": "destination"}}))).await;
    let refused = world.refused(422, "POST", jobs, Some(&asked)).await;
    assert_eq!(refused["errors"][0]["field"], "connection", "{refused}");
    world.ok("PATCH", out, Some(&json!({"order": null}))).await;
    let begun = world.send(crate::world::OPERATOR, "POST", jobs, Some(&asked)).await;
    assert_eq!(begun.status, 202, "{:?}", begun.body);
}
