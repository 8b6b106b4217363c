//! Plugins that run away, beside a quiet tenant's events.

use std::cell::Cell;

use serde_json::json;
use tidegate_test_support::http::send;

use crate::api::text;
use crate::guest::{filter, import};
use crate::processes::{Watch, resident};
use crate::quiet::{ALONE, MALLORY, Quiet, assert_unhurt};

const EVENTS: usize = 200;

#[tokio::test]
async fn runaway_plugins_slow_no_other_tenant() {
    let _alone = ALONE.lock().await;
    let quiet = Quiet::start().await;
    let log = import("log", "write", "(param i32 i32 i32)");
    let attacks = [
        ("spins", filter("", "(loop (br 0)) (unreachable)"), json!({"fuel": 50_000_000})),
        ("sleeps", filter("", "(loop (br 0)) (unreachable)"), json!({"fuel": 2_000_000_000, "time": "20ms"})),
        ("grows", filter("", "(loop (drop (memory.grow (i32.const 16))) (br 0)) (unreachable)"), json!({})),
        (
            "fills",
            filter("", "(loop (memory.fill (i32.const 4096) (i32.const 90) (i32.const 16000000)) (br 0)) (unreachable)"),
            json!({}),
        ),
        ("logs", filter(&log, "(loop (call $write (i32.const 1) (i32.const 0) (i32.const 900)) (br 0)) (unreachable)"), json!({})),
        ("recurses", filter("(func $f (result i32) (i32.add (call $f) (i32.const 1)))", "(call $f)"), json!({})),
    ];
    let (mut plugins, mut connections) = (Vec::new(), Vec::new());
    for (name, component, limits) in attacks {
        plugins.push(json!({"name": name, "component": quiet.world.api.keep(component).await}));
        let stage = json!({"plugin": name, "limits": limits, "on_failure": "dead_letter"});
        connections.push(json!({"name": name, "source": "flood", "destination": "nowhere", "plugins": [stage]}));
    }
    quiet
        .mallory(json!({
            "plugins": plugins,
            "sources": [{"name": "flood"}],
            "destinations": [{"name": "nowhere", "url": quiet.world.receiver.url("/mallory")}],
            "connections": connections,
        }))
        .await;
    let source = text(&quiet.world.api.get(&format!("/v1/sources/flood?tenant={MALLORY}")).await["id"]);
    let idle = quiet.latencies(|| false).await;
    let before = resident(quiet.world.gateway.pid());
    let watch = Watch::of(quiet.world.gateway.pid());

    let url = quiet.world.gateway.ingest(&format!("/in/{source}"));
    let left = Cell::new(EVENTS);
    let flood = async {
        while left.get() > 0 {
            let reply = send("POST", &url, &[], "{}").await;
            // Beyond its plan it is told to come later; that is not what is tested here.
            assert!(matches!(reply.status, 202 | 429), "{:?}", reply.body);
            left.set(left.get() - 1);
        }
    };
    // What was posted is worked on for much longer than it takes to post it.
    let sent = Cell::new(0);
    let more = || {
        sent.set(sent.get() + 1);
        sent.get() < 150 || left.get() > 0
    };
    let ((), during) = tokio::join!(flood, quiet.latencies(more));
    assert_unhurt("runaway plugins", &idle, &during);
    let grown = watch.peak().gateway.saturating_sub(before) >> 20;
    println!("the gateway grew by {grown} MiB");
    assert!(grown < 384, "the gateway grew by {grown} MiB");
    assert!(quiet.world.receiver.requests().iter().all(|request| request.target == "/quiet"), "nothing of it was sent");
}
