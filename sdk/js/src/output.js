import { encode, toBytes, toText } from "./bytes.js";

/** One request to send, as changes to the request that came in. */
export class Output {
  #method;
  #path;
  #query = { tag: "keep" };
  #headers = [];
  #body;

  method(method) {
    this.#method = toText(method, "a method");
    return this;
  }

  path(path) {
    this.#path = toText(path, "a path");
    return this;
  }

  query(query) {
    this.#query = { tag: "set", val: toText(query, "a query") };
    return this;
  }

  removeQuery() {
    this.#query = { tag: "remove" };
    return this;
  }

  header(name, value) {
    this.#headers.push({ tag: "set", val: header(name, value) });
    return this;
  }

  appendHeader(name, value) {
    this.#headers.push({ tag: "append", val: header(name, value) });
    return this;
  }

  removeHeader(name) {
    this.#headers.push({ tag: "remove", val: toText(name, "a header's name") });
    return this;
  }

  clearHeaders() {
    this.#headers.push({ tag: "clear" });
    return this;
  }

  body(body) {
    this.#body = toBytes(body, "a body");
    return this;
  }

  json(value) {
    const text = JSON.stringify(value);
    if (text === undefined) throw new TypeError(`${typeof value} has no JSON`);
    this.#body = encode(text);
    return this.header("content-type", "application/json");
  }

  /** The WIT's record. */
  toRecord() {
    return {
      method: this.#method ?? null,
      path: this.#path ?? null,
      query: this.#query,
      headers: this.#headers,
      body: this.#body ?? null,
      attributes: [],
    };
  }
}

function header(name, value) {
  return { name: toText(name, "a header's name"), value: toBytes(value, "a header's value") };
}
