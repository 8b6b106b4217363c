"""With `read`: takes {"headers", "body"} as JSON and prints the event. With `binary` or `structured`: takes the event and prints the message."""
import json
import sys
from datetime import datetime

from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent

what = sys.argv[1]
given = json.load(sys.stdin)
if what == "read":
    event = http.from_http_event(http.HTTPMessage(headers=given["headers"], body=given["body"].encode()))
    shown = {**event.get_attributes(), "data": event.get_data()}
    print(json.dumps(shown, default=lambda time: time.isoformat(timespec="milliseconds").replace("+00:00", "Z")))
else:
    data = given.pop("data")
    given["time"] = datetime.fromisoformat(given["time"].replace("Z", "+00:00"))
    make = http.to_binary_event if what == "binary" else http.to_structured_event
    message = make(CloudEvent(attributes=given, data=data))
    print(json.dumps({"headers": message.headers, "body": message.body.decode()}))
