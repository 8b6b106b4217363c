//! Plugins of earlier interfaces run as they did.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::fixture::{Sandbox, call};

const FILTER: &[u8] = include_bytes!("old/json-field-filter-1.0.0.wasm");
const TRANSFORM: &[u8] = include_bytes!("old/github-push-to-chat-1.0.0.wasm");

#[tokio::test]
async fn a_filter_of_1_0_runs_for_ever() {
    let sandbox = Sandbox::new();
    let found = sandbox.runtime.inspect(Bytes::from_static(FILTER)).await.unwrap();
    assert_eq!(found.screen.exports, ["tidegate:plugin/filter@1.0.0"]);
    let version = sandbox.add(FILTER);
    for (body, kept) in [(r#"{"action": "opened"}"#, true), (r#"{"action": "closed"}"#, false), ("{}", false)] {
        let mut call = call(version, body);
        call.config = r#"{"rules": [{"pointer": "/action", "values": ["opened"]}]}"#.into();
        assert_eq!(sandbox.runtime.filter(call).await.result.unwrap(), kept, "{body}");
    }
    let failure = sandbox.runtime.filter(call(version, "{}")).await.run.outcome.unwrap_err();
    assert!(failure.detail.starts_with("bad-config: "), "{}", failure.detail);
}

#[tokio::test]
async fn a_transform_of_1_0_runs_for_ever() {
    let sandbox = Sandbox::new();
    let push = json!({
        "ref": "refs/heads/main",
        "repository": {"full_name": "o/r", "html_url": "https://github.com/o/r"},
        "pusher": {"name": "ada"},
        "commits": [{"id": "0123456789abcdef", "message": "Fix it", "url": "https://github.com/o/r/commit/0", "author": {"name": "Ada"}}]
    });
    let mut call = call(sandbox.add(TRANSFORM), push.to_string());
    call.config = r##"{"channel": "#dev", "format": "plain"}"##.into();
    let outputs = sandbox.runtime.transform(call).await.result.unwrap();
    let message: Value = serde_json::from_slice(&outputs[0].body).unwrap();
    assert_eq!(message, json!({"channel": "#dev", "text": "ada pushed to main of o/r: 1 commit\n0123456 Fix it (Ada)"}));
}
