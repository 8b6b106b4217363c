"""A service with a scheme of its own, all that a plugin can do about it in one place.

- It signs what it sends, and what it receives is to be signed: `x-acme-signature: t=TIME,v1=HASH`, where `HASH` is the HMAC-SHA-256 of
  `TIME.BODY` in hex, and `TIME` is in seconds.
- Before it sends anything it asks for the `challenge` that it posts.
- It numbers its orders and may send one twice.
- It answers 200 whatever happened, and says in the body what did.
"""

from tidegate_plugin import (
    Accept,
    Arrival,
    Attempt,
    DeadLetter,
    Default,
    Delivered,
    Event,
    Failure,
    Host,
    Judgement,
    Reject,
    Response,
    Retry,
    Verification,
)

SIGNATURE = "x-acme-signature"
SECRET = "acme"
"""The secret's name in the source's, or the destination's, configuration."""
TOLERANCE = 300
"""How far a signature's time may be from now, in seconds."""
REMEMBERED = 24 * 60 * 60
"""How long an order is remembered, in seconds."""


def verify(arrival: Arrival, host: Host) -> Verification:
    signature = arrival.request.header(SIGNATURE)
    if signature is None:
        return Reject("there is no signature")
    parts = dict(part.partition("=")[::2] for part in signature.split(","))
    time, given = parts.get("t"), parts.get("v1")
    if not time or not given:
        return Reject("the signature has no t or no v1")
    if not time.isascii() or not time.isdigit():
        return Reject("the signature's time is no number")
    if abs(int(time) - arrival.received_at // 1000) > TOLERANCE:
        return Reject("the signature is too old, or from the future")
    match host.hmac_verify("sha256", SECRET, signed(time, arrival.request.body), digits(given)):
        case None:
            raise Failure.never("no-secret", f"the source has no secret `{SECRET}`")
        case True:
            return Accept()
        case _:
            return Reject("the signature is not this body's")


def respond(arrival: Arrival, host: Host) -> Response | None:
    if arrival.request.path != "/handshake":
        return None
    challenge = arrival.request.json().get("challenge")
    return Response.of_text(200, challenge) if isinstance(challenge, str) else None


def filter(event: Event, host: Host) -> bool:
    """Drops an order that was seen before."""
    order = event.request.json().get("order")
    if not isinstance(order, int):
        return True
    first = host.kv.add(f"order/{order}", event.id, REMEMBERED)
    seen = host.kv.increment("orders", 1 if first else 0)
    host.info(f"{seen} orders so far")
    return first


def sign(attempt: Attempt, host: Host) -> dict[str, str]:
    time = str(attempt.started_at // 1000)
    made = host.hmac("sha256", SECRET, signed(time, attempt.request.body))
    if made is None:
        raise Failure.never("no-secret", f"the destination has no secret `{SECRET}`")
    return {SIGNATURE: f"t={time},v1={made.hex()}"}


def judge(attempt: Attempt, response: Response, host: Host) -> Judgement:
    if response.status != 200:
        return Default()
    try:
        body = response.json()
    except Failure:
        return Delivered()
    match body:
        case {"result": "busy", "wait_ms": int(wait)} if wait >= 0:
            return Retry(wait)
        case {"result": "busy"}:
            return Retry()
        case {"result": "refused", "why": str(why)}:
            return DeadLetter(why)
        case {"result": "refused"}:
            return DeadLetter("no reason given")
    return Delivered()


def signed(time: str, body: bytes) -> bytes:
    """What is signed."""
    return time.encode() + b"." + body


def digits(text: str) -> bytes:
    """The bytes that hexadecimal digits stand for; none for anything else."""
    try:
        return bytes.fromhex(text)
    except ValueError:
        return b""
