"""Pauses of Python's cyclic garbage collector, which otherwise walks again and again over what an import or a
parser makes, although none of it is garbage."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader


@contextmanager
def paused() -> Iterator[None]:
    """No collection inside; afterwards collections are as they were. When one runs would decide when storages
    die, and it walks over every module and every recorded call again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_SILENT = {"torch", "torchvision", "numpy", "cuda", "PIL", "yaml", "_yaml", "safetensors", "mpmath", "gmpy2"}
"""Packages whose compiled modules end without a word, collected or not."""


def leave() -> None:
    """Before the process ends: what torch's import made is not collected at the exit, which would take a
    third as long as the import. Files, processes and threads are closed as ever.

    Not where compiled modules of others are loaded: some (triton's, by nanobind) print what has not been
    collected.
    """
    compiled = {
        name.partition(".")[0]
        for name, module in list(sys.modules.items())
        if isinstance(getattr(getattr(module, "__spec__", None), "loader", None), ExtensionFileLoader)
    }
    if compiled <= _SILENT | sys.stdlib_module_names:
        gc.freeze()
