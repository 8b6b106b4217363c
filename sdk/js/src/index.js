export { decode, decodeHex, encode, encodeHex } from "./bytes.js";
export { Event, Request } from "./event.js";
export { Arrival, Attempt, Response } from "./exchange.js";
export { Failure } from "./failure.js";
export { Host } from "./host.js";
export { Kv } from "./kv.js";
export { Output } from "./output.js";
