"""How far each precision is from float64, on the same weights and inputs; not timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from inspector.benchmarking import steps
from inspector.benchmarking.drift import Drift, ModuleDrift, Reference
from inspector.benchmarking.observed import ROOT
from inspector.benchmarking.precisions import Precision
from inspector.core.errors import InspectError, first_line
from inspector.models.build import out_of_memory
from inspector.models.determinate import cast, quiet, random
from inspector.models.loss import loss_of
from inspector.models.replica import replica
from inspector.profiling.flags import precision as flags_of
from inspector.tracing import _torch
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
        eager = self._guarded(precision)
        if "compile" not in precision.switches or isinstance(eager, str):
            return eager
        with _torch.fresh_compiler_cache():  # else the row's first call would find what is compiled here
            own = self._guarded(precision, steps.compiled_call)
        return own if isinstance(own, str) else _joined(own, eager)

    def _guarded(
        self, precision: Precision, compile: Callable[[nn.Module], Callable[..., Any]] | None = None
    ) -> Drift | str:
        with flags_of(precision.flags):
            try:
                return self._drift(precision, compile)
            except InspectError:
                raise
            except Exception as error:
                how = precision.label if compile is None else f"{precision.label}, compiled"
                return f"the model cannot run in {how}: {first_line(error)}"

    def _drift(
        self, precision: Precision, compile: Callable[[nn.Module], Callable[..., Any]] | None
    ) -> Drift:
        assert self.reference is not None
        scale = LARGEST_SCALE if precision.scaler and self.mode == "train" else 1.0
        while True:
            inputs = cast((self.args, self.kwargs), precision.weights)
            twin, (args, kwargs) = steps.arranged(self.twin(precision.weights), inputs, precision)
            drift = self.reference.compare(
                twin, args, kwargs, autocast=precision.autocast, scale=scale,
                call=compile(twin) if compile is not None else None,
            )  # fmt: skip
            if scale <= 1.0 or not any(row.nans or row.infs for row in drift.grads):
                return drift
            scale /= 2  # as GradScaler does after a step that it skips


def _joined(own: Drift, eager: Drift) -> Drift:
    """The drift of a compiled model, whose inner modules cannot be seen: theirs is that of the eager one."""
    bad, seen = bool(own.nans or own.infs), {row.module: row.type for row in eager.modules}
    modules = tuple(
        ModuleDrift(ROOT, row.type, own.rel_l2, row.max_abs, own.nans, own.infs)
        if row.module == ROOT
        else row
        for row in eager.modules
    )
    first = eager.first_bad or ROOT if bad and ROOT in seen else None
    return replace(own, modules=modules, first_bad=first, first_bad_type=seen.get(first or "", ""))
