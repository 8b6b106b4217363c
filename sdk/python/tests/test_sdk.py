import hashlib
import hmac
import unittest
from collections.abc import Callable
from typing import Any

from tidegate_plugin import Failure, Output
from tidegate_plugin.glue import keep, run
from tidegate_plugin.testing import FakeHost, event


class Reading(unittest.TestCase):
    def test_repeated_headers_are_found_in_order_whatever_the_case(self) -> None:
        request = event(headers=[("X-A", "1"), ("x-b", "ü"), ("x-a", b"\xff")]).request
        self.assertEqual(request.header_values("X-a"), [b"1", b"\xff"])
        self.assertEqual(request.header("X-B"), "ü")
        self.assertEqual(request.header_bytes("x-b"), "ü".encode())
        self.assertIsNone(request.header("x-c"))
        self.assertIsNone(event(headers=[("x-a", b"\xff")]).request.header("x-a"))

    def test_a_body_that_cannot_be_read_fails_for_good(self) -> None:
        cases = [("nope", "json", "not-json"), (b"\xff", "json", "not-json"), ("[" * 100_000, "json", "not-json"), (b"\xff", "text", "not-utf8")]
        for body, read, code in cases:
            with self.subTest(read=read, code=code), self.assertRaises(Failure) as raised:
                getattr(event(body).request, read)()
            self.assertEqual((raised.exception.code, raised.exception.retry), (code, "never"))
        self.assertEqual(event("hé🦀").request.text(), "hé🦀")


NOTHING = {"method": None, "path": None, "query": ("keep",), "headers": [], "body": None}


class Writing(unittest.TestCase):
    def test_an_output_says_what_changes(self) -> None:
        output = Output().method("PUT").path("/x").query("a=1").header("x-a", "1").append_header("x-b", b"\xff")
        output.remove_header("x-c").clear_headers().json({"é": 1})
        headers = [("set", "x-a", b"1"), ("append", "x-b", b"\xff"), ("remove", "x-c"), ("clear",), ("set", "content-type", b"application/json")]
        body = '{"é":1}'.encode()
        self.assertEqual(output.changes(), {"method": "PUT", "path": "/x", "query": ("set", "a=1"), "headers": headers, "body": body})

    def test_an_output_that_says_nothing_keeps_everything(self) -> None:
        self.assertEqual(Output().changes(), NOTHING)
        self.assertEqual(Output().query("x").remove_query().changes(), NOTHING | {"query": ("remove",)})

    def test_an_output_takes_no_wrong_types(self) -> None:
        for wrong in [lambda: Output().method(1), lambda: Output().header("x", 1), lambda: Output().body({}), lambda: Output().json(object())]:
            self.assertRaises(TypeError, wrong)

    def test_half_a_surrogate_pair_is_replaced(self) -> None:
        self.assertEqual(Output().body("a\ud800").changes()["body"], b"a?")


def answer(transform: Callable[..., Any], host: FakeHost | None = None) -> Any:
    """What the gateway gets of a transform."""
    try:
        return run(transform, event("{}"), host or FakeHost())
    except Failure as failure:
        return failure


def raising(error: BaseException) -> Callable[..., Any]:
    def transform(*_: Any) -> Any:
        raise error

    return transform


class Answering(unittest.TestCase):
    def test_one_output_may_stand_for_a_list_of_one(self) -> None:
        self.assertEqual(len(answer(lambda *_: Output())), 1)
        self.assertEqual(len(answer(lambda *_: [Output(), Output()])), 2)
        self.assertEqual(answer(lambda *_: []), [])

    def test_an_answer_of_the_wrong_type_is_a_failure_that_says_so(self) -> None:
        for wrong in [None, True, {}, [{}], "text"]:
            self.assertEqual(answer(lambda *_: wrong).code, "bad-output")
        with self.assertRaises(Failure) as raised:
            keep(lambda *_: 1, event("{}"), FakeHost())
        self.assertEqual(raised.exception.message, "filter returned 1 instead of True or False")

    def test_failures_go_through_as_they_are(self) -> None:
        failure = Failure.later("busy", "not now")
        self.assertIs(answer(raising(failure)), failure)
        self.assertEqual((failure.code, failure.message, failure.retry), ("busy", "not now", "later"))

    def test_what_is_raised_and_is_no_failure_becomes_one_and_is_logged(self) -> None:
        for error in [ValueError("broken"), SystemExit(1), RecursionError("deep")]:
            host = FakeHost()
            failure = answer(raising(error), host)
            self.assertEqual((failure.code, failure.retry), ("uncaught-exception", "never"))
            self.assertIn(type(error).__name__, failure.message)
            [(level, line)] = host.logs
            self.assertEqual(level, "error")
            self.assertIn("Traceback", line)


class Hosting(unittest.TestCase):
    def test_the_host_gives_what_it_was_given(self) -> None:
        host = FakeHost({"a": 1}, secrets={"token": "s3cret"}, signing={"key": "k"})
        self.assertEqual(host.config(), {"a": 1})
        self.assertEqual((host.secret("token"), host.secret("key")), (b"s3cret", None))
        self.assertEqual(host.now(), 1_700_000_000_000)
        self.assertEqual((host.random_bytes(3), host.random_number()), (b"\1\2\3", 0x0405060708090A0B))
        self.assertEqual(host.hmac("sha256", "key", "m"), hmac.digest(b"k", b"m", hashlib.sha256))
        self.assertIsNone(host.hmac("sha256", "none", "m"))
        host.warn("careful")
        self.assertEqual(host.logs, [("warn", "careful")])
        with self.assertRaises(Failure) as raised:
            FakeHost("{").config()
        self.assertEqual(raised.exception.code, "bad-config")
