import json
import unittest
from typing import Any

from example.github_push_to_chat import transform
from tidegate_plugin import Event, Failure, Output
from tidegate_plugin.testing import FakeHost, event

COMMIT = {"id": "0123456789abcdef", "message": "Fix <it>\n\nbody", "url": "https://forge/c/0", "author": {"name": "Ada & Co"}}


def push(**change: Any) -> Event:
    body = {
        "ref": "refs/heads/main",
        "repository": {"full_name": "o/r", "html_url": "https://forge/o/r"},
        "pusher": {"name": "ada"},
        "compare": "https://forge/compare",
        "commits": [COMMIT],
    }
    return event(json.dumps(body | change), headers={"X-GitHub-Event": "push"})


def told(event: Event, config: Any = None) -> Any:
    output = transform(event, FakeHost(config))
    return json.loads(output.changes()["body"]) if isinstance(output, Output) else output


class Example(unittest.TestCase):
    def test_a_push_becomes_a_message(self) -> None:
        text = "ada pushed 1 commit to main of <https://forge/o/r|o/r>\n<https://forge/c/0|0123456> Fix &lt;it&gt; (Ada &amp; Co)"
        self.assertEqual(told(push(), {"channel": "#dev"}), {"text": text, "channel": "#dev"})

    def test_a_long_push_is_cut(self) -> None:
        text = told(push(commits=[COMMIT] * 7))["text"]
        self.assertEqual(len(text.splitlines()), 7)
        self.assertTrue(text.endswith("and 2 more: <https://forge/compare|compare>"), text)

    def test_a_deleted_branch_has_no_commits(self) -> None:
        self.assertEqual(told(push(deleted=True, commits=[]))["text"], "ada deleted branch main of <https://forge/o/r|o/r>")

    def test_what_is_not_a_push_to_a_wanted_branch_is_dropped(self) -> None:
        self.assertEqual(told(event("{}")), [])
        self.assertEqual(told(push(ref="refs/tags/v1")), [])
        self.assertEqual(told(push(), {"branches": ["release"]}), [])

    def test_a_push_without_a_ref_fails_for_good(self) -> None:
        with self.assertRaises(Failure) as raised:
            told(push(ref=1))
        self.assertEqual((raised.exception.code, raised.exception.retry), ("bad-payload", "never"))
