"""Reads {"secret", "headers", "body"} as JSON; prints "verified", or "refused" with the library's reason."""
import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

message = json.load(sys.stdin)
try:
    Webhook(message["secret"]).verify(message["body"], message["headers"])
    print("verified")
except WebhookVerificationError as reason:
    print("refused", reason)
