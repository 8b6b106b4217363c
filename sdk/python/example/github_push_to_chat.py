"""Turns a GitHub push into a chat message: `{"text": "..."}`, as Slack, Mattermost and Google Chat take it.

Configuration, both optional: `channel` is sent along as `"channel"`; `branches` are those whose pushes are told of (default: all).
What is not a push to a branch gives no output.
"""

from typing import Any

from tidegate_plugin import Event, Failure, Host, Output

LISTED = 5


def transform(event: Event, host: Host) -> Output | list[Output]:
    request = event.request
    if request.header("x-github-event") != "push":
        return []
    config = host.config()
    push = request.json()
    ref = push.get("ref")
    if not isinstance(ref, str):
        raise Failure.never("bad-payload", "the push has no ref")
    if not ref.startswith("refs/heads/"):
        return []
    branch = ref.removeprefix("refs/heads/")
    if branch not in config.get("branches", [branch]):
        host.info(f"not told: a push to {branch}")
        return []
    message = {"text": text(push, branch)} | {name: config[name] for name in ("channel",) if name in config}
    return Output().method("POST").path("").remove_query().clear_headers().json(message)


def text(push: dict[str, Any], branch: str) -> str:
    repository = link(push["repository"]["html_url"], push["repository"]["full_name"])
    who = escape(push["pusher"]["name"])
    if push.get("deleted"):
        return f"{who} deleted branch {escape(branch)} of {repository}"
    commits = push.get("commits", [])
    count = "1 commit" if len(commits) == 1 else f"{len(commits)} commits"
    lines = [f"{who} pushed {count} to {escape(branch)} of {repository}"]
    for commit in commits[:LISTED]:
        title = commit["message"].partition("\n")[0]
        lines.append(f"{link(commit['url'], commit['id'][:7])} {escape(title)} ({escape(commit['author']['name'])})")
    if len(commits) > LISTED:
        lines.append(f"and {len(commits) - LISTED} more: {link(push['compare'], 'compare')}")
    return "\n".join(lines)


def link(url: str, text: str) -> str:
    return f"<{escape(url)}|{escape(text)}>"


def escape(text: str) -> str:
    """What people typed must not become mentions or links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
