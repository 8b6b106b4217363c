//! Puts events into CloudEvents 1.0 envelopes, and takes them out. The [README](../README.md) has the configuration; the
//! specifications are <https://github.com/cloudevents/spec>: `spec.md`, `formats/json-format.md`, `bindings/http-protocol-binding.md`.

mod unwrap;
mod wrap;

use std::collections::BTreeMap;

use plugin_common::{Pointer, config, wrong};
use serde::Deserialize;
use tidegate_plugin::{Event, Failure, Host, Output, Transform};

struct CloudEvents;

impl Transform for CloudEvents {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        match config(host)? {
            Config::Structured(wrap) => wrap::structured(&event, &wrap).map(|output| vec![output]),
            Config::Binary(wrap) => wrap::binary(&event, &wrap).map(|output| vec![output]),
            Config::Unwrap(unwrap) => unwrap::run(&event, &unwrap),
        }
    }
}

tidegate_plugin::export!(transform: CloudEvents);

#[derive(Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
enum Config {
    Structured(Wrap),
    Binary(Wrap),
    Unwrap(Unwrap),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrap {
    source: From,
    #[serde(rename = "type")]
    kind: From,
    id: Option<From>,
    subject: Option<From>,
    dataschema: Option<String>,
    #[serde(default)]
    extensions: BTreeMap<String, From>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unwrap {
    #[serde(default)]
    attributes: Attributes,
}

/// What becomes of an envelope's attributes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Attributes {
    #[default]
    Drop,
    Headers,
}

/// Where an attribute's value comes from.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a text, or `{\"header\": NAME}` or `{\"pointer\": JSON-POINTER}`, with a `prefix` or without")]
enum From {
    Text(String),
    Header(FromHeader),
    Pointer(FromPointer),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FromHeader {
    header: String,
    #[serde(default)]
    prefix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FromPointer {
    pointer: Pointer,
    #[serde(default)]
    prefix: String,
}

impl Wrap {
    fn check(&self) -> Result<(), Failure> {
        for name in self.extensions.keys() {
            if let Err(why) = check_extension(name) {
                return Err(wrong(&format!("extensions.{name}"), why));
            }
        }
        for (field, from) in [("source", &self.source), ("type", &self.kind)] {
            if matches!(from, From::Text(text) if text.is_empty()) {
                return Err(wrong(field, "it must not be empty"));
            }
        }
        Ok(())
    }
}

/// Names of the attributes that the specification defines.
const DEFINED: [&str; 9] = ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data"];

fn check_extension(name: &str) -> Result<(), &'static str> {
    if DEFINED.contains(&name) || name == "data_base64" {
        return Err("the specification defines this attribute itself");
    }
    let is_valid = (1..=20).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if is_valid { Ok(()) } else { Err("an attribute's name is 1 to 20 lower-case letters and digits") }
}

/// Whether data of this content type stands in an envelope as JSON.
fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let Some((_, subtype)) = media.split_once('/') else { return false };
    subtype == "json" || subtype.ends_with("+json")
}

#[cfg(test)]
mod tests;
