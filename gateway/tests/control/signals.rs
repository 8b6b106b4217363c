//! How the queues stand, as operators and what scales the gateway are told.

use std::time::Duration;

use serde_json::json;
use tidegate::clock::Clock;

use crate::contract::happen;
use crate::world::{World, problem};

#[tokio::test(flavor = "multi_thread")]
async fn signals_tell_of_every_lane_and_shard() {
    let world = World::start().await;
    let acme = world.tenant("acme").await;
    happen(&world, &acme).await;
    let shard = world.ok("GET", "/v1/tenants/acme", None).await["shard"].as_u64().unwrap() as usize;
    let signals = world.ok("GET", "/v1/signals", None).await;
    assert_eq!(signals["shards"].as_array().unwrap().len(), 4);
    for queues in [&signals["gateway"], &signals["shards"][shard]["queues"]] {
        let lanes: Vec<_> = queues["lanes"].as_array().unwrap().iter().map(|lane| (&lane["lane"], &lane["events"])).collect();
        assert_eq!(lanes, [(&json!("normal"), &json!(1)), (&json!("low"), &json!(0)), (&json!("held"), &json!(0))]);
        assert!(queues["lanes"][0]["oldest_age_seconds"].is_number(), "{queues}");
        assert_eq!((&queues["scheduled"], &queues["parked"], &queues["dead_letters"]), (&json!(0), &json!(0), &json!(1)));
    }
    let bytes = signals["gateway"]["bytes"].as_u64().unwrap();
    assert!(bytes > 0);
    let top = &signals["tenants"][0];
    assert_eq!((&top["name"], &top["bytes"], signals["tenants"].as_array().unwrap().len()), (&json!("acme"), &json!(bytes), 1));
    assert_eq!(signals["shards"][(shard + 1) % 4]["queues"]["lanes"][0]["events"], 0);
    assert_eq!(signals["gateway"]["lanes"][0]["finished_per_second"], json!(null), "one reading makes no rate");

    let scaling = world.ok("GET", "/v1/scaling?target=30", None).await;
    assert_eq!((&scaling["backlog"], &scaling["nodes"], &scaling["replicas"]), (&json!(1), &json!(1), &json!(1)));
    world.ok("PUT", "/v1/traffic/lanes/normal", Some(&json!({"percent": 0}))).await;
    assert_eq!(world.ok("GET", "/v1/scaling", None).await["backlog"], 0, "what is paused asks for no gateways");
    assert_eq!(world.refused(422, "GET", "/v1/scaling?target=0", None).await["errors"][0]["field"], "target");
    for path in ["/v1/signals", "/v1/scaling"] {
        problem(&world.send(&acme.key, "GET", path, None).await, 403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_tell_how_fast_a_lane_fills_and_is_worked_off() {
    let clock = Clock::manual(Clock::system().now());
    let world = World::at(clock.clone()).await;
    let acme = world.tenant("acme").await;
    world.ok("GET", "/v1/signals", None).await;
    happen(&world, &acme).await;
    clock.advance(Duration::from_secs(10));
    let signals = world.ok("GET", "/v1/signals", None).await;
    let shard = world.ok("GET", "/v1/tenants/acme", None).await["shard"].as_u64().unwrap() as usize;
    for queues in [&signals["gateway"], &signals["shards"][shard]["queues"]] {
        let lane = &queues["lanes"][0];
        let rates = [&lane["events"], &lane["accepted_per_second"], &lane["finished_per_second"], &lane["drain_seconds"]];
        assert_eq!(rates, [&json!(1), &json!(0.2), &json!(0.1), &json!(10.0)], "it grows, and is worked off all the same");
    }
    let other = &signals["shards"][(shard + 1) % 4]["queues"]["lanes"][0];
    assert_eq!((&other["accepted_per_second"], &other["finished_per_second"]), (&json!(0.0), &json!(0.0)));
    let scaling = world.ok("GET", "/v1/scaling", None).await;
    let rates = [&scaling["accepted_per_second"], &scaling["finished_per_second"], &scaling["drain_seconds"]];
    assert_eq!(rates, [&json!(0.2), &json!(0.1), &json!(10.0)]);
}
