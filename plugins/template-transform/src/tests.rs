use serde_json::{Value, json};
use tidegate_plugin::Request;
use tidegate_plugin::testing::{FakeHost, event, sent};

use super::*;

fn run(event: &Event, config: &Value) -> Result<Request, Failure> {
    let mut outputs = TemplateTransform::run(event.clone(), &FakeHost::new().with_config(config))?;
    assert_eq!(outputs.len(), 1);
    Ok(sent(event, outputs.remove(0)))
}

fn body(event: &Event, config: Value) -> Result<String, String> {
    let request = run(event, &config).map_err(|failure| failure.code)?;
    Ok(String::from_utf8(request.body).unwrap())
}

fn issue() -> Event {
    let body = r#"{"action": "opened", "issue": {"title": "It \"leaks\" </b>", "n": 7, "labels": [{"name": "a"}, {"name": "é"}]}, "none": null}"#;
    let mut event = event(body).with_header("x-github-event", "issues").with_header("x-a", "1").with_header("x-a", "2");
    event.request.query = Some("q=a%20b+c&q=2&flag&%C3%A9=%FF".into());
    event.request.path = "/hooks/7".into();
    event
}

#[test]
fn values_are_written_as_json() {
    let template = r#"{"text": {{ "new: " ~ body.issue.title }}, "n": {{ body.issue.n }}, "labels": {{ body.issue.labels | map(attribute="name") | list }}, "gone": {{ body.gone.deep }}, "none": {{ body.none }}, "all": {{ body.issue }}}"#;
    let made: Value = serde_json::from_str(&body(&issue(), json!({"body": template})).unwrap()).unwrap();
    let expected = json!({
        "text": "new: It \"leaks\" </b>", "n": 7, "labels": ["a", "é"], "gone": null, "none": null,
        "all": {"title": "It \"leaks\" </b>", "n": 7, "labels": [{"name": "a"}, {"name": "é"}]}
    });
    assert_eq!(made, expected);
}

#[test]
fn what_people_typed_cannot_break_out() {
    let injected = event(r#"{"t": "\", \"admin\": true, \"x\": \"", "p": "../../x?a=b#c/é", "h": "<i>&\"'"}"#);
    assert_eq!(body(&injected, json!({"body": r#"{"t": "{{ body.t }}"}"#})), Err("bad-output".into()));
    let made: Value = serde_json::from_str(&body(&injected, json!({"body": r#"{"t": {{ body.t }}}"#})).unwrap()).unwrap();
    assert_eq!(made, json!({"t": "\", \"admin\": true, \"x\": \""}));
    let html = body(&injected, json!({"body": "<p>{{ body.h }}</p>", "content_type": "text/html; charset=utf-8"})).unwrap();
    assert_eq!(html, "<p>&lt;i&gt;&amp;&quot;&#x27;</p>");
    let request = run(&injected, &json!({"path": "/in/{{ body.p }}", "query": "v={{ body.p }}&w={{ body.none }}"})).unwrap();
    assert_eq!(request.path, "/in/..%2F..%2Fx%3Fa%3Db%23c%2F%C3%A9");
    assert_eq!(request.query.as_deref(), Some("v=..%2F..%2Fx%3Fa%3Db%23c%2F%C3%A9&w="));
}

#[test]
fn a_template_sees_all_of_the_event() {
    let template = "{{ method }} {{ path }} {{ headers['x-github-event'] }} {{ headers['x-a'] }} {{ query.q }} {{ query.flag }}|{{ query['é'] }} \
                    {{ event.id }} {{ event.time }} {{ event.time_ms }} {{ vars.room }}";
    let made = body(&issue(), json!({"body": template, "content_type": "text/plain", "vars": {"room": {"n": [1]}}})).unwrap();
    assert_eq!(
        made,
        "POST /hooks/7 issues 1, 2 a b c |\u{fffd} evt_00000000000000000000000000 2023-11-14T22:13:20.000Z 1700000000000 {'n': [1]}"
    );
    let made =
        body(&event("plain {{ x }}"), json!({"body": "{{ text }}!", "content_type": "text/plain", "input": "text"})).unwrap();
    assert_eq!(made, "plain {{ x }}!");
}

#[test]
fn method_path_query_and_headers_are_templates_too() {
    let config = json!({
        "method": "{{ 'PUT' if body.action == 'opened' else 'DELETE' }}",
        "path": "/issues/{{ body.issue.n }}",
        "query": "",
        "headers": {"x-kind": "{{ headers['x-github-event'] }}/{{ body.action }}", "X-A": "{{ body.gone }}"},
    });
    let request = run(&issue(), &config).unwrap();
    assert_eq!((&request.method[..], &request.path[..], request.query), ("PUT", "/issues/7", None));
    let lines: Vec<_> =
        request.headers.iter().map(|header| format!("{}: {}", header.name, String::from_utf8_lossy(&header.value))).collect();
    assert_eq!(lines, ["content-type: application/json", "x-github-event: issues", "x-kind: issues/opened"]);
    assert_eq!(request.body, issue().request.body, "a body that is not mentioned stays");
    let alone = run(&issue(), &json!({"body": "1", "keep_headers": false, "headers": {"x-b": "2"}})).unwrap();
    assert_eq!(alone.headers.len(), 2);
}

#[test]
fn a_missing_value_fails_on_demand() {
    for template in
        ["{{ body.gone }}", "{{ body.issue.gone.deep }}", "{% for x in body.gone %}{% endfor %}1", "{% if body.gone %}{% endif %}1"]
    {
        assert_eq!(body(&issue(), json!({"body": template, "missing": "fail"})), Err("missing-value".into()), "{template}");
        assert!(body(&issue(), json!({"body": template})).is_ok(), "{template}");
    }
    let failure = run(&issue(), &json!({"path": "/{{ body.gone }}", "missing": "fail"})).unwrap_err();
    assert_eq!(failure.code, "missing-value");
    assert!(failure.message.contains("`path`"), "{}", failure.message);
    assert_eq!(body(&issue(), json!({"body": "{{ body.gone | default(3) }}", "missing": "fail"})), Ok("3".into()));
}

#[test]
fn what_cannot_be_read_or_made_is_named() {
    assert_eq!(body(&event("{"), json!({"body": "1"})), Err("not-json".into()));
    assert_eq!(body(&event(b"\xff".as_slice()), json!({"body": "1", "input": "text"})), Err("not-text".into()));
    assert_eq!(body(&event("{}"), json!({"body": "{{ 1 / 0 }}"})), Err("template-failed".into()));
    assert_eq!(body(&event("{}"), json!({"body": ""})), Err("bad-output".into()));
}

#[test]
fn a_wrong_configuration_is_named() {
    for (config, field) in [
        (json!({"body": "{{ x"}), "`body`"),
        (json!({"body": "{{ 1 | nothing }}"}), "`body`"),
        (json!({"headers": {"x-a": "{% if %}"}}), "`headers.x-a`"),
        (json!({"headers": {"x-a": 1}}), "`headers.x-a`"),
        (json!({"content_type": "text/plain"}), "`content_type`"),
        (json!({"missing": "maybe"}), "`missing`"),
        (json!({"template": "x"}), "`template`"),
    ] {
        let failure = run(&event("{}"), &config).unwrap_err();
        assert_eq!(failure.code, "bad-config", "{config}: {}", failure.message);
        assert!(failure.message.contains(field), "{config}: {}", failure.message);
    }
}
