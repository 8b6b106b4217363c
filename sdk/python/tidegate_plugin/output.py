"""Saying what goes out."""

import json
from typing import Any, Self


class Output:
    """One request to send, as changes to the request that came in: what is not mentioned stays as it was.

    Text goes out as UTF-8. Changes to headers are applied in the order of the calls.
    """

    def __init__(self) -> None:
        self._method: str | None = None
        self._path: str | None = None
        self._query: tuple[str, ...] = ("keep",)
        self._headers: list[tuple[Any, ...]] = []
        self._body: bytes | None = None

    def method(self, method: str) -> Self:
        """Another method."""
        self._method = text(method, "a method")
        return self

    def path(self, path: str) -> Self:
        """Another path, which the gateway appends to the destination's."""
        self._path = text(path, "a path")
        return self

    def query(self, query: str) -> Self:
        """Another query: raw, without `?`."""
        self._query = ("set", text(query, "a query"))
        return self

    def remove_query(self) -> Self:
        """No query."""
        self._query = ("remove",)
        return self

    def header(self, name: str, value: str | bytes) -> Self:
        """Leaves exactly one line with this name."""
        self._headers.append(("set", text(name, "a header's name"), raw(value, "a header's value")))
        return self

    def append_header(self, name: str, value: str | bytes) -> Self:
        """Adds a line, whatever is there already."""
        self._headers.append(("append", text(name, "a header's name"), raw(value, "a header's value")))
        return self

    def remove_header(self, name: str) -> Self:
        """Removes every line with this name."""
        self._headers.append(("remove", text(name, "a header's name")))
        return self

    def clear_headers(self) -> Self:
        """Removes every header that came in. Headers set before this call go too."""
        self._headers.append(("clear",))
        return self

    def body(self, body: str | bytes) -> Self:
        """Another body."""
        self._body = raw(body, "a body")
        return self

    def json(self, value: Any) -> Self:
        """A JSON body, with `content-type: application/json`."""
        self._body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(errors="replace")
        return self.header("content-type", "application/json")

    def changes(self) -> dict[str, Any]:
        """What it says: `method`, `path` and `body` or None, `query` and each of the `headers` as a tuple that begins with the change."""
        return {
            "method": self._method,
            "path": self._path,
            "query": self._query,
            "headers": list(self._headers),
            "body": self._body,
        }


def text(value: object, what: str) -> str:
    """A string that can be handed to the gateway: half a surrogate pair becomes a question mark."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {type(value).__name__}")
    return value.encode(errors="replace").decode()


def raw(value: object, what: str) -> bytes:
    """Bytes as they are, text in UTF-8."""
    if isinstance(value, str):
        return value.encode(errors="replace")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} must be a str or bytes, not {type(value).__name__}")
