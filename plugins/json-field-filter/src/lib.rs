//! Keeps events whose JSON body has the expected values.
//!
//! ```json
//! {"rules": [{"pointer": "/action", "values": ["opened", "closed"]}, {"pointer": "/sender/id"}], "match": "all", "not_json": "fail"}
//! ```
//!
//! | field | meaning | default |
//! |---|---|---|
//! | `rules` | at least one | required |
//! | `rules[].pointer` | a JSON pointer (RFC 6901) | required |
//! | `rules[].values` | the rule holds if the value there equals one of these; without `values`, if there is any value | any |
//! | `match` | `all` rules must hold, or `any` | `all` |
//! | `not_json` | a body that is not JSON: `fail`, `drop` or `keep` | `fail` |
//!
//! Numbers are compared as numbers: `1` equals `1.0`. Where nothing is, no rule holds.

use plugin_common::Pointer;
use plugin_common::json::{Json, not_json};
use serde::Deserialize;
use serde_json::Value;
use tidegate_plugin::{Event, Failure, Filter, Host};

struct JsonFieldFilter;

impl Filter for JsonFieldFilter {
    fn keep(event: Event, host: &dyn Host) -> Result<bool, Failure> {
        let config: Config = plugin_common::config(host)?;
        if config.rules.is_empty() {
            return Err(plugin_common::wrong("rules", "it is empty; give at least one rule"));
        }
        let body = match (Json::read(&event.request.body), config.not_json) {
            (Ok(body), _) => body,
            (Err(failure), NotJson::Fail) => return Err(failure),
            (Err(_), NotJson::Drop) => return Ok(false),
            (Err(_), NotJson::Keep) => return Ok(true),
        };
        let decisive = match config.combine {
            Combine::All => false,
            Combine::Any => true,
        };
        for rule in &config.rules {
            if rule.holds(body)? == decisive {
                return Ok(decisive);
            }
        }
        Ok(!decisive)
    }
}

tidegate_plugin::export!(filter: JsonFieldFilter);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    rules: Vec<Rule>,
    #[serde(default, rename = "match")]
    combine: Combine,
    #[serde(default)]
    not_json: NotJson,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    pointer: Pointer,
    values: Option<Vec<Value>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Combine {
    #[default]
    All,
    Any,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NotJson {
    #[default]
    Fail,
    Drop,
    Keep,
}

impl Rule {
    fn holds(&self, body: Json) -> Result<bool, Failure> {
        let Some(found) = body.find(&self.pointer)? else { return Ok(false) };
        let Some(values) = &self.values else { return Ok(true) };
        let found: Value = serde_json::from_str(body.at(found)).map_err(|error| not_json(&error.to_string()))?;
        Ok(values.iter().any(|value| equal(&found, value)))
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    a == b || matches!((a, b), (Value::Number(a), Value::Number(b)) if a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidegate_plugin::testing::{FakeHost, event};

    use super::*;

    fn keep(body: &str, config: Value) -> Result<bool, String> {
        JsonFieldFilter::keep(event(body), &FakeHost::new().with_config(config)).map_err(|failure| failure.code)
    }

    #[test]
    fn rules_hold_as_documented() {
        let body = r#"{"action": "opened", "n": 1, "deep": [{"a/b": null}]}"#;
        let rule = |pointer: &str, values: Value| json!({"rules": [{"pointer": pointer, "values": values}]});
        let cases = [
            (rule("/action", json!(["closed", "opened"])), true),
            (rule("/action", json!(["closed"])), false),
            (rule("/action", json!([])), false),
            (rule("/missing", json!([null])), false),
            (rule("/n", json!([1.0])), true),
            (rule("/n", json!(["1"])), false),
            (rule("/deep/0/a~1b", json!([null])), true),
            (json!({"rules": [{"pointer": "/deep/0/a~1b"}]}), true),
            (json!({"rules": [{"pointer": "/missing"}]}), false),
            (json!({"rules": [{"pointer": "/n"}, {"pointer": "/missing"}]}), false),
            (json!({"rules": [{"pointer": "/n"}, {"pointer": "/missing"}], "match": "any"}), true),
        ];
        for (config, expected) in cases {
            assert_eq!(keep(body, config.clone()), Ok(expected), "{config}");
        }
    }

    #[test]
    fn what_a_body_that_is_not_json_means_is_configured() {
        let config = |not_json: &str| json!({"rules": [{"pointer": ""}], "not_json": not_json});
        assert_eq!(keep("{", config("fail")), Err("not-json".into()));
        assert_eq!(keep("{", config("drop")), Ok(false));
        assert_eq!(keep("{", config("keep")), Ok(true));
    }

    #[test]
    fn a_wrong_configuration_is_named() {
        for config in
            [json!({}), json!({"rules": []}), json!({"rules": [{"pointer": "a"}]}), json!({"rules": [{"pointer": "", "value": 1}]})]
        {
            assert_eq!(keep("{}", config.clone()), Err("bad-config".into()), "{config}");
        }
    }
}
