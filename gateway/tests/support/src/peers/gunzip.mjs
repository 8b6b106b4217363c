// Reads base64 of a gzip file; prints its text.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

console.log(gunzipSync(Buffer.from(readFileSync(0, "utf8"), "base64")).toString("utf8"));
