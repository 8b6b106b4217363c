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

use std::borrow::Cow;
use std::fmt::Write;

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
        let config: Config = host.config()?;
        let push: Push = event.request.json()?;
        let Some(branch) = push.git_ref.strip_prefix("refs/heads/") else { return Ok(vec![]) };
        if config.branches.as_ref().is_some_and(|branches| !branches.iter().any(|wanted| wanted == branch)) {
            return Ok(vec![]);
        }
        let message = Message { text: text(&push, branch, &config), channel: config.channel.as_deref() };
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

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Slack,
    Markdown,
    Plain,
}

/// The parts of GitHub's push payload that the message needs
/// (<https://docs.github.com/en/webhooks/webhook-events-and-payloads#push>).
#[derive(Deserialize)]
struct Push<'a> {
    #[serde(rename = "ref", borrow)]
    git_ref: Cow<'a, str>,
    #[serde(borrow)]
    repository: Repository<'a>,
    #[serde(borrow)]
    pusher: Pusher<'a>,
    #[serde(borrow, default)]
    compare: Cow<'a, str>,
    #[serde(default)]
    created: bool,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    forced: bool,
    #[serde(borrow, default)]
    commits: Vec<Commit<'a>>,
}

#[derive(Deserialize)]
struct Repository<'a> {
    #[serde(borrow)]
    full_name: Cow<'a, str>,
    #[serde(borrow)]
    html_url: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Pusher<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Commit<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow)]
    url: Cow<'a, str>,
    #[serde(borrow)]
    author: Author<'a>,
}

#[derive(Deserialize)]
struct Author<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Serialize)]
struct Message<'a> {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
}

fn text(push: &Push, branch: &str, config: &Config) -> String {
    let format = config.format;
    let pusher = escape(&push.pusher.name, format);
    let repository = link(&push.repository.html_url, &push.repository.full_name, format);
    if push.deleted {
        return format!("{pusher} deleted branch {} of {repository}", escape(branch, format));
    }
    let branch = link(&format!("{}/tree/{branch}", push.repository.html_url), branch, format);
    let verb = match (push.created, push.forced) {
        (true, _) => "created branch",
        (false, true) => "force-pushed to",
        (false, false) => "pushed to",
    };
    let mut text = format!("{pusher} {verb} {branch} of {repository}");
    match push.commits.len() {
        0 => return text,
        1 => text.push_str(": 1 commit"),
        many => {
            let _ = write!(text, ": {many} commits");
        }
    }
    for commit in push.commits.iter().take(config.max_commits) {
        let id: String = commit.id.chars().take(7).collect();
        let title = escape(commit.message.lines().next().unwrap_or_default(), format);
        let author = escape(&commit.author.name, format);
        let _ = write!(text, "\n{} {title} ({author})", link(&commit.url, &id, format));
    }
    let left = push.commits.len().saturating_sub(config.max_commits);
    if left > 0 {
        let _ = write!(text, "\nand {left} more: {}", link(&push.compare, "compare", format));
    }
    text
}

fn link(url: &str, text: &str, format: Format) -> String {
    let text = escape(text, format);
    match format {
        Format::Slack => format!("<{}|{text}>", escape(url, format)),
        Format::Markdown => format!("[{text}]({url})"),
        Format::Plain => text.into_owned(),
    }
}

/// What people typed must not become markup: mentions, links, formatting.
fn escape(text: &str, format: Format) -> Cow<'_, str> {
    match format {
        Format::Slack if text.contains(['&', '<', '>']) => {
            Cow::Owned(text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
        }
        Format::Markdown if text.contains(MARKDOWN) => {
            Cow::Owned(text.chars().flat_map(|c| MARKDOWN.contains(&c).then_some('\\').into_iter().chain([c])).collect())
        }
        _ => Cow::Borrowed(text),
    }
}

const MARKDOWN: &[char] = &['\\', '`', '*', '_', '[', ']', '<', '>', '@', '#', '|', '~'];

#[cfg(test)]
mod tests;
