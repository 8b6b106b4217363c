"""Saying why a plugin could not decide."""

from typing import Literal, Self


class Failure(Exception):
    """Why a plugin could not decide. Raise it; any other exception becomes the failure `uncaught-exception`.

    `code` is short and stable, for machines (`bad-payload`); `message` is a sentence for people, without secrets or bodies; `retry` says
    whether trying the same event again can help.
    """

    def __init__(self, code: str, message: str, retry: Literal["never", "later"] = "never") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry = retry

    @classmethod
    def never(cls, code: str, message: str) -> Self:
        """A failure that the same input gives again."""
        return cls(code, message, "never")

    @classmethod
    def later(cls, code: str, message: str) -> Self:
        """A failure that a later try may not meet."""
        return cls(code, message, "later")
