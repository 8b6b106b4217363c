/**
 * Write Tidegate plugins in JavaScript or TypeScript: a module that exports `filter` or `transform` for connections, `verify` or `respond`
 * for sources, `sign` or `judge` for destinations, or several of them.
 *
 * Every event gets a fresh instance: nothing that a plugin leaves in memory reaches the next event. Plugins are synchronous.
 */

/** Decides whether an event goes on: true keeps it; false drops it, which is recorded as filtered. */
export type Filter = (event: Event, host: Host) => boolean;

/** Makes the requests that go out, in order; an empty array drops the event, which is recorded as filtered. */
export type Transform = (event: Event, host: Host) => Output | Output[];

/**
 * Checks a source's requests by its sender's own scheme, before they are accepted. What it throws is answered 503, and nothing is kept.
 * Compare signatures with `host.hmacVerify`, which takes the same time wherever they differ.
 */
export type Verify = (arrival: Arrival, host: Host) => Verification;

/** Answers requests that are no events, like the handshake with which a sender asks whose an endpoint is; null for an event like any other. */
export type Respond = (arrival: Arrival, host: Host) => Response | null;

/** Signs attempts by a receiver's own scheme: headers, which replace lines of the same name. */
export type Sign = (attempt: Attempt, host: Host) => Record<string, string | Uint8Array> | [string, string | Uint8Array][];

/** Says what a destination's answer means. What it throws leaves it to the gateway, like `"default"`. */
export type Judge = (attempt: Attempt, response: Response, host: Host) => Judgement;

/** Whether a request is the sender's. The reason for rejecting it is for the operator's log; the sender is answered 401. */
export type Verification = "accept" | { reject: string };

/**
 * What becomes of a delivery: what the gateway would make of the answer, done, tried again by the retry policy, tried again no sooner
 * than after so many milliseconds, or given up for a reason.
 */
export type Judgement = "default" | "delivered" | "retry" | { retryAfterMs: number } | { deadLetter: string };

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

/** What has headers and a body. */
declare class Message {
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

/** A request, byte for byte. */
export declare class Request extends Message {
  constructor(fields?: { method?: string; path?: string; query?: string | null; headers?: Header[]; body?: Uint8Array });

  /** As sent: `POST`. */
  method: string;
  /** The path below the source, with its leading `/`, or empty. */
  path: string;
  /** The raw query without `?`; null if the request had no `?`. */
  query: string | null;
}

/** One accepted event. */
export declare class Event {
  constructor(fields: { id: string; acceptedAt: number; request: ConstructorParameters<typeof Request>[0]; attributes?: Attribute[] });

  /** `evt_` and 26 characters. The same on every retry and replay. */
  id: string;
  /** When the gateway accepted it: milliseconds since the Unix epoch. */
  acceptedAt: number;
  request: Request;
  /** Empty up to version 1.1. Ignore names that you do not know. */
  attributes: Attribute[];
}

/** A request that has come in and is not accepted yet, with all its headers, credentials too. */
export declare class Arrival {
  constructor(fields: { receivedAt: number; request: ConstructorParameters<typeof Request>[0]; attributes?: Attribute[] });

  /** When it came: milliseconds since the Unix epoch. */
  receivedAt: number;
  request: Request;
  /** Empty in version 1.1. Ignore names that you do not know. */
  attributes: Attribute[];
}

/** One HTTP request of a delivery. */
export declare class Attempt {
  constructor(fields: {
    deliveryId: string;
    eventId: string;
    number?: number;
    startedAt: number;
    origin: string;
    request: ConstructorParameters<typeof Request>[0];
    attributes?: Attribute[];
  });

  /** `dlv_` and 26 characters, sent as `webhook-id`. The same on every attempt. */
  deliveryId: string;
  /** `evt_` and 26 characters. */
  eventId: string;
  /** 1 for the first. */
  number: number;
  /** When it began: milliseconds since the Unix epoch. */
  startedAt: number;
  /** Where it goes, without path and query: `https://api.example.com`. */
  origin: string;
  /** What goes out: path and query as they are sent, the headers of the event or of the plugins before, the body. */
  request: Request;
  /** Empty in version 1.1. Ignore names that you do not know. */
  attributes: Attribute[];
}

/** An answer to a request: a destination's, whose body may be cut short, or one that the plugin makes. */
export declare class Response extends Message {
  /** 200 without headers and body, but for what `fields` says. */
  constructor(fields?: { status?: number; headers?: Header[]; body?: Uint8Array; attributes?: Attribute[] });
  /** An answer with a body of plain text. */
  static text(status: number, text: string): Response;
  /** An answer with a JSON body. */
  static json(status: number, value: unknown): Response;

  /** 200 to 599. */
  status: number;
  /** Empty in version 1.1. */
  attributes: Attribute[];

  /** Adds a line, whatever is there already. */
  withHeader(name: string, value: string | Uint8Array): this;
  /** The WIT's record, for tests. */
  toRecord(): { status: number; headers: Header[]; body: Uint8Array; attributes: Attribute[] };
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
  /**
   * When the event was accepted, the request came in (`verify`, `respond`) or the attempt began (`sign`, `judge`): milliseconds since the Unix
   * epoch. `Date.now()` gives the same.
   */
  now(): number;
  /** Random bytes, seeded from the event's id. At most 4,096 a call. Not fit for keys. */
  randomBytes(length: number): Uint8Array;
  /** A random number of 64 bits, seeded from the event's id. `Math.random()` is made of it. */
  randomNumber(): bigint;
  /** The raw keyed hash of `message` under a secret of the connection; null if it names no such secret. */
  hmac(algorithm: "sha1" | "sha256" | "sha512", secretName: string, message: string | Uint8Array): Uint8Array | null;
  /** Whether `tag` is that hash, compared in a time that does not tell where they differ; null if there is no such secret. */
  hmacVerify(
    algorithm: "sha1" | "sha256" | "sha512",
    secretName: string,
    message: string | Uint8Array,
    tag: string | Uint8Array,
  ): boolean | null;
  /** The plugin's table. */
  readonly kv: Kv;
}

/**
 * The plugin's table, which outlives the event and is shared by all its connections and versions. For `filter` and `transform`.
 *
 * Changes are made at once, and once for each event, however often it is planned. Asking for what is not at hand makes the gateway stop the
 * plugin and run it again from the start with the answer, without a `catch` or `finally` of its: ask first, work afterwards.
 *
 * A key is a text of 1 to 256 bytes without control characters, a value at most 64 KiB. Entries are kept for `ttlSeconds`, or for good. What
 * the gateway does not do is thrown as a failure: `kv-too-large`, `kv-not-a-number` and `kv-no-table`, which no retry can help, and
 * `kv-quota-exceeded`.
 */
export declare class Kv {
  /** An entry's value; null if there is none. */
  get(key: string): Uint8Array | null;
  /** Makes or replaces an entry. */
  set(key: string, value: string | Uint8Array, ttlSeconds?: number): void;
  /** Makes an entry unless there is one; whether it did. */
  add(key: string, value: string | Uint8Array, ttlSeconds?: number): boolean;
  /** Takes an entry away; whether there was one. */
  delete(key: string): boolean;
  /**
   * Adds to a number (1 unless `by` says otherwise), and gives the sum. One that does not exist counts as zero and is made, with the time to
   * live; that of one that exists stays. A sum beyond 2^53 is `kv-not-a-number`, though it is in the table.
   */
  increment(key: string, by?: number, ttlSeconds?: number): number;
}

/** The text that the bytes are in UTF-8; null if they are not UTF-8. */
export declare function decode(bytes: Uint8Array): string | null;

/** The text in UTF-8. */
export declare function encode(text: string): Uint8Array;

/** Bytes in hexadecimal digits, lower case. */
export declare function encodeHex(bytes: Uint8Array): string;

/** The bytes that hexadecimal digits stand for; null if the text is anything else. */
export declare function decodeHex(text: string): Uint8Array | null;
