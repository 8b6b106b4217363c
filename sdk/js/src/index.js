export { decode, encode } from "./bytes.js";
export { Event, Request } from "./event.js";
export { Failure } from "./failure.js";
export { Host } from "./host.js";
export { Output } from "./output.js";
