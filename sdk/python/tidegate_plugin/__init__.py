"""Write Tidegate plugins in Python: a module with one or more of these functions.

For connections:

    def filter(event: Event, host: Host) -> bool: ...
    def transform(event: Event, host: Host) -> Output | list[Output]: ...

A filter's True keeps the event; False drops it, which is recorded as filtered. A transform's outputs are the requests that go out, in
order; an empty list drops the event.

For sources, before a request is accepted:

    def verify(arrival: Arrival, host: Host) -> Verification: ...
    def respond(arrival: Arrival, host: Host) -> Response | None: ...

A verifier says `Accept()` or `Reject(reason)`; a failure is answered 503, and nothing is kept. A responder answers requests that are no
events, like the handshake with which a sender asks whose an endpoint is; None is for an event like any other.

For destinations:

    def sign(attempt: Attempt, host: Host) -> Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]]: ...
    def judge(attempt: Attempt, response: Response, host: Host) -> Judgement: ...

A signer's headers replace lines of the same name. A judge says `Default()`, `Delivered()`, `Retry()` or `DeadLetter(reason)`; a failure
leaves it to the gateway, like `Default()`.

A module with an `__all__` offers only what that names: where a helper has one of the names above.

Every event gets a fresh instance: nothing that a plugin leaves in memory reaches the next event. What is to be remembered goes into the
plugin's table, `host.kv`.
"""

from .event import Attribute, Event, Header, Request
from .exchange import Accept, Arrival, Attempt, DeadLetter, Default, Delivered, Judgement, Reject, Response, Retry, Verification
from .failure import Failure
from .host import Host
from .kv import Kv
from .output import Output

__all__ = [
    "Accept",
    "Arrival",
    "Attempt",
    "Attribute",
    "DeadLetter",
    "Default",
    "Delivered",
    "Event",
    "Failure",
    "Header",
    "Host",
    "Judgement",
    "Kv",
    "Output",
    "Reject",
    "Request",
    "Response",
    "Retry",
    "Verification",
]
