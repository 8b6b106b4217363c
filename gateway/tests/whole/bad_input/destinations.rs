//! Destinations that hang, drip, flood, redirect, or lie inside.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_test_support::http::{Answer, Received, Receiver};

use super::{accepted, set_up, still_delivers};
use crate::api::text;
use crate::world::{EMBEDDED, SOON, World};

const EGRESS: &str = "egress.allow = [\"127.0.0.1/32\"]\negress.hosts = [{ name = \"inside.test\", addresses = [\"10.9.8.7\"] }]";

/// Sends one event to a destination and gives the outcome of its one attempt.
async fn outcome(world: &World, name: &str, url: &str) -> Value {
    world
        .api
        .apply(json!({
            "sources": [{"name": name}],
            "destinations": [{"name": name, "url": url, "timeout": "700ms", "retry": {"max_attempts": 1}}],
            "connections": [{"name": name, "source": name, "destination": name}],
        }))
        .await;
    let event = accepted(world, name, "{}").await;
    let settled = world.api.settled(&event, SOON).await;
    let row = settled["deliveries"][0].clone();
    assert_eq!(row["attempts"].as_array().map(Vec::len), Some(1), "{settled:#}");
    row
}

fn is_dead(row: &Value, code: &str) {
    assert_eq!((&row["state"], &row["attempts"][0]["failure"]["code"]), (&json!("dead_lettered"), &json!(code)), "{row:#}");
}

fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn a_destination_that_misbehaves_costs_its_own_deliveries_only() {
    let world = World::with(EMBEDDED, |launch| launch, EGRESS).await;
    let trap = Receiver::start().await;
    let redirect = trap.url("/trap");
    world.receiver.answer_with(move |request: &Received| match request.target.as_str() {
        "/hangs" => Answer::hang(),
        "/drips" => Answer::status(200).dripping(Duration::from_secs(1), "a byte a second"),
        "/floods" => Answer::status(200).flooding(1 << 30),
        "/redirects" => Answer::redirect(&redirect),
        "/redirects-inside" => Answer::redirect("http://169.254.169.254/latest/meta-data/"),
        "/closes" => Answer::disconnect(),
        _ => Answer::status(200),
    });
    set_up(&world).await;
    still_delivers(&world).await;

    let to = |path: &str| world.receiver.url(path);
    is_dead(&outcome(&world, "hangs", &to("/hangs")).await, "response_timeout");
    is_dead(&outcome(&world, "closes", &to("/closes")).await, "reset");
    is_dead(&outcome(&world, "redirects", &to("/redirects")).await, "redirect_refused");
    is_dead(&outcome(&world, "redirects-inside", &to("/redirects-inside")).await, "redirect_refused");
    assert_eq!(trap.count(), 0, "no redirect is followed");

    // A complete 2xx head is delivered; what is wrong with the body is recorded.
    let before = peak_memory(world.gateway.pid());
    for path in ["drips", "floods"] {
        let row = outcome(&world, path, &to(&format!("/{path}"))).await;
        let attempt = &row["attempts"][0];
        assert_eq!((&row["state"], &attempt["status"], &attempt["response_cut"]), (&json!("delivered"), &json!(200), &json!(true)));
        assert!(text(&attempt["response"]).len() <= 16 << 10, "the cap holds");
        assert!(attempt["took_us"].as_u64() < Some(5_000_000), "the deadline covers the body: {attempt}");
    }
    let grown = peak_memory(world.gateway.pid()).saturating_sub(before);
    assert!(grown < 64 << 10, "a gigabyte of answer took {grown} KiB of memory");

    let inside = outcome(&world, "inside", "http://inside.test/").await;
    is_dead(&inside, "address_refused");
    assert!(text(&inside["attempts"][0]["failure"]["detail"]).contains("private address"), "{inside:#}");
    for url in ["http://10.0.0.1/", "http://169.254.169.254/", "http://[::ffff:192.168.0.1]/", "http://127.0.0.2/"] {
        let spec = json!({"tenants": [{"name": "acme", "destinations": [{"name": "no", "url": url}]}]});
        let reply = world.api.send("POST", "/v1/apply", "application/json", spec.to_string()).await;
        let error = reply.json()["errors"][0].clone();
        assert_eq!((reply.status, &error["field"]), (422, &json!("tenants[0].destinations[0].url")), "{url}: {:?}", reply.body);
    }
    still_delivers(&world).await;
}
