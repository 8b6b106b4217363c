// sign.mjs SECRET <BODY: prints what GitHub would send as X-Hub-Signature-256.
import { sign } from "@octokit/webhooks-methods";
import { readFileSync } from "node:fs";

process.stdout.write(await sign(process.argv[1], readFileSync(0, "utf8")));
