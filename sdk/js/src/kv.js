import { toBytes, toText } from "./bytes.js";
import { Failure } from "./failure.js";

/** What the gateway refuses, as the failure that a plugin ends with if it does not catch it. */
const REFUSALS = {
  "quota-exceeded": () => Failure.later("kv-quota-exceeded", "the tenant's tables are full"),
  "not-a-number": () => Failure.never("kv-not-a-number", "the entry to add to is not a number"),
  "too-large": () => Failure.never("kv-too-large", "the key or the value is too large for the table"),
  "no-table": () => Failure.never("kv-no-table", "there is no table here"),
};

/** Longer than the longest time to live that the gateway gives, and the most that the engine can hand over. */
const MAX_TTL = 0x7fffffff;

/** The plugin's table, over the functions of the WIT's interface. */
export class Kv {
  #table;

  constructor(table) {
    this.#table = table;
  }

  get(key) {
    return asked(() => this.#table.get(toText(key, "a key"))) ?? null;
  }

  set(key, value, ttlSeconds) {
    asked(() => this.#table.set(toText(key, "a key"), toBytes(value, "a value"), ttl(ttlSeconds)));
  }

  add(key, value, ttlSeconds) {
    return asked(() => this.#table.add(toText(key, "a key"), toBytes(value, "a value"), ttl(ttlSeconds)));
  }

  delete(key) {
    return asked(() => this.#table.delete(toText(key, "a key")));
  }

  /** The engine hands numbers over as doubles: what they cannot hold must not pass for the sum. */
  increment(key, by = 1, ttlSeconds) {
    if (!Number.isSafeInteger(by)) throw new RangeError(`${by} is no whole number that can be added`);
    const sum = Number(asked(() => this.#table.increment(toText(key, "a key"), by, ttl(ttlSeconds))));
    if (!Number.isSafeInteger(sum)) throw Failure.never("kv-not-a-number", "the sum is more than a number of JavaScript can hold");
    return sum;
  }
}

function ttl(seconds) {
  if (seconds === undefined || seconds === null) return null;
  if (!Number.isInteger(seconds) || seconds < 1) throw new RangeError(`${seconds} is no number of seconds`);
  return Math.min(seconds, MAX_TTL);
}

function asked(ask) {
  try {
    return ask();
  } catch (thrown) {
    throw REFUSALS[thrown?.payload]?.() ?? thrown;
  }
}
