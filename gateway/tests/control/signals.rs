//! How the queues stand, as operators and what scales the gateway are told.

use serde_json::json;

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
    assert_eq!(signals["shards"][(shard + 1) % 4]["queues"]["lanes"][0]["events"], 0);
    assert_eq!(signals["gateway"]["lanes"][0]["drained_per_second"], json!(null), "one reading makes no rate");

    let scaling = world.ok("GET", "/v1/scaling?target=30", None).await;
    assert_eq!((&scaling["backlog"], &scaling["nodes"], &scaling["replicas"]), (&json!(1), &json!(1), &json!(1)));
    world.ok("PUT", "/v1/traffic/lanes/normal", Some(&json!({"percent": 0}))).await;
    assert_eq!(world.ok("GET", "/v1/scaling", None).await["backlog"], 0, "what is paused asks for no gateways");
    assert_eq!(world.refused(422, "GET", "/v1/scaling?target=0", None).await["errors"][0]["field"], "target");
    for path in ["/v1/signals", "/v1/scaling"] {
        problem(&world.send(&acme.key, "GET", path, None).await, 403);
    }
}
