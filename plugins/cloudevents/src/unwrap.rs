//! Out of an envelope.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plugin_common::json::Json;
use serde_json::value::RawValue;
use tidegate_plugin::{Event, Failure, Header, Output};

use crate::wrap::header_value;
use crate::{Attributes, Unwrap, is_json};

/// What a gateway takes of one call unless it is told otherwise.
const MOST: usize = 256;

pub(crate) fn run(event: &Event, config: &Unwrap) -> Result<Vec<Output>, Failure> {
    let content_type = event.request.header_str("content-type").unwrap_or_default().to_ascii_lowercase();
    let media = content_type.split(';').next().unwrap_or_default().trim();
    match media {
        "application/cloudevents+json" => {
            let json = Json::read(&event.request.body)?;
            Ok(vec![structured(json.text(), config)?])
        }
        "application/cloudevents-batch+json" => batch(&event.request.body, config),
        other if other.starts_with("application/cloudevents") => {
            Err(not_one(format!("its format `{other}` is not JSON, the only one that is understood")))
        }
        _ => binary(event, config).map(|output| vec![output]),
    }
}

fn batch(body: &[u8], config: &Unwrap) -> Result<Vec<Output>, Failure> {
    let json = Json::read(body)?;
    let events: Vec<&RawValue> = serde_json::from_str(json.text()).map_err(|error| not_one(error.to_string()))?;
    if events.len() > MOST {
        return Err(Failure::never("too-many-items", format!("the batch has {} events; at most {MOST} are taken", events.len())));
    }
    events.into_iter().map(|event| structured(event.get(), config)).collect()
}

fn structured(text: &str, config: &Unwrap) -> Result<Output, Failure> {
    let members: BTreeMap<Cow<str>, &RawValue> = serde_json::from_str(text).map_err(|error| not_one(error.to_string()))?;
    let mut attributes = BTreeMap::new();
    for (name, value) in &members {
        if matches!(&**name, "data" | "data_base64") || value.get() == "null" {
            continue;
        }
        // Attributes are texts, numbers or booleans.
        let value = match value.get().as_bytes()[0] {
            b'"' => text_of(value)?,
            b'{' | b'[' => return Err(not_one(format!("attribute `{name}` is neither a text, a number nor a boolean"))),
            _ => value.get().to_owned(),
        };
        attributes.insert(&**name, value);
    }
    check(|name| attributes.get(name).map(String::as_str))?;
    let content_type = attributes.get("datacontenttype").map(String::as_str);
    let body = match (members.get("data"), members.get("data_base64")) {
        (Some(_), Some(_)) => return Err(not_one("it has both `data` and `data_base64`".into())),
        (Some(data), None) if content_type.is_none_or(is_json) => data.get().as_bytes().to_vec(),
        // Of another content type: the text itself, or the JSON that stands for it.
        (Some(data), None) if data.get().starts_with('"') => text_of(data)?.into_bytes(),
        (Some(data), None) => data.get().as_bytes().to_vec(),
        (None, Some(data)) => {
            let text = text_of(data)?;
            STANDARD.decode(text).map_err(|error| not_one(format!("`data_base64`: {error}")))?
        }
        (None, None) => Vec::new(),
    };
    let mut output = Output::new().header("content-type", content_type.unwrap_or("application/json"));
    if config.attributes == Attributes::Headers {
        for (name, value) in attributes.iter().filter(|(name, _)| **name != "datacontenttype") {
            output = output.header(format!("ce-{name}"), header_value(value));
        }
    }
    Ok(output.body(body))
}

fn text_of(value: &RawValue) -> Result<String, Failure> {
    serde_json::from_str(value.get()).map_err(|error| not_one(error.to_string()))
}

fn binary(event: &Event, config: &Unwrap) -> Result<Output, Failure> {
    if event.request.header("ce-specversion").is_none() {
        return Err(not_one(
            "its content type is not `application/cloudevents+json`, and it has no header `ce-specversion`".into(),
        ));
    }
    check(|name| event.request.header_str(&format!("ce-{name}")))?;
    let output = Output::new();
    if config.attributes == Attributes::Headers {
        return Ok(output);
    }
    let of_envelope = |header: &&Header| header.name.starts_with("ce-");
    Ok(event.request.headers.iter().filter(of_envelope).fold(output, |output, header| output.remove_header(&*header.name)))
}

/// What every CloudEvent has.
fn check<'a>(attribute: impl Fn(&str) -> Option<&'a str>) -> Result<(), Failure> {
    match attribute("specversion") {
        Some("1.0") => {}
        Some(other) => return Err(not_one(format!("its `specversion` is `{other}`; 1.0 is understood"))),
        None => return Err(not_one("it has no `specversion`".into())),
    }
    for name in ["id", "source", "type"] {
        if attribute(name).is_none_or(str::is_empty) {
            return Err(not_one(format!("it has no `{name}`")));
        }
    }
    Ok(())
}

fn not_one(why: String) -> Failure {
    Failure::never("not-a-cloudevent", format!("the request is no CloudEvent: {why}"))
}
