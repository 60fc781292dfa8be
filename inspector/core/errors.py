"""The one error type that reaches a user as a line and a hint."""

from __future__ import annotations


class InspectError(Exception):
    """Something could not be done: exit code 2.

    `message` names what was wrong in one line, `hint` says what to do about it. Both speak Python: a keyword
    stands in backquotes, `phase="train"` or `inputs=`, which the command line says as its own option
    (`inspector.cli.words`).
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message, and the hint on a line of its own: what a traceback shows."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class when it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
