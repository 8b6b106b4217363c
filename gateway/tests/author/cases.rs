//! What `tidegate plugin test` says of cases: those that hold, those that do not, those that cannot be read.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::guest;
use crate::project::{Project, below_target, root, said, tidegate};

/// A directory with a component and one file of cases.
struct Bench(PathBuf);

impl Bench {
    fn new(name: &str, component: &[u8], cases: &Value) -> Self {
        let directory = below_target("cases").join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory).unwrap();
        }
        fs::create_dir_all(directory.join("cases")).unwrap();
        fs::write(directory.join("plugin.wasm"), component).unwrap();
        let bench = Self(directory);
        bench.write(&cases.to_string());
        bench
    }

    fn write(&self, cases: &str) {
        fs::write(self.0.join("cases/cases.json"), cases).unwrap();
    }

    /// Whether it passes, and what it says.
    fn test(&self, more: &[&str]) -> (bool, String) {
        let output = tidegate(&self.0, &[&["test", "plugin.wasm"], more].concat());
        (output.status.success(), said(&output))
    }

    fn passes(&self, more: &[&str]) -> String {
        let (passed, said) = self.test(more);
        assert!(passed, "{said}");
        said
    }

    fn fails(&self, more: &[&str]) -> String {
        let (passed, said) = self.test(more);
        assert!(!passed, "{said}");
        said
    }
}

fn json_field_filter() -> Vec<u8> {
    fs::read(root().join("plugins/prebuilt/json-field-filter.wasm")).unwrap()
}

#[test]
fn bytes_can_be_written_in_every_way() {
    let bodies = [
        json!(r#"{"a":[1,1]}"#),
        json!({"json": {"a": [1, 1]}}),
        json!({"hex": hex::encode(r#"{"a":[1,1]}"#)}),
        json!({"base64": "eyJhIjpbMSwxXX0="}),
        json!({"file": "body.json"}),
    ];
    let config = json!({"rules": [{"pointer": "/a/1", "values": [1]}]});
    let case = |(index, body)| json!({"name": format!("body {index}"), "event": {"body": body}, "config": config, "expect": {"kept": true}});
    let mut cases: Vec<_> = bodies.into_iter().enumerate().map(case).collect();
    cases.push(json!({
        "name": "a body that is repeated", "event": {"body": {"repeat": {"hex": "31"}, "times": 5}},
        "config": {"rules": [{"pointer": "", "values": [11111]}]}, "expect": {"kept": true}
    }));
    let bench = Bench::new("bytes", &json_field_filter(), &cases.into());
    fs::write(bench.0.join("cases/body.json"), "{").unwrap();
    assert!(bench.fails(&[]).contains("body.json"), "what ends with .json is a file of cases");
    fs::create_dir(bench.0.join("cases/bodies")).unwrap();
    fs::remove_file(bench.0.join("cases/body.json")).unwrap();
    fs::write(bench.0.join("cases/bodies/a"), r#"{"a":[1,1]}"#).unwrap();
    bench.write(&fs::read_to_string(bench.0.join("cases/cases.json")).unwrap().replace("body.json", "bodies/a"));
    assert!(bench.passes(&[]).contains("6 passed, 0 failed"));
}

#[test]
fn a_trap_says_where_it_was_and_can_be_expected() {
    let deep = "(func $innermost unreachable) (func $_ZN5shape6middle17h0123456789abcdefE (call $innermost))";
    let component = guest::filter(deep, "(call $_ZN5shape6middle17h0123456789abcdefE) (i32.const 8)");
    let bench = Bench::new("trap", &component, &json!({"name": "it keeps", "expect": {"kept": true}}));
    let said = bench.fails(&[]);
    assert!(said.contains("    expect\n      expected  kept: true\n      got       stopped: aborted: it aborted"), "{said}");
    let frames: Vec<_> = said.lines().filter_map(|line| line.trim().strip_prefix("at ")).collect();
    let names: Vec<_> = frames.iter().map(|frame| frame.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["innermost", "shape::middle", "main"], "{said}");
    bench.write(r#"{"name": "it aborts", "expect": {"stopped": "aborted"}}"#);
    assert!(bench.passes(&[]).contains("1 passed, 0 failed"));
    bench.write(r#"{"name": "it is no transform", "ask": "transform", "expect": {"error": "not_offered"}}"#);
    assert!(bench.passes(&[]).contains("1 passed, 0 failed"));
}

#[test]
fn a_case_may_have_less_than_a_gateway_gives() {
    let component = guest::filter("(func $spin (loop (br 0)))", "(call $spin) (i32.const 8)");
    let case = json!({"name": "it never ends", "limits": {"fuel": 50_000}, "expect": {"stopped": "fuel_exhausted"}});
    let bench = Bench::new("limits", &component, &case);
    let tested: Value = serde_json::from_str(&bench.passes(&["--json"])).unwrap();
    assert_eq!(tested["cases"][0]["fuel"], 50_000, "{tested}");
    assert_eq!(tested["cases"][0]["backtrace"][0]["function"], "spin", "{tested}");
}

#[test]
fn a_profile_tells_where_the_fuel_goes() {
    let spin = |name: &str, turns: u32| {
        format!(
            "(func ${name} (local $i i32) (local.set $i (i32.const {turns}))
                (loop (local.set $i (i32.sub (local.get $i) (i32.const 1))) (br_if 0 (local.get $i))))"
        )
    };
    let both = "(func $both (call $long) (call $short))";
    let keep = "(call $both) (i32.store8 (i32.const 8) (i32.const 0)) (i32.store8 (i32.const 12) (i32.const 1)) (i32.const 8)";
    let component = guest::filter(&format!("{}{}{both}", spin("long", 30_000), spin("short", 10_000)), keep);
    let bench = Bench::new("profile", &component, &json!({"name": "it keeps", "expect": {"kept": true}}));
    let tested: Value = serde_json::from_str(&bench.passes(&["--profile", "--samples", "200", "--json"])).unwrap();
    let profile = &tested["cases"][0]["profile"];
    let share = |function: &str, share: &str| {
        let found = profile["functions"].as_array().unwrap().iter().find(|row| row["function"] == function);
        found.unwrap_or_else(|| panic!("{function}: {profile}"))[share].as_f64().unwrap()
    };
    assert!((share("long", "self") - 75.0).abs() < 2.0 && (share("short", "self") - 25.0).abs() < 2.0, "{profile}");
    assert!(share("both", "self") < 1.0 && share("both", "total") > 98.0 && share("main", "total") > 98.0, "{profile}");
    let again: Value = serde_json::from_str(&bench.passes(&["--profile", "--samples", "200", "--json"])).unwrap();
    assert_eq!(again["cases"][0]["profile"], *profile, "the same each time");
}

#[test]
fn a_wrong_expectation_is_shown_beside_what_there_is() {
    let project = Project::new("rust", "expects", &[]);
    project.change("cases/transform.json", "new issue: it leaks", "new issue: it holds");
    let said = project.fails(&["test", "--update"]);
    let shown = "    outputs[0].body.text\n      expected  \"new issue: it holds\"\n      got       \"new issue: it leaks\"\n";
    assert!(said.contains("a new issue becomes a message\n") && said.contains(shown), "{said}");
    assert!(said.contains("2 passed, 1 failed") && said.contains("1 of 3 cases failed; ./fuel.lock stays as it was"), "{said}");
    assert!(!project.file("fuel.lock").exists());

    let event = json!({"query": "a=b", "headers": [["x-a", "1"], ["x-a", "2"]], "body": {"json": {"action": "opened", "issue": {"title": "it leaks"}}}});
    let wrong = json!([
        {"name": "whole", "event": event, "expect": {"outputs": [{"method": "PUT", "path": "/x", "headers": [["x-a", "1"]], "body": "text"}]}},
        {"name": "like", "event": event, "logs": ["info: nothing"], "logs_like": ["nothing"], "max_fuel": 1, "expect": {"outputs_like": [
            {"query": null, "headers": [["content-type", null]], "body": {"json_like": {"text": "x", "more": [1]}}}
        ]}},
        {"name": "number", "event": event, "expect": {"outputs": []}},
        {"name": "other", "event": event, "expect": {"failure": {"code": "no", "retry": "later"}}},
        {"name": "contains", "event": event, "expect": {"outputs_like": [{"body": {"contains": "it holds"}}]}},
        {"name": "right", "event": event, "logs": [], "expect": {"outputs_like": [
            {"method": "POST", "path": "/in", "query": "a=b", "headers": [["content-type", "application/json"], ["x-a", null]], "body": {"contains": "it leaks"}}
        ]}}
    ]);
    fs::write(project.file("cases/transform.json"), wrong.to_string()).unwrap();
    let output = tidegate(&project.directory, &["test", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let tested: Value = serde_json::from_slice(&output.stdout).unwrap();
    let differences = |case: usize| -> Vec<_> {
        let found = tested["cases"][case]["differences"].as_array().unwrap();
        found
            .iter()
            .map(|one| ["place", "expected", "got"].map(|part| one[part].as_str().unwrap().to_owned()).join(" | "))
            .collect()
    };
    let body = r#""{\"text\":\"new issue: it leaks\"}""#;
    assert_eq!(
        differences(0),
        [
            "outputs[0].method | \"PUT\" | \"POST\"".to_owned(),
            "outputs[0].path | \"/x\" | \"/in\"".into(),
            "outputs[0].query | none | \"a=b\"".into(),
            "outputs[0].headers | x-a: \"1\" | content-type: \"application/json\"".into(),
            format!("outputs[0].body | \"text\" | {body}"),
        ]
    );
    let fuel = tested["cases"][1]["fuel"].to_string();
    assert_eq!(
        differences(1),
        [
            "outputs[0].query | none | \"a=b\"".to_owned(),
            "outputs[0].headers.content-type | none | content-type: \"application/json\"".into(),
            "outputs[0].body.more | [1] | nothing".into(),
            "outputs[0].body.text | \"x\" | \"new issue: it leaks\"".into(),
            "logs | [\"info: nothing\"] | []".into(),
            "logs_like | a line with \"nothing\" | []".into(),
            format!("max_fuel | at most 1 | {fuel}"),
        ]
    );
    assert_eq!(differences(2), [format!("outputs | 0 of them | 1 outputs, the first with the body {body}")]);
    assert_eq!(differences(3), [format!("expect | failure: no | 1 outputs, the first with the body {body}")]);
    assert_eq!(differences(4), [format!("outputs[0].body | a text with \"it holds\" in it | {body}")]);
    assert!(differences(5).is_empty(), "{:?}", differences(5));
}

#[test]
fn a_wrong_expectation_of_a_sources_or_a_destinations_plugin_is_shown_too() {
    let project = Project::new("rust", "judges", &["--kind", "scheme"]);
    let secrets = json!({"acme": {"value": "k"}});
    let wrong = json!([
        {"name": "accepted", "ask": "verify", "expect": {"accepted": true}},
        {"name": "rejected", "ask": "verify", "expect": {"rejected": "no"}},
        {"name": "answer", "ask": "respond", "arrival": {"path": "/handshake", "body": {"json": {"challenge": "abc"}}},
            "expect": {"answer": {"status": 201, "body": "abd"}}},
        {"name": "answer like", "ask": "respond", "arrival": {"path": "/handshake", "body": {"json": {"challenge": "abc"}}},
            "expect": {"answer_like": {"headers": [["content-type", null]], "body": {"contains": "x"}}}},
        {"name": "no answer", "ask": "respond", "expect": {"answer": {}}},
        {"name": "signed", "ask": "sign", "secrets": secrets, "expect": {"signed": []}},
        {"name": "signed like", "ask": "sign", "secrets": secrets, "expect": {"signed_like": [["x-acme-signature", null]]}},
        {"name": "judged", "ask": "judge", "expect": {"judged": {"retry_after_ms": 5}}},
        {"name": "table", "ask": "filter", "event": {"body": {"json": {"order": 7}}}, "expect": {"kept": true},
            "table_after": {"orders": "2", "order/7": {"value": {"contains": "evt_"}, "ttl": 60}, "more": ""}},
        {"name": "more in the table", "ask": "filter", "event": {"body": {"json": {"order": 7}}}, "expect": {"kept": true},
            "table_after": {"orders": "1"}}
    ]);
    fs::write(project.file("cases/own-scheme.json"), wrong.to_string()).unwrap();
    let output = tidegate(&project.directory, &["test", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let tested: Value = serde_json::from_slice(&output.stdout).unwrap();
    let differences: Vec<Vec<String>> = tested["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|case| {
            let found = case["differences"].as_array().unwrap().iter();
            found.map(|one| ["place", "expected", "got"].map(|part| one[part].as_str().unwrap()).join(" | ")).collect()
        })
        .collect();
    let header = "x-acme-signature: \"t=1700000000,v1=";
    let expected: [&[&str]; 10] = [
        &["accepted | true | rejected: \"there is no signature\""],
        &["rejected | \"no\" | \"there is no signature\""],
        &[
            "answer.status | 201 | 200",
            "answer.headers | none | content-type: \"text/plain; charset=utf-8\"",
            "answer.body | \"abd\" | \"abc\"",
        ],
        &[
            "answer.headers.content-type | none | content-type: \"text/plain; charset=utf-8\"",
            "answer.body | a text with \"x\" in it | \"abc\"",
        ],
        &["expect | answer: 200 | answer: none"],
        &["signed | none | "],
        &["signed.x-acme-signature | none | "],
        &["expect | judged: retry_after_ms 5 | judged: delivered"],
        &[
            "table_after[\"more\"] | an entry | none",
            "table_after[\"order/7\"].ttl | 60 s | 86400 s",
            "table_after[\"orders\"] | \"2\" | \"1\"",
        ],
        &["table_after[\"order/7\"] | none | \"evt_00000000000000000000000007\""],
    ];
    for (expected, got) in expected.iter().zip(&differences) {
        if let [one] = expected
            && one.ends_with("| ")
        {
            assert!(got.len() == 1 && got[0].starts_with(&format!("{one}{header}")), "{got:?}");
        } else {
            assert_eq!(expected, got);
        }
    }
    assert_eq!(differences.len(), expected.len());
    assert!(project.fails(&["test", "--only", "table"]).contains("    table: increment orders by 1: 1\n"));
}

#[test]
fn the_budget_asks_for_every_case() {
    let config = json!({"rules": [{"pointer": "/a"}]});
    let one = json!({"name": "one", "event": {"body": "{}"}, "config": config, "expect": {"kept": false}});
    let two = json!({"name": "two", "event": {"body": "{\"a\":1}"}, "config": config, "expect": {"kept": true}});
    let bench = Bench::new("budget", &json_field_filter(), &json!([one]));
    bench.passes(&["--update"]);
    bench.write(&json!([one, two]).to_string());
    let said = bench.fails(&[]);
    assert!(said.contains("a budget for this case: write one with `--update`"), "{said}");
    bench.passes(&["--update"]);
    bench.write(&json!([two]).to_string());
    assert!(bench.passes(&[]).contains("note: there is no case `one` any more"));

    let lock = bench.0.join("fuel.lock");
    let kept = fs::read_to_string(&lock).unwrap();
    let tight: String =
        kept.lines().map(|line| if line.starts_with("two") { "two = 10\n".into() } else { format!("{line}\n") }).collect();
    fs::write(&lock, tight.replace("5 %", "10 %")).unwrap();
    let said = bench.fails(&[]);
    assert!(said.contains("fuel.lock\n      expected  at most 11 (10 before)"), "{said}");
    fs::write(&lock, kept.replace("5 %", "some")).unwrap();
    assert!(bench.fails(&[]).contains("`max_growth` is `some`"));
}

#[test]
fn what_cannot_be_read_is_named_with_its_field() {
    let bench = Bench::new("unreadable", &json_field_filter(), &json!([]));
    let case = |more: &str| format!(r#"[{{"name": "a", {more}}}]"#);
    for (cases, expected) in [
        (case(r#""expect": {"kept": 1}"#), "`[0].expect.kept`"),
        (case(r#""expect": {"keeps": true}"#), "unknown variant `keeps`"),
        (case(r#""expects": {"kept": true}"#), "unknown field `expects`"),
        (
            case(r#""event": {"body": {"hexa": "00"}}, "expect": {"kept": true}"#),
            "`[0].event.body`: expected a text, or an object with `hex`",
        ),
        (case(r#""event": {"body": {"hex": "0g"}}, "expect": {"kept": true}"#), "case `a`: `hex`: 0g"),
        (case(r#""event": {"body": {"file": "none"}}, "expect": {"kept": true}"#), "case `a`: `file`: ./cases/none: No such file"),
        (case(r#""limits": {"fuels": 1}, "expect": {"kept": true}"#), "`[0].limits.fuels`"),
        (
            case(r#""event": {"body": {"repeat": "xx", "times": 1000000000}}, "expect": {"kept": true}"#),
            "`times`: that makes 2000000000 bytes",
        ),
        (
            case(r#""ask": "verify", "event": {}, "expect": {"accepted": true}"#),
            "case `a`: `event`: verify is asked about: arrival",
        ),
        (case(r#""arrival": {}, "expect": {"kept": true}"#), "case `a`: `arrival`: filter is asked about: event"),
        (case(r#""ask": "judge", "expect": {"kept": true}"#), "`expect.kept`: judge gives no such answer, filter does"),
        (case(r#""ask": "sign", "table": {}, "expect": {"signed": []}"#), "`table`: sign has no table"),
        (case(r#""table": {"a\nb": ""}, "expect": {"kept": true}"#), "`table`: \"a\\nb\": a key must be 1 to 256 bytes"),
        (
            case(r#""table": {"a": 1}, "expect": {"kept": true}"#),
            "`[0].table.a`: expected data, or an object with `value` and `ttl`",
        ),
        (case(r#""ask": "judge", "expect": {"judged": "done"}"#), "unknown variant `done`"),
        (case(r#""ask": "sign", "attempt": {"delivery_id": "1"}, "expect": {"signed": []}"#), "`[0].attempt.delivery_id`"),
        ("[".into(), "EOF"),
        ("[]".into(), "has no cases"),
        (
            r#"[{"name": "a", "expect": {"kept": true}}, {"name": "a", "expect": {"kept": true}}]"#.into(),
            "there is another case `a`",
        ),
    ] {
        bench.write(&cases);
        let said = bench.fails(&[]);
        assert!(said.contains(expected), "{cases}\n{said}");
    }
    let nowhere = tidegate(Path::new("/"), &["test", bench.0.join("plugin.wasm").to_str().unwrap(), "--cases", "none"]);
    assert!(said(&nowhere).contains("the cases in none: No such file"), "{}", said(&nowhere));
}
