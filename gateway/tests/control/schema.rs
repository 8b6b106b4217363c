//! Judges JSON by the part of JSON Schema that the document uses, and panics at what it doesn't know, so that nothing goes unchecked.

use serde_json::{Map, Value};

/// What says nothing about a value.
const NOTES: [&str; 9] =
    ["description", "example", "examples", "default", "format", "title", "contentMediaType", "propertyNames", "maxLength"];

/// All that is wrong with `value`, each with its place.
pub(crate) fn faults(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(document, schema, value, "", &mut faults);
    faults
}

fn check(document: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let schema = match schema {
        Value::Bool(true) => return,
        Value::Object(schema) => schema,
        other => panic!("{at}: not a schema: {other}"),
    };
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "$ref" => check(document, resolve(document, rule), value, at, faults),
            "type" => check_type(rule, value, at, faults),
            "enum" if !list(rule).contains(value) => faults.push(format!("{at}: {value} is not one of {rule}")),
            "const" if rule != value => faults.push(format!("{at}: {value} is not {rule}")),
            "enum" | "const" => {}
            "minimum" | "exclusiveMinimum" if value.as_f64() < rule.as_f64() && value.is_number() => {
                faults.push(format!("{at}: under {rule}"))
            }
            "maximum" if value.as_f64() > rule.as_f64() => faults.push(format!("{at}: over {rule}")),
            "minItems" if value.as_array().is_some_and(|items| (items.len() as u64) < rule.as_u64().unwrap()) => {
                faults.push(format!("{at}: fewer than {rule}"));
            }
            "maxItems" if value.as_array().is_some_and(|items| items.len() as u64 > rule.as_u64().unwrap()) => {
                faults.push(format!("{at}: more than {rule}"));
            }
            "minimum" | "exclusiveMinimum" | "maximum" | "minItems" | "maxItems" => {}
            "allOf" => list(rule).iter().for_each(|part| check(document, part, value, at, faults)),
            "oneOf" | "anyOf" => {
                let fit = list(rule).iter().filter(|part| self::faults(document, part, value).is_empty()).count();
                if fit == 0 || (keyword == "oneOf" && fit > 1) {
                    faults.push(format!("{at}: {value} fits {fit} of {rule}"));
                }
            }
            "properties" | "additionalProperties" | "required" => {}
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, rule, item, &format!("{at}[{index}]"), faults);
                }
            }
            note if NOTES.contains(&note) => {}
            unknown => panic!("{at}: this checker does not know `{unknown}`"),
        }
    }
    if let Some(object) = value.as_object() {
        check_object(document, schema, object, at, faults);
    }
}

fn check_object(document: &Value, schema: &Map<String, Value>, object: &Map<String, Value>, at: &str, faults: &mut Vec<String>) {
    for name in schema.get("required").map(list).into_iter().flatten() {
        if !object.contains_key(name.as_str().unwrap()) {
            faults.push(format!("{at}: {name} is missing"));
        }
    }
    // What a response holds beyond its description would go undescribed, so it is a fault here unless the schema has no properties.
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, value) in object {
        let at = format!("{at}.{name}");
        match (properties.and_then(|properties| properties.get(name)), schema.get("additionalProperties")) {
            (Some(described), _) => check(document, described, value, &at, faults),
            (None, Some(Value::Bool(false))) => faults.push(format!("{at}: is not allowed")),
            (None, Some(described)) => check(document, described, value, &at, faults),
            (None, None) if properties.is_some() => faults.push(format!("{at}: is not described")),
            (None, None) => {}
        }
    }
}

fn check_type(rule: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: no such type {other}"),
    };
    let fits = match rule {
        Value::String(name) => is(name),
        names => list(names).iter().any(|name| is(name.as_str().unwrap())),
    };
    if !fits {
        faults.push(format!("{at}: {value} is not of type {rule}"));
    }
}

fn resolve<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer =
        reference.as_str().and_then(|text| text.strip_prefix('#')).unwrap_or_else(|| panic!("not a reference: {reference}"));
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

#[test]
fn the_checker_sees_what_is_wrong() {
    let document = serde_json::json!({"components": {"schemas": {"Name": {"type": "string"}}}});
    let schema = serde_json::json!({
        "type": "object", "required": ["name"],
        "properties": {"name": {"$ref": "#/components/schemas/Name"}, "kind": {"oneOf": [{"type": "null"}, {"enum": ["a"]}]}}
    });
    let count = |value: Value| faults(&document, &schema, &value).len();
    assert_eq!(count(serde_json::json!({"name": "x", "kind": "a"})), 0);
    assert_eq!(count(serde_json::json!({"name": 1})), 1);
    assert_eq!(count(serde_json::json!({"kind": "b"})), 2);
    assert_eq!(count(serde_json::json!({"name": "x", "more": 1})), 1);
    assert_eq!(count(serde_json::json!([])), 1);
}
