"""What the frozen part computes: for one sample alone and in a batch, before training and after."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from inspector.trace.capture.isolate import preserved, seed_all
from inspector.verify.freeze.plan import Plan, outermost

DROPPING = ("StochasticDepth", "DropPath", "DropBlock2d", "PatchDropout")


@dataclass
class Probe:
    """One frozen module observed in train mode (dropout off, as are the batch norms that train): `path`
    and whether its output requires grad.

    `apart` is the largest difference between a sample's output alone and inside the batch, relative to
    the largest output; `error` what the model raised on one sample; `random` that the output depends on
    the seed even so. `drift` is the difference between before and after the training steps. None where
    nothing could be compared.
    """

    path: str
    args: Any
    kwargs: Any
    through_model: bool
    frozen: tuple[str, ...]
    output: list[Tensor]
    requires_grad: bool
    apart: float | None = None
    drift: float | None = None
    error: str = ""
    random: bool = False

    def run(self, model: nn.Module, args: Any, kwargs: Any, seed: int) -> list[Tensor]:
        """The module's float outputs; through the whole model (for a prefix), or by itself."""
        with preserved(model), torch.no_grad(), _WithoutDropout():
            calm(model, self.frozen)
            seed_all(seed)
            if self.through_model:
                return _reach(model, self.path, args, kwargs)
            return floats(model.get_submodule(self.path)(*args, **kwargs))

    def again(self, model: nn.Module, seed: int) -> None:
        """After the steps: the same batch must give the same output."""
        drift = distance(self.output, self.run(model, self.args, self.kwargs, seed))
        if drift is not None:
            self.drift = max(drift, self.drift or 0.0)


class _Reached(Exception):
    """Leaves the forward at the module that is observed."""

    def __init__(self, output: Any) -> None:
        super().__init__("reached")
        self.output = output


def probe(model: nn.Module, plan: Plan, args: Any, kwargs: Any, seed: int) -> list[Probe]:
    """Observe the last module of the frozen stages through the whole model; of a part frozen by
    pattern, each outermost module by itself."""
    prefix = [path for path in plan.prefix if path]
    units = [path for path in outermost(plan.modules) if path and not plan.prefix]
    calls = _calls(model, plan, [*prefix, *units], args, kwargs, seed)
    found = []
    reached = [path for path in calls if path in prefix]
    if reached:
        output, wants_grad = calls[reached[-1]][2:]
        found.append(Probe(reached[-1], args, kwargs, True, plan.modules, output, wants_grad))
    for path in units:
        if path in calls and calls[path][2]:
            found.append(Probe(path, *calls[path][:2], False, plan.modules, *calls[path][2:]))
    for entry in found:
        _alone(entry, model, seed)
    return found


def _calls(
    model: nn.Module, plan: Plan, paths: Sequence[str], args: Any, kwargs: Any, seed: int
) -> dict[str, tuple[Any, Any, list[Tensor], bool]]:
    """Arguments, float outputs and whether they require grad, of each module's first call, in the
    order in which the calls end."""
    calls: dict[str, tuple[Any, Any, list[Tensor], bool]] = {}

    def note(path: str, given: Any, named: Any, output: Any) -> None:
        if path not in calls:
            kept = floats(output)
            wants_grad = any(leaf.requires_grad for leaf in kept)
            frozen = tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, (given, named))
            calls[path] = (*frozen, [leaf.detach().clone() for leaf in kept], wants_grad)

    with preserved(model), ExitStack() as stack:
        for path in paths:
            hook = model.get_submodule(path).register_forward_hook(
                lambda module, given, named, output, path=path: note(path, given, named, output),
                with_kwargs=True,
            )
            stack.callback(hook.remove)
        calm(model, plan.modules)
        seed_all(seed)
        model(*args, **kwargs)
    return calls


def _alone(entry: Probe, model: nn.Module, seed: int) -> None:
    """Compare one sample's output alone with its part of the batch's output."""
    batch = batch_size(entry.args, entry.kwargs)
    whole = entry.output = entry.run(model, entry.args, entry.kwargs, seed)
    entry.random = distance(whole, entry.run(model, entry.args, entry.kwargs, seed + 1)) != 0.0
    if batch < 2 or entry.random:
        return
    args, kwargs = first_sample(entry.args, batch), first_sample(entry.kwargs, batch)
    try:
        alone = entry.run(model, args, kwargs, seed)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        entry.error = str(error)
        return
    pairs = [_narrowed(large, small) for large, small in zip(whole, alone)]
    if len(whole) == len(alone) and None not in pairs:
        entry.apart = distance([part for part in pairs if part is not None], alone)


def _reach(model: nn.Module, path: str, args: Any, kwargs: Any) -> list[Tensor]:
    def leave(module: nn.Module, given: Any, output: Any) -> None:
        raise _Reached(output)

    hook = model.get_submodule(path).register_forward_hook(leave)
    try:
        model(*args, **kwargs)
    except _Reached as reached:
        return floats(reached.output)
    finally:
        hook.remove()
    return []


class _WithoutDropout(TorchFunctionMode):
    """Dropout that no module stands for: `F.dropout(x, self.p, self.training)`, and inside attention."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if "dropout" in name and args and isinstance(args[0], Tensor):
            return args[0]
        if name == "scaled_dot_product_attention":
            kwargs.pop("dropout_p", None)
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
        return func(*args, **kwargs)


def calm(model: nn.Module, frozen: Sequence[str]) -> None:
    """Switch off what is random in train mode by design, and the batch norms that train, so that only
    what the frozen part does to a batch is compared."""
    paths = {id(module): path for path, module in model.named_modules()}
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and paths[id(m)] not in frozen]
    for module in (*random_modules(model), *norms):
        module.training = False
    for module in model.modules():
        if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0


def random_modules(model: nn.Module) -> list[nn.Module]:
    """Dropout, stochastic depth and the like, with a rate above zero."""
    return [
        module
        for module in model.modules()
        if (isinstance(module, (_DropoutNd, nn.RReLU)) or type(module).__name__ in DROPPING)
        and (getattr(module, "p", None) or getattr(module, "drop_prob", None) or isinstance(module, nn.RReLU))
    ]


def floats(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def batch_size(args: Any, kwargs: Any) -> int:
    """The first dimension of the first tensor, or the length of a list of images."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            return value.shape[0]
        if isinstance(value, (list, tuple)) and value:
            return len(value)
    return 0


def first_sample(value: Any, batch: int) -> Any:
    """The first sample of whatever holds `batch` of them."""
    if isinstance(value, Tensor):
        return value[:1] if value.dim() and value.shape[0] == batch else value
    if isinstance(value, dict):
        return {key: first_sample(entry, batch) for key, entry in value.items()}
    if isinstance(value, list):
        return value[:1] if len(value) == batch else value
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(first_sample(entry, batch) for entry in value)
    return value


def _narrowed(whole: Tensor, alone: Tensor) -> Tensor | None:
    """The batch's output for the first sample: cut along the one dimension that the batch lengthened."""
    if whole.dim() != alone.dim():
        return None
    longer = [d for d in range(whole.dim()) if whole.shape[d] != alone.shape[d]]
    if not longer:
        return whole
    if len(longer) > 1 or whole.shape[longer[0]] < alone.shape[longer[0]]:
        return None
    return whole.narrow(longer[0], 0, alone.shape[longer[0]])


def distance(left: list[Tensor], right: list[Tensor]) -> float | None:
    """Largest absolute difference relative to the largest value; None when shapes differ."""
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right)):
        return None
    worst = 0.0
    for a, b in zip(left, right):
        if not a.numel():
            continue
        scale = float(a.double().abs().max()) or 1.0
        gap = float((a.double() - b.double()).abs().nan_to_num(0.0).max())
        gap = float("inf") if not torch.equal(a.isnan(), b.isnan()) else gap
        worst = max(worst, gap / scale)
    return worst
