"""Where a model runs: which devices torch has here, and their names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from inspector.core.errors import InspectError

OTHERS = ("xpu", "mps")
"""Accelerators beside CUDA (and ROCm, which is called cuda) that work is timed on: on the host, waiting."""


def check_device(device: str, kinds: Sequence[str] = ("meta", "cpu", "cuda")) -> None:
    """Raises InspectError for a device that torch does not have here; `kinds` are those that would do."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        others = [kind for kind in kinds if kind != device.partition(":")[0]]
        hint = f"use one of: {', '.join(others)}; see: inspect env"
        raise InspectError(f"no device {device!r} here", hint) from error


def real_device(
    device: str | None, work: str = "measure", numbered: bool = True, others: Sequence[str] = ()
) -> str:
    """The device that does real `work` ("measure", "train"): cpu, cuda (ROCm's, too), or `numbered` cuda:1;
    of `others` ("xpu", "mps"), too. None takes the accelerator if there is one that does it."""
    kinds = ("cpu", "cuda", *others)
    chosen = device or next((kind for kind in (accelerator(),) if kind in kinds), None) or "cpu"
    if chosen.partition(":")[0] not in kinds or (":" in chosen and not numbered):
        raise InspectError(f"cannot {work} on {chosen!r}", f"use one of: {', '.join(kinds)}")
    check_device(chosen, kinds)
    return chosen


def accelerator() -> str | None:
    """The kind of accelerator that torch finds here: cuda (NVIDIA and ROCm), xpu, mps."""
    if torch.cuda.is_available():
        return "cuda"
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return kind.type if kind is not None else None


def has_float64(device: str) -> bool:
    """Apple's GPUs have none."""
    return not device.startswith("mps")


def device_of(model: nn.Module) -> str:
    """The device of the model's first parameter."""
    return next((str(parameter.device) for parameter in model.parameters()), "cpu")


def gpu_name(device: str) -> str | None:
    """The accelerator's name in torch; None for a CPU and for meta."""
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu"):
        return str(getattr(torch, kind).get_device_name(device))
    return "Apple GPU" if kind == "mps" else None
