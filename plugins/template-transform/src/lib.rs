//! Makes the request that goes out from templates. The [README](../README.md) has the configuration; the language is that of
//! [minijinja](https://docs.rs/minijinja/3/minijinja/syntax/index.html), a Jinja.

mod context;

use std::borrow::Cow;
use std::collections::BTreeMap;

use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value, escape_formatter};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use plugin_common::{config, wrong};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidegate_plugin::{Event, Failure, Host, Output, Transform};

struct TemplateTransform;

impl Transform for TemplateTransform {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        let config: Config = config(host)?;
        if config.body.is_none() && config.content_type.is_some() {
            return Err(wrong("content_type", "it is the type of what `body` makes, and there is no `body`"));
        }
        let content_type = config.content_type.as_deref().unwrap_or("application/json");
        let kind = Kind::of(content_type);
        let environment = environment(kind, config.missing);
        let context = context::of(&event, config.input, config.vars.clone())?;
        let render = |field: &str, template: &str| render(&environment, field, template, &context);

        let mut output = Output::new();
        if !config.keep_headers {
            output = output.clear_headers();
        }
        if let Some(template) = &config.method {
            output = output.method(render("method", template)?);
        }
        if let Some(template) = &config.path {
            output = output.path(render("path", template)?);
        }
        if let Some(template) = &config.query {
            let query = render("query", template)?;
            output = if query.is_empty() { output.remove_query() } else { output.query(query) };
        }
        if let Some(template) = &config.body {
            let body = render("body", template)?;
            if kind == Kind::Json {
                serde_json::from_str::<IgnoredAny>(&body).map_err(|error| not_json(&error))?;
            }
            output = output.header("content-type", content_type).body(body);
        }
        for (name, template) in &config.headers {
            let value = render(&format!("headers.{name}"), template)?;
            output = if value.is_empty() { output.remove_header(name) } else { output.header(name, value) };
        }
        Ok(vec![output])
    }
}

tidegate_plugin::export!(transform: TemplateTransform);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    body: Option<String>,
    content_type: Option<String>,
    method: Option<String>,
    path: Option<String>,
    query: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default = "yes")]
    keep_headers: bool,
    #[serde(default)]
    input: Input,
    #[serde(default)]
    missing: Missing,
    #[serde(default)]
    vars: BTreeMap<String, Value>,
}

fn yes() -> bool {
    true
}

/// How the event's body is read.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Input {
    #[default]
    Json,
    Text,
}

/// What a value means that is not there.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Missing {
    #[default]
    Empty,
    Fail,
}

/// What the body is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Markup,
    Text,
}

impl Kind {
    fn of(content_type: &str) -> Self {
        let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match media.split_once('/') {
            Some((_, subtype)) if subtype == "json" || subtype.ends_with("+json") => Self::Json,
            Some((_, subtype)) if matches!(subtype, "html" | "xml") || subtype.ends_with("+xml") => Self::Markup,
            _ => Self::Text,
        }
    }
}

/// Values in paths and queries are percent-encoded.
const URL: AutoEscape = AutoEscape::Custom(Cow::Borrowed("url"));
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn environment(kind: Kind, missing: Missing) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(match missing {
        Missing::Empty => UndefinedBehavior::Chainable,
        Missing::Fail => UndefinedBehavior::Strict,
    });
    environment.set_auto_escape_callback(move |field| match (field, kind) {
        ("path" | "query", _) => URL,
        ("body", Kind::Json) => AutoEscape::Json,
        ("body", Kind::Markup) => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    environment.set_formatter(|output, state, value| {
        if *state.auto_escape() != URL || value.is_safe() {
            return escape_formatter(output, state, value);
        }
        if value.is_undefined() && state.undefined_behavior() == UndefinedBehavior::Strict {
            return Err(Error::from(ErrorKind::UndefinedError));
        }
        Ok(write!(output, "{}", utf8_percent_encode(&value.to_string(), ENCODED))?)
    });
    environment
}

fn render(environment: &Environment, field: &str, template: &str, context: &Value) -> Result<String, Failure> {
    let template = environment.template_from_named_str(field, template).map_err(|error| wrong(field, error))?;
    let failed = |code, error| Failure::never(code, format!("the template `{field}`: {error}"));
    template.render(context).map_err(|error| match error.kind() {
        ErrorKind::UndefinedError => failed("missing-value", error),
        // These names stand in the template.
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest | ErrorKind::UnknownFunction => wrong(field, error),
        _ => failed("template-failed", error),
    })
}

fn not_json(error: &serde_json::Error) -> Failure {
    Failure::never(
        "bad-output",
        format!("the template `body` gave no JSON: {error}; values are written as JSON, so no quotes stand around them"),
    )
}

#[cfg(test)]
mod tests;
