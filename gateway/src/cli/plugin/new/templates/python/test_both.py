import json
import unittest

from tidegate_plugin.testing import FakeHost, event

from plugin import filter, transform

OPENED = '{"action": "opened", "issue": {"title": "it leaks"}}'
CLOSED = '{"action": "closed", "issue": {"title": "it leaks"}}'


class NewIssues(unittest.TestCase):
    def test_new_issues_go_on_and_nothing_else(self) -> None:
        self.assertTrue(filter(event(OPENED), FakeHost()))
        self.assertFalse(filter(event(CLOSED), FakeHost()))

    def test_new_issues_are_announced_and_nothing_else(self) -> None:
        output = transform(event(OPENED), FakeHost())
        self.assertEqual(json.loads(output.changes()["body"]), {"text": "new issue: it leaks"})
        self.assertEqual(transform(event(CLOSED), FakeHost()), [])
