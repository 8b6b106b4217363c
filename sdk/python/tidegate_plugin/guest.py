"""What runs inside a component. It needs the bindings that `componentize-py` makes, so nothing else imports it.

WASI is not there, and asking it ends the plugin: what modules commonly ask of it is answered from the event.
"""

import linecache
import os
import random as random_module
import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from componentize_py_types import Err
from wit_world.imports import clock, config, hmac, kv, log, random, secret, types

from . import glue
from .event import Attribute, Event, Header, Request
from .exchange import Accept, Arrival, Attempt, DeadLetter, Default, Delivered, Judgement, Reject, Response, Retry, Verification
from .failure import Failure
from .host import Algorithm, Host, Level
from .kv import REFUSALS, Kv, addend, seconds
from .output import Output, raw, text

LEVELS = {level.name.lower(): level for level in log.Level}
ALGORITHMS = {algorithm.name.lower(): algorithm for algorithm in hmac.Algorithm}


def asked(ask: Callable[..., Any], *given: Any) -> Any:
    """Asks the table."""
    try:
        return ask(*given)
    except Err as error:
        raise REFUSALS[error.value.name.lower().replace("_", "-")]() from None


class Table(Kv):
    """The table that the gateway keeps."""

    def get(self, key: str) -> bytes | None:
        return asked(kv.get, text(key, "a key"))

    def set(self, key: str, value: str | bytes, ttl_seconds: int | None = None) -> None:
        asked(kv.set, text(key, "a key"), raw(value, "a value"), seconds(ttl_seconds))

    def add(self, key: str, value: str | bytes, ttl_seconds: int | None = None) -> bool:
        return asked(kv.add, text(key, "a key"), raw(value, "a value"), seconds(ttl_seconds))

    def delete(self, key: str) -> bool:
        return asked(kv.delete, text(key, "a key"))

    def increment(self, key: str, by: int = 1, ttl_seconds: int | None = None) -> int:
        return asked(kv.increment, text(key, "a key"), addend(by), seconds(ttl_seconds))


class Gateway(Host):
    """The gateway that this instance runs in."""

    kv = Table()

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

    def hmac_verify(self, algorithm: Algorithm, secret_name: str, message: str | bytes, tag: bytes) -> bool | None:
        name = text(secret_name, "a secret's name")
        return hmac.verify(ALGORITHMS[algorithm], name, raw(message, "a message"), raw(tag, "a tag"))


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


def enter(seed: str | int) -> None:
    """Puts the event's time and randomness where modules look for them, and the log where they print."""
    time.time = time.monotonic = time.perf_counter = lambda: clock.now() / 1000
    time.time_ns = time.monotonic_ns = time.perf_counter_ns = lambda: clock.now() * 1_000_000
    os.urandom = random_module._urandom = lambda length: b"".join(random.bytes(min(4096, length - at)) for at in range(0, length, 4096))
    random_module.seed(seed)
    sys.stdout, sys.stderr = Log("info"), Log("error")


def offer(plugin: ModuleType, offered: tuple[str, ...]) -> list[type]:
    """The classes that the component exports for a plugin."""
    return [OFFERS[name](plugin) for name in offered]


def filter_of(plugin: ModuleType) -> type:
    class Filter:
        def keep(self, event: types.Event) -> bool:
            enter(event.id)
            with failing():
                return glue.keep(plugin.filter, received(event), HOST)

    return Filter


def transform_of(plugin: ModuleType) -> type:
    class Transform:
        def run(self, event: types.Event) -> list[types.Output]:
            enter(event.id)
            with failing():
                return [sent(output) for output in glue.run(plugin.transform, received(event), HOST)]

    return Transform


def verify_of(plugin: ModuleType) -> type:
    from wit_world.exports import verify
    from wit_world.imports import exchange

    def told(verdict: Verification) -> verify.Verdict:
        match verdict:
            case Accept():
                return verify.Verdict_Accept()
            case Reject(reason):
                return verify.Verdict_Reject(text(reason, "a reason"))

    class Verify:
        def check(self, arrival: exchange.Arrival) -> verify.Verdict:
            enter(random.number())
            with failing():
                return told(glue.check(plugin.verify, arrived(arrival), HOST))

    return Verify


def respond_of(plugin: ModuleType) -> type:
    from wit_world.imports import exchange

    def told(response: Response) -> exchange.Response:
        headers = [types.Header(header.name, header.value) for header in response.headers]
        return exchange.Response(response.status, headers, raw(response.body, "a body"), [])

    class Respond:
        def answer(self, arrival: exchange.Arrival) -> exchange.Response | None:
            enter(random.number())
            with failing():
                response = glue.answer(plugin.respond, arrived(arrival), HOST)
                return None if response is None else told(response)

    return Respond


def sign_of(plugin: ModuleType) -> type:
    from wit_world.imports import exchange

    class Sign:
        def headers(self, attempt: exchange.Attempt) -> list[types.Header]:
            enter(random.number())
            with failing():
                headers = glue.headers(plugin.sign, attempted(attempt), HOST)
                return [types.Header(header.name, header.value) for header in headers]

    return Sign


def judge_of(plugin: ModuleType) -> type:
    from wit_world.exports import judge
    from wit_world.imports import exchange

    def told(verdict: Judgement) -> judge.Verdict:
        match verdict:
            case Default():
                return judge.Verdict_Default()
            case Delivered():
                return judge.Verdict_Delivered()
            case Retry(after):
                return judge.Verdict_Retry(after)
            case DeadLetter(reason):
                return judge.Verdict_DeadLetter(text(reason, "a reason"))

    class Judge:
        def judge(self, attempt: exchange.Attempt, response: exchange.Response) -> judge.Verdict:
            enter(random.number())
            given = Response(response.status, lines(response.headers), response.body, attributes(response.attributes))
            with failing():
                return told(glue.judge(plugin.judge, attempted(attempt), given, HOST))

    return Judge


OFFERS = {
    "filter": filter_of,
    "transform": transform_of,
    "verify": verify_of,
    "respond": respond_of,
    "sign": sign_of,
    "judge": judge_of,
}


class failing:
    """Hands failures over as the gateway takes them."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Failure):
            raise failed(error) from None


def received(event: types.Event) -> Event:
    return Event(event.id, event.accepted_at, request(event.request), attributes(event.attributes))


def arrived(arrival: Any) -> Arrival:
    return Arrival(request(arrival.request), arrival.received_at, attributes(arrival.attributes))


def attempted(attempt: Any) -> Attempt:
    return Attempt(
        attempt.delivery_id,
        attempt.event_id,
        attempt.number,
        attempt.started_at,
        attempt.origin,
        request(attempt.request),
        attributes(attempt.attributes),
    )


def request(given: types.Request) -> Request:
    return Request(given.method, given.path, given.query, lines(given.headers), given.body)


def lines(headers: list[types.Header]) -> list[Header]:
    return [Header(header.name, header.value) for header in headers]


def attributes(given: list[types.Attribute]) -> list[Attribute]:
    return [Attribute(attribute.name, attribute.value) for attribute in given]


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
