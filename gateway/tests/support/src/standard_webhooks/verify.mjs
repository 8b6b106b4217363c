// Reads {"secret", "headers", "body"} as JSON; prints "verified", or "refused" with the library's reason.
import { readFileSync } from "node:fs";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

const { secret, headers, body } = JSON.parse(readFileSync(0, "utf8"));
try {
  new Webhook(secret).verify(body, headers);
  console.log("verified");
} catch (reason) {
  if (!(reason instanceof WebhookVerificationError)) throw reason;
  console.log("refused", reason.message);
}
