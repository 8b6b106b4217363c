/** What tests of plugins need, under Node: events to feed them, and a host that stands in for the gateway. */

import { Event, Host } from "./index.js";

type Bytes = string | Uint8Array;

/**
 * An event with this body: a `POST` with `content-type: application/json` and fixed id and time, but for what `change` says. Headers
 * given as an object are added; an array of pairs replaces them all.
 */
export declare function event(
  body?: Bytes,
  change?: {
    id?: string;
    acceptedAt?: number;
    method?: string;
    path?: string;
    query?: string | null;
    headers?: Record<string, Bytes> | [string, Bytes][];
  },
): Event;

/** Stands in for the gateway. Its random bytes count up from one; its hashes are real. */
export declare class FakeHost extends Host {
  constructor(set?: {
    /** The configuration: a JSON text, or what becomes one. */
    config?: unknown;
    /** Secrets that the plugin may read and sign with. */
    secrets?: Record<string, Bytes>;
    /** Secrets that it may only sign with. */
    signing?: Record<string, Bytes>;
    now?: number;
  });

  /** What the plugin logged: level and message. */
  logs: [string, string][];
}
