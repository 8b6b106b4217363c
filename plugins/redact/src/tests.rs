use serde_json::{Value, json};
use tidegate_plugin::Request;
use tidegate_plugin::testing::{FakeHost, event, sent};

use super::*;

fn host(config: &Value) -> FakeHost {
    // Not an HMAC: what a test needs to see is what was signed, and with what.
    let sign = |_, key: &[u8], message: &[u8]| [key, b":", message].concat();
    FakeHost::new().with_config(config).with_secret("redact", "k").with_signer(sign)
}

fn run(event: &Event, config: &Value) -> Result<Request, Failure> {
    let mut outputs = Redact::run(event.clone(), &host(config))?;
    assert_eq!(outputs.len(), 1);
    Ok(sent(event, outputs.remove(0)))
}

fn body(body: &str, config: Value) -> Result<String, String> {
    let request = run(&event(body), &config).map_err(|failure| failure.code)?;
    Ok(String::from_utf8(request.body).unwrap())
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn fields_are_replaced_hashed_or_removed_and_the_rest_stays_as_it_is() {
    let text = r#"{ "id" : 12345678901234567890123, "user": {"name": "Ada", "age": 1.0e1, "mail": "a\u0040b.c"}, "n": [1,2] }"#;
    let with = |field: Value| body(text, json!({"fields": [field]})).unwrap();
    assert_eq!(with(json!({"pointer": "/user/name"})), text.replace("\"Ada\"", "\"[redacted]\""));
    assert_eq!(with(json!({"pointer": "/user/name", "with": "\"x\""})), text.replace("\"Ada\"", r#""\"x\"""#));
    assert_eq!(with(json!({"pointer": "/user"})), r#"{ "id" : 12345678901234567890123, "user": "[redacted]", "n": [1,2] }"#);
    assert_eq!(
        with(json!({"pointer": "/user/mail", "action": "hash"})),
        text.replace(r#""a\u0040b.c""#, &format!("\"{}\"", hex("k:a@b.c")))
    );
    assert_eq!(with(json!({"pointer": "/user/age", "action": "hash"})), text.replace("1.0e1", &format!("\"{}\"", hex("k:1.0e1"))));
    assert_eq!(with(json!({"pointer": "/id", "action": "remove"})), text.replace(r#""id" : 12345678901234567890123, "#, ""));
    assert_eq!(with(json!({"pointer": "/n", "action": "remove"})), text.replace(r#", "n": [1,2]"#, ""));
    assert_eq!(with(json!({"pointer": "/n/*"})), text.replace("[1,2]", r#"["[redacted]","[redacted]"]"#));
    assert_eq!(with(json!({"pointer": "/n/1"})), text.replace("[1,2]", r#"[1,"[redacted]"]"#));
    assert_eq!(with(json!({"key": "NAME"})), text.replace("\"Ada\"", "\"[redacted]\""));
    assert_eq!(with(json!({"pointer": "/nothing"})), text);
}

#[test]
fn whatever_is_removed_the_rest_is_json() {
    let text = r#"{"a": 1 , "b" :2,"c":[ 3, {"d": 4, "a": 5} ,6 ], "d": {"a": 1}}"#;
    let keys = ["a", "b", "c", "d"];
    for chosen in 0..16 {
        let fields: Vec<Value> =
            (0..4).filter(|bit| chosen >> bit & 1 == 1).map(|bit| json!({"key": keys[bit], "action": "remove"})).collect();
        let rest = body(text, json!({"fields": fields, "patterns": [{"find": "email"}]})).unwrap();
        let mut expected: Value = serde_json::from_str(text).unwrap();
        remove(&mut expected, &fields);
        assert_eq!(serde_json::from_str::<Value>(&rest).unwrap_or_else(|error| panic!("{error}: {rest}")), expected, "{rest}");
    }
    for (index, expected) in [("0", "[ 2 ,3]"), ("1", "[ 1 ,3]"), ("2", "[ 1, 2 ]"), ("*", "[ ]")] {
        let fields = json!({"fields": [{"pointer": format!("/{index}"), "action": "remove"}]});
        let rest = body("[ 1, 2 ,3]", fields).unwrap();
        let values = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(values(&rest), values(expected), "{rest}");
    }
}

fn remove(value: &mut Value, fields: &[Value]) {
    match value {
        Value::Object(members) => {
            members.retain(|name, _| !fields.iter().any(|field| field["key"] == *name));
            members.values_mut().for_each(|value| remove(value, fields));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| remove(value, fields)),
        _ => {}
    }
}

#[test]
fn nothing_hides_behind_escapes_repeated_keys_keys_or_numbers() {
    let text = r#"{"em\u0061il": "a", "email": "b", "email": "c", "x\u0040y.z": 4111111111111111, "deep": [[["p\u0040q.r"]]]}"#;
    let config =
        json!({"fields": [{"pointer": "/email"}], "patterns": [{"find": "email", "with": "E"}, {"find": "card", "with": "C"}]});
    assert_eq!(
        body(text, config).unwrap(),
        r#"{"em\u0061il": "[redacted]", "email": "[redacted]", "email": "[redacted]", "E": "C", "deep": [[["E"]]]}"#
    );
}

/// A text as it is, and the same with something escaped in it: what is not found in one of them would go on.
#[test]
fn what_is_found_depends_on_no_escape_and_on_nothing_around_it() {
    let finds = ["email", "phone", "card", "iban"].map(|find| json!({"find": find, "with": "X"}));
    let found = [
        ("ada@example.com", "X"),
        ("mail ada@example.com.", "mail X."),
        ("+4930901820", "X"),
        ("4111111111111111", "X"),
        ("4111 1111 1111 1111", "X"),
        ("DE89 3704 0044 0532 0130 00", "X"),
        ("DE89370400440532013000", "X"),
    ];
    for (text, expected) in found {
        for (before, after) in [("", ""), (r"\n", ""), ("", r"\t"), (r"\u00e9 ", r"\/")] {
            let string = format!("\"{before}{text}{after}\"");
            let whole: String = serde_json::from_str(&string).unwrap();
            let redacted = serde_json::to_string(&whole.replace(text, expected)).unwrap();
            for (around, again) in [("1,", ",2"), ("\"a\",", ",\"b\""), ("{\"k\":1},", ",[4]"), ("\"\\n\",", ",\"@+\"")] {
                let (json, wanted) = (format!("[{around}{string}{again}]"), format!("[{around}{redacted}{again}]"));
                assert_eq!(body(&json, json!({ "patterns": finds })).unwrap(), wanted, "{json}");
                let (json, wanted) = (format!("{{{string}:1,\"a\":[{around}2]}}"), format!("{{{redacted}:1,\"a\":[{around}2]}}"));
                assert_eq!(body(&json, json!({ "patterns": finds })).unwrap(), wanted, "{json}");
            }
        }
    }
    let number = body("[4111111111111111,-4111111111111111 , 4111111111111112]", json!({"patterns": finds})).unwrap();
    assert_eq!(number, "[\"X\",\"-X\" , 4111111111111112]");
    let none = r#"[1, "a@b", "+123", {"x": "0123456789012345", "DE": 89}, "", 12.5e-3]"#;
    assert_eq!(body(none, json!({"patterns": finds})).unwrap(), none);
    let deep = "[".repeat(129) + &"]".repeat(129);
    assert_eq!(body(&deep, json!({"patterns": finds})), Err("not-json".into()));
    assert_eq!(body(&deep, json!({"fields": [{"pointer": "/0/1"}]})), Err("not-json".into()));
    let allowed = &deep[1..257];
    assert_eq!(body(allowed, json!({"fields": [{"pointer": "/0/1"}]})).as_deref(), Ok(allowed));
    let anchored = json!({"patterns": [{"regex": "^a+$", "with": "X"}]});
    assert_eq!(body(r#"["aa", "ba", "\u0061"]"#, anchored).unwrap(), r#"["X", "ba", "X"]"#);
}

#[test]
fn patterns_are_found_wherever_they_stand() {
    let text =
        r#"{"note": "Ada (ada@example.com, +49 30 901820) pays 4111 1111 1111 1111 from DE89 3704 0044 0532 0130 00; EMP-123456"}"#;
    let config = json!({"patterns": [
        {"find": "email", "action": "hash"}, {"find": "phone", "action": "remove"}, {"find": "card", "with": "[card]"},
        {"find": "iban"}, {"regex": r"\bEMP-[0-9]{6}\b", "with": "[employee]"}
    ]});
    assert_eq!(
        body(text, config).unwrap(),
        format!(r#"{{"note": "Ada ({}, ) pays [card] from [redacted]; [employee]"}}"#, hex("k:ada@example.com"))
    );
}

#[test]
fn the_first_match_goes_first_and_what_was_put_in_is_not_looked_through() {
    let config = json!({"body": "text", "patterns": [{"regex": "b+", "with": "aa"}, {"regex": "a+", "with": "b"}, {"regex": r"\b", "with": "!"}]});
    assert_eq!(body("abba é", config).unwrap(), "baab é");
}

#[test]
fn a_text_is_looked_through_as_a_whole() {
    let config = json!({"body": "text", "patterns": [{"find": "email"}]});
    assert_eq!(body("to: ada@example.com\n", config.clone()).unwrap(), "to: [redacted]\n");
    assert_eq!(run(&event(b"ada@example.com \xff".as_slice()), &config).unwrap_err().code, "not-text");
}

#[test]
fn what_cannot_be_read_never_goes_on() {
    let config = json!({"fields": [{"key": "a"}], "patterns": [{"find": "email"}]});
    let deep = "[".repeat(129) + &"]".repeat(129);
    for text in ["", "{", "{\"a\":1}}", "a=b", "\"\\ud800\"", "{\"\\udc00\":1}", &deep, "\u{feff}{}"] {
        assert_eq!(body(text, config.clone()), Err("not-json".into()), "{text}");
    }
    assert_eq!(run(&event(b"\"\xff\"".as_slice()), &config).unwrap_err().code, "not-json");
    let required = json!({"fields": [{"pointer": "/a/b", "required": true}]});
    assert_eq!(body(r#"{"a": {"c": 1}}"#, required.clone()), Err("missing-field".into()));
    assert_eq!(body(r#"{"a": {"b": 1}}"#, required), Ok(r#"{"a": {"b": "[redacted]"}}"#.into()));
}

#[test]
fn headers_and_query_are_redacted_too() {
    let mut event = event("{}").with_header("x-user", "Ada <ada@example.com>").with_header("from", "ada@example.com");
    event = event.with_header("x-raw", b"\xff").with_header("x-user", "2");
    event.request.query = Some("email=ada%40example.com".into());
    let lines = |request: Request| -> Vec<String> {
        request.headers.iter().map(|header| format!("{}: {}", header.name, String::from_utf8_lossy(&header.value))).collect()
    };
    let request = run(&event, &json!({"patterns": [{"find": "email"}], "headers": ["From"]})).unwrap();
    assert_eq!(request.query, None);
    assert_eq!(lines(request), ["content-type: application/json", "x-user: Ada <[redacted]>", "x-user: 2"]);
    let request = run(&event, &json!({"fields": [{"key": "a"}], "query": "keep"})).unwrap();
    assert_eq!(request.query.as_deref(), Some("email=ada%40example.com"));
    assert_eq!(request.headers.len(), 5);
    assert_eq!(request.headers[3].value, b"\xff");
}

#[test]
fn a_hash_needs_its_secret() {
    let config = json!({"fields": [{"key": "a", "action": "hash"}], "secret": "pepper"});
    let failure = run(&event(r#"{"a": 1}"#), &config).unwrap_err();
    assert_eq!(failure.code, "bad-config");
    assert!(failure.message.contains("`secret`") && failure.message.contains("`pepper`"), "{}", failure.message);
}

#[test]
fn a_wrong_configuration_is_named() {
    for (config, field) in [
        (json!({}), "`patterns`"),
        (json!({"fields": [{"pointer": ""}]}), "`fields[0].pointer`"),
        (json!({"fields": [{"pointer": "a"}]}), "`fields[0].pointer`"),
        (json!({"fields": [{"key": "a"}, {}]}), "`fields[1]`"),
        (json!({"fields": [{"key": "a", "pointer": "/a"}]}), "`fields[0]`"),
        (json!({"fields": [{"key": "a", "action": "hash", "with": "x"}]}), "`fields[0].with`"),
        (json!({"fields": [{"key": "a", "action": "hide"}]}), "`fields[0].action`"),
        (json!({"patterns": [{"find": "name"}]}), "`patterns[0].find`"),
        (json!({"patterns": [{"regex": "("}]}), "`patterns[0].regex`"),
        (json!({"patterns": [{"regex": "a*"}]}), "`patterns[0].regex`"),
        (json!({"patterns": [{}]}), "`patterns[0]`"),
        (json!({"body": "text", "fields": [{"key": "a"}]}), "`fields`"),
        (json!({"pattern": []}), "`pattern`"),
    ] {
        let failure = run(&event("{}"), &config).unwrap_err();
        assert_eq!(failure.code, "bad-config");
        assert!(failure.message.contains(field), "{config}: {}", failure.message);
    }
}
