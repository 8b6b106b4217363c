"""Announces new issues in a chat."""

from tidegate_plugin import Event, Host, Output


def transform(event: Event, host: Host) -> Output | list[Output]:
    body = event.request.json()
    title = body.get("issue", {}).get("title")
    if body.get("action") != "opened" or not isinstance(title, str):
        host.info("not about a new issue")
        return []
    return Output().clear_headers().json({"text": f"new issue: {title}"})
