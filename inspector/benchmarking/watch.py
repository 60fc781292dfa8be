"""One step observed instead of timed: what reaches the model, in which mode, and what else moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from inspector.benchmarking.steps import Step
from inspector.models.device import has_float64
from inspector.tracing._torch import TorchDispatchMode, compiled_from, tree_leaves
from inspector.tracing.capture.modules import module_calls, paths_of


@dataclass
class Watched:
    """What one step did. `inputs`: shape of each tensor that reached the model; `sums`: a mark of
    their values, see `_mark`; `wrong_mode`: modules that were not in the mode of the step; `transfers`:
    (bytes, from, to, module) of each tensor copied between devices, module None outside of the model."""

    inputs: tuple[tuple[int, ...], ...] = ()
    sums: tuple[float, ...] = ()
    wrong_mode: list[str] = field(default_factory=list)
    transfers: list[tuple[int, str, str, str | None]] = field(default_factory=list)
    loss_finite: bool | None = None


def watch(step: Step) -> Watched:
    """Run the step once, eagerly, with every operator and the model's call observed."""
    seen = Watched()
    inside: list[str] = []
    call, replay = step.call, step.replay
    hook = step.model.register_forward_pre_hook(_entry(seen, step), with_kwargs=True)
    calls = module_calls(paths_of(step.model), lambda call: inside.append(call.path), lambda _: inside.pop())
    compiled = call is not step.model and compiled_from(call) is step.model
    step.call, step.replay = step.model if compiled else call, None  # a compiled model would hide operators
    try:
        with calls, _Transfers(seen, inside):
            result = step()
    finally:
        step.call, step.replay = call, replay
        hook.remove()
    if step.mode == "train" and isinstance(result, Tensor):
        seen.loss_finite = bool(result.isfinite().all())
    return seen


def _entry(seen: Watched, step: Step) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        seen.inputs = tuple(tuple(tensor.shape) for tensor in tensors)
        seen.sums = tuple(_mark(tensor) for tensor in tensors)
        if step.mode == "train":  # parts may stay in eval mode on purpose, such as frozen batch norms
            seen.wrong_mode = [] if module.training else ["(model)"]
        else:
            seen.wrong_mode = [path or "(model)" for path, m in module.named_modules() if m.training]

    return hook


def _mark(tensor: Tensor) -> float:
    """Sum over L2 norm: rounding to bfloat16 moves it by about 0.002, other values by about 1."""
    value = tensor.detach().abs() if tensor.is_complex() else tensor.detach()
    wide = value.double() if has_float64(str(value.device)) else value.float()
    norm = float(wide.norm())
    return float(wide.sum()) / norm if norm else 0.0


class _Transfers(TorchDispatchMode):
    """Notes every tensor that an operator copies from one device to another."""

    def __init__(self, seen: Watched, inside: list[str]) -> None:
        super().__init__()
        self.seen, self.inside = seen, inside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "to") and isinstance(result, Tensor):  # `to` whole in inference mode
            self._note(args[0], result)
        elif name == "copy_" and isinstance(args[1], Tensor):
            self._note(args[1], args[0])
        return result

    def _note(self, source: Tensor, target: Tensor) -> None:
        if source.device != target.device:
            place = self.inside[-1] if self.inside else None
            nbytes = source.numel() * source.element_size()
            self.seen.transfers.append((nbytes, str(source.device), str(target.device), place))
