//! Makes chat messages of GitHub's, Stripe's and Shopify's webhooks. The [README](../README.md) has the configuration and the events.

mod github;
mod shopify;
mod stripe;

use plugin_common::chat::Format;
use plugin_common::config;
use serde::Deserialize;
use serde_json::{Map, Value};
use tidegate_plugin::{Event, Failure, Host, Output, Request, Transform};

struct ChatMessage;

impl Transform for ChatMessage {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        let config: Config = config(host)?;
        let request = &event.request;
        let text = match config.from {
            From::Github => github::text(request, &config)?,
            From::Stripe => stripe::text(request, &config)?,
            From::Shopify => shopify::text(request, &config)?,
            From::Auto if request.header("x-github-event").is_some() => github::text(request, &config)?,
            From::Auto if request.header("stripe-signature").is_some() => stripe::text(request, &config)?,
            From::Auto if request.header("x-shopify-topic").is_some() => shopify::text(request, &config)?,
            From::Auto => {
                return Err(Failure::never(
                    "unknown-sender",
                    "the request has no header `x-github-event`, `stripe-signature` or `x-shopify-topic`; say in `from` who sends it",
                ));
            }
        };
        let Some(text) = text else { return Ok(vec![]) };
        let mut message = Map::new();
        message.insert(config.field, text.into());
        if let Some(channel) = config.channel {
            message.insert("channel".into(), channel.into());
        }
        Ok(vec![Output::new().method("POST").path("").remove_query().clear_headers().json(&Value::Object(message))?])
    }
}

tidegate_plugin::export!(transform: ChatMessage);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    from: From,
    #[serde(default)]
    format: Format,
    #[serde(default = "text")]
    field: String,
    channel: Option<String>,
    events: Option<Vec<String>>,
    #[serde(default = "five")]
    max_items: usize,
}

fn text() -> String {
    "text".into()
}

fn five() -> usize {
    5
}

/// Who sends the webhooks.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum From {
    /// By the headers.
    #[default]
    Auto,
    Github,
    Stripe,
    Shopify,
}

impl Config {
    /// Whether an event of one of these names is wanted; none if the configuration names none.
    fn names(&self, names: &[&str]) -> Option<bool> {
        let is_named = |event: &String| {
            names.iter().any(|name| match event.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => event == name,
            })
        };
        self.events.as_ref().map(|events| events.iter().any(is_named))
    }

    /// Whether an event of one of these names is wanted; each is if the configuration names none.
    fn wants(&self, names: &[&str]) -> bool {
        self.names(names).unwrap_or(true)
    }
}

/// A header that says what the request is about.
fn header<'a>(request: &'a Request, name: &str) -> Result<&'a str, Failure> {
    let missing = || Failure::never("unknown-sender", format!("the request has no header `{name}`"));
    request.header_str(name).ok_or_else(missing)
}

/// The first line, and no more of it than a chat should show.
fn first_line(text: &str) -> String {
    const MOST: usize = 200;
    let line = text.trim_start().lines().next().unwrap_or_default().trim_end();
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests;
