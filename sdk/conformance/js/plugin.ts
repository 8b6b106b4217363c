// Does what a conformance case's configuration says: see ../README.md.

import { Arrival, Attempt, Event, Failure, Header, Host, Judgement, Output, Request, Response, Verification } from "tidegate-plugin";

type Data = string | { hex: string };

interface Sent {
  method?: string;
  path?: string;
  query?: string;
  remove_query?: boolean;
  headers?: ["clear" | "remove" | "set" | "append", string, Data][];
  body?: Data;
}

interface Op {
  op: "get" | "set" | "add" | "delete" | "increment";
  key: string;
  /** Not given: the event's body. */
  value?: Data;
  ttl?: number;
  by?: number;
}

export function filter(event: Event, host: Host): boolean {
  const config = host.config();
  write(config.log, host);
  switch (config.do) {
    case "kv":
      return operate(config, event.request.body, host).at(-1) === true;
    case "keep":
      return hex(event.request.body) === hex(bytes(config.body));
    default:
      return refuse(config);
  }
}

export function transform(event: Event, host: Host): Output | Output[] {
  const config = host.config();
  const { request } = event;
  switch (config.do) {
    case "describe":
      return answer(describe(event));
    case "headers":
      return answer({ first: request.header(config.name), all: request.headerValues(config.name).map(hex) });
    case "reverse":
      return new Output().body(request.body.toReversed());
    case "read-json":
      return answer(request.json());
    case "outputs":
      return Array.from({ length: config.times ?? 1 }, () => config.outputs.map(output)).flat();
    case "host":
      return answer(ask(config, host));
    case "kv":
      write(config.log, host);
      return answer(operate(config, request.body, host));
    default:
      return refuse(config);
  }
}

export function verify(arrival: Arrival, host: Host): Verification {
  const config = host.config();
  switch (config.do) {
    case "describe":
      return { reject: arrivalText(arrival, host) };
    case "accept":
      return "accept";
    case "reject":
      return { reject: config.reason };
    default:
      return refuseWithoutTable(config, host);
  }
}

export function respond(arrival: Arrival, host: Host): Response | null {
  const config = host.config();
  switch (config.do) {
    case "describe":
      return Response.text(200, arrivalText(arrival, host));
    case "none":
      return null;
    case "answer": {
      const headers = lines(config.headers).map(([name, value]) => ({ name, value }));
      return new Response({ status: config.status, headers, body: bytes(config.body) });
    }
    default:
      return refuseWithoutTable(config, host);
  }
}

export function sign(attempt: Attempt, host: Host): Record<string, string> | [string, Uint8Array][] {
  const config = host.config();
  switch (config.do) {
    case "describe":
      return { "x-described": attemptText(attempt, host) };
    case "sign":
      return lines(config.headers);
    default:
      return refuseWithoutTable(config, host);
  }
}

export function judge(attempt: Attempt, response: Response, host: Host): Judgement {
  const config = host.config();
  switch (config.do) {
    case "describe": {
      const { status, headers, body, attributes } = response;
      const text = [attemptText(attempt, host), status, headersText(headers), hex(body), attributes.length].join("|");
      return { deadLetter: text };
    }
    case "judge":
      return judgement(config.verdict);
    default:
      return refuseWithoutTable(config, host);
  }
}

function judgement(verdict: any): Judgement {
  if (typeof verdict === "string") return verdict as Judgement;
  return "retry_after_ms" in verdict ? { retryAfterMs: verdict.retry_after_ms } : { deadLetter: verdict.dead_letter };
}

/** The table's refusal, for whoever has none. */
function refuseWithoutTable(config: any, host: Host): never {
  if (config.do === "kv") operate(config, new Uint8Array(), host);
  return refuse(config);
}

function operate({ ops, times = 1, catch: catching = false }: any, body: Uint8Array, host: Host): unknown[] {
  return Array.from({ length: times }, () => ops)
    .flat()
    .map((op: Op) => {
      try {
        return one(op, body, host);
      } catch (failure) {
        if (!catching || !(failure instanceof Failure)) throw failure;
        return { failure: failure.code };
      }
    });
}

function one({ op, key, value, ttl, by }: Op, body: Uint8Array, { kv }: Host): unknown {
  const data = value === undefined ? body : typeof value === "string" ? value : bytes(value);
  switch (op) {
    case "get":
      return hex(kv.get(key));
    case "set":
      kv.set(key, data, ttl);
      return "done";
    case "add":
      return kv.add(key, data, ttl);
    case "delete":
      return kv.delete(key);
    case "increment":
      return String(kv.increment(key, by, ttl));
  }
}

function lines(headers: [string, Data][] = []): [string, Uint8Array][] {
  return headers.map(([name, value]) => [name, bytes(value)]);
}

function arrivalText({ receivedAt, request, attributes }: Arrival, host: Host): string {
  return [host.now(), receivedAt, requestText(request), attributes.length].join("|");
}

function attemptText({ deliveryId, eventId, number, startedAt, origin, request, attributes }: Attempt, host: Host): string {
  return [host.now(), deliveryId, eventId, number, startedAt, origin, requestText(request), attributes.length].join("|");
}

function requestText({ method, path, query, headers, body }: Request): string {
  return [method, path, query ?? "-", headersText(headers), hex(body)].join("|");
}

function headersText(headers: Header[]): string {
  return headers.map(({ name, value }) => `${name}=${hex(value)}`).join(",");
}

function refuse(config: any): never {
  if (config.do === "fail") throw new Failure(config.code, config.message, config.retry);
  if (config.do === "raise") throw new RangeError(config.message);
  throw Failure.never("unknown-case", `nothing to do for ${config.do}`);
}

function answer(value: unknown): Output {
  return new Output().method("POST").path("/in").removeQuery().clearHeaders().json(value);
}

function describe({ id, acceptedAt, request, attributes }: Event): unknown {
  return {
    id,
    accepted_at: acceptedAt,
    method: request.method,
    path: request.path,
    query: request.query,
    headers: request.headers.map(({ name, value }) => [name, hex(value)]),
    body: hex(request.body),
    attributes: attributes.length,
  };
}

function output(sent: Sent): Output {
  const output = new Output();
  if (sent.method !== undefined) output.method(sent.method);
  if (sent.path !== undefined) output.path(sent.path);
  if (sent.query !== undefined) output.query(sent.query);
  if (sent.remove_query) output.removeQuery();
  for (const [change, name, value] of sent.headers ?? []) {
    if (change === "clear") output.clearHeaders();
    if (change === "remove") output.removeHeader(name);
    if (change === "set") output.header(name, typeof value === "string" ? value : bytes(value));
    if (change === "append") output.appendHeader(name, typeof value === "string" ? value : bytes(value));
  }
  if (sent.body !== undefined) output.body(typeof sent.body === "string" ? sent.body : bytes(sent.body));
  return output;
}

function ask(config: any, host: Host): unknown {
  write(config.log, host);
  const secrets = (config.secrets ?? []).map((name: string) => [name, hex(host.secret(name))]);
  const verified = config.hmac_verify?.map(([algorithm, name, message, tag]: ["sha1", string, Data, Data]) =>
    host.hmacVerify(algorithm, name, bytes(message), bytes(tag)),
  );
  return {
    now: host.now(),
    secrets: Object.fromEntries(secrets),
    hmac: (config.hmac ?? []).map(([algorithm, name, message]: ["sha1", string, Data]) => hex(host.hmac(algorithm, name, bytes(message)))),
    random: (config.random ?? []).map((length: number) => hex(host.randomBytes(length))),
    numbers: Array.from({ length: config.numbers ?? 0 }, () => String(host.randomNumber())),
    hmac_verify: verified,
  };
}

function write(lines: ["info", string][] = [], host: Host) {
  for (const [level, message] of lines) host.log(level, message);
}

function bytes(data: Data): Uint8Array {
  if (typeof data === "string") return new TextEncoder().encode(data);
  return Uint8Array.from(data.hex.match(/../g) ?? [], (digits) => Number.parseInt(digits, 16));
}

function hex(bytes: Uint8Array): string;
function hex(bytes: Uint8Array | null): string | null;
function hex(bytes: Uint8Array | null): string | null {
  return bytes && Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
