"""Reading what came in."""

import json
from dataclasses import dataclass, field
from typing import Any

from .failure import Failure


@dataclass(frozen=True)
class Header:
    """One header line."""

    name: str
    """Lower case."""
    value: bytes
    """The raw bytes of the field value."""


@dataclass(frozen=True)
class Attribute:
    """A name and a value that the records of this version have no field for."""

    name: str
    value: str


class Message:
    """What has headers and a body."""

    headers: list[Header]
    body: bytes

    def header_values(self, name: str) -> list[bytes]:
        """Every value of a header, in order; the name's case does not matter."""
        wanted = name.lower()
        return [header.value for header in self.headers if header.name.lower() == wanted]

    def header_bytes(self, name: str) -> bytes | None:
        """The first value of a header; the name's case does not matter."""
        return next(iter(self.header_values(name)), None)

    def header(self, name: str) -> str | None:
        """The first value of a header, if it is UTF-8."""
        value = self.header_bytes(name)
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError:
            return None

    def text(self) -> str:
        """The body as text. Raises the failure `not-utf8`, which no retry can help."""
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Failure.never("not-utf8", f"the body: {error.reason} at byte {error.start}") from None

    def json(self) -> Any:
        """The body, read as JSON. Raises the failure `not-json`, which no retry can help."""
        try:
            return json.loads(self.body.decode())
        except UnicodeDecodeError as error:
            raise Failure.never("not-json", f"the body: {error.reason} at byte {error.start}") from None
        except (ValueError, RecursionError) as error:
            raise Failure.never("not-json", f"the body: {error}") from None


@dataclass(frozen=True)
class Request(Message):
    """A request, byte for byte."""

    method: str = "POST"
    """As sent."""
    path: str = ""
    """The path below the source, with its leading `/`, or empty."""
    query: str | None = None
    """The raw query without `?`; None if the request had no `?`."""
    headers: list[Header] = field(default_factory=list)
    """In the order in which they came, repeated ones repeated."""
    body: bytes = b""


@dataclass(frozen=True)
class Event:
    """One accepted event."""

    id: str
    """`evt_` and 26 characters. The same on every retry and replay."""
    accepted_at: int
    """When the gateway accepted it: milliseconds since the Unix epoch."""
    request: Request
    attributes: list[Attribute] = field(default_factory=list)
    """Empty up to version 1.1. Ignore names that you do not know."""
