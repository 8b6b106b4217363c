//! `tidegate plugin push`, to a gateway that runs.

use std::fs;

use serde_json::Value;
use tidegate_test_support::gateway::Launch;
use tidegate_test_support::http::send;

use crate::guest;
use crate::project::{Project, said, tidegate};

#[tokio::test]
async fn a_push_moves_aliases_and_says_how_far_it_came() {
    let gateway = Launch::new(env!("CARGO_BIN_EXE_tidegate")).init().await.config("").start().await;
    let bearer = format!("Bearer {}", gateway.operator_key());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let applied = send("POST", &gateway.admin("/v1/apply"), &headers, r#"{"tenants": [{"name": "acme"}]}"#).await;
    assert_eq!(applied.status, 200, "{:?}", applied.body);

    let project = Project::new("rust", "pushed", &[]);
    let (url, key) = (gateway.admin(""), gateway.directory().join("keys/operator.key"));
    let to = ["--tenant", "acme", "--url", url.trim_end_matches('/'), "--key-file", key.to_str().unwrap()];
    let push = |more: &[&str]| tidegate(&project.directory, &[&["push"], more, &to[..]].concat());

    let pushed = push(&["--alias", "live", "--json"]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let version: Value = serde_json::from_slice(&pushed.stdout).unwrap();
    assert_eq!(version["kind"], "transform", "{version}");
    let plugin = send("GET", &gateway.admin("/v1/plugins/pushed?tenant=acme"), &headers, "").await;
    assert_eq!(plugin.json()["aliases"]["live"], version["hash"], "the project's name is the plugin's: {}", plugin.json());

    let half = push(&["--alias", "live", "--alias", "no such alias"]);
    assert_eq!(half.status.code(), Some(1));
    let said_half = said(&half);
    assert!(said_half.contains("is uploaded, but the alias `no such alias` was not moved to it: "), "{said_half}");

    fs::write(project.file("foreign.wasm"), guest::wat(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#)).unwrap();
    let refused = push(&["foreign.wasm", "--name", "pushed"]);
    assert_eq!(refused.status.code(), Some(1));
    let said_refused = said(&refused);
    assert!(said_refused.contains("the plugin `pushed` has no new version: "), "{said_refused}");
    assert!(said_refused.contains("wasi:cli/environment@0.2.0"), "{said_refused}");
}
