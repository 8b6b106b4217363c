/**
 * What plugins' dependencies expect to find and QuickJS without WASI lacks. Time and chance come from the gateway, so that a retry
 * sees the same.
 */

import { decode, decodeLossy, encode } from "./bytes.js";

let host = null;

/** Lets the globals ask this host from now on. */
export function attach(to) {
  host = to;
}

const EngineDate = Date;
const now = () => (host ? host.now() : 0);

globalThis.Date = new Proxy(EngineDate, {
  construct: (target, values, newTarget) => Reflect.construct(target, values.length > 0 ? values : [now()], newTarget),
  apply: () => new EngineDate(now()).toString(),
});
EngineDate.now = now;
EngineDate.prototype.constructor = globalThis.Date;

Math.random = () => (host ? Number(host.randomNumber() >> 11n) / 2 ** 53 : 0);

globalThis.performance = { now: () => 0, timeOrigin: 0 };

const shown = (value) => (typeof value === "object" && value !== null && !(value instanceof Error) ? JSON.stringify(value) : String(value));
const writer = (level) => (...values) => host?.log(level, values.map(shown).join(" "));
globalThis.console = {
  debug: writer("debug"),
  log: writer("info"),
  info: writer("info"),
  warn: writer("warn"),
  error: writer("error"),
};

globalThis.TextEncoder ??= class TextEncoder {
  encoding = "utf-8";

  encode(text = "") {
    return encode(String(text));
  }
};

globalThis.TextDecoder ??= class TextDecoder {
  encoding = "utf-8";

  constructor(label = "utf-8", { fatal = false, ignoreBOM = false } = {}) {
    if (!/^utf-?8$/i.test(label)) throw new RangeError(`the encoding ${label} is not supported`);
    this.fatal = fatal;
    this.ignoreBOM = ignoreBOM;
  }

  decode(input = new Uint8Array()) {
    const bytes = ArrayBuffer.isView(input)
      ? new Uint8Array(input.buffer, input.byteOffset, input.byteLength)
      : new Uint8Array(input);
    const text = this.fatal ? decode(bytes) : decodeLossy(bytes);
    if (text === null) throw new TypeError("not UTF-8");
    return !this.ignoreBOM && text.startsWith("\ufeff") ? text.slice(1) : text;
  }
};
