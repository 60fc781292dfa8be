"""How a pass runs a model: its dtype, a device's kernels, checkpointed modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from inspector.core.errors import InspectError
from inspector.tracing.capture.kernels import Kernels, On
from inspector.tracing.record import ITEM_BYTES, StateEntry


@dataclass(frozen=True)
class Setting:
    """`dtype`: that of floating-point parameters, buffers and inputs (None: as they are). `kernels`: whose
    choice of kernels (None: the portable form of each). `checkpoints`: the paths of modules whose
    activations are dropped after the forward, and computed again in the backward."""

    dtype: str | None = None
    kernels: Kernels | None = None
    checkpoints: tuple[str, ...] = ()

    @property
    def torch_dtype(self) -> torch.dtype | None:
        return getattr(torch, self.dtype) if self.dtype else None

    def cast(self, value: Any) -> Any:
        """An input in the dtype of the setting; a leaf stays a leaf."""
        dtype = self.torch_dtype
        if dtype is None or not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.detach().to(dtype).requires_grad_(value.requires_grad)

    def on_a_device(self, name: str, why: tuple[str, ...]) -> Setting:
        """The setting of the model `name` where it runs the kernels that the device has, not those chosen on
        meta. `why` says why it is not on meta. Raises InspectError for autocast."""
        if self.kernels is not None and self.kernels.autocast:
            reason = why[0] if why else "run on a device"
            raise InspectError(f"autocast is predicted on meta only; {name} is {reason}", "leave out `amp=`")
        return replace(self, kernels=None)

    def described(self, entry: StateEntry) -> StateEntry:
        """A parameter or buffer as it is in this setting."""
        if self.dtype is None or not entry.dtype.startswith(("float", "bfloat")):
            return entry
        if entry.stored and not entry.stored.startswith(f"{entry.dtype} as"):
            return entry  # quantised: a cast changes what it stands for, not its codes
        held = entry.nbytes // ITEM_BYTES[entry.dtype]
        stored = entry.stored.replace(entry.dtype, self.dtype)
        return replace(entry, dtype=self.dtype, nbytes=held * ITEM_BYTES[self.dtype], stored=stored)


PORTABLE = Setting()


def checkpoint_modules(model: nn.Module, paths: Iterable[str], on: On) -> None:
    """Let torch checkpoint the modules at `paths`, without reentrance. Call inside `preserved`.

    `on` is the context of the kernels' choices, which the recomputation needs as the forward does.
    """
    for path in paths:
        module = model.get_submodule(path)
        module.forward = _checkpointed(module.forward, on)  # type: ignore[method-assign]


def _checkpointed(forward: Callable[..., Any], on: On) -> Callable[..., Any]:
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), on()),
            **kwargs,
        )

    return recomputed
