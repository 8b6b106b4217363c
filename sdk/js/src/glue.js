/** Between an author's functions and the WIT's. */

import { toText } from "./bytes.js";
import { Event } from "./event.js";
import { Arrival, Attempt, Response, lines } from "./exchange.js";
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

/** Runs `verify` on the WIT's arrival: gives the WIT's verdict, or throws the WIT's failure. */
export function check(verify, arrival, host) {
  return guarded(host, () => {
    const verdict = verify(new Arrival(arrival), host);
    if (verdict === "accept") return { tag: "accept" };
    if (typeof verdict?.reject === "string") return { tag: "reject", val: toText(verdict.reject) };
    throw unusable(`verify returned ${described(verdict)} instead of "accept" or { reject: REASON }`);
  });
}

/** Runs `respond` on the WIT's arrival: gives the WIT's response or null, or throws the WIT's failure. */
export function answer(respond, arrival, host) {
  return guarded(host, () => {
    const response = respond(new Arrival(arrival), host);
    if (response === null) return null;
    if (!(response instanceof Response)) throw unusable(`respond returned ${described(response)} instead of a Response or null`);
    return response.toRecord();
  });
}

/** Runs `sign` on the WIT's attempt: gives the WIT's headers, or throws the WIT's failure. */
export function headers(sign, attempt, host) {
  return guarded(host, () => {
    const signed = sign(new Attempt(attempt), host);
    if (signed === null || typeof signed !== "object" || signed instanceof Promise) {
      throw unusable(`sign returned ${described(signed)} instead of headers`);
    }
    return lines(signed);
  });
}

/** Runs `judge` on the WIT's attempt and response: gives the WIT's verdict, or throws the WIT's failure. */
export function judge(judge, attempt, response, host) {
  return guarded(host, () => {
    const verdict = judge(new Attempt(attempt), new Response(response), host);
    if (verdict === "default" || verdict === "delivered") return { tag: verdict };
    if (verdict === "retry") return { tag: "retry", val: null };
    if (Number.isSafeInteger(verdict?.retryAfterMs) && verdict.retryAfterMs >= 0) return { tag: "retry", val: verdict.retryAfterMs };
    if (typeof verdict?.deadLetter === "string") return { tag: "dead-letter", val: toText(verdict.deadLetter) };
    const expected = '"default", "delivered", "retry", { retryAfterMs: NUMBER } or { deadLetter: REASON }';
    throw unusable(`judge returned ${described(verdict)} instead of ${expected}`);
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
