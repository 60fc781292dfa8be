"""Bits that come again: deterministic kernels on a GPU, and which operators have none."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_WARNING = re.compile(r"(\S+) does not have a deterministic implementation")


@contextmanager
def deterministic(device: str) -> Iterator[list[str]]:
    """Ask for kernels that give the same bits each time; gives the operators that have none there.

    On a CPU nothing changes. cuBLAS reads its setting when its first handle is made: nothing may have run on
    the GPU before. Attention's backward and some scatters have no such kernel in some versions of torch.
    """
    missing: list[str] = []
    if not device.startswith("cuda"):
        yield missing
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def look(message: Any, *more: Any, **options: Any) -> None:
            operator = _WARNING.search(str(message))
            if operator is None:
                show(message, *more, **options)
            elif operator[1] not in missing:
                missing.append(operator[1])

        warnings.showwarning = look
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield missing
        finally:
            torch.use_deterministic_algorithms(before, warn_only=only_warned)
