"""Taking the random draws out of a model, so that two runs of it can be compared."""

from __future__ import annotations

import math
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from inspector.tracing._torch import DropoutNd, tree_map
from inspector.tracing.values import tensors

DROPS_BRANCHES = {"StochasticDepth": "p", "DropPath": "drop_prob"}
"""Classes of torchvision and timm that skip a branch at random, and where they keep how often."""


def quiet(model: nn.Module) -> None:
    """Take the random draws out of training, so that two precisions can be compared.

    It changes the model, which must be a throw-away copy: dropout, RReLU, StochasticDepth and DropPath
    go to eval mode and their rates to zero (a later `train()` does not restore them), MultiheadAttention
    and RNNs lose their dropout. Dropout that a forward calls as a function stays: see `random`.
    """
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue  # its attributes are compiled in
        name = type(module).__name__
        if isinstance(module, DropoutNd):
            module.eval().p = 0.0
        elif isinstance(module, nn.RReLU):
            module.eval()
            module.lower = module.upper = (module.lower + module.upper) / 2
        elif name in DROPS_BRANCHES:
            module.eval()
            setattr(module, DROPS_BRANCHES[name], 0.0)
        elif isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            module.dropout = 0.0


def random(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], mode: str) -> bool:
    """Whether two seeds give different outputs: then drift cannot be told from randomness.

    Differences below the square root of the dtype's epsilon are the order of atomic additions, not
    draws. Puts the model in `mode`; buffers (running statistics) and random states are restored.
    """
    used = {leaf.device for leaf in chain(model.parameters(), model.buffers(), tensors((args, kwargs)))}
    cards = sorted({device.index or 0 for device in used if device.type == "cuda"})
    before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    model.train(mode == "train")
    runs = []
    with torch.random.fork_rng(devices=cards), torch.no_grad():
        for seed in (0, 1):
            torch.manual_seed(seed)
            mine, options = cast((args, kwargs))
            try:
                runs.append([leaf.detach().clone() for leaf in tensors(model(*mine, **options))])
            finally:
                for name, buffer in model.named_buffers():
                    if name in before:
                        buffer.copy_(before[name])
    return len(runs[0]) != len(runs[1]) or not all(_same(a, b) for a, b in zip(*runs))


def cast(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Nested arguments with their floating-point tensors in `dtype` (None: as they are), all of them
    clones; integers keep their dtype, and requires_grad is kept."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        target = dtype if dtype is not None and leaf.is_floating_point() else leaf.dtype
        return leaf.detach().to(target, copy=True).requires_grad_(leaf.requires_grad)

    return tree_map(convert, value)


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or not left.is_floating_point():
        return torch.equal(left, right)
    near = math.sqrt(torch.finfo(left.dtype).eps)
    size = float(left.abs().nan_to_num(0.0, posinf=0.0).amax()) if left.numel() else 0.0
    return torch.allclose(left, right, rtol=0.0, atol=near * size, equal_nan=True)
