import { encode, toBytes, toText } from "./bytes.js";
import { Message, Request } from "./event.js";

/** A request that has come in and is not accepted yet. */
export class Arrival {
  constructor({ receivedAt, request, attributes = [] }) {
    this.receivedAt = Number(receivedAt);
    this.request = new Request(request);
    this.attributes = attributes;
  }
}

/** One HTTP request of a delivery. */
export class Attempt {
  constructor({ deliveryId, eventId, number = 1, startedAt, origin, request, attributes = [] }) {
    this.deliveryId = deliveryId;
    this.eventId = eventId;
    this.number = number;
    this.startedAt = Number(startedAt);
    this.origin = origin;
    this.request = new Request(request);
    this.attributes = attributes;
  }
}

/** An answer to a request: a destination's, or one that the plugin makes. */
export class Response extends Message {
  constructor({ status = 200, headers = [], body = new Uint8Array(), attributes = [] } = {}) {
    super({ headers, body });
    this.status = status;
    this.attributes = attributes;
  }

  static text(status, text) {
    return new Response({ status, body: encode(toText(text, "a text")) }).withHeader("content-type", "text/plain; charset=utf-8");
  }

  static json(status, value) {
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError(`${typeof value} has no JSON`);
    return new Response({ status, body: encode(text) }).withHeader("content-type", "application/json");
  }

  withHeader(name, value) {
    this.headers = [...this.headers, header(name, value)];
    return this;
  }

  /** The WIT's record. */
  toRecord() {
    const { status } = this;
    if (!Number.isInteger(status) || status < 0 || status > 0xffff) throw new TypeError(`${status} is no status`);
    return {
      status,
      headers: this.headers.map(({ name, value }) => header(name, value)),
      body: toBytes(this.body, "a body"),
      attributes: [],
    };
  }
}

/** The WIT's records of an object's members, or of pairs. */
export function lines(headers) {
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers);
  return pairs.map(([name, value]) => header(name, value));
}

function header(name, value) {
  return { name: toText(name, "a header's name"), value: toBytes(value, "a header's value") };
}
