//! Plugins that senders wait for, and that never answer.

use std::cell::Cell;

use futures_util::future::join_all;
use serde_json::json;
use tidegate_test_support::http::send;
use tidegate_test_support::monotonic;

use crate::api::{TENANT, text};
use crate::quiet::{ALONE, MALLORY, Quiet, assert_unhurt, median};
use crate::visitors::{SPINS, ZEROS, verify};
use crate::world::SOON;

/// Senders at once: more than may wait.
const SENDERS: usize = 48;
const EACH: usize = 4;

#[tokio::test]
async fn a_source_whose_plugin_never_answers_refuses_in_bounded_time_and_slows_no_other_tenants_senders() {
    let _alone = ALONE.lock().await;
    let quiet = Quiet::start().await;
    // The quiet tenant's senders wait for a plugin too.
    let component = quiet.world.api.keep(verify(ZEROS)).await;
    let checks = json!([{"name": "checks", "component": component}]);
    quiet.world.api.apply(json!({"plugins": checks})).await;
    let auth = json!({"auth": {"type": "plugin", "plugin": "checks"}});
    quiet.world.api.patch(&format!("/v1/sources/open?tenant={TENANT}"), &auth).await;
    let spins = quiet.world.api.keep(verify(SPINS)).await;
    let source = json!({"name": "spins", "auth": {"type": "plugin", "plugin": "spins"}});
    quiet.mallory(json!({"plugins": [{"name": "spins", "component": spins}], "sources": [source]})).await;
    let idle = quiet.latencies(|| false).await;

    let source = text(&quiet.world.api.get(&format!("/v1/sources/spins?tenant={MALLORY}")).await["id"]);
    let url = quiet.world.gateway.ingest(&format!("/in/{source}"));
    let left = Cell::new(SENDERS);
    let flood = async || {
        let mut took = Vec::new();
        for _ in 0..EACH {
            let started = monotonic();
            let reply = send("POST", &url, &[], "{}").await;
            took.push(started.elapsed());
            let code = text(&reply.json()["code"]);
            let known = ["verify_failed", "plugin_queue_full", "plugin_timeout", "plugin_fuel"];
            assert!(reply.status == 503 && known.contains(&code.as_str()), "{} {code}", reply.status);
            assert!(reply.header("retry-after").is_some(), "{code} says when to come again");
        }
        left.set(left.get() - 1);
        took
    };
    let floods = join_all((0..SENDERS).map(|_| flood()));
    let (took, during) = tokio::join!(floods, quiet.latencies(|| left.get() > 0));
    let took = took.concat();
    let longest = took.iter().max().unwrap();
    println!("{} refusals, median {:.1?}, longest {longest:.1?}", took.len(), median(&took));
    assert!(*longest < SOON, "{longest:?}");
    assert_unhurt("a plugin that senders wait for in vain", &idle, &during);
    let events = quiet.world.api.get(&format!("/v1/events?tenant={MALLORY}")).await;
    assert_eq!(events["items"], json!([]), "nothing was kept");
}
