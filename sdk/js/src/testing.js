import { createHmac, timingSafeEqual } from "node:crypto";

import { decode, toBytes } from "./bytes.js";
import { Event } from "./event.js";
import { Arrival, Attempt } from "./exchange.js";
import { Host } from "./host.js";
import { Kv } from "./kv.js";

const TIME = 1_700_000_000_000;

const ID = "00000000000000000000000000";

/** An event with this body and, unless `change` says otherwise, `content-type: application/json` and fixed id and time. */
export function event(body = "", change = {}) {
  const { id = `evt_${ID}`, acceptedAt = TIME, ...sent } = change;
  return new Event({ id, acceptedAt, request: request(body, sent) });
}

/** A request that comes in with this body. */
export function arrival(body = "", change = {}) {
  const { receivedAt = TIME, ...sent } = change;
  return new Arrival({ receivedAt, request: request(body, sent) });
}

/** A first attempt to deliver this body to `https://api.example.com/hook`. */
export function attempt(body = "", change = {}) {
  const { deliveryId = `dlv_${ID}`, eventId = `evt_${ID}`, number = 1, startedAt = TIME, ...rest } = change;
  const { origin = "https://api.example.com", ...sent } = rest;
  return new Attempt({ deliveryId, eventId, number, startedAt, origin, request: request(body, { path: "/hook", ...sent }) });
}

function request(body, { headers = {}, ...rest }) {
  const lines = Array.isArray(headers) ? headers : Object.entries({ "content-type": "application/json", ...headers });
  return {
    ...rest,
    headers: lines.map(([name, value]) => ({ name: name.toLowerCase(), value: toBytes(value, "a header's value") })),
    body: toBytes(body, "a body"),
  };
}

const OVERHEAD = 128;
const MAX_KEY = 256;
const MAX_VALUE = 64 << 10;
const LEAST = -(2n ** 63n);
const MOST = 2n ** 63n - 1n;

/** A table that behaves as the gateway's. What it refuses it throws as a component's runtime does. */
class FakeTable {
  constructor(entries, room) {
    this.entries = entries;
    this.room = room;
  }

  get(key) {
    check(key, "");
    return this.entries.get(key)?.value ?? null;
  }

  set(key, value, ttlSeconds) {
    check(key, value);
    const taken = [...this.entries].reduce((sum, [name, entry]) => sum + size(name, entry.value), 0);
    const before = this.entries.get(key);
    const growth = size(key, value) - (before ? size(key, before.value) : 0);
    if (growth > 0 && taken + growth > this.room) throw refusal("quota-exceeded");
    this.entries.set(key, { value, ttlSeconds });
  }

  add(key, value, ttlSeconds) {
    check(key, value);
    const isNew = !this.entries.has(key);
    if (isNew) this.set(key, value, ttlSeconds);
    return isNew;
  }

  delete(key) {
    check(key, "");
    return this.entries.delete(key);
  }

  increment(key, by, ttlSeconds) {
    check(key, "");
    const before = this.entries.get(key);
    const text = before ? decode(before.value) : "0";
    if (!/^(0|-?[1-9][0-9]*)$/.test(text ?? "")) throw refusal("not-a-number");
    const sum = BigInt(text) + BigInt(by);
    if (sum < LEAST || sum > MOST) throw refusal("not-a-number");
    this.set(key, toBytes(String(sum), "a value"), before ? before.ttlSeconds : ttlSeconds);
    return Number(sum);
  }
}

function check(key, value) {
  const length = Buffer.byteLength(key);
  if (length < 1 || length > MAX_KEY || /\p{Cc}/u.test(key) || value.length > MAX_VALUE) throw refusal("too-large");
}

const size = (key, value) => Buffer.byteLength(key) + value.length + OVERHEAD;
const refusal = (payload) => Object.assign(new Error(payload), { payload });

/** Stands in for the gateway: what a test configures, and what the plugin logged. */
export class FakeHost extends Host {
  constructor({ config = {}, secrets = {}, signing = {}, now = TIME, table = {}, tableBytes = Infinity } = {}) {
    const logs = [];
    const given = Object.entries(table).map(([key, value]) => [key, { value: toBytes(value, "a value"), ttlSeconds: null }]);
    const entries = new Map(given);
    let drawn = 0;
    const value = (name, ...places) => {
      const place = places.find((place) => Object.hasOwn(place, name));
      return place ? toBytes(place[name], "a secret") : null;
    };
    const sign = (algorithm, name, message) => {
      const key = value(name, secrets, signing);
      return key && new Uint8Array(createHmac(algorithm, key).update(message).digest());
    };
    const gateway = {
      log: { write: (level, message) => logs.push([level, message]) },
      config: { get: () => (typeof config === "string" ? config : JSON.stringify(config)) },
      secret: { get: (name) => value(name, secrets) },
      clock: { now: () => now },
      random: { bytes: (length) => Uint8Array.from({ length }, () => (drawn += 1) & 0xff) },
      hmac: {
        sign,
        verify: (algorithm, name, message, tag) => {
          const expected = sign(algorithm, name, message);
          return expected && expected.length === tag.length && timingSafeEqual(expected, tag);
        },
      },
    };
    super(gateway, new Kv(new FakeTable(entries, tableBytes)));
    this.logs = logs;
    this.table = entries;
  }
}
