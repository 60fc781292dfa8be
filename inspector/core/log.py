"""The project's logger. Results go to standard output; this goes to standard error."""

from __future__ import annotations

import logging

FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"
logger = logging.getLogger("inspector")


def to_console(verbose: bool) -> None:
    """Show warnings, or with `verbose` everything, on standard error."""
    if not any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
