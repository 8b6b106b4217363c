"""What sources and destinations are about: requests that are not accepted yet, attempts, and answers."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Self

from .event import Attribute, Header, Message, Request
from .output import raw, text


@dataclass(frozen=True)
class Arrival:
    """A request that has come in and is not accepted yet, with all its headers, credentials too."""

    request: Request
    received_at: int
    """When it came: milliseconds since the Unix epoch."""
    attributes: list[Attribute] = field(default_factory=list)
    """Empty in version 1.1. Ignore names that you do not know."""


@dataclass(frozen=True)
class Attempt:
    """One HTTP request of a delivery."""

    delivery_id: str
    """`dlv_` and 26 characters, sent as `webhook-id`. The same on every attempt."""
    event_id: str
    """`evt_` and 26 characters."""
    number: int
    """1 for the first."""
    started_at: int
    """When it began: milliseconds since the Unix epoch."""
    origin: str
    """Where it goes, without path and query: `https://api.example.com`."""
    request: Request
    """What goes out: path and query as they are sent, the headers of the event or of the plugins before, the body."""
    attributes: list[Attribute] = field(default_factory=list)
    """Empty in version 1.1. Ignore names that you do not know."""


@dataclass(frozen=True)
class Response(Message):
    """An answer to a request: a destination's, whose body may be cut short, or one that the plugin makes."""

    status: int
    """200 to 599."""
    headers: list[Header] = field(default_factory=list)
    """In order, repeated ones repeated."""
    body: bytes = b""
    attributes: list[Attribute] = field(default_factory=list)
    """Empty in version 1.1."""

    @classmethod
    def of_text(cls, status: int, value: str) -> Self:
        """An answer with a body of plain text."""
        return cls(status, body=raw(text(value, "a text"), "a text")).with_header("content-type", "text/plain; charset=utf-8")

    @classmethod
    def of_json(cls, status: int, value: Any) -> Self:
        """An answer with a JSON body."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(errors="replace")
        return cls(status, body=body).with_header("content-type", "application/json")

    def with_header(self, name: str, value: str | bytes) -> Self:
        """The same with one more line, whatever is there already."""
        return replace(self, headers=[*self.headers, header(name, value)])


def header(name: str, value: str | bytes) -> Header:
    """A line that can be handed to the gateway."""
    return Header(text(name, "a header's name"), raw(value, "a header's value"))


@dataclass(frozen=True)
class Accept:
    """A verdict: the request is the sender's, and an event is made of it."""


@dataclass(frozen=True)
class Reject:
    """A verdict: the request is not the sender's, who is answered 401."""

    reason: str
    """For the operator's log."""


Verification = Accept | Reject


@dataclass(frozen=True)
class Default:
    """A judgement: what the gateway would make of the answer."""


@dataclass(frozen=True)
class Delivered:
    """A judgement: the delivery is done."""


@dataclass(frozen=True)
class Retry:
    """A judgement: the delivery is to be tried again, by the retry policy."""

    after_ms: int | None = None
    """No sooner than after so many milliseconds, if a number is given."""


@dataclass(frozen=True)
class DeadLetter:
    """A judgement: the delivery is given up."""

    reason: str


Judgement = Default | Delivered | Retry | DeadLetter
