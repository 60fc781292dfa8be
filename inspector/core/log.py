"""The project's logger. Results go to standard output; this goes to standard error."""

from __future__ import annotations

import logging

from inspector.core.visible import visible_lines

FORMAT = "%(asctime)s %(name)s %(levelname)s: %(message)s"
logger = logging.getLogger("inspector")


_ABOUT_LIBRARIES = {
    "torch.utils._pytree": "is an Enum subclass",
    "bitsandbytes.backends.cpu.ops": "from kernels-community",
}
"""Lines that a library writes about itself when another imports it, by its logger."""


class _Without(logging.Filter):
    """Drops what contains some words."""

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self.words not in str(record.msg)


def without_libraries_own_lines() -> None:
    """Leave those lines out: they are about no model and no measure of the user's. For our own process."""
    for name, words in _ABOUT_LIBRARIES.items():
        logging.getLogger(name).addFilter(_Without(words))


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
