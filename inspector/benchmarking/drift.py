"""How far a low-precision run is from the same run in float64: the output, every module, every gradient.

The distance is ||y - y64|| / ||y64||, the L2 norm over all float tensors of all calls. It is what the
precision costs in accuracy of the arithmetic, *not* in accuracy of the task. The float64 run is as exact
as the model's own forward lets it be: one that casts to float32 inside (as many RMSNorms do) rounds there.
Hooks are on every module while it runs, so that torch's fused transformer fast paths are not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from inspector.benchmarking.distance import Sums, measure, peak, read
from inspector.benchmarking.observed import ROOT, run
from inspector.tracing.values import batch_size


@dataclass(frozen=True)
class ModuleDrift:
    """One module, or the gradient of one parameter (`type` "gradient").

    `rel_l2` is over all float outputs of all calls together; None when the reference is exactly zero,
    calls or shapes differ, or a value is not finite. `max_abs` is the largest finite magnitude in
    float64 (float16 ends at 65504), None without any element. `nans` and `infs` count values where the
    reference is finite; calls whose shapes differ are not counted.
    """

    module: str
    type: str
    rel_l2: float | None
    max_abs: float | None
    nans: int
    infs: int


@dataclass(frozen=True)
class Drift:
    """One run against float64.

    `rel_l2`, `nans`, `infs` are of the output, `reason` says why `rel_l2` is None. `modules` are in the
    order in which they first finished, so inner ones precede outer ones. `first_bad` is the module that
    first gave NaN or infinity where float64 is finite ("(model)" is the root). `top1` is (samples whose
    largest output is at the same place, samples), without those that tie in float64. `grad_rel_l2` is
    over the gradients of all parameters, `grads` of each; without training None and empty.
    """

    rel_l2: float | None
    reason: str
    modules: tuple[ModuleDrift, ...] = ()
    nans: int = 0
    infs: int = 0
    first_bad: str | None = None
    first_bad_type: str = ""
    top1: tuple[int, int] | None = None
    grad_rel_l2: float | None = None
    grads: tuple[ModuleDrift, ...] = ()

    @property
    def worst(self) -> list[ModuleDrift]:
        """The innermost modules that ran and have a known drift, the largest first."""
        outer = {ROOT} if len(self.modules) > 1 else set()
        for row in self.modules:
            parts = row.module.split(".")
            outer.update(".".join(parts[:length]) for length in range(1, len(parts)))
        inner = [row for row in self.modules if row.module not in outer and row.rel_l2 is not None]
        return sorted(inner, key=lambda row: row.rel_l2 or 0.0, reverse=True)


@dataclass
class _Watch:
    """The sums of every call of every module, left on the device until all have run."""

    kept: dict[str, list[list[Tensor]]]
    calls: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, Tensor | None]] = field(default_factory=list)

    def __call__(self, path: str, module: nn.Module, values: list[Tensor]) -> None:
        call = self.calls.get(path, 0)
        self.calls[path] = call + 1
        self.types.setdefault(path, type(module).__name__)
        truth = self.kept.get(path, [])
        self.events.append((path, measure(values, truth[call]) if call < len(truth) else None))

    def complete(self, path: str) -> bool:
        """Whether a module was called as often as in float64."""
        return self.calls[path] == len(self.kept.get(path, []))


@dataclass
class Reference:
    """A run in float64, computed once, with which any number of runs are compared.

    It keeps the float outputs of every module, in float64 on the model's device: eight bytes for every
    value that every module gives, containers included. Take a small batch.
    """

    mode: str
    loss: Callable[[Any], Tensor]
    outputs: list[Tensor] = field(default_factory=list)
    kept: dict[str, list[list[Tensor]]] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    peaks: dict[str, float | None] = field(default_factory=dict)
    batch: int = 0
    failure: str = ""

    @staticmethod
    def make(
        model64: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        mode: str,
        loss: Callable[[Any], Tensor],
    ) -> Reference:
        """Run a throw-away float64 model on float64 inputs: `mode` "infer" (eval mode, no gradients) or
        "train" (train mode, forward, `loss` of the outputs, backward).

        A model that cannot run in float64 gives a reference with `failure`, the reason of every comparison.
        """
        reference = Reference(mode, loss, batch=batch_size(args, kwargs))

        def keep(path: str, module: nn.Module, values: list[Tensor]) -> None:
            copies = [value.to(torch.float64, copy=True) for value in values]
            reference.kept.setdefault(path, []).append(copies)

        try:
            outputs = run(model64, args, kwargs, mode, loss, keep)
        except Exception as error:  # whatever a foreign model raises, the benchmark continues without drift
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            return Reference(mode, loss, failure=f"the model cannot run in float64: {first}")
        reference.outputs = [value.double() for value in outputs]
        reference.gradients = {name: gradient.double() for name, gradient in _gradients(model64)}
        reference.peaks = {path: peak(chain.from_iterable(calls)) for path, calls in reference.kept.items()}
        return reference

    def compare(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        autocast: torch.dtype | None,
        scale: float = 1.0,
        call: Callable[..., Any] | None = None,
    ) -> Drift:
        """Run a throw-away copy of the model the same way in its own precision, under `autocast` if given.

        In training the loss is multiplied by `scale` before backward and the gradients divided by it in
        float64, as GradScaler does. `call` runs in the model's place: its modules are then not seen. Raises
        what the model raises.
        """
        if self.failure:
            return Drift(None, self.failure)
        watch = _Watch(self.kept)
        outputs = run(model, args, kwargs, self.mode, self.loss, watch, autocast, scale, call)
        total = read(measure(outputs, self.outputs))
        events = [(path, read(sums)) for path, sums in watch.events]  # in the order in which calls ended
        bad = next((path for path, sums in events if sums.nans or sums.infs), None)
        grads, grad_rel_l2 = self._gradient_rows(model, scale)
        return Drift(
            rel_l2=total.relative,
            reason=self._why_unknown(total, outputs),
            modules=tuple(self._module_rows(watch, events)),
            nans=total.nans,
            infs=total.infs,
            first_bad=bad,
            first_bad_type=watch.types[bad] if bad is not None else "",
            top1=self._top1(outputs) if total.alike else None,
            grad_rel_l2=grad_rel_l2,
            grads=grads,
        )

    def _module_rows(self, watch: _Watch, events: list[tuple[str, Sums]]) -> Iterator[ModuleDrift]:
        totals: dict[str, Sums] = {}
        for path, sums in events:
            totals[path] = totals.get(path, Sums(alike=watch.complete(path))) + sums
        for path, sums in totals.items():
            yield _row(path, watch.types[path], sums, self.peaks.get(path))

    def _gradient_rows(self, model: nn.Module, scale: float) -> tuple[tuple[ModuleDrift, ...], float | None]:
        if self.mode != "train":
            return (), None
        gradients = dict(_gradients(model))
        rows, total = [], Sums()
        for name in self.gradients | gradients:
            mine = [gradients[name].double() / scale] if name in gradients else []
            truth = [self.gradients[name]] if name in self.gradients else []
            sums = read(measure(mine, truth))
            rows.append(_row(name, "gradient", sums, peak(truth)))
            total += sums
        return tuple(rows), total.relative

    def _why_unknown(self, total: Sums, outputs: list[Tensor]) -> str:
        if total.relative is not None:
            return ""
        if not total.alike:
            return f"shapes differ: {_shapes(outputs)}, in float64 {_shapes(self.outputs)}"
        if total.nans or total.infs:
            return f"{total.nans + total.infs} values are not finite"
        if not self.outputs:
            return "the model returns no float output"
        if any(value.numel() and not bool(value.isfinite().any()) for value in self.outputs):
            return "the reference output is not finite"
        return "the reference output is too large" if total.norm else "the reference output is zero"

    def _top1(self, outputs: list[Tensor]) -> tuple[int, int] | None:
        for mine, truth in zip(outputs, self.outputs):
            # boxes are (n, 4), too, but n is not the batch
            if truth.dim() == 2 and truth.shape[0] == self.batch and truth.shape[1] > 1:
                top = truth.topk(2, dim=-1).values
                clear = top[:, 0] > top[:, 1]
                same = (mine.argmax(-1) == truth.argmax(-1)) & clear
                return (int(same.sum()), int(clear.sum())) if bool(clear.any()) else None
        return None


def _row(name: str, kind: str, sums: Sums, peak: float | None) -> ModuleDrift:
    return ModuleDrift(name, kind, sums.relative, peak, sums.nans, sums.infs)


def _gradients(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            yield name, parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad


def _shapes(values: list[Tensor]) -> str:
    return ", ".join(str(tuple(value.shape)) for value in values) or "none"
