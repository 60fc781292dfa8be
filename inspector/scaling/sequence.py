"""Sequence parallelism: between the modules of a tensor-parallel plan, each rank has a part of the sequence.

As in torch's tutorial (Large Scale Transformer model training with Tensor Parallel) and torchtitan: the
embedding gives each rank its part of the sequence, norms work on the part (SequenceParallel), a block of a
plan's modules (attention, feed-forward) gathers what it takes and scatters the sum of what it gives, and the
head gathers. So a layer has two all-gathers and two reduce-scatters in place of its two all-reduces
(Korthikanti et al., arXiv 2205.05198).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
)

from inspector.core.errors import InspectError, first_line
from inspector.tracing import _torch

_ALONG = 1
"""The dimension of the sequence: batch, sequence, features."""
_HINT = "leave `sequence_parallel=` out, or write a plan whose modules cover the model"


def styles(
    model: nn.Module, plan: Mapping[str, str], ranks: int, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, ParallelStyle]:
    """The style of each module, from the names of those of a tensor-parallel plan. Raises InspectError where
    the model has modules that would see a part of the sequence and are no norms."""
    chosen: dict[str, ParallelStyle] = {}
    for path, style in plan.items():
        chosen[path] = _style(path, model.get_submodule(path), style)
    if not any(isinstance(model.get_submodule(path), nn.Embedding) for path in plan):
        raise InspectError("the plan splits no embedding, which would split the sequence", _HINT)
    _check_length(ranks, args, kwargs)
    blocks = _blocks(plan)
    chosen |= _gathering(model, blocks, args, kwargs)
    for path, module in model.named_modules():
        inside = any(path == block or path.startswith(f"{block}.") for block in blocks)
        if inside or path in plan or not _torch.parameters_of(module):
            continue
        if "norm" not in type(module).__name__.lower():
            raise InspectError(
                f"{path or 'the model'} is no norm, and would see a part of the sequence", _HINT
            )
        chosen[path] = SequenceParallel(sequence_dim=_ALONG)
    return chosen


def _style(path: str, module: nn.Module, style: str) -> ParallelStyle:
    part = Shard(_ALONG)
    if isinstance(module, nn.Embedding) and "rowwise" in style:
        return RowwiseParallel(input_layouts=Replicate(), output_layouts=part, use_local_output=False)
    if style == "rowwise":
        return RowwiseParallel(output_layouts=part, use_local_output=False)
    if isinstance(module, nn.Linear) and style in ("colwise_rep", "colwise_gather_output"):
        return ColwiseParallel(input_layouts=part, output_layouts=Replicate())
    if isinstance(module, nn.Linear) and style == "colwise":
        return ColwiseParallel()
    raise InspectError(f"the style {style!r} of {path} has no form with a split sequence", _HINT)


def _check_length(ranks: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    lengths = {v.shape[_ALONG] for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim() > 1}
    length = next((length for length in lengths if length % ranks), None)
    if length is not None:
        raise InspectError(
            f"a sequence of {length} does not divide by tp={ranks}", f"use e.g. {length - length % ranks}"
        )


def _blocks(plan: Mapping[str, str]) -> list[str]:
    """The modules whose parts are split by columns, and then by rows."""
    kinds: dict[str, set[str]] = {}
    for path, style in plan.items():
        if style in ("colwise", "rowwise"):
            kinds.setdefault(path.rpartition(".")[0], set()).add(style)
    blocks = [path for path, styles in kinds.items() if "colwise" in styles]
    alone = next((path for path in blocks if "rowwise" not in kinds[path] or not path), None)
    if alone is not None:
        raise InspectError(f"{alone or 'the model'} has columns of the plan, but no rows that end it", _HINT)
    return blocks


def _gathering(
    model: nn.Module, blocks: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, ParallelStyle]:
    """How each block takes its input whole: by position or by the keyword that a forward on meta shows."""
    chosen: dict[str, ParallelStyle] = {}
    part, whole = Shard(_ALONG), Replicate()

    def entered(path: str) -> Any:
        def hook(module: Any, values: tuple[Any, ...], named: dict[str, Any]) -> None:
            if values:
                rest = (None,) * (len(values) - 1)
                chosen[path] = PrepareModuleInput(
                    input_layouts=(part, *rest), desired_input_layouts=(whole, *rest)
                )
                return
            name = next(name for name, value in named.items() if isinstance(value, Tensor))
            chosen[path] = PrepareModuleInput(
                input_kwarg_layouts={name: part}, desired_input_kwarg_layouts={name: whole}
            )  # fmt: skip

        return hook

    with ExitStack() as stack:
        for path in blocks:
            module = model.get_submodule(path)
            stack.callback(module.register_forward_pre_hook(entered(path), with_kwargs=True).remove)
        try:
            with torch.no_grad():
                model(*args, **kwargs)
        except Exception as error:
            text = f"the model does not run on meta tensors: {type(error).__name__}: {first_line(error)}"
            raise InspectError(text, _HINT) from error
    return chosen
