import assert from "node:assert/strict";
import { test } from "node:test";

import { FakeHost, event } from "tidegate-plugin/testing";

import { filter, transform } from "./plugin.js";

const OPENED = '{"action": "opened", "issue": {"title": "it leaks"}}';
const CLOSED = '{"action": "closed", "issue": {"title": "it leaks"}}';

test("new issues go on, and nothing else", () => {
  assert.equal(filter(event(OPENED), new FakeHost()), true);
  assert.equal(filter(event(CLOSED), new FakeHost()), false);
});

test("new issues are announced, and nothing else", () => {
  const { body } = transform(event(OPENED), new FakeHost()).toRecord();
  assert.deepEqual(JSON.parse(Buffer.from(body).toString()), { text: "new issue: it leaks" });
  assert.deepEqual(transform(event(CLOSED), new FakeHost()), []);
});
