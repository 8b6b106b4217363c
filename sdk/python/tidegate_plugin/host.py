"""What a plugin may ask of the gateway."""

import json
from abc import ABC, abstractmethod
from typing import Any, Literal

from .failure import Failure
from .kv import Kv

Level = Literal["debug", "info", "warn", "error"]
Algorithm = Literal["sha1", "sha256", "sha512"]


class Host(ABC):
    """What a plugin may ask of the gateway. In tests, `tidegate_plugin.testing.FakeHost` takes the gateway's place."""

    kv: Kv
    """The plugin's table."""

    @abstractmethod
    def log(self, level: Level, message: str) -> None:
        """A line in the run's record. Control characters are removed; lines and bytes are capped."""

    @abstractmethod
    def config_text(self) -> str:
        """The plugin's configuration on this connection, a JSON text; `{}` if there is none."""

    @abstractmethod
    def secret(self, name: str) -> bytes | None:
        """A secret that the connection hands to this plugin; None if it names no such secret or keeps it for signing alone."""

    @abstractmethod
    def now(self) -> int:
        """When the event was accepted, the request came in (`verify`, `respond`) or the attempt began (`sign`, `judge`).

        Milliseconds since the Unix epoch. `time.time()` gives the same, in seconds.
        """

    @abstractmethod
    def random_bytes(self, length: int) -> bytes:
        """Random bytes, seeded from the event's id. At most 4,096 a call. Not fit for keys."""

    @abstractmethod
    def random_number(self) -> int:
        """A random number of 64 bits, seeded from the event's id."""

    @abstractmethod
    def hmac(self, algorithm: Algorithm, secret_name: str, message: str | bytes) -> bytes | None:
        """The raw keyed hash of `message` under a secret of the connection; None if it names no such secret."""

    @abstractmethod
    def hmac_verify(self, algorithm: Algorithm, secret_name: str, message: str | bytes, tag: bytes) -> bool | None:
        """Whether `tag` is that hash, compared in a time that does not tell where they differ; None if there is no such secret."""

    def config(self) -> Any:
        """The configuration, read as JSON. Raises the failure `bad-config`, which no retry can help."""
        try:
            return json.loads(self.config_text())
        except ValueError as error:
            raise Failure.never("bad-config", f"the plugin's configuration: {error}") from None

    def debug(self, message: str) -> None:
        """Logs at level debug."""
        self.log("debug", message)

    def info(self, message: str) -> None:
        """Logs at level info."""
        self.log("info", message)

    def warn(self, message: str) -> None:
        """Logs at level warn."""
        self.log("warn", message)

    def error(self, message: str) -> None:
        """Logs at level error."""
        self.log("error", message)
