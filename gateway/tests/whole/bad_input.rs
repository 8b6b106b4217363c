//! Bad input of every kind, over the running program: each gets a clear error, and nothing is lost.

mod destinations;
mod disks;
mod plugins;
mod senders;
mod stores;

use serde_json::json;
use tidegate_test_support::http::send;

use crate::api::text;
use crate::world::{SOON, World};

/// A source without any guard and a connection from it to the receiver.
async fn set_up(world: &World) {
    world
        .api
        .apply(json!({
            "sources": [{"name": "open"}],
            "destinations": [{"name": "receiver", "url": world.receiver.url("/taken")}],
            "connections": [{"name": "open", "source": "open", "destination": "receiver"}],
        }))
        .await;
}

/// Posts a body to a source; gives the event's id.
async fn accepted(world: &World, source: &str, body: &str) -> String {
    let url = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", source).await));
    let reply = send("POST", &url, &[("content-type", "application/json")], body.to_owned()).await;
    assert_eq!(reply.status, 202, "{:?}", reply.body);
    text(&reply.json()["id"])
}

/// Everybody else is served as before.
async fn still_delivers(world: &World) {
    let event = accepted(world, "open", "{\"still\": true}").await;
    assert_eq!(world.api.settled(&event, SOON).await["state"], "delivered");
}
