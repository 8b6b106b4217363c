//! What templates see of an event.

use std::collections::BTreeMap;

use minijinja::{Value, context};
use percent_encoding::percent_decode_str;
use plugin_common::rfc3339;
use tidegate_plugin::{Event, Failure};

use crate::Input;

pub(crate) fn of(event: &Event, input: Input, vars: BTreeMap<String, Value>) -> Result<Value, Failure> {
    let request = &event.request;
    let (body, text) = match input {
        Input::Json => (request.json()?, Value::UNDEFINED),
        Input::Text => {
            let text = std::str::from_utf8(&request.body).map_err(|_| Failure::never("not-text", "the body is not UTF-8"))?;
            (Value::UNDEFINED, Value::from(text))
        }
    };
    Ok(context! {
        body,
        text,
        headers => headers(event),
        query => parameters(request.query.as_deref().unwrap_or_default()),
        method => &request.method,
        path => &request.path,
        event => context! { id => &event.id, time => rfc3339(event.accepted_at), time_ms => event.accepted_at },
        vars => Value::from(vars),
    })
}

/// By name in lower case, the values of repeated lines joined by `, `, what is not UTF-8 replaced.
fn headers(event: &Event) -> Value {
    let mut headers = BTreeMap::<String, String>::new();
    for header in &event.request.headers {
        let value = String::from_utf8_lossy(&header.value);
        headers
            .entry(header.name.clone())
            .and_modify(|values| *values = format!("{values}, {value}"))
            .or_insert_with(|| value.into());
    }
    Value::from(headers)
}

/// Decoded; of a repeated name the first.
fn parameters(query: &str) -> Value {
    let mut parameters = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        parameters.entry(decoded(name)).or_insert_with(|| decoded(value));
    }
    Value::from(parameters)
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}
