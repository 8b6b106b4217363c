//! An event runs the plugin versions that its connections had when it was accepted, whatever is changed before its turn comes.

use serde_json::{Value, json};
use tidegate_test_support::eventually;
use tidegate_test_support::http::{Answer, send};

use crate::api::text;
use crate::guest::{filter, transform};
use crate::world::{EMBEDDED, Engine, REDIS, SOON, World};

#[tokio::test]
async fn an_event_runs_the_version_that_it_was_accepted_with_on_the_embedded_store() {
    pinned(EMBEDDED).await;
}

#[tokio::test]
async fn an_event_runs_the_version_that_it_was_accepted_with_on_redis() {
    pinned(REDIS).await;
}

async fn pinned(engine: Engine) {
    let world = World::start(engine).await;
    // Filters that drop, told apart by what they do before; later a transform takes the alias, which gives nothing.
    let keep = async |text: &str| world.api.keep(filter("", &format!("{text} (i32.const 8)"))).await;
    let (first, second, other) = (keep("(nop)").await, keep("(nop) (nop)").await, keep("(nop) (nop) (nop)").await);
    let later = world.api.keep(transform("", "(i32.const 8)")).await;
    let state = |version: &str, chain: &str| {
        let destination = |name: &str| json!({"name": name, "url": world.receiver.url(&format!("/{name}")), "timeout": "5s"});
        json!({
            // One event at a time: what comes behind it waits, unplanned.
            "plan": {"in_flight": 1},
            "plugins": [
                {"name": "moving", "component": version, "aliases": ["live"]},
                {"name": "other", "component": other, "aliases": ["live"]},
            ],
            "sources": [{"name": "blocking"}, {"name": "pinned"}],
            "destinations": [destination("hanging"), destination("quick")],
            "connections": [
                {"name": "blocking", "source": "blocking", "destination": "hanging"},
                {"name": "moves", "source": "pinned", "destination": "quick", "plugins": [{"plugin": "moving", "version": "live"}]},
                {"name": "changes", "source": "pinned", "destination": "quick", "plugins": [{"plugin": chain, "version": "live"}]},
            ],
        })
    };
    world.api.apply(state(&first, "moving")).await;
    world.receiver.answer_with(|request| if request.target == "/hanging" { Answer::hang() } else { Answer::status(200) });
    let post = async |source: &str| {
        let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", source).await));
        let reply = send("POST", &url, &[], "{}").await;
        assert_eq!(reply.status, 202, "{:?}", reply.body);
        text(&reply.json()["id"])
    };
    post("blocking").await;
    world.receiver.wait_for(1, SOON).await;
    let event = post("pinned").await;
    eventually("the event waits, unplanned", SOON, async || {
        (world.api.event(&event).await["deliveries"][0]["state"] == "parked").then_some(())
    })
    .await;
    // The alias goes on to another version, and then to one that does another thing; a chain gets another plugin.
    world.api.apply(state(&second, "other")).await;
    world.api.apply(state(&later, "other")).await;
    let event = world.api.settled(&event, SOON).await;
    let rows = event["deliveries"].as_array().unwrap();
    let connection = async |name: &str| -> Value {
        let id = world.api.id("connections", name).await;
        rows.iter().find(|row| row["connection"] == id).unwrap_or_else(|| panic!("no row of {name}: {event:#}")).clone()
    };
    let (moves, changes) = (connection("moves").await, connection("changes").await);
    for (row, version, by) in [(&moves, &first, "moving"), (&changes, &other, "other")] {
        assert_eq!((&row["state"], &row["reason"]), (&json!("filtered"), &json!(by)), "{event:#}");
        assert_eq!(row["plugin_runs"][0]["version"], **version, "{by}: {event:#}");
        assert_eq!(row["plugin_runs"][0]["failure"], Value::Null, "{event:#}");
    }
    // What comes now runs what is there now.
    let event = world.api.settled(&post("pinned").await, SOON).await;
    let runs = event["deliveries"].as_array().unwrap().iter().map(|row| text(&row["plugin_runs"][0]["version"]));
    let runs: std::collections::BTreeSet<_> = runs.collect();
    assert_eq!(runs, [later, other.clone()].into(), "{event:#}");
}
