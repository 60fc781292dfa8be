"""How far each precision is from float64, on the same weights and inputs; not timed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from inspector.benchmarking.drift import Drift, Reference
from inspector.benchmarking.precisions import Precision
from inspector.core.errors import InspectError, first_line
from inspector.models.build import out_of_memory
from inspector.models.determinate import cast, quiet, random
from inspector.models.loss import loss_of
from inspector.models.replica import replica
from inspector.profiling.flags import precision as flags_of
from inspector.tracing.beside import uses

LARGEST_SCALE = 2.0**16
"""Where GradScaler starts; it halves while gradients are not finite."""


@dataclass
class Numerics:
    """The float64 truth of one model in one mode; `why` says why there is none."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    mode: str
    reference: Reference | None = None
    why: str = ""

    @staticmethod
    def make(model: nn.Module, args: Any, kwargs: Any, mode: str) -> Numerics:
        """`model` and inputs on their device, in float32; none of them is changed."""
        truth = Numerics(model, args, kwargs, mode)
        if uses(model):  # its kernels take float64 and give what is in memory
            truth.why = "bitsandbytes does not compute in float64"
            return truth
        try:
            with flags_of("ieee"):
                twin = truth.twin(torch.float64)
                wide_args, wide_kwargs = cast((args, kwargs), torch.float64)
                if mode == "train" and random(twin, wide_args, wide_kwargs, mode):
                    truth.why = "the model draws random numbers in train mode, besides its dropout layers"
                else:
                    truth.reference = Reference.make(twin, wide_args, wide_kwargs, mode, loss_of)
        except Exception as error:
            if isinstance(error, InspectError):
                raise
            what = "out of memory" if out_of_memory(error) else first_line(error)
            truth.why = f"the model cannot run in float64: {what}"
        return truth

    def twin(self, dtype: torch.dtype) -> nn.Module:
        """A copy in `dtype`, in the mode, with what draws random numbers switched off."""
        copy = replica(self.model).to(dtype)
        copy.train(self.mode == "train")
        quiet(copy)
        return copy

    def drift(self, precision: Precision) -> Drift | str:
        """The drift of one precision, or the reason why it is unknown."""
        if self.reference is None:
            return self.why
        with flags_of(precision.flags):
            try:
                return self._drift(precision)
            except InspectError:
                raise
            except Exception as error:
                return f"the model cannot run in {precision.label}: {first_line(error)}"

    def _drift(self, precision: Precision) -> Drift:
        assert self.reference is not None
        scale = LARGEST_SCALE if precision.scaler and self.mode == "train" else 1.0
        while True:
            twin = self.twin(precision.weights)
            args, kwargs = cast((self.args, self.kwargs), precision.weights)
            drift = self.reference.compare(twin, args, kwargs, autocast=precision.autocast, scale=scale)
            if scale <= 1.0 or not any(row.nans or row.infs for row in drift.grads):
                return drift
            scale /= 2  # as GradScaler does after a step that it skips
