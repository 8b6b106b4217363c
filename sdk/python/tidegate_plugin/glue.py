"""Between an author's functions and the gateway: every way in which they can end is an answer or a failure."""

import traceback
from collections.abc import Callable
from typing import Any

from .event import Event
from .failure import Failure
from .host import Host
from .output import Output


def keep(filter: Callable[[Event, Host], bool], event: Event, host: Host) -> bool:
    """Asks a filter. Raises nothing but `Failure`."""

    def ask() -> bool:
        kept = filter(event, host)
        if not isinstance(kept, bool):
            raise Failure.never("bad-output", f"filter returned {_described(kept)} instead of True or False")
        return kept

    return _guarded(ask, host)


def run(transform: Callable[[Event, Host], Any], event: Event, host: Host) -> list[Output]:
    """Asks a transform. Raises nothing but `Failure`."""

    def ask() -> list[Output]:
        answer = transform(event, host)
        if isinstance(answer, Output):
            return [answer]
        if not isinstance(answer, (list, tuple)):
            expected = "an Output or a list of them (empty to drop the event)"
            raise Failure.never("bad-output", f"transform returned {_described(answer)} instead of {expected}")
        for output in answer:
            if not isinstance(output, Output):
                raise Failure.never("bad-output", f"transform returned {_described(output)} among its outputs")
        return list(answer)

    return _guarded(ask, host)


def _guarded(ask: Callable[[], Any], host: Host) -> Any:
    try:
        return ask()
    except Failure:
        raise
    except BaseException as error:
        host.error("uncaught " + "".join(traceback.format_exception(error)).strip())
        raise Failure.never("uncaught-exception", "".join(traceback.format_exception_only(error)).strip()) from None


def _described(value: object) -> str:
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    return f"an object of type {type(value).__name__}"
