"""The plugin's table."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from .failure import Failure

REFUSALS: dict[str, Callable[[], Failure]] = {
    "quota-exceeded": lambda: Failure.later("kv-quota-exceeded", "the tenant's tables are full"),
    "not-a-number": lambda: Failure.never("kv-not-a-number", "the entry to add to is not a number"),
    "too-large": lambda: Failure.never("kv-too-large", "the key or the value is too large for the table"),
    "no-table": lambda: Failure.never("kv-no-table", "there is no table here"),
}
"""What the gateway refuses, as the failure that a plugin ends with if it does not catch it."""


class Kv(ABC):
    """The plugin's table, which outlives the event and is shared by all its connections and versions. For `filter` and `transform`.

    Changes are made at once, and once for each event, however often it is planned. Asking for what is not at hand makes the gateway stop
    the plugin and run it again from the start with the answer, without an `except` or `finally` of its: ask first, work afterwards.

    A key is a text of 1 to 256 bytes without control characters, a value at most 64 KiB. Entries are kept for `ttl_seconds`, or for good.
    What the gateway does not do is raised as a failure: `kv-too-large`, `kv-not-a-number` and `kv-no-table`, which no retry can help, and
    `kv-quota-exceeded`.
    """

    @abstractmethod
    def get(self, key: str) -> bytes | None:
        """An entry's value; None if there is none."""

    @abstractmethod
    def set(self, key: str, value: str | bytes, ttl_seconds: int | None = None) -> None:
        """Makes or replaces an entry."""

    @abstractmethod
    def add(self, key: str, value: str | bytes, ttl_seconds: int | None = None) -> bool:
        """Makes an entry unless there is one; whether it did."""

    @abstractmethod
    def delete(self, key: str) -> bool:
        """Takes an entry away; whether there was one."""

    @abstractmethod
    def increment(self, key: str, by: int = 1, ttl_seconds: int | None = None) -> int:
        """Adds to a number of 64 bits, and gives the sum.

        One that does not exist counts as zero and is made, with the time to live; that of one that exists stays. The value is the number
        as decimal text.
        """


def seconds(ttl_seconds: int | None) -> int | None:
    """A time to live that can be handed to the gateway, which cuts it to the longest that it gives."""
    if ttl_seconds is None:
        return None
    if not isinstance(ttl_seconds, int) or ttl_seconds < 1:
        raise ValueError(f"{ttl_seconds!r} is no number of seconds")
    return min(ttl_seconds, 0xFFFFFFFF)


def addend(by: int) -> int:
    """What can be added."""
    if not isinstance(by, int) or not -(2**63) <= by < 2**63:
        raise ValueError(f"{by!r} is no whole number of 64 bits")
    return by
