import assert from "node:assert/strict";
import { test } from "node:test";

import { Response, decode } from "tidegate-plugin";
import { FakeHost, arrival, attempt, event } from "tidegate-plugin/testing";

import { filter, judge, respond, sign, verify } from "./plugin.js";

const host = () => new FakeHost({ signing: { acme: "key" } });
const arrived = (signature) => arrival("{}", { headers: { "x-acme-signature": signature } });

test("verifies what it signed itself", () => {
  const { "x-acme-signature": signature } = sign(attempt("{}"), host());
  assert.equal(verify(arrived(signature), host()), "accept");
  const wrong = ["", "t=1700000000", "t=x,v1=00", "t=1700000000,v1=00", "t=1600000000,v1=00", signature.replace("t=17", "t=16")];
  for (const signature of wrong) assert.ok(verify(arrived(signature), host()).reject, signature);
  assert.deepEqual(verify(arrival("{}"), host()), { reject: "there is no signature" });
  assert.throws(() => verify(arrived(signature), new FakeHost()), { code: "no-secret" });
});

test("answers the handshake, and nothing else", () => {
  const challenge = '{"challenge": "abc"}';
  assert.equal(respond(arrival(challenge), host()), null);
  const { status, body } = respond(arrival(challenge, { path: "/handshake" }), host());
  assert.deepEqual([status, decode(body)], [200, "abc"]);
});

test("drops an order that was seen before", () => {
  const one = host();
  const kept = [7, 8, 7].map((order) => filter(event(`{"order": ${order}}`), one));
  assert.deepEqual(kept, [true, true, false]);
  assert.equal(decode(one.kv.get("orders")), "2");
  assert.equal(one.table.get("order/7").ttlSeconds, 86_400);
});

test("reads what happened out of the body", () => {
  const judged = (body) => judge(attempt("{}"), Response.json(200, body), host());
  assert.deepEqual(judged({ result: "busy", wait_ms: 50 }), { retryAfterMs: 50 });
  assert.equal(judged({ result: "busy" }), "retry");
  assert.deepEqual(judged({ result: "refused", why: "no such order" }), { deadLetter: "no such order" });
  assert.equal(judge(attempt("{}"), Response.text(200, "ok"), host()), "delivered");
  assert.equal(judge(attempt("{}"), Response.text(500, ""), host()), "default");
});
