//! Into an envelope.

use std::borrow::Cow;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use plugin_common::json::{Json, Kind};
use plugin_common::rfc3339;
use tidegate_plugin::{Event, Failure, Output};

use crate::{From, Wrap, is_json};

/// The attributes of the event in the order in which they are written, but for the data's content type.
fn attributes(event: &Event, body: &mut Body, config: &Wrap) -> Result<Vec<(String, String)>, Failure> {
    config.check()?;
    let mut attributes = vec![("specversion".to_owned(), "1.0".to_owned())];
    let id = match &config.id {
        Some(id) => value("id", id, event, body)?,
        None => event.id.clone(),
    };
    attributes.push(("id".to_owned(), id));
    for (name, from) in [("source", Some(&config.source)), ("type", Some(&config.kind)), ("subject", config.subject.as_ref())] {
        if let Some(from) = from {
            attributes.push((name.to_owned(), value(name, from, event, body)?));
        }
    }
    attributes.push(("time".to_owned(), rfc3339(event.accepted_at)));
    if let Some(dataschema) = &config.dataschema {
        attributes.push(("dataschema".to_owned(), dataschema.clone()));
    }
    for (name, from) in &config.extensions {
        attributes.push((name.clone(), value(name, from, event, body)?));
    }
    Ok(attributes)
}

/// The body, read as JSON at most once.
struct Body<'a> {
    bytes: &'a [u8],
    json: Option<Json<'a>>,
}

impl<'a> Body<'a> {
    fn json(&mut self) -> Result<Json<'a>, Failure> {
        match self.json {
            Some(json) => Ok(json),
            None => Ok(*self.json.insert(Json::read(self.bytes)?)),
        }
    }
}

fn value(name: &str, from: &From, event: &Event, body: &mut Body) -> Result<String, Failure> {
    let missing =
        |at: String| Failure::never("missing-value", format!("attribute `{name}`: the event has no text or number at {at}"));
    let text = match from {
        From::Text(text) => text.clone(),
        From::Header(from) => match event.request.header_str(&from.header) {
            Some(value) if !value.is_empty() => format!("{}{value}", from.prefix),
            _ => return Err(missing(format!("header `{}`", from.header))),
        },
        From::Pointer(from) => {
            let json = body.json()?;
            let found = json.find(&from.pointer)?;
            let text = found.map(|span| {
                let mut cursor = json.cursor_at(span);
                match cursor.kind() {
                    Kind::String => cursor.string().unescape(),
                    Kind::Number => Ok(Cow::Borrowed(json.at(span))),
                    Kind::Word if json.at(span) != "null" => Ok(Cow::Borrowed(json.at(span))),
                    _ => Ok(Cow::Borrowed("")),
                }
            });
            match text.transpose()? {
                Some(text) if !text.is_empty() => format!("{}{text}", from.prefix),
                _ => return Err(missing(format!("pointer `{}`", from.pointer.as_str()))),
            }
        }
    };
    // The specification's strings have no control characters.
    if text.chars().any(char::is_control) {
        return Err(Failure::never("bad-value", format!("attribute `{name}` would have a control character")));
    }
    Ok(text)
}

/// `application/cloudevents+json`, the data inside.
pub(crate) fn structured(event: &Event, config: &Wrap) -> Result<Output, Failure> {
    let mut body = Body { bytes: &event.request.body, json: None };
    let attributes = attributes(event, &mut body, config)?;
    let data = &event.request.body;
    let content_type = event.request.header_str("content-type");
    let mut text = String::with_capacity(data.len() + 512);
    for (name, value) in &attributes {
        let _ = write!(text, "{}\"{name}\":{}", if text.is_empty() { '{' } else { ',' }, quoted(value));
    }
    if let Some(content_type) = content_type {
        let _ = write!(text, ",\"datacontenttype\":{}", quoted(content_type));
    }
    // Without a content type it is JSON, says the format.
    if data.is_empty() {
    } else if content_type.is_none_or(is_json) {
        text.push_str(",\"data\":");
        text.push_str(body.json()?.text().trim_matches([' ', '\t', '\r', '\n']));
    } else {
        match (content_type.is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/")), std::str::from_utf8(data)) {
            (true, Ok(data)) => {
                let _ = write!(text, ",\"data\":{}", quoted(data));
            }
            _ => {
                text.push_str(",\"data_base64\":\"");
                STANDARD.encode_string(data, &mut text);
                text.push('"');
            }
        }
    }
    text.push('}');
    Ok(Output::new().header("content-type", "application/cloudevents+json; charset=utf-8").body(text))
}

/// The body as it came, the attributes as headers.
pub(crate) fn binary(event: &Event, config: &Wrap) -> Result<Output, Failure> {
    let attributes = attributes(event, &mut Body { bytes: &event.request.body, json: None }, config)?;
    Ok(attributes.iter().fold(Output::new(), |output, (name, value)| output.header(format!("ce-{name}"), header_value(value))))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What a header cannot hold is percent-encoded, as are `"`, `%` and spaces.
pub(crate) fn header_value(text: &str) -> String {
    let mut value = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => {
                let _ = write!(value, "%{byte:02X}");
            }
            0x21..=0x7e => value.push(char::from(byte)),
            _ => {
                let _ = write!(value, "%{byte:02X}");
            }
        }
    }
    value
}
