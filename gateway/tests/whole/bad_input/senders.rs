//! Senders, clients and operators that get it wrong.

use serde_json::json;
use tidegate_test_support::github;
use tidegate_test_support::http::{Reply, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{accepted, set_up, still_delivers};
use crate::api::{TENANT, text};
use crate::world::{EMBEDDED, Servers, World};

/// Sends bytes as they are and reads the answer to its end.
async fn raw(address: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let mut limited = stream.take(1 << 20);
    #[allow(clippy::disallowed_methods, reason = "limited")]
    let read = limited.read_to_end(&mut answer);
    // A peer that resets after its answer has answered all the same.
    let _ = tokio::time::timeout(crate::world::SOON, read).await.expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_problem(reply: &Reply, status: u16, code: &str) {
    let told = (reply.status, reply.json()["code"].clone());
    assert_eq!(told, (status, json!(code)), "{:?}", reply.body);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let detail = text(&reply.json()["detail"]);
    assert!(detail.len() > 10, "{detail:?} explains nothing");
}

#[tokio::test]
async fn a_sender_that_gets_it_wrong_is_told_how_and_nothing_is_kept() {
    let world = World::start(EMBEDDED).await;
    set_up(&world).await;
    let kept = accepted(&world, "open", "{}").await;
    world
        .api
        .post(
            &format!("/v1/sources?tenant={TENANT}"),
            &json!({
                "name": "signed",
                "auth": {"type": "preset", "name": "github", "secrets": ["right"]},
                "methods": ["POST"],
            }),
        )
        .await;
    let open = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "open").await));
    let signed = world.gateway.ingest(&format!("/in/{}", world.api.id("sources", "signed").await));

    let unknown = world.gateway.ingest("/in/src_01ARZ3NDEKTSV4RRFFQ69G5FAV");
    is_problem(&send("POST", &unknown, &[], "x").await, 404, "unknown_source");
    is_problem(&send("POST", &world.gateway.ingest("/elsewhere"), &[], "x").await, 404, "unknown_source");
    is_problem(&send("POST", &signed, &[], "x").await, 401, "missing_header");
    let forged = github::sign("wrong", b"x");
    is_problem(&send("POST", &signed, &[("x-hub-signature-256", &forged)], "x").await, 401, "wrong_signature");
    is_problem(&send("PUT", &signed, &[], "x").await, 405, "method_not_allowed");
    is_problem(&send("POST", &open, &[], vec![b'x'; (1 << 20) + 1]).await, 413, "body_too_large");
    let long = "x".repeat(40 << 10);
    is_problem(&send("POST", &open, &[("x-long", &long)], "x").await, 431, "head_too_large");

    let path = format!("/in/{}", world.api.id("sources", "open").await);
    let address = world.gateway.ingest("").trim_start_matches("http://").to_owned();
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\n");
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..17 {
        chunked.extend_from_slice(b"10000\r\n");
        chunked.extend_from_slice(&[b'x'; 0x10000]);
        chunked.extend_from_slice(b"\r\n");
    }
    for (bytes, status) in [
        (&b"NOT HTTP AT ALL\r\n\r\n"[..], "400"),
        (format!("{head}content-length: 5\r\ncontent-length: 6\r\n\r\nhello").as_bytes(), "400"),
        (format!("{head}transfer-encoding: chunked\r\nconnection: close\r\n\r\nZZ\r\n").as_bytes(), "400"),
        (&chunked, "413"),
    ] {
        let answer = raw(&address, bytes).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer:?}");
    }

    let events: Vec<String> = world.api.all("/v1/events").await.iter().map(|event| text(&event["id"])).collect();
    assert_eq!(events, [kept], "only what was acknowledged is kept");
    still_delivers(&world).await;
}

#[tokio::test]
async fn a_client_of_the_api_reaches_its_own_tenant_and_nothing_else() {
    let world = World::start(EMBEDDED).await;
    set_up(&world).await;
    let event = accepted(&world, "open", "{}").await;
    let source = world.api.id("sources", "open").await;
    is_problem(&world.api.with_key("tgk_nonsense").try_get("/v1/tenants").await, 401, "unauthorized");
    is_problem(&send("GET", &world.gateway.admin("/v1/tenants"), &[], "").await, 401, "unauthorized");

    world.api.post("/v1/tenants", &json!({"name": "stranger"})).await;
    let minted = world.api.post("/v1/keys?tenant=stranger", &json!({"name": "theirs", "tenant": "stranger"})).await;
    let stranger = world.api.with_key(&text(&minted["key"]));
    for path in [format!("/v1/events/{event}"), format!("/v1/sources/{source}"), format!("/v1/events?tenant={TENANT}")] {
        is_problem(&stranger.try_get(&path).await, 404, "not_found");
    }
    let retried = stranger.send("POST", &format!("/v1/events/{event}/retry"), "application/json", "").await;
    is_problem(&retried, 404, "not_found");
    let deleted = stranger.send("DELETE", &format!("/v1/sources/{source}"), "application/json", "").await;
    is_problem(&deleted, 404, "not_found");
    assert_eq!(stranger.get("/v1/events").await["items"], json!([]));

    let unknown = json!({"tenants": [{"name": TENANT, "sources": [{"name": "open", "colour": "red"}]}]});
    let refused = world.api.send("POST", "/v1/apply", "application/json", unknown.to_string()).await;
    assert_eq!(refused.status, 400);
    let error = &refused.json()["errors"][0];
    assert!(text(&error["field"]).starts_with("tenants[0].sources[0]"), "{error}");
    assert!(text(&error["message"]).contains("colour"), "{error}");
    still_delivers(&world).await;
}

#[tokio::test]
async fn an_unknown_field_in_the_configuration_is_named_with_its_line() {
    let servers = Servers::start(EMBEDDED).await;
    let text = "[ingest]\nmax_body = \"2MiB\"\nmax_boddy = \"1MiB\"\n\n[store]\nkind = \"tape\"\n";
    let launch = servers.launch("").file("wrong.toml", text);
    let finished = launch.run(&["serve", "--config", "wrong.toml"]).await;
    assert_eq!(finished.status.code(), Some(1));
    assert!(finished.output.contains("wrong.toml:3: ingest.max_boddy"), "{}", finished.output);
    assert!(finished.output.contains("wrong.toml:6: store.kind"), "all faults at once: {}", finished.output);
}
