import assert from "node:assert/strict";
import { test } from "node:test";

import { FakeHost, event } from "tidegate-plugin/testing";

import { filter } from "./plugin.js";

test("new issues go on, and nothing else", () => {
  const opened = event('{"action": "opened", "issue": {"title": "it leaks"}}');
  assert.equal(filter(opened, new FakeHost()), true);
  const closed = event('{"action": "closed", "issue": {"title": "it leaks"}}');
  assert.equal(filter(closed, new FakeHost()), false);
});
