import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";

import { Failure, Output } from "tidegate-plugin";
import { FakeHost, event } from "tidegate-plugin/testing";

import { isAscii } from "../src/bytes.js";
import { keep, run } from "../src/glue.js";

const bytes = (...values) => Uint8Array.from(values);
const text = (value) => new TextEncoder().encode(value);

test("repeated headers are found in order whatever the case", () => {
  const { request } = event("", { headers: [["X-A", "1"], ["x-b", "ü"], ["x-a", bytes(0xff)]] });
  assert.deepEqual(request.headerValues("X-a"), [text("1"), bytes(0xff)]);
  assert.equal(request.header("X-B"), "ü");
  assert.deepEqual(request.headerBytes("x-b"), text("ü"));
  assert.equal(request.header("x-c"), null);
  assert.equal(event("", { headers: [["x-a", bytes(0xff)]] }).request.header("x-a"), null);
});

test("a body that cannot be read fails for good", () => {
  assert.throws(() => event("nope").request.json(), { code: "not-json", retry: "never" });
  assert.throws(() => event(bytes(0xff)).request.json(), { code: "not-json", retry: "never" });
  assert.throws(() => event(bytes(0xff)).request.text(), { code: "not-utf8", retry: "never" });
  assert.equal(event("h\u00e9\u{1f980}").request.text(), "h\u00e9\u{1f980}");
});

test("an output says what changes", () => {
  const output = new Output()
    .method("PUT")
    .path("/x")
    .query("a=1")
    .header("x-a", "1")
    .appendHeader("x-b", bytes(0xff))
    .removeHeader("x-c")
    .clearHeaders()
    .json({ é: 1 });
  assert.deepEqual(output.toRecord(), {
    method: "PUT",
    path: "/x",
    query: { tag: "set", val: "a=1" },
    headers: [
      { tag: "set", val: { name: "x-a", value: text("1") } },
      { tag: "append", val: { name: "x-b", value: bytes(0xff) } },
      { tag: "remove", val: "x-c" },
      { tag: "clear" },
      { tag: "set", val: { name: "content-type", value: text("application/json") } },
    ],
    body: text('{"é":1}'),
    attributes: [],
  });
});

test("an output that says nothing keeps everything", () => {
  const nothing = { method: null, path: null, query: { tag: "keep" }, headers: [], body: null, attributes: [] };
  assert.deepEqual(new Output().toRecord(), nothing);
  assert.deepEqual(new Output().query("x").removeQuery().toRecord(), { ...nothing, query: { tag: "remove" } });
});

test("an output takes no wrong types", () => {
  assert.throws(() => new Output().method(1), TypeError);
  assert.throws(() => new Output().header("x", 1), TypeError);
  assert.throws(() => new Output().body({}), TypeError);
  assert.throws(() => new Output().json(undefined), TypeError);
});

/** What the gateway gets of a transform. */
function answer(transform, host = new FakeHost()) {
  try {
    return run(transform, event("{}"), host);
  } catch (failure) {
    return failure;
  }
}

test("one output may stand for an array of one", () => {
  assert.equal(answer(() => new Output()).length, 1);
  assert.equal(answer(() => [new Output(), new Output()]).length, 2);
  assert.deepEqual(answer(() => []), []);
});

test("an answer of the wrong type is a failure that says so", () => {
  const answers = [undefined, null, true, {}, [{}], Promise.resolve([])];
  for (const value of answers) assert.equal(answer(() => value).code, "bad-output");
  assert.match(answer(async () => []).message, /not asynchronous/);
  const kept = () => keep(() => 1, event("{}"), new FakeHost());
  assert.throws(kept, { code: "bad-output", message: "filter returned 1 instead of true or false" });
});

test("failures go through as they are", () => {
  const failing = (failure) => () => {
    throw failure;
  };
  assert.deepEqual(answer(failing(Failure.later("busy", "not now"))), { code: "busy", message: "not now", retry: "later" });
  assert.deepEqual(answer(failing(Failure.never("bad", "never"))), { code: "bad", message: "never", retry: "never" });
  assert.deepEqual(answer(failing(new Failure("half\ud800", "m"))).code, "half\ufffd");
});

test("what is thrown and is no failure becomes one, and is logged", () => {
  const host = new FakeHost();
  const failure = answer(() => null.x, host);
  assert.equal(failure.code, "uncaught-exception");
  assert.equal(failure.retry, "never");
  assert.match(failure.message, /^TypeError: /);
  assert.equal(host.logs.length, 1);
  assert.equal(host.logs[0][0], "error");
  assert.equal(
    answer(() => {
      throw "text";
    }).message,
    "text",
  );
});

test("the host gives what it was given", () => {
  const host = new FakeHost({ config: { a: 1 }, secrets: { token: "s3cret" }, signing: { key: "k" } });
  assert.deepEqual(host.config(), { a: 1 });
  assert.deepEqual(host.secret("token"), text("s3cret"));
  assert.equal(host.secret("key"), null);
  assert.equal(host.now(), 1_700_000_000_000);
  assert.deepEqual(host.randomBytes(3), bytes(1, 2, 3));
  assert.equal(host.randomNumber(), 0x0405060708090a0bn);
  assert.deepEqual(Buffer.from(host.hmac("sha256", "key", "m")), createHmac("sha256", "k").update("m").digest());
  assert.equal(host.hmac("sha256", "none", "m"), null);
  assert.throws(() => host.hmac("md5", "key", "m"), TypeError);
  host.warn("careful");
  assert.deepEqual(host.logs, [["warn", "careful"]]);
  assert.throws(() => new FakeHost({ config: "{" }).config(), { code: "bad-config", retry: "never" });
});

test("a byte above ASCII is found wherever it stands", () => {
  for (const length of [0, 1, 15, 16, 17, 40]) {
    const room = new Uint8Array(length + 1).fill(0x7f).subarray(1);
    assert.ok(isAscii(room));
    for (let place = 0; place < length; place++) {
      room[place] = 0x80;
      assert.ok(!isAscii(room), `${place} of ${length}`);
      room[place] = 0x7f;
    }
  }
});
