import { createHmac } from "node:crypto";

import { toBytes } from "./bytes.js";
import { Event } from "./event.js";
import { Host } from "./host.js";

const TIME = 1_700_000_000_000;

/** An event with this body and, unless `change` says otherwise, `content-type: application/json` and fixed id and time. */
export function event(body = "", change = {}) {
  const { id = "evt_00000000000000000000000000", acceptedAt = TIME, headers = {}, ...request } = change;
  const lines = Array.isArray(headers) ? headers : Object.entries({ "content-type": "application/json", ...headers });
  return new Event({
    id,
    acceptedAt,
    request: {
      ...request,
      headers: lines.map(([name, value]) => ({ name: name.toLowerCase(), value: toBytes(value, "a header's value") })),
      body: toBytes(body, "a body"),
    },
  });
}

/** Stands in for the gateway: what a test configures, and what the plugin logged. */
export class FakeHost extends Host {
  constructor({ config = {}, secrets = {}, signing = {}, now = TIME } = {}) {
    const logs = [];
    let drawn = 0;
    const value = (name, ...places) => {
      const place = places.find((place) => Object.hasOwn(place, name));
      return place ? toBytes(place[name], "a secret") : null;
    };
    super({
      log: { write: (level, message) => logs.push([level, message]) },
      config: { get: () => (typeof config === "string" ? config : JSON.stringify(config)) },
      secret: { get: (name) => value(name, secrets) },
      clock: { now: () => now },
      random: { bytes: (length) => Uint8Array.from({ length }, () => (drawn += 1) & 0xff) },
      hmac: {
        sign: (algorithm, name, message) => {
          const key = value(name, secrets, signing);
          return key && new Uint8Array(createHmac(algorithm, key).update(message).digest());
        },
      },
    });
    this.logs = logs;
  }
}
