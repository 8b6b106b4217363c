/**
 * A service with a scheme of its own, all that a plugin can do about it in one place:
 *
 * - it signs what it sends, and what it receives is to be signed: `x-acme-signature: t=TIME,v1=HASH`, where `HASH` is the HMAC-SHA-256 of
 *   `TIME.BODY` in hex, and `TIME` is in seconds;
 * - before it sends anything it asks for the `challenge` that it posts;
 * - it numbers its orders and may send one twice;
 * - it answers 200 whatever happened, and says in the body what did.
 */

import { Failure, Response, decodeHex, encode, encodeHex } from "tidegate-plugin";

const SIGNATURE = "x-acme-signature";
/** The secret's name in the source's, or the destination's, configuration. */
const SECRET = "acme";
/** How far a signature's time may be from now, in seconds. */
const TOLERANCE = 300;
/** How long an order is remembered, in seconds. */
const REMEMBERED = 24 * 60 * 60;

/** @type {import("tidegate-plugin").Verify} */
export function verify({ request, receivedAt }, host) {
  const signature = request.header(SIGNATURE);
  if (signature === null) return { reject: "there is no signature" };
  const { t: time, v1: hash } = Object.fromEntries(signature.split(",").map((part) => part.split("=", 2)));
  if (!time || !hash) return { reject: "the signature has no t or no v1" };
  if (!/^[0-9]{1,12}$/.test(time)) return { reject: "the signature's time is no number" };
  if (Math.abs(Number(time) - Math.floor(receivedAt / 1000)) > TOLERANCE) {
    return { reject: "the signature is too old, or from the future" };
  }
  const right = host.hmacVerify("sha256", SECRET, signed(time, request.body), decodeHex(hash) ?? "");
  if (right === null) throw Failure.never("no-secret", `the source has no secret \`${SECRET}\``);
  return right ? "accept" : { reject: "the signature is not this body's" };
}

/** @type {import("tidegate-plugin").Respond} */
export function respond({ request }) {
  if (request.path !== "/handshake") return null;
  const { challenge } = request.json();
  return typeof challenge === "string" ? Response.text(200, challenge) : null;
}

/**
 * Drops an order that was seen before.
 *
 * @type {import("tidegate-plugin").Filter}
 */
export function filter({ id, request }, host) {
  const { order } = request.json();
  if (!Number.isInteger(order)) return true;
  const first = host.kv.add(`order/${order}`, id, REMEMBERED);
  const seen = host.kv.increment("orders", first ? 1 : 0);
  host.info(`${seen} orders so far`);
  return first;
}

/** @type {import("tidegate-plugin").Sign} */
export function sign({ startedAt, request }, host) {
  const time = String(Math.floor(startedAt / 1000));
  const hash = host.hmac("sha256", SECRET, signed(time, request.body));
  if (hash === null) throw Failure.never("no-secret", `the destination has no secret \`${SECRET}\``);
  return { [SIGNATURE]: `t=${time},v1=${encodeHex(hash)}` };
}

/** @type {import("tidegate-plugin").Judge} */
export function judge(_, response) {
  if (response.status !== 200) return "default";
  const { result, wait_ms: wait, why } = said(response);
  if (result === "busy") return Number.isInteger(wait) && wait >= 0 ? { retryAfterMs: wait } : "retry";
  if (result === "refused") return { deadLetter: typeof why === "string" ? why : "no reason given" };
  return "delivered";
}

/**
 * The body, if it is a JSON object.
 *
 * @param {Response} response
 */
function said(response) {
  try {
    return response.json() ?? {};
  } catch {
    return {};
  }
}

/**
 * What is signed.
 *
 * @param {string} time
 * @param {Uint8Array} body
 */
function signed(time, body) {
  const head = encode(`${time}.`);
  const message = new Uint8Array(head.length + body.length);
  message.set(head);
  message.set(body, head.length);
  return message;
}
