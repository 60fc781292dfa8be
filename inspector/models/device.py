"""Where a model runs: which devices torch has here, and their names."""

from __future__ import annotations

import torch
from torch import nn

from inspector.core.errors import InspectError


def check_device(device: str) -> None:
    """Raises InspectError for a device that torch does not have here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InspectError(f"no device {device!r} here", "use meta, cpu or cuda; see: inspect env") from error


def real_device(device: str | None, work: str = "measure", numbered: bool = True) -> str:
    """The device that does real `work` ("measure", "train"): cpu, cuda, or `numbered` cuda:1. None takes the
    GPU if there is one."""
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.partition(":")[0] not in ("cpu", "cuda") or (":" in chosen and not numbered):
        raise InspectError(f"cannot {work} on {chosen!r}", "use cpu or cuda")
    check_device(chosen)
    return chosen


def device_of(model: nn.Module) -> str:
    """The device of the model's first parameter."""
    return next((str(parameter.device) for parameter in model.parameters()), "cpu")


def gpu_name(device: str) -> str | None:
    """The GPU's name in torch; None for another device."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else None
