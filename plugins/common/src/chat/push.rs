//! A push to a branch on GitHub.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Deserialize;

use super::{Format, escape, link};

/// The parts of GitHub's push payload that the message needs
/// (<https://docs.github.com/en/webhooks/webhook-events-and-payloads#push>).
#[derive(Debug, Deserialize)]
pub struct Push<'a> {
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

#[derive(Debug, Deserialize)]
struct Repository<'a> {
    #[serde(borrow)]
    full_name: Cow<'a, str>,
    #[serde(borrow)]
    html_url: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct Pusher<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
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

#[derive(Debug, Deserialize)]
struct Author<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl Push<'_> {
    /// The branch that was pushed to; none for a tag.
    pub fn branch(&self) -> Option<&str> {
        self.git_ref.strip_prefix("refs/heads/")
    }

    /// Who pushed what to `branch`, with the first `max_commits` commits.
    pub fn text(&self, branch: &str, format: Format, max_commits: usize) -> String {
        text(self, branch, format, max_commits)
    }
}

fn text(push: &Push, branch: &str, format: Format, max_commits: usize) -> String {
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
    for commit in push.commits.iter().take(max_commits) {
        let id: String = commit.id.chars().take(7).collect();
        let title = escape(commit.message.lines().next().unwrap_or_default(), format);
        let author = escape(&commit.author.name, format);
        let _ = write!(text, "\n{} {title} ({author})", link(&commit.url, &id, format));
    }
    let left = push.commits.len().saturating_sub(max_commits);
    if left > 0 {
        let _ = write!(text, "\nand {left} more: {}", link(&push.compare, "compare", format));
    }
    text
}
