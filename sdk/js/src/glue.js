/** Between an author's functions and the WIT's. */

import { toText } from "./bytes.js";
import { Event } from "./event.js";
import { Failure } from "./failure.js";
import { Output } from "./output.js";

/** Runs `filter` on the WIT's event: gives a boolean, or throws the WIT's failure. */
export function keep(filter, event, host) {
  return guarded(host, () => {
    const kept = filter(new Event(event), host);
    if (typeof kept !== "boolean") throw unusable(`filter returned ${described(kept)} instead of true or false`);
    return kept;
  });
}

/** Runs `transform` on the WIT's event: gives the WIT's outputs, or throws the WIT's failure. */
export function run(transform, event, host) {
  return guarded(host, () => {
    const answer = transform(new Event(event), host);
    const outputs = answer instanceof Output ? [answer] : answer;
    if (!Array.isArray(outputs)) {
      throw unusable(`transform returned ${described(answer)} instead of an Output or an array of them (empty to drop the event)`);
    }
    return outputs.map((output) => {
      if (!(output instanceof Output)) throw unusable(`transform returned ${described(output)} among its outputs`);
      return output.toRecord();
    });
  });
}

function guarded(host, work) {
  try {
    return work();
  } catch (thrown) {
    if (!(thrown instanceof Failure)) host.error(trace(thrown));
    throw record(thrown);
  }
}

function trace(thrown) {
  return thrown instanceof Error ? `uncaught ${thrown}\n${thrown.stack ?? ""}`.trimEnd() : `uncaught ${described(thrown)}`;
}

function record(thrown) {
  if (!(thrown instanceof Failure)) {
    const message = thrown instanceof Error ? String(thrown) : described(thrown);
    return { code: "uncaught-exception", message: toText(message), retry: "never" };
  }
  const { code, message, retry } = thrown;
  return { code: toText(String(code)), message: toText(String(message)), retry: retry === "later" ? "later" : "never" };
}

const unusable = (message) => Failure.never("bad-output", message);

function described(value) {
  if (value instanceof Promise) return "a promise (plugins are not asynchronous)";
  if (value === null || typeof value !== "object") return String(value);
  return `an object of type ${value.constructor?.name ?? "unknown"}`;
}
