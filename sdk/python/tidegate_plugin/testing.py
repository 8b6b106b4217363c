"""What tests of plugins need: events to feed them, and a host that stands in for the gateway."""

import hmac as keyed
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .event import Event, Header, Request
from .host import Algorithm, Host, Level
from .output import raw

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
    if isinstance(headers, Mapping):
        headers = ({"content-type": "application/json"} | dict(headers)).items()
    lines = [Header(name.lower(), raw(value, "a header's value")) for name, value in headers]
    return Event(id, accepted_at, Request(method, path, query, lines, raw(body, "a body")))


class FakeHost(Host):
    """Stands in for the gateway. Its random bytes count up from one; its hashes are real.

    `config` is a JSON text or what becomes one; `signing` are secrets that the plugin may only sign with. `logs` holds what it logged.
    """

    def __init__(
        self,
        config: Any = None,
        secrets: Mapping[str, str | bytes] | None = None,
        signing: Mapping[str, str | bytes] | None = None,
        now: int = TIME,
    ) -> None:
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
