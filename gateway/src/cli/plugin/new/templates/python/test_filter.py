import unittest

from tidegate_plugin.testing import FakeHost, event

from plugin import filter


class Filter(unittest.TestCase):
    def test_new_issues_go_on_and_nothing_else(self) -> None:
        opened = event('{"action": "opened", "issue": {"title": "it leaks"}}')
        self.assertTrue(filter(opened, FakeHost()))
        closed = event('{"action": "closed", "issue": {"title": "it leaks"}}')
        self.assertFalse(filter(closed, FakeHost()))
