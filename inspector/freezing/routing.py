"""Experts: modules of one kind beside each other, of which the data choose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from inspector.freezing.training import Job
from inspector.tracing._torch import TorchDispatchMode
from inspector.tracing.capture.modules import ModuleCall, module_calls, paths_of

CHOOSING = {
    "topk", "argmax", "argmin", "max", "min", "sort", "argsort", "nonzero", "multinomial", "masked_select",
    "_local_scalar_dense", "bincount", "histc", "unique_dim", "_unique2", "bucketize", "searchsorted",
}  # fmt: skip
"""Operators by which a router tells its experts apart, or Python reads a number."""


def unrouted(job: Job, model: nn.Module, unreached: set[str]) -> set[str]:
    """Those of the names that belong to experts which no token reached: a sibling of the same shape in one
    list or dict of modules got a gradient, and the module around them chooses by the data. (A block that the
    forward forgets has siblings, too, but nothing chooses there.)"""
    left = dict(_left_out(model, unreached))
    if not left:
        return set()
    choosing = _choosers(job, model)
    return {name for owner, names in left.items() if owner in choosing for name in names}


def _left_out(model: nn.Module, unreached: set[str]) -> Iterator[tuple[str, set[str]]]:
    """The module around siblings of which some were reached, and the names of those that were not."""
    modules = dict(model.named_modules())
    found: dict[str, set[str]] = {}
    for path, module in modules.items():
        if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue  # what has a name of its own, or runs in turn, is no expert
        groups: dict[object, list[set[str]]] = {}
        for child, inner in module.named_children():
            prefix = f"{path}.{child}" if path else child
            names = {f"{prefix}.{name}" for name, _ in inner.named_parameters()}
            shape = tuple((name, tuple(p.shape)) for name, p in inner.named_parameters())
            if names:
                groups.setdefault((type(inner), shape), []).append(names)
        for siblings in groups.values():
            lost = [names for names in siblings if names <= unreached]
            if lost and any(not (names & unreached) for names in siblings):
                found.setdefault(_around(path, modules), set()).update(*lost)
    yield from found.items()


def _around(path: str, modules: dict[str, nn.Module]) -> str:
    """The module that runs a container's children."""
    while path and isinstance(modules[path], (nn.ModuleList, nn.ModuleDict)):
        path = path.rpartition(".")[0]
    return path


def _choosers(job: Job, model: nn.Module) -> set[str]:
    """The modules that choose by the data, or hold one that does."""
    stack: list[str] = []
    choosing: set[str] = set()

    class Choices(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            if func.overloadpacket.__name__ in CHOOSING:
                choosing.update(stack)
            return func(*args, **(kwargs or {}))

    def enter(call: ModuleCall) -> None:
        stack.append(call.path)

    def leave(call: ModuleCall) -> None:
        stack.pop()

    with module_calls(paths_of(model), enter, leave), Choices():
        job.outputs(model)
    return choosing
