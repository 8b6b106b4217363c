//! Turns a GitHub push into a chat message: `{"text": "..."}`, as Slack, Mattermost and Google Chat take it.
//!
//! Configuration, every field optional:
//!
//! | field | meaning | default |
//! |---|---|---|
//! | `channel` | sent along as `"channel"` | none |
//! | `format` | how links are written: `slack`, `markdown` or `plain` | `slack` |
//! | `branches` | only pushes to these branches | all |
//! | `max_commits` | how many commits are listed | 5 |
//!
//! Events that are not pushes (by `x-github-event`), pushes of tags and pushes to other branches give no output.

use plugin_common::chat::Format;
use plugin_common::chat::push::Push;
use serde::{Deserialize, Serialize};
use tidegate_plugin::{Event, Failure, Host, Output, Transform};

struct GithubPushToChat;

impl Transform for GithubPushToChat {
    fn run(event: Event, host: &dyn Host) -> Result<Vec<Output>, Failure> {
        if event.request.header("x-github-event") != Some(b"push") {
            return Ok(vec![]);
        }
        if event.request.header_str("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
            return Err(Failure::never("form-encoded", "set the webhook's content type to application/json on GitHub"));
        }
        let config: Config = plugin_common::config(host)?;
        let push: Push = event.request.json()?;
        let Some(branch) = push.branch() else { return Ok(vec![]) };
        if config.branches.as_ref().is_some_and(|branches| !branches.iter().any(|wanted| wanted == branch)) {
            return Ok(vec![]);
        }
        let message = Message { text: push.text(branch, config.format, config.max_commits), channel: config.channel.as_deref() };
        Ok(vec![Output::new().method("POST").path("").remove_query().clear_headers().json(&message)?])
    }
}

tidegate_plugin::export!(transform: GithubPushToChat);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    channel: Option<String>,
    #[serde(default)]
    format: Format,
    branches: Option<Vec<String>>,
    #[serde(default = "five")]
    max_commits: usize,
}

fn five() -> usize {
    5
}

#[derive(Serialize)]
struct Message<'a> {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
}

#[cfg(test)]
mod tests;
