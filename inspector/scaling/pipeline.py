"""Where a model is cut into the stages of a pipeline.

As torchtitan cuts (torchtitan/distributed/pipeline_parallel.py): a stage is a copy of the whole model whose
list of blocks keeps its own ones, while modules that run before the list (embedding) or after it (norm, head)
stay in the first or the last stage and are an `nn.Identity` elsewhere. The forward of such a copy is the
model's own. It is a stage only if what it receives reaches its first block as it is, and what its last block
returns leaves as it is: a forward on meta shows both, and a model that does more in between is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError, first_line
from inspector.tracing import _torch
from inspector.tracing.capture.kernels import On

TARGETS = ("labels", "targets", "target")
"""Keyword inputs that the last stage alone is called with: it computes the loss."""
_LISTS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)
_HINT = "a pipeline cuts the longest list of blocks of one class, whose output the next block takes as it is"


@dataclass(frozen=True)
class Cut:
    """The list of blocks at `path` (`model` itself if ""), the names of its entries, and the modules that the
    first stage (`before`) and the last (`after`) have alone. `hidden`: what passes from block to block."""

    path: str
    names: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    hidden: Tensor

    def owned(self, stages: int) -> list[tuple[str, ...]]:
        """The blocks of each stage: equally many, and what remains goes to the stages in the middle, because
        the first and the last have other work (Llama 3, arXiv 2407.21783, section 3.3.2, does so)."""
        each, rest = divmod(len(self.names), stages)
        order = [*range(1, stages - 1), 0, stages - 1] if stages > 2 else list(range(stages))
        counts = [each] * stages
        for stage in order[:rest]:
            counts[stage] += 1
        ends = [sum(counts[: number + 1]) for number in range(stages)]
        return [self.names[end - count : end] for count, end in zip(counts, ends)]

    def described(self, stages: int) -> list[str]:
        """Each stage in words."""
        texts = []
        for number, names in enumerate(self.owned(stages)):
            text = f"{names[0]}-{names[-1]}" if len(names) > 1 else names[0]
            outer = (self.before if number == 0 else ()) + (self.after if number == stages - 1 else ())
            texts.append(" + ".join([text, *map(_short, outer)]))
        return texts


def _short(path: str) -> str:
    name = path.rpartition(".")[2]
    return path if name.isdecimal() else name


def find_cut(
    model: nn.Module, stages: int, args: Sequence[Any], kwargs: Mapping[str, Any], on: On, name: str
) -> Cut:
    """Where `model`, on meta, can be cut into `stages`: seen in one forward on a microbatch. Raises
    InspectError where it cannot."""
    path, blocks = _list(model, stages, name)
    calls = _watched(model, path, blocks, args, kwargs, on)
    hidden = _chain(path, blocks, calls, name)
    _refuse_own_parameters(model, path, name)
    before, after = _outer(model, path, calls, hidden, name)
    prefix = f"{path}." if path else ""
    _refuse_ties(model, [*before, *after, *(prefix + block for block in blocks)], name)
    return Cut(path, tuple(blocks), before, after, torch.empty_like(hidden))


def keep(model: nn.Module, cut: Cut, stages: int, stage: int) -> None:
    """Make `model` the stage with this number, in place. Names of modules stay what they were."""
    children = _torch.children_of(model.get_submodule(cut.path))
    owned = cut.owned(stages)[stage]
    for name in cut.names:
        if name not in owned:
            del children[name]
    gone = (cut.before if stage > 0 else ()) + (cut.after if stage < stages - 1 else ())
    for path in gone:
        parent, _, name = path.rpartition(".")
        _torch.children_of(model.get_submodule(parent))[name] = nn.Identity()


def first_tensor(outputs: Any) -> Tensor:
    """What a stage sends: its output, or the first tensor in it."""
    return next(iter(_tensors(outputs)))


def verify(
    model: nn.Module,
    cut: Cut,
    stages: int,
    stage: int,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    on: On,
) -> None:
    """Run a stage on meta as it will be called. Raises InspectError if something stands between what it
    receives and its first block, or between its last block and what it sends."""
    names = cut.owned(stages)[stage]
    if stage > 0:
        args = (torch.empty_like(cut.hidden),)
    if stage < stages - 1:
        kwargs = {key: value for key, value in kwargs.items() if key not in TARGETS}
    seen: dict[str, Any] = {}
    prefix = f"{cut.path}." if cut.path else ""

    def entered(module: Any, values: Any, named: Any) -> None:
        seen["in"] = next(iter(_tensors((values, named))))

    def left(module: Any, values: Any, outputs: Any) -> None:
        seen["out"] = first_tensor(outputs)

    with ExitStack() as stack:
        first, last = (model.get_submodule(prefix + names[place]) for place in (0, -1))
        stack.callback(first.register_forward_pre_hook(entered, with_kwargs=True).remove)
        stack.callback(last.register_forward_hook(left).remove)
        outputs = _forward(model, args, kwargs, on, f"stage {stage} of a pipeline")
    if stage > 0 and not _same(seen["in"], args[0]):
        raise InspectError(
            f"what stage {stage} receives is changed before its first block, {prefix}{names[0]}", _HINT
        )
    if stage < stages - 1 and not _same(seen["out"], first_tensor(outputs)):
        raise InspectError(
            f"the output of {prefix}{names[-1]} is changed before stage {stage} returns it", _HINT
        )


def microbatch(
    args: Sequence[Any], kwargs: Mapping[str, Any], count: int
) -> tuple[list[Any], dict[str, Any]]:
    """The inputs of one of `count` microbatches. Raises InspectError where torch cannot split a batch so."""
    sizes = {value.shape[0] for value in _tensors((list(args), kwargs)) if value.dim()}
    if len(sizes) != 1 or any(not isinstance(value, Tensor) for value in args):
        raise InspectError(
            "torch splits each input of a pipeline along its first dimension, but these have no common one",
            "leave other inputs out",
        )
    batch = sizes.pop()
    if batch % count:
        raise InspectError(
            f"a batch of {batch} cannot be split into {count} equal microbatches",
            f"use e.g. `batch={count * -(-batch // count)}`",
        )
    each = batch // count

    def part(value: Any) -> Any:
        return value[:each] if isinstance(value, Tensor) and value.dim() else value

    return [part(value) for value in args], {name: part(value) for name, value in kwargs.items()}


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in the arguments or outputs of a module, in order; not those inside opaque objects."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [leaf for part in value for leaf in _tensors(part)] if isinstance(value, (list, tuple)) else []


def _same(one: Tensor, other: Tensor) -> bool:
    return (
        one.untyped_storage() is other.untyped_storage()
        and (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
    )  # fmt: skip


def _list(model: nn.Module, stages: int, name: str) -> tuple[str, tuple[str, ...]]:
    """The longest list of blocks of one class; else the model itself, if it is a Sequential."""
    lists = {
        path: tuple(_torch.children_of(module))
        for path, module in model.named_modules()
        if isinstance(module, _LISTS) and len({type(child) for child in module.children()}) == 1
    }
    if isinstance(model, nn.Sequential):
        lists.setdefault("", tuple(_torch.children_of(model)))
    if not lists:
        raise InspectError(f"{name} has no list of blocks that a pipeline could cut", _HINT)
    path = max(lists, key=lambda path: len(lists[path]))
    if len(lists[path]) < stages:
        where = f"{path} of {name}" if path else name
        raise InspectError(
            f"{where} has {len(lists[path])} blocks, too few for {stages} stages of a pipeline",
            "use a smaller pp",
        )
    return path, lists[path]


@dataclass(frozen=True)
class _Call:
    path: str
    given: list[Tensor]
    made: list[Tensor]
    inside: bool


def _watched(
    model: nn.Module, path: str, blocks: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any], on: On
) -> list[_Call]:
    """The calls of the blocks and of the modules around their list, in order."""
    calls: list[_Call] = []
    prefix = f"{path}." if path else ""
    outer = _around(model, path)
    chosen = {**{prefix + name: True for name in blocks}, **dict.fromkeys(outer, False)}

    def left(where: str, inside: bool) -> Callable[..., None]:
        def hook(module: Any, values: Any, named: Any, outputs: Any) -> None:
            calls.append(_Call(where, _tensors((values, named)), _tensors(outputs), inside))

        return hook

    with ExitStack() as stack:
        for where, inside in chosen.items():
            handle = model.get_submodule(where).register_forward_hook(left(where, inside), with_kwargs=True)
            stack.callback(handle.remove)
        _forward(model, args, kwargs, on, "the model")
    return calls


def _forward(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], on: On, what: str) -> Any:
    try:
        with torch.no_grad(), on():
            return model(*args, **kwargs)
    except InspectError:
        raise
    except Exception as error:
        raise InspectError(
            f"{what} does not run on meta tensors: {type(error).__name__}: {first_line(error)}", _HINT
        ) from error


def _around(model: nn.Module, path: str) -> list[str]:
    """The modules beside the list of blocks: the outermost that do not contain it."""
    if not path:
        return []
    parts = path.split(".")
    beside = []
    for depth in range(len(parts)):
        parent = ".".join(parts[:depth])
        for name, child in _torch.children_of(model.get_submodule(parent)).items():
            if child is not None and name != parts[depth]:
                beside.append(f"{parent}.{name}" if parent else name)
    return beside


def _chain(path: str, blocks: Sequence[str], calls: Sequence[_Call], name: str) -> Tensor:
    """What passes from block to block. Raises InspectError if it is not one tensor that goes straight."""
    prefix = f"{path}." if path else ""
    order = [call for call in calls if call.inside]
    if [call.path for call in order] != [prefix + block for block in blocks]:
        raise InspectError(f"{name} does not run each block of {path or name} once, in their order", _HINT)
    for one, following in pairwise(order):
        if not one.made or not following.given or following.given[0] is not one.made[0]:
            raise InspectError(f"{following.path} does not take what {one.path} returns", _HINT)
    shapes = {(call.made[0].shape, call.made[0].dtype) for call in order}
    if len(shapes) > 1:
        raise InspectError(f"the blocks of {path or name} return tensors of different shapes", _HINT)
    return order[0].made[0]


def _refuse_own_parameters(model: nn.Module, path: str, name: str) -> None:
    parts = path.split(".") if path else []
    for depth in range(len(parts)):
        holder = model.get_submodule(".".join(parts[:depth]))
        for own, parameter in _torch.parameters_of(holder).items():
            if parameter is not None:
                raise InspectError(
                    f"{name} uses the parameter {'.'.join([*parts[:depth], own])} itself, in no module", _HINT
                )


def _refuse_ties(model: nn.Module, parts: Sequence[str], name: str) -> None:
    """A weight that two stages share would be two, whose gradients nobody adds."""
    owners: dict[int, str] = {}
    for path in parts:
        for parameter in model.get_submodule(path).parameters():
            other = owners.setdefault(id(parameter), path)
            if other != path:
                raise InspectError(
                    f"{other} and {path} of {name} share a weight, and would be in different stages",
                    "build it with untied weights (a Llama: `tie_word_embeddings: false`)",
                )


def _outer(
    model: nn.Module, path: str, calls: Sequence[_Call], hidden: Tensor, name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules that the first and the last stage have alone. One without parameters that is no step from
    tensor to tensor (rotary embeddings, masks) stays in each."""
    places = [number for number, call in enumerate(calls) if call.inside]
    sides: dict[str, set[str]] = {}
    for number, call in enumerate(calls):
        if not call.inside:
            side = "before" if number < places[0] else "after" if number > places[-1] else "between"
            sides.setdefault(call.path, set()).add(side)
    held: dict[str, list[str]] = {"before": [], "after": []}
    for outer in _around(model, path):
        module, where = model.get_submodule(outer), sides.get(outer, {"before"})
        holds = next(module.parameters(), None) is not None
        own = [call for call in calls if call.path == outer]
        steps = len(own) == 1 and len(own[0].given) == 1 and len(own[0].made) == 1
        if not holds and not (steps and own[0].made[0].dim() == hidden.dim()):
            continue
        if len(where) > 1 or "between" in where:
            raise InspectError(f"{outer} of {name} runs beside its blocks, not before or after them", _HINT)
        if own and not steps:
            raise InspectError(f"{outer} of {name} is no step from one tensor to the next", _HINT)
        held[where.pop()].append(outer)
    turns = {call.path: turn for turn, call in enumerate(calls)}
    before, after = (sorted(held[side], key=lambda path: turns.get(path, -1)) for side in ("before", "after"))
    return tuple(before), tuple(after)
