use serde_json::{Value, json};
use tidegate_plugin::testing::{FakeHost, event};

use super::*;

fn push() -> Value {
    let commit = |n: u32, message: &str| {
        json!({
            "id": format!("{n:040x}"), "message": message, "url": format!("https://github.com/o/r/commit/{n}"),
            "author": {"name": "Ada \u{1f30a}"}
        })
    };
    json!({
        "ref": "refs/heads/main",
        "repository": {"full_name": "o/r", "html_url": "https://github.com/o/r"},
        "pusher": {"name": "ada"},
        "compare": "https://github.com/o/r/compare/1...2",
        "created": false, "deleted": false, "forced": false,
        "commits": [commit(1, "Fix <script> & \"quotes\"\n\nbody"), commit(2, "Second *bold*")]
    })
}

fn run(payload: &Value, config: &Value) -> Result<Vec<Output>, Failure> {
    let event = event(payload.to_string()).with_header("x-github-event", "push");
    GithubPushToChat::run(event, &FakeHost::new().with_config(config))
}

fn message(payload: &Value, config: &Value) -> Value {
    let outputs = run(payload, config).expect("a push is understood");
    assert_eq!(outputs.len(), 1);
    serde_json::from_slice(outputs[0].body.as_ref().expect("a body")).expect("JSON")
}

#[test]
fn a_push_becomes_one_message_with_what_people_typed_escaped() {
    assert_eq!(
        message(&push(), &json!({})),
        json!({"text": "ada pushed to <https://github.com/o/r/tree/main|main> of <https://github.com/o/r|o/r>: 2 commits\n\
            <https://github.com/o/r/commit/1|0000000> Fix &lt;script&gt; &amp; \"quotes\" (Ada \u{1f30a})\n\
            <https://github.com/o/r/commit/2|0000000> Second *bold* (Ada \u{1f30a})"})
    );
}

#[test]
fn channel_format_and_cap_come_from_the_configuration() {
    let message = message(&push(), &json!({"channel": "#dev", "format": "markdown", "max_commits": 1}));
    assert_eq!(
        message,
        json!({"channel": "#dev", "text": "ada pushed to [main](https://github.com/o/r/tree/main) of [o/r](https://github.com/o/r): 2 commits\n\
            [0000000](https://github.com/o/r/commit/1) Fix \\<script\\> & \"quotes\" (Ada \u{1f30a})\n\
            and 1 more: [compare](https://github.com/o/r/compare/1...2)"})
    );
}

#[test]
fn the_verb_tells_what_happened_to_the_branch() {
    for (field, wanted) in [("created", "created branch"), ("forced", "force-pushed to"), ("deleted", "deleted branch")] {
        let mut payload = push();
        payload[field] = json!(true);
        let text = message(&payload, &json!({"format": "plain"}))["text"].to_string();
        assert!(text.contains(&format!("ada {wanted} main of o/r")), "{text}");
    }
}

#[test]
fn other_events_tags_and_other_branches_give_nothing() {
    let other = event(push().to_string()).with_header("x-github-event", "issues");
    assert!(GithubPushToChat::run(other, &FakeHost::new()).unwrap().is_empty());

    let mut tag = push();
    tag["ref"] = json!("refs/tags/v1");
    assert!(run(&tag, &json!({})).unwrap().is_empty());
    assert!(run(&push(), &json!({"branches": ["release"]})).unwrap().is_empty());
    assert_eq!(run(&push(), &json!({"branches": ["release", "main"]})).unwrap().len(), 1);
}

#[test]
fn what_cannot_be_understood_fails_with_its_name() {
    assert_eq!(run(&json!({"ref": 1}), &json!({})).unwrap_err().code, "not-json");
    assert_eq!(run(&push(), &json!({"chanel": "#dev"})).unwrap_err().code, "bad-config");
    let mut form = event("payload=%7B%7D").with_header("x-github-event", "push");
    form.request.headers[0].value = b"application/x-www-form-urlencoded".to_vec();
    assert_eq!(GithubPushToChat::run(form, &FakeHost::new()).unwrap_err().code, "form-encoded");
}
