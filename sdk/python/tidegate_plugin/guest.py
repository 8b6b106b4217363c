"""What runs inside a component. It needs the bindings that `componentize-py` makes, so nothing else imports it.

WASI is not there, and asking it ends the plugin: what modules commonly ask of it is answered from the event.
"""

import linecache
import os
import random as random_module
import sys
import time
from types import ModuleType

from componentize_py_types import Err
from wit_world.imports import clock, config, hmac, log, random, secret, types

from . import glue
from .event import Attribute, Event, Header, Request
from .failure import Failure
from .host import Algorithm, Host, Level
from .output import Output, raw, text

LEVELS = {level.name.lower(): level for level in log.Level}
ALGORITHMS = {algorithm.name.lower(): algorithm for algorithm in hmac.Algorithm}


class Gateway(Host):
    """The gateway that this instance runs in."""

    def log(self, level: Level, message: str) -> None:
        log.write(LEVELS[level], text(str(message), "a message"))

    def config_text(self) -> str:
        return config.get()

    def secret(self, name: str) -> bytes | None:
        return secret.get(text(name, "a secret's name"))

    def now(self) -> int:
        return clock.now()

    def random_bytes(self, length: int) -> bytes:
        return random.bytes(length)

    def random_number(self) -> int:
        return random.number()

    def hmac(self, algorithm: Algorithm, secret_name: str, message: str | bytes) -> bytes | None:
        return hmac.sign(ALGORITHMS[algorithm], text(secret_name, "a secret's name"), raw(message, "a message"))


HOST = Gateway()


class Log:
    """A stream for `print`, of whole lines."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.rest = ""

    def write(self, written: str) -> int:
        *lines, self.rest = (self.rest + written).split("\n")
        for line in lines:
            HOST.log(self.level, line)
        return len(written)

    def flush(self) -> None:
        pass


# Tracebacks look for the lines of the source, in files.
linecache.checkcache = lambda filename=None: None
linecache.updatecache = lambda filename, module_globals=None: []


def enter(event_id: str) -> None:
    """Puts the event's time and randomness where modules look for them, and the log where they print."""
    time.time = time.monotonic = time.perf_counter = lambda: clock.now() / 1000
    time.time_ns = time.monotonic_ns = time.perf_counter_ns = lambda: clock.now() * 1_000_000
    os.urandom = random_module._urandom = lambda length: b"".join(random.bytes(min(4096, length - at)) for at in range(0, length, 4096))
    random_module.seed(event_id)
    sys.stdout, sys.stderr = Log("info"), Log("error")


def offer(plugin: ModuleType) -> tuple[type, type]:
    """The classes that the component exports for a plugin."""

    class Filter:
        def keep(self, event: types.Event) -> bool:
            enter(event.id)
            try:
                return glue.keep(plugin.filter, received(event), HOST)
            except Failure as failure:
                raise failed(failure) from None

    class Transform:
        def run(self, event: types.Event) -> list[types.Output]:
            enter(event.id)
            try:
                return [sent(output) for output in glue.run(plugin.transform, received(event), HOST)]
            except Failure as failure:
                raise failed(failure) from None

    return Filter, Transform


def received(event: types.Event) -> Event:
    request = event.request
    headers = [Header(header.name, header.value) for header in request.headers]
    attributes = [Attribute(attribute.name, attribute.value) for attribute in event.attributes]
    return Event(
        event.id, event.accepted_at, Request(request.method, request.path, request.query, headers, request.body), attributes
    )


def sent(output: Output) -> types.Output:
    changes = output.changes()
    match changes["query"]:
        case ("keep",):
            query = types.QueryChange_Keep()
        case ("remove",):
            query = types.QueryChange_Remove()
        case ("set", value):
            query = types.QueryChange_Set(value)
    headers = [header_change(*change) for change in changes["headers"]]
    return types.Output(changes["method"], changes["path"], query, headers, changes["body"], [])


def header_change(change: str, name: str = "", value: bytes = b"") -> types.HeaderChange:
    match change:
        case "clear":
            return types.HeaderChange_Clear()
        case "remove":
            return types.HeaderChange_Remove(name)
        case "set":
            return types.HeaderChange_Set(types.Header(name, value))
        case "append":
            return types.HeaderChange_Append(types.Header(name, value))


def failed(failure: Failure) -> Err:
    retry = types.Retry.LATER if failure.retry == "later" else types.Retry.NEVER
    return Err(types.Failure(text(str(failure.code), "a code"), text(str(failure.message), "a message"), retry))
