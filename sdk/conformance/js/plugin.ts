// Does what a conformance case's configuration says: see ../README.md.

import { Event, Failure, Host, Output } from "tidegate-plugin";

type Data = string | { hex: string };

interface Sent {
  method?: string;
  path?: string;
  query?: string;
  remove_query?: boolean;
  headers?: ["clear" | "remove" | "set" | "append", string, Data][];
  body?: Data;
}

export function filter(event: Event, host: Host): boolean {
  const config = host.config();
  write(config.log, host);
  switch (config.do) {
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
    default:
      return refuse(config);
  }
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
  return {
    now: host.now(),
    secrets: Object.fromEntries(secrets),
    hmac: (config.hmac ?? []).map(([algorithm, name, message]: ["sha1", string, Data]) => hex(host.hmac(algorithm, name, bytes(message)))),
    random: (config.random ?? []).map((length: number) => hex(host.randomBytes(length))),
    numbers: Array.from({ length: config.numbers ?? 0 }, () => String(host.randomNumber())),
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
