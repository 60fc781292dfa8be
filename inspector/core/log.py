"""The project's logger. Results go to standard output; this goes to standard error."""

from __future__ import annotations

import logging

from inspector.core.visible import visible_lines

FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"
logger = logging.getLogger("inspector")


class Formatter(logging.Formatter):
    """Lines of FORMAT; names in them are harmless."""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def to_console(verbose: bool) -> None:
    """Show warnings, or with `verbose` everything, on standard error."""
    if not any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(Formatter())
        logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
