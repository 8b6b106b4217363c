"""Between an author's functions and the gateway: every way in which they can end is an answer or a failure."""

import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .event import Event, Header
from .exchange import Accept, Arrival, Attempt, DeadLetter, Default, Delivered, Judgement, Reject, Response, Retry, Verification, header
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


def check(verify: Callable[[Arrival, Host], Verification], arrival: Arrival, host: Host) -> Verification:
    """Asks a verifier. Raises nothing but `Failure`."""

    def ask() -> Verification:
        verdict = verify(arrival, host)
        if not isinstance(verdict, Accept) and not (isinstance(verdict, Reject) and isinstance(verdict.reason, str)):
            raise Failure.never("bad-output", f"verify returned {_described(verdict)} instead of Accept() or Reject(REASON)")
        return verdict

    return _guarded(ask, host)


def answer(respond: Callable[[Arrival, Host], Response | None], arrival: Arrival, host: Host) -> Response | None:
    """Asks a responder. Raises nothing but `Failure`."""

    def ask() -> Response | None:
        response = respond(arrival, host)
        if response is None:
            return None
        if not isinstance(response, Response):
            raise Failure.never("bad-output", f"respond returned {_described(response)} instead of a Response or None")
        if not isinstance(response.status, int) or not 0 <= response.status <= 0xFFFF:
            raise Failure.never("bad-output", f"respond returned the status {response.status!r}")
        return response

    return _guarded(ask, host)


def headers(sign: Callable[[Attempt, Host], Any], attempt: Attempt, host: Host) -> list[Header]:
    """Asks a signer. Raises nothing but `Failure`."""

    def ask() -> list[Header]:
        signed = sign(attempt, host)
        if isinstance(signed, (str, bytes)) or not isinstance(signed, Iterable):
            raise Failure.never("bad-output", f"sign returned {_described(signed)} instead of headers")
        return [header(name, value) for name, value in (signed.items() if isinstance(signed, Mapping) else signed)]

    return _guarded(ask, host)


def judge(judge: Callable[[Attempt, Response, Host], Judgement], attempt: Attempt, response: Response, host: Host) -> Judgement:
    """Asks a judge. Raises nothing but `Failure`."""

    def ask() -> Judgement:
        verdict = judge(attempt, response, host)
        match verdict:
            case Default() | Delivered() | Retry(None) | DeadLetter(str()):
                return verdict
            case Retry(int(after)) if 0 <= after < 2**64:
                return verdict
        expected = "Default(), Delivered(), Retry() or DeadLetter(REASON)"
        raise Failure.never("bad-output", f"judge returned {_described(verdict)} instead of {expected}")

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
