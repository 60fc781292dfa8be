"""Plans of tensor parallelism: which module is split how, by names that transformers uses too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
)

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.core.values import yaml_file

_COLUMNS, _ROWS = "colwise", "rowwise"
STYLES = {
    _COLUMNS: lambda: ColwiseParallel(),
    _ROWS: lambda: RowwiseParallel(),
    "colwise_rep": lambda: ColwiseParallel(output_layouts=Replicate()),
    "colwise_gather_output": lambda: ColwiseParallel(output_layouts=Replicate()),
    "rowwise_rep": lambda: RowwiseParallel(input_layouts=Replicate()),
    "embedding_rowwise": lambda: RowwiseParallel(input_layouts=Replicate()),
}
"""torch's own styles (torch/distributed/tensor/parallel/style.py) by the names of transformers' plans
(transformers/integrations/tensor_parallel.py). Sequence parallelism is not among them: what stands between
its modules must be split too, which a plan of names cannot say, and torch would take a whole tensor for a
part without a word. `sequence.styles` works that out from a plan."""
_MOST = 64
"""Ranks of tensor parallelism that a hint goes up to."""
_HINT = "write a YAML file of `module.*.path: colwise` lines, and pass it as `tp_plan=`"


def read(file: str | Path) -> dict[str, str]:
    """A plan from a YAML file: a mapping from paths (`*` stands for one part) to styles."""
    content = yaml_file(file, _HINT)
    if not isinstance(content, dict) or not content:
        raise InspectError(f"{file} holds no plan of tensor parallelism", _HINT)
    return {str(path): str(style) for path, style in content.items()}


def own_plan(model: nn.Module) -> dict[str, str]:
    """The plan that a model of transformers brings along. Raises InspectError where it has none."""
    plan: Any = getattr(model, "tp_plan", None)
    if not isinstance(plan, Mapping) or not plan:
        raise InspectError(f"{type(model).__name__} has no plan of tensor parallelism", _HINT)
    return dict(plan)


def styles(model: nn.Module, plan: Mapping[str, str], ranks: int = 1) -> dict[str, ParallelStyle]:
    """The style of each module that `plan` names. Raises InspectError for what cannot be split so over as
    many `ranks`."""
    return {path: STYLES[style]() for path, style in names(model, plan, ranks).items()}


def names(model: nn.Module, plan: Mapping[str, str], ranks: int = 1) -> dict[str, str]:
    """As `styles`, by the names of the styles."""
    modules = dict(model.named_modules())
    chosen: dict[str, str] = {}
    for pattern, style in plan.items():
        if style not in STYLES:
            hint = nearest(style, STYLES, f"torch has: {', '.join(STYLES)}")
            raise InspectError(f"the style {style!r} of {pattern} is not simulated", hint)
        matcher = re.compile(re.escape(pattern).replace(r"\*", "[^.]+"))
        paths = [path for path in modules if path and matcher.fullmatch(path)]
        if not paths:
            raise InspectError(f"the plan names {pattern}, which the model does not have", _HINT)
        for path in paths:
            _check(path, modules[path], style)
            _check_sizes(model, path, style, ranks)
            chosen[path] = style
    _refuse_ties(model, chosen)
    return chosen


def _check(path: str, module: nn.Module, style: str) -> None:
    if isinstance(module, nn.Embedding) and style == _ROWS:
        raise InspectError(
            f"{path} is an Embedding, whose words every rank has: {_ROWS!r} would join those of all ranks",
            "use embedding_rowwise",
        )
    if not isinstance(module, (nn.Linear, nn.Embedding)):
        raise InspectError(
            f"torch splits Linear and Embedding, but {path} is a {type(module).__name__}", "leave it out"
        )


def _check_sizes(model: nn.Module, path: str, style: str, ranks: int) -> None:
    """Refuse sizes that do not divide by the ranks, heads of attention among them: each has whole heads."""
    module: Any = model.get_submodule(path)
    if isinstance(module, nn.Embedding):
        size, what = module.num_embeddings, "words"
        if style == _COLUMNS:
            size, what = module.embedding_dim, "features"
    elif style.startswith("rowwise"):
        size, what = module.in_features, "inputs"
    else:
        size, what = module.out_features, "outputs"
    head = getattr(model.get_submodule(path.rpartition(".")[0]), "head_dim", None)
    if what == "outputs" and isinstance(head, int) and head > 0 and size % head == 0:
        size, what = size // head, "heads"
    if size % ranks:
        fitting = ", ".join(str(count) for count in range(2, _MOST + 1) if size % count == 0)
        raise InspectError(
            f"{path} has {size} {what}, which tp={ranks} does not divide",
            f"use a tp that does: {fitting}" if fitting else "change the model's size, or leave tp out",
        )


def _refuse_ties(model: nn.Module, chosen: Mapping[str, Any]) -> None:
    """A tied weight that is split in one place would be two weights."""
    places: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            places.setdefault(id(parameter), []).append(path)
    for paths in places.values():
        if len(paths) > 1 and any(path in chosen for path in paths):
            raise InspectError(
                f"{' and '.join(paths)} share a weight, which `parallelize_module` would untie",
                "leave both out of the plan, or build the model with untied weights",
            )
