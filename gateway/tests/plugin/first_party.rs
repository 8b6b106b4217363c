//! The first-party plugins, as they are shipped, through the sandbox.

use serde_json::{Value, json};

use crate::fixture::{Sandbox, call, header, prebuilt};
use tidegate::event::SharedRequest;
use tidegate::plugin::Interface;

fn push() -> String {
    json!({
        "ref": "refs/heads/main",
        "repository": {"full_name": "o/r", "html_url": "https://github.com/o/r"},
        "pusher": {"name": "ada"},
        "commits": [{"id": "0123456789abcdef", "message": "Fix it\n\nbody", "url": "https://github.com/o/r/commit/0",
            "author": {"name": "Ada"}}]
    })
    .to_string()
}

#[tokio::test]
async fn a_github_push_becomes_a_chat_message() {
    let sandbox = Sandbox::new();
    let version = sandbox.add(prebuilt("github-push-to-chat"));
    let mut call = call(version, push());
    call.config = r##"{"channel": "#dev", "format": "plain"}"##.into();
    let report = sandbox.runtime.transform(call).await;

    let outputs = report.result.unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!((&outputs[0].method[..], &outputs[0].path[..], &outputs[0].query), ("POST", "", &None));
    assert_eq!(outputs[0].headers, [header("content-type", b"application/json")]);
    let message: Value = serde_json::from_slice(&outputs[0].body).unwrap();
    assert_eq!(message, json!({"channel": "#dev", "text": "ada pushed to main of o/r: 1 commit\n0123456 Fix it (Ada)"}));
    assert_eq!(report.run.outcome, Ok(1));
    assert_eq!(report.run.version, version);
    assert!(report.run.fuel > 1000 && report.run.memory >= 64 << 10 && report.run.took_us > 0, "{:?}", report.run);
}

#[tokio::test]
async fn what_is_not_a_push_gives_nothing() {
    let sandbox = Sandbox::new();
    let mut call = call(sandbox.add(prebuilt("github-push-to-chat")), "{}");
    let mut request = call.request.into_request();
    request.headers[1] = header("x-github-event", b"issues");
    call.request = SharedRequest::Made(request.into());
    let report = sandbox.runtime.transform(call).await;
    assert_eq!(report.result.unwrap(), []);
    assert_eq!(report.run.outcome, Ok(0));
}

#[tokio::test]
async fn the_json_filter_keeps_and_drops_and_says_what_is_wrong() {
    let sandbox = Sandbox::new();
    let version = sandbox.add(prebuilt("json-field-filter"));
    let config = r#"{"rules": [{"pointer": "/action", "values": ["opened"]}]}"#;
    for (body, kept) in [(r#"{"action": "opened"}"#, true), (r#"{"action": "closed"}"#, false), ("{}", false)] {
        let mut call = call(version, body);
        call.config = config.into();
        assert_eq!(sandbox.runtime.filter(call).await.result.unwrap(), kept, "{body}");
    }
    let report = sandbox.runtime.filter(call(version, "{}")).await;
    let failure = report.run.outcome.unwrap_err();
    assert_eq!(failure.code, "plugin_failed");
    assert!(failure.detail.starts_with("bad-config: the plugin's configuration: missing field `rules`"), "{}", failure.detail);
    assert!(!failure.retryable);
}

#[tokio::test]
async fn a_plugin_is_asked_only_for_what_it_exports() {
    let sandbox = Sandbox::new();
    let filter = call(sandbox.add(prebuilt("json-field-filter")), "{}");
    let failure = sandbox.runtime.transform(filter).await.run.outcome.unwrap_err();
    assert_eq!(failure.code, "not_offered");
}

#[tokio::test]
async fn inspection_tells_what_a_component_offers() {
    let sandbox = Sandbox::new();
    let inspection = sandbox.runtime.inspect(prebuilt("github-push-to-chat")).await.unwrap();
    assert_eq!(Vec::from_iter(inspection.screen.offers), [Interface::Transform]);
    assert_eq!(inspection.screen.exports, ["tidegate:plugin/transform@1.0.0"]);
    assert!(inspection.screen.imports.contains(&"tidegate:plugin/config@1.0.0".to_owned()), "{:?}", inspection.screen.imports);
    assert!(inspection.artifact_bytes > inspection.bytes);
}
