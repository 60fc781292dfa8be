"""On the meta device a result depends on shapes alone: what was computed once need not run again.

Most meta kernels are Python and cost ten times what recording costs; models repeat their layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.tracing.record import TensorSpec

_REMEMBERED: dict[torch.dtype, dict[Any, Any]] = {}
"""Results by default dtype, shared by all passes of the process."""
_LIMIT = 50_000


class MetaMemo:
    """Remembers, for calls that look alike, the shapes, strides and dtypes of the results.

    Only results in fresh memory are kept, and in-place operators, which return their first
    argument. Views, operators that are not pure functions of shapes, and other devices always run.
    """

    def __init__(self, device: str) -> None:
        self.active = device == "meta"
        self._results = _REMEMBERED.setdefault(torch.get_default_dtype(), {})
        if len(self._results) > _LIMIT:
            self._results.clear()

    def plain(self, result: Any) -> bool:
        """Whether a result is described by its shape, strides and dtype."""
        return type(result) is Tensor and result.device.type == "meta"

    def empty(self, shape: Any, stride: Any, dtype: Any) -> Tensor:
        """A result like one that was seen."""
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")

    def recall(self, signature: Any, operator: Any, args: Any) -> Any:
        """The result of an earlier call that looked the same, or NotImplemented."""
        if not self.active or operator.in_place is None:
            return NotImplemented
        try:
            kept = self._results.get(signature)
        except TypeError:  # an argument that cannot be hashed
            return NotImplemented
        if kept is None:
            return NotImplemented
        if operator.in_place:
            return args[0]
        single, layouts = kept
        made = [None if layout is None else self.empty(*layout) for layout in layouts]
        return made[0] if single else tuple(made)

    def learn(
        self,
        signature: Any,
        operator: Any,
        args: Any,
        result: Any,
        made: list[TensorSpec],
        storages_before: int,
    ) -> None:
        """Keep a result. `storages_before` existed before the call: a result among them is no copy."""
        if not self.active or operator.in_place is None:
            return
        try:
            if operator.in_place:
                if result is args[0] and self.plain(result) and _kept_its_form(result, signature):
                    self._results[signature] = True
            elif made and all(spec.storage >= storages_before for spec in made):
                single = isinstance(result, Tensor)
                results = (result,) if single else result
                if isinstance(results, tuple) and all(r is None or self.plain(r) for r in results):
                    layouts = [None if r is None else (r.shape, r.stride(), r.dtype) for r in results]
                    self._results[signature] = single, layouts
        except TypeError:
            return


def _kept_its_form(result: Tensor, signature: Any) -> bool:
    """Whether an in-place operator left shape and strides alone: `unsqueeze_` must run each time.
    (A signature begins with the operator, then shape, dtype and strides of the first argument.)"""
    return bool(signature[1] == result.shape and signature[3] == result.stride())
