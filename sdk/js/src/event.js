import { decode } from "./bytes.js";
import { Failure } from "./failure.js";

/** What has headers and a body. */
export class Message {
  constructor({ headers, body }) {
    this.headers = headers;
    this.body = body;
  }

  headerValues(name) {
    const wanted = name.toLowerCase();
    return this.headers.filter((header) => header.name.toLowerCase() === wanted).map((header) => header.value);
  }

  headerBytes(name) {
    return this.headerValues(name)[0] ?? null;
  }

  header(name) {
    const value = this.headerBytes(name);
    return value && decode(value);
  }

  text() {
    const text = decode(this.body);
    if (text === null) throw Failure.never("not-utf8", "the body: not UTF-8");
    return text;
  }

  json() {
    const text = decode(this.body);
    if (text === null) throw Failure.never("not-json", "the body: not UTF-8");
    try {
      return JSON.parse(text);
    } catch (error) {
      throw Failure.never("not-json", `the body: ${error.message}`);
    }
  }
}

/** A request, byte for byte. */
export class Request extends Message {
  constructor({ method = "POST", path = "", query = null, headers = [], body = new Uint8Array() } = {}) {
    super({ headers, body });
    this.method = method;
    this.path = path;
    this.query = query ?? null;
  }
}

/** One accepted event. */
export class Event {
  constructor({ id, acceptedAt, request, attributes = [] }) {
    this.id = id;
    this.acceptedAt = Number(acceptedAt);
    this.request = new Request(request);
    this.attributes = attributes;
  }
}
