//! A plugin's table by the commands of the real program.

use tidegate_test_support::gateway::{Gateway, Launch};
use tidegate_test_support::http::send;

const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// Runs `tidegate plugin table` with these words.
async fn table(gateway: &Gateway, words: &[&str]) -> Result<String, String> {
    let url = gateway.admin("");
    let common = ["--tenant", "acme", "--url", url.trim_end_matches('/')];
    let arguments: Vec<&str> = ["plugin", "table"].iter().chain(words).chain(&common).copied().collect();
    let finished = gateway.run(&arguments).await;
    if finished.status.success() { Ok(finished.output) } else { Err(finished.output) }
}

#[tokio::test]
async fn a_table_is_filled_read_and_emptied_by_commands() {
    let gateway = Launch::new(TIDEGATE).init().await.config("").start().await;
    let bearer = format!("Bearer {}", gateway.operator_key());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let made = send("POST", &gateway.admin("/v1/tenants"), &headers, r#"{"name": "acme"}"#).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let prebuilt = concat!(env!("CARGO_MANIFEST_DIR"), "/../plugins/prebuilt/json-field-filter.wasm");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/wasm")];
    let path = gateway.admin("/v1/plugins/users/versions?tenant=acme");
    let pushed = send("POST", &path, &headers, std::fs::read(prebuilt).unwrap()).await;
    assert_eq!(pushed.status, 201, "{:?}", pushed.body);

    let run = async |words: &[&str]| table(&gateway, words).await.unwrap_or_else(|said| panic!("{words:?}: {said}"));
    run(&["set", "users", "user:7/é", "Ada", "--ttl", "1h"]).await;
    assert_eq!(run(&["get", "users", "user:7/é"]).await, "Ada");
    let directory = tempfile::tempdir().unwrap();
    let (lines, bytes) = (directory.path().join("users.ndjson"), directory.path().join("bytes"));
    let all: String = (0..12_000).map(|n| format!("{{\"key\": \"n:{n:05}\", \"value\": {n}}}\n")).collect();
    std::fs::write(&lines, all).unwrap();
    std::fs::write(&bytes, [0, 255]).unwrap();
    assert_eq!(run(&["load", "users", lines.to_str().unwrap()]).await, "users: 12000 entries written\n");
    run(&["set", "users", "bytes", "--file", bytes.to_str().unwrap()]).await;
    assert_eq!(run(&["get", "users", "n:11999"]).await, "11999");
    let listed = run(&["list", "users", "--limit", "2"]).await;
    let shown: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(shown[0], ["KEY", "SIZE", "EXPIRES", "VALUE"]);
    assert_eq!(shown[1], ["bytes", "2", "-", "(bytes)"]);
    assert_eq!(shown[2], ["n:00000", "1", "-", "0"]);
    assert_eq!(listed.lines().nth(3), Some("more: --cursor 'n:00000'"));
    let json = run(&["list", "users", "--prefix", "user:", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["items"][0]["value"], json["items"].as_array().unwrap().len()), (&"Ada".into(), 1));
    run(&["delete", "users", "user:7/é"]).await;
    for (words, part) in [
        (&["get", "users", "user:7/é"][..], "there is no entry `user:7/é`"),
        (&["set", "nobody", "a", "1"], "there is no plugin `nobody`"),
        (&["set", "users", "a", "1", "--ttl", "soon"], "ttl: must be a duration"),
        (&["set", "users", "a"], "<VALUE>"),
        (&["load", "users", bytes.to_str().unwrap()], "line 1: "),
    ] {
        let said = table(&gateway, words).await.expect_err("it can't be done");
        assert!(said.contains(part), "{words:?}: {said}");
    }
}
