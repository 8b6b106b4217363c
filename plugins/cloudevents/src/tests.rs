use serde_json::{Value, json};
use tidegate_plugin::testing::{FakeHost, event, sent};
use tidegate_plugin::{Header, Request};

use super::*;

fn of_type(content_type: &str, body: impl Into<Vec<u8>>) -> Event {
    let mut event = event(body);
    event.request.headers[0].value = content_type.into();
    event
}

fn run(event: &Event, config: &Value) -> Result<Vec<Request>, Failure> {
    let outputs = CloudEvents::run(event.clone(), &FakeHost::new().with_config(config))?;
    Ok(outputs.into_iter().map(|output| sent(event, output)).collect())
}

fn one(event: &Event, config: &Value) -> Request {
    let mut requests = run(event, config).unwrap();
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

fn text(request: &Request) -> &str {
    std::str::from_utf8(&request.body).unwrap()
}

fn lines(request: &Request) -> Vec<String> {
    let line = |Header { name, value }: &Header| format!("{name}: {}", String::from_utf8_lossy(value));
    request.headers.iter().map(line).collect()
}

fn github() -> Value {
    json!({
        "mode": "structured",
        "source": {"pointer": "/repository/url"},
        "type": {"header": "x-github-event", "prefix": "com.github."},
        "id": {"header": "x-github-delivery"},
        "subject": {"pointer": "/n"},
        "extensions": {"region": "eu"}
    })
}

fn push(body: &str) -> Event {
    event(body).with_header("x-github-event", "push").with_header("x-github-delivery", "d-1")
}

const BODY: &str = r#"{"n": 12345678901234567890123, "repository": {"url": "https:\/\/github.com/o/r"}, "n2": 1.0}"#;

#[test]
fn a_json_body_stands_in_the_envelope_as_it_came() {
    let request = one(&push(BODY), &github());
    assert_eq!(
        text(&request),
        format!(
            r#"{{"specversion":"1.0","id":"d-1","source":"https://github.com/o/r","type":"com.github.push","subject":"12345678901234567890123","time":"2023-11-14T22:13:20.000Z","region":"eu","datacontenttype":"application/json","data":{BODY}}}"#
        )
    );
    assert_eq!(lines(&request)[0], "content-type: application/cloudevents+json; charset=utf-8");
}

#[test]
fn other_bodies_are_texts_or_base64() {
    let config = json!({"mode": "structured", "source": "/in", "type": "t"});
    let envelope = |event: &Event| serde_json::from_slice::<Value>(&one(event, &config).body).unwrap();
    let text = envelope(&of_type("text/plain; charset=utf-8", "é \"q\""));
    assert_eq!((&text["data"], &text["datacontenttype"]), (&json!("é \"q\""), &json!("text/plain; charset=utf-8")));
    assert_eq!(text["id"], "evt_00000000000000000000000000");
    let bytes = envelope(&of_type("application/octet-stream", [0, 255, 1]));
    assert_eq!((&bytes["data_base64"], bytes.get("data")), (&json!("AP8B"), None));
    assert_eq!(envelope(&of_type("text/plain", [255]))["data_base64"], "/w==");
    let empty = envelope(&of_type("application/json", ""));
    assert_eq!((empty.get("data"), empty.get("data_base64")), (None, None));
    let vendor = envelope(&of_type("application/vnd.github+json", "[1]"));
    assert_eq!(vendor["data"], json!([1]));
    assert_eq!(run(&event("{"), &config).unwrap_err().code, "not-json");
}

#[test]
fn binary_mode_leaves_the_body_and_encodes_what_headers_cannot_hold() {
    let config = json!({"mode": "binary", "source": "/in", "type": "t", "subject": "Euro € \"50%\""});
    let event = of_type("image/png", [0, 255]);
    let request = one(&event, &config);
    assert_eq!(request.body, [0, 255]);
    assert_eq!(
        lines(&request),
        [
            "content-type: image/png",
            "ce-specversion: 1.0",
            "ce-id: evt_00000000000000000000000000",
            "ce-source: /in",
            "ce-type: t",
            "ce-subject: Euro%20%E2%82%AC%20%2250%25%22",
            "ce-time: 2023-11-14T22:13:20.000Z",
        ]
    );
}

#[test]
fn what_goes_in_comes_out() {
    let out = json!({"mode": "unwrap"});
    for (content_type, body) in [
        ("application/json", BODY.as_bytes()),
        ("text/plain", "é \"\\".as_bytes()),
        ("application/octet-stream", &[0, 255, 1]),
        ("application/problem+json; v=1", b"[1.50, 1.50]"),
    ] {
        for mode in ["structured", "binary"] {
            let event = of_type(content_type, body);
            let wrapped = one(&event, &json!({"mode": mode, "source": "/in", "type": "t", "extensions": {"a1": "x"}}));
            let request = one(&Event { request: wrapped, ..event.clone() }, &out);
            assert_eq!(request.body, body, "{content_type} {mode}");
            assert_eq!(lines(&request), [format!("content-type: {content_type}")], "{mode}");
        }
    }
}

#[test]
fn attributes_may_stay_as_headers() {
    let body = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","n":7,"data":"a b","datacontenttype":"text/plain","subject":null,"x":"é"}"#;
    let request = one(&of_type("application/cloudevents+json", body), &json!({"mode": "unwrap", "attributes": "headers"}));
    assert_eq!(
        lines(&request),
        ["content-type: text/plain", "ce-id: 1", "ce-n: 7", "ce-source: /s", "ce-specversion: 1.0", "ce-type: t", "ce-x: %C3%A9"]
    );
    assert_eq!(text(&request), "a b");
    let binary = event("{}").with_header("ce-specversion", "1.0").with_header("ce-id", "1").with_header("ce-source", "s");
    let binary = binary.with_header("ce-type", "t");
    assert_eq!(lines(&one(&binary, &json!({"mode": "unwrap", "attributes": "headers"}))).len(), 5);
}

#[test]
fn a_batch_becomes_its_events() {
    let event = |id: u32| format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{{"n": {id}}}}}"#);
    let batch = |count: u32| format!("[{}]", (0..count).map(event).collect::<Vec<_>>().join(","));
    let unwrap = |body: String| run(&of_type("application/cloudevents-batch+json", body), &json!({"mode": "unwrap"}));
    let requests = unwrap(batch(3)).unwrap();
    assert_eq!(requests.iter().map(text).collect::<Vec<_>>(), [r#"{"n": 0}"#, r#"{"n": 1}"#, r#"{"n": 2}"#]);
    assert!(unwrap("[]".into()).unwrap().is_empty());
    assert_eq!(unwrap(batch(257)).unwrap_err().code, "too-many-items");
    assert_eq!(unwrap("{}".into()).unwrap_err().code, "not-a-cloudevent");
}

#[test]
fn what_is_no_cloudevent_is_refused_with_the_reason() {
    let good = r#""specversion":"1.0","id":"1","source":"/s","type":"t""#;
    let cases = [
        (r#"{"id":"1","source":"/s","type":"t"}"#.to_owned(), "no `specversion`"),
        (good.replace("1.0", "0.3"), "`specversion` is `0.3`"),
        (good.replace(r#""id":"1""#, r#""id":"""#), "no `id`"),
        (good.replace("source", "sauce"), "no `source`"),
        (format!("{good},\"x\":{{}}"), "attribute `x`"),
        (format!("{good},\"data\":1,\"data_base64\":\"\""), "both"),
        (format!("{good},\"data_base64\":\"!\""), "`data_base64`"),
        ("[]".into(), "invalid type"),
    ];
    for (body, why) in cases {
        let body = if body.starts_with(['{', '[']) { body } else { format!("{{{body}}}") };
        let failure = run(&of_type("application/cloudevents+json; charset=utf-8", &*body), &json!({"mode": "unwrap"})).unwrap_err();
        assert_eq!(failure.code, "not-a-cloudevent", "{body}");
        assert!(failure.message.contains(why), "{body}: {}", failure.message);
    }
    for event in [event("{}"), of_type("application/cloudevents+avro", ""), event("{}").with_header("ce-specversion", "1.0")] {
        assert_eq!(run(&event, &json!({"mode": "unwrap"})).unwrap_err().code, "not-a-cloudevent");
    }
}

#[test]
fn what_an_event_lacks_is_named() {
    for (body, missing) in
        [("{}", "`source`"), (r#"{"repository": {"url": "x"}}"#, "`subject`"), (r#"{"repository": {"url": {}}}"#, "`source`")]
    {
        let failure = run(&push(body), &github()).unwrap_err();
        assert_eq!(failure.code, "missing-value");
        assert!(failure.message.contains(missing), "{}", failure.message);
    }
    let failure = run(&event(BODY), &github()).unwrap_err();
    assert_eq!(failure.message, "attribute `id`: the event has no text or number at header `x-github-delivery`");
    let failure = run(&push(r#"{"repository": {"url": "a\nb"}, "n": 1}"#), &github()).unwrap_err();
    assert_eq!(failure.code, "bad-value");
}

#[test]
fn a_wrong_configuration_is_named() {
    let with = |name: &str, value: Value| {
        let mut config = json!({"mode": "structured", "source": "/in", "type": "t"});
        config[name] = value;
        config
    };
    for (config, field) in [
        (json!({}), "`mode`"),
        (with("mode", json!("wrap")), "`wrap`"),
        (json!({"mode": "binary", "type": "t"}), "`source`"),
        (with("type", json!("")), "`type`"),
        (with("source", json!(1)), "a text, or"),
        (with("sauce", json!("x")), "`sauce`"),
        (with("extensions", json!({"Region": "eu"})), "`extensions.Region`"),
        (with("extensions", json!({"time": "x"})), "`extensions.time`"),
        (json!({"mode": "unwrap", "source": "x"}), "`source`"),
    ] {
        let failure = run(&event("{}"), &config).unwrap_err();
        assert_eq!(failure.code, "bad-config");
        assert!(failure.message.contains(field), "{config}: {}", failure.message);
    }
}
