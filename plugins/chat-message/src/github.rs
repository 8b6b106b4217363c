//! GitHub (<https://docs.github.com/en/webhooks/webhook-events-and-payloads>).

use std::borrow::Cow;

use plugin_common::chat::push::Push;
use plugin_common::chat::{escape, link};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tidegate_plugin::{Failure, Request};

use crate::{Config, first_line, header};

pub(crate) fn text(request: &Request, config: &Config) -> Result<Option<String>, Failure> {
    let event = header(request, "x-github-event")?;
    if request.header_str("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
        return Err(Failure::never("form-encoded", "set the webhook's content type to application/json on GitHub"));
    }
    if event == "push" {
        if !config.wants(&["push"]) {
            return Ok(None);
        }
        let push: Push = request.json()?;
        return Ok(push.branch().map(|branch| push.text(branch, config.format, config.max_items)));
    }
    if !KNOWN.contains(&event) {
        return Ok(None);
    }
    let hook: Hook = request.json()?;
    if !config.wants(&[event, &format!("{event}.{}", hook.action)]) {
        return Ok(None);
    }
    Ok(hook.text(event, config))
}

const KNOWN: [&str; 7] = ["issues", "issue_comment", "pull_request", "pull_request_review", "release", "star", "workflow_run"];

/// The parts that the messages need.
#[derive(Deserialize)]
struct Hook<'a> {
    #[serde(borrow, default)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    repository: Repository<'a>,
    #[serde(borrow)]
    sender: Sender<'a>,
    #[serde(borrow)]
    issue: Option<Issue<'a>>,
    #[serde(borrow)]
    pull_request: Option<Issue<'a>>,
    #[serde(borrow)]
    comment: Option<Comment<'a>>,
    #[serde(borrow)]
    review: Option<Review<'a>>,
    #[serde(borrow)]
    release: Option<Release<'a>>,
    #[serde(borrow)]
    workflow_run: Option<WorkflowRun<'a>>,
}

#[derive(Deserialize)]
struct Repository<'a> {
    #[serde(borrow)]
    full_name: Cow<'a, str>,
    #[serde(borrow)]
    html_url: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Sender<'a> {
    #[serde(borrow)]
    login: Cow<'a, str>,
}

/// An issue or a pull request.
#[derive(Deserialize)]
struct Issue<'a> {
    number: u64,
    #[serde(borrow)]
    title: Cow<'a, str>,
    #[serde(borrow)]
    html_url: Cow<'a, str>,
    #[serde(default)]
    merged: Option<bool>,
    /// On an issue that is a pull request.
    pull_request: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Comment<'a> {
    #[serde(borrow)]
    html_url: Cow<'a, str>,
    #[serde(borrow)]
    body: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Review<'a> {
    #[serde(borrow)]
    state: Cow<'a, str>,
    #[serde(borrow)]
    html_url: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Release<'a> {
    #[serde(borrow)]
    html_url: Cow<'a, str>,
    #[serde(borrow)]
    tag_name: Cow<'a, str>,
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct WorkflowRun<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    html_url: Cow<'a, str>,
    #[serde(borrow)]
    conclusion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    head_branch: Option<Cow<'a, str>>,
}

impl Hook<'_> {
    /// None for actions that nobody needs to hear of.
    fn text(&self, event: &str, config: &Config) -> Option<String> {
        let format = config.format;
        let sender = escape(&self.sender.login, format);
        let repository = link(&self.repository.html_url, &self.repository.full_name, format);
        let named = |issue: &Issue| link(&issue.html_url, &format!("#{} {}", issue.number, issue.title), format);
        match (event, &*self.action) {
            ("issues", action @ ("opened" | "closed" | "reopened")) => {
                Some(format!("{sender} {action} issue {} in {repository}", named(self.issue.as_ref()?)))
            }
            ("pull_request", action @ ("opened" | "closed" | "reopened" | "ready_for_review")) => {
                let pull = self.pull_request.as_ref()?;
                let verb = match action {
                    "closed" if pull.merged == Some(true) => "merged",
                    "ready_for_review" => "asks for review of",
                    other => other,
                };
                Some(format!("{sender} {verb} pull request {} in {repository}", named(pull)))
            }
            ("pull_request_review", "submitted") => {
                let (review, pull) = (self.review.as_ref()?, self.pull_request.as_ref()?);
                let verb = match &*review.state {
                    "approved" => "approved",
                    "changes_requested" => "asks for changes of",
                    _ => "commented on",
                };
                let pull = link(&review.html_url, &format!("#{} {}", pull.number, pull.title), format);
                Some(format!("{sender} {verb} pull request {pull} in {repository}"))
            }
            ("issue_comment", "created") => {
                let (issue, comment) = (self.issue.as_ref()?, self.comment.as_ref()?);
                let what = if issue.pull_request.is_some() { "pull request" } else { "issue" };
                let on = link(&comment.html_url, &format!("#{} {}", issue.number, issue.title), format);
                let said = first_line(&comment.body);
                Some(format!("{sender} commented on {what} {on} in {repository}: {}", escape(&said, format)))
            }
            ("release", "published") => {
                let release = self.release.as_ref()?;
                let name = release.name.as_deref().filter(|name| !name.is_empty()).unwrap_or(&release.tag_name);
                Some(format!("{sender} released {} of {repository}", link(&release.html_url, name, format)))
            }
            ("star", "created") => Some(format!("{sender} starred {repository}")),
            ("workflow_run", "completed") => {
                let run = self.workflow_run.as_ref()?;
                let verb = match run.conclusion.as_deref()? {
                    "failure" | "startup_failure" => "failed",
                    "timed_out" => "timed out",
                    _ => return None,
                };
                let name = link(&run.html_url, run.name.as_deref().unwrap_or("a workflow"), format);
                let branch = run.head_branch.as_deref().unwrap_or("an unknown branch");
                Some(format!("{name} {verb} on {} of {repository}", escape(branch, format)))
            }
            _ => None,
        }
    }
}
