import assert from "node:assert/strict";
import { test } from "node:test";

import { FakeHost, event } from "tidegate-plugin/testing";

import { transform } from "./plugin.js";

test("new issues are announced, and nothing else", () => {
  const opened = event('{"action": "opened", "issue": {"title": "it leaks"}}');
  const { body } = transform(opened, new FakeHost()).toRecord();
  assert.deepEqual(JSON.parse(Buffer.from(body).toString()), { text: "new issue: it leaks" });
  const closed = event('{"action": "closed", "issue": {"title": "it leaks"}}');
  assert.deepEqual(transform(closed, new FakeHost()), []);
});
