import hashlib
import hmac
import unittest
from collections.abc import Callable
from typing import Any

from tidegate_plugin import Accept, DeadLetter, Default, Delivered, Failure, Output, Reject, Response, Retry
from tidegate_plugin.event import Header
from tidegate_plugin.glue import answer as respond
from tidegate_plugin.glue import check, headers, judge, keep, run
from tidegate_plugin.testing import Entry, FakeHost, arrival, attempt, event


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

    def test_hashes_are_compared(self) -> None:
        host = FakeHost(signing={"key": "k"})
        tag = hmac.digest(b"k", b"m", hashlib.sha1)
        self.assertEqual([host.hmac_verify("sha1", "key", message, tag) for message in ("m", "n")], [True, False])
        self.assertIsNone(host.hmac_verify("sha1", "none", "m", tag))


class Exchanging(unittest.TestCase):
    def outcome(self, ask: Callable[..., Any], *given: Any) -> Any:
        """What the gateway gets of it."""
        try:
            return ask(*given, FakeHost())
        except Failure as failure:
            return f"{failure.code}: {failure.message}"

    def test_what_can_be_known_of_an_arrival_and_an_attempt_is_there(self) -> None:
        came = arrival("{}", path="/a", received_at=5)
        self.assertEqual((came.received_at, came.request.path, came.request.json()), (5, "/a", {}))
        goes = attempt("{}", number=3)
        self.assertEqual((goes.number, goes.origin, goes.request.path), (3, "https://api.example.com", "/hook"))

    def test_a_verdict_about_a_sender_is_one_of_two(self) -> None:
        for verdict in [Accept(), Reject("no")]:
            self.assertIs(self.outcome(check, lambda *_: verdict, arrival()), verdict)
        for wrong in [True, None, "accept", Accept, Reject(1)]:
            self.assertRegex(self.outcome(check, lambda *_: wrong, arrival()), "^bad-output: verify returned ")

    def test_an_answer_is_a_response_or_none(self) -> None:
        self.assertIsNone(self.outcome(respond, lambda *_: None, arrival()))
        made = self.outcome(respond, lambda *_: Response.of_json(201, {"a": 1}).with_header("x-b", b"\xff"), arrival())
        lines = [Header("content-type", b"application/json"), Header("x-b", b"\xff")]
        self.assertEqual((made.status, made.headers, made.body, made.json()), (201, lines, b'{"a":1}', {"a": 1}))
        self.assertEqual(Response.of_text(200, "é").header("Content-Type"), "text/plain; charset=utf-8")
        for wrong in ["text", True, Response("200"), Response(65_736)]:
            self.assertRegex(self.outcome(respond, lambda *_: wrong, arrival()), "^bad-output: respond returned ")

    def test_headers_are_items_of_a_mapping_or_pairs(self) -> None:
        self.assertEqual(self.outcome(headers, lambda *_: {"x-a": "1"}, attempt()), [Header("x-a", b"1")])
        pairs = [("x-a", b"\xff"), ("x-a", "")]
        self.assertEqual(self.outcome(headers, lambda *_: pairs, attempt()), [Header("x-a", b"\xff"), Header("x-a", b"")])
        for wrong in [None, "x-a: 1", 1]:
            self.assertRegex(self.outcome(headers, lambda *_: wrong, attempt()), "^bad-output: sign returned ")
        self.assertRegex(self.outcome(headers, lambda *_: {"x-a": 1}, attempt()), "^uncaught-exception: TypeError")

    def test_a_judgement_is_one_of_four(self) -> None:
        for verdict in [Default(), Delivered(), Retry(), Retry(50), DeadLetter("gone")]:
            self.assertIs(self.outcome(judge, lambda *_: verdict, attempt(), Response(200)), verdict)
        for wrong in [None, "delivered", Retry(-1), Retry(0.5), DeadLetter(1)]:
            self.assertRegex(self.outcome(judge, lambda *_: wrong, attempt(), Response(200)), "^bad-output: judge returned ")


class Keeping(unittest.TestCase):
    def test_the_table_does_what_the_gateways_does(self) -> None:
        host = FakeHost(table={"a": "1"})
        self.assertEqual((host.kv.get("a"), host.kv.get("none")), (b"1", None))
        host.kv.set("a", "2", 60)
        self.assertEqual(host.table["a"], Entry(b"2", 60))
        self.assertEqual((host.kv.add("a", "3"), host.kv.add("b", b"3")), (False, True))
        self.assertEqual((host.kv.delete("b"), host.kv.delete("b")), (True, False))
        self.assertEqual((host.kv.increment("a", 40), host.kv.increment("n"), host.kv.increment("n", -3, 5)), (42, 1, -2))
        self.assertEqual(host.table, {"a": Entry(b"42", 60), "n": Entry(b"-2", None)})

    def refused(self, ask: Callable[[FakeHost], Any], **given: Any) -> str:
        with self.assertRaises(Failure) as raised:
            ask(FakeHost(**given))
        return raised.exception.code

    def test_what_the_table_refuses_is_a_failure(self) -> None:
        full = {"table": {"a": "1"}, "table_bytes": 130}
        self.assertEqual(self.refused(lambda host: host.kv.set("b", ""), **full), "kv-quota-exceeded")
        FakeHost(**full).kv.set("a", "2")
        for value in ["", "x", "01", "1.5", b"\xff", "9223372036854775807"]:
            self.assertEqual(self.refused(lambda host: host.kv.increment("a"), table={"a": value}), "kv-not-a-number")
        for key in ["", "é" * 129, "a\nb"]:
            self.assertEqual(self.refused(lambda host: host.kv.get(key)), "kv-too-large")
        self.assertEqual(self.refused(lambda host: host.kv.set("a", bytes(65_537))), "kv-too-large")

    def test_what_cannot_be_asked_is_an_error(self) -> None:
        kv = FakeHost().kv
        self.assertRaises(TypeError, lambda: kv.set("a", 1))
        for wrong in [lambda: kv.set("a", "1", 0), lambda: kv.add("a", "1", 0.5), lambda: kv.increment("a", 2**63)]:
            self.assertRaises(ValueError, wrong)
