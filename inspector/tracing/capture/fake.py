"""Fake tensors at the price of what they hold: the same results as torch's own mode gives, without what it
asks of each call. A step on a simulated rank is mostly views of parameters, layer after layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.tracing import _torch
from inspector.tracing._torch import DispatchMode
from inspector.tracing.capture.memo import MetaMemo

_LISTS = "aten._foreach_"
_LIKE = {torch.ops.aten.empty_like.default, torch.ops.aten.zeros_like.default}
Run = Callable[..., Any]


class FakeMemo(MetaMemo):
    """The memo of fake tensors on the CPU, each around a meta tensor."""

    def __init__(self, mode: Any) -> None:
        self.active, self.mode = True, mode
        self._results = {}
        self._device = torch.device("cpu")

    def plain(self, result: Any) -> bool:
        """One whose value is remembered (a step's number) may be asked for it."""
        return type(result) is _torch.FakeTensor and result.constant is None

    def empty(self, shape: Any, stride: Any, dtype: Any) -> Tensor:
        with _torch.in_fake_kernel(self.mode):
            return self._fake(super().empty(shape, stride, dtype))

    def recall(self, signature: Any, operator: Any, args: Any) -> Any:
        if operator.in_place and not self.plain(args[0]):
            return NotImplemented
        return super().recall(signature, operator, args)

    def run(self, run: Run, func: Any, operator: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The result of an operator; `run` is the ordinary way."""
        if operator.view and args and self.plain(args[0]):
            with _torch.in_fake_kernel(self.mode):
                return self._fake(func(*args, **kwargs))
        if operator.name.startswith(_LISTS):
            return self.run_list(run, args, kwargs)
        return run(*args, **kwargs)

    def run_list(self, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The result of an operator on lists, entry by entry, run on one entry of each kind: of the same
        shapes, strides and dtypes. An optimizer's step has thousands of entries of a few kinds."""
        lists = [value for value in args if isinstance(value, (list, tuple))]
        count = len(args[0]) if args and isinstance(args[0], (list, tuple)) else 0
        if any(len(entries) != count for entries in lists) or any(map(_listed, kwargs.values())):
            return run(*args, **kwargs)
        kinds: dict[Any, int] = {}
        places: list[int] = []
        for entry in zip(*lists):
            kind = tuple(map(self._kind, entry))
            if None in kind:
                return run(*args, **kwargs)
            places.append(kinds.setdefault(kind, len(places)))
        chosen = sorted(kinds.values())
        picked = [[value[i] for i in chosen] if _listed(value) else value for value in args]
        results = run(*picked, **kwargs)
        if results is None:
            return None
        of = dict(zip(chosen, results))
        if not all(map(self.plain, results)):
            return run(*args, **kwargs)
        return [
            of[place] if place == i else self.empty(of[place].shape, of[place].stride(), of[place].dtype)
            for i, place in enumerate(places)
        ]

    def _kind(self, value: Any) -> Any:
        """What an entry's result depends on; None where it may depend on more."""
        if isinstance(value, Tensor):
            return (value.shape, value.stride(), value.dtype) if self.plain(value) else None
        return type(value)

    def _fake(self, meta: Tensor) -> Tensor:
        if type(meta) is not Tensor:  # the argument itself
            return meta
        made: Tensor = _torch.FakeTensor(self.mode, meta, self._device)
        return made


def _listed(value: Any) -> bool:
    return isinstance(value, (list, tuple))


class Unrecorded(DispatchMode):
    """The same where nothing is recorded: operators on lists, and tensors like others."""

    def __init__(self, memo: FakeMemo) -> None:
        super().__init__()
        self._memo = memo
        self._layouts: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.__name__.startswith("_foreach_"):
            return self._memo.run_list(func, args, kwargs)
        if func in _LIKE and len(args) == 1 and type(args[0]) in (Tensor, _torch.FakeTensor):
            return self._like(func, args[0], kwargs)
        return func(*args, **kwargs)

    def _like(self, func: Any, tensor: Tensor, kwargs: Mapping[str, Any]) -> Any:
        form = tensor.shape, tensor.stride(), tensor.dtype, tensor.layout, tensor.device
        key = func, type(tensor), form, tuple(kwargs.items())
        if key in self._layouts:
            return self._memo.empty(*self._layouts[key])
        result = func(tensor, **kwargs)
        if self._memo.plain(result) and result.device.type == "cpu" and not result.is_sparse:
            self._layouts[key] = result.shape, result.stride(), result.dtype
        return result
