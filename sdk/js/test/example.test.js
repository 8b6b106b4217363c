import assert from "node:assert/strict";
import { test } from "node:test";

import { FakeHost, event } from "tidegate-plugin/testing";

import { transform } from "../example/github-push-to-chat.js";

const COMMIT = { id: "0123456789abcdef", message: "Fix <it>\n\nbody", url: "https://forge/c/0", author: { name: "Ada & Co" } };

function push(change = {}) {
  const body = {
    ref: "refs/heads/main",
    repository: { full_name: "o/r", html_url: "https://forge/o/r" },
    pusher: { name: "ada" },
    compare: "https://forge/compare",
    commits: [COMMIT],
    ...change,
  };
  return event(JSON.stringify(body), { headers: { "X-GitHub-Event": "push" } });
}

function told(event, config = {}) {
  const output = transform(event, new FakeHost({ config }));
  return Array.isArray(output) ? output : JSON.parse(Buffer.from(output.toRecord().body).toString());
}

test("a push becomes a message", () => {
  const text = "ada pushed 1 commit to main of <https://forge/o/r|o/r>\n<https://forge/c/0|0123456> Fix &lt;it&gt; (Ada &amp; Co)";
  assert.deepEqual(told(push(), { channel: "#dev" }), { text, channel: "#dev" });
});

test("a long push is cut", () => {
  const { text } = told(push({ commits: Array(7).fill(COMMIT) }));
  assert.equal(text.split("\n").length, 7);
  assert.match(text, /and 2 more: <https:\/\/forge\/compare\|compare>$/);
});

test("a deleted branch has no commits", () => {
  assert.equal(told(push({ deleted: true, commits: [] })).text, "ada deleted branch main of <https://forge/o/r|o/r>");
});

test("what is not a push to a wanted branch is dropped", () => {
  assert.deepEqual(told(event("{}")), []);
  assert.deepEqual(told(push({ ref: "refs/tags/v1" })), []);
  assert.deepEqual(told(push(), { branches: ["release"] }), []);
});

test("a push without a ref fails for good", () => {
  assert.throws(() => told(push({ ref: 1 })), { code: "bad-payload", retry: "never" });
});
