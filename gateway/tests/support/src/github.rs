//! Payloads that GitHub publishes as examples, signed by GitHub's own library.

use bytes::Bytes;

use crate::tools::run_node;

/// An example payload: `gateway/tests/fixtures/github/SOURCE.md` says where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// What GitHub sends as `X-GitHub-Event`.
    pub event: &'static str,
    /// The file's name, which tells the action as well.
    pub name: &'static str,
    /// The body, byte for byte.
    pub body: &'static [u8],
}

macro_rules! payload {
    ($event:literal, $name:literal) => {
        Payload { event: $event, name: $name, body: include_bytes!(concat!("../../fixtures/github/", $name)) }
    };
}

/// A push of one commit to a branch.
pub const PUSH: Payload = payload!("push", "push.json");
/// A push that deletes a ref: no commits, no head commit.
pub const PUSH_DELETED: Payload = payload!("push", "push.deleted.json");
/// The first thing that a new webhook gets.
pub const PING: Payload = payload!("ping", "ping.json");

/// All example payloads.
pub const ALL: [Payload; 8] = [
    PING,
    PUSH,
    PUSH_DELETED,
    payload!("issues", "issues.opened.json"),
    payload!("issue_comment", "issue_comment.created.json"),
    payload!("pull_request", "pull_request.opened.json"),
    payload!("release", "release.published.json"),
    payload!("star", "star.created.json"),
];

impl Payload {
    /// The body, ready to send.
    pub fn bytes(&self) -> Bytes {
        Bytes::from_static(self.body)
    }

    /// The headers that GitHub sends with it, `X-Hub-Signature-256` made by GitHub's library among them.
    pub fn headers(&self, secret: &str, delivery: &str) -> Vec<(&'static str, String)> {
        vec![
            ("content-type", "application/json".to_owned()),
            ("user-agent", "GitHub-Hookshot/044aadd".to_owned()),
            ("x-github-delivery", delivery.to_owned()),
            ("x-github-event", self.event.to_owned()),
            ("x-hub-signature-256", sign(secret, self.body)),
        ]
    }
}

/// The value of `X-Hub-Signature-256`, made by npm's `@octokit/webhooks-methods`.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let body = std::str::from_utf8(body).expect("GitHub signs text");
    run_node(include_str!("github/sign.mjs"), &[secret], body)
}
