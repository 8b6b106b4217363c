/**
 * Write Tidegate plugins in JavaScript or TypeScript: a module that exports `filter`, `transform`, or both.
 *
 * Every event gets a fresh instance: nothing that a plugin leaves in memory reaches the next event. Plugins are synchronous.
 */

/** Decides whether an event goes on: true keeps it; false drops it, which is recorded as filtered. */
export type Filter = (event: Event, host: Host) => boolean;

/** Makes the requests that go out, in order; an empty array drops the event, which is recorded as filtered. */
export type Transform = (event: Event, host: Host) => Output | Output[];

/** One header line. */
export interface Header {
  /** Lower case. */
  name: string;
  /** The raw bytes of the field value. */
  value: Uint8Array;
}

/** A name and a value that the records of this version have no field for. */
export interface Attribute {
  name: string;
  value: string;
}

/** The request that the gateway accepted, byte for byte. */
export declare class Request {
  constructor(fields?: { method?: string; path?: string; query?: string | null; headers?: Header[]; body?: Uint8Array });

  /** As sent: `POST`. */
  method: string;
  /** The path below the source, with its leading `/`, or empty. */
  path: string;
  /** The raw query without `?`; null if the request had no `?`. */
  query: string | null;
  /** In the order in which they came, repeated ones repeated. */
  headers: Header[];
  body: Uint8Array;

  /** The first value of a header, if it is UTF-8; the name's case does not matter. */
  header(name: string): string | null;
  /** The first value of a header; the name's case does not matter. */
  headerBytes(name: string): Uint8Array | null;
  /** Every value of a header, in order; the name's case does not matter. */
  headerValues(name: string): Uint8Array[];
  /** The body as text. Throws the failure `not-utf8`, which no retry can help. */
  text(): string;
  /** The body, read as JSON. Throws the failure `not-json`, which no retry can help. */
  json(): any;
}

/** One accepted event. */
export declare class Event {
  constructor(fields: { id: string; acceptedAt: number; request: ConstructorParameters<typeof Request>[0]; attributes?: Attribute[] });

  /** `evt_` and 26 characters. The same on every retry and replay. */
  id: string;
  /** When the gateway accepted it: milliseconds since the Unix epoch. */
  acceptedAt: number;
  request: Request;
  /** Empty in version 1.0. Ignore names that you do not know. */
  attributes: Attribute[];
}

/**
 * One request to send, as changes to the request that came in: what is not mentioned stays as it was. Text goes out as UTF-8.
 * Changes to headers are applied in the order of the calls.
 */
export declare class Output {
  /** Another method. */
  method(method: string): this;
  /** Another path, which the gateway appends to the destination's. */
  path(path: string): this;
  /** Another query: raw, without `?`. */
  query(query: string): this;
  /** No query. */
  removeQuery(): this;
  /** Leaves exactly one line with this name. */
  header(name: string, value: string | Uint8Array): this;
  /** Adds a line, whatever is there already. */
  appendHeader(name: string, value: string | Uint8Array): this;
  /** Removes every line with this name. */
  removeHeader(name: string): this;
  /** Removes every header that came in. Headers set before this call go too. */
  clearHeaders(): this;
  /** Another body. */
  body(body: string | Uint8Array): this;
  /** A JSON body, with `content-type: application/json`. */
  json(value: unknown): this;
  /** The WIT's record, for tests. */
  toRecord(): OutputRecord;
}

/** What the WIT calls an `output`. */
export interface OutputRecord {
  method: string | null;
  path: string | null;
  query: { tag: "keep" } | { tag: "remove" } | { tag: "set"; val: string };
  headers: ({ tag: "clear" } | { tag: "remove"; val: string } | { tag: "set" | "append"; val: Header })[];
  body: Uint8Array | null;
  attributes: Attribute[];
}

/** Why a plugin could not decide. Throw it; anything else that is thrown becomes the failure `uncaught-exception`. */
export declare class Failure extends Error {
  constructor(code: string, message: string, retry?: "never" | "later");
  /** A failure that the same input gives again. `code` is for machines (`bad-payload`), `message` for people. */
  static never(code: string, message: string): Failure;
  /** A failure that a later try may not meet. */
  static later(code: string, message: string): Failure;

  code: string;
  retry: "never" | "later";
}

/** What a plugin may ask of the gateway. In tests, `FakeHost` of `tidegate-plugin/testing` takes the gateway's place. */
export declare class Host {
  /** A line in the run's record. Control characters are removed; lines and bytes are capped. */
  log(level: "debug" | "info" | "warn" | "error", message: string): void;
  debug(message: string): void;
  info(message: string): void;
  warn(message: string): void;
  error(message: string): void;
  /** The plugin's configuration on this connection, a JSON text; `{}` if there is none. */
  configText(): string;
  /** The configuration, read as JSON. Throws the failure `bad-config`, which no retry can help. */
  config(): any;
  /** A secret that the connection hands to this plugin; null if it names no such secret or keeps it for signing alone. */
  secret(name: string): Uint8Array | null;
  /** When the event was accepted: milliseconds since the Unix epoch. `Date.now()` gives the same. */
  now(): number;
  /** Random bytes, seeded from the event's id. At most 4,096 a call. Not fit for keys. */
  randomBytes(length: number): Uint8Array;
  /** A random number of 64 bits, seeded from the event's id. `Math.random()` is made of it. */
  randomNumber(): bigint;
  /** The raw keyed hash of `message` under a secret of the connection; null if it names no such secret. */
  hmac(algorithm: "sha1" | "sha256" | "sha512", secretName: string, message: string | Uint8Array): Uint8Array | null;
}

/** The text that the bytes are in UTF-8; null if they are not UTF-8. */
export declare function decode(bytes: Uint8Array): string | null;

/** The text in UTF-8. */
export declare function encode(text: string): Uint8Array;
