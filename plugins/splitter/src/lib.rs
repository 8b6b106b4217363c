//! Makes one request of each item of an array. The [README](../README.md) has the configuration.

use plugin_common::json::{Json, Kind, Span};
use plugin_common::{Pointer, config, wrong};
use serde::Deserialize;
use tidegate_plugin::{Event, Failure, Host, Output, Transform};

/// What a gateway takes of one call unless it is told otherwise.
const MOST: usize = 256;

struct Splitter;

impl Transform for Splitter {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        let config: Config = config(host)?;
        if !(1..=MOST).contains(&config.max_items) {
            return Err(wrong("max_items", format_args!("it must be from 1 to {MOST}, and is {}", config.max_items)));
        }
        let json = Json::read(&event.request.body)?;
        let array = json.find(&config.pointer)?;
        let Some(items) = array.map(|array| items(json, array, config.max_items)).transpose()?.flatten() else {
            return match config.not_array {
                NotArray::Fail => {
                    Err(Failure::never("not-an-array", format!("the body has no array at `{}`", config.pointer.as_str())))
                }
                NotArray::Keep => Ok(vec![Output::new()]),
                NotArray::Drop => Ok(vec![]),
            };
        };
        let around = match (config.send, array) {
            (Send::Body, Some(array)) => (&json.text()[..array.start], &json.text()[array.end..]),
            _ => ("", ""),
        };
        Ok(items.into_iter().map(|item| output([around.0, json.at(item), around.1].concat())).collect())
    }
}

tidegate_plugin::export!(transform: Splitter);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    pointer: Pointer,
    #[serde(default = "most")]
    max_items: usize,
    #[serde(default)]
    send: Send,
    #[serde(default)]
    not_array: NotArray,
}

fn most() -> usize {
    MOST
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Send {
    #[default]
    Item,
    Body,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NotArray {
    #[default]
    Fail,
    Keep,
    Drop,
}

/// Where the items stand; none if it is no array.
fn items(json: Json, array: Span, max: usize) -> Result<Option<Vec<Span>>, Failure> {
    let mut cursor = json.cursor_at(array);
    if cursor.kind() != Kind::Array {
        return Ok(None);
    }
    let (mut inside, mut items) = (cursor.enter(), Vec::new());
    while inside.item(&mut cursor) {
        if items.len() == max {
            return Err(Failure::never(
                "too-many-items",
                format!("the array has more than {max} items, which is what `max_items` allows"),
            ));
        }
        items.push(cursor.skip()?);
    }
    Ok(Some(items))
}

fn output(body: String) -> Output {
    Output::new().header("content-type", "application/json").body(body)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidegate_plugin::testing::{FakeHost, event};

    use super::*;

    fn split(body: &str, config: Value) -> Result<Vec<String>, String> {
        let outputs = Splitter::run(event(body), &FakeHost::new().with_config(config)).map_err(|failure| failure.code)?;
        let body = |output: Output| output.body.map_or_else(|| "kept".into(), |body| String::from_utf8(body).unwrap());
        Ok(outputs.into_iter().map(body).collect())
    }

    #[test]
    fn each_item_goes_out_as_it_stands() {
        let body = r#"{"id": 1, "list" : [ 1.50 , {"a": "é, ]", "a": 2}, "x" ], "z": []}"#;
        let items = split(body, json!({"pointer": "/list"})).unwrap();
        assert_eq!(items, ["1.50", r#"{"a": "é, ]", "a": 2}"#, r#""x""#]);
        let bodies = split(body, json!({"pointer": "/list", "send": "body"})).unwrap();
        assert_eq!(bodies[0], r#"{"id": 1, "list" : 1.50, "z": []}"#);
        assert_eq!(bodies.len(), 3);
        assert_eq!(split("[1,2]", json!({"pointer": ""})).unwrap(), ["1", "2"]);
        assert_eq!(split(body, json!({"pointer": "/z"})).unwrap(), [""; 0]);
    }

    #[test]
    fn what_has_no_array_there_is_configured() {
        for body in [r#"{"list": 1}"#, "{}", "[]"] {
            let with = |not_array: &str| split(body, json!({"pointer": "/list", "not_array": not_array}));
            assert_eq!(with("fail"), Err("not-an-array".into()));
            assert_eq!(with("keep"), Ok(vec!["kept".into()]));
            assert_eq!(with("drop"), Ok(vec![]));
        }
        assert_eq!(split("{", json!({"pointer": "", "not_array": "keep"})), Err("not-json".into()), "it is no JSON at all");
    }

    #[test]
    fn the_number_of_items_is_bounded() {
        assert_eq!(split("[1,2,3]", json!({"pointer": "", "max_items": 3})).unwrap().len(), 3);
        assert_eq!(split("[1,2,3]", json!({"pointer": "", "max_items": 2})), Err("too-many-items".into()));
        let many = format!("[{}1]", "1,".repeat(256));
        assert_eq!(split(&many, json!({"pointer": ""})), Err("too-many-items".into()));
    }

    #[test]
    fn a_wrong_configuration_is_named() {
        for (config, field) in [
            (json!({}), "`pointer`"),
            (json!({"pointer": "a"}), "`pointer`"),
            (json!({"pointer": "", "max_items": 0}), "`max_items`"),
            (json!({"pointer": "", "max_items": 257}), "`max_items`"),
            (json!({"pointer": "", "send": "all"}), "`send`"),
        ] {
            let failure = Splitter::run(event("[]"), &FakeHost::new().with_config(&config)).unwrap_err();
            assert_eq!(failure.code, "bad-config");
            assert!(failure.message.contains(field), "{config}: {}", failure.message);
        }
    }
}
