"""Lets new issues through, and announces them in a chat. A connection says which of the two it uses."""

from tidegate_plugin import Event, Host, Output


def title(event: Event) -> str | None:
    """The title of an issue that was opened."""
    body = event.request.json()
    title = body.get("issue", {}).get("title")
    return title if body.get("action") == "opened" and isinstance(title, str) else None


def filter(event: Event, host: Host) -> bool:
    return title(event) is not None


def transform(event: Event, host: Host) -> Output | list[Output]:
    opened = title(event)
    if opened is None:
        host.info("not about a new issue")
        return []
    return Output().clear_headers().json({"text": f"new issue: {opened}"})
