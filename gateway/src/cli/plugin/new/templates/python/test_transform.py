import json
import unittest

from tidegate_plugin.testing import FakeHost, event

from plugin import transform


class Transform(unittest.TestCase):
    def test_new_issues_are_announced_and_nothing_else(self) -> None:
        opened = event('{"action": "opened", "issue": {"title": "it leaks"}}')
        output = transform(opened, FakeHost())
        self.assertEqual(json.loads(output.changes()["body"]), {"text": "new issue: it leaks"})
        closed = event('{"action": "closed", "issue": {"title": "it leaks"}}')
        self.assertEqual(transform(closed, FakeHost()), [])
