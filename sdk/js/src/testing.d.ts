/** What tests of plugins need, under Node: events to feed them, and a host that stands in for the gateway. */

import { Arrival, Attempt, Event, Host } from "./index.js";

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

type Sent = { method?: string; path?: string; query?: string | null; headers?: Record<string, Bytes> | [string, Bytes][] };

/** A request that comes in with this body, in the same manner. */
export declare function arrival(body?: Bytes, change?: Sent & { receivedAt?: number }): Arrival;

/** A first attempt to deliver this body to `https://api.example.com/hook`, in the same manner. */
export declare function attempt(
  body?: Bytes,
  change?: Sent & { deliveryId?: string; eventId?: string; number?: number; startedAt?: number; origin?: string },
): Attempt;

/** Stands in for the gateway. Its random bytes count up from one; its hashes are real. Nothing in its table goes by its time to live. */
export declare class FakeHost extends Host {
  constructor(set?: {
    /** The configuration: a JSON text, or what becomes one. */
    config?: unknown;
    /** Secrets that the plugin may read and sign with. */
    secrets?: Record<string, Bytes>;
    /** Secrets that it may only sign with. */
    signing?: Record<string, Bytes>;
    now?: number;
    /** What is in the plugin's table before. */
    table?: Record<string, Bytes>;
    /** How much the table may take: bytes of keys and values, and 128 for each entry. */
    tableBytes?: number;
  });

  /** What the plugin logged: level and message. */
  logs: [string, string][];
  /** What is in its table, with the time to live that it was given. */
  table: Map<string, { value: Uint8Array; ttlSeconds: number | null }>;
}
