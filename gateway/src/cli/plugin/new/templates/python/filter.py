"""Lets new issues through, and nothing else."""

from tidegate_plugin import Event, Host


def filter(event: Event, host: Host) -> bool:
    body = event.request.json()
    return body.get("action") == "opened" and isinstance(body.get("issue", {}).get("title"), str)
