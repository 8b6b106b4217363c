import unittest

from tidegate_plugin import Accept, Arrival, DeadLetter, Default, Delivered, Failure, Judgement, Reject, Response, Retry
from tidegate_plugin.testing import FakeHost, arrival, attempt, event

from plugin import filter, judge, respond, sign, verify


def host() -> FakeHost:
    return FakeHost(signing={"acme": "key"})


def arrived(signature: str) -> Arrival:
    return arrival("{}", headers={"x-acme-signature": signature})


class OwnScheme(unittest.TestCase):
    def test_it_verifies_what_it_signed_itself(self) -> None:
        own = sign(attempt("{}"), host())["x-acme-signature"]
        self.assertEqual(verify(arrived(own), host()), Accept())
        wrongs = ["", "t=1700000000", "t=x,v1=00", "t=1700000000,v1=00", "t=1600000000,v1=00", "t=1700000000,v1=x", own.replace("t=17", "t=16")]
        for wrong in wrongs:
            self.assertIsInstance(verify(arrived(wrong), host()), Reject, wrong)
        self.assertEqual(verify(arrival("{}"), host()), Reject("there is no signature"))
        with self.assertRaises(Failure) as raised:
            verify(arrived(own), FakeHost())
        self.assertEqual(raised.exception.code, "no-secret")

    def test_it_answers_the_handshake_and_nothing_else(self) -> None:
        self.assertIsNone(respond(arrival('{"challenge": "abc"}'), host()))
        answer = respond(arrival('{"challenge": "abc"}', path="/handshake"), host())
        self.assertEqual((answer.status, answer.body), (200, b"abc"))

    def test_it_drops_an_order_that_was_seen_before(self) -> None:
        one = host()
        kept = [filter(event(f'{{"order": {order}}}'), one) for order in (7, 8, 7)]
        self.assertEqual(kept, [True, True, False])
        self.assertEqual((one.table["orders"].value, one.table["order/7"].ttl_seconds), (b"2", 86_400))

    def test_it_reads_what_happened_out_of_the_body(self) -> None:
        def judged(body: object) -> Judgement:
            return judge(attempt("{}"), Response.of_json(200, body), host())

        self.assertEqual(judged({"result": "busy", "wait_ms": 50}), Retry(50))
        self.assertEqual(judged({"result": "busy"}), Retry())
        self.assertEqual(judged({"result": "refused", "why": "no such order"}), DeadLetter("no such order"))
        self.assertEqual(judge(attempt("{}"), Response.of_text(200, "ok"), host()), Delivered())
        self.assertEqual(judge(attempt("{}"), Response.of_text(500, ""), host()), Default())
