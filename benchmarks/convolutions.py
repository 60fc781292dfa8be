"""What cuDNN takes for each convolution of a model on this GPU: part of gpu.py 2, read by
`inspect memory --calibrate`."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from inspector.footprint.workspaces import CONVOLUTIONS
from inspector.models import as_recipe
from inspector.models.inputs import materialise
from inspector.models.small import with_batch
from inspector.tracing.capture import differentiable
from inspector.tracing.describe import DTYPES

Row = dict[str, Any]


class Watch(TorchDispatchMode):
    """Peak bytes of each convolution beside what it was given and what it gives, with cuDNN and without."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[str, Row] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).rpartition(".")[0]
        if name not in CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))  # chooses the engine
        tensors = [args[position] for position in range(2 if name == "aten.convolution" else 3)]
        row = {
            "name": name,
            "inputs": [_spec(tensor) for tensor in tensors],
            "outputs": [_spec(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)],
            "channels_last": _channels_last(tensors),
        }
        key = str(row)
        if key not in self.rows:
            row["workspace"] = _beside(func, args)
            with torch.backends.cudnn.flags(enabled=False):
                row["without_cudnn"] = _beside(func, args)
            self.rows[key] = row
        return result


def _beside(func: Any, args: Any) -> int | None:
    """Bytes at the peak of a call beside its outputs; None where it does not run so."""
    try:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = func(*args)
        torch.cuda.synchronize()
    except RuntimeError:
        return None
    most, after = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
    del result
    return max(0, most - max(before, after))


def _spec(tensor: torch.Tensor) -> list[Any]:
    return [list(tensor.shape), DTYPES[tensor.dtype]]


def _channels_last(tensors: list[torch.Tensor]) -> bool:
    return any(
        not tensor.is_contiguous()
        and tensor.dim() == 4
        and tensor.is_contiguous(memory_format=torch.channels_last)
        for tensor in tensors[-2:]
    )


def measured(name: str, batch: int) -> list[Row]:
    """Each kind of convolution in a training step of `name` on `batch` samples, in float32 and under
    autocast to float16 and bfloat16."""
    recipe = as_recipe(name)
    model = recipe.build("cuda").train()
    inputs = with_batch(recipe.inputs(model, None, "train"), batch)
    args, kwargs = materialise(inputs, model, "cuda")
    watch = Watch()
    for dtype in (None, torch.float16, torch.bfloat16):
        with watch, torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
            roots = differentiable(model(*args, **kwargs))
        with watch:
            torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
        model.zero_grad(set_to_none=True)
    return [row for row in watch.rows.values() if row["workspace"] is not None]
