//! The first-party plugins, as they are shipped, through the sandbox.

mod cases;

use std::time::Duration;

use serde_json::{Value, json};

use crate::fixture::{Sandbox, call, header, prebuilt};
use tidegate::event::SharedRequest;
use tidegate::plugin::{Interface, Limits};

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
    assert_eq!(inspection.screen.exports, ["tidegate:plugin/transform@1.1.0"]);
    assert!(inspection.screen.imports.contains(&"tidegate:plugin/config@1.1.0".to_owned()), "{:?}", inspection.screen.imports);
    assert!(inspection.artifact_bytes > inspection.bytes);
}

/// Large bodies with work for the plugin in them, and the most fuel that each may take, below the default limit of 100 million: 1 MiB of
/// small values, or half of that; `few` is 100 of them and a text of 1 MB.
#[tokio::test]
async fn large_bodies_are_affordable() {
    let item = r#"{"id": 12345, "name": "Ada Lovelace", "mail": "ada@example.com", "note": "\u00e9 paid 4111 1111 1111 1111", "n": [1.5, true, null]}"#;
    let count = (1 << 20) / (item.len() + 1);
    let body = format!(r#"{{"items": [{}], "last": "x"}}"#, vec![item; count].join(","));
    let few =
        format!(r#"{{"items": [{}], "last": "{}"}}"#, vec![item; 100].join(","), "Let the water in at high tide. ".repeat(33_000));
    let half = format!(r#"{{"items": [{}]}}"#, vec![item; count / 2].join(","));
    let transforms = [
        ("splitter", few.as_str(), json!({"pointer": "/items"}), 100, 30_000_000),
        ("cloudevents", &body, json!({"mode": "structured", "source": "/in", "type": {"pointer": "/last"}}), 1, 80_000_000),
        ("redact", &half, json!({"fields": [{"key": "name"}, {"pointer": "/items/*/id", "action": "remove"}]}), 1, 80_000_000),
        (
            "redact",
            &few,
            json!({"patterns": [{"find": "email"}, {"find": "card"}, {"find": "iban"}, {"find": "phone"}]}),
            1,
            80_000_000,
        ),
        (
            "template-transform",
            &few,
            json!({"body": r#"{"first": {{ body.items[0].name }}, "last": {{ body.last }}}"#}),
            1,
            35_000_000,
        ),
    ];
    let filters = [
        ("json-field-filter", json!({"rules": [{"pointer": "/last", "values": ["x"]}]}), 80_000_000),
        ("sampler", json!({"percent": 100, "by": {"pointer": "/last"}}), 80_000_000),
    ];
    let sandbox = Sandbox::new();
    let large = |name: &str, body: &str, config: &Value| {
        let mut call = call(sandbox.add(prebuilt(name)), body.to_owned());
        call.config = config.to_string().into();
        // Fuel is the budget here: a busy machine must not fail it.
        call.limits = Limits { wall: Duration::from_secs(60), ..Limits::default() };
        call
    };
    let mut dear = Vec::new();
    for (name, body, config, outputs, most) in transforms {
        let report = sandbox.runtime.transform(large(name, body, &config)).await;
        assert_eq!(report.result.map(|outputs| outputs.len()).map_err(|error| error.to_string()), Ok(outputs), "{name} {config}");
        dear.extend((report.run.fuel > most).then(|| format!("{name} {config}: {} fuel of {most}", report.run.fuel)));
    }
    for (name, config, most) in filters {
        let report = sandbox.runtime.filter(large(name, &body, &config)).await;
        assert_eq!(report.result.map_err(|error| error.to_string()), Ok(true), "{name} {config}");
        dear.extend((report.run.fuel > most).then(|| format!("{name} {config}: {} fuel of {most}", report.run.fuel)));
    }
    assert!(dear.is_empty(), "{}", dear.join("\n"));
}
