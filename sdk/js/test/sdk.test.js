import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";

import { Failure, Output, Response, decodeHex, encodeHex } from "tidegate-plugin";
import { FakeHost, arrival, attempt, event } from "tidegate-plugin/testing";

import { isAscii } from "../src/bytes.js";
import { answer as respond, check, headers, judge, keep, run } from "../src/glue.js";

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

test("what can be known of an arrival and an attempt is there", () => {
  const came = arrival("{}", { path: "/a", receivedAt: 5 });
  assert.deepEqual([came.receivedAt, came.request.path, came.request.header("content-type")], [5, "/a", "application/json"]);
  const goes = attempt("{}", { number: 3, headers: [] });
  assert.deepEqual([goes.number, goes.origin, goes.request.path, goes.request.headers], [3, "https://api.example.com", "/hook", []]);
  assert.match(`${goes.deliveryId} ${goes.eventId}`, /^dlv_0{26} evt_0{26}$/);
});

/** What the gateway gets, or the code of the failure. */
function outcome(work) {
  try {
    return work();
  } catch ({ code, message }) {
    return `${code}: ${message}`;
  }
}

test("a verdict about a sender is one of two", () => {
  const verdict = (value) => outcome(() => check(() => value, arrival(), new FakeHost()));
  assert.deepEqual(verdict("accept"), { tag: "accept" });
  assert.deepEqual(verdict({ reject: "no" }), { tag: "reject", val: "no" });
  for (const wrong of [true, undefined, null, "reject", {}, { reject: 1 }]) assert.match(verdict(wrong), /^bad-output: verify returned /);
  assert.match(verdict(Promise.resolve("accept")), /not asynchronous/);
});

test("an answer is a response or null", () => {
  const answered = (value) => outcome(() => respond(() => value, arrival(), new FakeHost()));
  assert.equal(answered(null), null);
  assert.deepEqual(answered(Response.json(201, { a: 1 }).withHeader("x-b", bytes(0xff))), {
    status: 201,
    headers: [
      { name: "content-type", value: text("application/json") },
      { name: "x-b", value: bytes(0xff) },
    ],
    body: text('{"a":1}'),
    attributes: [],
  });
  for (const wrong of [undefined, "text", { status: 200 }]) assert.match(answered(wrong), /^bad-output: respond returned /);
  assert.match(answered(new Response({ status: "200" })), /^uncaught-exception: TypeError: 200 is no status/);
  assert.throws(() => Response.text(200, 1), TypeError);
  assert.throws(() => Response.json(200, undefined), TypeError);
});

test("headers are members of an object, or pairs", () => {
  const signed = (value) => outcome(() => headers(() => value, attempt(), new FakeHost()));
  assert.deepEqual(signed({ "x-a": "1" }), [{ name: "x-a", value: text("1") }]);
  assert.deepEqual(signed([["x-a", bytes(0xff)], ["x-a", ""]]), [{ name: "x-a", value: bytes(0xff) }, { name: "x-a", value: bytes() }]);
  assert.deepEqual(signed({}), []);
  for (const wrong of [undefined, "x-a: 1", null]) assert.match(signed(wrong), /^bad-output: sign returned /);
  assert.match(signed({ "x-a": 1 }), /^uncaught-exception: TypeError: a header's value/);
});

test("a judgement is one of five", () => {
  const judged = (value) => outcome(() => judge(() => value, attempt(), new Response(), new FakeHost()));
  assert.deepEqual(judged("default"), { tag: "default" });
  assert.deepEqual(judged("delivered"), { tag: "delivered" });
  assert.deepEqual(judged("retry"), { tag: "retry", val: null });
  assert.deepEqual(judged({ retryAfterMs: 50 }), { tag: "retry", val: 50 });
  assert.deepEqual(judged({ deadLetter: "gone" }), { tag: "dead-letter", val: "gone" });
  for (const wrong of [undefined, "done", { retryAfterMs: -1 }, { retryAfterMs: 0.5 }, { deadLetter: 1 }]) {
    assert.match(judged(wrong), /^bad-output: judge returned /);
  }
});

test("the table does what the gateway's does", () => {
  const host = new FakeHost({ table: { a: "1", raw: bytes(0xff) } });
  const { kv } = host;
  assert.deepEqual([kv.get("a"), kv.get("raw"), kv.get("none")], [text("1"), bytes(0xff), null]);
  kv.set("a", "2", 60);
  assert.deepEqual(host.table.get("a"), { value: text("2"), ttlSeconds: 60 });
  assert.deepEqual([kv.add("a", "3"), kv.add("b", "3")], [false, true]);
  assert.deepEqual([kv.delete("b"), kv.delete("b")], [true, false]);
  assert.deepEqual([kv.increment("a", 40), kv.increment("n"), kv.increment("n", -3, 5)], [42, 1, -2]);
  assert.deepEqual([host.table.get("a").ttlSeconds, host.table.get("n").ttlSeconds], [60, null]);
});

test("what the table refuses is a failure", () => {
  const refused = (ask, set = {}) => outcome(() => ask(new FakeHost(set).kv)).split(":")[0];
  const full = { table: { a: "1" }, tableBytes: 130 };
  assert.equal(refused((kv) => kv.set("b", ""), full), "kv-quota-exceeded");
  assert.equal(outcome(() => new FakeHost(full).kv.set("a", "2")), undefined);
  assert.throws(() => new FakeHost(full).kv.add("b", ""), { retry: "later" });
  for (const value of ["", "x", "01", "1.5", bytes(0xff)]) {
    assert.equal(refused((kv) => kv.increment("a"), { table: { a: value } }), "kv-not-a-number");
  }
  assert.equal(refused((kv) => kv.increment("a"), { table: { a: "9223372036854775807" } }), "kv-not-a-number");
  assert.equal(refused((kv) => kv.increment("a"), { table: { a: String(2 ** 53 - 1) } }), "kv-not-a-number");
  for (const key of ["", "é".repeat(129), "a\nb"]) assert.equal(refused((kv) => kv.get(key)), "kv-too-large");
  assert.equal(refused((kv) => kv.set("a", new Uint8Array(65_537))), "kv-too-large");
  assert.throws(() => new FakeHost().kv.set("a", 1), TypeError);
  assert.throws(() => new FakeHost().kv.set("a", "1", 0), RangeError);
  assert.throws(() => new FakeHost().kv.increment("a", 0.5), RangeError);
});

test("hashes are compared, and hexadecimal digits read", () => {
  const host = new FakeHost({ signing: { key: "k" } });
  const tag = host.hmac("sha1", "key", "m");
  assert.deepEqual([host.hmacVerify("sha1", "key", "m", tag), host.hmacVerify("sha1", "key", "n", tag)], [true, false]);
  assert.equal(host.hmacVerify("sha1", "key", "m", ""), false);
  assert.equal(host.hmacVerify("sha1", "none", "m", tag), null);
  assert.throws(() => host.hmacVerify("md5", "key", "m", tag), TypeError);
  assert.deepEqual(decodeHex(encodeHex(tag)), tag);
  assert.deepEqual([decodeHex("0A"), decodeHex(""), decodeHex("0"), decodeHex("0g")], [bytes(10), bytes(), null, null]);
});
