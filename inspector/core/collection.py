"""Pauses of Python's cyclic garbage collector, which otherwise walks again and again over what an import or a
parser makes, although none of it is garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection inside; afterwards collections are as they were."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


COUNTED = ("triton._C.libtriton", "nanobind")
"""Modules that count their objects at the exit, and print those that were not collected."""


def leave() -> None:
    """Before the process ends: what torch's import made is not collected at the exit, which would take a
    third as long as the import. Files, processes and threads are closed as ever."""
    if not any(name in sys.modules for name in COUNTED):
        gc.freeze()
