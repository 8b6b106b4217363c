"""What tests of plugins need: events to feed them, and a host that stands in for the gateway."""

import hmac as keyed
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from unicodedata import category

from .event import Event, Header, Request
from .exchange import Arrival, Attempt
from .failure import Failure
from .host import Algorithm, Host, Level
from .kv import REFUSALS, Kv, addend, seconds
from .output import raw, text

TIME = 1_700_000_000_000


def event(
    body: str | bytes = b"",
    *,
    id: str = "evt_00000000000000000000000000",
    accepted_at: int = TIME,
    method: str = "POST",
    path: str = "",
    query: str | None = None,
    headers: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] = (),
) -> Event:
    """An event with this body. Headers given as a mapping are added to `content-type: application/json`; pairs replace it."""
    return Event(id, accepted_at, _request(body, method, path, query, headers))


def arrival(
    body: str | bytes = b"",
    *,
    received_at: int = TIME,
    method: str = "POST",
    path: str = "",
    query: str | None = None,
    headers: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] = (),
) -> Arrival:
    """A request that comes in with this body, in the same manner."""
    return Arrival(_request(body, method, path, query, headers), received_at)


def attempt(
    body: str | bytes = b"",
    *,
    delivery_id: str = "dlv_00000000000000000000000000",
    event_id: str = "evt_00000000000000000000000000",
    number: int = 1,
    started_at: int = TIME,
    origin: str = "https://api.example.com",
    method: str = "POST",
    path: str = "/hook",
    query: str | None = None,
    headers: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]] = (),
) -> Attempt:
    """A first attempt to deliver this body, in the same manner."""
    return Attempt(delivery_id, event_id, number, started_at, origin, _request(body, method, path, query, headers))


def _request(
    body: str | bytes,
    method: str,
    path: str,
    query: str | None,
    headers: Mapping[str, str | bytes] | Iterable[tuple[str, str | bytes]],
) -> Request:
    if isinstance(headers, Mapping):
        headers = ({"content-type": "application/json"} | dict(headers)).items()
    lines = [Header(name.lower(), raw(value, "a header's value")) for name, value in headers]
    return Request(method, path, query, lines, raw(body, "a body"))


@dataclass
class Entry:
    """One of the plugin's table."""

    value: bytes
    ttl_seconds: int | None = None
    """The time to live that it was given."""


class FakeTable(Kv):
    """Behaves as the gateway's. Nothing in it goes by its time to live."""

    def __init__(self, entries: dict[str, Entry], room: int | None) -> None:
        self._entries = entries
        self._room = room

    def get(self, key: str) -> bytes | None:
        _check(key)
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def set(self, key: str, value: str | bytes, ttl_seconds: int | None = None) -> None:
        new = Entry(raw(value, "a value"), seconds(ttl_seconds))
        _check(key, new.value)
        before = self._entries.get(key)
        growth = _size(key, new) - (0 if before is None else _size(key, before))
        if growth > 0 and self._room is not None and growth + sum(_size(*entry) for entry in self._entries.items()) > self._room:
            raise _refusal("quota-exceeded")
        self._entries[key] = new

    def add(self, key: str, value: str | bytes, ttl_seconds: int | None = None) -> bool:
        _check(key, raw(value, "a value"))
        if key in self._entries:
            return False
        self.set(key, value, ttl_seconds)
        return True

    def delete(self, key: str) -> bool:
        _check(key)
        return self._entries.pop(key, None) is not None

    def increment(self, key: str, by: int = 1, ttl_seconds: int | None = None) -> int:
        _check(key)
        before = self._entries.get(key)
        try:
            number = 0 if before is None else int(before.value.decode())
        except ValueError:
            raise _refusal("not-a-number") from None
        total = number + addend(by)
        if (before is not None and str(number).encode() != before.value) or not -(2**63) <= total < 2**63:
            raise _refusal("not-a-number")
        self.set(key, str(total), ttl_seconds if before is None else before.ttl_seconds)
        return total


def _check(key: str, value: bytes = b"") -> None:
    length = len(text(key, "a key").encode())
    if not 1 <= length <= 256 or any(category(character) == "Cc" for character in key) or len(value) > 64 << 10:
        raise _refusal("too-large")


def _size(key: str, entry: Entry) -> int:
    return len(key.encode()) + len(entry.value) + 128


def _refusal(reason: str) -> Failure:
    return REFUSALS[reason]()


class FakeHost(Host):
    """Stands in for the gateway. Its random bytes count up from one; its hashes are real.

    `config` is a JSON text or what becomes one; `signing` are secrets that the plugin may only sign with. `logs` holds what it logged.
    `table` are entries of the plugin's table, which may take up to `table_bytes`: bytes of keys and values, and 128 for each entry. The
    attribute `table` holds what is in it.
    """

    def __init__(
        self,
        config: Any = None,
        secrets: Mapping[str, str | bytes] | None = None,
        signing: Mapping[str, str | bytes] | None = None,
        now: int = TIME,
        table: Mapping[str, str | bytes] | None = None,
        table_bytes: int | None = None,
    ) -> None:
        self.table = {key: Entry(raw(value, "a value")) for key, value in (table or {}).items()}
        self.kv = FakeTable(self.table, table_bytes)
        self.logs: list[tuple[Level, str]] = []
        self._config = config if isinstance(config, str) else json.dumps({} if config is None else config)
        self._secrets = {name: raw(value, "a secret") for name, value in (secrets or {}).items()}
        self._keys = {name: raw(value, "a secret") for name, value in (signing or {}).items()} | self._secrets
        self._now = now
        self._drawn = 0

    def log(self, level: Level, message: str) -> None:
        if level not in ("debug", "info", "warn", "error"):
            raise KeyError(level)
        self.logs.append((level, str(message)))

    def config_text(self) -> str:
        return self._config

    def secret(self, name: str) -> bytes | None:
        return self._secrets.get(name)

    def now(self) -> int:
        return self._now

    def random_bytes(self, length: int) -> bytes:
        drawn = bytes((self._drawn + place) & 0xFF for place in range(1, length + 1))
        self._drawn += length
        return drawn

    def random_number(self) -> int:
        return int.from_bytes(self.random_bytes(8))

    def hmac(self, algorithm: Algorithm, secret_name: str, message: str | bytes) -> bytes | None:
        key = self._keys.get(secret_name)
        return None if key is None else keyed.digest(key, raw(message, "a message"), algorithm)

    def hmac_verify(self, algorithm: Algorithm, secret_name: str, message: str | bytes, tag: bytes) -> bool | None:
        expected = self.hmac(algorithm, secret_name, message)
        return None if expected is None else keyed.compare_digest(expected, raw(tag, "a tag"))
