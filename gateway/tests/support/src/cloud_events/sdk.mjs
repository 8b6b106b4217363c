// With `read`: takes {"headers", "body"} as JSON and prints the event. With `binary` or `structured`: takes the event and prints the message.
import { readFileSync } from "node:fs";
import { CloudEvent, HTTP } from "cloudevents";

const what = process.argv[1];
const input = JSON.parse(readFileSync(0, "utf8"));
const made = () => HTTP[what](new CloudEvent(input));
console.log(JSON.stringify(what === "read" ? HTTP.toEvent(input) : made()));
